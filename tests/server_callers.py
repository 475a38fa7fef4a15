"""A server in memory and the clients that call it: real protocols on strings instead of sockets, under one clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure as TwistedFailure

from kdsrv.auth.door import Door
from kdsrv.auth.users import UserBook
from kdsrv.server.factory import KdsrvServerFactory
from kdsrv.sessions.directory import Directory
from kdsrv.transports.opener import Opener
from kdsrv.transports.simulated import LiveTarget, SimulatedTargets
from kdsrv.transports.transport import Transport
from kdsrv.wire.connection import Connection, Event, Sendable
from kdsrv.wire.messages import Attach, ClientHello, Role

__all__ = ["NETWORK_BUFFER", "Caller", "ServerInMemory", "SlowOpener"]

NETWORK_BUFFER = 65536
_OFTEN = 0.005
EPOCH = 1_700_000_000.0


class ServerInMemory:
    """A server whose simulated targets are at hand by name."""

    def __init__(self, opener: Any = None, book: UserBook | None = None) -> None:
        self.clock = Clock()
        self.targets = SimulatedTargets(self.clock)
        self.directory = Directory(
            self.clock, opener or Opener(self.clock, self.targets), {}, lambda: EPOCH + self.clock.seconds()
        )
        self.factory = KdsrvServerFactory(self.clock, self.directory, Door(book))

    def call(self, host: str = "192.0.2.7", port: int = 4000) -> Caller:
        return Caller(self, host, port)

    def attach(self, trans: str | None = "sim:", client: str = "kim@desk", host: str = "192.0.2.7") -> Caller:
        """A client that has asked for a target."""
        caller = self.call(host)
        caller.say(ClientHello("a test"))
        caller.hear()
        caller.say(Attach(trans, client))
        return caller

    def wait(self, seconds: float = 0.05) -> None:
        """Let time pass in small steps, as it does for a reactor that is busy."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(_OFTEN, max(end - self.clock.seconds(), 0.0005)))

    def live(self, name: str = "sim") -> LiveTarget:
        return self.targets[name]

    def print(self, text: str, name: str = "sim") -> None:
        self.live(name).target.print(text, self.clock.seconds())
        self.live(name).flush()

    def end(self) -> list[Any]:
        """Stop the targets; what is left in the clock then was left behind by the server."""
        self.targets.stop()
        return list(self.clock.getDelayedCalls())


class Caller:
    """One client. ``said`` is all that the server told it so far."""

    def __init__(self, server: ServerInMemory, host: str, port: int) -> None:
        self.server = server
        self.connection = Connection(Role.CLIENT)
        self.said: list[Event] = []
        self.transport = _Network()
        self.protocol = server.factory.buildProtocol(IPv4Address("TCP", host, port))
        self.protocol.makeConnection(self.transport)

    def say(self, *events: Sendable) -> None:
        """All in one segment."""
        self.send(b"".join([self.connection.send(event) for event in events]))

    def send(self, data: bytes) -> None:
        if self.is_connected:
            self.protocol.dataReceived(data)

    def hear(self, kind: type[Any] | None = None) -> list[Any]:
        """What the server has said since the last call; all of it, or what is of a kind."""
        events: list[Event] = []
        while (data := self.transport.take()) or self.transport.value():
            events += self.connection.receive_data(data) if data else []
        self.said += events
        return [event for event in events if kind is None or type(event) is kind]

    def leave(self, reason: Exception | None = None) -> None:
        """The network connection ends."""
        from twisted.internet.error import ConnectionDone

        self.protocol.connectionLost(TwistedFailure(reason or ConnectionDone()))

    @property
    def is_connected(self) -> bool:
        """Whether the server has not closed the connection."""
        return not self.transport.disconnecting

    @property
    def is_aborted(self) -> bool:
        return bool(self.transport.aborting)


class _Network(StringTransport):
    """Says when it is full, as a socket's transport does; a reader who takes all empties it."""

    aborting = False
    full = False

    def abortConnection(self) -> None:  # noqa: N802
        self.aborting = self.disconnecting = True

    def take(self) -> bytes:
        data: bytes = self.value()
        self.clear()
        if self.producer is not None and self.full:
            self.full = False
            self.producer.resumeProducing()
        return data

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(self.value()) > NETWORK_BUFFER and self.producer is not None and not self.full:
            self.full = True
            self.producer.pauseProducing()

    def writeSequence(self, data: Sequence[bytes]) -> None:  # noqa: N802
        self.write(b"".join(data))


class SlowOpener:
    """An opener whose targets take their time: ``opening`` is what the server waits for."""

    def __init__(self, canceller: Any = None) -> None:
        self.opening: Deferred[Transport] | None = None
        self.cancelled = False
        self._canceller = canceller

    def open(self, spec: object) -> Deferred[Transport]:
        self.opening = Deferred(self._cancel)
        return self.opening

    def _cancel(self, opening: Deferred[Transport]) -> None:
        self.cancelled = True
        if self._canceller is not None:
            self._canceller(opening)
