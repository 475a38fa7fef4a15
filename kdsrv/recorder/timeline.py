"""A recording by its stops: what the target said before each, and what it answered during it.

A stop lasts from a state change to the request that lets the target run. A state change that only repeats the one
before it, as after a RESET of the link, belongs to the same stop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from kdsrv.kd.api import NO_REPLY, RUNS_TARGET, Api
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.manipulate import MAX_TRANSFER, Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.statuses import Status
from kdsrv.recorder.entries import BreakInSent, Entry, Note, PacketSeen
from kdsrv.recorder.images import Images, Span
from kdsrv.sessions.decoded import ASKED_FIELDS, Direction

__all__ = ["Scene", "Timeline", "runs_target"]

_STOPS: Final = frozenset({PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32})
_MAX_ASKED: Final = 1000
"""Requests that may be without a reply at a time; more have been lost."""

_VIRTUAL: Final = ("virtual", 0)
_PHYSICAL: Final = ("physical", 0)
_OF_NO_PROCESSOR: Final = frozenset(
    {
        *(Api.READ_VIRTUAL_MEMORY, Api.WRITE_VIRTUAL_MEMORY, Api.READ_PHYSICAL_MEMORY, Api.WRITE_PHYSICAL_MEMORY),
        *(Api.GET_VERSION, Api.SEARCH_MEMORY, Api.FILL_MEMORY, Api.QUERY_MEMORY),
        *(Api.WRITE_BREAKPOINT, Api.RESTORE_BREAKPOINT, Api.WRITE_BREAKPOINT_EX, Api.RESTORE_BREAKPOINT_EX),
    }
)
"""Requests that get the same answer whichever processor they name."""

_NOWHERE: Final = Span(0, 0)

_Key: TypeAlias = tuple[object, ...]


@dataclass(slots=True)
class Scene:
    """The target runs and says ``said``, then ``stop`` (None: nothing was recorded after that).

    ``awaited``: somebody had broken in. ``switched``: it did not run, but another processor was wanted. ``span`` are
    the positions in the recording between the stop and the going on.
    """

    said: list[Packet] = field(default_factory=list)
    stop: Packet | None = None
    awaited: bool = False
    switched: bool = False
    span: Span = _NOWHERE


def runs_target(request: Manipulate) -> bool:
    """Whether the target runs after this request, or after its reply."""
    if request.kind in (Api.WRITE_BREAKPOINT_EX, Api.RESTORE_BREAKPOINT_EX):
        return request["continue_status"] in (Status.DBG_CONTINUE, Status.DBG_EXCEPTION_HANDLED)
    return request.kind in RUNS_TARGET


class Timeline:
    """Made from all entries of one or more recordings of a target, in order. ``scenes`` has one at the least."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.scenes = [Scene()]
        self.title = ""
        self.answers = 0
        self._images = Images()
        self._answers: dict[_Key, list[tuple[int, bytes]]] = {}
        self._asked: deque[Manipulate] = deque(maxlen=_MAX_ASKED)
        self._halted = False
        self._switching = False
        position = 0
        for position, entry in enumerate(entries, 1):
            self._add(entry, position)
        self._go_on(position + 1)

    def answer(self, request: Manipulate, scene: Scene, position: int) -> tuple[int, bytes] | None:
        """The reply to what was asked so, and the position at which it was given; None if it never was.

        ``position`` is that of the last answer of this stop. The first that was given after it is taken, or if it was
        given only before, the last; those of this stop go before those of others.
        """
        key, span = _key(request), scene.span
        given = self._answers.get(key, [])
        at = bisect_left(given, (position + 1,))
        if at < len(given) and given[at][0] < span.end:
            return given[at]
        if at and given[at - 1][0] >= span.begin:
            return given[at - 1]
        pieced = self._piece_together(request, scene, position)
        if pieced is not None and pieced.succeeded:
            return position, pieced.encode()
        if given:
            return position, given[min(at, len(given) - 1)][1]
        return None if pieced is None else (position, pieced.encode())

    def _piece_together(self, request: Manipulate, scene: Scene, position: int) -> Manipulate | None:
        """A reply from what was read in other cuts; None if not even the first byte is known."""
        match request.kind:
            case Api.READ_VIRTUAL_MEMORY | Api.READ_PHYSICAL_MEMORY:
                space = _VIRTUAL if request.kind == Api.READ_VIRTUAL_MEMORY else _PHYSICAL
                wanted = min(request["transfer_count"], MAX_TRANSFER)
                data = self._images.read(space, request["address"], wanted, scene.span, position)
                results = {"actual": len(data)}
            case Api.GET_CONTEXT_EX:
                wanted, space = request["byte_count"], ("context", request.processor)
                data = self._images.read(space, request["offset"], min(wanted, MAX_TRANSFER), scene.span, position)
                results = {"bytes_copied": len(data)}
            case _:
                return None
        if not data:
            return None
        return request.reply(Status.SUCCESS if len(data) == wanted else Status.UNSUCCESSFUL, data, **results)

    # How it is made

    def _add(self, entry: Entry, position: int) -> None:
        match entry:
            case PacketSeen(_, Direction.TO_TARGET, Packet(PacketType.STATE_MANIPULATE, payload)):
                self._add_request(payload, position)
            case PacketSeen(_, Direction.FROM_TARGET, Packet(PacketType.STATE_MANIPULATE, payload)):
                self._add_reply(payload, position)
            case PacketSeen(_, Direction.FROM_TARGET, packet):
                if packet.type in _STOPS:
                    self._add_stop(packet, position)
                elif _is_said(packet):
                    self._go_on(position)
                    self.scenes[-1].said.append(packet)
            case BreakInSent():
                if not self._halted:
                    self.scenes[-1].awaited = True
            case Note(_, "session", text) if not self.title:
                self.title = text

    def _add_stop(self, packet: Packet, position: int) -> None:
        if self._halted and packet == self.scenes[-1].stop:
            return
        switched = self._switching
        self._go_on(position)
        scene = self.scenes[-1]
        scene.stop, scene.switched, scene.span = packet, switched, Span(position, position)
        self._halted = True

    def _go_on(self, position: int) -> None:
        if self._halted:
            self._halted = self._switching = False
            scene = self.scenes[-1]
            scene.span = Span(scene.span.begin, position)
            self.scenes.append(Scene())
            self._asked.clear()

    def _add_request(self, payload: bytes, position: int) -> None:
        try:
            request = Manipulate.decode(payload)
        except PayloadError:
            return
        if request.kind not in NO_REPLY:
            self._asked.append(request)
        elif request.kind == Api.SWITCH_PROCESSOR:
            self._switching = True
        elif runs_target(request):
            self._go_on(position)

    def _add_reply(self, payload: bytes, position: int) -> None:
        try:
            reply = Manipulate.decode(payload)
        except PayloadError:
            return
        while self._asked:
            request = self._asked.popleft()
            if request.kind == reply.kind:
                self.answers += 1
                self._answers.setdefault(_key(request), []).append((position, payload))
                self._learn(request, reply, position)
                if runs_target(request):
                    self._go_on(position + 1)
                return

    def _learn(self, request: Manipulate, reply: Manipulate, position: int) -> None:
        images = self._images
        match request.kind:
            case Api.READ_VIRTUAL_MEMORY:
                images.add(_VIRTUAL, request["address"], reply.data, position)
            case Api.READ_PHYSICAL_MEMORY:
                images.add(_PHYSICAL, request["address"], reply.data, position)
            case Api.WRITE_VIRTUAL_MEMORY:
                images.add(_VIRTUAL, request["address"], request.data[: reply["actual"]], position)
            case Api.WRITE_PHYSICAL_MEMORY:
                images.add(_PHYSICAL, request["address"], request.data[: reply["actual"]], position)
            case Api.GET_CONTEXT if reply.succeeded:
                images.add(("context", request.processor), 0, reply.data, position)
            case Api.GET_CONTEXT_EX if reply.succeeded:
                images.add(("context", request.processor), request["offset"], reply.data, position)
            case Api.SET_CONTEXT if reply.succeeded:
                images.add(("context", request.processor), 0, request.data, position)


def _key(request: Manipulate) -> _Key:
    """What matters of a request: two that agree in it ask the same."""
    processor = None if request.kind in _OF_NO_PROCESSOR else request.processor
    fields = [request[name] for name in ASKED_FIELDS.get(request.kind, "").split()]
    return (request.kind, processor, *fields, request.data)


def _is_said(packet: Packet) -> bool:
    """Whether it is something that a target says by itself while it runs."""
    return packet.type in (PacketType.DEBUG_IO, PacketType.FILE_IO, PacketType.TRACE_IO)
