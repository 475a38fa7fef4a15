"""A pair of FIFOs, as QEMU's ``pipe:NAME`` has them: the machine reads ``NAME.in`` and writes ``NAME.out``."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from typing import Final

from kdsrv.errors import TargetError
from kdsrv.transports.descriptor import DescriptorTransport, Reactor
from kdsrv.transports.holders import holders
from kdsrv.transports.patience import keep_trying
from kdsrv.transports.transport import AbsentError

__all__ = ["fifo_names", "open_fifo_pair"]

_STALE: Final = 64 * 1024
"""More than a FIFO holds; a machine that writes all the time must not keep the draining going."""


def fifo_names(path: str) -> tuple[str, str]:
    """The FIFO to write and the FIFO to read, seen from here."""
    return f"{path}.in", f"{path}.out"


async def open_fifo_pair(reactor: Reactor, path: str) -> DescriptorTransport:
    """Open the pair ``path``; the errors are those of `kdsrv.transports.pipe.open_pipe`.

    A FIFO keeps bytes that nobody reads, so what is there at the start is thrown away (KD protocol, 1.10). A FIFO can
    be opened for writing only while somebody reads it: that is awaited, with the reading end held open all the time.
    """
    to_machine, from_machine = fifo_names(path)
    reading = _open(path, from_machine, os.O_RDONLY)
    absent = AbsentError(target=path, why=f"nobody reads {to_machine}; is the virtual machine running?")
    try:
        _claim(reading, path, from_machine)
        _drain(reading)
        writing = await keep_trying(reactor, lambda: _open_for_writing(path, to_machine), absent)
    except BaseException:
        os.close(reading)
        raise
    description, ended = f"FIFO pair {path}", "the virtual machine closed it or went away"
    return DescriptorTransport(reactor, description, reading, write_descriptor=writing, ended=ended)


def _open_for_writing(path: str, name: str) -> int | None:
    """Open the FIFO ``name``; None while nobody reads it."""
    try:
        return _open(path, name, os.O_WRONLY)
    except TargetError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENXIO:
            return None
        raise


def _open(path: str, name: str, mode: int) -> int:
    try:
        if not stat.S_ISFIFO(os.stat(name).st_mode):
            raise TargetError(target=path, why=f"{name} is not a FIFO")
        descriptor = os.open(name, mode | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise AbsentError(target=path, why=f"the FIFO {name} is not there") from error
    except OSError as error:
        raise TargetError(target=path, why=f"cannot open {name}: {error.strerror}") from error
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):  # somebody has put another file there in between
        os.close(descriptor)
        raise TargetError(target=path, why=f"{name} is not a FIFO")
    return descriptor


def _claim(reading: int, path: str, name: str) -> None:
    """Keep other readers that lock out: two would share the machine's bytes between them."""
    try:
        fcntl.flock(reading, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TargetError(target=path, why=f"{name} is held by {holders(name)}") from None


def _drain(reading: int) -> None:
    with suppress(BlockingIOError):
        os.read(reading, _STALE)
