"""Frames on a serial cable: found again after any noise, and believed only if their CRC fits.

    u8 kind and flags | u32 tag | u16 sequence | u16 acknowledge | body | u32 CRC-32 of all that

little-endian, stuffed (consistent overhead byte stuffing) so that no zero byte is left in it, and ended by a zero byte.
So the next zero always ends whatever is damaged, and a byte that is lost or added costs one frame. Stuffing adds a byte
to every 254 whatever they are. The rest of the format is in docs/com-channels.md.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = ["MAX_PAYLOAD", "OVERHEAD", "Frame", "FrameKind", "FrameReader", "encode", "stuff", "unstuff"]

MAX_PAYLOAD: Final = 512
"""Most bytes of a stream in one frame."""

OVERHEAD: Final = 19
"""Bytes that a frame of stream bytes has beside them, at the most."""

_HEAD: Final = struct.Struct("<BIHH")
_CRC: Final = struct.Struct("<I")
_MAX_BODY: Final = MAX_PAYLOAD + 1
_MAX_STUFFED: Final = (_HEAD.size + _MAX_BODY + _CRC.size) * 255 // 254 + 1
_RUN: Final = 254
_KIND: Final = 0x0F


class FrameKind(IntEnum):
    """What a frame is. Those from OPEN on are records about a channel: counted, repeated, acknowledged."""

    ASK = 1
    ANSWER = 2
    LEAVE = 3
    STATE = 4
    OPEN = 5
    ACCEPT = 6
    REFUSE = 7
    DATA = 8
    CREDIT = 9
    END = 10


class Frame(NamedTuple):
    """One frame. ``gap``: what was sent from ``acknowledge`` on has to be sent again. ``ping``: an answer is wanted."""

    kind: int
    tag: int = 0
    sequence: int = 0
    acknowledge: int = 0
    body: bytes = b""
    gap: bool = False
    ping: bool = False


def encode(frame: Frame) -> bytes:
    """The frame as it goes onto the line, with the zero that ends it."""
    first = frame.kind | frame.gap << 6 | frame.ping << 7
    data = _HEAD.pack(first, frame.tag, frame.sequence, frame.acknowledge) + frame.body
    return stuff(data + _CRC.pack(zlib.crc32(data))) + b"\0"


class FrameReader:
    """Turns the bytes of a line into frames. ``damaged`` counts what was none."""

    def __init__(self) -> None:
        self.damaged = 0
        self._begun = b""

    def read(self, data: bytes) -> list[Frame]:
        """The frames that end in ``data``, which may be any part of what comes."""
        *blocks, begun = (self._begun + data).split(b"\0")
        # what is too long for a frame stays too long, however much more of it comes: its beginning is enough
        self._begun = begun[: _MAX_STUFFED + 1]
        found = []
        for block in blocks:
            if block:
                frame = _decode(block)
                if frame is None:
                    self.damaged += 1
                else:
                    found.append(frame)
        return found


def _decode(block: bytes) -> Frame | None:
    """The frame in a block without zeros; None if there is none."""
    data = unstuff(block) if len(block) <= _MAX_STUFFED else None
    if data is None or len(data) < _HEAD.size + _CRC.size:
        return None
    end = len(data) - _CRC.size
    if zlib.crc32(data[:end]) != _CRC.unpack_from(data, end)[0]:
        return None
    first, tag, sequence, acknowledge = _HEAD.unpack_from(data)
    body = data[_HEAD.size : end]
    return Frame(first & _KIND, tag, sequence, acknowledge, body, bool(first & 0x40), bool(first & 0x80))


def stuff(data: bytes) -> bytes:
    """The same bytes without zeros: each run up to a zero has its length, plus one, before it."""
    stuffed = bytearray()
    for run in data.split(b"\0"):
        while len(run) >= _RUN:
            stuffed.append(_RUN + 1)
            stuffed += run[:_RUN]
            run = run[_RUN:]
        stuffed.append(len(run) + 1)
        stuffed += run
    return bytes(stuffed)


def unstuff(block: bytes) -> bytes | None:
    """What was stuffed into ``block``, which has no zeros in it; None if this is not what `stuff` makes."""
    data = bytearray()
    at, code = 0, 0
    while at < len(block):
        code = block[at]
        run = block[at + 1 : at + code]
        if len(run) != code - 1:
            return None
        data += run
        if code <= _RUN:
            data.append(0)
        at += code
    if not 0 < code <= _RUN:
        return None
    del data[-1]
    return bytes(data)
