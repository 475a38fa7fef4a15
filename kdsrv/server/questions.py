"""What a client may ask of a server instead of a target."""

from __future__ import annotations

from typing import Protocol

from kdsrv.auth.users import User
from kdsrv.errors import SetupError
from kdsrv.wire.messages import Listing

__all__ = ["NoAnswers", "Questions"]


class Questions(Protocol):
    """Answers questions. Both methods raise a KdsrvError, a sentence, for who may not ask."""

    def listing(self, user: User) -> Listing:
        """What there is, as far as the user may see it."""

    def end(self, user: User) -> None:
        """Begin to end the server. The client is told goodbye after it."""


class NoAnswers:
    """A server that is not asked."""

    def listing(self, user: User) -> Listing:
        raise SetupError(why="this server tells nobody what it has")

    def end(self, user: User) -> None:
        raise SetupError(why="this server does not end because a client says so")
