"""A link at work: bytes from a transport in, events to a handler, bytes out, the deadline to the reactor.

A request or a reply needs no ACK at once: who sent it has nothing else to do, and mostly something follows within
microseconds that the ACK can travel with, the reply or the next request. So an ACK that would go alone is held back
for up to ``ack_delay`` seconds, far below the second after which a packet is repeated. That halves the wake-ups of all
three parties. Everything else is acknowledged at once, since a target that prints waits for the ACK before it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from kdsrv.alarm import Alarm
from kdsrv.kd.framing import HEADER_SIZE
from kdsrv.kd.link import Event, Link
from kdsrv.kd.packets import Packet, PacketType

__all__ = ["ACK_DELAY", "LinkDriver"]

ACK_DELAY: Final = 0.002
"""Seconds an ACK waits for company: more than a local answer takes, less than anybody notices."""


class LinkDriver:
    """Drives ``link``. ``handle`` gets its events, ``write`` its bytes."""

    def __init__(
        self,
        clock: IReactorTime,
        link: Link,
        handle: Callable[[Event], None],
        write: Callable[[bytes], None],
        *,
        ack_delay: float = 0.0,
    ) -> None:
        self.link = link
        self._clock = clock
        self._handle = handle
        self._write = write
        self._ack_delay = ack_delay
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
            if may_wait and len(output) == HEADER_SIZE and self._ack_delay:
                self._held = output
                self._held_until = self._clock.seconds() + self._ack_delay
            else:
                self._write(output)
        deadline = link.deadline
        if self._held and (deadline is None or self._held_until < deadline):
            deadline = self._held_until
        self._alarm.set(deadline)

    def stop(self) -> None:
        """Write nothing more, and leave nothing in the reactor. This is the end of it."""
        self._stopped = True
        self._held = b""
        self._alarm.stop()

    def _expire(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._write(held)
        self.run(self.link.expire(self._clock.seconds()))
