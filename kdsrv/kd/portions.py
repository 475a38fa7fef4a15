"""Requests that are too long for a medium, put to the target in portions (KD protocol, 1.2 and 2.5; KDNET, 5.4).

A serial line carries 4000 bytes in each packet, and debuggers count on it. KDNET carries 1152, so a read of 3944 bytes
is asked for in four portions, and their replies are joined to what a target on a serial line would have answered:

    request                       portions                 when one fails
    ReadVirtual/PhysicalMemory,   by address or offset     the status of that one, with all bytes so far: a target tells
    GetBusData                                             so of a part that it cannot read
    WriteVirtual/PhysicalMemory,  by address or offset     likewise, with the number of bytes written so far
    SetBusData
    GetContextEx, SetContextEx    by offset                all has failed
    GetContext                    GetContextEx             GetContext itself: contexts that fit are shorter, and a boot
                                                           debugger knows nothing else
    SetContext                    SetContextEx             all has failed
    ReadControlSpace              one, of what fits: only on x86 is its address a place to go on from, and the largest
                                  of its objects has 0xE0 bytes, on x86 800

A target that reads less than it was asked for, and says success, is asked for the rest. What has no portions and does
not fit fails with C0000001 without the target being asked; a request that has no reply loses what follows its 56 bytes.

A request in portions is a generator: it yields what to send, is sent the reply to it, and returns the joined reply.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final, NamedTuple, TypeAlias

from kdsrv.kd.amd64 import Context
from kdsrv.kd.api import FIELDS, NO_REPLY, Api, api_number
from kdsrv.kd.file_io import READ_FILE, FileIo
from kdsrv.kd.layout import read_field
from kdsrv.kd.manipulate import MAX_TRANSFER, Manipulate
from kdsrv.kd.packets import MAX_PAYLOAD, PacketType
from kdsrv.kd.statuses import Status

__all__ = ["Portions", "portions", "shorten_answer"]

Portions: TypeAlias = Generator[bytes, bytes, bytes]
_Steps: TypeAlias = Generator[Manipulate, Manipulate, Manipulate]
_Gathering: TypeAlias = Generator[Manipulate, Manipulate, tuple[Manipulate, bytes]]
_Spreading: TypeAlias = Generator[Manipulate, Manipulate, tuple[Manipulate, int]]

_SIZE: Final = Manipulate.SIZE


class _Place(NamedTuple):
    """The fields of a request that say where, how much, and, in the reply, how much of it was done."""

    at: str
    size: str
    done: str


_MEMORY: Final = _Place("address", "transfer_count", "actual")
_BUS: Final = _Place("offset", "length", "length")
_CONTEXT: Final = _Place("offset", "byte_count", "bytes_copied")
_CONTEXT_PORTION: Final = _Place("offset", "byte_count", "byte_count")
"""In SetContextEx the last field is the size of the whole, and stays."""

_READS: Final[dict[int, _Place]] = {
    Api.READ_VIRTUAL_MEMORY: _MEMORY,
    Api.READ_PHYSICAL_MEMORY: _MEMORY,
    Api.READ_CONTROL_SPACE: _MEMORY,
    Api.GET_BUS_DATA: _BUS,
    Api.GET_CONTEXT_EX: _CONTEXT,
}


def portions(request: bytes, max_request: int, max_reply: int) -> Portions | None:
    """``request`` in portions, or None if it fits. The largest payloads of the medium are in bytes, over 56 each."""
    api = api_number(request)
    reply = _reply_size(api, request)
    if len(request) < _SIZE or (len(request) <= max_request and reply <= max_reply):
        return None
    steps = _STEPS.get(api, _alone)
    return _in_bytes(steps(Manipulate.decode(request), (max_reply if reply else max_request) - _SIZE))


def shorten_answer(packet_type: int, answer: bytes, max_request: int) -> bytes:
    """An answer to a question of the target that the medium carries: of a file, the target gets less at a time."""
    if len(answer) <= max_request:
        return answer
    if packet_type == PacketType.FILE_IO and int.from_bytes(answer[:4], "little") == READ_FILE:
        whole = FileIo.decode(answer)
        data = whole.data[: max_request - FileIo.SIZE]
        return FileIo(whole.replace(length=len(data)).fixed, data).encode()
    return answer[:max_request]


def _reply_size(api: int, request: bytes) -> int:
    """Bytes of a reply that brings what was asked for, as far as a serial line would carry it; 0 if it is short."""
    if api == Api.GET_CONTEXT:
        return _SIZE + Context.SIZE
    place = _READS.get(api)
    return 0 if place is None else min(_SIZE + read_field(request, FIELDS[api][place.size]), MAX_PAYLOAD)


def _in_bytes(steps: _Steps) -> Portions:
    reply = b""
    try:
        portion = next(steps)
        while True:
            reply = yield portion.encode()
            portion = steps.send(Manipulate.decode(reply.ljust(_SIZE, b"\0")))
    except StopIteration as end:
        whole: Manipulate = end.value
        return whole.encode()


def _ask(request: Manipulate, place: _Place, done: int, count: int, data: bytes = b"") -> _Steps:
    """The reply to one portion: ``count`` bytes from the one that is ``done`` behind the first."""
    at = (request[place.at] + done) & ((1 << 8 * request.fields[place.at][1]) - 1)
    portion = Manipulate(request.replace(**{place.at: at, place.size: count}).fixed, data)
    return (yield portion)


def _joined(request: Manipulate, place: _Place, last: Manipulate, done: int, data: bytes = b"") -> Manipulate:
    """The last reply as one to the whole request."""
    results = {place.at: request[place.at], place.size: request[place.size], place.done: done}
    return Manipulate(last.replace(**results).fixed, data)


def _gather(request: Manipulate, place: _Place, room: int) -> _Gathering:
    """The last reply, and what all of them brought."""
    wanted = min(request[place.size], MAX_TRANSFER)
    data = b""
    while True:
        count = min(room, wanted - len(data))
        reply = yield from _ask(request, place, len(data), count)
        data += reply.data[:count]
        if not (reply.succeeded and reply.data) or len(data) >= wanted:
            return reply, data


def _spread(request: Manipulate, place: _Place, room: int) -> _Spreading:
    """The last reply, and how many bytes were taken by all of them."""
    data = request.data
    done = 0
    while True:
        part = data[done : done + room]
        reply = yield from _ask(request, place, done, len(part), part)
        if not reply.succeeded:
            return reply, done + min(reply[place.done], len(part))
        done += len(part)
        if done >= len(data):
            return reply, done


def _read_memory(request: Manipulate, room: int) -> _Steps:
    reply, data = yield from _gather(request, _MEMORY, room)
    return _joined(request, _MEMORY, reply, len(data), data)


def _read_bus(request: Manipulate, room: int) -> _Steps:
    reply, data = yield from _gather(request, _BUS, room)
    return _joined(request, _BUS, reply, len(data), data)


def _read_what_fits(request: Manipulate, room: int) -> _Steps:
    reply = yield from _ask(request, _MEMORY, 0, min(request["transfer_count"], room))
    return _joined(request, _MEMORY, reply, reply["actual"], reply.data)


def _write_memory(request: Manipulate, room: int) -> _Steps:
    reply, done = yield from _spread(request, _MEMORY, room)
    return _joined(request, _MEMORY, reply, done)


def _write_bus(request: Manipulate, room: int) -> _Steps:
    reply, done = yield from _spread(request, _BUS, room)
    return _joined(request, _BUS, reply, done)


def _get_context_ex(request: Manipulate, room: int) -> _Steps:
    reply, data = yield from _gather(request, _CONTEXT, room)
    if not reply.succeeded:
        data = b""
    return _joined(request, _CONTEXT, reply, len(data), data)


def _set_context_ex(request: Manipulate, room: int) -> _Steps:
    if request["byte_count"] != len(request.data):
        return request.reply(Status.UNSUCCESSFUL, bytes_copied=0)
    reply, done = yield from _spread(request, _CONTEXT_PORTION, room)
    return _joined(request, _CONTEXT, reply, done if reply.succeeded else 0)


def _get_context(request: Manipulate, room: int) -> _Steps:
    extended = Manipulate.get_context_ex(0, Context.SIZE, request.processor)
    reply, data = yield from _gather(extended, _CONTEXT, room)
    if reply.succeeded and len(data) == Context.SIZE:
        return request.reply(data=data)
    return (yield Manipulate(request.fixed))


def _set_context(request: Manipulate, room: int) -> _Steps:
    data = request.data[: Context.SIZE]
    extended = Manipulate.set_context_ex(0, data, len(data), request.processor)
    reply, _ = yield from _spread(extended, _CONTEXT_PORTION, room)
    return request.reply(reply.status)


def _alone(request: Manipulate, room: int) -> _Steps:
    """There are no portions of it."""
    if request.api in NO_REPLY:
        return (yield Manipulate(request.fixed))
    return request.reply(Status.UNSUCCESSFUL)


_STEPS: Final[dict[int, Callable[[Manipulate, int], _Steps]]] = {
    Api.READ_VIRTUAL_MEMORY: _read_memory,
    Api.READ_PHYSICAL_MEMORY: _read_memory,
    Api.READ_CONTROL_SPACE: _read_what_fits,
    Api.GET_BUS_DATA: _read_bus,
    Api.WRITE_VIRTUAL_MEMORY: _write_memory,
    Api.WRITE_PHYSICAL_MEMORY: _write_memory,
    Api.SET_BUS_DATA: _write_bus,
    Api.GET_CONTEXT_EX: _get_context_ex,
    Api.SET_CONTEXT_EX: _set_context_ex,
    Api.GET_CONTEXT: _get_context,
    Api.SET_CONTEXT: _set_context,
}
