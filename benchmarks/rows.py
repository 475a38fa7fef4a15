"""The rows: what is measured in which lab, with which chains side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.chains import CHAINS, Chain, Lab, many
from benchmarks.kdnet_rows import kdnet
from benchmarks.measurement import Effort, Measured, Subject, measure_in_turn, standing
from benchmarks.network import close_network, open_network
from benchmarks.processes import Run, UnavailableError, cpu_seconds, memory_kb

__all__ = ["ROWS", "Row"]

PRINTS = 300
SMALL_READ = 64
LARGEST_READ = 3944
BULK_READS = -(-(1 << 20) // LARGEST_READ)
REQUEST_BYTES, REPLY_BYTES, ACK_BYTES = 16 + 56 + 1, 16 + 56 + LARGEST_READ + 1, 16
ROUND_BYTES = REQUEST_BYTES + REPLY_BYTES + 2 * ACK_BYTES
BITS_PER_BYTE = 10

DEBUGGER_CHAINS = ("direct", "socat", "bridge", "socat pair", "connect")

Row = Callable[[Run, Effort], Iterator[Measured | str]]
Started = dict[str, Chain | UnavailableError]


@contextmanager
def _lab(run: Run, round_trip_ms: int, baud: int = 0, prints: int = 0, count: int = 8) -> Iterator[Lab]:
    network = open_network(run, round_trip_ms)
    lab = Lab(run, network, baud=baud, prints=prints, count=count)
    lab.start()
    try:
        yield lab
    finally:
        if lab.target:
            run.stop([lab.target])
        close_network(run, network)


def _start(names: Sequence[str], start: Callable[[str], Chain]) -> Started:
    started: Started = {}
    for name in names:
        try:
            started[name] = start(name)
        except UnavailableError as error:
            started[name] = error
    return started


def _stop(run: Run, started: Started) -> None:
    for chain in started.values():
        if isinstance(chain, Chain):
            run.stop(chain.relays)


def _subjects(started: Started, row: str, setting: str, unit: str) -> list[Subject]:
    subjects = []
    for name, chain in started.items():
        base = "socat pair" if name in ("socat pair", "connect", "python api") and "socat pair" in started else "socat"
        measured = Measured(row, setting, name, base, unit)
        if isinstance(chain, UnavailableError):
            measured.why_not = str(chain)
        subjects.append(Subject(measured, chain if isinstance(chain, Chain) else None))
    return subjects


def _rounds(round_trip_ms: int) -> Row:
    def row(run: Run, effort: Effort) -> Iterator[Measured | str]:
        warmup = "2" if round_trip_ms else "50"
        with _lab(run, round_trip_ms) as lab:
            started = _start(DEBUGGER_CHAINS, lambda name: CHAINS[name](lab))
            for size in (SMALL_READ, LARGEST_READ):
                subjects = _subjects(started, f"rounds-{round_trip_ms}", f"{size}-byte reads", "reads/s")
                arguments = ["--size", str(size), "--seconds", str(effort.seconds), "--warmup", warmup]
                measure_in_turn(lab, subjects, effort.repetitions, arguments)
                yield from (subject.measured for subject in subjects)
            _stop(run, started)
        yield lab.network.truth

    row.__doc__ = f"sequential {SMALL_READ}-byte and {LARGEST_READ}-byte reads, {round_trip_ms} ms of round trip"
    return row


def _prints(run: Run, effort: Effort) -> Iterator[Measured | str]:
    """300 debug prints in a row after a continue, 50 ms of round trip"""
    with _lab(run, 50, prints=PRINTS) as lab:
        started = _start(DEBUGGER_CHAINS, lambda name: CHAINS[name](lab))
        subjects = _subjects(started, "prints-50", f"{PRINTS} prints in a row", "prints/s")
        measure_in_turn(lab, subjects, 1 + effort.repetitions // 5, ["--prints"], counted="prints")
        _stop(run, started)
    yield from (subject.measured for subject in subjects)
    yield lab.network.truth


def _bulk(run: Run, effort: Effort) -> Iterator[Measured | str]:
    """1 MB of memory in one go, 50 ms of round trip: read after read through socat, one call of the Python API"""
    with _lab(run, 50) as lab:
        started = _start(("direct", "socat pair", "connect", "python api"), lambda name: CHAINS[name](lab))
        subjects = _subjects(started, "bulk-50", "1 MB", "reads/s")
        arguments = ["--size", str(LARGEST_READ), "--rounds", str(BULK_READS)]
        measure_in_turn(lab, subjects, 1 + effort.repetitions // 5, arguments)
        _stop(run, started)
    yield from (subject.measured for subject in subjects)
    yield lab.network.truth


def _sessions(run: Run, effort: Effort) -> Iterator[Measured | str]:
    """many sessions at once, each with one 64-byte or 3944-byte read outstanding; memory of each session"""
    for size in (SMALL_READ, LARGEST_READ):
        alone: dict[str, float] = {}
        for count in effort.session_counts:
            with _lab(run, 0, count=count) as lab:
                started = _start(("direct", "socat", "bridge"), lambda name: many(lab, name))
                subjects = _subjects(started, "sessions", f"{count} at once, {size}-byte reads", "reads/s")
                arguments = ["--count", str(count), "--size", str(size), "--seconds", str(effort.seconds)]
                measure_in_turn(lab, subjects, effort.repetitions, arguments)
                _stop(run, started)
            for measured in (subject.measured for subject in subjects):
                measured.per_session(count, alone)
                yield measured


def _idle(run: Run, effort: Effort) -> Iterator[Measured | str]:
    """sessions that stand and do nothing: processor time of all of them together and memory of each"""
    alone: dict[str, float] = {}
    for count in (1, max(effort.session_counts)):
        with _lab(run, 0, count=count) as lab:
            for name in ("socat", "bridge"):
                measured = Measured("idle", f"{count} sessions", name, "socat", "")
                try:
                    _watch_idle(lab, measured, many(lab, name), effort.seconds * 4)
                except UnavailableError as error:
                    measured.why_not = str(error)
                measured.per_session(count, alone)
                yield measured


def _watch_idle(lab: Lab, measured: Measured, chain: Chain, seconds: float) -> None:
    debugger = standing(lab, chain, ["--count", str(lab.count)])
    time.sleep(1)
    before = cpu_seconds(chain.relays)
    time.sleep(seconds)
    measured.core_percent.append((cpu_seconds(chain.relays) - before) * 100 / seconds)
    measured.memory_kb = memory_kb(chain.relays)
    lab.run.stop([debugger, *chain.relays])


def _paced(baud: int) -> Row:
    def row(run: Run, effort: Effort) -> Iterator[Measured | str]:
        ideal = baud / BITS_PER_BYTE / ROUND_BYTES
        with _lab(run, 0, baud=baud) as lab:
            started = _start(("direct", "socat", "bridge", "connect"), lambda name: CHAINS[name](lab))
            subjects = _subjects(started, f"baud-{baud}", f"{LARGEST_READ}-byte reads", "reads/s")
            arguments = ["--size", str(LARGEST_READ), "--rounds", str(max(4, int(effort.seconds * 2 * ideal)))]
            measure_in_turn(lab, subjects, max(2, effort.repetitions // 2), [*arguments, "--warmup", "1"])
            _stop(run, started)
        for subject in subjects:
            subject.measured.ideal = ideal
            yield subject.measured

    row.__doc__ = f"a serial line metered at {baud} baud: how much of what the line allows"
    return row


ROWS: dict[str, Row] = {
    "rounds-0": _rounds(0),
    "rounds-10": _rounds(10),
    "rounds-50": _rounds(50),
    "prints-50": _prints,
    "bulk-50": _bulk,
    "sessions": _sessions,
    "idle": _idle,
    "baud-115200": _paced(115200),
    "baud-921600": _paced(921600),
    "kdnet": kdnet,
}
