"""The target's end of a KD link (KD protocol, 1.6 to 1.8): of the simulated target, and of a bridge.

A kernel reads its line in one of three ways, and so does this link:

    running          it polls: a break-in byte stops it, every other byte is thrown away;
    sending          after a packet of its own it waits for the ACK. RESEND and a silence of ``byte_timeout`` make it
                     send again, RESET makes it send again under a new id, data in place of the ACK is refused;
    waiting          it wants a packet from the debugger, of a type in ``want``. What does not fit is refused (RESEND)
                     or acknowledged and dropped, as KD protocol 1.6 step 6 says.

A break-in byte that comes to a stopped target stays noted in ``break_pending`` for the next time it runs. With
``break_at_once``, as on a bridge, it is an event like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kdsrv.kd.framing import TargetFramer, TargetHeader
from kdsrv.kd.link import Acknowledged, BreakIn, Event, GaveUp, ResendAsked, ResetSeen, TargetRole
from kdsrv.kd.packets import BREAK_IN, INITIAL_ID, MAX_PAYLOAD, SYNC, Packet, PacketType, checksum

__all__ = ["SMALLEST", "TargetLink", "may_be_given_up"]

_IDS: Final = frozenset({INITIAL_ID, INITIAL_ID | 1})
SMALLEST: Final[dict[int, int]] = {PacketType.STATE_MANIPULATE: 56, PacketType.DEBUG_IO: 16, PacketType.FILE_IO: 64}
"""The fixed part of each packet that a debugger sends, in bytes; a shorter one is refused."""

_ACKNOWLEDGE: Final = int(PacketType.ACKNOWLEDGE)
_GIVEN_UP: Final[dict[int, bytes]] = {
    PacketType.DEBUG_IO: b"\x30\x32\x00\x00",
    PacketType.STATE_CHANGE64: b"\x31\x30\x00\x00",
    PacketType.FILE_IO: b"\x30\x34\x00\x00",
}
"""How print, load symbols and file create begin."""


def may_be_given_up(packet: Packet) -> bool:
    """Whether this is one of the few packets that a target does not repeat for ever (KD protocol, 1.5)."""
    return packet.payload[:4] == _GIVEN_UP.get(packet.type)


class TargetLink(TargetRole):
    """The target role of a link on a byte stream.

    ``byte_timeout`` is in seconds. ``retries`` is how often the packets that a target may give up are sent (None: they
    are repeated for ever too). ``sync``: the first packet carries the SYNC bit, as after a boot. ``forget_on_reset``:
    a RESET drops what is not acknowledged in place of repeating it. ``drain_on_reset``: it drops what is left of the
    input too, as stubs for buffering VM pipes do.
    """

    def __init__(
        self,
        *,
        byte_timeout: float = 1.0,
        retries: int | None = 20,
        reset_reply_id: int = 0,
        first_id_after_reset: int = INITIAL_ID,
        sync: bool = True,
        drain_on_reset: bool = False,
        forget_on_reset: bool = False,
        break_at_once: bool = False,
        want: frozenset[int] = frozenset(SMALLEST),
    ) -> None:
        super().__init__(want)
        self._byte_timeout = byte_timeout
        self._retries = retries
        self._reset_reply_id = reset_reply_id
        self._first_id_after_reset = first_id_after_reset
        self._drain_on_reset = drain_on_reset
        self._forget_on_reset = forget_on_reset
        self._break_at_once = break_at_once
        self._framer = TargetFramer()
        self._expected = INITIAL_ID
        self._heard_at = 0.0
        if sync:
            self.set_sync()

    @property
    def missing(self) -> int:
        return self._framer.missing

    def set_sync(self) -> None:
        """Tell the debugger with the next packet that numbering starts here, as the first stop of a boot does."""
        self._renumber(self._next_id | SYNC)

    def restart(self) -> None:
        self._unacknowledged = None
        self._queue.clear()
        self._framer.discard()
        self._framer.break_seen = self.break_pending = self.running = False
        self._expected = INITIAL_ID
        self._next_id = INITIAL_ID | SYNC
        self.deadline = None

    def receive(self, data: bytes, now: float) -> Iterator[Event]:
        self.counters.bytes_received += len(data)
        self._heard_at = now
        framer = self._framer
        framer.feed(data)
        more = True
        while more:
            if self.running and self._unacknowledged is None:
                byte = framer.take_byte()
                more = byte is not None
                if byte == BREAK_IN[0]:
                    self.running = False
                    yield BreakIn()
            elif framer.in_body:
                body = framer.next_body()
                more = body is not None
                if body is not None and (packet := self._on_body(*body)) is not None:
                    yield packet
            else:
                header = framer.next_header()
                more = header is not None
                if framer.break_seen:
                    yield from self._on_break_byte(more)
                if header is not None:
                    yield from self._on_header(header, now)
        self._set_deadline(now)

    def expire(self, now: float) -> Iterator[Event]:
        """A byte or an ACK did not come in time."""
        if self.deadline is None or now < self.deadline:
            return
        framer = self._framer
        if framer.in_body:
            framer.discard()
            self.counters.damaged += 1
            self._control(PacketType.RESEND)
        else:
            framer.discard()
            if framer.break_seen:
                framer.break_seen = False
                self.break_pending = True
                if self._unacknowledged is None:
                    yield ResendAsked()
                else:
                    self._transmit(now)
            elif self._unacknowledged is not None:
                yield from self._repeat(now)
        self._heard_at = now
        self._set_deadline(now)

    def _on_break_byte(self, before_leader: bool) -> Iterator[BreakIn]:
        if before_leader or self._break_at_once:
            self._framer.break_seen = False
            if self._break_at_once:
                yield BreakIn()
            else:
                self.break_pending = True

    def _on_header(self, header: TargetHeader, now: float) -> Iterable[Event]:
        self._tries = min(self._tries, 1)
        self.debugger_absent = False
        if header.control:
            return self._on_control(header, now)
        if self._unacknowledged is not None:
            return self._on_data_for_ack(header, now)
        if header.length > MAX_PAYLOAD or header.length < self._fixed_size(header.type):
            self.counters.damaged += 1
            self._control(PacketType.RESEND)
        else:
            self._framer.expect_body(header)
        return ()

    def _on_control(self, header: TargetHeader, now: float) -> Iterable[Event]:
        ours = self._unacknowledged
        if header.type == _ACKNOWLEDGE:
            if ours is not None and header.id == self._next_id & ~SYNC:
                return (self._acknowledged(now),)
        elif header.type == PacketType.RESEND:
            if ours is None:
                return (ResendAsked(),)
            self._transmit(now)
        elif header.type == PacketType.RESET:
            return self._on_reset(now)
        return ()

    def _on_reset(self, now: float) -> Iterator[Event]:
        self.counters.resets += 1
        if self._drain_on_reset:
            self._framer.discard()
        self._control(PacketType.RESET, self._reset_reply_id)
        self._expected = INITIAL_ID
        lost = self._drop_all("the debugger has reset the link") if self._forget_on_reset else []
        self._renumber(self._first_id_after_reset)
        yield from lost
        if self._forget_on_reset or self._unacknowledged is None:
            yield ResetSeen()
        else:
            self._transmit(now)

    def _on_data_for_ack(self, header: TargetHeader, now: float) -> Iterable[Event]:
        """Data where an ACK is wanted: the ACK got lost, or this is a late duplicate (KD protocol, 1.6 step 5)."""
        if header.id == self._expected:
            self._control(PacketType.RESEND)
            return (self._acknowledged(now),)
        self._acknowledge(header.id)
        return ()

    def _on_body(self, header: TargetHeader, payload: bytes, trailer: bool) -> Packet | None:
        if not trailer:
            self.counters.damaged += 1
            self._control(PacketType.RESEND)
        elif header.type not in self.want:
            self._acknowledge(header.id)
        elif header.id not in _IDS:
            self._control(PacketType.RESEND)
        elif header.id != self._expected:
            self.counters.duplicates += 1
            self._acknowledge(header.id)
        elif checksum(payload) != header.checksum:
            self.counters.damaged += 1
            self._control(PacketType.RESEND)
        else:
            self._acknowledge(header.id)
            self._expected ^= 1
            self.counters.packets_received += 1
            return Packet(header.type, payload)
        return None

    def _acknowledged(self, now: float) -> Acknowledged:
        ours = self._unacknowledged
        assert ours is not None
        self._unacknowledged = None
        self._next_id = (self._next_id & ~SYNC) ^ 1
        self._send_next(now)
        return Acknowledged(ours.type)

    def _repeat(self, now: float) -> Iterator[GaveUp]:
        ours = self._unacknowledged
        assert ours is not None
        if self._retries is None or self._tries < self._retries or not may_be_given_up(ours):
            self._transmit(now)
            return
        self._unacknowledged = None
        self.debugger_absent = True
        self._next_id = INITIAL_ID | SYNC
        self._expected = INITIAL_ID
        yield GaveUp(ours.type, f"the debugger does not acknowledge it, sent {self._tries} times")
        self._send_next(now)

    def _fixed_size(self, packet_type: int) -> int:
        if packet_type in self.want:
            return SMALLEST.get(packet_type, 0)
        return min((SMALLEST.get(wanted, 0) for wanted in self.want), default=0)

    def _may_send(self) -> bool:
        return True

    def _transmit(self, now: float) -> None:
        self._heard_at = now
        super()._transmit(now)

    def _set_deadline(self, now: float) -> None:
        waits = self._unacknowledged is not None or self._framer.partial or self._framer.break_seen
        self.deadline = self._heard_at + self._byte_timeout if waits else None
