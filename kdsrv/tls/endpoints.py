"""Endpoints with TLS inside. Who dials says nothing about who is TLS server: `ServerTls` or `ClientTls` says that."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from kdsrv.tls.contexts import ClientTls, ServerTls

__all__ = ["tls_client_endpoint", "tls_server_endpoint"]


def tls_server_endpoint(
    reactor: Any, inner: IStreamServerEndpoint, tls: ServerTls | ClientTls
) -> IStreamServerEndpoint:
    """Listens as ``inner`` does, and speaks TLS on what comes in."""
    return _Listening(reactor, inner, tls)


def tls_client_endpoint(
    reactor: Any, inner: IStreamClientEndpoint, tls: ServerTls | ClientTls
) -> IStreamClientEndpoint:
    """Dials as ``inner`` does, and speaks TLS on what answers.

    Its Deferred fires before the handshake. A failure of that comes as the protocol's ``connectionLost``, with a
    CertificateRefused if the server's certificate is not the one to expect; `tls_failure` has words for the others.
    """
    return _Dialling(reactor, inner, tls)


def _wrapped(reactor: Any, factory: IProtocolFactory, tls: ServerTls | ClientTls) -> TLSMemoryBIOFactory:
    return TLSMemoryBIOFactory(tls, isinstance(tls, ClientTls), factory, clock=reactor)


@implementer(IStreamServerEndpoint)
class _Listening:
    def __init__(self, reactor: Any, inner: IStreamServerEndpoint, tls: ServerTls | ClientTls) -> None:
        self._reactor = reactor
        self._inner = inner
        self._tls = tls

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return self._inner.listen(_wrapped(self._reactor, protocolFactory, self._tls))


@implementer(IStreamClientEndpoint)
class _Dialling:
    def __init__(self, reactor: Any, inner: IStreamClientEndpoint, tls: ServerTls | ClientTls) -> None:
        self._reactor = reactor
        self._inner = inner
        self._tls = tls

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[Any] = self._inner.connect(_wrapped(self._reactor, protocolFactory, self._tls))
        return connecting.addCallback(lambda protocol: protocol.wrappedProtocol)
