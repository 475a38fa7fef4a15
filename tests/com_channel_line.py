"""Two cables back to back on a virtual line: bytes take their time, and some are lost, damaged or repeated."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from random import Random

from kdsrv.com_channel.cable import BITS_PER_BYTE, Cable
from kdsrv.com_channel.stream import Arrived, Closed, Event, Lost, Opened, Readable, State, Stream, Writable

__all__ = ["BAUD", "Faults", "Rig", "User"]

BAUD = 115200


@dataclass(frozen=True)
class Faults:
    """Per byte: how likely it is lost, damaged, or comes twice; and seconds that each takes beyond the line's pace."""

    loss: float = 0.0
    damage: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.002
    largest_piece: int = 64


@dataclass
class User:
    """What one end's owner has of a stream, and has seen of it."""

    stream: Stream
    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    reads: bool = True
    waits: bool = False
    state: str = "opening"
    why: str = ""


class End:
    """A cable and its owner."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.users: dict[Stream, User] = {}
        self.arrived: list[User] = []
        self.cable = self.start()

    def start(self) -> Cable:
        """Start (again), with nothing of before."""
        self.users, self.arrived = {}, []
        self.cable = Cable(BAUD, self.rig.random.randbytes)
        return self.cable

    def open(self, number: int, limit: float = 5.0) -> User:
        stream = self.cable.channels.open(number, self.rig.now + limit)
        user = self.users[stream] = User(stream)
        self.cable.opened(self.rig.now)
        return user

    def write(self, user: User, data: bytes) -> None:
        assert user.stream.state is State.OPEN
        user.sent += data
        user.waits = self.cable.channels.write(user.stream, data)

    def read(self, user: User) -> None:
        user.got += self.cable.channels.read(user.stream)

    def handle(self) -> None:
        events = self.cable.channels.events
        while events:
            self._handle(events.popleft())

    def _handle(self, event: Event) -> None:
        stream = event.stream
        if isinstance(event, Arrived):
            user = self.users[stream] = User(stream, state="open")
            self.arrived.append(user)
            return
        user = self.users[stream]
        assert user.state not in ("closed", "lost", "aborted"), event
        if isinstance(event, Opened):
            user.state = "open"
        elif isinstance(event, Readable):
            if user.reads:
                self.read(user)
        elif isinstance(event, Writable):
            user.waits = False
        elif isinstance(event, Closed):
            user.state = "closed"
        elif isinstance(event, Lost):
            user.state, user.why = "lost", event.why


class Rig:
    """The line. ``plugged`` False loses everything."""

    def __init__(self, seed: int = 0, faults: Faults = Faults()) -> None:
        self.random = Random(seed)
        self.faults = faults
        self.now = 1000.0
        self.plugged = True
        self.bytes = [0, 0]
        self._order = 0
        self._free_at = [0.0, 0.0]
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self.ends = (End(self), End(self))

    @property
    def desk(self) -> End:
        return self.ends[0]

    @property
    def lab(self) -> End:
        return self.ends[1]

    def flush(self) -> None:
        """Handle what has happened and put onto the line what is to go."""
        for number, end in enumerate(self.ends):
            end.handle()
            output = end.cable.take_output(self.now)
            end.handle()
            if output:
                self._put(1 - number, output)

    def inject(self, to: int, data: bytes) -> None:
        """Bytes that no cable sent."""
        self._order += 1
        heapq.heappush(self._under_way, (self.now, self._order, to, data))

    def step(self, until: float) -> bool:
        """On to whatever happens next, at ``until`` at the latest; False if that was reached."""
        self.flush()
        deadlines = [end.cable.deadline for end in self.ends]
        times = [max(self.now, deadline) for deadline in deadlines if deadline is not None]
        if self._under_way:
            times.append(max(self.now, self._under_way[0][0]))
        following = min(times, default=until)
        if following >= until:
            self.now = until
            return False
        # never twice at the same moment: a deadline that stays where it is would otherwise stop the clock
        self.now = max(self.now + 1e-6, following)
        while self._under_way and self._under_way[0][0] <= self.now:
            _, _, to, data = heapq.heappop(self._under_way)
            self.ends[to].cable.receive(data, self.now)
            self.ends[to].handle()
        for end in self.ends:
            deadline = end.cable.deadline
            if deadline is not None and deadline <= self.now:
                end.cable.expire(self.now)
        self.flush()
        return True

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.step(until):
            pass

    def until(self, condition: object, limit: float = 60.0) -> float:
        """Run until ``condition()``; how many seconds that took."""
        assert callable(condition)
        begin = self.now
        while not condition():
            assert self.step(begin + limit) or condition(), "it did not happen"
        return self.now - begin

    def _put(self, to: int, data: bytes) -> None:
        self.bytes[to] += len(data)
        begin = max(self.now, self._free_at[to])
        at = 0
        while at < len(data):
            piece = data[at : at + self.random.randint(1, self.faults.largest_piece)]
            at += len(piece)
            arrives = begin + at * BITS_PER_BYTE / BAUD
            self._free_at[to] = arrives
            piece = self._spoil(piece)
            if piece:
                self._order += 1
                heapq.heappush(self._under_way, (arrives + self.faults.delay, self._order, to, piece))

    def _spoil(self, piece: bytes) -> bytes:
        faults, random = self.faults, self.random
        if not self.plugged:
            return b""
        if not faults.loss + faults.damage + faults.duplicate:
            return piece
        spoiled = bytearray()
        for byte in piece:
            if random.random() < faults.loss:
                continue
            spoiled.append(byte ^ 1 << random.randrange(8) if random.random() < faults.damage else byte)
            if random.random() < faults.duplicate:
                spoiled.append(spoiled[-1])
        return bytes(spoiled)
