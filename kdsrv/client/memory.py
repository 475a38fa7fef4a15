"""Memory of any length, in requests of what fits into one packet, many of them on their way at a time.

A read or write is one Deferred and one object that sends requests and takes replies. What a target left out of a reply
is asked for again. A reply that brings nothing shows an address that cannot be accessed: if the request went over the
edge of a page it is asked for again in two parts, for not every target tells how far it came.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from twisted.internet.defer import Deferred

from kdsrv.client.failures import MemoryUnreadable, MemoryUnwritable, TooManyRequests
from kdsrv.client.requests import RequestQueue
from kdsrv.errors import KdsrvError
from kdsrv.kd.api import Api
from kdsrv.kd.manipulate import MAX_TRANSFER
from kdsrv.kd.statuses import Status

__all__ = ["MemoryRead", "MemoryWrite", "Pace", "Way"]

T = TypeVar("T")

_FIXED: Final = 56
_REQUEST: Final = struct.Struct("<IHHIIQII24x")
_RESULT: Final = struct.Struct("<I")
_RESULT_AT: Final = 0x1C
_PAGE: Final = 0x1000
_ALL_ONES: Final = (1 << 64) - 1


class Pace:
    """How many requests of one read or write are on their way at a time: as many as are answered within a second.

    So a fast target across a slow network is kept busy, and on a slow line whatever comes next waits for a second and
    not for minutes. Learned over all transfers of a session.
    """

    FEWEST: Final = 8
    MOST: Final = 512
    PATIENCE: Final = 1.0

    __slots__ = ("limit",)

    def __init__(self) -> None:
        self.limit = 32

    def answered(self, seconds: float) -> None:
        """A reply came so long after its request was sent."""
        if seconds < self.PATIENCE:
            self.limit = min(self.MOST, self.limit + 2)
        else:
            self.limit = max(self.FEWEST, self.limit - 1)


class Way(NamedTuple):
    """How requests of a session go: the queue, the pace, and the clock that it is kept by, in seconds."""

    queue: RequestQueue
    pace: Pace
    seconds: Callable[[], float]


class _Transfer(ABC, Generic[T]):
    """One read or write, from ``start`` until ``done`` fires; cancelling that stops it."""

    api: int

    def __init__(self, way: Way, address: int, length: int, physical: bool, caching: int) -> None:
        self.done: Deferred[T] = Deferred(lambda _: None)
        self._queue, self._pace, self._now = way
        self._kind = "physical" if physical else "virtual"
        self._address = address
        self._caching = caching
        self._unasked = 0
        self._end = length
        self._again: deque[tuple[int, int]] = deque()
        self._asked: deque[tuple[int, int, float]] = deque()

    def start(self) -> Deferred[T]:
        """Send the first requests."""
        self._go_on()
        return self.done

    def replied(self, payload: bytes) -> None:
        if self.done.called:
            return
        offset, count, asked_at = self._asked.popleft()
        self._pace.answered(self._now() - asked_at)
        moved = min(self._take(offset, count, payload), count)
        if moved < count and offset < self._end:
            self._fell_short(offset, count, moved)
        self._go_on()

    def lost(self, error: KdsrvError) -> None:
        if not self.done.called:
            self.done.errback(error)

    def _fell_short(self, offset: int, count: int, moved: int) -> None:
        """Ask for the rest again, or learn where memory ends: nothing from there on counts any more."""
        to_edge = _PAGE - (self._address + offset) % _PAGE
        if moved:
            self._again.append((offset + moved, count - moved))
        elif count > to_edge:
            self._again.append((offset, to_edge))
            self._again.append((offset + to_edge, count - to_edge))
        else:
            self._end = offset

    def _go_on(self) -> None:
        """Send as many requests as the pace allows; when nothing is missing any more, that is the end."""
        while len(self._asked) < self._pace.limit:
            if self._again:
                offset, count = self._again.popleft()
            elif self._unasked < self._end:
                offset, count = self._unasked, min(MAX_TRANSFER, self._end - self._unasked)
                self._unasked += count
            else:
                break
            if offset < self._end and not self._ask(offset, count):
                break
        if self._unasked >= self._end and not self._is_missing():
            self._finish()

    def _ask(self, offset: int, count: int) -> bool:
        """Whether this part is asked for now. One for which there is no room is asked for later."""
        try:
            self._queue.ask(self._request(offset, count), self)
        except TooManyRequests as error:
            self._again.appendleft((offset, count))
            if not self._asked:
                self.lost(error)
            return False
        self._asked.append((offset, count, self._now()))
        return True

    def _is_missing(self) -> bool:
        end = self._end
        return any(entry[0] < end for entry in self._asked) or any(entry[0] < end for entry in self._again)

    def _header(self, offset: int, count: int) -> bytes:
        address = (self._address + offset) & _ALL_ONES
        return _REQUEST.pack(self.api, 0, 0, Status.PENDING, 0, address, count, self._caching)

    @abstractmethod
    def _request(self, offset: int, count: int) -> bytes:
        """The payload that asks for this part."""

    @abstractmethod
    def _take(self, offset: int, count: int, payload: bytes) -> int:
        """How many bytes the reply brought or wrote."""

    @abstractmethod
    def _finish(self) -> None:
        """Fire ``done``: everything before ``_end`` has been moved."""


class MemoryRead(_Transfer[bytes]):
    """Reads ``length`` bytes. ``caching`` says how physical pages are mapped (KD protocol, 2.5)."""

    def __init__(self, way: Way, address: int, length: int, *, physical: bool = False, caching: int = 0) -> None:
        super().__init__(way, address, length, physical, caching)
        self.api = Api.READ_PHYSICAL_MEMORY if physical else Api.READ_VIRTUAL_MEMORY
        self._buffer = bytearray(length)

    def _request(self, offset: int, count: int) -> bytes:
        return self._header(offset, count)

    def _take(self, offset: int, count: int, payload: bytes) -> int:
        if len(payload) < _FIXED:
            return 0
        actual: int = _RESULT.unpack_from(payload, _RESULT_AT)[0]
        moved = min(count, len(payload) - _FIXED, actual)
        self._buffer[offset : offset + moved] = payload[_FIXED : _FIXED + moved]
        return moved

    def _finish(self) -> None:
        if self._end == len(self._buffer):
            self.done.callback(bytes(self._buffer))
        else:
            address = (self._address + self._end) & _ALL_ONES
            self.done.errback(MemoryUnreadable(self._kind, address, bytes(self._buffer[: self._end])))


class MemoryWrite(_Transfer[None]):
    """Writes ``data``."""

    def __init__(self, way: Way, address: int, data: bytes, *, physical: bool = False, caching: int = 0) -> None:
        super().__init__(way, address, len(data), physical, caching)
        self.api = Api.WRITE_PHYSICAL_MEMORY if physical else Api.WRITE_VIRTUAL_MEMORY
        self._data = data

    def _request(self, offset: int, count: int) -> bytes:
        return self._header(offset, count) + self._data[offset : offset + count]

    def _take(self, offset: int, count: int, payload: bytes) -> int:
        written: int = 0 if len(payload) < _FIXED else _RESULT.unpack_from(payload, _RESULT_AT)[0]
        return written

    def _finish(self) -> None:
        if self._end == len(self._data):
            self.done.callback(None)
        else:
            address = (self._address + self._end) & _ALL_ONES
            self.done.errback(MemoryUnwritable(self._kind, address, self._end))
