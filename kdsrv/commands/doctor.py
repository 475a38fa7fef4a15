"""``kdsrv doctor``: what is wrong with the line to a target, on the host that the line is at."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred

from kdsrv.commands.string_option import add_string_option
from kdsrv.connection_strings import KdSpec, SerialSpec, TargetSpec, fill_in, parse_kd_string
from kdsrv.doctor.advice import FIND_BAUD
from kdsrv.doctor.examination import TOTAL
from kdsrv.doctor.examiner import examine, find_rate, search_seconds
from kdsrv.doctor.verdicts import Verdict, is_well, not_opened
from kdsrv.errors import KdsrvError, SetupError
from kdsrv.transports.devices import is_pseudo_terminal
from kdsrv.transports.opener import Opener
from kdsrv.transports.simulated import SimulatedTargets

__all__ = ["configure", "run"]

_MOST_SECONDS: Final = 600.0
_DEFAULT: Final = "no baud= was given: 19200 is a default, which few targets use"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv doctor``."""
    parser.description = (
        "Examine the line to a target on this host, without a server: open it, listen, reset the link, break in, and "
        "say what is wrong and what to do. A target that runs is halted for a moment and then runs again. The exit "
        "status is 0 if all is well, 1 if not."
    )
    add_string_option(parser, "'com:port=/dev/ttyUSB0,baud=115200' (in quotes)")
    parser.add_argument("--no-break-in", action="store_true", help="do not halt a target that runs")
    parser.add_argument(
        "--find-baud",
        action="store_true",
        help=f"try all baud rates first (serial ports only); takes up to {search_seconds(None):.0f} s more",
    )
    parser.add_argument(
        "--seconds", metavar="N", type=_seconds, default=TOTAL, help=f"the most it may take (default: {TOTAL:.0f})"
    )
    parser.add_argument("--json", action="store_true", help="say it as one JSON object, an error as well")


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Examine the line; fires with the exit status, or fails with a KdsrvError."""
    return Deferred.fromCoroutine(_run(reactor, options))


async def _run(reactor: Any, options: argparse.Namespace) -> int:
    asked = parse_kd_string(options.string)
    spec = fill_in(asked, os.environ)
    if isinstance(spec, TargetSpec):
        raise SetupError(why=f"what {spec} stands for only its server knows: give the kd-string that it was given")
    if options.find_baud and not isinstance(spec, SerialSpec):
        raise SetupError(why="--find-baud is for serial ports (com:port=...): other lines have no baud rate")
    simulated = SimulatedTargets(reactor)
    opener = Opener(reactor, simulated)
    say = _quiet if options.json else _say
    may_break_in = not options.no_break_in
    try:
        found: int | None = None
        searches = options.find_baud and not is_pseudo_terminal(_port(spec))
        if options.find_baud and not searches:
            say(f"{_port(spec)} is a pseudo terminal, which has no baud rate: none is searched for")
        if searches and isinstance(spec, SerialSpec):
            say(f"trying all baud rates at {spec.port}, which takes {search_seconds(spec.baud):.0f} s at the most ...")
            try:
                found = await find_rate(reactor, opener, spec, say, may_break_in=may_break_in)
            except KdsrvError as error:
                return _tell(spec, not_opened(error, spec), as_json=options.json)
            spec = spec if found is None else replace(spec, baud=found)
        say(f"examining {spec}, which takes {options.seconds:.0f} s at the most ...")
        verdict = await examine(reactor, opener, spec, may_break_in=may_break_in, total=options.seconds)
        if searches:
            verdict = _with_rate(verdict, spec, found)
        elif verdict.evidence and _is_default(asked, spec) and not is_well(verdict):
            verdict = replace(verdict, evidence=(*verdict.evidence, _DEFAULT))
        return _tell(spec, verdict, as_json=options.json)
    except CancelledError:
        say("ended before there was a verdict")
        return 1
    finally:
        simulated.stop()


def _port(spec: KdSpec) -> str:
    return spec.port or "" if isinstance(spec, SerialSpec) else ""


def _is_default(asked: KdSpec, spec: KdSpec) -> bool:
    """Whether nobody has given the rate of a line that has one."""
    is_given = not isinstance(asked, SerialSpec) or asked.baud is not None or "_NT_DEBUG_BAUD_RATE" in os.environ
    return not is_given and not is_pseudo_terminal(_port(spec))


def _with_rate(verdict: Verdict, spec: KdSpec, found: int | None) -> Verdict:
    """With what came of trying all rates."""
    if found is None:
        evidence = (*verdict.evidence, "no KD at any of the usual baud rates")
        return replace(verdict, evidence=evidence, advice=tuple(line for line in verdict.advice if line != FIND_BAUD))
    return replace(verdict, advice=(f"use {spec}", *verdict.advice))


def _tell(spec: KdSpec, verdict: Verdict, *, as_json: bool) -> int:
    """The verdict on standard output; the exit status."""
    if as_json:
        sys.stdout.write(json.dumps({"event": "verdict", "target": str(spec), **asdict(verdict)}) + "\n")
    else:
        sys.stdout.write(_as_text(verdict))
    sys.stdout.flush()
    return 0 if is_well(verdict) else 1


def _as_text(verdict: Verdict) -> str:
    parts = [f"verdict: {verdict.sentence}\n"]
    for head, lines in (("evidence", verdict.evidence), ("what to do", verdict.advice)):
        if lines:
            parts.append(f"{head}:\n" + "".join(f"  - {line}\n" for line in lines))
    return "".join(parts)


def _say(line: str) -> None:
    """What goes on meanwhile."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _quiet(_: str) -> None:
    """A program waits for the verdict only."""


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 1 to {_MOST_SECONDS:.0f}")
    return seconds
