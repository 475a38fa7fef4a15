"""Both faces of a session: what its user may ask of it, and what it tells its user.

They are the same on both sides of the network: a bridge, or a program, uses the server's own session or one at the far
end of a connection.
"""

from __future__ import annotations

from typing import Protocol

from kdsrv.errors import KdsrvError
from kdsrv.kd.packets import Packet
from kdsrv.sessions.status import Status

__all__ = ["SessionUser", "Uplink"]


class Uplink(Protocol):
    """A session as seen by who uses it: the server's own, or one at the other end of a network connection."""

    def send_packet(self, packet_type: int, payload: bytes) -> None:
        """Hand a packet to the target: a request, or the answer to a prompt or a file request (to none: it is dropped).
        PeerError for one that no link can carry, or when too many wait."""
        ...

    def break_in(self) -> None:
        """Make the target halt; if it is halted, have its state change sent again."""
        ...

    def resync(self) -> None:
        """Forget all requests; then comes ``resynced``, and the state change if the target is halted."""
        ...


class SessionUser(Protocol):
    """Who uses a session: a client's connection or a bridge. All calls come from the reactor.

    One that may have a bool ``is_behind`` has prints come more slowly while it is true.
    """

    def packet_received(self, packet: Packet) -> None:
        """The target sent a packet."""
        ...

    def resynced(self) -> None:
        """Everything received before this belongs to before the ``resync``."""
        ...

    def requests_lost(self, count: int) -> None:
        """The ``count`` oldest requests will not be answered."""
        ...

    def status_changed(self, status: Status) -> None:
        """There is something new to say."""
        ...

    def session_lost(self, reason: KdsrvError) -> None:
        """The session has ended by itself; nothing else comes."""
        ...
