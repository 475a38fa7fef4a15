"""One debugger run through one chain, and all chains of a setting in turn, so that ratios stem from the same minute."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.chains import Chain, Lab
from benchmarks.processes import Process, UnavailableError, cpu_seconds, memory_kb

__all__ = ["Effort", "Measured", "Subject", "measure_in_turn", "standing"]

REPLY_SECONDS = 300.0
SESSION_COUNTS = (1, 16, 64, 256)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a run takes: repetitions of each measurement, and seconds of each of them."""

    repetitions: int
    seconds: float
    session_counts: tuple[int, ...] = SESSION_COUNTS


@dataclass(slots=True)
class Measured:
    """One chain in one setting. Lists have one value for each repetition; the n-th of all chains belong together.

    cpu_us: processor time of all relays for one operation; near_cpu_us: of those next to the debugger.
    core_percent: what they took of one core. memory_kb: of all relays, at the end; memory_of: what that is.
    ideal: operations a second that the line allows.
    """

    row: str
    setting: str
    chain: str
    base: str
    unit: str
    rates: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    near_cpu_us: list[float] = field(default_factory=list)
    core_percent: list[float] = field(default_factory=list)
    memory_kb: float | None = None
    memory_of: str = ""
    ideal: float | None = None
    why_not: str = ""

    def per_session(self, count: int, alone: dict[str, float]) -> None:
        """Makes memory_kb that of each further session; `alone` keeps by chain what one took with all else."""
        self.memory_of = "in all" if count == 1 else "for each more session"
        if self.memory_kb is None:
            return
        if count == 1:
            alone[self.chain] = self.memory_kb
        else:
            self.memory_kb = (self.memory_kb - alone.get(self.chain, 0.0)) / (count - 1)

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(slots=True)
class Subject:
    """A chain with its measurements; without a chain it could not start, and `measured.why_not` says why."""

    measured: Measured
    chain: Chain | None


def standing(lab: Lab, chain: Chain, arguments: Sequence[str]) -> Process:
    """A debugger whose sessions all stand; it measures when it is told to go."""
    command = [lab.run.program("debugger"), "--connect", chain.connect, "--handshake", *arguments]
    debugger = lab.run.start(chain.program or command, lab.network.near)
    debugger.line(REPLY_SECONDS)
    return debugger


def _measure(debugger: Process, chain: Chain, into: Measured, counted: str) -> None:
    near, far, began = cpu_seconds(chain.near), cpu_seconds(chain.far), time.monotonic()
    debugger.go()
    said: dict[str, float] = json.loads(debugger.line(REPLY_SECONDS))
    elapsed = time.monotonic() - began
    near, far = cpu_seconds(chain.near) - near, cpu_seconds(chain.far) - far
    operations = said[counted]
    into.rates.append(operations / said["seconds"])
    into.p50_us.append(said["p50_us"])
    into.p99_us.append(said["p99_us"])
    into.cpu_us.append((near + far) * 1e6 / operations)
    into.near_cpu_us.append(near * 1e6 / operations)
    into.core_percent.append((near + far) * 100 / elapsed)
    into.memory_kb = memory_kb(chain.relays)


def measure_in_turn(
    lab: Lab, subjects: Sequence[Subject], repetitions: int, arguments: Sequence[str], counted: str = "rounds"
) -> None:
    """A B A B ...; a chain that fails once says why and is left out from then on."""
    for _, subject in ((n, s) for n in range(repetitions) for s in subjects):
        if subject.chain is None or subject.measured.why_not:
            continue
        try:
            debugger = standing(lab, subject.chain, arguments)
            _measure(debugger, subject.chain, subject.measured, counted)
            lab.run.stop([debugger])
        except UnavailableError as error:
            subject.measured.why_not = str(error)


