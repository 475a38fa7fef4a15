"""From what options and connection strings say about certificates to the two ends of TLS.

``certuser=`` and ``machuser=`` mean the same here: there is no store of certificates by name. Each takes the path of a
PEM file or a sha256 fingerprint (connection strings, 2.3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdsrv.connection_strings.remoting import SpipeClientSpec, SpipeServerSpec, SslClientSpec, SslServerSpec
from kdsrv.errors import SetupError
from kdsrv.tls.certificates import (
    Identity,
    fingerprint_of,
    own_identity,
    read_certificates,
    read_fingerprint,
    read_identity,
    state_directory,
)
from kdsrv.tls.contexts import ClientTls, ServerTls, Trust

__all__ = ["ClientCertificates", "ServerCertificates"]


class ServerCertificates:
    """What a server's options say: the certificate it shows where a listener names none, and which clients it takes.

    ``certificate`` is a PEM file and ``key`` another, or None if the first has both; without them the server makes a
    certificate for ``host`` and keeps it in ``state``. ``visitors`` are PEM files with the authorities of clients, or
    fingerprints of clients' certificates; if there are any, nobody gets in without one. None of it is read before a
    listener asks for it.
    """

    def __init__(
        self,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
        visitors: Sequence[str] = (),
        state: Path | None = None,
        host: str | None = None,
    ) -> None:
        if key is not None and certificate is None:
            raise SetupError(why="a key belongs to a certificate; say which")
        self._certificate = certificate
        self._key = key
        self._visitors = tuple(visitors)
        self._state = state
        self._host = socket.gethostname() if host is None else host
        self._made: dict[tuple[Path | None, Path | None, str | None], ServerTls] = {}

    @property
    def fingerprints(self) -> list[str]:
        """Of the certificates in use, in the order in which they were first asked for."""
        return list(dict.fromkeys(tls.fingerprint for tls in self._made.values()))

    def server_tls(self) -> ServerTls:
        """The server's end with the certificate of the options."""
        return self._tls(self._certificate, self._key, None)

    def server_tls_of_spec(self, spec: SslServerSpec | SpipeServerSpec) -> ServerTls:
        """The same with the certificate that a server string names; a fingerprint has to be that of the options'."""
        text = _named(spec)
        if text is None:
            return self.server_tls()
        expected = read_fingerprint(text)
        if expected is not None:
            return self._tls(self._certificate, self._key, expected)
        return self._tls(_path(text), None, None)

    def server_tls_of_files(self, certificate: Path, key: Path | None = None) -> ServerTls:
        """The same with these PEM files."""
        return self._tls(certificate, key, None)

    def reload(self) -> None:
        """Read everything that is in use again. What cannot be used is told in the log, and changes nothing."""
        for tls in self._made.values():
            tls.reload()

    def _tls(self, certificate: Path | None, key: Path | None, expected: str | None) -> ServerTls:
        which = (certificate, key, expected)
        if which not in self._made:
            self._made[which] = ServerTls(lambda: (self._identity(*which), Trust.parse(self._visitors)))
        return self._made[which]

    def _identity(self, certificate: Path | None, key: Path | None, expected: str | None) -> Identity:
        if certificate is not None:
            identity = read_identity(certificate, key)
        else:
            identity = own_identity(self._state or state_directory(os.environ, os.geteuid()), self._host)
        if expected not in (None, identity.fingerprint):
            raise SetupError(
                why=f"the certificate named is not the server's, which has the fingerprint {identity.fingerprint}"
            )
        return identity


@dataclass(frozen=True, slots=True)
class ClientCertificates:
    """What a client's options say.

    ``authorities`` are PEM files: one of them has to stand behind a server's certificate, which has to name its host,
    unless the very certificate to expect is known. ``certificate`` and ``key`` are shown to servers that ask for one.
    """

    authorities: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None

    def client_tls(self, host: str | None, expected: Sequence[str] = ()) -> ClientTls:
        """A client's end towards ``host`` (None if there is no name that a certificate could have).

        ``expected`` are fingerprints or PEM files: the server's certificate has to be one of these. Without them and
        without authorities any certificate is taken, and who the server is has to be shown by a login that is bound to
        the connection. SetupError if a file cannot be used.
        """
        if self.key is not None and self.certificate is None:
            raise SetupError(why="a key belongs to a certificate; say which")
        identity = None if self.certificate is None else read_identity(self.certificate, self.key)
        if expected:
            return ClientTls(Trust(pins=frozenset(map(_pin, expected)), name=host), identity)
        signers = [signer for path in self.authorities for signer in read_certificates(Path(path))]
        if signers and host is None:
            raise SetupError(why="a certificate names a host, and here is none; give its fingerprint")
        return ClientTls(Trust(authorities=tuple(signers), name=host), identity)

    def client_tls_of_spec(self, spec: SslClientSpec | SpipeClientSpec) -> ClientTls:
        """The same for a client string, whose ``certuser=`` or ``machuser=`` is the certificate to expect."""
        text = _named(spec)
        host = spec.server or (spec.clicon if isinstance(spec, SslClientSpec) else None)
        return self.client_tls(None if host == "." else host, () if text is None else [text])


def _named(spec: SslServerSpec | SpipeServerSpec | SslClientSpec | SpipeClientSpec) -> str | None:
    return spec.certuser if spec.certuser is not None else spec.machuser


def _pin(text: str) -> str:
    return read_fingerprint(text) or fingerprint_of(read_certificates(_path(text))[0])


def _path(text: str) -> Path:
    path = Path(text)
    if "/" not in text and not path.exists():
        raise SetupError(
            why=f"'{text}' is neither a file nor a sha256 fingerprint; there is no store of certificates by name here"
        )
    return path
