"""What every medium that carries bytes to a target looks like, and what it expects of the one it carries them to."""

from __future__ import annotations

from typing import Protocol

from kdsrv.errors import LinkLost, TargetError
from kdsrv.sessions.status import Status

__all__ = ["AbsentError", "Receiver", "ReceiverFailed", "Transport"]


class Receiver(Protocol):
    """Takes what a transport reads. All calls come from the reactor, never from inside `start`, `write` or `close`."""

    def bytes_received(self, data: bytes) -> int:
        """Take ``data`` (never empty); return how many bytes the packet being received still lacks, 0 if none is."""
        ...

    def transport_interrupted(self, why: str | Status) -> None:
        """The line is away and will be back; what is written meanwhile is dropped. May come again with something new to
        say: words, or a status with the evidence in it."""
        ...

    def transport_resumed(self) -> None:
        """The line is back, or there for the first time; bytes were lost in between."""
        ...

    def transport_lost(self, reason: TargetError) -> None:
        """The line is gone for good. Comes exactly once, and never after `Transport.close`."""
        ...


class Transport(Protocol):
    """An open byte stream to a target."""

    @property
    def description(self) -> str:
        """For people: ``/dev/ttyUSB0 at 115200 baud``."""
        ...

    @property
    def byte_time(self) -> float:
        """Seconds that one byte takes on the line; 0.0 where the medium has no such pace."""
        ...

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver; to be called once."""
        ...

    def write(self, data: bytes) -> None:
        """Send at once what the system takes and keep the rest, of which there is a bound; past it the line is lost.

        After `close` or a loss nothing is sent and nothing is raised.
        """
        ...

    def close(self) -> None:
        """Close now, dropping what was not sent; never blocks, may be called again."""
        ...


class AbsentError(TargetError):
    """{target}: {why}"""

    code = "absent"


class ReceiverFailed(LinkLost):
    """{target}: closed after an error inside kdsrv: {why}; the log has the details"""

    code = "internal"
