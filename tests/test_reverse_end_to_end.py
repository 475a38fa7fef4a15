"""Reverse connections as they are used: a server that dials, clients that wait, in this process and as programs."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import closing
from typing import Any

from background_program import BackgroundProgram
from running_programs import ROOT, TWIST, Client, Debugger
from running_programs import until as until_now
from tls_rig import issue, server_tls
from transport_rigs import pause, until
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from typing_extensions import override

from kdsrv.auth.door import Door
from kdsrv.auth.users import OnePassword
from kdsrv.client.connecting import connect
from kdsrv.client.listening import Listening, Notice, TurnedAway
from kdsrv.client.protocol import ClientProtocol, ServerRefused
from kdsrv.connection_strings import parse_kdsrv_string
from kdsrv.server.dialling import Destination
from kdsrv.server.factory import KdsrvServerFactory
from kdsrv.server.initiator import Initiator
from kdsrv.server.service import KdsrvService
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.tls.endpoints import tls_client_endpoint
from kdsrv.wire.messages import Attached

Session = tuple[ClientProtocol, Attached]


def free_port() -> int:
    with closing(socket.socket()) as line:
        line.bind(("127.0.0.1", 0))
        port: int = line.getsockname()[1]
    return port


class User:
    """Writes down that a session is lost."""

    def __init__(self) -> None:
        self.lost: list[Exception] = []

    def packet_received(self, packet: Any) -> None: ...

    def resynced(self) -> None: ...

    def requests_lost(self, count: int) -> None: ...

    def status_changed(self, status: Any) -> None: ...

    def session_lost(self, reason: Exception) -> None:
        self.lost.append(reason)


class InProcess(TestCase):
    """Real sockets, one reactor. Trial fails a test that leaves anything in it."""

    timeout = 30

    def setUp(self) -> None:
        self.port = free_port()
        self.notices: list[Notice] = []

    def serve(self, endpoint: Any = None) -> KdsrvService:
        if endpoint is None:
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        service = KdsrvService(reactor, initiators=[Destination(endpoint, "the desk")])
        service.startService()
        self.addCleanup(lambda: service.stopService() if service.running else None)
        return service

    def wait(self, trans: str = "sim:", clicon: str = "127.0.0.1", password: str = "") -> Deferred[Session]:
        more = f",password={password}" if password else ""
        text = f"kdsrv:server=@{{tcp:clicon={clicon},port={self.port}{more}}},trans=@{{{trans}}}"

        async def attach() -> Session:
            protocol, attached = await connect(reactor, parse_kdsrv_string(text), "kim", tell=self.notices.append)
            protocol.user = User()
            return protocol, attached

        return Deferred.fromCoroutine(attach())

    async def leave(self, protocol: ClientProtocol) -> None:
        protocol.leave()
        await protocol.disconnected

    async def test_client_first(self) -> None:
        waiting = self.wait()
        await pause()
        service = self.serve()
        protocol, attached = await waiting
        assert attached.target == "sim:"
        assert self.notices == [Listening("127.0.0.1", self.port)]
        assert [session.name for session in service.directory] == ["sim:"]
        await self.leave(protocol)

    async def test_server_first(self) -> None:
        self.serve()
        await pause(0.05)
        began = reactor.seconds()
        protocol, _ = await self.wait()
        assert reactor.seconds() - began < 1.2
        await self.leave(protocol)

    async def test_the_client_comes_back_and_so_does_the_server(self) -> None:
        service = self.serve()
        protocol, _ = await self.wait()
        await self.leave(protocol)
        protocol, _ = await self.wait()
        user = protocol.user
        assert isinstance(user, User)
        await service.stopService()
        await protocol.disconnected
        assert [str(error) for error in user.lost] == ["the server says: the server is shutting down"]
        waiting = self.wait()
        self.serve()
        protocol, _ = await waiting
        await self.leave(protocol)

    async def test_a_server_elsewhere_is_turned_away(self) -> None:
        waiting = self.wait(clicon="192.0.2.1")
        self.serve()
        await until(lambda: len(self.notices) == 2)
        assert self.notices[1] == TurnedAway("127.0.0.1", "the server is expected from 192.0.2.1")
        assert not waiting.called
        waiting.cancel()
        with self.assertRaises(CancelledError):  # noqa: PT027
            await waiting

    async def test_over_tls_the_server_that_dials_has_the_certificate(self) -> None:
        identity = issue("lab")
        dialling = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        self.serve(tls_client_endpoint(reactor, dialling, server_tls(identity)))

        def wait(fingerprint: str) -> Deferred[Session]:
            server = f"ssl:clicon=127.0.0.1,port={self.port},certuser={fingerprint}"
            return connect(
                reactor, parse_kdsrv_string(f"kdsrv:server=@{{{server}}},trans=@{{sim:}}"), tell=self.notices.append
            )

        refusing = wait(issue("other").fingerprint)
        await until(lambda: len(self.notices) == 2)
        assert "certificate" in str(self.notices[1])
        refusing.cancel()
        with self.assertRaises(CancelledError):  # noqa: PT027
            await refusing
        protocol, _ = await wait(identity.fingerprint)
        await self.leave(protocol)

    async def test_the_dialled_client_has_to_log_in(self) -> None:
        service = KdsrvService(reactor)
        service.startService()
        self.addCleanup(service.stopService)
        door = Door(OnePassword("correct", os.urandom))
        factory = KdsrvServerFactory(reactor, service.directory, door)
        initiator = Initiator(reactor, TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), "the desk", factory)
        waiting = self.wait(password="wrong")
        initiator.startService()
        self.addCleanup(factory.stopFactory)
        self.addCleanup(initiator.stopService)
        with self.assertRaises(ServerRefused) as refusal:  # noqa: PT027
            await waiting
        assert refusal.exception.code == "login"
        protocol, _ = await self.wait(password="correct")
        await self.leave(protocol)

    async def test_five_clients_at_once(self) -> None:
        """Over one port that stays open, as with a relay on the way or a program with many sessions."""
        desk = Desk(5)
        port = reactor.listenTCP(self.port, desk, interface="127.0.0.1")
        service = self.serve()
        await until(lambda: len(list(service.directory)) == 5, 0.9)
        assert sorted(session.name for session in service.directory) == [f"sim:name=m{number}" for number in range(5)]
        for protocol in desk.arrived:
            await self.leave(protocol)
        await service.stopService()
        await port.stopListening()

    async def test_twenty_clients_one_after_the_other(self) -> None:
        desk = Desk(20, leave=True)
        port = reactor.listenTCP(self.port, desk, interface="127.0.0.1")
        service = self.serve()
        await until(lambda: len(desk.arrived) == 20, 0.9)
        for protocol in desk.arrived:
            await protocol.disconnected
        await service.stopService()
        await port.stopListening()

    async def test_it_stops_while_idle_and_leaves_nothing(self) -> None:
        held: list[Silent] = []
        port = reactor.listenTCP(self.port, Factory.forProtocol(lambda: Silent(held)), interface="127.0.0.1")
        service = self.serve()
        await until(lambda: held)
        await pause(0.05)
        await service.stopService()
        await held[0].lost
        await port.stopListening()


class Silent(Protocol):
    """Takes a connection and says nothing."""

    def __init__(self, held: list[Silent]) -> None:
        self.lost: Deferred[None] = Deferred()
        held.append(self)

    @override
    def connectionLost(self, reason: object = None) -> None:
        self.lost.callback(None)


class Desk(Factory):
    """Greets as many servers as it is told to, and asks each for another target; with ``leave`` it leaves them again at
    once."""

    noisy = False

    def __init__(self, number: int, *, leave: bool = False) -> None:
        self.arrived: list[ClientProtocol] = []
        self._number = number
        self._leave = leave

    @override
    def buildProtocol(self, addr: object) -> Any:
        if len(self.arrived) == self._number:
            return None
        protocol = ClientProtocol(reactor, f"sim:name=m{len(self.arrived)}", "kim")
        protocol.user = User()
        if self._leave:
            protocol.attached.addCallback(lambda _: protocol.leave())
        self.arrived.append(protocol)
        return protocol


class Dialler(BackgroundProgram):
    """``twist kdsrv --connect`` to a port of this host."""

    def __init__(self, port: int, *options: str) -> None:
        super().__init__([*TWIST, "--connect", f"tcp:127.0.0.1:{port}", "--no-password", *options], cwd=ROOT)


def waiting_client(ports: str, *options: str) -> Client:
    string = f"kdsrv:server=@{{tcp:clicon=127.0.0.1,port={ports}}},trans=@{{sim:}}"
    return Client(string, "--tcp", "0", *options)


def debugs(client: Client) -> bool:
    """Whether a debugger on the client's bridge reads the target."""
    with Debugger(client.bridge) as debugger:
        debugger.halt()
        return debugger.read(KERNEL_BASE, 2) == b"MZ"


def test_programs_either_first_and_either_gone_and_back() -> None:
    with closing(socket.socket()) as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        low = busy.getsockname()[1]
        with waiting_client(f"{low}:{low + 20}") as client:
            port = client.wait_event("listening")["port"]
            assert low < port <= low + 20
            with Dialler(port) as server:
                client.wait_event("attached")
                assert debugs(client)
                client.process.kill()
                with waiting_client(str(port)) as second:
                    second.wait_event("attached")
                    assert debugs(second)
                    server.stop()
                    second.wait_event("lost")
                    second.wait_event("listening", 2, port=port)
                    with Dialler(port) as again:
                        second.wait_event("attached", 2)
                        assert debugs(second)
                        second.stop()
                        assert second.process.returncode == 0
                        again.wait_for("for the next client")
    lines = [line for line in server.text.splitlines() if f"127.0.0.1:{port}" in line]
    assert len(lines) < 15, "\n".join(lines)
    assert "Traceback" not in server.text + again.text + client.text + second.text


def test_programs_that_wait_in_vain_end_when_told() -> None:
    port = free_port()
    with waiting_client(str(port)) as client, Dialler(free_port()) as server:
        client.wait_event("listening")
        server.wait_for("no client waits there")
        client.process.send_signal(signal.SIGINT)
        until_now(lambda: client.process.poll() is not None)
        assert client.process.returncode == 0
        server.process.send_signal(signal.SIGINT)
        until_now(lambda: server.process.poll() is not None)
    assert "Traceback" not in client.text + server.text
    assert '"error"' not in client.text
