"""Both ends of a cable in one process: on a clock that the test turns, and through pseudo terminals."""

from __future__ import annotations

import os
import pty
import threading
import tty
from pathlib import Path
from random import Random
from select import select
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv.com_channel.endpoints import ComClientEndpoint, ComServerEndpoint
from kdsrv.com_channel.ports import Cables
from kdsrv.errors import LinkLost, TargetError

__all__ = ["ClockedCable", "Collector", "Collectors", "NullModem"]

BAUD = 115200


class Collector(Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.reason: Failure | None = None
        self.on_data: Any = None

    @override
    def dataReceived(self, data: bytes) -> None:
        assert self.reason is None
        self.data += data
        if self.on_data is not None:
            self.on_data(data)

    @override
    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        assert self.reason is None
        self.reason = reason


class Collectors(Factory):
    """Makes them; ``made`` has all. ``started`` counts doStart and doStop."""

    noisy = False
    protocol = Collector

    def __init__(self) -> None:
        self.made: list[Collector] = []
        self.addresses: list[str] = []
        self.started = 0

    @override
    def doStart(self) -> None:
        self.started += 1

    @override
    def doStop(self) -> None:
        self.started -= 1

    @override
    def buildProtocol(self, addr: Any) -> Collector | None:
        self.addresses.append(str(addr))
        self.made.append(Collector())
        return self.made[-1]


class FakePort:
    """An end of a line without a pace: what is written is at the other end a millisecond later."""

    byte_time = 0.0

    def __init__(self, cable: ClockedCable, path: str) -> None:
        self.description = path
        self.cable = cable
        self.receiver: Any = None
        self.other: FakePort | None = None

    def start(self, receiver: Any) -> None:
        self.receiver = receiver

    def write(self, data: bytes) -> None:
        self.cable.clock.callLater(0.001, self._carry, data)

    def close(self) -> None:
        self.receiver = None
        self.cable.open_ports.pop(self.description, None)

    def _carry(self, data: bytes) -> None:
        other = self.cable.open_ports.get("/lab" if self.description == "/desk" else "/desk")
        if other is not None and other.receiver is not None:
            other.receiver.bytes_received(data)


class ClockedCable:
    """A cable from ``/desk`` to ``/lab``, each in a process of its own as far as they know."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.is_there = True
        self.open_ports: dict[str, FakePort] = {}
        random = Random(1).randbytes
        self.desk = Cables(self.clock, random=random, open_port=self._open)
        self.lab = Cables(self.clock, random=random, open_port=self._open)
        self.factory = Collectors()

    def _open(self, reactor: Any, path: str, baud: int) -> Any:
        if not self.is_there:
            raise TargetError(target=path, why="there is no such device")
        assert path not in self.open_ports
        port = self.open_ports[path] = FakePort(self, path)
        return port

    def run(self, seconds: float = 0.5) -> None:
        for _ in range(round(seconds * 1000)):
            self.clock.advance(0.001)

    def listen(self, channel: int = 3) -> Any:
        found: list[Any] = []
        ComServerEndpoint(self.lab, "/lab", BAUD, channel).listen(self.factory).addCallback(found.append)
        return found[0]

    def dial(self, channel: int = 3, factory: Any = None) -> Deferred[Any]:
        return ComClientEndpoint(self.desk, "/desk", BAUD, channel).connect(factory or Collectors())

    def connect(self, channel: int = 3) -> tuple[Collector, Collector]:
        """A connection, as the desk and as the lab have it."""
        found: list[Collector] = []
        self.dial(channel).addCallback(found.append)
        self.run()
        return found[0], self.factory.made[-1]

    def unplug(self, path: str) -> None:
        port = self.open_ports.pop(path)
        receiver, port.receiver = port.receiver, None
        receiver.transport_lost(LinkLost(target=path, why="unplugged"))


class NullModem:
    """Two pseudo terminals whose lines are joined; ``desk`` and ``lab`` are links to their devices in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.desk, self.lab = folder / "desk", folder / "lab"
        self._plug_in()

    def _plug_in(self) -> None:
        pairs = [pty.openpty() for _ in range(2)]
        for (_, device), link in zip(pairs, (self.desk, self.lab), strict=True):
            tty.setraw(device)
            link.unlink(missing_ok=True)
            link.symlink_to(os.ttyname(device))
        self._masters = [master for master, _ in pairs]
        self._devices = [device for _, device in pairs]
        self._wake, self._woken = os.pipe()
        self._relay = threading.Thread(target=self._carry, daemon=True)
        self._relay.start()

    def _carry(self) -> None:
        first, second = self._masters
        while True:
            ready, _, _ = select([first, second, self._wake], [], [])
            if self._wake in ready:
                return
            for master in ready:
                os.write(second if master == first else first, os.read(master, 4096))

    def unplug(self) -> None:
        """Both devices go away."""
        os.write(self._woken, b"x")
        self._relay.join()
        for descriptor in (*self._masters, *self._devices, self._wake, self._woken):
            os.close(descriptor)
        self.desk.unlink()
        self.lab.unlink()

    def plug_in(self) -> None:
        """New devices by the same names."""
        self._plug_in()

    def __enter__(self) -> NullModem:
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()
