"""What a packet says: one line for people, and facts for programs.

For whoever looks on at a session: a recording, a spectator, a log. Every payload comes out as something, also a broken
one or one of a kind that nobody knows.

    kind            from         what it is
    print           target       printed text, as much of it as the packet holds
    bugcheck        target       printed text by which a kernel says that it has crashed
    module-load     target       it stopped, to tell of a module
    module-unload   target       likewise
    stop            target       it stopped for any other reason
    prompt          both         the target asks for a line of text; the answer
    file            both         the target asks for a file; the answer
    request         debugger     something is asked of a stopped target
    continue        debugger     the target shall go on
    break-in        debugger     the target shall stop
    reply           target       the answer to a request
    other           both         anything else
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from kdsrv.errors import PeerError
from kdsrv.kd.api import Api
from kdsrv.kd.bug_checks import find_bug_check
from kdsrv.kd.debug_io import GET_STRING, PRINT_STRING, DebugIo
from kdsrv.kd.file_io import CLOSE_FILE, CREATE_FILE, READ_FILE, WRITE_FILE, FileIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.kd.statuses import status_text
from kdsrv.sessions.status import HaltReason
from kdsrv.sessions.stop import describe_stop

__all__ = [
    "ASKED_FIELDS",
    "BREAK_IN_SEEN",
    "Direction",
    "Seen",
    "SeenKind",
    "printable",
    "seen",
    "seen_from_target",
    "seen_to_target",
]


class Direction(StrEnum):
    """Which way a packet went."""

    FROM_TARGET = "from-target"
    TO_TARGET = "to-target"


class SeenKind(StrEnum):
    """What sort of thing a packet says."""

    PRINT = "print"
    BUG_CHECK = "bugcheck"
    MODULE_LOAD = "module-load"
    MODULE_UNLOAD = "module-unload"
    STOP = "stop"
    PROMPT = "prompt"
    FILE = "file"
    REQUEST = "request"
    CONTINUE = "continue"
    BREAK_IN = "break-in"
    REPLY = "reply"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet. ``text`` is one line that no terminal is steered by; ``data`` goes into JSON as it is, with numbers
    that may have 64 bits as texts like ``0xfffff80210000000``.

    A print has its text in ``data["printed"]``, line ends and all; so has a bugcheck, and its ``code``, ``name`` (null
    if unknown) and ``parameters`` besides.
    """

    kind: SeenKind
    direction: Direction
    text: str
    data: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """A JSON object of at most 48 KiB."""
        return {"kind": str(self.kind), "direction": str(self.direction), "text": self.text, **self.data}


BREAK_IN_SEEN: Final = Seen(SeenKind.BREAK_IN, Direction.TO_TARGET, "break in")
"""A break-in is no packet, but a byte on the line or a bit on another medium."""


def seen(direction: Direction, packet: Packet) -> Seen:
    """What a packet says that went this way. Never raises."""
    return seen_from_target(packet) if direction is Direction.FROM_TARGET else seen_to_target(packet)


def seen_from_target(packet: Packet) -> Seen:
    """What a target says by a packet. Never raises."""
    return _read(_FROM_TARGET, Direction.FROM_TARGET, packet)


def seen_to_target(packet: Packet) -> Seen:
    """What a debugger says by a packet. Never raises."""
    return _read(_TO_TARGET, Direction.TO_TARGET, packet)


def printable(text: str) -> str:
    """Text of a target on one line of a terminal: what could steer the terminal is shown as an escape."""
    text = text.rstrip("\r\n\0")
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _read(readers: Mapping[int, _Reader], direction: Direction, packet: Packet) -> Seen:
    reader = readers.get(packet.type)
    if reader is not None:
        try:
            return reader(packet)
        except PeerError as error:
            return Seen(SeenKind.OTHER, direction, f"unreadable packet of type {packet.type}: {error}", _size(packet))
    return Seen(SeenKind.OTHER, direction, f"packet of type {packet.type}, {len(packet.payload)} bytes", _size(packet))


def _size(packet: Packet) -> dict[str, object]:
    return {"type": packet.type, "length": len(packet.payload)}


# What a target stops for


def _stop(packet: Packet) -> Seen:
    halted = describe_stop(packet)
    sentence = printable(halted.sentence())
    change = StateChange.decode(packet.payload) if packet.type == PacketType.STATE_CHANGE64 else None
    if change is not None and (change.is_reboot or change.is_hibernation):
        reason = "reboot" if change.is_reboot else "hibernation"
        return _said(
            SeenKind.STOP, f"halted: the target goes down ({reason})", processor=change.processor, reason=reason
        )
    facts: dict[str, object] = {"processor": halted.processor, "reason": str(halted.reason)}
    match halted.reason:
        case HaltReason.MODULE_LOAD | HaltReason.MODULE_UNLOAD:
            assert change is not None
            loaded = halted.reason is HaltReason.MODULE_LOAD
            kind = SeenKind.MODULE_LOAD if loaded else SeenKind.MODULE_UNLOAD
            text = f"{'' if loaded else 'un'}loaded {_place(halted.address)} {printable(halted.text)}"
            size = change["image_size"]
            return _said(kind, text, **facts, path=halted.text, base=f"{halted.address:#x}", size=size)
        case HaltReason.COMMAND:
            return _said(SeenKind.STOP, sentence, **facts, command=halted.text)
        case _:
            code, address = f"{halted.code:#x}", f"{halted.address:#x}"
            return _said(SeenKind.STOP, sentence, **facts, code=code, address=address)


def _said(kind: SeenKind, text: str, /, **data: object) -> Seen:
    return Seen(kind, Direction.FROM_TARGET, text, data)


# What it prints and asks


def _debug_io(packet: Packet) -> Seen:
    message = DebugIo.decode(packet.payload)
    kind, processor, data = message.kind, message["processor"], message.text
    text = _text(data)
    if kind == GET_STRING:
        most = message["string_length"]
        return _said(SeenKind.PROMPT, f"prompt: {printable(text)}", processor=processor, prompt=text, most=most)
    if kind != PRINT_STRING:
        return _said(SeenKind.OTHER, f"debug I/O {kind:#x}", **_size(packet))
    crash = find_bug_check(data)
    if crash is None:
        return _said(SeenKind.PRINT, printable(text), processor=processor, printed=text)
    shown = f"bugcheck {crash.code:#x} {crash.name or '(unknown code)'}"
    if crash.parameters:
        shown += f" ({', '.join(f'{each:#x}' for each in crash.parameters)})"
    return _said(
        SeenKind.BUG_CHECK,
        shown,
        processor=processor,
        code=f"{crash.code:#x}",
        name=crash.name,
        parameters=[f"{each:#x}" for each in crash.parameters],
        printed=text,
    )


def _answer(packet: Packet) -> Seen:
    text = _text(DebugIo.decode(packet.payload).answer_text)
    return Seen(SeenKind.PROMPT, Direction.TO_TARGET, f"answer: {printable(text)}", {"answer": text})


def _text(data: bytes) -> str:
    """Read as Windows-1252, which has all of ASCII; what is no character there is shown as one that is unknown."""
    return data.decode("cp1252", "replace")


_FILE_REQUESTS: Final = {CREATE_FILE: "open", READ_FILE: "read", WRITE_FILE: "write", CLOSE_FILE: "close"}


def _file_request(packet: Packet) -> Seen:
    request = FileIo.decode(packet.payload)
    facts: dict[str, object] = {"request": _FILE_REQUESTS.get(request.kind, f"{request.kind:#x}")}
    if request.kind == CREATE_FILE:
        facts["path"] = request.name
        return _said(SeenKind.FILE, f"file asked for: {printable(request.name)}", **facts)
    facts |= {name: _number(name, request[name]) for name in ("handle", "offset", "length") if name in request.fields}
    words = " ".join(f"{name} {value}" for name, value in facts.items() if name != "request")
    return _said(SeenKind.FILE, f"file {facts['request']}: {words}", **facts)


def _file_answer(packet: Packet) -> Seen:
    answer = FileIo.decode(packet.payload)
    did = _FILE_REQUESTS.get(answer.kind, f"{answer.kind:#x}")
    data = {"request": did, "status": f"{answer.status:#x}", "bytes": len(answer.data)}
    return Seen(SeenKind.FILE, Direction.TO_TARGET, f"file {did} answered: {status_text(answer.status)}", data)


# Requests and their replies

ASKED_FIELDS: Final[Mapping[int, str]] = {
    **dict.fromkeys((Api.READ_VIRTUAL_MEMORY, Api.WRITE_VIRTUAL_MEMORY), "address transfer_count"),
    **dict.fromkeys((Api.READ_PHYSICAL_MEMORY, Api.WRITE_PHYSICAL_MEMORY), "address transfer_count"),
    **dict.fromkeys((Api.READ_CONTROL_SPACE, Api.WRITE_CONTROL_SPACE), "address transfer_count"),
    **dict.fromkeys((Api.READ_IO_SPACE, Api.READ_IO_SPACE_EXTENDED), "address size"),
    **dict.fromkeys((Api.WRITE_IO_SPACE, Api.WRITE_IO_SPACE_EXTENDED), "address size value"),
    **dict.fromkeys((Api.GET_CONTEXT_EX, Api.SET_CONTEXT_EX), "offset byte_count"),
    **dict.fromkeys((Api.GET_BUS_DATA, Api.SET_BUS_DATA), "bus_data_type bus slot offset length"),
    **dict.fromkeys((Api.WRITE_BREAKPOINT_EX, Api.RESTORE_BREAKPOINT_EX), "count"),
    **dict.fromkeys((Api.SET_INTERNAL_BREAKPOINT, Api.GET_INTERNAL_BREAKPOINT), "address"),
    **dict.fromkeys((Api.SEARCH_MEMORY, Api.FILL_MEMORY), "address length"),
    Api.READ_MACHINE_SPECIFIC_REGISTER: "msr",
    Api.WRITE_MACHINE_SPECIFIC_REGISTER: "msr",
    Api.WRITE_BREAKPOINT: "address",
    Api.RESTORE_BREAKPOINT: "handle",
    Api.WRITE_CUSTOM_BREAKPOINT: "address",
    Api.SET_SPECIAL_CALL: "address",
    Api.QUERY_MEMORY: "address",
    Api.CAUSE_BUG_CHECK: "code",
    Api.SWITCH_PARTITION: "partition",
}
"""The fields by which people tell one request from another."""

_GIVEN: Final[Mapping[int, str]] = {
    Api.WRITE_BREAKPOINT: "handle",
    Api.WRITE_CUSTOM_BREAKPOINT: "handle",
    Api.SEARCH_MEMORY: "address",
    Api.READ_IO_SPACE: "value",
    Api.READ_IO_SPACE_EXTENDED: "value",
}
"""The fields of a reply that are its result."""

_WORDS: Final = {"transfer_count": "length", "byte_count": "length", "msr": "register"}
_HEXADECIMAL: Final = frozenset({"address", "msr", "handle", "code", "value", "offset"})
_CONTINUES: Final = frozenset({Api.CONTINUE, Api.CONTINUE2})


def _request(packet: Packet) -> Seen:
    request = Manipulate.decode(packet.payload)
    facts: dict[str, object] = {"api": request.name, "processor": request.processor}
    if request.kind in _CONTINUES:
        stepped = request.kind == Api.CONTINUE2 and bool(request["trace_flag"])
        status = request["continue_status"]
        text = f"{'single step' if stepped else 'continue'}: {status_text(status)}"
        facts |= {"status": f"{status:#x}", "step": stepped}
        return Seen(SeenKind.CONTINUE, Direction.TO_TARGET, text, facts)
    asked = dict(_fields(request, ASKED_FIELDS))
    text = " ".join([request.name, *_shown(request, ASKED_FIELDS)])
    if request.kind == Api.SWITCH_PROCESSOR:
        text += f" to {request.processor}"
    return Seen(SeenKind.REQUEST, Direction.TO_TARGET, text, {**facts, **asked})


def _reply(packet: Packet) -> Seen:
    reply = Manipulate.decode(packet.payload)
    facts: dict[str, object] = {"api": reply.name, "processor": reply.processor, "status": f"{reply.status:#x}"}
    asked = dict(_fields(reply, ASKED_FIELDS)) if reply.kind not in _GIVEN else {}
    results = dict(_fields(reply, _GIVEN)) if reply.succeeded else {}
    text = f"{reply.name}: {status_text(reply.status)}"
    if reply.data:
        facts["bytes"] = len(reply.data)
        text += f", {len(reply.data)} bytes"
    if results:
        text += f", {' '.join(_shown(reply, _GIVEN))}"
    if reply.kind == Api.GET_VERSION and reply.succeeded:
        version = reply.version
        machine = "unknown" if version.machine is None else version.machine.name
        results = {"build": version.build_number, "machine": machine, "kernel_base": f"{version.kernel_base:#x}"}
        text += f", build {version.build_number} on {machine}"
    return _said(SeenKind.REPLY, text, **{**facts, **asked, **results})


def _fields(payload: Manipulate, table: Mapping[int, str]) -> Iterator[tuple[str, object]]:
    for name in table.get(payload.kind, "").split():
        yield _WORDS.get(name, name), _number(name, payload[name])


def _shown(payload: Manipulate, table: Mapping[int, str]) -> Iterator[str]:
    for name in table.get(payload.kind, "").split():
        word, value = _WORDS.get(name, name), payload[name]
        if name == "address":
            yield _place(value)
        else:
            yield f"{word} {_number(name, value)}"


def _number(name: str, value: int) -> object:
    return f"{value:#x}" if name in _HEXADECIMAL else value


def _place(address: int) -> str:
    """An address as kernel debuggers show it."""
    return f"{address >> 32:08x}`{address & 0xFFFFFFFF:08x}"


_Reader = Callable[[Packet], Seen]

_FROM_TARGET: Final[Mapping[int, _Reader]] = {
    PacketType.STATE_CHANGE32: _stop,
    PacketType.STATE_CHANGE64: _stop,
    PacketType.DEBUG_IO: _debug_io,
    PacketType.FILE_IO: _file_request,
    PacketType.STATE_MANIPULATE: _reply,
}
_TO_TARGET: Final[Mapping[int, _Reader]] = {
    PacketType.DEBUG_IO: _answer,
    PacketType.FILE_IO: _file_answer,
    PacketType.STATE_MANIPULATE: _request,
}
