"""Answers to what clients ask of a server instead of a target (docs/policy.md, "Listing" and "Ending")."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from kdsrv import __version__
from kdsrv.auth.users import Role, User
from kdsrv.policy.policy import NotAllowed
from kdsrv.server.listing import make_listing
from kdsrv.sessions.directory import Directory
from kdsrv.wire.members import one_line
from kdsrv.wire.messages import Listing

__all__ = ["Answers"]


class Answers:
    """Answers for one server. ``end`` ends it; None: clients cannot. A ``hidden`` listener gives no listing."""

    _log = Logger()

    def __init__(self, directory: Directory, end: Callable[[], None] | None, *, hidden: bool = False) -> None:
        self._directory = directory
        self._end = end
        self._hidden = hidden

    def listing(self, user: User) -> Listing:
        """What there is, as far as the user may see it. NotAllowed if this listener is hidden."""
        if self._hidden:
            raise NotAllowed(target="the listing", why="it is hidden")
        directory = self._directory
        published, now = directory.published(user), directory.wall_clock()
        return make_listing(f"kdsrv {__version__}", user, published, directory, now, directory.tenant_of)

    def end(self, user: User) -> None:
        """Begin to end the server. NotAllowed for a user who may not do everything."""
        if user.role is not Role.FULL or user.targets is not None:
            raise NotAllowed(target="its end", why="for that a user needs the role full, and all targets")
        if self._end is None:
            raise NotAllowed(target="its end", why="it ends with the program that it is part of")
        self._log.warn("{user} ends the server", user=one_line(user.name) or "a client")
        self._end()
