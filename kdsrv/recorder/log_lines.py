"""A recording as people read it: one line for each thing that happened, and printed text in whole lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from kdsrv.recorder.entries import BreakInSent, Entry, Note, PacketSeen
from kdsrv.sessions.decoded import BREAK_IN_SEEN, SeenKind, printable, seen

__all__ = ["LogLine", "Topic", "log_lines"]

_MAX_LINE: Final = 16_384
"""Characters; a longer line of print is told in parts."""
_PLAIN_STATUSES: Final = frozenset({"halted", "running"})
"""Statuses that only say again what a packet said."""


class Topic(StrEnum):
    """What one may want to see alone."""

    PRINTS = "prints"
    BUG_CHECKS = "bugchecks"
    MODULES = "modules"
    STOPS = "stops"
    QUESTIONS = "questions"
    COMMANDS = "commands"
    REQUESTS = "requests"
    SERVER = "server"


_TOPICS: Final[Mapping[SeenKind, Topic]] = {
    SeenKind.PRINT: Topic.PRINTS,
    SeenKind.BUG_CHECK: Topic.BUG_CHECKS,
    SeenKind.MODULE_LOAD: Topic.MODULES,
    SeenKind.MODULE_UNLOAD: Topic.MODULES,
    SeenKind.STOP: Topic.STOPS,
    SeenKind.PROMPT: Topic.QUESTIONS,
    SeenKind.FILE: Topic.QUESTIONS,
    SeenKind.CONTINUE: Topic.COMMANDS,
    SeenKind.BREAK_IN: Topic.COMMANDS,
    SeenKind.REQUEST: Topic.REQUESTS,
    SeenKind.REPLY: Topic.REQUESTS,
    SeenKind.OTHER: Topic.REQUESTS,
}


@dataclass(frozen=True, slots=True)
class LogLine:
    """``time`` in nanoseconds since 1970; ``text`` steers no terminal; ``data`` are the facts, for JSON."""

    time: int
    topic: Topic
    kind: str
    text: str
    data: Mapping[str, object] = field(default_factory=dict)


def log_lines(entries: Iterable[Entry], topics: frozenset[Topic]) -> Iterator[LogLine]:
    """What there is to read on these topics. A print that ends no line is told as soon as something else is."""
    printed = _Printed()
    for entry in entries:
        line = _line(entry)
        if line is None or line.topic not in topics:
            continue
        if line.topic is Topic.PRINTS:
            yield from printed.add(line)
        else:
            yield from printed.rest()
            yield line
    yield from printed.rest()


def _line(entry: Entry) -> LogLine | None:
    match entry:
        case PacketSeen(time, direction, packet):
            told = seen(direction, packet)
        case BreakInSent(time):
            told = BREAK_IN_SEEN
        case Note(time, kind, text, data):
            status = data.get("status")
            if isinstance(status, dict) and status.get("kind") in _PLAIN_STATUSES:
                return None
            return LogLine(time, Topic.SERVER, printable(kind), printable(text), data)
    return LogLine(time, _TOPICS[told.kind], told.kind, told.text, {"direction": told.direction, **told.data})


class _Printed:
    """Puts printed text together until a line ends. A line has the time at which it began."""

    def __init__(self) -> None:
        self._begun: LogLine | None = None
        self._text = ""

    def add(self, line: LogLine) -> Iterator[LogLine]:
        *whole, last = str(line.data["printed"]).split("\n")
        for text in whole:
            yield self._told(line, self._text + text)
            self._begun, self._text = None, ""
        if last:
            self._begun = self._begun or line
            self._text += last
            if len(self._text) > _MAX_LINE:
                yield from self.rest()

    def rest(self) -> Iterator[LogLine]:
        if self._begun is not None:
            yield self._told(self._begun, self._text)
            self._begun, self._text = None, ""

    def _told(self, line: LogLine, text: str) -> LogLine:
        begun = self._begun or line
        text = text.rstrip("\r\0")
        data = {**begun.data, "printed": text}
        return LogLine(begun.time, Topic.PRINTS, begun.kind, printable(text), data)
