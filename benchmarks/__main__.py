"""`python3 -m benchmarks`: all rows or the named ones, and how kdsrv compares with socat in this very run."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measurement import Effort, Measured
from benchmarks.processes import Run, UnavailableError
from benchmarks.rows import ROWS

__all__ = ["main"]

FULL = Effort(repetitions=7, seconds=1.5)
QUICK = Effort(repetitions=3, seconds=0.4, session_counts=(1, 16, 64))
COLUMNS = "{:<12} {:<28} {:<11} {:>18} {:>18} {:>8} {:>8} {:>7} {:>7}"
HEADER = COLUMNS.format("row", "setting", "chain", "rate", "x socat", "p50 us", "p99 us", "cpu us", "core")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _ratio(measured: Measured, rows: Sequence[Measured]) -> str:
    """Median of the ratios within each repetition, with the lowest and the highest."""
    for base in rows:
        if (base.setting, base.chain) == (measured.setting, measured.base) and base.rates and base is not measured:
            ratios = [own / other for own, other in zip(measured.rates, base.rates, strict=False)]
            return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    return "1"


def _median(values: Sequence[float], form: str) -> str:
    return form.format(statistics.median(values)) if any(values) else ""


def _line(measured: Measured, rows: Sequence[Measured]) -> str:
    named = (measured.row, measured.setting, measured.chain)
    if measured.why_not:
        return COLUMNS.format(*named, *[""] * 6).rstrip().ljust(54) + measured.why_not
    rate = f"{statistics.median(measured.rates):.4g} {measured.unit}" if measured.rates else ""
    ratio = _ratio(measured, rows) if measured.rates else ""
    p50, p99 = _median(measured.p50_us, "{:.0f}"), _median(measured.p99_us, "{:.0f}")
    cpu, core = _median(measured.cpu_us, "{:.0f}"), _median(measured.core_percent, "{:.2f}%")
    line = COLUMNS.format(*named, rate, ratio, p50, p99, cpu, core)
    if measured.ideal and measured.rates:
        line += f"  {statistics.median(measured.rates) / measured.ideal:.1%} of what the line allows"
    if measured.memory_of and measured.memory_kb:
        line += f"  {measured.memory_kb:.0f} KB {measured.memory_of}"
    return line


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; all of them if none is named")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repetitions, at most 64 sessions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement there")
    parser.add_argument("--list", action="store_true", help="say what the rows are")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.rows) - set(ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the rows; 0 also when some could not run here, since speed is no test."""
    arguments = _arguments(argv)
    if arguments.list:
        for name, row in ROWS.items():
            _say(f"{name:<12} {row.__doc__}")
        return 0
    everything: list[Measured] = []
    notes: list[str] = []
    try:
        with Run() as run:
            run.compile()
            _say(HEADER)
            for name in arguments.rows or ROWS:
                _run_row(run, name, QUICK if arguments.quick else FULL, everything, notes)
    except UnavailableError as error:
        _say(f"nothing measured: {error}")
    except KeyboardInterrupt:
        _say("interrupted")
    for note in notes:
        _say(note)
    _say("cpu us: of all relays for one read or print; core: what they took of one core meanwhile")
    _say(f"{os.cpu_count()} processors, load {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    if arguments.json:
        arguments.json.write_text(json.dumps([measured.to_json() for measured in everything], indent=1))
    return 0


def _run_row(run: Run, name: str, effort: Effort, everything: list[Measured], notes: list[str]) -> None:
    """Prints the chains of one setting together, since each is compared with another."""
    setting: list[Measured] = []
    try:
        for measured in ROWS[name](run, effort):
            if isinstance(measured, str):
                notes += [measured] if measured else []
                continue
            if setting and setting[0].setting != measured.setting:
                _show(setting)
                setting = []
            setting.append(measured)
            everything.append(measured)
    except UnavailableError as error:
        _say(f"{name:<12} not here: {error}")
    _show(setting)


def _show(setting: Sequence[Measured]) -> None:
    for measured in setting:
        _say(_line(measured, setting))


if __name__ == "__main__":
    sys.exit(main())
