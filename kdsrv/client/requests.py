"""Requests on their way: replies come in the order of the requests, so who gets a reply is a matter of a queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from kdsrv.client.failures import RequestFailed, RequestLost
from kdsrv.errors import KdsrvError
from kdsrv.kd.api import api_name, api_number
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.manipulate import Manipulate

__all__ = ["Asker", "Question", "RequestQueue"]


class Asker(Protocol):
    """Who waits for a reply."""

    @property
    def api(self) -> int:
        """The ApiNumber of its requests."""
        ...

    def replied(self, payload: bytes) -> None:
        """The reply to its oldest request."""
        ...

    def lost(self, error: KdsrvError) -> None:
        """Its oldest request gets no reply."""
        ...


class RequestQueue:
    """Who waits for which of the replies that come. ``send`` passes a request on to the session; ``replies`` counts
    those that came."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.replies = 0
        self._send = send
        self._waiting: deque[Asker] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, payload: bytes, asker: Asker) -> None:
        """Send a request that gets a reply; it comes from the reactor, never from in here."""
        self._send(payload)
        self._waiting.append(asker)

    def replied(self, payload: bytes) -> bool:
        """A reply came. False if it is not to the oldest request."""
        waiting = self._waiting
        if not waiting or api_number(payload) != waiting[0].api:
            return False
        self.replies += 1
        waiting.popleft().replied(payload)
        return True

    def lose(self, count: int) -> None:
        """The ``count`` oldest requests get no reply."""
        for asker in [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]:
            asker.lost(RequestLost(request=api_name(asker.api)))

    def end(self, error: Callable[[], KdsrvError]) -> None:
        """No reply comes any more, for the reason that ``error`` gives."""
        waiting, self._waiting = self._waiting, deque()
        for asker in waiting:
            asker.lost(error())


class Question:
    """One request and the Deferred of its reply, which fails with RequestFailed if the target refuses it."""

    __slots__ = ("_check", "answer", "api")

    def __init__(self, api: int, *, check: bool = True) -> None:
        """Without ``check`` a refusal is a reply like any other."""
        self.api = api
        self.answer: Deferred[Manipulate] = Deferred(lambda _: None)
        self._check = check

    def replied(self, payload: bytes) -> None:
        if self.answer.called:
            return
        try:
            reply = Manipulate.decode(payload)
        except PayloadError as error:
            self.answer.errback(error)
            return
        if self._check and not reply.succeeded:
            self.answer.errback(RequestFailed(reply.name, reply.status))
        else:
            self.answer.callback(reply)

    def lost(self, error: KdsrvError) -> None:
        if not self.answer.called:
            self.answer.errback(error)
