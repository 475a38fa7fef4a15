"""KD packets as bytes on a serial line or pipe: types, ids, checksum, frames (KD protocol, 1.1 to 1.4).

A data packet is a 16-byte header, a payload of up to 4000 bytes and one byte ``AA``; a control packet is the header
alone.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple
from zlib import adler32

__all__ = [
    "BREAK_IN",
    "CONTROL_LEADER",
    "DATA_LEADER",
    "HEADER",
    "INITIAL_ID",
    "MANIPULATE",
    "MAX_PAYLOAD",
    "SYNC",
    "TRAILER",
    "Packet",
    "PacketType",
    "checksum",
    "encode_control",
    "encode_data",
]

DATA_LEADER: Final = b"0000"
CONTROL_LEADER: Final = b"iiii"
BREAK_IN: Final = b"b"
TRAILER: Final = 0xAA
HEADER: Final = struct.Struct("<4sHHII")
"""Leader, packet type, byte count, packet id, checksum."""

MAX_PAYLOAD: Final = 4000
INITIAL_ID: Final = 0x80800000
SYNC: Final = 0x00000800

_CHUNK: Final = 256
_TRAILER_BYTE: Final = b"\xaa"


class PacketType(IntEnum):
    """The packet types that occur on the wire (KD protocol, 1.3)."""

    STATE_CHANGE32 = 1
    STATE_MANIPULATE = 2
    DEBUG_IO = 3
    ACKNOWLEDGE = 4
    RESEND = 5
    RESET = 6
    STATE_CHANGE64 = 7
    TRACE_IO = 9
    CONTROL_REQUEST = 10
    FILE_IO = 11


MANIPULATE: Final = int(PacketType.STATE_MANIPULATE)
"""The type of nearly every packet. To look a member up in an enumeration takes eight times as long as a plain name."""


class Packet(NamedTuple):
    """One KD packet as the layers above the link see it."""

    type: int
    payload: bytes


class _Summed:
    """The payload summed last, and its sum: a packet that is passed on from one link to another is summed only once."""

    payload = b""
    sum = 0


def checksum(payload: bytes) -> int:
    """The sum of all payload bytes, as KD wants it (KD protocol, 1.2).

    adler32 of at most 256 bytes cannot wrap (256 * 255 < 65521), so its low half, started at 0, is their exact sum,
    several times faster than summing in Python.
    """
    if len(payload) <= _CHUNK:
        return adler32(payload, 0) & 0xFFFF
    if payload is not _Summed.payload:
        _Summed.sum = sum([adler32(payload[at : at + _CHUNK], 0) & 0xFFFF for at in range(0, len(payload), _CHUNK)])
        _Summed.payload = payload
    return _Summed.sum


def encode_data(packet_type: int, packet_id: int, payload: bytes, trailer: bytes = _TRAILER_BYTE) -> bytes:
    """A data packet as it goes on the line. ``payload`` must fit the 16-bit length; the link bounds it to 4000.

    On a medium of datagrams there is no ``trailer``.
    """
    header = HEADER.pack(DATA_LEADER, packet_type, len(payload), packet_id, checksum(payload))
    return b"".join((header, payload, trailer))


def encode_control(packet_type: int, packet_id: int = 0) -> bytes:
    """An ACK, RESEND or RESET as it goes on the line."""
    return HEADER.pack(CONTROL_LEADER, packet_type, 0, packet_id, 0)
