"""The unix socket of a bridge for which nobody names one, and those that killed programs have left behind."""

from __future__ import annotations

import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from kdsrv.connection_strings import KdsrvSpec
from kdsrv.errors import SetupError
from kdsrv.local_pipes import MAX_PATH

__all__ = ["default_socket"]

_LONGEST_NAME: Final = 60
_NAME: Final = re.compile(r"[A-Za-z0-9-]*-([1-9][0-9]{0,9})\.sock")


def default_socket(spec: KdsrvSpec) -> Path:
    """A place for a socket named after the target and this process, in a directory that is this user's alone, where
    sockets of processes that are gone are removed. SetupError, a sentence, if there is no such directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    directory = Path(runtime, "kdsrv") if runtime else Path(f"/tmp/kdsrv-{os.getuid()}")
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise SetupError(why=f"cannot make {directory} for the unix socket: {error.strerror}; use --unix") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise SetupError(why=f"{directory} is not a directory of yours alone (mode 700); use --unix PATH")
    _tidy(directory)
    name = "-".join(re.findall(r"[A-Za-z0-9]+", str(spec.trans or "default")))
    room = MAX_PATH - len(os.fsencode(directory / f"-{os.getpid()}.sock"))
    return directory / f"{name[: max(0, min(_LONGEST_NAME, room))]}-{os.getpid()}.sock"


def _tidy(directory: Path) -> None:
    """Remove the sockets of processes that are gone."""
    with suppress(OSError):
        for path in directory.iterdir():
            name = _NAME.fullmatch(path.name)
            if name is not None and _is_left(path, int(name[1])):
                path.unlink()


def _is_left(path: Path, pid: int) -> bool:
    """Whether this is a socket at which nobody listens, and there is no such process either. One in another namespace
    is not seen, but listens; one that is about to listen is seen."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
        os.kill(pid, 0)
    except ProcessLookupError:
        pass
    except OSError:
        return False
    else:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
