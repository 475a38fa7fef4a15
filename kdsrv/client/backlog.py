"""What a client wants to say and cannot yet: nobody is connected, or the server's window has no room.

While nobody is connected everything waits here, in order. While somebody is, only requests do: break-ins, resyncs and
answers go past them.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias, TypeGuard

from kdsrv.errors import PeerError
from kdsrv.kd.api import NO_REPLY
from kdsrv.kd.packets import MANIPULATE, Packet
from kdsrv.wire.frames import BreakIn, Resync

__all__ = ["MOST_BYTES", "Backlog", "Saying"]

Saying: TypeAlias = Packet | BreakIn | Resync

MOST_BYTES: Final = 16 * 1024 * 1024
"""What may wait: the requests for some hundred megabytes of memory, or far more than a debugger ever has under way."""

_OVERHEAD: Final = 64
"""What each thing that waits counts beside its payload."""


class Backlog:
    """Waits in order, up to ``most`` bytes."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._waiting: deque[Saying] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, saying: Saying) -> None:
        """Add at the end; a resync takes the requests before it away. PeerError if there is no room."""
        if isinstance(saying, Resync):
            self.drop_requests()
        if self._bytes >= self._most:
            raise PeerError(why="it asks without end, and nothing is answered")
        self._waiting.append(saying)
        self._bytes += _size(saying)

    def has(self, kind: type[BreakIn | Resync]) -> bool:
        """Whether one of these waits."""
        return any(type(saying) is kind for saying in self._waiting)

    def ends_with(self, kind: type[BreakIn | Resync]) -> bool:
        """Whether one of these is the latest that waits."""
        return bool(self._waiting) and type(self._waiting[-1]) is kind

    def first(self) -> Saying:
        """The oldest, which stays."""
        return self._waiting[0]

    def take(self) -> Saying:
        """The oldest, which goes."""
        saying = self._waiting.popleft()
        self._bytes -= _size(saying)
        return saying

    def take_all(self) -> list[Saying]:
        """Everything, oldest first."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return waiting

    def drop_requests(self) -> None:
        """Nobody waits for a reply any more."""
        for saying in self.take_all():
            if not _is_request(saying):
                self._waiting.append(saying)
                self._bytes += _size(saying)

    @property
    def unanswered(self) -> int:
        """How many of those that wait are requests that get a reply."""
        requests = filter(_is_request, self._waiting)
        return sum(int.from_bytes(request.payload[:4], "little") not in NO_REPLY for request in requests)


def _is_request(saying: Saying) -> TypeGuard[Packet]:
    return type(saying) is Packet and saying.type == MANIPULATE


def _size(saying: Saying) -> int:
    return _OVERHEAD + (len(saying.payload) if type(saying) is Packet else 0)
