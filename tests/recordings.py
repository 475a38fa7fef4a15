"""Recordings made by hand, for tests of what reads them."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from kdsrv.kd.amd64 import ControlReport
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.recorder.recorder import Growth, Recorder
from kdsrv.sessions.lease import Lease

__all__ = ["BEGIN", "LEASE", "Script", "going_down", "loaded", "printed", "replied", "requested", "stopped", "whole"]

BEGIN = 1_785_578_400_000_000_000
"""2026-08-01 10:00:00 UTC in nanoseconds."""
LEASE = Lease("a key", "kim@desk", "10.0.0.7:4711", 0.0)
_REPORT = ControlReport.build()


def printed(text: str) -> Packet:
    return Packet(PacketType.DEBUG_IO, DebugIo.print_string(text.encode("cp1252")).encode())


def stopped(address: int = 0x1000, *, processor: int = 0, code: int = 0x80000003) -> Packet:
    change = StateChange.exception(code, address, report=_REPORT, processor=processor, processors=2)
    return Packet(PacketType.STATE_CHANGE64, change.encode())


def loaded(path: bytes, base: int) -> Packet:
    return Packet(PacketType.STATE_CHANGE64, StateChange.load_symbols(path, base, report=_REPORT).encode())


def going_down() -> Packet:
    return Packet(PacketType.STATE_CHANGE64, StateChange.reboot(report=_REPORT).encode())


def requested(request: Manipulate) -> Packet:
    return Packet(PacketType.STATE_MANIPULATE, request.encode())


replied = requested


class Script:
    """A recorder that a session is told to, one thing each millisecond."""

    def __init__(self, target: str = "rack1", line: str = "/dev/ttyS0 at 115200 baud") -> None:
        self._ticks = count()
        self.woken = 0
        self.recorder = Recorder(target, line, LEASE, self.now, self._wake)

    def now(self) -> int:
        return BEGIN + next(self._ticks) * 1_000_000

    def _wake(self) -> None:
        self.woken += 1

    def says(self, *packets: Packet) -> None:
        for packet in packets:
            self.recorder.packet_from_target(packet)

    def asks(self, *requests: Manipulate) -> None:
        for request in requests:
            self.recorder.packet_to_target(requested(request))

    def reads(self, address: int, data: bytes) -> None:
        """A read of memory and its reply."""
        request = Manipulate.read_virtual(address, len(data))
        self.asks(request)
        self.says(replied(request.reply(0, data, actual=len(data))))

    def breaks_in(self) -> None:
        self.recorder.break_in_sent()

    def save(self, path: Path) -> Path:
        """All of it in a file of packets."""
        path.write_bytes(whole(self.recorder).packets)
        return path


def whole(recorder: Recorder) -> Growth:
    """All that a recorder has, as if in one pair of files."""
    growth = Growth()
    while (piece := recorder.take()) is not None:
        growth = growth + (piece.body if growth else piece.head + piece.body)
    return growth
