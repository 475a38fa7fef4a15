"""The requests of a session: which wait, which one the target is at, and which are lost.

KD allows one request at a time, though a user may hand over many at once. A request is *on the link* from the moment it
is sent until its reply, or its acknowledgement if that is all it gets. Those behind it wait in order.

    put -> waiting -> next -> begin -> on the link -> end
                                                   -> lose: its user is told that no reply comes
                                                   -> disown: it had a user who has gone, and its reply is nobody's
"""

from __future__ import annotations

from collections import deque
from typing import Final

from kdsrv.errors import PeerError
from kdsrv.kd.api import NO_REPLY, RUNS_TARGET, Api, api_number

__all__ = ["Requests", "runs_target"]

_MAX_WAITING: Final = 2000
"""Requests that may wait for the target: far more than a window, which counts only those that are replied to."""
_MAY_RUN: Final = frozenset({Api.WRITE_BREAKPOINT_EX, Api.RESTORE_BREAKPOINT_EX})
_CONTINUE_STATUS: Final = slice(0x14, 0x18)


def runs_target(payload: bytes) -> bool:
    """Whether a halted target runs after this request (of at least four bytes)."""
    api = api_number(payload)
    return api in RUNS_TARGET or (api in _MAY_RUN and any(payload[_CONTINUE_STATUS]))


class Requests:
    """``api`` is the ApiNumber of the request on the link, None if there is none; ``payload`` is that request, and
    ``runs_target`` whether the target runs for it."""

    __slots__ = ("_is_owned", "_waiting", "api", "begun_at", "payload", "runs_target")

    def __init__(self) -> None:
        self.api: int | None = None
        self.payload = b""
        self.runs_target = False
        self.begun_at = 0.0
        self._waiting: deque[bytes] = deque()
        self._is_owned = True

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def put(self, payload: bytes) -> None:
        """Add a request. PeerError for one that is too short to be one, or when too many wait."""
        api_number(payload)
        if len(self._waiting) >= _MAX_WAITING:
            raise PeerError(why="it sends requests without end, and the target takes none")
        self._waiting.append(payload)

    def next(self) -> bytes:
        """Take the oldest that waits."""
        return self._waiting.popleft()

    def begin(self, payload: bytes, now: float) -> None:
        """This one is on the link from now on."""
        self.payload = payload
        self.api = api_number(payload)
        self.runs_target = runs_target(payload)
        self.begun_at = now
        self._is_owned = True

    def is_answered_by(self, reply: bytes) -> bool:
        """Whether this reply is to the request on the link."""
        return self.api is not None and reply[:4] == self.payload[:4]

    def end(self) -> bool:
        """The request on the link is answered, or acknowledged if that is all it gets; whether its user is there."""
        self.api = None
        self.runs_target = False
        return self._is_owned

    @property
    def waiting_run_target(self) -> bool:
        """Whether one that waits will let the target run."""
        return any(map(runs_target, self._waiting))

    @property
    def is_replied(self) -> bool:
        """Whether a request is on the link that gets a reply."""
        return self.api is not None and self.api not in NO_REPLY

    def lose(self) -> int:
        """No reply comes to the one on the link. How many its user has to be told of: one, or none."""
        is_replied = self.is_replied
        return int(self.end() and is_replied)

    def lose_all(self) -> int:
        """No reply comes to any. How many their user has to be told of; those without a reply do not count."""
        lost = self.lose() + sum(api_number(payload) not in NO_REPLY for payload in self._waiting)
        self._waiting.clear()
        return lost

    def disown(self) -> None:
        """Forget those that wait; the reply to the one on the link is nobody's."""
        self._waiting.clear()
        self._is_owned = False

    def leave_last(self) -> None:
        """Forget those that wait, but for the last of them if it lets the target run."""
        last = self._waiting[-1] if self._waiting else b""
        self._waiting.clear()
        if last and runs_target(last):
            self._waiting.append(last)
