"""Writing to a Twisted stream transport without waiting for the reactor's next turn.

``transport.write`` only queues: the bytes leave in a later turn, after two more system calls. For a protocol that
answers within microseconds that is half of the cost. So as long as nothing is queued the bytes go to the socket at
once, and the transport's queue is used for what the socket does not take, and for TLS, whose bytes are not ours.

The other settings that a connection between client and server needs of its socket are here too.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IPushProducer, ISSLTransport
from zope.interface import implementer

__all__ = ["DirectWriter", "set_up_tcp"]

_READ_AHEAD: Final = 2 * 1024 * 1024
"""Bytes on their way that a receiver has room for: the replies to a full window of requests."""


def set_up_tcp(transport: Any) -> None:
    """Have a TCP connection, plain or under TLS, send at once, notice a peer that is gone, and receive much at a time.

    Linux makes a receive buffer larger as more comes, but for a megabyte out of silence too late: half of the transfers
    take twice the time. To ask that a reader be woken for so many bytes only makes room for them at once; unlike a size
    that is set, it may be more than the system lets programs set, and it still grows.
    """
    if not hasattr(transport, "setTcpNoDelay"):
        return
    transport.setTcpNoDelay(True)
    transport.setTcpKeepAlive(True)
    handle = _socket_of(transport)
    if handle is not None and sys.platform == "linux":
        for lowest in (_READ_AHEAD, 1):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, lowest)


def _socket_of(transport: Any) -> socket.socket | None:
    """The socket that carries ``transport``, which may be one protocol on top of another."""
    while transport is not None:
        handle = transport.getHandle() if hasattr(transport, "getHandle") else None
        if isinstance(handle, socket.socket):
            return handle
        transport = getattr(transport, "transport", None)
    return None


@implementer(IPushProducer)
class DirectWriter:
    """Writes to ``transport`` (a connected TCP, UNIX or TLS transport), and is its one producer.

    ``queued`` says whether bytes wait for the network; ``drained`` is called when they have gone.
    """

    def __init__(self, transport: Any, drained: Callable[[], None]) -> None:
        self._transport = transport
        self._drained = drained
        self._socket: socket.socket | None = None
        self.queued = False
        if not ISSLTransport.providedBy(transport) and hasattr(transport, "getHandle"):
            handle = transport.getHandle()
            if isinstance(handle, socket.socket):
                self._socket = handle
        # a pull producer is called whenever the queue is empty, a push producer only after 64 KB of it; under TLS,
        # where everything is queued, a pull producer would be called without end
        transport.registerProducer(self, self._socket is None)

    def write(self, data: bytes) -> None:
        """Send ``data`` after everything written before."""
        if self._socket is not None:
            if not self.queued and self._transport.connected:
                try:
                    sent = self._socket.send(data)
                except OSError:
                    sent = 0
                if sent == len(data):
                    return
                data = data[sent:]
            self.queued = True
        self._transport.write(data)

    def pauseProducing(self) -> None:
        self.queued = True

    def resumeProducing(self) -> None:
        if self.queued:
            self.queued = False
            self._drained()

    def stopProducing(self) -> None:
        self.queued = True

    def detach(self) -> None:
        """Stop being the transport's producer, so that it can close."""
        self.queued = True
        self._drained = _nothing
        self._transport.unregisterProducer()


def _nothing() -> None:
    """What a writer that is no longer in use does when the queue is empty."""
