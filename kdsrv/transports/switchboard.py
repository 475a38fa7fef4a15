"""Descriptors beside the reactor's own, for less than it spends on an event.

A request through a bridge is two events, one on each line, and Twisted's reactor spends about six microseconds on each
besides what is done with it: a log context, the timers. Here that is about one. So fast lines register here: with one
epoll object for all of them, which the reactor sees as one reader. When that is ready its events go straight to the
lines, and then those that have come meanwhile, as long as the reactor has nothing else to do: for two milliseconds at
most, so that timers are no later than they are anyway, and not past the moment at which anything else is ready. For the
latter we look at the reactor's own epoll object, which is not public: a reactor that has none (asyncio, select, one in
a test) watches the descriptors itself, and all that is lost is speed.
"""

from __future__ import annotations

import select
from typing import Any, ClassVar, Final, Protocol

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["Switchboard", "Watcher", "watcher_of"]

_TURN: Final = 0.002
"""Seconds for which the reactor is kept out of its loop at most, but for the batch of events under way."""
_PATIENCE: Final = 0.001
"""Seconds that we wait in the reactor's place for the next event; the shortest time that epoll knows."""


class Watcher(Protocol):
    """What tells a descriptor that it can be read or written: a `Switchboard`, or a reactor."""

    def addReader(self, reader: Any) -> None: ...

    def removeReader(self, reader: Any) -> None: ...

    def addWriter(self, writer: Any) -> None: ...

    def removeWriter(self, writer: Any) -> None: ...


def watcher_of(reactor: Any) -> Watcher:
    """The switchboard of an epoll reactor; any other reactor itself."""
    poller: Any = getattr(reactor, "_poller", None)
    kind: Any = getattr(select, "epoll", None)
    if kind is None or not isinstance(poller, kind):
        watcher: Watcher = reactor
        return watcher
    board = Switchboard.of_reactor.get(reactor)
    if board is None:
        board = Switchboard.of_reactor[reactor] = Switchboard(reactor, poller)
    return board


@implementer(IReadDescriptor)
class Switchboard:
    """Watches descriptors for ``reactor``, whose own epoll object is ``poller``. Nothing is open while it has none."""

    of_reactor: ClassVar[dict[Any, Switchboard]] = {}
    """There is one reactor in a process, as a rule."""
    _log: ClassVar[Logger] = Logger()

    def __init__(self, reactor: Any, poller: select.epoll) -> None:
        self._reactor = reactor
        self._poller = poller
        self._watched: dict[int, Any] = {}
        self._masks: dict[int, int] = {}
        self._epoll: select.epoll | None = None

    def addReader(self, reader: Any) -> None:
        self._watch(reader, select.EPOLLIN, 0)

    def removeReader(self, reader: Any) -> None:
        self._watch(reader, 0, select.EPOLLIN)

    def addWriter(self, writer: Any) -> None:
        self._watch(writer, select.EPOLLOUT, 0)

    def removeWriter(self, writer: Any) -> None:
        self._watch(writer, 0, select.EPOLLOUT)

    def fileno(self) -> int:
        return -1 if self._epoll is None else self._epoll.fileno()

    def logPrefix(self) -> str:
        return "transports"

    def doRead(self) -> None:
        until = self._reactor.seconds() + _TURN
        while (epoll := self._epoll) is not None:
            for number, event in epoll.poll(0, len(self._watched)):
                descriptor = self._watched.get(number)
                if descriptor is not None:
                    self._hand_over(number, descriptor, event)
            if self._reactor.seconds() >= until:
                return
            ready = self._poller.poll(_PATIENCE, 2)
            if len(ready) != 1 or ready[0][0] != self.fileno():
                return

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends, and with it whatever it watches."""
        for descriptor in list(self._watched.values()):
            descriptor.connectionLost(reason)

    def _hand_over(self, number: int, descriptor: Any, event: int) -> None:
        """As a reactor does: bytes before a hang-up. Whatever goes wrong concerns this descriptor only."""
        try:
            if event & (select.EPOLLHUP | select.EPOLLERR) and not event & select.EPOLLIN:
                descriptor.connectionLost(Failure(ConnectionLost()))
                return
            if event & select.EPOLLIN:
                descriptor.doRead()
            if event & self._masks.get(number, 0) & select.EPOLLOUT:
                descriptor.doWrite()
        except Exception:
            failure = Failure()
            self._log.failure("an error at {line}", failure, line=descriptor.logPrefix())
            descriptor.connectionLost(failure)

    def _watch(self, descriptor: Any, more: int, less: int) -> None:
        number = descriptor.fileno()
        before = self._masks.get(number, 0)
        mask = (before | more) & ~less
        if mask == before:
            return
        epoll = self._epoll or self._open()
        if not mask:
            epoll.unregister(number)
            del self._masks[number], self._watched[number]
            if not self._masks:
                self._close()
            return
        if before:
            epoll.modify(number, mask)
        else:
            epoll.register(number, mask)
        self._masks[number] = mask
        self._watched[number] = descriptor

    def _open(self) -> select.epoll:
        epoll = self._epoll = select.epoll()
        self._reactor.addReader(self)
        return epoll

    def _close(self) -> None:
        if self._epoll is not None:
            self._reactor.removeReader(self)
            self._epoll.close()
            self._epoll = None
