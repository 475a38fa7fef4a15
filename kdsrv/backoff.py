"""How long to wait between tries that fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["Backoff"]

_JITTER: Final = 0.25


class Backoff:
    """How long to wait after each failure: ``first`` seconds, then twice as long each time up to ``longest``, less up
    to a quarter at random, so that several do not try in step. ``random`` gives a float from 0 to below 1."""

    def __init__(self, random: Callable[[], float], first: float = 1.0, longest: float = 30.0) -> None:
        self._random = random
        self._first = self._step = first
        self._longest = longest

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        step, self._step = self._step, min(self._step * 2, self._longest)
        return step * (1 - _JITTER * self._random())

    def reset(self) -> None:
        """It worked: begin again with short waits."""
        self._step = self._first
