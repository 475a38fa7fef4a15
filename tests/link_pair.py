"""A host link and a target link back to back: a virtual clock, two lines that do wrong as planned, and an owner each.

The target side is a kernel as KD protocol 1.8 has it: it prints while it runs, stops, answers requests, and goes on
when told to. The host side is the plainest debugger: one request at a time, each after the reply to the last; when
something was given up it starts again with a break-in and a RESET. Everything that either sends is unlike everything
else.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kdsrv.kd.host_link import HostLink
from kdsrv.kd.link import Acknowledged, BreakIn, Event, GaveUp, Link, ResendAsked, ResetSeen
from kdsrv.kd.packets import BREAK_IN, HEADER, Packet, PacketType
from kdsrv.kd.target_link import TargetLink

__all__ = ["Debugger", "Fault", "Kernel", "Line", "LinkPair"]

_READ, _CONTINUE, _STOPPED, _PRINTED = 0x3130, 0x313C, 0x3030, 0x3230
_CHECKED = frozenset({0, 1, 2, 3, 6, 7, 12, 13, 14, 15})
"""Header bytes whose damage is noticed: all but type and id, which no checksum covers."""


@dataclass(frozen=True)
class Fault:
    """What a line does with one packet. ``lose``: first byte and how many; ``flip``: a byte and the bits to change."""

    delay: float = 0.0
    noise: bytes = b""
    lose: tuple[int, int] | None = None
    flip: tuple[int, int] | None = None
    twice: bool = False
    reads: tuple[int, ...] = ()


@dataclass
class Line:
    """One direction. The n-th packet meets the n-th fault; after the last fault the line is good.

    ``anywhere``: bytes are changed wherever the fault says. Else only where that can be noticed; and a packet that lost
    bytes is followed by a whole one, since the head of one and the tail of another can make a third.
    """

    faults: deque[Fault] = field(default_factory=deque)
    anywhere: bool = False
    chunks: deque[tuple[float, bytes]] = field(default_factory=deque)
    _cut_before: bool = False

    def write(self, data: bytes, now: float) -> None:
        for frame in _frames(data):
            fault = self.faults.popleft() if self.faults else Fault()
            raw = fault.noise + self._after(fault, frame) * (2 if fault.twice else 1)
            due = max(now + fault.delay, self.chunks[-1][0] if self.chunks else now)
            self.chunks.extend((due, piece) for piece in _pieces(raw, fault.reads))

    def _after(self, fault: Fault, frame: bytes) -> bytes:
        if fault.lose:
            first = fault.lose[0] % len(frame)
            rest = frame[:first] + frame[first + fault.lose[1] :]
            if not rest or self.anywhere or not self._cut_before:
                self._cut_before = self._cut_before or bool(rest)
                return rest
        self._cut_before = False
        if fault.flip:
            at = fault.flip[0] % len(frame)
            if self.anywhere or at in _CHECKED or at >= HEADER.size:
                return frame[:at] + bytes([frame[at] ^ fault.flip[1]]) + frame[at + 1 :]
        return frame


def _frames(data: bytes) -> Iterator[bytes]:
    """What a link writes, packet by packet."""
    at = 0
    while at < len(data):
        size = 1
        if data[at : at + 1] != BREAK_IN:
            leader, _, count, _, _ = HEADER.unpack_from(data, at)
            size = HEADER.size + (count + 1 if leader == b"0000" else 0)
        yield data[at : at + size]
        at += size


def _pieces(raw: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    for size in sizes:
        if raw:
            yield raw[:size]
        raw = raw[size:]
    if raw:
        yield raw


def _payload(head: int, number: int, size: int) -> bytes:
    """A payload unlike any other.

    It holds no leader and break-in bytes: a refused payload is read as noise, and would mean something there. KD has no
    cure for that.
    """
    digits = bytes(0x40 + (number >> shift & 15) for shift in (12, 8, 4, 0))
    return (struct.pack("<I", head) + digits).ljust(size, bytes([0x41 + number % 7]))


class Owner(ABC):
    """What both owners keep: what they sent, took and were told, and a time at which they want to be called."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.alarm: float | None = None
        self.sent: list[Packet] = []
        self.taken: list[Packet] = []
        self.acknowledged: list[Packet] = []
        self.given_up: list[Packet] = []
        self.log: list[Event] = []
        self._on_the_way: deque[Packet] = deque()

    def send(self, packet_type: int, payload: bytes, now: float) -> None:
        packet = Packet(packet_type, payload)
        self.sent.append(packet)
        self._on_the_way.append(packet)
        self.link.send(packet_type, payload, now)

    def hear(self, event: Event, now: float) -> None:
        self.log.append(event)
        if isinstance(event, Packet):
            self.taken.append(event)
        elif isinstance(event, Acknowledged | GaveUp) and event.type != PacketType.RESET:
            packet = self._on_the_way.popleft()
            assert packet.type == event.type, "packets are acknowledged and given up in the order of sending"
            (self.acknowledged if isinstance(event, Acknowledged) else self.given_up).append(packet)
        self.handle(event, now)

    @abstractmethod
    def handle(self, event: Event, now: float) -> None:
        """Do what this end does about an event of its link."""

    @abstractmethod
    def ring(self, now: float) -> None:
        """The time this end asked for has come."""


class Kernel(Owner):
    """``runs``: how much is printed in each run before it stops by itself. After the last it runs until broken in."""

    def __init__(self, link: TargetLink, runs: Iterable[int], sizes: Iterable[int]) -> None:
        super().__init__(link)
        self._target = link
        self._runs = deque(runs)
        self._sizes = deque(sizes) or deque([56])
        self._numbers = iter(range(1, 1 << 16))
        self._stops = 0
        self.stopped = False
        self.alarm = 0.0

    def handle(self, event: Event, now: float) -> None:
        if isinstance(event, BreakIn):
            self._stop(now)
        elif isinstance(event, ResetSeen | ResendAsked):
            if self.stopped:
                self._stop(now)
        elif isinstance(event, Packet):
            api, number = struct.unpack_from("<I4s", event.payload)
            if api == _CONTINUE:
                self._run(now)
            else:
                self._sizes.rotate(-1)
                reply = _payload(_READ, next(self._numbers), max(56, self._sizes[0]))
                self.send(PacketType.STATE_MANIPULATE, reply[:8] + number + reply[12:], now)
        elif event.type == PacketType.DEBUG_IO:
            self._run(now)

    def _run(self, now: float) -> None:
        self.stopped, self._target.running = False, True
        self.alarm = now + 0.02

    def ring(self, now: float) -> None:
        if self._target.break_pending:
            self._target.break_pending = False
            self._stop(now)
        elif self._runs and self._runs[0]:
            self._runs[0] -= 1
            self.alarm = None
            self.send(PacketType.DEBUG_IO, _payload(_PRINTED, next(self._numbers), 24), now)
        elif self._runs:
            self._runs.popleft()
            self._stop(now)
        else:
            self.alarm = None

    def _stop(self, now: float) -> None:
        """Announce a stop, or once more the one that is; bytes 8 to 12 say which stop it is."""
        self.alarm = None
        self._stops += not self.stopped
        self.stopped, self._target.running = True, False
        if not self.link.backlog:
            payload = _payload(_STOPPED, next(self._numbers), 240)
            self.send(PacketType.STATE_CHANGE64, payload[:8] + struct.pack("<I", self._stops) + payload[12:], now)


class Debugger(Owner):
    """``plan`` says how much it asks at each stop before it lets the target go on; at the last it stays."""

    def __init__(self, link: HostLink, plan: Iterable[int]) -> None:
        super().__init__(link)
        self._host = link
        self.plan = deque(plan)
        self._numbers = iter(range(1, 1 << 16))
        self._asked: bytes | None = None
        self.stopped = False
        self.answered: list[bytes] = []
        self.unanswered: list[bytes] = []
        self.alarm = 0.0

    @property
    def done(self) -> bool:
        return self.stopped and self._asked is None and not self.plan and not self.link.backlog

    def handle(self, event: Event, now: float) -> None:
        if isinstance(event, ResetSeen):
            self._lose(now + 10.0)
        elif isinstance(event, GaveUp):
            self._lose(now + 0.1)
        elif isinstance(event, Packet) and event.type == PacketType.STATE_CHANGE64:
            if not self.stopped and not self.link.backlog:
                self.stopped = True
                self.go_on(now)
        elif isinstance(event, Packet) and self._asked is not None and event.payload[8:12] == self._asked[4:8]:
            self.answered.append(self._asked)
            self._asked = None
            self.go_on(now)

    def go_on(self, now: float) -> None:
        self.alarm = None
        if self.plan and self.plan[0]:
            self.plan[0] -= 1
            self._asked = _payload(_READ, next(self._numbers), 56)
            self.send(PacketType.STATE_MANIPULATE, self._asked, now)
            self.alarm = now + 30.0
        elif self.plan:
            self.plan.popleft()
            if self.plan:
                self.stopped = False
                self.send(PacketType.STATE_MANIPULATE, _payload(_CONTINUE, next(self._numbers), 56), now)
                self.alarm = now + 15.0

    def ring(self, now: float) -> None:
        """Nothing has come for long: attach anew."""
        self._lose(now + 15.0)
        self._host.break_in(now)
        for lost in self._host.resync(now):
            self.hear(lost, now)
        self.alarm = now + 15.0

    def _lose(self, alarm: float) -> None:
        if self._asked is not None:
            self.unanswered.append(self._asked)
        self._asked = None
        self.stopped = False
        self.alarm = alarm


class LinkPair:
    """Both ends and the lines between them. ``now`` goes from one thing that happens to the next."""

    def __init__(self, debugger: Debugger, kernel: Kernel, down: Line, up: Line) -> None:
        self.debugger, self.kernel = debugger, kernel
        self.down, self.up = down, up
        self.now = 0.0
        self.steps = 0
        self.faults_ended = 0.0

    def run(self, patience: float) -> None:
        """Until the debugger is done. Fails when that takes more than ``patience`` seconds after the last fault."""
        while not self.debugger.done:
            self.step()
            if self.down.faults or self.up.faults:
                self.faults_ended = self.now
            assert self.now - self.faults_ended < patience, "the links make no way"
            assert self.steps < 200_000, "the links are busy without end"

    def settle(self, seconds: float) -> None:
        """Let pass what is still on its way."""
        until = self.now + seconds
        while self._next_due() <= until:
            self.step()
        self.now = until

    def step(self) -> None:
        self.steps += 1
        self.now = now = max(self.now, self._next_due())
        for owner, line, out in ((self.kernel, self.down, self.up), (self.debugger, self.up, self.down)):
            link = owner.link
            if line.chunks and line.chunks[0][0] <= now:
                _, data = line.chunks.popleft()
                for event in link.receive(data, now):
                    owner.hear(event, now)
            elif link.deadline is not None and link.deadline <= now:
                for event in link.expire(now):
                    owner.hear(event, now)
                assert link.deadline is None or link.deadline > now, "a deadline that does not move"
            elif owner.alarm is not None and owner.alarm <= now:
                owner.ring(now)
            while output := link.take_output():
                out.write(output, now)

    def _next_due(self) -> float:
        due = [line.chunks[0][0] for line in (self.down, self.up) if line.chunks]
        for owner in (self.debugger, self.kernel):
            due += [at for at in (owner.link.deadline, owner.alarm) if at is not None]
        return min(due, default=float("inf"))
