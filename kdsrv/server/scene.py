"""What happens on a target that somebody looks on at, as lines in JSON: made once, however many look on.

    packet -> waiting, at most 1000 -> a line, some at a time -> the last 1000 lines -> each spectator, in batches

A packet that passes costs its debugger one more entry in a queue. At its leisure, that is 40 every 20 ms at the most,
the scene makes lines of what waits. When more comes than that, requests and their replies are left out first, as those
are what comes in such numbers, and then whatever is oldest. Things that happen are numbered, so that who reads the
lines sees how many are missing.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kdsrv.kd.packets import MANIPULATE, Packet
from kdsrv.sessions.decoded import BREAK_IN_SEEN, Direction, seen
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.session import Session
from kdsrv.sessions.status import Interrupted, Status

__all__ = ["MAX_LINES", "MAX_WAITING", "MOMENT", "NOBODY", "Batch", "Scene"]

MAX_LINES: Final = 1000
"""Lines that may wait for a spectator."""
MAX_LINE_BYTES: Final = 4 * 1024 * 1024
MAX_WAITING: Final = 1000
"""Packets that may wait to become lines,"""
MAX_REQUESTS_WAITING: Final = 500
"""and so many before a request or a reply is left out."""
MOMENT: Final = 0.02
"""Seconds between two looks at what waits."""
LINES_AT_ONCE: Final = 40
"""Lines that are made in one go, which takes less than a millisecond."""
_BATCH_BYTES: Final = 60_000
"""Fits a control message, together with what is around it. A line is shorter (``kdsrv.sessions.decoded``)."""

_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode

NOBODY: Final = Interrupted("nobody has the target")


class Batch(NamedTuple):
    """Lines as JSON objects. ``missed`` are missing before or between them; ``place`` and ``number`` are those of what
    comes after them."""

    missed: int
    lines: list[bytes]
    place: int
    number: int


class _Line(NamedTuple):
    number: int
    json: bytes


_Entry = tuple[int, float, object]
"""Number, time, and what it is: a packet and its direction, a status, or the members of a line."""


class Scene:
    """A SessionObserver of one target, for whatever session it has. ``wall_clock`` gives seconds since 1970; ``told``
    is called when there is more to tell."""

    def __init__(self, clock: IReactorTime, wall_clock: Callable[[], float], told: Callable[[], None]) -> None:
        self.description = ""
        self.status: Status = NOBODY
        self.place = 0
        self.number = 0
        self._clock = clock
        self._now = wall_clock
        self._told = told
        self._holder: Lease | None = None
        self._lines: list[_Line] = []
        self._bytes = 0
        self._waiting: deque[_Entry] = deque()
        self._happened = 0
        self._look: IDelayedCall | None = None
        self._leave_session: Callable[[], None] = _nothing

    def join(self, session: Session) -> None:
        """The target has this session, and had it before anybody looked on."""
        self._leave_session()
        self._leave_session = session.observe(self)
        self.description, self.status, self._holder = session.description, session.status, session.lease

    def begin(self, session: Session) -> None:
        """The target has got this session now."""
        self._leave_session()
        self._leave_session = session.observe(self)
        self.description = session.description
        self.holder_changed(session.lease)
        self.status_changed(session.status)

    def close(self) -> None:
        """Nobody looks on any more."""
        self._leave_session()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def holder_line(self) -> bytes | None:
        """Who has the target, for somebody who comes in the middle; None if nobody has it."""
        return None if self._holder is None else _encode(self._now(), _held(self._holder))

    def after(self, place: int, number: int) -> Batch | None:
        """What is to be told from there on, as much as goes into one message; None if nothing is."""
        first = self.place - len(self._lines)
        start = end = max(place - first, 0)
        size = 0
        while end < len(self._lines) and (end == start or size + len(self._lines[end].json) < _BATCH_BYTES):
            size += len(self._lines[end].json) + 1
            end += 1
        if end == start:
            return None
        lines = [line.json for line in self._lines[start:end]]
        next_number = self._lines[end - 1].number + 1
        return Batch(next_number - number - len(lines), lines, first + end, next_number)

    # What the session tells

    def packet_from_target(self, packet: Packet) -> None:
        """See SessionObserver."""
        if packet.type == MANIPULATE and len(self._waiting) >= MAX_REQUESTS_WAITING:
            self._happened += 1
        else:
            self._put((Direction.FROM_TARGET, packet))

    def packet_to_target(self, packet: Packet) -> None:
        """See SessionObserver."""
        if packet.type == MANIPULATE and len(self._waiting) >= MAX_REQUESTS_WAITING:
            self._happened += 1
        else:
            self._put((Direction.TO_TARGET, packet))

    def break_in_sent(self) -> None:
        """See SessionObserver."""
        self._put(BREAK_IN_SEEN.to_json())

    def status_changed(self, status: Status) -> None:
        """See SessionObserver."""
        self._put(status)

    def holder_changed(self, lease: Lease) -> None:
        """See SessionObserver."""
        self._holder = lease
        self._put(_held(lease))

    def session_ended(self) -> None:
        """See SessionObserver."""
        self._leave_session = _nothing
        self._holder = None
        self.description = ""
        self._put({"kind": "end", "text": "the session has ended"})
        self._put(NOBODY)

    # What becomes of it

    def _put(self, what: object) -> None:
        self._waiting.append((self._happened, self._now(), what))
        if not isinstance(what, Status):
            self._happened += 1
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
        if self._look is None:
            self._look = self._clock.callLater(MOMENT, self._make_lines)

    def _make_lines(self) -> None:
        """Make lines of what waits, as many as may be made at once."""
        waiting = self._waiting
        for _ in range(min(len(waiting), LINES_AT_ONCE)):
            number, time, what = waiting.popleft()
            if isinstance(what, Status):
                self.status = what
                continue
            members = seen(*what).to_json() if isinstance(what, tuple) else what
            line = _Line(number, _encode(time, members))
            if len(line.json) <= _BATCH_BYTES:
                self._add(line)
        self._look = self._clock.callLater(MOMENT, self._make_lines) if waiting else None
        self._forget_oldest()
        self._told()

    def _add(self, line: _Line) -> None:
        self._lines.append(line)
        self._bytes += len(line.json)
        self.place += 1
        self.number = line.number + 1

    def _forget_oldest(self) -> None:
        surplus = max(len(self._lines) - MAX_LINES, 0)
        size = sum(len(line.json) for line in self._lines[:surplus])
        while self._bytes - size > MAX_LINE_BYTES:
            size += len(self._lines[surplus].json)
            surplus += 1
        del self._lines[:surplus]
        self._bytes -= size


def _held(lease: Lease) -> dict[str, object]:
    text = f"{lease.holder} from {lease.address} has the target"
    return {"kind": "holder", "holder": lease.holder, "address": lease.address, "text": text}


def _encode(time: float, members: object) -> bytes:
    assert isinstance(members, dict)
    return _to_json({"time": round(time, 6), **members}).encode()


def _nothing() -> None:
    """What a scene without a session leaves."""
