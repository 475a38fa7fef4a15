"""A link at work: bytes from a transport in, events to a handler, bytes out, the deadline to the reactor.

A request or a reply needs no ACK at once: who sent it has nothing else to do, and mostly something follows within
microseconds that the ACK can travel with, the reply or the next request. So an ACK that would go alone is held back
for a moment far below the second after which a packet is repeated. That halves the wake-ups of all three parties.
Everything else is acknowledged at once, since a target that prints waits for the ACK before it goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kdsrv.alarm import Alarm
from kdsrv.kd.framing import HEADER_SIZE
from kdsrv.kd.link import Event, Link
from kdsrv.kd.packets import Packet, PacketType

__all__ = ["HeldAcks", "LinkDriver"]

_HOLD: Final = 0.02
"""Seconds an ACK waits for company: more than a local answer takes on a busy server, less than anybody notices."""


class HeldAcks:
    """The ACKs that wait, of all links of a process: one timer serves them, since all wait equally long."""

    def __init__(self, clock: IReactorTime, hold: float = _HOLD) -> None:
        self._clock = clock
        self._hold = hold
        self._waiting: deque[tuple[float, LinkDriver]] = deque()
        self._call: IDelayedCall | None = None

    def add(self, driver: LinkDriver) -> float:
        """``driver`` holds an ACK from now on. The time until which it does, by which ``release_ack`` will know it."""
        until = self._clock.seconds() + self._hold
        self._waiting.append((until, driver))
        if self._call is None:
            self._call = self._clock.callLater(self._hold, self._release)
        return until

    def forget(self, driver: LinkDriver) -> None:
        """``driver`` has ended. When it was the last, nothing is left in the reactor."""
        self._waiting = deque(entry for entry in self._waiting if entry[1] is not driver)
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _release(self) -> None:
        self._call = None
        now = self._clock.seconds()
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            until, driver = waiting.popleft()
            driver.release_ack(until)
        if waiting and self._call is None:
            self._call = self._clock.callLater(waiting[0][0] - now, self._release)


class LinkDriver:
    """Drives ``link``. ``handle`` gets its events, ``write`` its bytes. Without ``acks`` no ACK is held back."""

    def __init__(
        self,
        clock: IReactorTime,
        link: Link,
        handle: Callable[[Event], None],
        write: Callable[[bytes], None],
        acks: HeldAcks | None = None,
    ) -> None:
        self.link = link
        self._clock = clock
        self._handle = handle
        self._write = write
        self._acks = acks
        self._alarm = Alarm(clock, self._expire)
        self._held = b""
        self._held_until = 0.0
        self._stopped = False

    def bytes_received(self, data: bytes) -> int:
        """The transport brought ``data``; how many bytes the packet being received still lacks."""
        link = self.link
        may_wait = False
        for event in link.receive(data, self._clock.seconds()):
            if type(event) is Packet:
                may_wait = event.type == PacketType.STATE_MANIPULATE
            self._handle(event)
        self.flush(may_wait=may_wait)
        return link.missing

    def run(self, events: Iterable[Event]) -> None:
        """Handle events that the link gave otherwise than for bytes."""
        for event in events:
            self._handle(event)
        self.flush()

    def flush(self, *, may_wait: bool = False) -> None:
        """Write what the link wants written. With ``may_wait`` a lone ACK is held back."""
        if self._stopped:
            return
        link = self.link
        output = link.take_output()
        if output:
            if self._held:
                output, self._held = self._held + output, b""
            if may_wait and self._acks is not None and len(output) == HEADER_SIZE:
                self._held = output
                self._held_until = self._acks.add(self)
            else:
                self._write(output)
        self._alarm.set(link.deadline)

    def release_ack(self, until: float) -> None:
        """The ACK held until then has waited long enough; it may have gone before."""
        if self._held and self._held_until == until:
            self._release()

    def stop(self) -> None:
        """Write what was held back, then nothing more, and leave nothing in the reactor. This is the end of it."""
        if not self._stopped:
            self._release()
            self._stopped = True
            self._alarm.stop()
            if self._acks is not None:
                self._acks.forget(self)

    def _release(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._write(held)

    def _expire(self) -> None:
        self._release()
        self.run(self.link.expire(self._clock.seconds()))
