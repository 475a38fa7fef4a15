"""What happens in a session, as values, and streams of them with a bound."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from twisted.internet.defer import Deferred

from kdsrv.errors import KdsrvError
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.sessions.status import Halted, HaltReason, Status
from kdsrv.sessions.stop import describe_stop

__all__ = [
    "Event",
    "EventStream",
    "EventsDropped",
    "FileAsked",
    "ModuleLoaded",
    "ModuleUnloaded",
    "OtherPacket",
    "Printed",
    "Prompted",
    "Rebooting",
    "SessionLost",
    "StatusChanged",
    "Stop",
    "Stopped",
]


@dataclass(frozen=True, slots=True)
class Stop:
    """A target stopped. ``change`` is all that it said of it, None if that was of a form that kdsrv cannot read."""

    packet: Packet
    summary: Halted
    change: StateChange | None

    @classmethod
    def read(cls, packet: Packet) -> Self:
        """What a state change says, as far as it can be read."""
        try:
            change = StateChange.decode(packet.payload) if packet.type == PacketType.STATE_CHANGE64 else None
        except PayloadError:
            change = None
        return cls(packet, describe_stop(packet), change)

    def __str__(self) -> str:
        return self.summary.sentence()

    @property
    def reason(self) -> HaltReason:
        return self.summary.reason

    @property
    def processor(self) -> int:
        return self.summary.processor

    @property
    def code(self) -> int:
        """Of the exception; 0 if it is none."""
        return self.summary.code

    @property
    def program_counter(self) -> int:
        return self.summary.address if self.change is None else self.change.program_counter

    @property
    def is_module(self) -> bool:
        """A module was loaded or unloaded."""
        return self.reason in (HaltReason.MODULE_LOAD, HaltReason.MODULE_UNLOAD) and not self.is_reboot

    @property
    def is_reboot(self) -> bool:
        """The target says that it goes down, to reboot or to hibernate."""
        return self.change is not None and (self.change.is_reboot or self.change.is_hibernation)


@dataclass(frozen=True, slots=True)
class Stopped:
    """The target stopped and waits."""

    stop: Stop


@dataclass(frozen=True, slots=True)
class ModuleLoaded:
    """A module was loaded; the target waits, unless the session continues such stops by itself."""

    path: str
    base: int
    size: int
    checksum: int
    stop: Stop


@dataclass(frozen=True, slots=True)
class ModuleUnloaded:
    """A module was unloaded; the target waits likewise."""

    path: str
    base: int
    stop: Stop


@dataclass(frozen=True, slots=True)
class Rebooting:
    """The target goes down, to reboot or to hibernate; it waits likewise."""

    stop: Stop


@dataclass(frozen=True, slots=True)
class Printed:
    """The target printed ``data``, a text in a code page of its own."""

    data: bytes
    processor: int = 0

    @property
    def text(self) -> str:
        """``data`` read as Windows-1252, which has all of ASCII and never fails here."""
        return self.data.decode("cp1252", "replace")


@dataclass(frozen=True, slots=True)
class Prompted:
    """The target asks for a line of at most ``most`` bytes and waits for it."""

    text: str
    most: int
    _answer: Callable[[bytes], None] = field(repr=False, compare=False)

    def answer(self, text: str | bytes) -> None:
        """Answer; what is too long is cut off. Only the first answer to a prompt goes out."""
        self._answer(text.encode("cp1252", "replace") if isinstance(text, str) else text)


@dataclass(frozen=True, slots=True)
class FileAsked:
    """The target asked for a file of this machine, and was given ``answer``."""

    request: FileIo
    answer: FileIo


@dataclass(frozen=True, slots=True)
class OtherPacket:
    """A packet that needs no answer and that nothing is made of here: trace data for one."""

    packet: Packet


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """There is something new to say about the target or the line to it."""

    status: Status


@dataclass(frozen=True, slots=True)
class EventsDropped:
    """At this place events are missing, prints first of all: on the way here, or since nobody took them in time."""

    number: int


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The session has ended by itself; the last event."""

    reason: KdsrvError


Event: TypeAlias = (
    Stopped
    | ModuleLoaded
    | ModuleUnloaded
    | Rebooting
    | Printed
    | Prompted
    | FileAsked
    | OtherPacket
    | StatusChanged
    | EventsDropped
    | SessionLost
)


class EventStream:
    """Events from the moment of its making on, as an async iterator, for one reader. It ends when the session does.

    At most ``limit`` events wait for the reader. Past that the oldest print goes, or the oldest event if none is a
    print, and an EventsDropped says how many are missing.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._closed = False
        self._reader: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._events)

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        while True:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                return EventsDropped(dropped)
            if self._events:
                return self._events.popleft()
            if self._closed:
                raise StopAsyncIteration
            self._reader = Deferred(self._reader_left)
            await self._reader

    def put(self, event: Event) -> None:
        """Add an event at the end."""
        if self._closed:
            return
        if len(self._events) >= self._limit:
            self._drop_one()
        self._events.append(event)
        self._wake()

    def close(self) -> None:
        """Nothing comes any more; what is there can still be read."""
        self._closed = True
        self._wake()

    def _drop_one(self) -> None:
        index = next((index for index, event in enumerate(self._events) if isinstance(event, Printed)), 0)
        del self._events[index]
        self._dropped += 1

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(None)

    def _reader_left(self, _: Deferred[None]) -> None:
        self._reader = None
