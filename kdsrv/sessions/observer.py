"""Who looks on at a session without a part in it: a recorder, a spectator."""

from __future__ import annotations

from typing import Protocol

from kdsrv.kd.packets import Packet
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.status import Status

__all__ = ["SessionObserver"]


class SessionObserver(Protocol):
    """Is told what a session does. Packets are whole, as the session's user sees them. All calls come from the reactor,
    must return at once and never raise."""

    def packet_from_target(self, packet: Packet) -> None:
        """The target sent a packet, whether or not somebody is there to read it."""
        ...

    def packet_to_target(self, packet: Packet) -> None:
        """A request, or an answer to a question of the target, goes to the target."""
        ...

    def break_in_sent(self) -> None:
        """The target is asked to halt."""
        ...

    def status_changed(self, status: Status) -> None:
        """There is something new to say of the target or its line."""
        ...

    def holder_changed(self, lease: Lease) -> None:
        """Somebody else has the session now."""
        ...

    def session_ended(self) -> None:
        """The line is closed. Nothing else comes."""
        ...
