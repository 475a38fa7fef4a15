"""Modules of the simulated machine as they lie in memory: PE32+ headers, sections, exports and a CodeView record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from struct import pack
from typing import Final

__all__ = ["DATA", "RDATA", "TEXT", "Image", "build_image"]

TEXT: Final = 0x1000
"""Where the code of every module begins, from its base."""
RDATA: Final = 0x2000
DATA: Final = 0x3000

_PE_OFFSET: Final = 0x80
_HEADERS_SIZE: Final = 0x400
_EXPORT_DIRECTORY: Final = 0
_DEBUG_DIRECTORY: Final = 6
_CODE: Final = 0x6000_0020
_READ_ONLY: Final = 0x4000_0040
_READ_WRITE: Final = 0xC000_0040


@dataclass(frozen=True, slots=True)
class Image:
    """A module ready to be put at ``base``; ``exports`` are virtual addresses."""

    name: str
    base: int
    content: bytes
    exports: Mapping[str, int]
    entry_point: int
    checksum: int
    timestamp: int

    @property
    def size(self) -> int:
        """SizeOfImage, a multiple of the page size."""
        return len(self.content)


def build_image(
    name: str,
    base: int,
    *,
    text: bytes,
    data: bytes = b"",
    exports: Mapping[str, int] | None = None,
    size: int = 0,
    native: bool = True,
    has_pdb: bool = True,
) -> Image:
    """Lay out a module: ``text`` at base+TEXT (one page), read-only data at base+RDATA, ``data`` at base+DATA.

    ``exports`` maps names to offsets from ``base``; ``size`` is the least SizeOfImage; ``has_pdb``: there is a CodeView
    record that names symbols to look for.
    """
    exports = {} if exports is None else exports
    identity = hashlib.sha256(name.encode()).digest()
    timestamp = 0x5AC0_0000 | int.from_bytes(identity[16:18], "little")
    checksum = int.from_bytes(identity[18:21], "little")
    total = -(-max(DATA + max(len(data), 1), size) // 0x1000) * 0x1000
    sections = (
        (b".text", TEXT, RDATA - TEXT, _CODE),
        (b".rdata", RDATA, DATA - RDATA, _READ_ONLY),
        (b".data", DATA, total - DATA, _READ_WRITE),
    )
    debug = _debug_directory(name, identity, timestamp) if has_pdb else b""
    rdata = debug + _export_directory(name, RDATA + len(debug), timestamp, exports)
    directories = {
        _EXPORT_DIRECTORY: (RDATA + len(debug), len(rdata) - len(debug)),
        _DEBUG_DIRECTORY: (RDATA, 28) if has_pdb else (0, 0),
    }
    content = bytearray(total)
    headers = _headers(base, total, sections, directories, timestamp, checksum, native)
    for offset, piece in ((0, headers), (TEXT, text), (RDATA, rdata), (DATA, data)):
        content[offset : offset + len(piece)] = piece
    return Image(
        name, base, bytes(content), {key: base + at for key, at in exports.items()}, base + TEXT, checksum, timestamp
    )


def _headers(
    base: int,
    total: int,
    sections: tuple[tuple[bytes, int, int, int], ...],
    directories: Mapping[int, tuple[int, int]],
    timestamp: int,
    checksum: int,
    native: bool,
) -> bytes:
    dos = b"MZ".ljust(0x3C, b"\0") + pack("<I", _PE_OFFSET)
    file_header = pack("<HHIIIHH", 0x8664, len(sections), timestamp, 0, 0, 0xF0, 0x2022)
    optional = (
        pack("<HBBIIIII", 0x20B, 14, 12, 0x1000, total - RDATA, 0, TEXT, TEXT)
        + pack("<QIIHHHHHHI", base, 0x1000, 0x200, 10, 0, 10, 0, 10, 0, 0)
        + pack("<IIIHH", total, _HEADERS_SIZE, checksum, 1 if native else 2, 0x4160)
        + pack("<QQQQII", 0x80000, 0x2000, 0x100000, 0x1000, 0, 16)
        + b"".join(pack("<II", *directories.get(index, (0, 0))) for index in range(16))
    )
    table = b"".join(
        pack("<8sIIIIIIHHI", name, size, at, size, at, 0, 0, 0, 0, flags) for name, at, size, flags in sections
    )
    return dos.ljust(_PE_OFFSET, b"\0") + b"PE\0\0" + file_header + optional + table


def _debug_directory(name: str, identity: bytes, timestamp: int) -> bytes:
    """One IMAGE_DEBUG_DIRECTORY of type CodeView, and its RSDS record right behind it."""
    pdb = name.rsplit(".", 1)[0].encode() + b".pdb\0"
    record = b"RSDS" + identity[:16] + pack("<I", 1) + pdb
    record = record.ljust(-(-len(record) // 16) * 16, b"\0")
    return pack("<IIHHIIII", 0, timestamp, 0, 0, 2, 24 + len(pdb), RDATA + 28, RDATA + 28) + record


def _export_directory(name: str, at: int, timestamp: int, exports: Mapping[str, int]) -> bytes:
    """IMAGE_EXPORT_DIRECTORY at offset ``at`` of the image, with its three tables and the names."""
    names = sorted(exports)
    functions = at + 40
    name_table = functions + 4 * len(names)
    ordinals = name_table + 4 * len(names)
    strings = ordinals + 2 * len(names)
    text = name.encode() + b"\0"
    places = []
    for export in names:
        places.append(strings + len(text))
        text += export.encode() + b"\0"
    return (
        pack("<IIHHII", 0, timestamp, 0, 0, strings, 1)
        + pack("<IIIII", len(names), len(names), functions, name_table, ordinals)
        + b"".join(pack("<I", exports[export]) for export in names)
        + b"".join(pack("<I", place) for place in places)
        + b"".join(pack("<H", index) for index in range(len(names)))
        + text
    )
