"""Private networks with a delay below TCP (delay.c), and how true the delay was."""

from __future__ import annotations

import json
import socket
import statistics
import struct
import sys
import time
from dataclasses import dataclass

from benchmarks.processes import Process, Run, UnavailableError

__all__ = ["Network", "close_network", "open_network"]

ECHO_REQUEST = 8
PINGS = 30


@dataclass(slots=True)
class Network:
    """Two sides: `near` has the debugger, `far` the lab; the same side, with loopback only, when there is no delay.

    A namespace of None is the machine's own, used without delay where private ones are not allowed.
    """

    round_trip_ms: int
    near: str | None
    far: str | None
    address: str
    process: Process | None
    measured_ms: tuple[float, float, float] | None = None
    truth: str = ""

    def port(self) -> int:
        """A free TCP port at the far side."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port


def open_network(run: Run, round_trip_ms: int) -> Network:
    """Raises UnavailableError if there must be a delay and cannot be one."""
    process = run.start([run.program("delay"), str(round_trip_ms * 500)])
    try:
        made = json.loads(process.line(5))
    except UnavailableError:
        run.stop([process])
        if round_trip_ms:
            raise
        return Network(0, None, None, "127.0.0.1", None)
    network = Network(round_trip_ms, made["near"], made["far"], made["address"], process)
    if round_trip_ms:
        pinger = run.python(["-m", "benchmarks.network", network.address], network.near)
        network.measured_ms = tuple(json.loads(pinger.line(30)))
        run.stop([pinger])
    return network


def close_network(run: Run, network: Network) -> None:
    """Ends it and notes in `truth` what was measured."""
    if network.process is None:
        return
    said = json.loads(run.stop([network.process])[0])
    network.process = None
    if network.measured_ms:
        low, middle, high = network.measured_ms
        network.truth = (
            f"{network.round_trip_ms} ms asked: ping {middle:.2f} ms ({low:.2f} to {high:.2f}); "
            f"{said['packets']} packets one way, half of them at most {said['late_p50_us']} us late, 99 % at most "
            f"{said['late_p99_us']} us, all at most {said['late_max_us']} us, {said['lost']} lost"
        )


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _ping(address: str) -> list[float]:
    """ICMP echoes, answered by the other side's kernel, in milliseconds: the lowest, the median, the highest."""
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(5)
        for sequence in range(PINGS):
            body = struct.pack("!HH", 0x4B44, sequence) + bytes(64 if sequence % 2 else 1400)
            start = time.perf_counter()
            raw.sendto(struct.pack("!BBH", ECHO_REQUEST, 0, _checksum(b"\x08\x00" + body)) + body, (address, 0))
            while True:
                packet = raw.recv(2048)
                if packet[20] == 0 and packet[24:28] == body[:4]:
                    break
            times.append((time.perf_counter() - start) * 1000)
    return [min(times), statistics.median(times), max(times)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_ping(sys.argv[1])) + "\n")
