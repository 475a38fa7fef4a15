"""One byte transport over file descriptors, shared by serial ports, FIFO pairs, unix sockets and TCP.

It meets Twisted at the reactor (`IReadWriteDescriptor`) and not at `FileDescriptor`, whose buffering never sends at
once, never ends, and closes only when it has been emptied. Here a write goes to the system in the same call, the rest
is bounded, and closing is immediate.

A loss noticed while reading is told at once, one noticed while writing in the next turn of the reactor, so that nobody
is called back from inside his own `write`.

Reading a slow line: a full 115200 baud line would wake the reactor for every few bytes. The receiver says how many
bytes its packet still lacks, and none of them matters before the last, so reading stops for about the time that these
bytes take on the line, 20 ms at most (the system keeps up to 4 KB for us; at 921600 baud 20 ms are 1.8 KB). That holds
only if the line is as slow as it claims. A pseudo terminal, a virtual machine's port or a USB gadget ignores the baud
rate, and there each pause would be a delay. So a pause needs evidence from the wake-up at hand: since the wake-up
before, bytes came about as fast as a full line brings them. More means that the line is quicker than it claims; fewer,
that there was a silence, after which a packet of any speed looks slow. In both cases reading goes on, and the next
wake-up decides.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReadWriteDescriptor, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kdsrv.errors import LinkLost, TargetError
from kdsrv.transports.switchboard import Watcher, watcher_of
from kdsrv.transports.transport import Receiver, ReceiverFailed

__all__ = ["MAX_UNSENT", "DescriptorTransport", "Reactor"]

MAX_UNSENT: Final = 64 * 1024
"""Bytes kept for a line that does not take them; a debugger's packets are stop-and-wait and 4 KB."""

_READ_SIZE: Final = 64 * 1024
_LONGEST_PAUSE: Final = 0.020
_SHORTEST_PAUSE: Final = 0.002
"""Below this a pause costs as much as the wake-ups that it saves."""
_TIMER_LAG: Final = 0.001
"""The reactor's timers are late by up to a millisecond; so much is left to plain reading at the end of a packet."""
_FULL: Final = (0.5, 1.25)
"""Bytes that came, as a share of those that a full line brings, between which it is taken for one."""
_GONE: Final = frozenset({errno.EIO, errno.ENXIO, errno.ENODEV, errno.EPIPE, errno.ECONNRESET, errno.EBADF})


class Reactor(Watcher, Protocol):
    """The part of a Twisted reactor that transports use."""

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> IDelayedCall: ...

    def seconds(self) -> float: ...


@implementer(IReadWriteDescriptor)
class DescriptorTransport:
    """Bytes over a non-blocking descriptor, or over two where reading and writing have one each. Owns them.

    ``ended`` says what it means on this medium that the other end went away.
    """

    _log: ClassVar[Logger] = Logger()

    def __init__(
        self,
        reactor: Reactor,
        description: str,
        descriptor: int,
        *,
        write_descriptor: int | None = None,
        byte_time: float = 0.0,
        ended: str = "its other end closed",
    ) -> None:
        self.description = description
        self.byte_time = byte_time
        self._reactor = reactor
        # the cost of an event is nothing beside the time of a byte on a slow line, and each wait there a wake-up more
        self._watcher = reactor if byte_time else watcher_of(reactor)
        self._descriptor = descriptor
        self._write_descriptor = descriptor if write_descriptor is None else write_descriptor
        self._writer = self if write_descriptor is None else _WriteEnd(self, write_descriptor)
        self._ended = ended
        self._receiver: Receiver | None = None
        self._unsent = bytearray()
        self._closed = False
        self._reason: TargetError | None = None
        self._notice: IDelayedCall | None = None
        self._pause: IDelayedCall | None = None
        self._read_at = 0.0

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver. See `Transport`."""
        self._receiver = receiver
        if self._closed:
            self._tell_later()
            return
        try:
            self._watcher.addReader(self)
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes) -> None:
        """Send now what the system takes and keep the rest. See `Transport`."""
        if self._closed or not data:
            return
        if not self._unsent:
            sent = self._send(data)
            if self._closed or sent == len(data):
                return
            self._watcher.addWriter(self._writer)
            data = data[sent:]
        if len(self._unsent) + len(data) > MAX_UNSENT:
            self._lose(LinkLost(target=self.description, why="it does not take bytes"), later=True)
            return
        self._unsent += data

    def close(self) -> None:
        """Close now, silently. See `Transport`."""
        self._shut()
        self._receiver = self._reason = None
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None

    def fileno(self) -> int:
        return -1 if self._closed else self._descriptor

    def logPrefix(self) -> str:
        return self.description

    def doRead(self) -> None:
        if self._closed or self._receiver is None:
            return
        try:
            data = os.read(self._descriptor, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(self._broken(error))
            return
        if not data:
            self._lose(LinkLost(target=self.description, why=self._ended))
            return
        try:
            missing = self._receiver.bytes_received(data)
        except Exception as error:  # whatever it is, it concerns this line only
            self._log.failure("an error while taking bytes from {line}", line=self.description)
            self._lose(ReceiverFailed(target=self.description, why=type(error).__name__))
            return
        if self.byte_time:
            self._rest(len(data), missing)

    def doWrite(self) -> None:
        if self._unsent:
            sent = self._send(self._unsent)
            del self._unsent[:sent]
        if not self._unsent and not self._closed:
            self._watcher.removeWriter(self._writer)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw a hang-up, with nothing left to read."""
        self._lose(LinkLost(target=self.description, why=self._ended))

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._write_descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(self._broken(error), later=True)
            return 0

    def _rest(self, got: int, missing: int) -> None:
        """Stop reading for a while if ``got`` bytes came as on a full line and ``missing`` more are to come."""
        now = self._reactor.seconds()
        elapsed = now - self._read_at
        self._read_at = now
        pause = min(missing * self.byte_time - _TIMER_LAG, _LONGEST_PAUSE)
        least, most = _FULL
        if pause < _SHORTEST_PAUSE or not least * elapsed < got * self.byte_time < most * elapsed or self._closed:
            return
        self._watcher.removeReader(self)
        self._pause = self._reactor.callLater(pause, self._read_again)

    def _read_again(self) -> None:
        self._pause = None
        self._watcher.addReader(self)

    def _broken(self, error: OSError) -> LinkLost:
        return LinkLost(target=self.description, why=self._ended if error.errno in _GONE else str(error.strerror))

    def _lose(self, reason: TargetError, *, later: bool = False) -> None:
        if self._closed:
            return
        self._shut()
        self._reason = reason
        if later:
            self._tell_later()
        else:
            self._tell()

    def _tell_later(self) -> None:
        if self._notice is None and self._reason is not None and self._receiver is not None:
            self._notice = self._reactor.callLater(0, self._tell)

    def _tell(self) -> None:
        self._notice = None
        receiver, reason = self._receiver, self._reason
        if receiver is None or reason is None:
            return
        self._receiver = self._reason = None
        try:
            receiver.transport_lost(reason)
        except Exception:  # whatever it is, the line is closed already
            self._log.failure("an error while telling that {line} is lost", line=self.description)

    def _shut(self) -> None:
        if self._closed:
            return
        self._watcher.removeReader(self)
        self._watcher.removeWriter(self._writer)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._closed = True
        self._unsent.clear()
        self._release()

    def _release(self) -> None:
        """Close the descriptors; must not block."""
        os.close(self._descriptor)
        if self._write_descriptor != self._descriptor:
            os.close(self._write_descriptor)


@implementer(IWriteDescriptor)
class _WriteEnd:
    """The writing descriptor of a pair, as the reactor sees it."""

    def __init__(self, transport: DescriptorTransport, descriptor: int) -> None:
        self._transport = transport
        self._descriptor = descriptor

    def fileno(self) -> int:
        return -1 if self._transport.fileno() < 0 else self._descriptor

    def logPrefix(self) -> str:
        return self._transport.description

    def doWrite(self) -> None:
        self._transport.doWrite()

    def connectionLost(self, reason: Failure) -> None:
        self._transport.connectionLost(reason)
