"""Writing to a Twisted stream transport without waiting for the reactor's next turn.

``transport.write`` only queues: the bytes leave in a later turn, after two more system calls. For a protocol that
answers within microseconds that is half of the cost. So as long as nothing is queued the bytes go to the socket at
once, and the transport's queue is used for what the socket does not take, and for TLS, whose bytes are not ours.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer, ISSLTransport
from zope.interface import implementer

__all__ = ["DirectWriter"]


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
