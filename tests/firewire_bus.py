"""A FireWire bus without hardware: the system calls of Linux's devices, with nodes behind them (KD over 1394, 3, B).

It stands in at the seam `kdsrv.transports.firewire_device.Calls`: it reads the real bytes of the structures, follows
the pointers in them, and answers by the real bytes of events. Each transaction lets the target look at its mailboxes
once, so that everything happens in the same order each time.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from firewire_target import FireWireTarget

from kdsrv.transports.firewire_device import FireWireHost

__all__ = ["LATENCY", "Asked", "Fault", "FireWireBus", "OtherNode"]

LATENCY = 0.00005


class GetInfo(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint32),
        ("rom_length", ctypes.c_uint32),
        ("rom", ctypes.c_uint64),
        ("bus_reset", ctypes.c_uint64),
        ("bus_reset_closure", ctypes.c_uint64),
        ("card", ctypes.c_uint32),
    ]


class SendRequest(ctypes.Structure):
    _fields_ = [
        ("tcode", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
        ("closure", ctypes.c_uint64),
        ("data", ctypes.c_uint64),
        ("generation", ctypes.c_uint32),
    ]


class Asked(NamedTuple):
    """A transaction that was asked for: ``data`` is None for a read."""

    address: int
    length: int
    data: bytes | None


class Fault(NamedTuple):
    """Answers the next transaction that ``concerns`` picks with ``code``; ``is_done``: it is done all the same."""

    code: int
    is_done: bool = False
    concerns: Callable[[Asked], bool] = lambda asked: True
    resets: bool = False
    """The bus is reset meanwhile."""


class OtherNode:
    """Something else on the bus: a disk, or a camera."""

    guid = 0x00A0B8_0000000001
    vendor = 0x00A0B8
    speed = 2
    rom = (0x0404BEEF, 0x31333934, 0x0000A002, guid >> 32, guid & 0xFFFFFFFF, 0x0002BEEF, 0x0C0083C0, 0x0300A0B8)
    reset_wanted = 0

    def look(self, now: float) -> None:
        pass

    def bus_was_reset(self) -> None:
        pass

    def read(self, address: int, length: int) -> tuple[int, bytes]:
        return 7, b""

    def write(self, address: int, data: bytes) -> int:
        return 7


@dataclass
class _Open:
    node: FireWireTarget | OtherNode
    events: deque[bytes] = field(default_factory=deque)
    ready: Callable[[], None] | None = None
    is_exclusive: bool = False
    is_gone: bool = False


class FireWireBus:
    """Nodes are plugged into the bus of one card, whose own node is fw0. ``clock`` is a reactor or a Clock.

    ``asked`` keeps the transactions. ``faults`` are consumed one after another, each by the first that it concerns.
    """

    def __init__(self, clock: Any, folder: Path) -> None:
        self.clock = clock
        self.nodes = folder / "sys"
        self.devices = folder / "dev"
        self.host = FireWireHost(clock, calls=self, nodes=self.nodes, devices=self.devices)
        self.generation = 1
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.denied: set[str] = set()
        self._there: dict[str, FireWireTarget | OtherNode] = {}
        self._open: dict[int, _Open] = {}
        self._opened = 0
        self.devices.mkdir()
        self.nodes.mkdir()
        self._show("fw0", (0x0404BEEF, 0x31333934), guid=1, vendor=0, is_local=True)

    # What happens on the bus

    def plug(self, node: FireWireTarget | OtherNode) -> str:
        """A node comes; its name."""
        name = f"fw{len(list(self.nodes.iterdir()))}"
        self._there[name] = node
        self._show(name, tuple(node.rom), guid=node.guid, vendor=node.vendor)
        self.reset()
        return name

    def unplug(self, name: str) -> None:
        """A node goes, and Linux has noticed."""
        node = self._there.pop(name)
        for file in (self.nodes / name).iterdir():
            file.unlink()
        (self.nodes / name).rmdir()
        for handle in self._open.values():
            if handle.node is node:
                handle.is_gone = True
                self._schedule(handle)
        self.reset()

    def reset(self) -> None:
        """A bus reset: everybody who has a node open is told."""
        self.generation += 1
        for node in self._there.values():
            node.bus_was_reset()
        for handle in self._open.values():
            handle.events.append(self._bus_reset())
            self._schedule(handle)

    def _show(self, name: str, rom: tuple[int, ...], *, guid: int, vendor: int, is_local: bool = False) -> None:
        folder = self.nodes / name
        folder.mkdir()
        (folder / "config_rom").write_bytes(struct.pack(f"={len(rom)}I", *rom))
        (folder / "guid").write_text(f"0x{guid:016x}\n")
        (folder / "vendor").write_text(f"0x{vendor:06x}\n")
        (folder / "is_local").write_text(f"{is_local:d}\n")
        (folder / "units").write_text("\n")

    # The system calls

    def open(self, path: str, *, exclusive: bool) -> int:
        name = Path(path).name
        if name not in self._there:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        if name in self.denied:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        node = self._there[name]
        if exclusive and any(other.node is node and other.is_exclusive for other in self._open.values()):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable", path)
        self._opened += 1
        self._open[1000 + self._opened] = _Open(node, is_exclusive=exclusive)
        return 1000 + self._opened

    def close(self, descriptor: int) -> None:
        del self._open[descriptor]

    @property
    def is_at_rest(self) -> bool:
        """Whether nobody has a node open."""
        return not self._open

    def ioctl(self, descriptor: int, number: int, argument: bytearray) -> int:
        handle = self._open[descriptor]
        if handle.is_gone:
            raise OSError(errno.ENODEV, "No such device")
        assert len(argument) == number >> 16 & 0x3FFF, "the number says how long the structure is"
        if number == 0xC0282300:
            return self._get_info(argument)
        if number == 0x40282301:
            return self._send_request(handle, SendRequest.from_buffer_copy(argument))
        if number == 0x2311:
            return handle.node.speed
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    def read(self, descriptor: int, size: int) -> bytes:
        handle = self._open[descriptor]
        if handle.is_gone:
            raise OSError(errno.ENODEV, "No such device")
        assert handle.events, "this read would wait for ever"
        return handle.events.popleft()[:size]

    def watch(self, descriptor: int, ready: Callable[[], None]) -> None:
        handle = self._open[descriptor]
        handle.ready = ready
        self._schedule(handle)

    def unwatch(self, descriptor: int) -> None:
        self._open[descriptor].ready = None

    def _get_info(self, argument: bytearray) -> int:
        info = GetInfo.from_buffer(argument)
        assert info.version in (4, 5)
        info.version, info.card = 5, 0
        if info.bus_reset:
            event = self._bus_reset()
            ctypes.memmove(info.bus_reset, event, len(event))
        return 0

    def _send_request(self, handle: _Open, request: SendRequest) -> int:
        node = handle.node
        if request.length > min(4096, 512 << node.speed):
            raise OSError(errno.EIO, "Input/output error")
        is_write = request.tcode in (0, 1)
        assert request.tcode in (0, 1, 4, 5)
        assert (request.length == 4) == (request.tcode in (0, 4))
        data = ctypes.string_at(request.data, request.length) if is_write else None
        asked = Asked(request.offset, request.length, data)
        self.asked.append(asked)
        code, answer = self._transact(node, asked, request.generation)
        event = struct.pack("=QIII", request.closure, 1, code, len(answer)) + answer
        self.clock.callLater(LATENCY, self._arrive, handle, event.ljust(24, b"\0"))
        return 0

    def _transact(self, node: FireWireTarget | OtherNode, asked: Asked, generation: int) -> tuple[int, bytes]:
        node.look(self.clock.seconds())
        for _ in range(node.reset_wanted):
            node.reset_wanted -= 1
            self.reset()
        if generation != self.generation:
            return 0x13, b""
        fault = next((fault for fault in self.faults if fault.concerns(asked)), None)
        if fault is not None:
            self.faults.remove(fault)
            if fault.is_done:
                self._do(node, asked)
                node.look(self.clock.seconds())
            if fault.resets:
                self.reset()
            return fault.code, b""
        return self._do(node, asked)

    def _do(self, node: FireWireTarget | OtherNode, asked: Asked) -> tuple[int, bytes]:
        if asked.data is None:
            return node.read(asked.address, asked.length)
        return node.write(asked.address, asked.data), b""

    def _bus_reset(self) -> bytes:
        return struct.pack("=QIIIIIII", 0, 0, 0xFFC0, 0xFFC1, 0xFFC1, 0xFFC1, 0xFFC1, self.generation).ljust(40, b"\0")

    def _arrive(self, handle: _Open, event: bytes) -> None:
        handle.events.append(event)
        self._wake(handle)

    def _schedule(self, handle: _Open) -> None:
        self.clock.callLater(0, self._wake, handle)

    def _wake(self, handle: _Open) -> None:
        """The reactor sees that there is something to read; one event is read each time."""
        if handle.ready is None or not (handle.events or handle.is_gone):
            return
        handle.ready()
        if handle.events:
            self._schedule(handle)
