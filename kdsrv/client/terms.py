"""What a client and a server agree on about a session beside its target, and what goes on with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.tenant import Take
from kdsrv.wire.ledger import Ledger

__all__ = ["CALM", "PLAIN", "Rhythm", "Terms", "Thread"]


class Terms(NamedTuple):
    """How a target is asked for. ``resumable``: the session may outlive its connection; ``take``: what to do about who
    has the target (None: nothing); ``on_leave``: what becomes of it in the end (None: as the server was told)."""

    resumable: bool = False
    take: Take | None = None
    on_leave: OnLeave | None = None

    @classmethod
    def of_words(cls, take: str | None, on_leave: str | None) -> Self:
        """What a user has written. ValueError for a word that there is not."""
        return cls(take=None if take is None else Take(take), on_leave=None if on_leave is None else OnLeave(on_leave))


PLAIN: Final = Terms()


class Thread(NamedTuple):
    """What another connection needs to go on with a session."""

    token: str
    ledger: Ledger

    def __repr__(self) -> str:
        return "<the thread of a session>"


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds without a word from the server until it is asked for one, and until it is given up."""

    ping: float = 15.0
    silence: float = 45.0


CALM: Final = Rhythm()
