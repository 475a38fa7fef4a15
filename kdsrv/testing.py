"""Test scripts and clients without sockets, hardware or waiting: a server, its targets and its clients in memory.

    lab = MemoryLab()
    target = lab.run(lab.open_session("sim:"))
    stop = lab.run(target.break_in())
    assert lab.run(target.read_virtual(address, 16)) == lab.simulated().memory.read_virtual(address, 16)
    lab.close()

Everything runs under a ``twisted.internet.task.Clock``, so that seconds pass only as the test lets them, and in a test
that fails, it fails each time the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from kdsrv.client.api import Opening, open_session_in_process, open_session_over
from kdsrv.connection_strings import KdSpec
from kdsrv.server.factory import KdsrvServerFactory
from kdsrv.sessions.directory import Directory
from kdsrv.sim.target import SimulatedTarget
from kdsrv.transports.opener import Opener
from kdsrv.transports.simulated import LiveTarget, SimulatedTargets

__all__ = ["MemoryEndpoint", "MemoryLab", "MemoryTransport", "NothingHappens"]

T = TypeVar("T")

_ADDRESS: Final = IPv4Address("TCP", "127.0.0.1", 1)


class NothingHappens(AssertionError):
    """What a test waits for does not come, however much time passes."""


@implementer(ITransport)
class MemoryTransport:
    """One end of a connection in memory: what is written to it reaches the other end's protocol ``latency`` seconds
    later. ``bytes_written`` counts it."""

    def __init__(self, clock: Clock, latency: float, protocol: IProtocol) -> None:
        self.connected = True
        self.bytes_written = 0
        self.other: MemoryTransport | None = None
        self._clock = clock
        self._latency = latency
        self._protocol = protocol
        self._arriving: list[tuple[float, bytes | None]] = []
        self._delivery: IDelayedCall | None = None
        self._bytes_left: int | None = None

    def connect(self, other: MemoryTransport) -> None:
        """Join two ends and tell the protocols."""
        self.other, other.other = other, self
        other._protocol.makeConnection(other)
        self._protocol.makeConnection(self)

    def write(self, data: bytes) -> None:
        """Send bytes to the other end."""
        if self.connected and self.other is not None and data:
            self.bytes_written += len(data)
            self.other._arrive(bytes(data))

    def writeSequence(self, data: Iterable[bytes]) -> None:  # noqa: N802  # the name is ITransport's
        """Send several pieces to the other end."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:  # noqa: N802  # the name is ITransport's
        """Close this end now; the other learns of it after everything that was written before."""
        if self.connected and self.other is not None:
            self.other._arrive(None)
        self._clock.callLater(0, self._end, ConnectionDone())

    def abortConnection(self) -> None:  # noqa: N802  # the name is ITCPTransport's
        """The same."""
        self.loseConnection()

    def cut(self) -> None:
        """The network fails: both ends lose the connection, and what is under way."""
        for end in (self, self.other):
            if end is not None:
                end._arriving.clear()
                end._end(ConnectionLost())

    def cut_after(self, count: int) -> None:
        """The network fails when so many more bytes, 1 at least, have come to this end."""
        self._bytes_left = count

    def getPeer(self) -> IAddress:  # noqa: N802  # the name is ITransport's
        """An address for show."""
        return _ADDRESS

    def getHost(self) -> IAddress:  # noqa: N802  # the name is ITransport's
        """An address for show."""
        return _ADDRESS

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:  # noqa: N802  # IConsumer's
        """Memory takes everything, so nobody is ever paused."""

    def unregisterProducer(self) -> None:  # noqa: N802  # the name is IConsumer's
        """See ``registerProducer``."""

    def _arrive(self, data: bytes | None) -> None:
        self._arriving.append((self._clock.seconds() + self._latency, data))
        self._schedule()

    def _schedule(self) -> None:
        if self._arriving and self._delivery is None:
            delay = max(0.0, self._arriving[0][0] - self._clock.seconds())
            self._delivery = self._clock.callLater(delay, self._deliver)

    def _deliver(self) -> None:
        self._delivery = None
        arrived = []
        closed = False
        while self._arriving and self._arriving[0][0] <= self._clock.seconds() and not closed:
            data = self._arriving.pop(0)[1]
            closed = data is None
            arrived.append(data or b"")
        self._schedule()
        data, fails = b"".join(arrived), False
        if self._bytes_left is not None:
            fails = len(data) >= self._bytes_left
            data = data[: self._bytes_left]
            self._bytes_left -= len(data)
        if self.connected and data:
            self._protocol.dataReceived(data)
        if fails:
            self.cut()
        elif closed:
            self._end(ConnectionDone())

    def _end(self, reason: Exception) -> None:
        if self.connected:
            self.connected = False
            self._protocol.connectionLost(Failure(reason))


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """A client endpoint that leads to ``server`` in memory; ``connections`` are the clients' ends. Before
    ``away_until``, a time of the clock, there is no way to it."""

    def __init__(self, clock: Clock, server: IProtocolFactory, latency: float = 0.0) -> None:
        self.server = server
        self.connections: list[MemoryTransport] = []
        self.away_until = 0.0
        self._clock = clock
        self._latency = latency

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect at once."""
        if self._clock.seconds() < self.away_until:
            return fail(ConnectError(string="the network is away"))
        client, server = protocolFactory.buildProtocol(_ADDRESS), self.server.buildProtocol(_ADDRESS)
        assert client is not None
        assert server is not None
        ends = [MemoryTransport(self._clock, self._latency, protocol) for protocol in (client, server)]
        self.connections.append(ends[0])
        ends[0].connect(ends[1])
        return succeed(client)


class MemoryLab:
    """A server with simulated targets, and a network to it with ``latency`` seconds of delay in each direction.

    Targets are made when they are first opened, as ``sim:name=...,state=...`` says, and keep their state from session
    to session. ``environ`` is what the server fills kd-strings in from.
    """

    def __init__(self, *, latency: float = 0.0, environ: Mapping[str, str] | None = None) -> None:
        self.clock = Clock()
        self.targets = SimulatedTargets(self.clock)
        self._environ = environ or {}
        self.directory, self.server = self._new_server()
        self.endpoint = MemoryEndpoint(self.clock, self.server, latency)

    def open_session(self, trans: str | KdSpec | None = "sim:", **options: Any) -> Opening:
        """A client's session through the network; options are those of ``kdsrv.client.open_session_over``."""
        usual = {"client": "a test", "random": lambda: 0.0}
        return open_session_over(self.clock, self.endpoint, trans, **{**usual, **options})

    def open_session_in_process(self, trans: str | KdSpec | None = "sim:", **options: Any) -> Opening:
        """A session without the network in between."""
        return open_session_in_process(self.clock, self.directory, trans, **{"client": "a test", **options})

    def simulated(self, name: str = "sim") -> SimulatedTarget:
        """A target that was opened before, as the machine it is: its memory, its log, what it prints."""
        return self.targets[name].target

    def act(self, action: Callable[[SimulatedTarget, float], object], name: str = "sim") -> None:
        """Let a machine do something by itself: ``lab.act(lambda target, now: target.print("hello", now))``."""
        live: LiveTarget = self.targets[name]
        action(live.target, self.clock.seconds())
        live.flush()
        self.advance(0)

    def advance(self, seconds: float) -> None:
        """Let time pass, all that is due in it happening in its order."""
        end = self.clock.seconds() + seconds
        while (due := self._next_due()) is not None and due <= end:
            self.clock.advance(max(0.0, due - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    def run(self, work: Opening | Coroutine[Any, Any, T] | Deferred[T], within: float = 600.0) -> Any:
        """The result of ``work``, or its exception; time passes as needed, up to ``within`` seconds.

        NothingHappens if it has not come by then.
        """
        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(_awaited(work))
        outcome: list[Any] = []
        deferred.addBoth(outcome.append)
        end = self.clock.seconds() + within
        while not outcome:
            due = self._next_due()
            if due is None or due > end:
                outcome.append(None)
                raise NothingHappens(f"no result after {within:g} s of the clock")
            self.clock.advance(max(0.0, due - self.clock.seconds()))
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return outcome[0]

    def cut(self, seconds: float = 0.0) -> None:
        """The network fails: every client that is connected is cut off, and finds no way back for so long."""
        self.endpoint.away_until = self.clock.seconds() + seconds
        for connection in self.endpoint.connections:
            connection.cut()

    def restart_server(self) -> None:
        """The server is killed, and another one is there in its place; targets stay as they are."""
        self.cut(math.inf)
        self.server.attachments.discard()
        self.run(self.directory.close_all())
        self.directory, self.server = self._new_server()
        self.endpoint.server = self.server
        self.endpoint.away_until = 0.0

    def close(self) -> None:
        """End everything; nothing is left in the clock."""
        self.server.stopFactory()
        self.run(self.directory.close_all())
        self.server.attachments.discard()
        self.targets.stop()
        self.advance(0)

    def _new_server(self) -> tuple[Directory, KdsrvServerFactory]:
        directory = Directory(self.clock, Opener(self.clock, self.targets), self._environ)
        return directory, KdsrvServerFactory(self.clock, directory)

    def _next_due(self) -> float | None:
        return min((call.getTime() for call in self.clock.getDelayedCalls()), default=None)


async def _awaited(work: Any) -> Any:
    return await work
