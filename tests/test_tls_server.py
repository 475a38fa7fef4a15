"""A whole server and its client over TLS and over a pipe: sessions, silent peers, clients that read nothing."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tls_rig import issue, server_tls
from transport_rigs import pause, until
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from kdsrv.client.connecting import connect_by_endpoint
from kdsrv.client.protocol import ServerGone
from kdsrv.errors import KdsrvError
from kdsrv.kd.packets import Packet
from kdsrv.local_pipes import LocalPipe, local_pipe_client
from kdsrv.server.protocol import CLOSE_LIMIT, GREETING_LIMIT
from kdsrv.server.service import KdsrvService
from kdsrv.tls.contexts import CertificateRefused, ClientTls, Trust
from kdsrv.tls.endpoints import tls_client_endpoint, tls_server_endpoint
from kdsrv.wire.messages import Ping


class User:
    """Writes down what a session says."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.lost: list[KdsrvError] = []

    def packet_received(self, packet: Packet) -> None:
        self.packets.append(packet)

    def resynced(self) -> None: ...

    def requests_lost(self, count: int) -> None: ...

    def status_changed(self, status: Any) -> None: ...

    def session_lost(self, reason: KdsrvError) -> None:
        self.lost.append(reason)


class OverTls(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.identity = issue("lab")
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    async def serve(self, *, pipe: bool = False) -> KdsrvService:
        inner: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        if pipe:
            inner = LocalPipe(reactor, "lab", self.folder / "pipes")
        service = KdsrvService(reactor, [tls_server_endpoint(reactor, inner, server_tls(self.identity))])
        service.startService()
        self.addCleanup(service.stopService)
        return service

    async def attach(self, service: KdsrvService, trust: Trust, *, pipe: bool = False) -> Any:
        inner: Any
        if pipe:
            inner = local_pipe_client(reactor, ".", "lab", self.folder / "pipes", "lab")
        else:
            inner = TCP4ClientEndpoint(reactor, "127.0.0.1", service.ports[0].getHost().port)  # type: ignore[attr-defined]
        endpoint = tls_client_endpoint(reactor, inner, ClientTls(trust))
        return await connect_by_endpoint(reactor, endpoint, "the lab", "sim:state=halted")

    async def check_session(self, *, pipe: bool) -> None:
        service = await self.serve(pipe=pipe)
        pinned = Trust(pins=frozenset({self.identity.fingerprint}))
        session, attached = await self.attach(service, pinned, pipe=pipe)
        user = session.user = User()
        assert attached.target == "sim:"
        session.resync()
        await until(lambda: user.packets)
        session.leave()
        await session.disconnected
        await until(lambda: not list(service.directory))

    async def test_a_session(self) -> None:
        await self.check_session(pipe=False)

    async def test_a_session_through_a_pipe(self) -> None:
        await self.check_session(pipe=True)

    async def test_a_server_that_is_another_says_so(self) -> None:
        service = await self.serve()
        with pytest.raises(CertificateRefused) as refusal:
            await self.attach(service, Trust(pins=frozenset({"0" * 64})))
        assert f"its fingerprint is sha256:{self.identity.fingerprint}" in str(refusal.value)
        assert "\n" not in str(refusal.value)

    async def test_a_peer_that_never_says_hello_is_closed_in_time(self) -> None:
        clock = Clock()
        service = await self.serve()
        service.factory.clock = clock  # type: ignore[assignment]
        with socket.create_connection(("127.0.0.1", service.ports[0].getHost().port)) as silent:  # type: ignore[attr-defined]
            silent.setblocking(False)
            await until(clock.getDelayedCalls)
            clock.advance(GREETING_LIMIT)
            await pause(0.01)
            clock.advance(CLOSE_LIMIT)
            await pause(0.01)
            with contextlib.suppress(ConnectionResetError):
                assert silent.recv(1000) == b""
        assert not clock.getDelayedCalls()

    async def test_a_client_that_reads_nothing_loses_its_target(self) -> None:
        """What it asks for is bounded by the server, not only by the sockets' buffers."""
        service = await self.serve()
        session, _ = await self.attach(service, Trust())
        user = session.user = User()
        session.transport.pauseProducing()
        pings = session._connection.send(Ping(7)) * 4000
        asked = 0
        while list(service.directory) and asked < 1000:
            session.transport.write(pings)
            asked += 1
            await pause(0.01)
        assert 0 < asked < 1000
        session.transport.resumeProducing()
        await session.disconnected
        (lost,) = user.lost
        assert isinstance(lost, ServerGone)
