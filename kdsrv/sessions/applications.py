"""Those who have asked for a target that somebody has, each until its holder gives it away, leaves, or says nothing."""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kdsrv.errors import TargetError
from kdsrv.sessions.tenant import Applicant

__all__ = ["ASK_LIMIT", "MOST_ASKING", "Applications", "NotGiven"]

ASK_LIMIT: Final = 60.0
"""Seconds that a holder has to answer."""
MOST_ASKING: Final = 8
"""Applicants for one target."""


class NotGiven(TargetError):
    """{target} is held by {holder}, who was asked for it and has not given it away within {seconds} s"""

    code = "held"


class TooManyAsk(TargetError):
    """{target} is held by {holder}, and {number} others have asked for it already"""

    code = "held"


class _Application:
    """One applicant who waits."""

    def __init__(self, applicant: Applicant, holder: str, answer: Deferred[None], timer: IDelayedCall) -> None:
        self.applicant = applicant
        self.holder = holder
        self.answer = answer
        self.timer = timer


class Applications:
    """All who wait, by the key of the target."""

    def __init__(self, clock: IReactorTime, limit: float = ASK_LIMIT) -> None:
        self.limit = limit
        self._clock = clock
        self._waiting: dict[str, list[_Application]] = {}

    def ask(self, key: str, applicant: Applicant, target: str, holder: str) -> Deferred[None]:
        """Fires when it is the applicant's turn, and fails with a TargetError when nobody answers. Can be cancelled."""
        waiting = self._waiting.setdefault(key, [])
        answer: Deferred[None] = Deferred(lambda _: self._remove(key, application))
        if len(waiting) >= MOST_ASKING:
            answer.errback(TooManyAsk(target=target, holder=holder, number=len(waiting)))
            return answer
        timer = self._clock.callLater(self.limit, self._unanswered, key, target)
        application = _Application(applicant, holder, answer, timer)
        waiting.append(application)
        return answer

    def give(self, key: str) -> Applicant | None:
        """The target goes to who asked for it first; None if nobody has."""
        waiting = self._waiting.get(key)
        if not waiting:
            return None
        first = waiting[0]
        self._remove(key, first)
        first.answer.callback(None)
        return first.applicant

    def pass_on(self, key: str, holder: str) -> list[Applicant]:
        """The target has got another holder, who has as long to answer. Gives those who still wait."""
        waiting = self._waiting.get(key, [])
        for application in waiting:
            application.holder = holder
            application.timer.reset(self.limit)
        return [application.applicant for application in waiting]

    def _unanswered(self, key: str, target: str) -> None:
        first = self._waiting[key][0]
        self._remove(key, first)
        first.answer.errback(NotGiven(target=target, holder=first.holder, seconds=round(self.limit)))

    def _remove(self, key: str, application: _Application) -> None:
        waiting = self._waiting[key]
        waiting.remove(application)
        if application.timer.active():
            application.timer.cancel()
        if not waiting:
            del self._waiting[key]
