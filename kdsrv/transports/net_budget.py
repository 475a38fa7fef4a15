"""How many datagrams of strangers are looked at: to find out whose one is takes a decryption for each key in question.

A UDP port takes datagrams from anybody, at any rate. Two fair shares decide, and one limit on both: a datagram is
looked at if its host has looks left, or its host and port together have. So neither a host that floods keeps others
from being heard, nor a program those on its own host. Hosts are told apart by 256 shares that they fall into at random,
so that memory stays the same however many there are, and nobody who does not know the hash can aim at a share.

What remains is a flood from many made-up addresses at once: it fills all shares, and a new target then is heard at its
fifth or twentieth OFFER and not at its first. Who has been heard, is not asked here.
"""

from __future__ import annotations

from typing import Final

__all__ = ["StrangerBudget"]

_SHARES: Final = 256
_PAUSE: Final = 0.5
"""Seconds between two looks at one share, once its burst is used up. A target offers itself every 3 seconds."""
_BURST: Final = 8
_MOST_LOOKS: Final = 4000.0
"""Decryptions a second; each takes 20 to 40 microseconds."""
_MOST_AT_ONCE: Final = 400.0


class StrangerBudget:
    """A token bucket for each share, as the moment at which it will be full, and one for all looks together."""

    __slots__ = ("_full_at", "_left", "_seen_at")

    def __init__(self) -> None:
        self._full_at = [0.0] * (2 * _SHARES)
        self._left = _MOST_AT_ONCE
        self._seen_at = 0.0

    def allows(self, host: str, port: int, looks: int, now: float) -> bool:
        """Whether a datagram from there may be looked at ``looks`` times; if so, they are taken off.

        ``now`` is in seconds and does not go back.
        """
        left = min(_MOST_AT_ONCE, self._left + (now - self._seen_at) * _MOST_LOOKS)
        self._seen_at = now
        self._left = left
        if left < min(looks, _MOST_AT_ONCE):
            return False
        if not (self._takes(hash(host) % _SHARES, now) or self._takes(_SHARES + hash((host, port)) % _SHARES, now)):
            return False
        self._left = left - looks
        return True

    def _takes(self, share: int, now: float) -> bool:
        full_at = max(self._full_at[share], now)
        if full_at > now + (_BURST - 1) * _PAUSE:
            return False
        self._full_at[share] = full_at + _PAUSE
        return True
