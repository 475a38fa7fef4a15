"""One timer that follows a deadline which moves with every packet, at the cost of a comparison."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Alarm"]


class Alarm:
    """Calls ``ring`` when the deadline last set has come.

    A deadline that moves away leaves the reactor's timer where it is: when that fires too early, it is set again. So a
    link that sets a new deadline with each packet costs the reactor one timer in each time-out, not one per packet.
    """

    __slots__ = ("_call", "_call_at", "_clock", "_deadline", "_ring")

    def __init__(self, clock: IReactorTime, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._call: IDelayedCall | None = None
        self._call_at = 0.0
        self._deadline: float | None = None

    def set(self, deadline: float | None) -> None:
        """Ring at ``deadline``, in seconds of the clock; None: not at all."""
        self._deadline = deadline
        if deadline is None:
            return
        if self._call is None:
            self._call = self._clock.callLater(max(0.0, deadline - self._clock.seconds()), self._fire)
            self._call_at = deadline
        elif deadline < self._call_at:
            self._call.reset(max(0.0, deadline - self._clock.seconds()))
            self._call_at = deadline

    def stop(self) -> None:
        """Never ring again, and leave nothing in the reactor."""
        self._deadline = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _fire(self) -> None:
        self._call = None
        deadline = self._deadline
        if deadline is None:
            return
        if self._clock.seconds() < deadline:
            self.set(deadline)
        else:
            self._deadline = None
            self._ring()
