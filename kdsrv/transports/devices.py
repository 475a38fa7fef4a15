"""Serial devices of a POSIX host: what a port's name means here, and why a name is not a port that can be used."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
from pathlib import Path
from typing import Final

from serial.tools import list_ports

from kdsrv.errors import TargetError
from kdsrv.transports.holders import holders

__all__ = ["device_path", "is_pseudo_terminal", "refusal", "refuse_other_files"]

_COM: Final = re.compile(r"(?:\\\\\.\\)?(?:com)?([0-9]{1,3})", re.IGNORECASE)
_DRIVERS: Final = Path("/proc/tty/drivers")
_NO_LINE_MAJOR: Final = 5
"""/dev/tty, /dev/console and /dev/ptmx: terminals without a line of their own."""
_NAMED: Final = 8


def device_path(port: str) -> str:
    r"""The device that ``port`` means: ``com1``, ``1`` and ``\\.\com1`` are ``/dev/ttyS0``, a path is itself.

    `TargetError` for ``com0``, which means none.
    """
    match = _COM.fullmatch(port)
    if not match:
        return port
    if (number := int(match[1])) == 0:
        raise TargetError(target=port, why=f"there is no such port, COM1 is the first; {_offer()}")
    return f"/dev/ttyS{number - 1}"


def refuse_other_files(port: str) -> None:
    """Raise a `TargetError` if ``port`` is not a terminal. It is not opened for that: opening may have effects."""
    path = device_path(port)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise refusal(port, error) from error
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise TargetError(target=port, why=f"this is a directory, not a serial port; {_offer()}")
    if stat.S_ISREG(mode):
        raise TargetError(target=port, why=f"this is a regular file, not a serial port; {_offer()}")
    if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
        raise TargetError(target=port, why=f"this is a pipe, not a serial port; write com:pipe,port={port}")
    if not stat.S_ISCHR(mode) or not _is_terminal(status.st_rdev):
        raise TargetError(target=port, why=f"this device is not a serial port; {_offer()}")


def is_pseudo_terminal(port: str) -> bool:
    """Whether ``port`` is a pseudo terminal, at which any baud rate does; False where that cannot be told."""
    try:
        return _driver_kind(os.stat(device_path(port)).st_rdev) == "pty:slave"
    except (OSError, ValueError, TargetError):
        return False


def refusal(port: str, error: Exception) -> TargetError:
    """The sentence for an ``error`` met while looking at ``port``, opening or setting it up."""
    path = device_path(port)
    code = _code(error)
    if code in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV):
        missing = "there is no such device" if path == port else f"it means {path} here, and there is no such device"
        why = f"{missing}; {_offer()}"
    elif code in (errno.EACCES, errno.EPERM):
        why = _permission(path)
    elif code in (errno.EAGAIN, errno.EBUSY):
        why = f"the device is held by {holders(path)}"
    elif code == errno.EIO:
        why = f"no hardware answers behind {path}; {_offer()}"
    elif code == errno.ENOTTY:
        why = f"this device is not a serial port; {_offer()}"
    else:
        why = f"it cannot be set up: {error}"
    return TargetError(target=port, why=why)


def _code(error: Exception) -> int | None:
    """The errno, which pyserial and termios do not always leave where it belongs."""
    for candidate in (error, error.__context__):
        if isinstance(candidate, OSError) and candidate.errno:
            return candidate.errno
        if candidate is not None and candidate.args and isinstance(candidate.args[0], int):
            return candidate.args[0]
    return None


def _is_terminal(device: int) -> bool:
    """Look ``device`` up in the kernel's list of terminal drivers; where there is none, opening will tell."""
    try:
        return bool(_driver_kind(device)) and os.major(device) != _NO_LINE_MAJOR
    except OSError:
        return True


def _driver_kind(device: int) -> str:
    """What the kernel's list calls the driver of this terminal, as ``serial`` or ``pty:slave``; "" if it has none."""
    major, minor = os.major(device), os.minor(device)
    for fields in map(str.split, _DRIVERS.read_text().splitlines()):
        if len(fields) >= 4 and fields[2] == str(major):
            first, _, last = fields[3].partition("-")
            if int(first) <= minor <= int(last or first):
                return fields[-1]
    return ""


def _permission(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return f"no permission to look at {path}"
    user, group = _user(status.st_uid), _group(status.st_gid)
    if status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP:
        cure = f"add yourself to group {group} (`sudo usermod -aG {group} $USER`) and log in again"
    else:
        cure = f"its mode {stat.S_IMODE(status.st_mode):04o} lets only that user in"
    return f"no permission to open {path}: it belongs to user {user} and group {group}; {cure}"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _offer() -> str:
    names = sorted(port.device for port in list_ports.comports())
    if not names:
        return "this host has no serial ports"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"this host has {', '.join(names[:_NAMED])}{more}"
