"""One direction of the cable made reliable: records are numbered, acknowledged together, and sent again when missing.

The receiver gives records on in order, and keeps those that come early until the gap before them is filled. It
acknowledges everything before the first gap, and tells a gap once.

The sender keeps what is not acknowledged, up to `WINDOW` records. It sends the first of them again

* when a gap is told: that one alone, and goes on with new records,
* when nothing was acknowledged for a while (time for the line to carry the answer, doubled with each try in a row):
  that one at first, then twice as many with each acknowledgement that comes, for all may be missing. New records wait
  until that is over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["WINDOW", "Incoming", "Outgoing", "Record"]

WINDOW: Final = 32
"""Records under way in one direction."""

_MODULO: Final = 1 << 16
_LONGEST_WAIT: Final = 1.5
_MOST_DOUBLED: Final = 5


class Record(NamedTuple):
    """What a numbered frame says about a channel."""

    kind: int
    channel: int
    payload: bytes = b""


@dataclass(slots=True)
class _Sent:
    record: Record
    times: int = 0
    gone_at: float = 0.0


class Outgoing:
    """The records that the other end may not have yet. ``patience``: seconds to wait for an acknowledgement."""

    def __init__(self, patience: float) -> None:
        self.repeats = 0
        self._patience = patience
        self._kept: deque[_Sent] = deque()
        self._first = 0
        self._cursor = 0
        self._burst = WINDOW
        self._is_gap = False
        self._tries = 0
        self._progress_at = 0.0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def has_room(self) -> bool:
        """Whether one more record may be under way."""
        return self._cursor == len(self._kept) < WINDOW

    @property
    def must_send(self) -> bool:
        """Whether there is a record to be sent, or sent again, now."""
        return self._is_gap or self._cursor < min(self._burst, len(self._kept))

    @property
    def deadline(self) -> float | None:
        """When to send again if nothing is acknowledged."""
        if not self._kept or self._cursor == 0:
            return None
        wait = min(self._patience * (1 << self._tries), max(_LONGEST_WAIT, self._patience))
        return max(self._kept[0].gone_at, self._progress_at) + wait

    @property
    def upcoming(self) -> Record:
        """The record that `send` would send."""
        return self._kept[0 if self._is_gap else self._cursor].record

    def add(self, record: Record) -> None:
        """One more record, if there is room."""
        self._kept.append(_Sent(record))

    def send(self, gone_at: float) -> tuple[int, Record]:
        """The record to be sent and its number; the line will have carried it at ``gone_at``."""
        index = 0 if self._is_gap else self._cursor
        self._is_gap = False
        if index == self._cursor:
            self._cursor += 1
        sent = self._kept[index]
        self.repeats += sent.times > 0
        sent.times += 1
        sent.gone_at = gone_at
        return (self._first + index) % _MODULO, sent.record

    def acknowledged(self, number: int, *, gap: bool, now: float) -> None:
        """The other end has everything before ``number``; with ``gap`` it misses that one and has later ones."""
        count = (number - self._first) % _MODULO
        if count > len(self._kept):
            return
        for _ in range(count):
            if self._kept.popleft().times == 1:
                self._tries = 0
        self._first = number
        self._cursor = max(0, self._cursor - count)
        if count:
            self._progress_at = now
            self._burst = min(self._burst * 2, WINDOW)
            self._is_gap = False
        if gap and self._kept:
            self._is_gap = True

    def expire(self, now: float) -> None:
        """Send again if the deadline has come."""
        deadline = self.deadline
        if deadline is not None and now >= deadline:
            self._cursor = 0
            self._burst = 1
            self._tries = min(self._tries + 1, _MOST_DOUBLED)


class Incoming:
    """Which record of the other end comes next, those that came before it, and whether that has to be told."""

    def __init__(self) -> None:
        self.expected = 0
        self.must_tell = False
        self.gap = False
        self.duplicates = 0
        self._early: dict[int, Record] = {}
        self._gap_told: int | None = None

    def take(self, number: int, record: Record) -> list[Record]:
        """A record came; those that may be given on now, in order."""
        self.must_tell = True
        distance = (number - self.expected) % _MODULO
        if distance >= WINDOW or number in self._early:
            self.duplicates += 1
            return []
        self._early[number] = record
        complete = []
        while (following := self._early.pop(self.expected, None)) is not None:
            complete.append(following)
            self.expected = (self.expected + 1) % _MODULO
        self.gap = bool(self._early) and (self.gap or self._gap_told != self.expected)
        if self.gap:
            self._gap_told = self.expected
        return complete

    def told(self) -> None:
        """A frame with ``expected`` and ``gap`` has gone."""
        self.must_tell = self.gap = False
