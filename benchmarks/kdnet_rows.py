"""The row about KDNET: what a round costs a server beside an exchange of as many datagrams that are nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

from benchmarks.measurement import Effort, Measured
from benchmarks.processes import Process, Run, UnavailableError

__all__ = ["kdnet"]

SMALL_READ, LARGE_READ = 64, 1096
ROUNDS_A_SECOND = 4000
READY_SECONDS = 30.0
REPLY_SECONDS = 120.0
WAYS = ("udp echo", "sealed", "transport", "session")
IN_A_REACTOR = ("transport", "session")
CRYPTO = ("bare", "seal")


def kdnet(run: Run, effort: Effort) -> Iterator[Measured | str]:
    """KDNET on loopback against a plain exchange of as many datagrams (in place of socat), and its crypto against bare
    calls of cryptography"""
    rounds = int(effort.seconds * ROUNDS_A_SECOND)
    for size in (SMALL_READ, LARGE_READ):
        ways = [Measured("kdnet", f"{size}-byte reads", name, "udp echo", "reads/s") for name in WAYS]
        _in_turn(run, ways, effort.repetitions, size, rounds)
        yield from ways
    for size in (16, 16 + 56 + LARGE_READ):
        kinds = [Measured("kdnet", f"{size} bytes, sealed and opened", name, "bare", "pairs/s") for name in CRYPTO]
        _in_turn(run, kinds, effort.repetitions, size, rounds * 4)
        yield from kinds


def _in_turn(run: Run, subjects: list[Measured], repetitions: int, size: int, rounds: int) -> None:
    for measured in [each for _ in range(repetitions) for each in subjects]:
        if not measured.why_not:
            try:
                _measure(run, measured, size, rounds)
            except UnavailableError as error:
                measured.why_not = str(error)


def _measure(run: Run, measured: Measured, size: int, rounds: int) -> None:
    role, started = measured.chain.rpartition(" ")[2], []
    arguments = [str(size), str(rounds)]
    if role not in CRYPTO:
        port = _free_port() if role in IN_A_REACTOR else 0
        peer = _program(run, ["peer", *arguments, str(port)])
        started.append(peer)
        said = peer.line(READY_SECONDS)
        arguments.insert(0, str(port or said))
    host = _program(run, [role, *arguments])
    started.append(host)
    try:
        host.line(READY_SECONDS)
        host.go()
        result: dict[str, float] = json.loads(host.line(REPLY_SECONDS))
        measured.rates.append(result["rounds"] / result["seconds"])
        measured.cpu_us.append(result["cpu_us"])
    finally:
        run.stop(started)


def _program(run: Run, arguments: list[str]) -> Process:
    return run.python(["-m", "benchmarks.kdnet", *arguments])


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
