"""Certificates to order, and both ends of TLS connections over loopback with what happened at each written down."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from kdsrv.tls.certificates import Identity
from kdsrv.tls.contexts import ClientTls, ServerTls, Trust
from kdsrv.tls.endpoints import tls_client_endpoint, tls_server_endpoint

EARLY, LATE = datetime(2020, 1, 1), datetime(2120, 1, 1)


def issue(
    name: str,
    by: Identity | None = None,
    *,
    hosts: tuple[str, ...] = (),
    authority: bool = False,
    until: datetime = LATE,
) -> Identity:
    """A certificate of that name, signed by another one or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(
        subject if by is None else by.chain[0].subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        EARLY,
        until,
    ).add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False)
    signer = key if by is None else by.key
    certificate = builder.sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    return Identity(key, (certificate,))


def write(path: Path, identity: Identity, *, key: bool = True, certificate: bool = True, mode: int = 0o600) -> Path:
    """The parts of an identity as a PEM file."""
    pem = b""
    if key:
        pem += identity.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    if certificate:
        pem += b"".join(one.public_bytes(serialization.Encoding.PEM) for one in identity.chain)
    path.write_bytes(pem)
    path.chmod(mode)
    return path


@implementer(IHandshakeListener)
class End(Protocol):
    """One end: ``shaken`` fires after the handshake, ``lost`` with the reason, ``got`` waits for that many bytes."""

    def __init__(self) -> None:
        self.shaken: Deferred[None] = Deferred()
        self.lost: Deferred[Failure] = Deferred()
        self.data = bytearray()
        self._wanted: tuple[int, Deferred[bytes]] | None = None

    def handshakeCompleted(self) -> None:  # noqa: N802
        self.shaken.callback(None)

    @override
    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self._check()

    def got(self, number: int) -> Deferred[bytes]:
        waiting: Deferred[bytes] = Deferred()
        self._wanted = (number, waiting)
        self._check()
        return waiting

    def _check(self) -> None:
        if self._wanted is not None and len(self.data) >= self._wanted[0]:
            waiting, self._wanted = self._wanted[1], None
            waiting.callback(bytes(self.data))

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


class Ends(Factory):
    """Makes ends and remembers them; ``arrived`` fires with the next one."""

    noisy = False

    def __init__(self, make: Any = End) -> None:
        self.made: list[Any] = []
        self.arrived: Deferred[Any] = Deferred()
        self._make = make

    @override
    def buildProtocol(self, addr: Any) -> Any:
        end = self._make()
        self.made.append(end)
        arrived, self.arrived = self.arrived, Deferred()
        arrived.callback(end)
        return end


class Lab:
    """A listening TLS server and the clients that dialled it; ``close`` ends all of them."""

    def __init__(self) -> None:
        self.ports: list[Any] = []
        self.factories: list[Ends] = []

    def factory(self, make: Any = End) -> Ends:
        factory = Ends(make)
        self.factories.append(factory)
        return factory

    async def listen(self, tls: ServerTls | ClientTls | None, make: Any = End) -> tuple[int, Ends]:
        """Listen on a free port, without TLS if there is none given."""
        factory = self.factory(make)
        endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        if tls is not None:
            endpoint = tls_server_endpoint(reactor, endpoint, tls)
        port = await endpoint.listen(factory)
        self.ports.append(port)
        return port.getHost().port, factory

    async def dial(self, port: int, tls: ServerTls | ClientTls | None, make: Any = End) -> Any:
        endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        if tls is not None:
            endpoint = tls_client_endpoint(reactor, endpoint, tls)
        return await endpoint.connect(self.factory(make))

    async def pair(self, server: ServerTls | None, client: ClientTls | None) -> tuple[Any, Any]:
        """A client's end and the server's end of one connection; over TLS the handshake may be still to come."""
        port, factory = await self.listen(server)
        arrived = factory.arrived
        near = await self.dial(port, client)
        return near, await arrived

    async def close(self) -> None:
        for port in self.ports:
            await port.stopListening()
        for factory in self.factories:
            for end in factory.made:
                if end.transport is not None and not end.lost.called:
                    end.transport.abortConnection()
                    await end.lost


def server_tls(identity: Identity, visitors: Trust | None = None) -> ServerTls:
    return ServerTls(lambda: (identity, visitors or Trust()))
