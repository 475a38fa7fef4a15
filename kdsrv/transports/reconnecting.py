"""A pipe that comes and goes with its virtual machine (``reconnect``, KD protocol, 1.10).

Away from the start, or lost later, it is looked for ten times a second until it is there or `close` is called. Only an
error in the receiver ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kdsrv.errors import TargetError
from kdsrv.sessions.status import Status
from kdsrv.transports.descriptor import Reactor
from kdsrv.transports.patience import RETRY_EVERY
from kdsrv.transports.transport import Receiver, ReceiverFailed, Transport

__all__ = ["ReconnectingTransport"]


class ReconnectingTransport:
    """Carries over one transport after the other, each from ``open_one``; ``first`` is already open, or None.

    It is a `Transport` outward and the `Receiver` of the one that it carries over.
    """

    _log: ClassVar[Logger] = Logger()

    byte_time = 0.0

    def __init__(
        self,
        reactor: Reactor,
        description: str,
        open_one: Callable[[], Coroutine[Any, Any, Transport]],
        first: Transport | None,
    ) -> None:
        self.description = description
        self._reactor = reactor
        self._open_one = open_one
        self._current = first
        self._receiver: Receiver | None = None
        self._next: IDelayedCall | None = None
        self._opening: Deferred[Transport] | None = None

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver. See `Transport`; a pipe that is not there is told as an interruption."""
        self._receiver = receiver
        if self._current is None:
            self._next = self._reactor.callLater(0, self._interrupt, "the pipe is not there")
        else:
            self._current.start(self)

    def write(self, data: bytes) -> None:
        """Send now, or drop while the pipe is away: nobody is there to read it. See `Transport`."""
        if self._current is not None:
            self._current.write(data)

    def close(self) -> None:
        """Close now, silently; also ends the waiting. See `Transport`."""
        self._receiver = None
        if self._current is not None:
            self._current.close()
            self._current = None
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._opening is not None:
            self._opening.cancel()

    def bytes_received(self, data: bytes) -> int:
        """Hand on."""
        return 0 if self._receiver is None else self._receiver.bytes_received(data)

    def transport_interrupted(self, why: str | Status) -> None:
        """Hand on."""
        if self._receiver is not None:
            self._receiver.transport_interrupted(why)

    def transport_resumed(self) -> None:
        """Hand on."""
        if self._receiver is not None:
            self._receiver.transport_resumed()

    def transport_lost(self, reason: TargetError) -> None:
        """The pipe went away: look for it again, unless the receiver is what failed."""
        self._current = None
        if isinstance(reason, ReceiverFailed):
            self._end(reason)
        else:
            self._interrupt(str(reason.facts["why"]))

    def _interrupt(self, why: str) -> None:
        self._next = self._reactor.callLater(RETRY_EVERY, self._try)
        self._guarded(lambda receiver: receiver.transport_interrupted(why))

    def _try(self) -> None:
        self._next = None
        opening = self._opening = Deferred.fromCoroutine(self._open_one())
        opening.addCallbacks(self._opened, self._not_opened)

    def _opened(self, transport: Transport) -> None:
        self._opening = None
        self._current = transport
        transport.start(self)
        self._guarded(lambda receiver: receiver.transport_resumed())

    def _not_opened(self, failure: Failure) -> None:
        self._opening = None
        if failure.check(CancelledError):
            return
        if failure.check(TargetError):
            # Any refusal may be a moment of the machine's start, as a socket whose owner is still to be set.
            self._next = self._reactor.callLater(RETRY_EVERY, self._try)
            return
        self._log.failure("an error while opening {line}", failure, line=self.description)
        self._end(ReceiverFailed(target=self.description, why=type(failure.value).__name__))

    def _guarded(self, call: Callable[[Receiver], None]) -> None:
        """Tell the receiver; if it fails, that ends the line as an error in `bytes_received` does."""
        if self._receiver is None:
            return
        try:
            call(self._receiver)
        except Exception as error:  # whatever it is, it concerns this line only
            self._log.failure("an error while telling about {line}", line=self.description)
            self._end(ReceiverFailed(target=self.description, why=type(error).__name__))

    def _end(self, reason: TargetError) -> None:
        receiver = self._receiver
        self.close()
        if receiver is not None:
            receiver.transport_lost(reason)
