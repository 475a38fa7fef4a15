"""What a command says while it runs: lines for people on stderr, or JSON lines for programs on stdout.

On a terminal the last line is live: it shows how things stand now, and is rewritten when that changes. What is too long
for it stands whole in a line of its own above it. Where stderr is no terminal, a change is a line of its own, and a
change of nothing but a number of seconds is none.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

from kdsrv.sessions.news import is_news
from kdsrv.sessions.status import Status

__all__ = ["Screen"]

_CLEAR: Final = "\r\x1b[K"


class Screen:
    """``report`` is for events, ``live`` for the status. With ``as_json`` both become JSON objects, one a line.

    ``gone`` is called, once, when whoever read this does so no more.
    """

    def __init__(self, *, as_json: bool, people: TextIO | None = None, programs: TextIO | None = None) -> None:
        self._json = as_json
        self._people = sys.stderr if people is None else people
        self._programs = sys.stdout if programs is None else programs
        self._terminal = self._people.isatty()
        self.gone: Callable[[], None] = _nothing
        self._live = ""
        self._last: Status | None = None
        self._is_read = True

    def report(self, event: str, sentence: str, **facts: object) -> None:
        """Something happened. ``sentence`` is for people, ``event`` and ``facts`` for programs."""
        if self._json:
            self._write_json({"event": event, **facts})
            return
        if not self._terminal:
            self._last = None
        clear = _CLEAR if self._terminal else ""
        self._write(self._people, f"{clear}{sentence}\n{self._live if self._terminal else ''}")

    def live(self, status: Status) -> None:
        """How things stand now."""
        if self._json:
            self._write_json({"event": "status", **status.to_json()})
            return
        if self._terminal:
            self._write(self._people, f"{_CLEAR}{self._rewrite(status)}{self._live}")
        elif is_news(self._last, status):
            self._last = status
            self._write(self._people, f"{status.sentence()}\n")

    def know(self, status: Status) -> None:
        """What this status says has just been reported: it is no news."""
        self._last = status

    def end(self) -> None:
        """Leave the live line behind."""
        if self._live and not self._json:
            self._live = ""
            self._write(self._people, "\n")

    def _rewrite(self, status: Status) -> str:
        """Make the live line anew. The line in which the status stands whole, empty if that is not needed again."""
        line = f"[{status.sentence()}]"
        self._live = self._cut(line)
        if self._live == line:
            if self._last is not None and self._last.kind != status.kind:
                self._last = None
        elif is_news(self._last, status):
            self._last = status
            return f"{status.sentence()}\n"
        return ""

    def _cut(self, line: str) -> str:
        """As much of a line as fits on one row: a row is all that can be cleared again."""
        try:
            columns = os.get_terminal_size(self._people.fileno()).columns
        except OSError:  # the terminal is gone, and writing will say so
            return line
        return line[: columns - 1] if columns else line

    def _write_json(self, value: dict[str, object]) -> None:
        self._write(self._programs, json.dumps(value) + "\n")

    def _write(self, stream: TextIO, text: str) -> None:
        if not self._is_read:
            return
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            self._is_read = False
            # what is left in the stream would fail again at the end of the program, and change its exit status
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
            self.gone()


def _nothing() -> None:
    """Nobody wants to know."""
