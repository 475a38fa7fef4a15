"""pcapng as far as recordings need it: blocks to bytes and back (IETF draft-ietf-opsawg-pcapng, sections 4 and 5).

A file is a section header, a description of each interface, then packets. Written is little-endian and with
nanoseconds; read is any little-endian file, blocks of other types being passed over. A file whose writer was killed may
end in the middle of a block: what is before it is good.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from kdsrv.errors import KdsrvError

__all__ = [
    "UPPER_PDU",
    "Block",
    "CapturedPacket",
    "FormatError",
    "Interface",
    "PcapngReader",
    "Section",
    "interface_block",
    "packet_block",
    "section_block",
]

UPPER_PDU: Final = 252
"""LINKTYPE_WIRESHARK_UPPER_PDU: a list of tags that says what the packet is, then the packet."""

MAX_BLOCK: Final = 1 << 20
"""Bytes; a longer block is damage. Ours are at most some 30 KB."""

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 6
_BYTE_ORDER: Final = 0x1A2B3C4D

_END: Final = 0
_COMMENT: Final = 1
_NAME: Final = 2
_DESCRIPTION: Final = 3
_APPLICATION: Final = 4
_RESOLUTION: Final = 9
_FLAGS: Final = 2

_HEAD: Final = struct.Struct("<II")
_SECTION_HEAD: Final = struct.Struct("<IHHq")
_INTERFACE_HEAD: Final = struct.Struct("<HHI")
_PACKET_HEAD: Final = struct.Struct("<IIIII")
_OPTION: Final = struct.Struct("<HH")
_NUMBER32: Final = struct.Struct("<I")
_FRAME: Final = 12
"""Bytes of a block around its body."""
_END_OF_OPTIONS: Final = _OPTION.pack(_END, 0)
_MICROSECONDS: Final = 6
_NANOSECONDS: Final = 9
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
_MAX_TEXT: Final = 0xFFFF
_INBOUND, _OUTBOUND = 1, 2
_LAST_TIME: Final = 1 << 63
"""In the year 2262: what is said to be later is damaged, and could not be shown as a time."""


class FormatError(KdsrvError):
    """no pcapng file, or a damaged one: {why}"""

    code = "bad-pcapng"


@dataclass(frozen=True, slots=True)
class Section:
    """A file begins, or a further one that was put behind another. ``application`` is the program that wrote it."""

    application: str


@dataclass(frozen=True, slots=True)
class Interface:
    """The next interface of this section; they are counted from 0."""

    link_type: int
    name: str
    description: str


@dataclass(frozen=True, slots=True)
class CapturedPacket:
    """A packet. ``time`` in nanoseconds since 1970; ``inbound`` None where it is not told."""

    interface: int
    time: int
    data: bytes
    inbound: bool | None
    comment: str


Block: TypeAlias = Section | Interface | CapturedPacket


def section_block(application: str) -> bytes:
    """What a file begins with."""
    head = _SECTION_HEAD.pack(_BYTE_ORDER, 1, 0, -1)
    return _block(_SECTION, head + _option(_APPLICATION, application.encode()) + _END_OF_OPTIONS)


def interface_block(name: str, description: str, link_type: int = UPPER_PDU) -> bytes:
    """The description of the next interface, with times in nanoseconds."""
    options = _option(_NAME, _cut(name)) + _option(_DESCRIPTION, _cut(description))
    options += _option(_RESOLUTION, bytes((_NANOSECONDS,)))
    return _block(_INTERFACE, _INTERFACE_HEAD.pack(link_type, 0, 0) + options + _END_OF_OPTIONS)


def packet_block(interface: int, time: int, data: bytes, *, inbound: bool | None = None, comment: str = "") -> bytes:
    """A packet; see `CapturedPacket`."""
    body = [_PACKET_HEAD.pack(interface, time >> 32, time & 0xFFFFFFFF, len(data), len(data)), data, _padding(data)]
    if comment:
        body.append(_option(_COMMENT, _cut(comment)))
    if inbound is not None:
        body.append(_option(_FLAGS, _NUMBER32.pack(_INBOUND if inbound else _OUTBOUND)))
    body.append(_END_OF_OPTIONS)
    return _block(_PACKET, b"".join(body))


def _block(kind: int, body: bytes) -> bytes:
    size = _FRAME + len(body)
    return _HEAD.pack(kind, size) + body + _NUMBER32.pack(size)


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + _padding(value)


def _padding(data: bytes) -> bytes:
    return _PADDING[len(data) % 4]


def _cut(text: str) -> bytes:
    """UTF-8 that fits an option; a character that is cut in two goes."""
    data = text.encode("utf-8", "replace")
    return data if len(data) <= _MAX_TEXT else data[:_MAX_TEXT].decode("utf-8", "ignore").encode()


class PcapngReader:
    """Give it a file piece by piece; every method that reads raises FormatError for what is no pcapng file."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._ticks: list[int] = []
        """Ticks in a second, for each interface of the section."""

    @property
    def is_torn(self) -> bool:
        """Whether what came so far ends in the middle of a block."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[Block]:
        """The blocks that are whole now. The iterator must be run to its end."""
        data, at = self._rest + data, 0
        while len(data) - at >= _FRAME:
            kind, size = _HEAD.unpack_from(data, at)
            if not self._begun and kind != _SECTION:
                raise FormatError(why="it does not begin as one")
            if size % 4 or not _FRAME <= size <= MAX_BLOCK:
                raise FormatError(why=f"a block of {size} bytes")
            end = at + size
            if end > len(data):
                break
            if data[end - 4 : end] != data[at + 4 : at + 8]:
                raise FormatError(why="the two lengths of a block differ")
            block = self._block(kind, data[at + 8 : end - 4])
            at = end
            if block is not None:
                yield block
        self._rest = data[at:]
        if not self._begun and self._rest[:4] != _NUMBER32.pack(_SECTION)[: len(self._rest)]:
            raise FormatError(why="it does not begin as one")

    def _block(self, kind: int, body: bytes) -> Block | None:
        try:
            if kind == _SECTION:
                return self._section(body)
            if kind == _INTERFACE:
                return self._interface(body)
            return self._packet(body) if kind == _PACKET else None
        except (struct.error, ValueError) as error:
            raise FormatError(why=f"a block of type {kind:#x} is too short") from error

    def _section(self, body: bytes) -> Section:
        if _NUMBER32.unpack_from(body)[0] != _BYTE_ORDER:
            raise FormatError(why="its byte order is not that of kdsrv")
        self._begun = True
        self._ticks = []
        return Section(_text(dict(_options(body[_SECTION_HEAD.size :])).get(_APPLICATION, b"")))

    def _interface(self, body: bytes) -> Interface:
        options = dict(_options(body[_INTERFACE_HEAD.size :]))
        link_type, _, _ = _INTERFACE_HEAD.unpack_from(body)
        resolution = (options.get(_RESOLUTION) or bytes((_MICROSECONDS,)))[0]
        self._ticks.append(2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution)
        return Interface(link_type, _text(options.get(_NAME, b"")), _text(options.get(_DESCRIPTION, b"")))

    def _packet(self, body: bytes) -> CapturedPacket:
        interface, high, low, size, _ = _PACKET_HEAD.unpack_from(body)
        end = _PACKET_HEAD.size + size
        if interface >= len(self._ticks) or end > len(body):
            raise ValueError("a packet of no interface, or longer than its block")
        options = dict(_options(body[end + -size % 4 :]))
        flags = _NUMBER32.unpack(options.get(_FLAGS, bytes(4)))[0] & 3
        return CapturedPacket(
            interface,
            min((high << 32 | low) * 10**_NANOSECONDS // self._ticks[interface], _LAST_TIME),
            body[_PACKET_HEAD.size : end],
            {_INBOUND: True, _OUTBOUND: False}.get(flags),
            _text(options.get(_COMMENT, b"")),
        )


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        code, size = _OPTION.unpack_from(data, at)
        if code == _END:
            return
        at += _OPTION.size
        yield code, data[at : at + size]
        at += size + -size % 4


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
