"""The part of a server's command line that is about certificates and pipes."""

from __future__ import annotations

from pathlib import Path

from kdsrv.errors import SetupError
from kdsrv.tls.settings import ServerCertificates

__all__ = ["TlsOptions"]


class TlsOptions:
    """A mixin for Twisted's ``usage.Options``; the docstrings of its methods are what ``--help`` says."""

    certificate: Path | None = None
    key: Path | None = None
    state_dir: Path | None = None
    pipe_dir: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self.client_cas: list[str] = []

    def opt_certificate(self, text: str) -> None:
        """A PEM file with the TLS certificate to show, and its chain; without it one is made and kept"""
        self.certificate = Path(text)

    def opt_key(self, text: str) -> None:
        """A PEM file with its key, if that is not in the same file"""
        self.key = Path(text)

    def opt_client_ca(self, text: str) -> None:
        """A PEM file with an authority for clients' certificates, or the sha256 fingerprint of a client's certificate;
        over TLS nobody else gets in then (repeatable)"""
        self.client_cas.append(text)

    def opt_state_dir(self, text: str) -> None:
        """Where the certificate that was made is kept (default: /var/lib/kdsrv for root, else ~/.local/state/kdsrv)"""
        self.state_dir = Path(text)

    def opt_pipe_dir(self, text: str) -> None:
        """Where the sockets of npipe: and spipe: are (default: $KDSRV_PIPE_DIR, /run/kdsrv/pipes for root, else
        $XDG_RUNTIME_DIR/kdsrv/pipes, which is also where clients look)"""
        self.pipe_dir = Path(text)

    def server_certificates(self) -> ServerCertificates:
        """What these options come to; SetupError if they contradict each other."""
        if self.key is not None and self.certificate is None:
            raise SetupError(why="--key is the key of a --certificate; say which")
        return ServerCertificates(
            certificate=self.certificate, key=self.key, visitors=self.client_cas, state=self.state_dir
        )
