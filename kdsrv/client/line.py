"""The network connection under a client's conversation: written to while it is of use, then hung up or dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from kdsrv.alarm import Alarm
from kdsrv.direct_writer import DirectWriter, set_up_tcp

__all__ = ["CLOSE_LIMIT", "Line"]

CLOSE_LIMIT: Final = 5.0
"""Seconds that the last word may take to leave."""


class Line:
    """``transport`` is connected. ``too_late`` is called when the time that was last set has come."""

    def __init__(self, clock: IReactorTime, transport: Any, too_late: Callable[[], None]) -> None:
        set_up_tcp(transport)
        self.is_open = True
        self._clock = clock
        self._transport = transport
        self._writer = DirectWriter(transport, _nothing_waits)
        self._too_late = too_late
        self._alarm = Alarm(clock, self._ring)

    def set_alarm(self, time: float) -> None:
        """Call ``too_late`` at this time of the clock, and not at the one set before."""
        if self.is_open:
            self._alarm.set(time)

    def write(self, data: bytes) -> None:
        """Send, unless it is no longer of use."""
        if self.is_open:
            self._writer.write(data)

    def hang_up(self) -> None:
        """Close it when everything that was written is gone, which must not take long."""
        if self.is_open:
            self._leave_off()
            self._alarm.set(self._clock.seconds() + CLOSE_LIMIT)
            self._transport.loseConnection()

    def drop(self) -> None:
        """Close it at once; what is on its way is lost."""
        if self.is_open:
            self._leave_off()
            self._transport.abortConnection()

    def lost(self) -> None:
        """It is closed."""
        self.is_open = False
        self._alarm.stop()

    def _leave_off(self) -> None:
        self.is_open = False
        self._alarm.set(None)
        self._writer.detach()

    def _ring(self) -> None:
        if self.is_open:
            self._too_late()
        else:
            self._transport.abortConnection()


def _nothing_waits() -> None:
    """What a client asks for is bounded by the server's window: it may all be queued."""
