"""What a command says while it runs: lines for people on stderr, or JSON lines for programs on stdout.

On a terminal the last line is live: it shows how things stand now, and is rewritten when that changes. Where stderr is
no terminal, a change is a line of its own, and a change of nothing but a number of seconds is none.
"""

from __future__ import annotations

import json
import sys
from typing import Final, TextIO

from kdsrv.sessions.status import BreakingIn, Noise, Quiet, Status

__all__ = ["Screen"]

_CLEAR: Final = "\r\x1b[K"
_TICKING: Final = frozenset({Quiet.kind, Noise.kind, BreakingIn.kind})
"""Statuses that come again and again while nothing but a number in them changes."""


class Screen:
    """``report`` is for events, ``live`` for the status. With ``as_json`` both become JSON objects, one a line."""

    def __init__(self, *, as_json: bool, people: TextIO | None = None, programs: TextIO | None = None) -> None:
        self._json = as_json
        self._people = sys.stderr if people is None else people
        self._programs = sys.stdout if programs is None else programs
        self._terminal = self._people.isatty()
        self._live = ""
        self._kind = ""

    def report(self, event: str, sentence: str, **facts: object) -> None:
        """Something happened. ``sentence`` is for people, ``event`` and ``facts`` for programs."""
        if self._json:
            self._write_json({"event": event, **facts})
            return
        clear = _CLEAR if self._terminal else ""
        self._people.write(f"{clear}{sentence}\n{self._live if self._terminal else ''}")
        self._people.flush()

    def live(self, status: Status) -> None:
        """How things stand now."""
        if self._json:
            self._write_json({"event": "status", **status.to_json()})
            return
        if self._terminal:
            self._live = f"[{status.sentence()}]"
            self._people.write(f"{_CLEAR}{self._live}")
        elif status.kind != self._kind or status.kind not in _TICKING:
            self._kind = status.kind
            self._people.write(f"{status.sentence()}\n")
        self._people.flush()

    def end(self) -> None:
        """Leave the live line behind."""
        if self._live and not self._json:
            self._live = ""
            self._people.write("\n" if self._terminal else "")
            self._people.flush()

    def _write_json(self, value: dict[str, object]) -> None:
        self._programs.write(json.dumps(value) + "\n")
        self._programs.flush()
