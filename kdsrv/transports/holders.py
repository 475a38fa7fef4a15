"""Who has a device open: the sentence that saves its reader a hunt through `fuser`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["holders"]

_NAMED: Final = 3


def holders(path: str) -> str:
    """Name the processes that have ``path`` open, as far as this user may see them: ``picocom (process 4711)``.

    Walks ``/proc/*/fd`` where there is one, which takes milliseconds: for error messages only.
    """
    device = os.path.realpath(path)
    found = [_name(process) for process in _processes() if _has_open(process, device)]
    if not found:
        return f"another process (`fuser -v {path}` run as root names it)"
    return " and ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")


def _processes() -> list[Path]:
    try:
        return sorted((entry for entry in Path("/proc").iterdir() if entry.name.isdigit()), key=lambda e: int(e.name))
    except OSError:
        return []


def _has_open(process: Path, device: str) -> bool:
    # Links are read and not followed: a stat of somebody's descriptor may hang on a dead network file system.
    try:
        links = os.listdir(process / "fd")
    except OSError:
        return False
    for link in links:
        try:
            if os.readlink(process / "fd" / link) == device:
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
