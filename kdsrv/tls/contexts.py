"""What each end of a TLS connection shows and checks: TLS 1.3 and nothing below, ``kdsrv/1`` by ALPN, no resumption.

    a certificate is taken when           it is one of the fingerprints pinned (its dates and its issuer do not matter),
                                          or one of the authorities stands behind it and, at a client, it names the host
    without pins and without authorities  a server asks for none; a client takes any, which is safe only with a login
                                          that is bound to the connection

A client that offers other protocols by ALPN is refused in the handshake, one that offers none by ``channel_binding``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from service_identity.exceptions import CertificateError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kdsrv.errors import KdsrvError, SetupError
from kdsrv.tls.certificates import Identity, fingerprint_of, read_certificates, read_fingerprint

__all__ = ["ALPN", "CertificateRefused", "ClientTls", "ServerTls", "Trust"]

ALPN: Final = b"kdsrv/1"


class CertificateRefused(KdsrvError):
    """the server's certificate is not the one to expect: {why}"""

    code = "certificate"


@dataclass(frozen=True, slots=True)
class Trust:
    """Which certificates of the other end are taken. ``name`` is the host that one from an authority has to name."""

    pins: frozenset[str] = frozenset()
    authorities: tuple[x509.Certificate, ...] = field(default=(), repr=False)
    name: str | None = None

    @classmethod
    def parse(cls, texts: Sequence[str], name: str | None = None) -> Trust:
        """Each text is a sha256 fingerprint to pin or the path of a PEM file with authorities; SetupError if not."""
        pins, authorities = set[str](), list[x509.Certificate]()
        for text in texts:
            pin = read_fingerprint(text)
            if pin is not None:
                pins.add(pin)
            else:
                authorities += read_certificates(Path(text))
        return cls(frozenset(pins), tuple(authorities), name)

    def __bool__(self) -> bool:
        return bool(self.pins or self.authorities)

    def refusal(self, certificate: x509.Certificate, problem: str | None) -> str | None:
        """Why a certificate is not taken, None if it is; ``problem`` is what is wrong with its chain, if anything."""
        fingerprint = fingerprint_of(certificate)
        if fingerprint in self.pins:
            return None
        if not self.authorities:
            return f"its fingerprint is sha256:{fingerprint}"
        if problem is None and self.name is not None:
            problem = _misnamed(certificate, self.name)
        return problem


def _misnamed(certificate: x509.Certificate, name: str) -> str | None:
    try:
        if _is_address(name):
            verify_certificate_ip_address(certificate, name)
        else:
            verify_certificate_hostname(certificate, name)
    except (VerificationError, CertificateError, ValueError):
        return f"it does not name '{name}'"
    return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Check:
    """OpenSSL's questions about one connection's certificates, from the authority down to the certificate itself.

    Only the last is decided here, so that a pin counts whatever is wrong further up.
    """

    def __init__(self, trust: Trust, refuse: Callable[[Any, str], None]) -> None:
        self._trust = trust
        self._refuse = refuse
        self._problem: str | None = None

    def __call__(self, connection: SSL.Connection, shown: crypto.X509, error: int, depth: int, fine: int) -> bool:
        if not fine and self._problem is None:
            self._problem = _problem(error)
        if depth:
            return True
        why = self._trust.refusal(shown.to_cryptography(), self._problem)
        if why is not None:
            self._refuse(connection.get_app_data(), why)
        return why is None


def _problem(error: int) -> str:
    """X509_V_ERR codes that people meet, in words."""
    if error in (2, 7, 18, 19, 20, 21):
        return "none of the authorities given stands behind it"
    if error in (9, 10):
        return "it is not valid at this time, by this host's clock"
    return f"its chain is not valid (X509 error {error})"


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """The server's end. ``load`` reads the certificate, and what is asked of clients, from where they are kept.

    Raises SetupError if it does. ``reload`` is for afterwards: new connections get what was read, and if it cannot be
    read, what was there before.
    """

    _log = Logger()

    def __init__(self, load: Callable[[], tuple[Identity, Trust]]) -> None:
        self._load = load
        self._take(*load())

    def _take(self, identity: Identity, visitors: Trust) -> None:
        context = _context(identity, visitors.authorities)
        context.set_alpn_select_callback(_select)
        self._context, self._visitors = context, visitors
        self.fingerprint = identity.fingerprint

    def reload(self) -> bool:
        """Read the files again; False, and a sentence in the log, if they cannot be used."""
        before = self.fingerprint
        try:
            self._take(*self._load())
        except SetupError as error:
            self._log.error("the TLS certificate stays as it is: {error}", error=str(error))
            return False
        if self.fingerprint != before:
            self._log.info("new connections get the certificate sha256:{print}", print=self.fingerprint)
        return True

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:  # noqa: N802
        connection = SSL.Connection(self._context, None)
        if self._visitors:
            required = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
            connection.set_verify(required, _Check(self._visitors, self._refused))
        return connection

    def _refused(self, protocol: Any, why: str) -> None:
        peer = getattr(protocol.getPeer(), "host", "a local program")
        self._log.info("{peer}: its client certificate is refused: {why}", peer=peer, why=why)


@implementer(IOpenSSLClientConnectionCreator)
class ClientTls:
    """The client's end: what it expects of the server, and the certificate it shows if the server asks for one."""

    def __init__(self, trust: Trust, identity: Identity | None = None) -> None:
        self._trust = trust
        self._context = _context(identity, trust.authorities)
        self._context.set_alpn_protos([ALPN])

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:  # noqa: N802
        connection = SSL.Connection(self._context, None)
        name = self._trust.name
        if name is not None and name.isascii() and not _is_address(name):
            connection.set_tlsext_host_name(name.encode("ascii"))
        if self._trust:
            connection.set_verify(SSL.VERIFY_PEER, _Check(self._trust, _refuse_server))
        return connection


def _refuse_server(protocol: Any, why: str) -> None:
    protocol.failVerification(Failure(CertificateRefused(why=why)))


def _context(identity: Identity | None, authorities: Sequence[x509.Certificate]) -> SSL.Context:
    """A context for either end; SetupError if OpenSSL does not take the certificate."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"kdsrv")
    try:
        if identity is not None:
            context.use_certificate(identity.chain[0])
            context.use_privatekey(identity.key)
            for certificate in identity.chain[1:]:
                context.add_extra_chain_cert(certificate)
            context.check_privatekey()
        store = context.get_cert_store()
        for certificate in authorities:
            assert store is not None
            store.add_cert(crypto.X509.from_cryptography(certificate))
    except SSL.Error as error:
        raise SetupError(why=f"TLS cannot use this certificate: {_words(error)}") from None
    return context


def _words(error: SSL.Error) -> str:
    reasons = error.args[0] if error.args else None
    return str(reasons[-1][-1]) if isinstance(reasons, list) and reasons else "OpenSSL does not say why"


def _select(connection: SSL.Connection, offered: Sequence[bytes]) -> bytes:
    """The protocol to speak; an error here ends the handshake with the alert that is for it."""
    if ALPN not in offered:
        raise SSL.Error([("SSL routines", "", "the client speaks another protocol")])
    return ALPN
