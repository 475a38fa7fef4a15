"""One port for several programs: what a guest and the process that has the port say to each other."""

from __future__ import annotations

import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from com_channel_rigs import BAUD, ClockedCable, Collector, Collectors
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from kdsrv.com_channel.sharing import connect_as_guest, offer
from kdsrv.com_channel.transport import ComAddress
from kdsrv.errors import SetupError, TargetError

ADDRESS = ComAddress("/desk", 3)


class FakeTransport:
    """A channel's stream: keeps what is written."""

    def __init__(self) -> None:
        self.data = b""
        self.events: list[str] = []

    def write(self, data: bytes) -> None:
        self.data += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        self.events.append("registered")

    def unregisterProducer(self) -> None:  # noqa: N802
        self.events.append("unregistered")

    def loseConnection(self) -> None:  # noqa: N802
        self.events.append("lost")

    def pauseProducing(self) -> None:
        self.events.append("paused")

    def resumeProducing(self) -> None:
        self.events.append("resumed")

    def stopProducing(self) -> None:
        self.events.append("stopped")


class FakeCable:
    baud = BAUD

    def __init__(self) -> None:
        self.channels: list[int] = []
        self.refusal: Exception | None = None
        self.far: Any = None
        self.stays_open = False

    def connect(self, channel: int, factory: Any, limit: float) -> Deferred[Any]:
        self.channels.append(channel)
        if self.refusal is not None:
            return fail(self.refusal)
        self.far = factory.buildProtocol(None)
        self.far.makeConnection(FakeTransport())
        return Deferred() if self.stays_open else succeed(self.far)


class SharingTests(TestCase):
    def setUp(self) -> None:
        self.folder = TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.pipes = Path(self.folder.name) / "pipes"
        self.cable = FakeCable()
        self.port = offer(reactor, self.cable, "/dev/x", self.pipes, 5.0)
        assert self.port is not None
        self.addCleanup(self.port.stopListening)
        self.factory = Collectors()

    def dial(self, baud: int = BAUD, limit: float = 5.0) -> Deferred[Any]:
        return connect_as_guest(reactor, ADDRESS, "/dev/x", baud, self.factory, self.pipes, limit)

    async def turns(self) -> None:
        await deferLater(reactor, 0.05, lambda: None)

    async def test_bytes_go_both_ways_until_either_leaves(self) -> None:
        protocol: Collector = await self.dial()
        assert self.cable.channels == [3]
        assert self.factory.addresses == ["channel 3 of /desk"]
        protocol.transport.write(b"up")
        self.cable.far.dataReceived(b"down")
        await self.turns()
        assert self.cable.far.transport.data == b"up"
        assert bytes(protocol.data) == b"down"
        protocol.transport.loseConnection()
        await self.turns()
        assert self.cable.far.transport.events[-1] == "lost"

    async def test_the_channel_ends(self) -> None:
        protocol: Collector = await self.dial()
        self.cable.far.dataReceived(b"last words")
        self.cable.far.connectionLost()
        await self.turns()
        assert bytes(protocol.data) == b"last words"
        assert protocol.reason is not None

    async def test_a_guest_that_does_not_read_stops_the_stream(self) -> None:
        protocol: Collector = await self.dial()
        protocol.transport.pauseProducing()
        await self.turns()
        self.cable.far.dataReceived(b"x" * 1_000_000)
        await self.turns()
        assert self.cable.far.transport.events[-1] == "paused"
        protocol.transport.resumeProducing()
        await self.turns()
        assert self.cable.far.transport.events[-1] == "resumed"
        assert len(protocol.data) == 1_000_000
        protocol.transport.loseConnection()
        await self.turns()

    async def test_a_refusal_is_passed_on(self) -> None:
        self.cable.refusal = TargetError(target="channel 3 of /desk", why="nobody listens on it")
        failure = await self.assertFailure(self.dial(), TargetError)
        assert str(failure) == "channel 3 of /desk: nobody listens on it"

    async def test_another_rate(self) -> None:
        failure = await self.assertFailure(self.dial(9600), TargetError)
        assert "in use at 115200 baud" in str(failure)
        assert self.cable.channels == []

    async def test_a_host_that_does_not_answer(self) -> None:
        self.cable.stays_open = True
        failure = await self.assertFailure(self.dial(limit=-1.9), TargetError)
        assert "busy" in str(failure)
        await self.turns()

    async def test_a_guest_that_gives_up(self) -> None:
        cancelled: list[str] = []
        opening: Deferred[Any] = Deferred(lambda _: cancelled.append("cancelled"))
        self.cable.connect = lambda channel, factory, limit: opening  # type: ignore[method-assign]
        waiting = self.dial()
        waiting.addErrback(lambda _: None)
        await self.turns()
        waiting.cancel()
        await self.turns()
        assert cancelled == ["cancelled"]

    async def test_strange_guests(self) -> None:
        for words in (b"GET / HTTP/1.1\r\n", b"115200 255\n", b"115200\n", b"x" * 2000, b"1 2 3\n", b"-1 3\n"):
            with socket.socket(socket.AF_UNIX) as guest:
                guest.connect(str(next(self.pipes.glob("com*x"))))
                guest.sendall(words)
                await self.turns()
                guest.setblocking(False)
                assert guest.recv(1000).startswith(b"no ")
        assert self.cable.channels == []

    async def test_nobody_has_the_port(self) -> None:
        with pytest.raises(SetupError):
            connect_as_guest(reactor, ADDRESS, "/dev/y", BAUD, self.factory, self.pipes, 5.0)

    async def test_where_there_can_be_no_pipe_nothing_is_offered(self) -> None:
        taken = Path(self.folder.name) / "file"
        taken.write_text("")
        assert offer(reactor, self.cable, "/dev/x", taken / "pipes", 5.0) is None
        assert ClockedCable().desk.find("/desk", BAUD).is_used is False
