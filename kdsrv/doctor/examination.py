"""How a line is examined: what is done in which order, and for how long each is waited for.

    CONNECT    a line that comes by itself, as KDNET or a pipe does, is there; others are at once
    RESET      a target that is halted answers the RESET with which a session begins, and tells of its stop
    BREAK_IN   one that runs halts, if it may be made to
    TALK       it answers requests, a few in a row, so that bytes that get lost show
    DONE

Each step ends when what it waits for has come, or with its time; all together have a time too, and where that is not
the usual one, each step has its part of it. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

__all__ = ["LIMITS", "SHORT_LIMITS", "TOTAL", "Act", "Examination", "Seen", "Step", "short_total"]

TOTAL: Final = 13.0
_SETTLES: Final = 0.3
"""Until then a line that is away has said so."""
_ASKS: Final = 16
_FIRST_BYTES: Final = 64
_LONG_PACKET: Final = 600
"""Bytes: on a slow line a step has the time for so many besides, the first ones of an answer, or all of it."""


class Step(Enum):
    CONNECT = auto()
    RESET = auto()
    BREAK_IN = auto()
    TALK = auto()
    DONE = auto()


LIMITS: Final[Mapping[Step, float]] = {Step.CONNECT: 7.0, Step.RESET: 3.0, Step.BREAK_IN: 6.5, Step.TALK: 2.0}
SHORT_LIMITS: Final[Mapping[Step, float]] = {Step.CONNECT: 0.5, Step.RESET: 0.7, Step.BREAK_IN: 0.9, Step.TALK: 0.3}
"""For one rate of many."""


def short_total(byte_time: float) -> float:
    """Seconds that an examination with the short limits takes at the most."""
    return sum(limit + _extra(step, byte_time) for step, limit in SHORT_LIMITS.items())


def _extra(step: Step, byte_time: float) -> float:
    return byte_time * (_LONG_PACKET if step is Step.TALK else _FIRST_BYTES)


class Act(Enum):
    """What is to be done now."""

    BREAK_IN = auto()
    ASK = auto()


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of the line and the target. ``receiving``: a packet has begun and its end is still to come;
    ``in_step``: the target has answered a RESET; ``replies``: to what was asked."""

    away: bool = False
    lost: bool = False
    receiving: bool = False
    in_step: bool = False
    running: bool = False
    halted: bool = False
    replies: int = 0


class Examination:
    """Begun at ``now`` on a line where a byte takes ``byte_time``; `look` is to be called some times a second.

    ``broke_in``: a break-in was asked for. ``was_halted``: the target told of its stop before that. ``answered``:
    it, or a bridge in its place, had answered a RESET before that, and no more; whether it ran then is not known.
    """

    def __init__(
        self,
        now: float,
        *,
        may_break_in: bool,
        byte_time: float = 0.0,
        total: float = TOTAL,
        limits: Mapping[Step, float] | None = None,
    ) -> None:
        scale = total / TOTAL if limits is None else 1.0
        limits = LIMITS if limits is None else limits
        self.step = Step.CONNECT
        self.broke_in = False
        self.was_halted = False
        self.answered = False
        self.asked = 0
        self._may_break_in = may_break_in
        self._limits = {step: limit * scale + _extra(step, byte_time) for step, limit in limits.items()}
        self._began = self._step_began = now
        self._end = now + total

    def look(self, seen: Seen, now: float) -> Act | None:
        """How it stands ``now``, and what comes of that."""
        is_over = now >= self._step_began + self._limits.get(self.step, 0.0)
        if seen.lost or now >= self._end:
            self.step = Step.DONE
        elif seen.away:
            if self.step is not Step.CONNECT:
                self._begin(Step.CONNECT, now)
            elif is_over:
                self.step = Step.DONE
        elif self.step is Step.CONNECT:
            if now >= self._began + _SETTLES:
                self._begin(Step.RESET, now)
        elif self.step is Step.RESET:
            return self._after_reset(seen, now, is_over=is_over and not seen.receiving)
        elif self.step is Step.BREAK_IN:
            if seen.halted:
                self._begin(Step.TALK, now)
            elif is_over and not seen.receiving:
                self.step = Step.DONE
        elif self.step is Step.TALK:
            return self._talk(seen, is_over=is_over)
        return None

    def _after_reset(self, seen: Seen, now: float, *, is_over: bool) -> Act | None:
        if seen.halted:
            self.was_halted = True
            self._begin(Step.TALK, now)
        elif is_over or seen.running:
            if not self._may_break_in:
                self.step = Step.DONE
                return None
            # no sign that it stands still: a bridge answers in the place of a target that runs
            self.answered = seen.in_step and not seen.running
            self.broke_in = True
            self._begin(Step.BREAK_IN, now)
            return Act.BREAK_IN
        return None

    def _talk(self, seen: Seen, *, is_over: bool) -> Act | None:
        if is_over or seen.replies >= _ASKS or not seen.halted:
            self.step = Step.DONE
        elif seen.replies == self.asked:
            self.asked += 1
            return Act.ASK
        return None

    def _begin(self, step: Step, now: float) -> None:
        self.step = step
        self._step_began = now
