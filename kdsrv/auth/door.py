"""The door of a server: who may try to log in, and how soon again.

Nothing here locks anybody out for what others do. Failures count against the place they come from, which is an IPv4
address or an IPv6 /64, and slow down that place alone. Connections that have not logged in are limited in number; where
there are too many, the one that goes is the oldest from the place that has most of them, and the newcomer stays.

    failures of a place, lately     1      2      3      4      5      6      7      more
    its answer is held, seconds     0.5    1      2      2      2      2      2      2
    from one challenge to the next  0      0      0.25   0.5    1      2      4      4

The challenge is held and not only the answer, for who guesses does not wait for answers. Every half minute without a
failure one of them is forgotten.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from dataclasses import dataclass
from math import ceil
from typing import Final, Generic, NamedTuple, TypeVar

from kdsrv.auth.passwords import RandomBytes
from kdsrv.auth.scram import ServerLogin, method_for
from kdsrv.auth.users import UserBook
from kdsrv.errors import KdsrvError

__all__ = ["Crowd", "Door", "Failed", "Slowdown", "TooManyFailures", "place_of"]

MOST_WAITING: Final = 256
MOST_WAITING_PER_PLACE: Final = 32
LONGEST_HOLD: Final = 6.0
"""Seconds that a challenge is held at most; a login that would have to wait longer is refused at once."""

_FORGET: Final = 30.0
_MOST_COUNTED: Final = 12
_FREE: Final = 2
_FIRST_INTERVAL: Final = 0.25
_LONGEST_INTERVAL: Final = 4.0
_FIRST_ANSWER: Final = 0.5
_LONGEST_ANSWER: Final = 2.0
_MOST_PLACES: Final = 4096
_MAX_PLACE: Final = 100

Visitor = TypeVar("Visitor", bound=Hashable)


class TooManyFailures(KdsrvError):
    """too many logins from your address have failed; try again in {seconds} s"""

    code = "login-later"


def place_of(address: str | None) -> str:
    """The place that an address belongs to: what is slowed down together. None: this host."""
    if address is None:
        return "this host"
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:_MAX_PLACE]
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip), 64), strict=False))


class Crowd(Generic[Visitor]):
    """The connections that have not logged in yet, by place, oldest first."""

    def __init__(self, most: int = MOST_WAITING, most_per_place: int = MOST_WAITING_PER_PLACE) -> None:
        self._most = most
        self._most_per_place = most_per_place
        self._places: dict[str, dict[Visitor, None]] = {}
        self._where: dict[Visitor, str] = {}

    def __len__(self) -> int:
        return len(self._where)

    def come(self, visitor: Visitor, place: str) -> Visitor | None:
        """Let a newcomer in; gives the connection that has to be closed for it, if there is one."""
        here = self._places.setdefault(place, {})
        here[visitor] = None
        self._where[visitor] = place
        if len(here) <= self._most_per_place:
            if len(self._where) <= self._most:
                return None
            here = max(self._places.values(), key=len)
        out = next(iter(here))
        self.leave(out)
        return out

    def leave(self, visitor: Visitor) -> None:
        """The connection has logged in, or is gone. One that is unknown changes nothing."""
        place = self._where.pop(visitor, None)
        if place is not None:
            here = self._places[place]
            del here[visitor]
            if not here:
                del self._places[place]


class Failed(NamedTuple):
    """What follows from a failure: how long to hold the answer (seconds), and how many there were from that place."""

    hold: float
    total: int


@dataclass(slots=True)
class _Record:
    """The failures of one place: those that still count, since when they do, and when the next challenge is due."""

    count: float
    counted_at: float
    total: int
    next_at: float

    def count_now(self, now: float) -> float:
        return max(0.0, self.count - max(0.0, now - self.counted_at) / _FORGET)


class Slowdown:
    """The places from which logins have failed lately: up to 4096, then the one that was quiet longest is forgotten."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def hold(self, place: str, now: float) -> float:
        """Seconds to hold the challenge of a login that begins now. TooManyFailures if others of its place wait so long
        already that it is not worth it."""
        record = self._records.get(place)
        count = 0 if record is None else ceil(record.count_now(now))
        if record is None or count <= _FREE:
            return 0.0
        if record.next_at - now > LONGEST_HOLD + _LONGEST_INTERVAL:  # the clock was set back
            record.next_at = record.counted_at = now
        due = max(now, record.next_at)
        if due - now > LONGEST_HOLD:
            raise TooManyFailures(seconds=ceil(due - now))
        record.next_at = due + min(_FIRST_INTERVAL * 2 ** (count - _FREE - 1), _LONGEST_INTERVAL)
        return due - now

    def failed(self, place: str, now: float) -> Failed:
        """Count a login that failed."""
        record = self._records.pop(place, None) or _Record(0.0, now, 0, now)
        record.count = min(record.count_now(now) + 1, _MOST_COUNTED)
        record.counted_at = now
        record.total += 1
        self._records[place] = record
        self._forget(now)
        return Failed(min(_FIRST_ANSWER * 2 ** (ceil(record.count) - 1), _LONGEST_ANSWER), record.total)

    def _forget(self, now: float) -> None:
        """Drop what no longer counts, from the front, where the places are that were quiet longest."""
        for place, record in list(self._records.items())[: 2 + max(0, len(self._records) - _MOST_PLACES)]:
            if len(self._records) > _MOST_PLACES or record.count_now(now) == 0:
                del self._records[place]


class Door:
    """One way into a server. ``book`` says who may come in; None: anybody, without a login.

    Several doors of a server have different books (each listener its password) and share the rest: see ``beside``.
    """

    def __init__(self, book: UserBook | None) -> None:
        self.book = book
        self.crowd: Crowd[Hashable] = Crowd()
        self.slowdown = Slowdown()

    def beside(self, book: UserBook | None) -> Door:
        """Another door of the same server."""
        door = Door(book)
        door.crowd = self.crowd
        door.slowdown = self.slowdown
        return door

    def methods(self, binding: bytes | None) -> tuple[str, ...]:
        """The login methods to offer on a connection with this channel binding; none if nobody has to log in."""
        return () if self.book is None else (method_for(binding),)

    def login(self, binding: bytes | None, random: RandomBytes) -> ServerLogin:
        """The server's side of a login through this door, which must have a book."""
        if self.book is None:
            raise ValueError("nobody has to log in here")
        return ServerLogin(self.book, binding=binding, random=random)
