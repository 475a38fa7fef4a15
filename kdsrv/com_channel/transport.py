"""One stream of a cable as Twisted sees a connection: its transport, and its addresses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IProducer,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kdsrv.com_channel.channels import Channels
from kdsrv.com_channel.stream import Stream

__all__ = ["ComAddress", "ComStream", "StreamOwner"]


@implementer(IAddress)
@dataclass(frozen=True, slots=True)
class ComAddress:
    """A channel of a serial port. Both ends have it, each by its own port's name. ``host`` is what it comes through."""

    host: str
    channel: int

    def __str__(self) -> str:
        return f"channel {self.channel} of {self.host}"


class StreamOwner(Protocol):
    """What a stream needs of its cable."""

    @property
    def channels(self) -> Channels: ...

    def flush(self) -> None:
        """Send what is to be sent; nobody is called back from inside this."""
        ...

    def call_soon(self, function: Any, *arguments: object) -> IDelayedCall: ...

    def forget(self, stream: Stream) -> None:
        """It has ended."""
        ...


@implementer(ITransport, IPushProducer, IConsumer)
class ComStream:
    """The transport of a stream that is open."""

    _log: ClassVar[Logger] = Logger()

    def __init__(self, owner: StreamOwner, stream: Stream, address: ComAddress) -> None:
        self.connected = True
        self.disconnecting = False
        self._owner = owner
        self._stream = stream
        self._address = address
        self._protocol: IProtocol | None = None
        self._producer: Any = None
        self._is_streaming = True
        self._is_waiting = False
        self._is_paused = False
        self._is_closing = False
        self._soon: IDelayedCall | None = None

    def start(self, protocol: IProtocol) -> None:
        """Connect the protocol."""
        self._protocol = protocol
        if self._guarded(protocol.makeConnection, self):
            self.readable()

    # ITransport

    def write(self, data: bytes) -> None:
        if not self.connected or self._is_closing:
            return
        if self._owner.channels.write(self._stream, data) and not self._is_waiting:
            self._is_waiting = True
            if self._producer is not None and self._is_streaming:
                self._producer.pauseProducing()
        self._owner.flush()

    def writeSequence(self, data: Iterable[bytes]) -> None:  # noqa: N802  # the name is ITransport's
        self.write(b"".join(data))

    def loseConnection(self) -> None:  # noqa: N802  # the name is ITransport's
        """End it after what was written, and after what a producer that waits still has."""
        self.disconnecting = True
        if self._producer is None or (self._is_streaming and not self._is_waiting):
            self._close()

    def abortConnection(self) -> None:  # noqa: N802  # the name is ITCPTransport's
        """End it now."""
        if self.connected:
            self.disconnecting = self._is_closing = True
            self._owner.channels.abort(self._stream)
            self._owner.call_soon(self.lost, Failure(ConnectionAborted()))
            self._owner.flush()

    def getPeer(self) -> ComAddress:  # noqa: N802  # the name is ITransport's
        return self._address

    def getHost(self) -> ComAddress:  # noqa: N802  # the name is ITransport's
        return self._address

    # IConsumer: who writes

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:  # noqa: N802  # the name is IConsumer's
        if self._producer is not None:
            raise RuntimeError(f"there is a producer already: {self._producer}")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer = producer
        self._is_streaming = streaming
        if not streaming:
            self._owner.call_soon(self._pull)
        elif self._is_waiting:
            self._producer.pauseProducing()

    def unregisterProducer(self) -> None:  # noqa: N802  # the name is IConsumer's
        self._producer = None
        if self.connected and self.disconnecting:
            self._close()

    # IPushProducer: who reads

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        if self._is_paused and self.connected:
            self._is_paused = False
            self._owner.call_soon(self.readable)

    def stopProducing(self) -> None:
        self.loseConnection()

    # What the cable tells

    def readable(self) -> None:
        """There is, or may be, something to read."""
        if self._is_paused or self._is_closing or not self.connected or self._protocol is None:
            return
        data = self._owner.channels.read(self._stream)
        if data:
            self._guarded(self._protocol.dataReceived, data)
        self._owner.flush()

    def writable(self) -> None:
        """The writer may go on."""
        self._is_waiting = False
        if self._producer is None:
            return
        if self._is_streaming:
            self._guarded(self._producer.resumeProducing)
            if self.disconnecting and not self._is_waiting:
                self._close()
        else:
            self._pull()

    def lost(self, reason: Failure) -> None:
        """It has ended."""
        if not self.connected:
            return
        self.connected = False
        self.disconnecting = False
        producer, self._producer = self._producer, None
        if producer is not None:
            self._guarded(producer.stopProducing)
        self._owner.forget(self._stream)
        if self._protocol is not None:
            self._guarded(self._protocol.connectionLost, reason)

    # How it works

    def _close(self) -> None:
        if self.connected and not self._is_closing:
            self._is_closing = True
            self._owner.channels.close(self._stream)
            self._owner.flush()

    def _pull(self) -> None:
        """Let a pull producer write until it has to wait or is done."""
        if self._producer is None or self._is_streaming or self._is_waiting or not self.connected:
            return
        self._guarded(self._producer.resumeProducing)
        self._owner.call_soon(self._pull)

    def _guarded(self, function: Any, *arguments: object) -> bool:
        """Call the stream's user; an error there ends this stream and no other. Whether there was none."""
        try:
            function(*arguments)
        except Exception as error:  # whatever it is, it concerns this stream only
            self._log.failure("an error in a connection through {address}", address=str(self._address))
            if self.connected:
                self._is_closing = True
                self._owner.channels.abort(self._stream)
                self._owner.call_soon(self.lost, Failure(error))
            return False
        return True
