"""Who has a device or a port open: the sentence that saves its reader a hunt through `fuser`."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Final

__all__ = ["holders", "udp_holders"]

_NAMED: Final = 3
_PSEUDO: Final = re.compile(r"/dev/pts/(\d+)")
_MASTERS: Final = ("/dev/ptmx", "/dev/pts/ptmx")
_UDP: Final = (Path("/proc/net/udp"), Path("/proc/net/udp6"))
_LOCAL, _INODE = 1, 9
"""Fields of a line there, from 0: ``ADDRESS:PORT`` in hexadecimal, and the number by which descriptors name it."""


def holders(path: str) -> str:
    """Name the processes that have ``path`` open, as far as this user may see them: ``picocom (process 4711)``.

    Walks ``/proc/*/fd`` where there is one, which takes milliseconds: for error messages only.
    """
    real = os.path.realpath(path)
    processes = [process for process in _processes() if _has_open(process, {real})]
    if (number := _PSEUDO.fullmatch(real)) is not None:
        # the one at its other end keeps it open too, and does not hold it; alone it must be the one
        users = [process for process in processes if not _is_master(process, number[1])]
        processes = users or processes
    return _named(processes) or f"another process (`fuser -v {path}` run as root names it)"


def udp_holders(port: int) -> str:
    """The same for a UDP port of this host."""
    sockets = _sockets(port)
    return (
        _named([process for process in _processes() if _has_open(process, sockets)])
        or f"another process (`fuser -v {port}/udp` run as root names it)"
    )


def _named(processes: list[Path]) -> str:
    found = [_name(process) for process in processes]
    return " and ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")


def _sockets(port: int) -> set[str]:
    """What links to descriptors of sockets on this port read."""
    links = set()
    for table in _UDP:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[_LOCAL].endswith(f":{port:04X}"):
                links.add(f"socket:[{fields[_INODE]}]")
    return links


def _processes() -> list[Path]:
    try:
        return sorted((entry for entry in Path("/proc").iterdir() if entry.name.isdigit()), key=lambda e: int(e.name))
    except OSError:
        return []


def _has_open(process: Path, wanted: set[str]) -> bool:
    # Links are read and not followed: a stat of somebody's descriptor may hang on a dead network file system.
    try:
        links = os.listdir(process / "fd")
    except OSError:
        return False
    for link in links:
        try:
            if os.readlink(process / "fd" / link) in wanted:
                return True
        except OSError:
            continue
    return False


def _is_master(process: Path, number: str) -> bool:
    """Whether this process has the other end of pseudo terminal ``number`` open."""
    try:
        descriptors = os.listdir(process / "fd")
    except OSError:
        return False
    for each in descriptors:
        try:
            if os.readlink(process / "fd" / each) in _MASTERS:
                facts = (process / "fdinfo" / each).read_text(encoding="ascii").split()
                if ("tty-index:", number) in pairwise(facts):
                    return True
        except OSError:
            continue
    return False


def _name(process: Path) -> str:
    if int(process.name) == os.getpid():
        return f"this kdsrv itself (process {process.name})"
    try:
        program = (process / "comm").read_text(errors="replace").strip()
    except OSError:
        program = "a program"
    return f"{program} (process {process.name})"
