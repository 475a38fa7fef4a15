"""The serial ports of a process that are shared by channels: all endpoints that name the same port have one cable."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from kdsrv.com_channel.shared_port import ComCable, Means
from kdsrv.errors import SetupError
from kdsrv.local_pipes import pipe_directory
from kdsrv.transports.devices import device_path
from kdsrv.transports.serial import open_serial
from kdsrv.transports.transport import Transport

__all__ = ["Cables"]


class Cables:
    """The serial ports of a process that are shared by channels.

    ``random`` gives random bytes, ``open_port`` opens a port at a baud rate. ``pipes`` is the directory where programs
    that share a port find each other; None: they do not.
    """

    _of: ClassVar[WeakKeyDictionary[Any, Cables]] = WeakKeyDictionary()

    def __init__(
        self,
        reactor: Any,
        *,
        random: Callable[[int], bytes] = os.urandom,
        open_port: Callable[[Any, str, int], Transport] = open_serial,
        pipes: Path | None = None,
    ) -> None:
        self._means = Means(reactor, random, open_port, pipes)
        self._cables: dict[str, ComCable] = {}

    @classmethod
    def of(cls, reactor: Any) -> Cables:
        """Those of the reactor: a port can be open only once in a process, whoever needs it."""
        found = cls._of.get(reactor)
        if found is None:
            pipes = None
            with suppress(SetupError):
                pipes = pipe_directory(os.environ, os.geteuid())
            found = cls._of[reactor] = cls(reactor, pipes=pipes)
        return found

    def find(self, port: str, baud: int) -> ComCable:
        """The cable at a port. SetupError if it is in use at another rate."""
        path = device_path(port)
        key = os.path.realpath(path)
        cable = self._cables.get(key)
        if cable is None or (cable.baud != baud and not cable.is_used):
            if cable is not None:
                cable.close()
            cable = self._cables[key] = ComCable(self._means, path, key, baud)
        elif cable.baud != baud:
            raise SetupError(why=f"{path} is in use at {cable.baud} baud; all its channels have the same rate")
        return cable
