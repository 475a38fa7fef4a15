"""A stream of a channel, and what happens to it. What its states mean is in channels.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple, TypeAlias

__all__ = [
    "CREDIT",
    "Arrived",
    "Closed",
    "Event",
    "Lost",
    "Opened",
    "Readable",
    "State",
    "Stream",
    "Writable",
]

CREDIT: Final = 16384
"""Bytes that may be under way to a stream's reader, or be kept for one who does not read."""


class State(Enum):
    """Where a stream is; see the table."""

    OPENING = auto()
    OPEN = auto()
    CLOSING = auto()
    ENDED = auto()
    READING = auto()
    FREE = auto()


@dataclass(slots=True, eq=False)
class Stream:
    """One stream of a channel, to be handed to `Channels`. ``deadline``: until when it waits to be accepted."""

    number: int
    state: State
    deadline: float = 0.0
    is_asked: bool = False
    is_gone: bool = False
    is_full: bool = False
    is_ready: bool = False
    unsent: bytearray = field(default_factory=bytearray)
    unread: bytearray = field(default_factory=bytearray)
    credit: int = 0
    allowance: int = CREDIT
    taken: int = 0
    successor: Stream | None = None


class Opened(NamedTuple):
    """The other end accepted a stream."""

    stream: Stream


class Arrived(NamedTuple):
    """The other end opened a stream on a channel that is listened on."""

    stream: Stream


class Readable(NamedTuple):
    """There is something to read where there was nothing."""

    stream: Stream


class Writable(NamedTuple):
    """The writer, who had to wait, may go on."""

    stream: Stream


class Closed(NamedTuple):
    """The stream has ended, and everything before its end has come to the one who did not end it."""

    stream: Stream


class Lost(NamedTuple):
    """The stream was not accepted, was aborted, or its cable failed."""

    stream: Stream
    why: str


Event: TypeAlias = Opened | Arrived | Readable | Writable | Closed | Lost
