"""Waiting for what may come: how often to try, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from twisted.internet.defer import Deferred

from kdsrv.errors import TargetError
from kdsrv.transports.descriptor import Reactor

__all__ = ["PATIENCE", "RETRY_EVERY", "keep_trying"]

T = TypeVar("T")

PATIENCE: Final = 2.0
"""Seconds that one opening lets pass before it says what it waits for."""

RETRY_EVERY: Final = 0.1
"""Seconds between two tries; a try is a system call or two."""


async def keep_trying(reactor: Reactor, attempt: Callable[[], T | None], refusal: TargetError) -> T:
    """The first result of ``attempt`` that is not None; raises ``refusal`` if there is none within `PATIENCE`."""
    give_up_at = reactor.seconds() + PATIENCE
    while (result := attempt()) is None:
        if reactor.seconds() >= give_up_at:
            raise refusal
        await _sleep(reactor)
    return result


def _sleep(reactor: Reactor) -> Deferred[None]:
    done: Deferred[None] = Deferred(lambda _: call.cancel())
    call = reactor.callLater(RETRY_EVERY, done.callback, None)
    return done
