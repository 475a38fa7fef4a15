"""A virtual machine's pipe on a POSIX host: a unix stream socket (VirtualBox, VMware, QEMU), or a pair of FIFOs."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from typing import Final

from kdsrv.errors import TargetError
from kdsrv.transports.descriptor import DescriptorTransport, Reactor
from kdsrv.transports.fifo import fifo_names, open_fifo_pair
from kdsrv.transports.patience import keep_trying
from kdsrv.transports.transport import AbsentError

__all__ = ["open_pipe", "open_unix"]

_WINDOWS_PIPE: Final = re.compile(r"\\\\[^\\]+\\pipe\\.*", re.IGNORECASE)


async def open_pipe(reactor: Reactor, path: str) -> DescriptorTransport:
    """Connect to the pipe that a virtual machine offers at ``path``.

    That is a unix socket at ``path``, or the FIFOs ``path.in`` and ``path.out``. `AbsentError` means that it may
    still appear, any other `TargetError` that it will not.
    """
    if _WINDOWS_PIPE.fullmatch(path):
        why = "on this host a virtual machine's pipe is a unix socket or a FIFO pair; give its path instead"
        raise TargetError(target=path, why=why)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if all(os.path.exists(name) for name in fifo_names(path)):
            return await open_fifo_pair(reactor, path)
        why = "there is neither a unix socket of this name nor the two FIFOs NAME.in and NAME.out"
        raise AbsentError(target=path, why=why) from None
    except (OSError, ValueError) as error:
        raise TargetError(target=path, why=f"no way to this pipe: {_words(error)}") from error
    if stat.S_ISSOCK(mode):
        return await open_unix(reactor, path)
    raise TargetError(target=path, why=_not_a_pipe(path, mode))


async def open_unix(reactor: Reactor, path: str) -> DescriptorTransport:
    """Connect to the unix stream socket at ``path``.

    What is there to be read is kept: it was sent after this connection was made, so a target's first packet may be it.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    busy = AbsentError(target=path, why="others wait for this socket already, and it accepts nobody")
    try:
        connection.setblocking(False)
        await keep_trying(reactor, lambda: _connect(connection, path), busy)
    except BaseException:
        connection.close()
        raise
    return DescriptorTransport(reactor, f"pipe {path}", connection.detach())


def _connect(connection: socket.socket, path: str) -> socket.socket | None:
    """Connect, which on a unix socket happens at once or, where the listener's queue is full, not at all (None)."""
    try:
        connection.connect(path)
    except BlockingIOError:
        return None
    except FileNotFoundError:
        raise AbsentError(target=path, why="the socket went away") from None
    except ConnectionRefusedError:
        raise AbsentError(target=path, why="nobody listens on this socket; is the virtual machine running?") from None
    except OSError as error:
        if error.errno == errno.EPROTOTYPE:
            raise TargetError(target=path, why="this is a unix socket, but not a stream socket") from None
        raise TargetError(target=path, why=f"cannot connect to this socket: {_words(error)}") from error
    return connection


def _not_a_pipe(path: str, mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "one FIFO carries one direction only; give NAME of a pair NAME.in and NAME.out"
    if stat.S_ISCHR(mode):
        return f"this is a device, not a pipe; a serial port or terminal is written com:port={path}"
    return f"this is a {'directory' if stat.S_ISDIR(mode) else 'regular file'}, not a unix socket"


def _words(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
