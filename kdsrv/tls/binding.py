"""What a login needs to know of the connection it runs over, and words for connections that TLS ended."""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure

from kdsrv.errors import PeerError
from kdsrv.tls.contexts import ALPN

__all__ = ["channel_binding", "tls_failure"]

_LABEL: Final = b"EXPORTER-Channel-Binding"
_LENGTH: Final = 32

_WORDS: Final = (
    ("certificate required", "the other end asks for a client certificate"),
    ("alert unknown ca", "the other end does not take the certificate shown to it"),
    ("alert bad certificate", "the other end does not take the certificate shown to it"),
    ("alert certificate", "the other end does not take the certificate shown to it"),
    ("certificate verify failed", "its certificate is not taken here"),
    ("did not return a certificate", "it has no client certificate"),
    ("no application protocol", "what answers there speaks TLS, but is no kdsrv"),
    ("another protocol", "it speaks TLS, but not kdsrv's protocol"),
    ("wrong version number", "what answers there does not speak TLS"),
    ("protocol version", "it does not speak TLS 1.3"),
    ("unsupported protocol", "it does not speak TLS 1.3"),
    ("packet length too long", "what it says is not TLS"),
    ("http request", "it speaks HTTP"),
)


def channel_binding(transport: object) -> bytes | None:
    """The ``tls-exporter`` of a connection (RFC 9266), 32 bytes that both its ends have and no other connection has.

    None if ``transport`` is not TLS. Raises PeerError if it is TLS and not, or not yet, one of kdsrv's: ask once bytes
    have come, or from ``IHandshakeListener.handshakeCompleted``.
    """
    if not ISSLTransport.providedBy(transport):
        return None
    handle: Any = transport
    connection: SSL.Connection | None = handle.getHandle()
    if connection is None or connection.get_peer_finished() is None:
        raise PeerError(why="the TLS handshake is not complete")
    if connection.get_alpn_proto_negotiated() != ALPN or connection.get_protocol_version() != SSL.TLS1_3_VERSION:
        raise PeerError(why="it has not agreed on TLS 1.3 and kdsrv/1 in the TLS handshake")
    return bytes(connection.export_keying_material(_LABEL, _LENGTH, b""))


def tls_failure(reason: Failure) -> str | None:
    """In words, why TLS ended a connection; None if ``reason`` is something else."""
    error = reason.value
    if not isinstance(error, SSL.Error):
        return None
    reasons = error.args[0] if error.args else None
    text = str(reasons[-1][-1]) if isinstance(reasons, list) and reasons else ""
    for part, words in _WORDS:
        if part in text:
            return f"{words} ({text})"
    return f"the TLS handshake failed ({text or 'without a reason'})"
