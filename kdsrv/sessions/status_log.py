"""What a session writes into the log: each trouble of a target or its line once as it begins, and that it has ended."""

from __future__ import annotations

from typing import ClassVar, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kdsrv.sessions.news import is_news
from kdsrv.sessions.status import BreakingIn, RunState, Status

__all__ = ["StatusLog"]

_LEAST_APART: Final = 1.0
"""Seconds between two lines. A target that changes its mind faster, or on purpose, fills no disk."""


class StatusLog:
    """For the target that people call ``name``."""

    _log: ClassVar[Logger] = Logger()

    def __init__(self, clock: IReactorTime, name: str) -> None:
        self._clock = clock
        self._name = name
        self._last: Status | None = None
        self._next_at = -float("inf")

    def note(self, status: Status) -> None:
        """The status has changed. That a target halts and runs is no news, and a break-in is to be waited for."""
        last = self._last
        if isinstance(status, BreakingIn) or not is_news(last, status):
            return
        if last is not None and _is_settled(last) and _is_settled(status):
            return
        now = self._clock.seconds()
        if now >= self._next_at:
            self._last = status
            self._next_at = now + _LEAST_APART
            self._log.info("{target}: {status}", target=self._name, status=status.sentence())


def _is_settled(status: Status) -> bool:
    return status.run_state is not RunState.UNKNOWN
