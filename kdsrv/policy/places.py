"""What a client's word for a serial port leads to on this host, and whether somebody sits there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from kdsrv.policy.policy import Device
from kdsrv.transports.devices import device_path

__all__ = ["HostPlaces"]

_PROCESSES: Final = Path("/proc")
_TERMINAL_FIELD: Final = 4
"""Of ``/proc/PID/stat``, counted from behind the name of the program: the controlling terminal."""


class HostPlaces:
    """The host that this process runs on, as a policy asks about it."""

    def device(self, port: str) -> Device:
        path = device_path(port)
        return Device(path, os.path.realpath(path))

    def is_terminal(self, path: str) -> bool:
        try:
            device = os.stat(path).st_rdev
        except (OSError, ValueError):
            return False
        return any(_controlling_terminal(process) == device for process in list(_PROCESSES.glob("[0-9]*/stat")))


def _controlling_terminal(process: Path) -> int | None:
    try:
        fields = process.read_text(errors="replace").rpartition(")")[2].split()
        number = int(fields[_TERMINAL_FIELD])
    except (OSError, ValueError, IndexError):
        return None
    if number == 0:
        return None
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)
