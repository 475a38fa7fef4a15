"""The configuration ROM of a 1394 node, as far as it tells of a target that waits for its debugger.

Such a target advertises three entries in the root directory, one after another: the key 1C with Microsoft's number, the
key 1D with 2, and the key 1E with the low 24 bits of the address of its descriptor (KD over 1394, 1.2). The checksums
are not looked at: that of the directory is wrong in the targets that are known, and Linux does not look either.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kdsrv.firewire.transactions import Read, Script

__all__ = ["ROM_ADDRESS", "ConfigurationRom", "read_rom"]

ROM_ADDRESS: Final = 0xFFFF_F000_0400
MAX_QUADLETS: Final = 256

_BUS_INFO_LENGTH: Final = 4
"""Quadlets that every ROM but the shortest has behind the first: bus name, options, and two of the GUID."""
_MICROSOFT: Final = 0x0050F2
_DEBUGGER: Final = 2
_SPECIFIER, _KEY, _ADDRESS = 0x1C, 0x1D, 0x1E
_LEAST_PAYLOAD: Final = 512
"""What any OHCI controller takes, for a ROM that names no limit."""


@dataclass(frozen=True, slots=True)
class ConfigurationRom:
    """``quadlets`` are 32-bit numbers, from the first on; what is not known is not there."""

    quadlets: tuple[int, ...]

    @classmethod
    def from_host_order(cls, data: bytes) -> ConfigurationRom:
        """As Linux gives it: numbers in the byte order of the host."""
        count = min(len(data) // 4, MAX_QUADLETS)
        return cls(struct.unpack_from(f"={count}I", data))

    @property
    def guid(self) -> int:
        """The EUI-64 of the card, 0 if it is not known."""
        return self.quadlets[3] << 32 | self.quadlets[4] if len(self.quadlets) > _BUS_INFO_LENGTH else 0

    @property
    def max_rec(self) -> int:
        """The code of the longest block that the node takes, 0 if it does not say."""
        return self.quadlets[2] >> 12 & 0xF if len(self.quadlets) > 2 else 0

    @property
    def max_payload(self) -> int:
        """The longest block that the node takes, in bytes."""
        return 2 << self.max_rec if self.max_rec else _LEAST_PAYLOAD

    @property
    def root_directory(self) -> tuple[int, ...]:
        """Its entries, as far as they are there."""
        if not self.quadlets:
            return ()
        at = 1 + (self.quadlets[0] >> 24)
        if at >= len(self.quadlets):
            return ()
        return self.quadlets[at + 1 : at + 1 + (self.quadlets[at] >> 16)]

    @property
    def descriptor_address(self) -> int | None:
        """Where a waiting target has its descriptor; None: this node waits for no debugger."""
        specifier = key = None
        for entry in self.root_directory:
            kind, value = entry >> 24, entry & 0xFFFFFF
            if kind == _SPECIFIER:
                specifier, key = value, None
            elif kind == _KEY:
                key = value
            elif kind == _ADDRESS and (specifier, key) == (_MICROSOFT, _DEBUGGER):
                return value
        return None


def read_rom() -> Script[ConfigurationRom]:
    """The ROM as it is now, up to the end of the root directory, quadlet by quadlet: the copy that Linux keeps may be
    of an earlier boot."""
    quadlets = [(yield from _quadlet(0))]
    root = 1 + (quadlets[0] >> 24)
    if _BUS_INFO_LENGTH < root < MAX_QUADLETS:
        for index in range(1, root + 1):
            quadlets.append((yield from _quadlet(index)))
        for index in range(root + 1, min(root + 1 + (quadlets[root] >> 16), MAX_QUADLETS)):
            quadlets.append((yield from _quadlet(index)))
    return ConfigurationRom(tuple(quadlets))


def _quadlet(index: int) -> Script[int]:
    data = yield Read(ROM_ADDRESS + 4 * index, 4)
    return int.from_bytes(data, "big")
