"""Listening on one port of a range: servers do (``port=5000:5010``), and clients that wait for a server to dial."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from kdsrv.connection_strings import PortRange

__all__ = ["FirstFreePort"]


@implementer(IStreamServerEndpoint)
class FirstFreePort:
    """Listens on the first port of a range that is free, at ``interface`` ("": at all addresses)."""

    def __init__(self, reactor: Any, ports: PortRange, interface: str = "") -> None:
        self._reactor = reactor
        self._ports = ports
        self._interface = interface

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        error: CannotListenError | None = None
        for port in range(self._ports.low, self._ports.high + 1):
            try:
                listening: IListeningPort = self._reactor.listenTCP(port, protocolFactory, interface=self._interface)
            except CannotListenError as refused:
                error = refused
            else:
                found: Deferred[IListeningPort] = Deferred()
                found.callback(listening)
                return found
        return fail(error or ValueError("no port to listen on"))
