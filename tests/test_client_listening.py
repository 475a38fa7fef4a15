"""A client that waits to be dialled by its server, over real sockets on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from kdsrv.client.listening import AwaitedServer, Listening, Notice, TurnedAway
from kdsrv.client.protocol import ServerGone, ServerRefused
from kdsrv.connection_strings import PortRange
from kdsrv.errors import PeerError, SetupError

LAB = "192.0.2.1"


class Greeter(Protocol):
    """Says hello; ``heard`` is what the other end says first."""

    def __init__(self) -> None:
        self.heard: Deferred[Any] = Deferred()
        self.heard.addErrback(lambda failure: failure.value)
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:  # noqa: N802
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if not self.heard.called:
            self.heard.callback(data)

    def connectionLost(self, reason: object = None) -> None:
        if not self.heard.called:
            self.heard.errback(ServerGone(why="it closed the connection"))
        self.lost.callback(None)


@contextmanager
def busy_ports(busy: int, free: int) -> Iterator[PortRange]:
    """A range of ports whose first ones are in use."""
    for low in range(20000, 60000, 37):
        with ExitStack() as stack:
            try:
                for port in range(low, low + busy + free):
                    line = stack.enter_context(closing(socket.socket()))
                    line.bind(("127.0.0.1", port))
                    if port < low + busy:
                        line.listen()
                    else:
                        line.close()
            except OSError:
                continue
            yield PortRange(low, low + busy + free - 1)
            return


def a_port() -> PortRange:
    with closing(socket.socket()) as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    return PortRange(port, port)


def is_free(port: int, address: str = "127.0.0.1") -> bool:
    with closing(socket.socket()) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            line.bind((address, port))
            line.listen()
        except OSError:
            return False
    return True


class Desk(TestCase):
    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.notices: list[Notice] = []
        self.lines: list[socket.socket] = []
        self.addCleanup(lambda: [line.close() for line in self.lines])

    def awaited(self, ports: PortRange, server: str = "127.0.0.1", **options: Any) -> AwaitedServer:
        return AwaitedServer(self.reactor, server, ports, tell=self.notices.append, **options)

    def dial(self, port: int) -> socket.socket:
        line = socket.create_connection(("127.0.0.1", port), 5)
        self.lines.append(line)
        return line

    async def pause(self, seconds: float = 0.02) -> None:
        await deferLater(self.reactor, seconds)

    async def closed(self, line: socket.socket) -> bool:
        """Whether the client closes this connection without a word."""
        await self.pause(0.05)
        line.setblocking(False)
        try:
            return line.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    async def end(self, *protocols: Greeter) -> None:
        for protocol in protocols:
            protocol.transport.loseConnection()
            await protocol.lost

    async def greeted(self, line: socket.socket) -> bool:
        await self.pause(0.05)
        line.setblocking(False)
        try:
            return line.recv(5) == b"hello"
        except BlockingIOError:
            return False


class Waiting(Desk):
    """The endpoint."""

    async def test_it_is_an_endpoint_that_listens(self) -> None:
        ports = a_port()
        endpoint = self.awaited(ports)
        connecting = endpoint.connect(Factory.forProtocol(Greeter))
        assert self.notices == [Listening("127.0.0.1", ports.low)]
        line = self.dial(ports.low)
        protocol: Any = await connecting
        assert await self.greeted(line)
        line.sendall(b"here")
        assert await protocol.heard == b"here"
        assert not is_free(ports.low), "the port stays its own until close()"
        await endpoint.close()
        assert is_free(ports.low)
        await self.end(protocol)

    async def test_the_first_free_port_of_a_range(self) -> None:
        with busy_ports(2, 2) as ports:
            endpoint = self.awaited(ports)
            connecting = endpoint.connect(Factory.forProtocol(Greeter))
            assert self.notices == [Listening("127.0.0.1", ports.low + 2)]
            self.dial(ports.low + 2)
            await self.end(await connecting)  # type: ignore[arg-type]
            await endpoint.close()

    async def test_no_free_port(self) -> None:
        with busy_ports(2, 0) as ports:
            with pytest.raises(SetupError) as refused:
                await self.awaited(ports).connect(Factory.forProtocol(Greeter))
            assert str(refused.value) == (
                f"cannot listen on any of the ports {ports.low}:{ports.high} for the server: Address already in use"
            )
            one = PortRange(ports.low, ports.low)
            with pytest.raises(SetupError) as refused:
                await self.awaited(one).connect(Factory.forProtocol(Greeter))
            assert f"cannot listen on port {ports.low} for the server" in str(refused.value)

    async def test_a_stranger_is_turned_away_unheard(self) -> None:
        ports = a_port()
        endpoint = self.awaited(ports, LAB)
        connecting = endpoint.connect(Factory.forProtocol(Greeter))
        for _ in range(3):
            assert await self.closed(self.dial(ports.low))
        assert self.notices[1:] == [TurnedAway("127.0.0.1", f"the server is expected from {LAB}")]
        assert not connecting.called
        connecting.cancel()
        with pytest.raises(CancelledError):
            await connecting
        await endpoint.close()

    async def test_for_a_server_on_this_host_it_listens_on_loopback_alone(self) -> None:
        for server, elsewhere in ("127.0.0.1", True), (LAB, False):
            ports = a_port()
            endpoint = self.awaited(ports, server)
            connecting = endpoint.connect(Factory.forProtocol(Greeter))
            assert not is_free(ports.low)
            assert is_free(ports.low, "127.0.0.2") is elsewhere
            connecting.cancel()
            with pytest.raises(CancelledError):
                await connecting
            await endpoint.close()

    async def test_a_name_is_resolved_once(self) -> None:
        asked = []

        def resolve(name: str) -> Deferred[list[str]]:
            asked.append(name)
            return succeed([LAB, "127.0.1.1"])

        ports = a_port()
        endpoint = self.awaited(ports, "lab", resolve=resolve)
        for _ in range(2):
            connecting = endpoint.connect(Factory.forProtocol(Greeter))
            self.dial(ports.low)
            await self.end(await connecting)  # type: ignore[arg-type]
        assert asked == ["lab"]
        assert self.notices == [Listening("lab", ports.low)]
        await endpoint.close()

    async def test_a_name_by_the_systems_resolver(self) -> None:
        ports = a_port()
        endpoint = self.awaited(ports, "localhost")
        connecting = endpoint.connect(Factory.forProtocol(Greeter))
        while not self.notices:
            await self.pause()
        self.dial(ports.low)
        await self.end(await connecting)  # type: ignore[arg-type]
        await endpoint.close()

    async def test_a_name_that_does_not_exist(self) -> None:
        with pytest.raises(SetupError) as refused:
            await self.awaited(a_port(), "lba", resolve=lambda name: succeed([])).connect(Factory())
        assert str(refused.value) == "clicon=lba: there is no host of that name"

    async def test_of_several_at_once_one_is_used_and_none_greeted_in_vain(self) -> None:
        ports = a_port()
        endpoint = self.awaited(ports)
        connecting = endpoint.connect(Factory.forProtocol(Greeter))
        lines = [self.dial(ports.low) for _ in range(3)]
        protocol: Any = await connecting
        assert [await self.greeted(line) for line in lines] == [True, False, False]
        assert not await self.closed(lines[1]), "it waits in the queue of the port"
        second: Any = await endpoint.connect(Factory.forProtocol(Greeter))
        assert [await self.greeted(line) for line in lines[1:]] == [True, False]
        await endpoint.close()
        assert await self.closed(lines[2])
        await self.end(protocol, second)

    async def test_cancelled_it_leaves_nothing(self) -> None:
        for seconds in (0, 0.02):
            ports = a_port()
            endpoint = self.awaited(ports)
            attempt = Deferred.fromCoroutine(
                endpoint.first_of(lambda endpoint=endpoint: endpoint.connect(Factory.forProtocol(Greeter)))
            )
            await self.pause(seconds)
            attempt.cancel()
            with pytest.raises(CancelledError):
                await attempt
            assert is_free(ports.low)

    async def test_cancelled_between_two_turns_it_closes_the_connection(self) -> None:
        ports = a_port()
        endpoint = self.awaited(ports)
        connecting = endpoint.connect(Factory.forProtocol(Greeter))
        protocol: Any = endpoint.arrived(IPv4Address("TCP", "127.0.0.1", 9))
        assert endpoint.arrived(IPv4Address("TCP", "127.0.0.1", 9)) is None
        hung_up: list[bool] = []
        protocol.transport = type("Line", (), {"loseConnection": lambda _: hung_up.append(True)})()
        connecting.cancel()
        with pytest.raises(CancelledError):
            await connecting
        assert hung_up == [True]
        await endpoint.close()

    async def test_addresses_are_compared_not_their_spelling(self) -> None:
        endpoint = self.awaited(a_port(), "lab", resolve=lambda _: succeed(["127.0.0.1", LAB, "2001:db8::1"]))
        connecting = endpoint.connect(Factory.forProtocol(Greeter))
        for known in ("::1", "127.8.8.8", LAB, f"::ffff:{LAB}", "2001:db8:0::1", "2001:db8::1%eth0"):
            assert endpoint._is_expected(known), known
        for stranger in ("192.0.2.2", "::ffff:192.0.2.2", "2001:db8::2"):
            assert not endpoint._is_expected(stranger), stranger
        assert endpoint.arrived(IPv6Address("TCP", "::ffff:192.0.2.2", 9)) is None
        assert isinstance(self.notices[-1], TurnedAway)
        assert "lab (127.0.0.1, 192.0.2.1, 2001:db8::1)" in self.notices[-1].why
        connecting.cancel()
        with pytest.raises(CancelledError):
            await connecting
        await endpoint.close()


class FirstServer(Desk):
    """Which of the connections is the session's."""

    async def attempt(self, endpoint: AwaitedServer) -> bytes:
        protocol: Any = await endpoint.connect(Factory.forProtocol(Greeter))
        try:
            heard: bytes | Exception = await protocol.heard
            if isinstance(heard, Exception):
                raise heard
            if heard != b"server":
                raise PeerError(why="that is no server")
        finally:
            protocol.transport.loseConnection()
            self.addCleanup(lambda: protocol.lost)
        return heard

    async def test_what_is_no_server_is_passed_over(self) -> None:
        ports = a_port()
        endpoint = self.awaited(ports)
        waiting = Deferred.fromCoroutine(endpoint.first_of(lambda: self.attempt(endpoint)))
        self.dial(ports.low).sendall(b"HTTP/1.1 400 Bad Request")
        self.dial(ports.low).close()
        server = self.dial(ports.low)
        server.sendall(b"server")
        assert await waiting == b"server"
        await self.pause()
        assert is_free(ports.low)
        assert self.notices[1:] == [
            TurnedAway("127.0.0.1", "The other end does not keep to the kdsrv protocol: that is no server."),
            TurnedAway("127.0.0.1", "the connection to the server has ended: it closed the connection"),
        ]

    async def test_a_servers_refusal_ends_it(self) -> None:
        ports = a_port()
        endpoint = self.awaited(ports)

        async def attempt() -> None:
            protocol: Any = await endpoint.connect(Factory.forProtocol(Greeter))
            await self.end(protocol)
            raise ServerRefused(code="held", message="sim: is held by lee")

        waiting = Deferred.fromCoroutine(endpoint.first_of(attempt))
        self.dial(ports.low)
        with pytest.raises(ServerRefused):
            await waiting
        assert is_free(ports.low)

    async def test_a_port_that_cannot_be_had_ends_it(self) -> None:
        def attempt() -> Deferred[None]:
            return fail(SetupError(why="no port"))

        with pytest.raises(SetupError):
            await self.awaited(a_port()).first_of(attempt)
