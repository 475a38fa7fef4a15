"""The structures of Linux's FireWire character devices, ``/dev/fwN``, as bytes (KD over 1394, 2.2).

They are those of a 64-bit system, in the byte order of this one; pointers in them are numbers here. Of each event that
the device gives only two kinds are of use: a bus reset, and the response to a request of ours.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from kdsrv.firewire.transactions import Operation, Read

__all__ = [
    "ABI_VERSION",
    "BUS_RESET_SIZE",
    "EVENT_SIZE",
    "GET_INFO",
    "GET_SPEED",
    "SEND_REQUEST",
    "BusReset",
    "Response",
    "longest_transaction",
    "pack_get_info",
    "pack_request",
    "parse_event",
    "parse_get_info",
]

GET_INFO: Final = 0xC0282300
SEND_REQUEST: Final = 0x40282301
GET_SPEED: Final = 0x00002311
ABI_VERSION: Final = 5
"""From 6 on Linux sends responses with time stamps in another layout."""

EVENT_SIZE: Final = 8192
"""Bytes to read at a time: an event that does not fit is cut off."""

_GET_INFO: Final = struct.Struct("=IIQQQI4x")
_SEND_REQUEST: Final = struct.Struct("=IIQQQI4x")
_EVENT: Final = struct.Struct("=QI")
_BUS_RESET: Final = struct.Struct("=QIIIIIII")
_RESPONSE: Final = struct.Struct("=QIII")
BUS_RESET_SIZE: Final = 40
_BUS_RESET_EVENT, _RESPONSE_EVENT = 0, 1
_WRITE_QUADLET, _WRITE_BLOCK, _READ_QUADLET, _READ_BLOCK = 0, 1, 4, 5
_SLOWEST_PAYLOAD: Final = 512
_MOST: Final = 4096


class BusReset(NamedTuple):
    """The bus begins anew: requests have to name this generation. The ids are those of the node and of this host."""

    node_id: int
    local_id: int
    generation: int


class Response(NamedTuple):
    """The request ended with ``code``; ``data`` is what was read. One is under way at a time, so it needs no name."""

    code: int
    data: bytes


def longest_transaction(speed: int) -> int:
    """Bytes that Linux takes at once for a node of this speed code (0: S100, 2: S400)."""
    return min(_SLOWEST_PAYLOAD << speed, _MOST)


def pack_get_info(bus_reset_pointer: int) -> bytearray:
    """Asks for the state of the bus, to be written where the pointer leads, and to be told of bus resets."""
    return bytearray(_GET_INFO.pack(ABI_VERSION, 0, 0, bus_reset_pointer, 0, 0))


def parse_get_info(data: bytes | bytearray) -> tuple[int, int]:
    """The version of the interface that Linux has, and the index of the card."""
    version, *_, card = _GET_INFO.unpack(data)
    return version, card


def pack_request(operation: Operation, data_pointer: int, generation: int) -> bytes:
    """A read, with a pointer of 0, or a write of what the pointer leads to."""
    if isinstance(operation, Read):
        length, code = operation.length, _READ_BLOCK
        if length == 4:
            code = _READ_QUADLET
    else:
        length, code = len(operation.data), _WRITE_BLOCK
        if length == 4:
            code = _WRITE_QUADLET
    return _SEND_REQUEST.pack(code, length, operation.address, 0, data_pointer, generation)


def parse_event(data: bytes) -> BusReset | Response | None:
    """What the device says; None for an event of no use to us, or one that is cut off."""
    if len(data) < _EVENT.size:
        return None
    _, kind = _EVENT.unpack_from(data)
    if kind == _RESPONSE_EVENT and len(data) >= _RESPONSE.size:
        _, _, code, length = _RESPONSE.unpack_from(data)
        return Response(code, data[_RESPONSE.size : _RESPONSE.size + length])
    if kind == _BUS_RESET_EVENT and len(data) >= _BUS_RESET.size:
        _, _, node, local, _, _, _, generation = _BUS_RESET.unpack_from(data)
        return BusReset(node, local, generation)
    return None
