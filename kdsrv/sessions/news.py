"""Which change of a status is worth a line of its own."""

from __future__ import annotations

from typing import Final

from kdsrv.sessions.link_status import LINK_TICKING
from kdsrv.sessions.net_status import NET_TICKING
from kdsrv.sessions.status import BreakingIn, Connected, Noise, Quiet, Status

__all__ = ["is_news"]

_TICKING: Final = frozenset({Quiet.kind, Connected.kind, Noise.kind, BreakingIn.kind}) | NET_TICKING | LINK_TICKING
"""Statuses that come again and again while nothing but a number in them changes."""


def is_news(last: Status | None, status: Status) -> bool:
    """Whether more has changed than a number of seconds or bytes since the last one; that it was waited for long enough
    to tell something counts as more."""
    if last is None or status.kind != last.kind:
        return True
    return status != last and (status.kind not in _TICKING or (last.is_early and not status.is_early))
