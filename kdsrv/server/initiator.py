"""The server dials a client that waits for it, and again for the next one (reverse connections).

One connection that no client has taken is kept; the next is opened as soon as a client has a target over it, so that
any number of clients work at once.

    step        what is awaited                    what follows
    dialling    the connection                     idle; on failure: waiting
    idle        a client that takes it             dialling, for the next client; if the connection ends: waiting
    waiting     the time that ``Backoff`` gives    dialling; the end of a session makes the wait a short one

Which side has to log in, and who speaks first, is the same as where the client dials.
"""

from __future__ import annotations

import random as chance
import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed, ConnectionRefusedError, DNSLookupError, TimeoutError
from twisted.internet.interfaces import IAddress, IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv.backoff import Backoff
from kdsrv.server.factory import KdsrvServerFactory
from kdsrv.server.protocol import Dialled, KdsrvServerProtocol

__all__ = ["Initiator"]

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 30.0
_KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""A connection whose path is dead is noticed within a minute, although nobody speaks on it."""


class Initiator(Service):
    """Dials ``endpoint``, which people call ``address``, as long as it runs, and serves whoever answers.

    ``reactor`` gives the time. Stopping ends the dialling and the connection that no client has taken; sessions that
    clients have over others go on until the factory stops them.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamClientEndpoint,
        address: str,
        factory: KdsrvServerFactory,
        *,
        random: Callable[[], float] = chance.random,
    ) -> None:
        self.address = address
        self._reactor = reactor
        self._endpoint = endpoint
        self._factory = factory
        self._backoff = Backoff(random, FIRST_WAIT, LONGEST_WAIT)
        self._dialling: Deferred[Any] | None = None
        self._again: IDelayedCall | None = None
        self._idle: _Attempt | None = None
        self._idle_gone: Deferred[None] | None = None
        self._told: set[str] = set()

    @override
    def startService(self) -> None:
        super().startService()
        self._tell("dials {address}, again and again until a client waits there")
        self._dial()

    @override
    def stopService(self) -> Deferred[None] | None:
        """Fires when the connection that no client has taken is closed."""
        super().stopService()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._dialling is not None:
            self._dialling.cancel()
        if self._idle is None:
            return None
        self._idle_gone = Deferred()
        self._idle.close()
        return self._idle_gone

    # The steps

    def _dial(self) -> None:
        self._again = None
        attempt = _Attempt(self, self._factory)
        self._dialling = self._endpoint.connect(attempt)
        self._dialling.addCallbacks(self._connected, self._not_connected, callbackArgs=(attempt,))

    def _connected(self, _: object, attempt: _Attempt) -> None:
        self._dialling = None
        self._idle = attempt
        attempt.connected(self._reactor.seconds())
        self._tell("connected to {address}; the connection waits for a client to use it")

    def _not_connected(self, failure: Failure) -> None:
        self._dialling = None
        if self.running:
            self._later(_reason(failure))

    def taken(self, attempt: _Attempt) -> None:
        """A client has a target over the connection: the next one may come."""
        if attempt is not self._idle:
            return
        self._idle = None
        if self.running:
            self._worked()
            self._tell("dials {address} for the next client")
            self._dial()

    def gone(self, attempt: _Attempt, reason: Failure) -> None:
        """A connection has ended, taken or not."""
        if attempt is not self._idle:
            self._come_back_soon()
            return
        self._idle = None
        if self._idle_gone is not None:
            self._idle_gone.callback(None)
            self._idle_gone = None
        elif attempt.spoken or self._reactor.seconds() - attempt.since >= LONGEST_WAIT:
            self._worked()
            self._later(None if attempt.spoken else _reason(reason))
        else:
            self._later(f"the connection ended before a client spoke: {_reason(reason)}")

    def _come_back_soon(self) -> None:
        """A session is over: whoever had it may well wait for the next one."""
        if self._again is not None:
            self._backoff.reset()
            self._again.reset(self._backoff.next())

    def _later(self, why: str | None) -> None:
        if why is not None:
            self._tell("{address}: {why}; trying again, every {limit:.0f} s at least", why=why)
        self._again = self._reactor.callLater(self._backoff.next(), self._dial)

    def _worked(self) -> None:
        self._backoff.reset()
        self._told.clear()

    def _tell(self, line: str, *, why: str = "") -> None:
        """Log this, unless it was logged since something last worked: the log does not grow with the tries."""
        if line + why not in self._told:
            self._told.add(line + why)
            self._log.info(line, address=self.address, why=why, limit=LONGEST_WAIT)


class _Attempt(Factory):
    """One connection, from the try on."""

    noisy = False

    def __init__(self, initiator: Initiator, factory: KdsrvServerFactory) -> None:
        self.spoken = False
        self.since = 0.0
        self._initiator = initiator
        self._factory = factory
        self._protocol: KdsrvServerProtocol | None = None

    @override
    def buildProtocol(self, addr: IAddress | None) -> KdsrvServerProtocol:
        dialled = Dialled(self._heard, lambda: self._initiator.taken(self), self._gone)
        self._protocol = self._factory.buildProtocol(addr, dialled)
        return self._protocol

    def connected(self, now: float) -> None:
        """The connection stands; from now on its path is watched."""
        self.since = now
        assert self._protocol is not None
        line = getattr(self._protocol.transport, "socket", None)
        if isinstance(line, socket.socket) and line.family != socket.AF_UNIX:
            for option, value in _KEEP_ALIVE:
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def close(self) -> None:
        """End it: with a word to a client that has spoken, at once where nobody listens."""
        assert self._protocol is not None
        line: Any = self._protocol.transport
        if self.spoken:
            self._protocol.shut_down()
        else:
            line.abortConnection()

    def _heard(self) -> None:
        self.spoken = True

    def _gone(self, reason: Failure) -> None:
        self._initiator.gone(self, reason)


def _reason(failure: Failure) -> str:
    """Why there is no connection, for people."""
    error = failure.value
    if isinstance(error, ConnectionRefusedError):
        return "no client waits there"
    if isinstance(error, DNSLookupError):
        return "there is no host of that name"
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ConnectionClosed):
        return failure.getErrorMessage().rstrip(".")
    return str(getattr(error, "osError", None) or error) or type(error).__name__
