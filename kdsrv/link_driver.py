"""A link at work: bytes from a transport in, events to a handler, bytes out, the deadline to the reactor.

A request or a reply needs no ACK at once: who sent it has nothing else to do, and mostly something follows within
microseconds that the ACK can travel with, the reply or the next request. So an ACK that would go alone is held back
for a moment far below the second after which a packet is repeated. That halves the wake-ups of all three parties.
Everything else is acknowledged at once, since a target that prints waits for the ACK before it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kdsrv.alarm import Alarm
from kdsrv.kd.framing import HEADER_SIZE
from kdsrv.kd.link import Event, Link
from kdsrv.kd.packets import MANIPULATE, Packet

__all__ = ["HeldAcks", "LinkDriver"]

_HOLD: Final = 0.02
"""Seconds an ACK waits for company: more than a local answer takes on a busy server, less than anybody notices."""


class HeldAcks:
    """The ACKs that wait, of all links of a process: one timer serves them all.

    Nearly every ACK finds company, and nobody takes its link off this list then, for the next ACK would only put it
    there again; a link with nothing to release ignores it. The timer looks twice in the time that an ACK may wait.
    """

    def __init__(self, clock: IReactorTime, hold: float = _HOLD) -> None:
        self._clock = clock
        self._hold = hold
        self._waiting: dict[LinkDriver, float] = {}
        self._call: IDelayedCall | None = None

    def add(self, driver: LinkDriver) -> None:
        """``driver`` holds an ACK from now on."""
        self._waiting[driver] = self._clock.seconds() + self._hold
        if self._call is None:
            self._call = self._clock.callLater(self._hold, self._release)

    def forget(self, driver: LinkDriver) -> None:
        """``driver`` has ended. When it was the last, nothing is left in the reactor."""
        self._waiting.pop(driver, None)
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _release(self) -> None:
        self._call = None
        now = self._clock.seconds()
        for driver in [driver for driver, until in self._waiting.items() if until <= now]:
            self._waiting.pop(driver, None)
            driver.release_ack()
        if self._waiting and self._call is None:
            self._call = self._clock.callLater(self._hold / 2, self._release)


class LinkDriver:
    """Drives ``link``. ``handle`` gets its events, ``write`` its bytes.

    Without ``acks`` no ACK is held back, and none on a medium of datagrams, where nothing can travel with it.
    """

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
        self._acks = None if link.in_datagrams else acks
        self._alarm = Alarm(clock, self._expire)
        self._held = b""
        self._delay = 0.0
        self._delayed = Alarm(clock, self.release_ack)
        self._stopped = False

    def bytes_received(self, data: bytes) -> int:
        """The transport brought ``data``; how many bytes the packet being received still lacks."""
        link = self.link
        may_wait = False
        self._delay = 0.0
        for event in link.receive(data, self._clock.seconds()):
            if type(event) is Packet:
                may_wait = event.type == MANIPULATE
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
        while output := link.take_output():
            if self._held:
                if link.in_datagrams:
                    self.release_ack()
                else:
                    output, self._held = self._held + output, b""
            if may_wait and self._acks is not None and len(output) == HEADER_SIZE:
                self._held = output
                self._acks.add(self)
            elif self._delay and len(output) == HEADER_SIZE:
                self._held = output
                self._delayed.set(self._clock.seconds() + self._delay)
            else:
                self._write(output)
        self._alarm.set(link.deadline)

    def delay_ack(self, seconds: float) -> None:
        """The ACK of the packet that is being handled waits so long, unless something else goes out before."""
        self._delay = seconds

    def stop(self) -> None:
        """Write what was held back, then nothing more, and leave nothing in the reactor. This is the end of it."""
        if not self._stopped:
            self.release_ack()
            self._stopped = True
            self._alarm.stop()
            self._delayed.stop()
            if self._acks is not None:
                self._acks.forget(self)

    def release_ack(self) -> None:
        """The ACK that is held back, if one is, has waited long enough."""
        held, self._held = self._held, b""
        if held:
            self._write(held)

    def _expire(self) -> None:
        self.release_ack()
        self.run(self.link.expire(self._clock.seconds()))
