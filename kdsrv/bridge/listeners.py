"""Where a debugger finds a bridge: a TCP port, a unix socket or a pseudo terminal.

Sockets are accepted here and not by a Twisted port, so that a debugger's line is the same transport as a target's,
which sends at once. A second debugger is let in and turned away at once, for it would wait in vain otherwise.

A pty shows by its hang-up that nobody has it open, so a debugger can be seen to come and go there too.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import stat
import termios
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from kdsrv.errors import SetupError
from kdsrv.transports.descriptor import DescriptorTransport
from kdsrv.transports.transport import Transport

__all__ = [
    "Listener",
    "PtyListener",
    "SocketListener",
    "is_loopback",
    "listen_on_pty",
    "listen_on_tcp",
    "listen_on_unix",
]

_REST: Final = 1.0
"""Seconds without accepting when the process is out of descriptors."""
_LOOK_INTERVAL: Final = 0.1
"""Seconds between two looks at whether somebody has opened the pty."""

_ARRIVAL: Final = 0.02
"""Seconds until a debugger is let in. One that comes right after another has left must not be taken for a second one,
and how the other one's line ended is read only after what it had sent."""

Accept = Callable[[Transport], bool]
"""Takes the line of a debugger that came; False: another one is here."""


class Listener(Protocol):
    """Something that lets debuggers in until it is closed."""

    address: str

    def close(self) -> None: ...


@implementer(IReadDescriptor)
class SocketListener:
    """Accepts debuggers on a listening socket. ``address`` is ``HOST:PORT`` or the path of a unix socket."""

    def __init__(
        self, reactor: Any, listening: socket.socket, address: str, accept: Accept, *, unlink: Path | None = None
    ) -> None:
        self.address = address
        self._reactor = reactor
        self._socket = listening
        self._accept = accept
        self._unlink = unlink
        self._arriving: dict[DescriptorTransport, IDelayedCall] = {}
        self._rest: IDelayedCall | None = None
        listening.setblocking(False)
        reactor.addReader(self)

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            if self._rest is not None:
                self._rest.cancel()
            self._socket.close()
            for line, arrival in self._arriving.items():
                arrival.cancel()
                line.close()
            self._arriving.clear()
            if self._unlink is not None:
                self._unlink.unlink(missing_ok=True)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return f"bridge on {self.address}"

    def doRead(self) -> None:
        try:
            connection, peer = self._socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and self._rest is None:
                # nobody can be let in until descriptors are free, and the socket would be readable all the time
                self._reactor.removeReader(self)
                self._rest = self._reactor.callLater(_REST, self._accept_again)
            return
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            name = f"{peer[0]}:{peer[1]}"
        else:
            name = self.address
        line = DescriptorTransport(self._reactor, name, connection.detach())
        self._arriving[line] = self._reactor.callLater(_ARRIVAL, self._let_in, line)

    def _accept_again(self) -> None:
        self._rest = None
        self._reactor.addReader(self)

    def _let_in(self, line: DescriptorTransport) -> None:
        del self._arriving[line]
        if not self._accept(line):
            line.close()

    def connectionLost(self, reason: Failure) -> None:
        self.close()


class PtyListener:
    """Lets in whoever opens the slave of a pty; ``address`` is the slave's path.

    Who is turned away has to close the slave and open it again.
    """

    def __init__(self, reactor: Any, accept: Accept, link: Path | None = None) -> None:
        self._reactor = reactor
        self._accept = accept
        self._link = link
        self._master, slave = os.openpty()
        os.set_blocking(self._master, False)
        self.address = os.ttyname(slave)
        # a slave that was open once and is closed shows as a hang-up, one that never was does not
        os.close(slave)
        try:
            self._make_link()
        except OSError:
            os.close(self._master)
            raise
        self._turned_away = False
        self._look: IDelayedCall | None = None
        self._watch()

    def close(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
            if self._link is not None:
                self._link.unlink(missing_ok=True)

    def _make_link(self) -> None:
        if self._link is not None:
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(self.address)

    def _watch(self) -> None:
        """See whether somebody has opened the slave. The last close of it undid raw mode, so that is set again."""
        self._look = None
        tty.setraw(self._master)
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        if any(event & select.POLLHUP for _, event in poll.poll(0)):
            if self._turned_away:
                termios.tcflush(self._master, termios.TCIOFLUSH)
                self._turned_away = False
            self._watch_later()
        elif self._turned_away:
            self._watch_later()
        else:
            line = _PtyLine(self._reactor, self.address, os.dup(self._master), self._watch_later)
            if not self._accept(line):
                self._turned_away = True
                line.close()

    def _watch_later(self) -> None:
        if self._master >= 0 and self._look is None:
            self._look = self._reactor.callLater(_LOOK_INTERVAL, self._watch)


class _PtyLine(DescriptorTransport):
    """The master of a pty while somebody has its slave open."""

    def __init__(self, reactor: Any, description: str, descriptor: int, released: Callable[[], None]) -> None:
        super().__init__(reactor, description, descriptor)
        self._released = released

    @override
    def _release(self) -> None:
        # what this debugger did not read is not for the next one
        termios.tcflush(self._descriptor, termios.TCIOFLUSH)
        super()._release()
        self._released()


def is_loopback(host: str) -> bool:
    """Whether only programs on this host reach what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def listen_on_tcp(reactor: Any, host: str, port: int, accept: Accept) -> SocketListener:
    """Let debuggers in on a TCP port; 0: any free one. SetupError if the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(5)
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or str(error)
        raise SetupError(why=f"the bridge cannot listen on {host}:{port}: {why}") from None
    return SocketListener(reactor, listening, f"{host}:{listening.getsockname()[1]}", accept)


def listen_on_unix(reactor: Any, path: Path, accept: Accept) -> SocketListener:
    """Let debuggers of this user in on a unix socket. A socket that a dead process left there is replaced."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        mask = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(mask)
        listening.listen(5)
    except (OSError, ValueError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or str(error)
        raise SetupError(why=f"the bridge cannot listen on the unix socket {path}: {why}") from None
    return SocketListener(reactor, listening, str(path), accept, unlink=path)


def listen_on_pty(reactor: Any, accept: Accept, link: Path | None = None) -> PtyListener:
    """Let debuggers in on a new pty; ``link`` is a symbolic link to make to it, in place of an older one. SetupError if
    there is no pty, or something else where the link belongs."""
    if link is not None and not link.is_symlink() and os.path.lexists(link):
        raise SetupError(why=f"the bridge cannot link {link} to its pty: something else is there")
    try:
        return PtyListener(reactor, accept, link)
    except OSError as error:
        where = f" at {error.filename2}" if error.filename2 else ""
        raise SetupError(why=f"the bridge cannot make a pty{where}: {error.strerror}") from None


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; anything else at ``path`` stays and makes the bind fail."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink()
