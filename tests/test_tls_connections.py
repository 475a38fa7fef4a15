"""Both ends of TLS over real sockets: versions, protocols, who is taken, bindings, stalled and silent peers."""

from __future__ import annotations

import socket
import ssl
from datetime import datetime
from typing import Any

import pytest
from OpenSSL import SSL
from tls_rig import End, Lab, issue, server_tls
from transport_rigs import until
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from typing_extensions import override

from kdsrv.direct_writer import DirectWriter
from kdsrv.errors import PeerError, SetupError
from kdsrv.tls.binding import channel_binding, tls_failure
from kdsrv.tls.contexts import CertificateRefused, ClientTls, ServerTls, Trust

ANY = Trust()


def pause(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


def first_of(end: End, number: int) -> Deferred[Any]:
    """None when ``end`` has got that many bytes, or the error with which it was lost before."""
    outcome: Deferred[Any] = Deferred()

    def lost(error: Any) -> Any:
        if not outcome.called:
            outcome.callback(error)
        return error

    end.got(number).addCallback(lambda _: outcome.callback(None))
    end.lost.addCallback(lost)
    return outcome


class TlsCase(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.lab.close()))
        self.identity = issue("lab", hosts=("lab.example",))

    def stdlib_client(self, port: int, **wishes: Any) -> dict[str, Any]:
        """What Python's own TLS makes of the server; blocking, for a thread."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if "newest" in wishes:
            context.maximum_version = wishes["newest"]
        if "alpn" in wishes:
            context.set_alpn_protocols(wishes["alpn"])
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as secure:
                secure.sendall(b"x")
                return {"version": secure.version(), "alpn": secure.selected_alpn_protocol()}
        except ssl.SSLError as error:
            return {"error": str(error)}


class Handshakes(TlsCase):
    async def test_bytes_go_both_ways(self) -> None:
        near, far = await self.lab.pair(server_tls(self.identity), ClientTls(ANY))
        near.transport.write(b"before the handshake is done")
        assert await far.got(28) == b"before the handshake is done"
        far.transport.write(b"x" * 100_000)
        assert await near.got(100_000) == b"x" * 100_000
        assert near.transport.negotiatedProtocol == far.transport.negotiatedProtocol == b"kdsrv/1"
        assert near.transport.getHandle().get_protocol_version_name() == "TLSv1.3"
        near.transport.loseConnection()
        assert isinstance(await far.lost, ConnectionDone)

    async def test_nothing_below_tls_1_3(self) -> None:
        port, factory = await self.lab.listen(server_tls(self.identity))
        found = await deferToThread(self.stdlib_client, port, newest=ssl.TLSVersion.TLSv1_2, alpn=["kdsrv/1"])
        assert "protocol version" in found["error"]
        words = tls_failure(Failure(await factory.made[0].lost))
        assert words is not None
        assert "does not speak TLS 1.3" in words
        assert await deferToThread(self.stdlib_client, port, alpn=["kdsrv/1"]) == {
            "version": "TLSv1.3",
            "alpn": "kdsrv/1",
        }

    async def test_another_protocol_is_refused(self) -> None:
        port, factory = await self.lab.listen(server_tls(self.identity))
        found = await deferToThread(self.stdlib_client, port, alpn=["h2", "http/1.1"])
        assert "no application protocol" in found["error"]
        words = tls_failure(Failure(await factory.made[0].lost))
        assert words == "it speaks TLS, but not kdsrv's protocol (the client speaks another protocol)"

    async def test_one_that_names_no_protocol_has_no_binding(self) -> None:
        port, factory = await self.lab.listen(server_tls(self.identity))
        asked = []

        class Asking(End):
            @override
            def handshakeCompleted(self) -> None:
                super().handshakeCompleted()
                try:
                    asked.append(channel_binding(self.transport))
                except PeerError as error:
                    asked.append(error)

        factory._make = Asking
        assert "version" in await deferToThread(self.stdlib_client, port)
        await until(lambda: asked)
        (error,) = asked
        assert "has not agreed on TLS 1.3 and kdsrv/1" in str(error)

    async def test_plain_text_is_no_tls(self) -> None:
        port, factory = await self.lab.listen(server_tls(self.identity))
        end = await self.lab.dial(port, None)
        end.transport.write(b"\x00\x00\x00\x20\x01{}" + bytes(40))
        await end.lost
        error = await factory.made[0].lost
        assert tls_failure(Failure(error)) is not None
        assert not factory.made[0].data

    async def test_a_client_of_a_plain_server_hears_so(self) -> None:
        port, factory = await self.lab.listen(None)
        arrived = factory.arrived
        near = await self.lab.dial(port, ClientTls(ANY))
        (await arrived).transport.write(b"SSH-2.0-OpenSSH_9.9 and so on\r\n")
        words = tls_failure(Failure(await near.lost))
        assert words is not None
        assert "does not speak TLS" in words

    async def test_no_session_is_resumed(self) -> None:
        class Welcoming(End):
            @override
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(b"welcome")

        def twice(port: int) -> list[bool]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            session, reused = None, []
            for _ in range(2):
                plain = socket.create_connection(("127.0.0.1", port), 5)
                with context.wrap_socket(plain, session=session) as secure:
                    secure.recv(7)
                    session = secure.session
                    reused.append(bool(secure.session_reused))
            return reused

        port, _ = await self.lab.listen(server_tls(self.identity), Welcoming)
        assert await deferToThread(twice, port) == [False, False]

    async def test_the_server_hears_which_name_was_dialled(self) -> None:
        for name, heard in {"lab.example": b"lab.example", "127.0.0.1": None, "::1": None, None: None}.items():
            near, far = await self.lab.pair(server_tls(self.identity), ClientTls(Trust(name=name)))
            await near.shaken
            await far.shaken
            assert far.transport.getHandle().get_servername() == heard

    async def test_the_other_role_may_dial(self) -> None:
        """Reverse: the TLS server dials, the TLS client listens."""
        trust = Trust(pins=frozenset({self.identity.fingerprint}))
        port, factory = await self.lab.listen(ClientTls(trust))
        arrived = factory.arrived
        server = await self.lab.dial(port, server_tls(self.identity))
        client = await arrived
        client.transport.write(b"hello")
        assert await server.got(5) == b"hello"
        assert channel_binding(client.transport) == channel_binding(server.transport)


class Bindings(TlsCase):
    async def test_both_ends_have_the_same_and_no_two_connections(self) -> None:
        tls, client = server_tls(self.identity), ClientTls(ANY)
        seen = set()
        for _ in range(3):
            near, far = await self.lab.pair(tls, client)
            await near.shaken
            await far.shaken
            binding = channel_binding(near.transport)
            assert binding is not None
            assert len(binding) == 32
            assert channel_binding(far.transport) == binding
            seen.add(binding)
        assert len(seen) == 3

    async def test_it_is_the_exporter_of_rfc_9266(self) -> None:
        near, _ = await self.lab.pair(server_tls(self.identity), ClientTls(ANY))
        await near.shaken
        exported = near.transport.getHandle().export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        assert channel_binding(near.transport) == exported

    async def test_a_plain_connection_has_none(self) -> None:
        near, far = await self.lab.pair(None, None)
        assert channel_binding(near.transport) is None
        assert channel_binding(far.transport) is None

    async def test_before_the_handshake_it_is_an_error_and_not_none(self) -> None:
        port, factory = await self.lab.listen(server_tls(self.identity))
        arrived = factory.arrived
        silent = await self.lab.dial(port, None)
        end = await arrived
        with pytest.raises(PeerError):
            channel_binding(end.transport)
        silent.transport.loseConnection()
        await end.lost
        with pytest.raises(PeerError):
            channel_binding(end.transport)

    async def test_half_a_handshake_binds_nothing(self) -> None:
        """The server could export already; it does not know yet whether the client is who it has to be."""
        port, factory = await self.lab.listen(server_tls(self.identity))
        arrived = factory.arrived
        raw = await self.lab.dial(port, None)
        end = await arrived
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_alpn_protos([b"kdsrv/1"])
        hello = SSL.Connection(context, None)
        hello.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            hello.do_handshake()
        raw.transport.write(hello.bio_read(1 << 16))
        await raw.got(500)
        assert end.transport.negotiatedProtocol == b"kdsrv/1"
        with pytest.raises(PeerError, match="the TLS handshake is not complete"):
            channel_binding(end.transport)


class ServerCertificates(TlsCase):
    async def taken(self, trust: Trust, identity: Any = None) -> str | None:
        """None if a client with that trust takes the server's certificate, else its sentence."""
        near, far = await self.lab.pair(server_tls(identity or self.identity), ClientTls(trust))
        far.transport.write(b"welcome")
        near.transport.write(b"secret")
        error = await first_of(near, 7)
        if error is None:
            return None
        assert isinstance(error, CertificateRefused)
        await far.lost
        assert not far.data
        return str(error)

    async def test_any_without_trust(self) -> None:
        assert await self.taken(ANY) is None

    async def test_the_pinned_one_alone(self) -> None:
        pin = self.identity.fingerprint
        assert await self.taken(Trust(pins=frozenset({pin}))) is None
        why = await self.taken(Trust(pins=frozenset({"0" * 64})))
        assert why == (f"the server's certificate is not the one to expect: its fingerprint is sha256:{pin}")

    async def test_a_pinned_one_may_be_stale(self) -> None:
        stale = issue("stale", until=datetime(2021, 1, 1))
        assert await self.taken(Trust(pins=frozenset({stale.fingerprint})), stale) is None

    async def test_an_authority_and_the_name(self) -> None:
        authority = issue("ca", authority=True)
        leaf = issue("lab", authority, hosts=("lab.example",))
        signed = (authority.chain[0],)
        assert await self.taken(Trust(authorities=signed, name="lab.example"), leaf) is None
        assert "does not name 'other.example'" in str(
            await self.taken(Trust(authorities=signed, name="other.example"), leaf)
        )
        assert "does not name '127.0.0.1'" in str(await self.taken(Trust(authorities=signed, name="127.0.0.1"), leaf))
        stranger = issue("lab", issue("ca", authority=True), hosts=("lab.example",))
        why = str(await self.taken(Trust(authorities=signed, name="lab.example"), stranger))
        assert "none of the authorities" in why
        stale = issue("lab", authority, hosts=("lab.example",), until=datetime(2021, 1, 1))
        assert "not valid at this time" in str(await self.taken(Trust(authorities=signed, name="lab.example"), stale))

    async def test_a_chain_is_sent_and_an_end_certificate_signs_nothing(self) -> None:
        root = issue("root", authority=True)
        middle = issue("middle", root, authority=True)
        leaf = issue("lab", middle, hosts=("lab.example",))
        whole = type(leaf)(leaf.key, (*leaf.chain, *middle.chain))
        trust = Trust(authorities=root.chain, name="lab.example")
        assert await self.taken(trust, whole) is None
        assert await self.taken(trust, leaf) is not None
        forged = issue("evil", leaf, hosts=("lab.example",))
        assert await self.taken(trust, type(leaf)(forged.key, (*forged.chain, *whole.chain))) is not None

    async def test_the_self_signed_one_is_its_own_authority(self) -> None:
        assert await self.taken(Trust(authorities=self.identity.chain, name="lab.example")) is None


class ClientCertificates(TlsCase):
    async def taken(self, visitors: Trust, shown: Any) -> str | None:
        near, far = await self.lab.pair(server_tls(self.identity, visitors), ClientTls(ANY, shown))
        near.transport.write(b"hello")
        far.transport.write(b"welcome")
        error = await first_of(near, 7)
        if error is None:
            return None
        await far.lost
        assert not far.data
        return tls_failure(Failure(error))

    async def test_pinned_clients(self) -> None:
        mine, other = issue("me"), issue("other")
        visitors = Trust(pins=frozenset({mine.fingerprint}))
        assert await self.taken(visitors, mine) is None
        assert "does not take the certificate" in str(await self.taken(visitors, other))
        assert "asks for a client certificate" in str(await self.taken(visitors, None))

    async def test_clients_of_an_authority(self) -> None:
        authority = issue("ca", authority=True)
        visitors = Trust(authorities=authority.chain)
        assert await self.taken(visitors, issue("me", authority)) is None
        assert await self.taken(visitors, issue("me", issue("ca", authority=True))) is not None
        assert await self.taken(visitors, issue("me")) is not None
        assert await self.taken(visitors, None) is not None

    async def test_either_will_do(self) -> None:
        authority, mine = issue("ca", authority=True), issue("me")
        visitors = Trust(pins=frozenset({mine.fingerprint}), authorities=authority.chain)
        assert await self.taken(visitors, mine) is None
        assert await self.taken(visitors, issue("you", authority)) is None
        assert await self.taken(visitors, issue("they")) is not None

    async def test_a_server_that_asks_for_none_gets_none(self) -> None:
        near, far = await self.lab.pair(server_tls(self.identity), ClientTls(ANY, issue("me")))
        await near.shaken
        await far.shaken
        assert far.transport.getPeerCertificate() is None


class Flow(TlsCase):
    async def test_a_client_that_stops_reading_bounds_the_server(self) -> None:
        near, far = await self.lab.pair(server_tls(self.identity), ClientTls(ANY))
        await near.shaken
        await far.shaken
        drained: list[None] = []
        writer = DirectWriter(far.transport, lambda: drained.append(None))
        near.transport.pauseProducing()
        sent = 0
        while not writer.queued and sent < 64 << 20:
            writer.write(bytes(4096))
            sent += 4096
            if sent % (64 << 10) == 0:
                await pause(0)
        assert writer.queued
        assert sent < 16 << 20, "what the system's socket buffers hold, and a little more"
        assert not drained
        near.transport.resumeProducing()
        await near.got(sent)
        await pause(0.01)
        assert not writer.queued
        assert drained
        writer.detach()

    async def test_abort_needs_no_peer(self) -> None:
        near, far = await self.lab.pair(server_tls(self.identity), ClientTls(ANY))
        await near.shaken
        await far.shaken
        near.transport.pauseProducing()
        writer = DirectWriter(far.transport, lambda: None)
        for _ in range(4096):
            writer.write(bytes(4096))
        far.transport.abortConnection()
        assert await far.lost is not None

    async def test_what_was_written_before_closing_arrives(self) -> None:
        near, far = await self.lab.pair(server_tls(self.identity), ClientTls(ANY))
        await near.shaken
        await far.shaken
        writer = DirectWriter(far.transport, lambda: None)
        writer.write(b"x" * 300_000)
        writer.write(b"bye")
        writer.detach()
        far.transport.loseConnection()
        assert (await near.got(300_003)).endswith(b"bye")
        assert isinstance(await near.lost, ConnectionDone)
        assert isinstance(await far.lost, ConnectionDone)

    async def test_a_peer_that_never_says_hello_is_there_to_be_closed(self) -> None:
        """connectionMade comes before the handshake, so that the time limit of the greeting covers it."""
        port, factory = await self.lab.listen(server_tls(self.identity))
        arrived = factory.arrived
        silent = await self.lab.dial(port, None)
        end = await arrived
        assert end.transport is not None
        assert not end.shaken.called
        writer = DirectWriter(end.transport, lambda: None)
        writer.write(b"you are late")
        writer.detach()
        end.transport.loseConnection()
        end.transport.abortConnection()
        await silent.lost
        assert b"late" not in silent.data

    async def test_a_server_that_never_says_hello(self) -> None:
        port, _ = await self.lab.listen(None)
        near = await self.lab.dial(port, ClientTls(ANY))
        near.transport.write(b"hello")
        near.transport.abortConnection()
        assert await near.lost is not None
        assert not near.shaken.called


class Renewal(TlsCase):
    async def test_new_connections_get_the_new_certificate_and_old_ones_go_on(self) -> None:
        offered: list[Any] = [self.identity]

        def load() -> Any:
            if isinstance(offered[0], Exception):
                raise offered[0]
            return offered[0], Trust()

        tls = ServerTls(load)
        first = Trust(pins=frozenset({self.identity.fingerprint}))
        near, far = await self.lab.pair(tls, ClientTls(first))
        await near.shaken
        await far.shaken
        new = issue("new")
        offered[0] = new
        assert tls.reload()
        assert tls.fingerprint == new.fingerprint
        newer, _ = await self.lab.pair(tls, ClientTls(Trust(pins=frozenset({new.fingerprint}))))
        await newer.shaken
        far.transport.write(b"still here")
        assert await near.got(10) == b"still here"
        offered[0] = SetupError(why="x.pem holds no certificate in PEM form")
        assert not tls.reload()
        newest, _ = await self.lab.pair(tls, ClientTls(Trust(pins=frozenset({new.fingerprint}))))
        await newest.shaken


class Words(TestCase):
    def test_what_is_not_tls_has_no_words(self) -> None:
        assert tls_failure(Failure(ConnectionDone())) is None

    def test_an_unknown_reason_is_still_a_sentence(self) -> None:
        for error in (SSL.Error([("SSL routines", "", "something new")]), SSL.Error(), SSL.ZeroReturnError()):
            words = tls_failure(Failure(error))
            assert words is not None
            assert words.startswith("the TLS handshake failed")
