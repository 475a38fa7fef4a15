"""One direction of the cable made reliable: records are numbered, acknowledged together, and sent again when missing.

The sender keeps what is not acknowledged, up to `WINDOW` records, and goes back to the first of them when

* the receiver says that there is a gap, or
* nothing was acknowledged for a while: time for the line to carry the answer, doubled with each try in a row.

The receiver takes only the record that comes next. One that is too late is acknowledged again; one that is too early
means a gap, which is told once. If a number comes that is not above the one before, the sender has gone back, and a
gap that is still there is told again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["WINDOW", "Incoming", "Outgoing", "Record"]

WINDOW: Final = 32
"""Records under way in one direction."""

_MODULO: Final = 1 << 16
_LONGEST_WAIT: Final = 3.0
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
        self._tries = 0
        self._progress_at = 0.0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def has_room(self) -> bool:
        """Whether one more record may be under way."""
        return len(self._kept) < WINDOW

    @property
    def must_repeat(self) -> bool:
        """Whether records wait to be sent that were sent before."""
        return self._cursor < len(self._kept)

    @property
    def deadline(self) -> float | None:
        """When to go back if nothing is acknowledged; None while all is well or is being sent again."""
        if not self._kept or self._cursor == 0:
            return None
        wait = min(self._patience * (1 << self._tries), max(_LONGEST_WAIT, self._patience))
        return max(self._kept[0].gone_at, self._progress_at) + wait

    @property
    def upcoming(self) -> Record:
        """The record that `send` would send."""
        return self._kept[self._cursor].record

    def add(self, record: Record) -> None:
        """One more record; it has to be sent before anything else is added."""
        self._kept.append(_Sent(record))

    def send(self, gone_at: float) -> tuple[int, Record]:
        """The next record to be sent and its number; the line will have carried it at ``gone_at``."""
        sent = self._kept[self._cursor]
        self.repeats += sent.times > 0
        sent.times += 1
        sent.gone_at = gone_at
        number = (self._first + self._cursor) % _MODULO
        self._cursor += 1
        return number, sent.record

    def acknowledged(self, number: int, *, gap: bool, now: float) -> None:
        """The other end has everything before ``number``; with ``gap`` it misses that one and got later ones."""
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
        if gap:
            self._cursor = 0

    def expire(self, now: float) -> None:
        """Go back if the deadline has come."""
        deadline = self.deadline
        if deadline is not None and now >= deadline:
            self._cursor = 0
            self._tries = min(self._tries + 1, _MOST_DOUBLED)


class Incoming:
    """Which record of the other end comes next, and whether that has to be told."""

    def __init__(self) -> None:
        self.expected = 0
        self.must_tell = False
        self.gap = False
        self.duplicates = 0
        self._early: int | None = None

    def take(self, number: int) -> bool:
        """Whether this is the record to take now."""
        self.must_tell = True
        distance = (number - self.expected) % _MODULO
        if distance == 0:
            self.expected = (number + 1) % _MODULO
            self._early = None
            self.gap = False
            return True
        if distance >= WINDOW:
            self.duplicates += 1
            return False
        if self._early is None or distance <= self._early:
            self.gap = True
        self._early = distance
        return False

    def told(self) -> None:
        """A frame with ``expected`` and ``gap`` has gone."""
        self.must_tell = self.gap = False
