"""The machine's end of a line: offers a live simulated target on a pty, a pair of FIFOs, a unix socket or a TCP port.

As on a serial line there is no flow control: what nobody takes is lost. One debugger at a time; a socket that comes
while another is there is closed again.
"""

from __future__ import annotations

import os
import stat
import tty
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IPushProducer, IReadDescriptor, ITCPTransport, IWriteDescriptor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from kdsrv.errors import SetupError
from kdsrv.listen_failures import why_not
from kdsrv.transports.fifo import fifo_names
from kdsrv.transports.simulated import LiveLine

__all__ = ["offer_fifos", "offer_pty", "offer_tcp", "offer_unix"]

_MAX_UNSENT: Final = 64 * 1024
_READ_SIZE: Final = 64 * 1024


def offer_pty(reactor: Any, live: LiveLine) -> tuple[str, Callable[[], None]]:
    """A new pseudo-terminal: its path, for people, and how to end it. The slave is held open, so it may come and go."""
    master, slave = os.openpty()
    tty.setraw(slave)
    ends = _join(reactor, live, master, os.dup(master))

    def end() -> None:
        ends()
        os.close(slave)

    return f"pty {os.ttyname(slave)}", end


def offer_fifos(reactor: Any, live: LiveLine, path: str) -> tuple[str, Callable[[], None]]:
    """The FIFOs ``path``.in, which the machine reads, and ``path``.out; those that are missing are made, and removed at
    the end. Raises `SetupError`.
    """
    made: list[str] = []
    opened: list[int] = []
    try:
        for name in fifo_names(path):
            if not os.path.exists(name):
                os.mkfifo(name, 0o600)
                made.append(name)
            if not stat.S_ISFIFO(os.stat(name).st_mode):
                raise SetupError(why=f"{name} is there already and is no FIFO")
            opened.append(os.open(name, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise SetupError(why=f"cannot make the FIFOs {path}.in and {path}.out: {error.strerror}") from error
    ends = _join(reactor, live, *opened)

    def end() -> None:
        ends()
        for name in made:
            with suppress(FileNotFoundError):
                os.unlink(name)

    return f"FIFO pair {path}", end


def offer_unix(reactor: Any, live: LiveLine, path: str) -> tuple[str, Callable[[], None]]:
    """A unix socket that only this user may connect to. Raises `SetupError`."""
    try:
        port = reactor.listenUNIX(path, _DebuggerFactory(live), mode=0o600, wantPID=True)
    except CannotListenError as error:
        raise SetupError(why=f"cannot listen on {path}: {why_not(error)}") from error
    except OSError as error:
        raise SetupError(why=f"cannot listen on {path}: {error.strerror}") from error
    return f"unix socket {path}", port.stopListening


def offer_tcp(reactor: Any, live: LiveLine, host: str, port: int) -> tuple[str, Callable[[], None]]:
    """A TCP port; 0 takes a free one. Raises `SetupError`."""
    try:
        listening = reactor.listenTCP(port, _DebuggerFactory(live), interface=host)
    except CannotListenError as error:
        raise SetupError(why=f"cannot listen on {host}:{port}: {why_not(error)}") from error
    address = listening.getHost()
    return f"tcp {address.host}:{address.port}", listening.stopListening


def _join(reactor: Any, live: LiveLine, reading: int, writing: int) -> Callable[[], None]:
    """Let the target talk over two descriptors, which are closed by the returned function."""
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    reader, writer = _ReadingEnd(reading, live), _WritingEnd(reactor, writing)
    reactor.addReader(reader)
    live.listen(writer.write)

    def end() -> None:
        live.listen(None)
        reactor.removeReader(reader)
        reactor.removeWriter(writer)
        os.close(reading)
        os.close(writing)

    return end


@implementer(IReadDescriptor)
class _ReadingEnd:
    def __init__(self, descriptor: int, live: LiveLine) -> None:
        self._descriptor = descriptor
        self._live = live

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return type(self).__name__

    def doRead(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._descriptor, _READ_SIZE)
            if data:
                self._live.feed(data)

    def connectionLost(self, reason: Failure) -> None:
        """Both ends of the line are held open here, so only the end of the reactor brings this."""


@implementer(IWriteDescriptor)
class _WritingEnd:
    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._unsent = bytearray()

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return type(self).__name__

    def write(self, data: bytes) -> None:
        """Send; what does not fit behind 64 KB that nobody takes is lost."""
        if len(self._unsent) + len(data) > _MAX_UNSENT:
            return
        self._unsent += data
        self.doWrite()

    def doWrite(self) -> None:
        with suppress(BlockingIOError):
            del self._unsent[: os.write(self._descriptor, self._unsent)]
        if self._unsent:
            self._reactor.addWriter(self)
        else:
            self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        """See `_ReadingEnd`."""


class _DebuggerFactory(Factory):
    noisy = False

    def __init__(self, live: LiveLine) -> None:
        self._live = live

    @override
    def buildProtocol(self, addr: Any) -> _DebuggerProtocol:
        return _DebuggerProtocol(self._live)


@implementer(IPushProducer)
class _DebuggerProtocol(Protocol):
    """A debugger that connected by a socket."""

    def __init__(self, live: LiveLine) -> None:
        self._live = live
        self._attached = self._full = False

    @override
    def connectionMade(self) -> None:
        transport: Any = self.transport
        if self._live.is_heard:
            transport.loseConnection()
            return
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        self._attached = True
        self._live.listen(self._write)

    @override
    def dataReceived(self, data: bytes) -> None:
        if self._attached:
            self._live.feed(data)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._attached:
            self._attached = False
            self._live.listen(None)

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False

    def stopProducing(self) -> None:
        self._full = True

    def _write(self, data: bytes) -> None:
        if not self._full and self.transport is not None:
            self.transport.write(data)
