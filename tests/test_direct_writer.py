from __future__ import annotations

import os
import socket
import sys
from typing import Any

from transport_rigs import until
from twisted.internet import reactor
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override
from zope.interface import implementer

from kdsrv.direct_writer import DirectWriter, set_up_tcp


class Server(Protocol):
    """Holds a writer on its connection."""

    @override
    def connectionMade(self) -> None:
        self.drained = 0
        self.lost = False
        self.writer = DirectWriter(self.transport, self.count)
        self.factory.made = self  # type: ignore[union-attr]

    def count(self) -> None:
        self.drained += 1

    @override
    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


class _OnTop:
    """A transport on top of another, as TLS is: it passes settings on, and its handle is no socket."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.setTcpNoDelay = transport.setTcpNoDelay
        self.setTcpKeepAlive = transport.setTcpKeepAlive
        self.getHandle = object


class DirectWriterTests(TestCase):
    """On a TCP connection whose other end is a socket of the test."""

    async def connected(self) -> tuple[Server, socket.socket]:
        factory = Factory.forProtocol(Server)
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        peer = socket.socket()
        self.addCleanup(peer.close)
        peer.connect(("127.0.0.1", port.getHost().port))
        await until(lambda: hasattr(factory, "made"))
        server: Server = factory.made
        server.transport.setTcpNoDelay(True)
        peer.setblocking(False)
        return server, peer

    async def end(self, server: Server, peer: socket.socket) -> None:
        peer.close()
        if not server.lost:
            server.transport.abortConnection()
        await until(lambda: server.lost)

    async def test_a_connection_is_set_up_for_one_word_and_for_much_at_a_time(self) -> None:
        server, peer = await self.connected()
        end: Any = server.transport.getHandle()
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        before = end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        set_up_tcp(_OnTop(server.transport))
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > before
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        await self.end(server, peer)

    async def test_bytes_leave_in_the_same_turn(self) -> None:
        server, peer = await self.connected()
        server.writer.write(b"hello")
        assert peer.recv(100) == b"hello"
        assert not server.writer.queued
        await self.end(server, peer)

    async def test_what_the_socket_does_not_take_is_queued_and_nothing_is_lost_or_reordered(self) -> None:
        server, peer = await self.connected()
        pieces = [os.urandom(50_000) for _ in range(200)]
        for piece in pieces[:-1]:
            server.writer.write(piece)
        assert server.writer.queued
        drained = server.drained
        # there is room in the socket again, but those that wait go first
        got = bytearray(peer.recv(1 << 20))
        server.writer.write(pieces[-1])
        wanted = b"".join(pieces)

        def read() -> bool:
            try:
                while data := peer.recv(1 << 20):
                    got.extend(data)
            except BlockingIOError:
                pass
            return len(got) >= len(wanted)

        await until(read)
        assert got == wanted
        await until(lambda: not server.writer.queued)
        assert server.drained == drained + 1
        server.writer.write(b"more")
        assert peer.recv(100) == b"more"
        await self.end(server, peer)

    async def test_a_detached_writer_lets_the_connection_close_after_the_rest(self) -> None:
        server, peer = await self.connected()
        server.writer.write(b"x" * 10_000_000)
        assert server.writer.queued
        server.writer.write(b"last")
        server.writer.detach()
        server.transport.loseConnection()
        got = bytearray()

        def read() -> bool:
            try:
                while data := peer.recv(1 << 20):
                    got.extend(data)
            except BlockingIOError:
                return False
            return True

        await until(read)
        assert got == b"x" * 10_000_000 + b"last"
        assert server.drained == 0
        await self.end(server, peer)

    async def test_writing_to_a_peer_that_left_raises_nothing(self) -> None:
        server, peer = await self.connected()
        peer.close()
        await until(lambda: server.writer.write(b"x") or server.lost)
        server.writer.write(b"x")
        assert server.lost


@implementer(ISSLTransport)
class Encrypted:
    """A TLS transport, as far as a writer looks at it: its socket's bytes are not ours to write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.streaming: bool | None = None

    def getHandle(self) -> object:  # noqa: N802  # Twisted's name
        raise AssertionError("the socket below TLS is none of our business")

    def registerProducer(self, producer: object, streaming: bool) -> None:  # noqa: N802  # Twisted's name
        self.streaming = streaming

    def unregisterProducer(self) -> None:  # noqa: N802  # Twisted's name
        self.streaming = None

    def write(self, data: bytes) -> None:
        self.written.append(data)


class EncryptedTests(SynchronousTestCase):
    def test_everything_goes_through_tls(self) -> None:
        transport = Encrypted()
        drained: list[int] = []
        writer = DirectWriter(transport, lambda: drained.append(1))
        assert transport.streaming is True
        writer.write(b"one")
        writer.pauseProducing()
        assert writer.queued
        writer.write(b"two")
        assert transport.written == [b"one", b"two"]
        writer.resumeProducing()
        writer.resumeProducing()
        assert drained == [1]
        assert not writer.queued
        writer.stopProducing()
        assert writer.queued
        writer.detach()
        assert transport.streaming is None
        writer.resumeProducing()
        assert drained == [1]
