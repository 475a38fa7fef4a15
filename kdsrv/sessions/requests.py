"""The requests of a session: which wait, which one the target is at, and which are lost.

KD allows one request at a time, though a user may hand over many at once. A request is *on the link* from the moment it
is sent until its reply, or its acknowledgement if that is all it gets. Those behind it wait in order.

    put -> waiting -> begin -> on the link -> end
                                           -> lose: its user is told that no reply comes
                                           -> disown: its user has gone, and the reply is nobody's

One that is too long for the medium is on the link until all its portions are answered (see kdsrv/kd/portions.py).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from kdsrv.errors import PeerError
from kdsrv.kd.api import FIELDS, NO_REPLY, RUNS_TARGET, Api, api_number
from kdsrv.kd.layout import read_field
from kdsrv.kd.portions import Portions, portions

__all__ = ["Requests", "runs_target", "time_to_work"]

_MAX_WAITING: Final = 2000
"""Requests that may wait for the target: far more than a window, which counts only those that are replied to."""
_MAY_RUN: Final = frozenset({Api.WRITE_BREAKPOINT_EX, Api.RESTORE_BREAKPOINT_EX})
_SIZE_OF_NUMBER: Final = 4
_RUN_OR_MAY: Final = RUNS_TARGET | _MAY_RUN
_CONTINUE_STATUS: Final = slice(0x14, 0x18)
_LONG: Final = frozenset({Api.SEARCH_MEMORY, Api.FILL_MEMORY})
_WORK: Final = 4 << 20
"""Bytes that the slowest target goes through in a second; an emulated one does."""
_MAX_WORK: Final = 600.0


def runs_target(payload: bytes) -> bool:
    """Whether a halted target runs after this request (of at least four bytes)."""
    api = api_number(payload)
    return api in RUNS_TARGET or (api in _MAY_RUN and any(payload[_CONTINUE_STATUS]))


def time_to_work(request: bytes) -> float:
    """Seconds that a slow target may be at a request over what each may take: one that goes through much memory."""
    api = api_number(request)
    return min(read_field(request, FIELDS[api]["length"]) / _WORK, _MAX_WORK) if api in _LONG else 0.0


class Requests:
    """``waiting`` are those that wait, to be added to by ``put``. ``api`` is the ApiNumber of the request on the link,
    None if there is none; ``payload`` is that request, and ``runs_target`` whether the target runs for it; ``portions``
    follow it if there are several, of which ``portion`` was sent last, and its reply begins with ``reply_begins``.
    ``then_break_in``: a break-in goes behind the next that runs the target."""

    __slots__ = (
        *("_is_owned", "api", "begun_at", "payload", "portion", "portions", "reply_begins", "runs_target"),
        *("then_break_in", "waiting"),
    )

    def __init__(self) -> None:
        self.api: int | None = None
        self.waiting: deque[bytes] = deque()
        self.payload = self.portion = b""
        self.reply_begins: bytes | None = None
        self.portions: Portions | None = None
        self.runs_target = False
        self.then_break_in = False
        self.begun_at = 0.0
        self._is_owned = True

    def put(self, payload: bytes) -> None:
        """Add a request. PeerError for one that is too short to be one, or when too many wait."""
        waiting = self.waiting
        if len(payload) < _SIZE_OF_NUMBER:
            api_number(payload)
        if len(waiting) >= _MAX_WAITING:
            raise PeerError(why="it sends requests without end, and the target takes none")
        waiting.append(payload)

    def begin(self, payload: bytes, now: float) -> None:
        """This one is on the link from now on."""
        self.payload = self.portion = payload
        self.reply_begins = payload[:_SIZE_OF_NUMBER]
        self.api = api = api_number(payload)
        self.runs_target = api in _RUN_OR_MAY and runs_target(payload)
        self.begun_at = now
        self._is_owned = True

    def divide(self, max_request: int, max_reply: int) -> bytes | None:
        """Put the one on the link in portions, if it is too long for a medium with these largest payloads, in bytes.

        What is returned is the reply to one that is too long and has no portions.
        """
        self.portions = portions(self.payload, max_request, max_reply)
        if self.portions is not None:
            try:
                self._sent(next(self.portions))
            except StopIteration as end:
                refusal: bytes = end.value
                return refusal
        return None

    def join(self, reply: bytes, now: float) -> bytes | None:
        """The reply to the whole request, or None: then another ``portion`` is to be sent."""
        if self.portions is None or not self._is_owned:
            return reply
        try:
            self._sent(self.portions.send(reply))
        except StopIteration as end:
            whole: bytes = end.value
            return whole
        self.begun_at = now
        return None

    def _sent(self, portion: bytes) -> None:
        self.portion = portion
        self.reply_begins = portion[:_SIZE_OF_NUMBER]

    def end(self) -> bool:
        """The request on the link is answered, or acknowledged if that is all it gets; whether its user is there."""
        self.api = self.portions = self.reply_begins = None
        self.runs_target = False
        return self._is_owned

    @property
    def waiting_run_target(self) -> bool:
        """Whether one that waits will let the target run."""
        return any(map(runs_target, self.waiting))

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
        lost = self.lose() + sum(api_number(payload) not in NO_REPLY for payload in self.waiting)
        self.waiting.clear()
        self.then_break_in = False
        return lost

    def disown(self) -> bytes:
        """Forget those that wait, and that anybody wants the reply to the one on the link.

        The last of them is returned if it lets the target run, else b"".
        """
        last = self.waiting[-1] if self.waiting else b""
        self.waiting.clear()
        self.then_break_in = False
        self._is_owned = False
        return last if last and runs_target(last) else b""
