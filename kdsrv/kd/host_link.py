"""The debugger's end of a KD link: what the server runs towards a target (KD protocol, 1.9).

Ids on a KD line are one bit per direction, so a host that joins in the middle does not know which packet the target
would take for new. The link is therefore in one of three phases, and what a packet means depends on the phase:

    UNKNOWN    nothing agreed. A packet from the target shows that it listens: it is not acknowledged, a RESET is
               sent instead, and the target repeats it after the RESET. (A packet with the SYNC bit needs no RESET:
               the target has just started its numbering, and says so.)
    RESETTING  our RESET is on its way. Packets are not taken, for the target repeats whatever we do not acknowledge,
               but for those with the SYNC bit. Its RESET makes the phase SYNCED; silence leads to another RESET, and
               after a few to UNKNOWN.
    SYNCED     both ends count alike. Packets are taken, acknowledged and delivered once; ours are sent, and repeated
               until they are acknowledged.

A break-in is one byte that the target reads only while it runs. It is repeated until the target announces a stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kdsrv.kd.framing import HostFramer, HostPacket
from kdsrv.kd.link import Acknowledged, Event, GaveUp, HostRole, Phase, ResetSeen
from kdsrv.kd.packets import BREAK_IN, INITIAL_ID, SYNC, Packet, PacketType, encode_control

__all__ = ["HostLink"]

_IDS: Final = frozenset({INITIAL_ID, INITIAL_ID | 1})
_STOPS: Final = frozenset(map(int, (PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32)))
_LONGEST_PACKET: Final = 5.0
"""Seconds that a packet of 4016 bytes may take on the slowest line in use, with some to spare."""

_LATE: Final = 5.0
"""Seconds within which further RESETs of a target are taken for answers to RESETs that had waited in the line."""

_GRACE: Final = 0.1
"""Seconds that a target has to answer a RESET once it has sent what it was at."""

_RESET: Final = encode_control(PacketType.RESET)


_UNKNOWN, _RESETTING, _SYNCED = Phase
_ACKNOWLEDGE: Final = int(PacketType.ACKNOWLEDGE)
_MANIPULATE: Final = int(PacketType.STATE_MANIPULATE)
"""Names for the hot path: to look a member up in an enumeration takes five times as long."""


class HostLink(HostRole):
    """The host role of a link on a byte stream.

    ``byte_time`` is how long a byte takes on the line, in seconds; a packet is given that much longer to be
    acknowledged. ``ack_timeout`` and ``byte_timeout`` are seconds, ``tries`` is how often one packet is sent before it
    is given up, ``resets`` how often a RESET is sent in a row without an answer (0: without limit, as ``resets=0`` of a
    kd-string). A break-in is repeated each ``break_in_interval`` seconds.

    A target needs about a second of silence to leave a packet whose end it waits for, and to tell of a break-in that
    came while it was stopped. So a packet's first repeat comes after ``ack_timeout``, the others after three times
    that, and the break-in interval is more than a second too.
    """

    def __init__(
        self,
        *,
        byte_time: float = 0.0,
        ack_timeout: float = 0.5,
        byte_timeout: float = 0.5,
        reset_timeout: float = 0.5,
        break_in_interval: float = 2.0,
        tries: int = 6,
        resets: int = 3,
    ) -> None:
        super().__init__()
        self._byte_time = byte_time
        self._ack_timeout = ack_timeout
        self._byte_timeout = byte_timeout
        self._reset_timeout = reset_timeout
        self._break_in_interval = break_in_interval
        self._max_tries = tries
        self._max_resets = resets
        self._framer = HostFramer()
        self._expected: int | None = None
        self._taken = b""
        self._sync_taken: bytes | None = None
        self._resets_sent = 0
        self._reset_at = 0.0
        self._talked_at: float | None = None
        self._break_in_behind_reset = False
        self._late_until = -float("inf")
        self._ack_at = 0.0
        self._heard_at = 0.0
        self._break_in_at = 0.0

    @property
    def missing(self) -> int:
        return self._framer.missing

    @property
    def noise(self) -> int:
        """Bytes from the target so far that belong to no packet."""
        return self._framer.noise

    def break_in(self, now: float) -> None:
        self.breaking_in = self._break_in_behind_reset = True
        self._output.append(BREAK_IN)
        self._break_in_at = now + self._break_in_interval
        self._set_deadline(now)

    def cancel_break_in(self, now: float) -> None:
        """Ask no more."""
        self.breaking_in = False
        self._set_deadline(now)

    def resync(self, now: float) -> list[GaveUp]:
        """Agree on ids anew by a RESET, upon which a halted target announces its stop again. Unsent packets go."""
        lost = self._drop_all("the link is being reset")
        self._resets_sent = 0
        self._send_reset(now)
        return lost

    def receive(self, data: bytes, now: float) -> Iterator[Event]:
        self.counters.bytes_received += len(data)
        self._heard_at = now
        framer = self._framer
        framer.feed(data)
        while (packet := framer.next_packet()) is not None:
            if not packet.control:
                yield from self._on_data(packet, now)
            elif packet.type == _ACKNOWLEDGE:
                if packet.id == self._next_id and self._unacknowledged is not None:
                    yield self._acknowledged(now)
            elif packet.type == PacketType.RESET:
                yield from self._on_reset(now)
            elif self._unacknowledged is not None and self.phase is _SYNCED:
                yield from self._repeat(now)
        self._set_deadline(now)

    def expire(self, now: float) -> Iterator[Event]:
        if self._framer.missing and now >= self._heard_at + self._byte_timeout and self._framer.discard():
            self.counters.damaged += 1
            self._control(PacketType.RESEND)
        if self.phase is _RESETTING and now >= self._reset_due():
            if self._talked_at is not None:
                self._resets_sent = 0
            if self._max_resets and self._resets_sent >= self._max_resets:
                self.phase = _UNKNOWN
                yield GaveUp(PacketType.RESET, f"no answer to {self._resets_sent} RESETs")
            else:
                self._send_reset(now)
        if self._unacknowledged is not None and self.phase is _SYNCED and now >= self._ack_at:
            yield from self._repeat(now)
        if self.breaking_in and now >= self._break_in_at:
            self.break_in(now)
        self._set_deadline(now)

    def _on_data(self, packet: HostPacket, now: float) -> Iterable[Event]:
        if not packet.good:
            self.counters.damaged += 1
            self._control(PacketType.RESEND)
        elif packet.id & SYNC:
            return self._on_sync(packet, now)
        elif self.phase is _UNKNOWN:
            self._resets_sent = 0
            self._send_reset(now)
        elif self.phase is _RESETTING:
            self._on_unexpected(now)
        elif packet.id in _IDS and (packet.id == self._expected or self._is_new(packet)):
            self._acknowledge(packet.id)
            ours, after_reset = self._unacknowledged, self._expected is None
            orphan = after_reset and packet.type == _MANIPULATE and self._next_id == INITIAL_ID
            answer = ours is not None and not after_reset and self._answers(packet, ours)
            self._expected = packet.id ^ 1
            self._taken = packet.payload
            self._sync_taken = None
            if answer:
                return self._acknowledged(now), self._deliver(packet)
            if not orphan:
                return (self._deliver(packet),)
            # a reply to whoever was here before us, repeated after our RESET (KD protocol, 1.8)
            if ours is None:
                self._resets_sent = 0
                self._send_reset(now)
        else:
            self.counters.duplicates += 1
            self._acknowledge(packet.id)
        return ()

    def _on_unexpected(self, now: float) -> None:
        """A packet in place of the answer to our RESET: the target talks, so it answers soon or has not heard.

        One that was running has eaten the RESET. If a break-in followed that and made it talk, this is certain.
        """
        if self._break_in_behind_reset:
            self._resets_sent = 0
            self._send_reset(now)
        elif self._talked_at is None:
            self._talked_at = now

    def _on_sync(self, packet: HostPacket, now: float) -> Iterator[Event]:
        """The target has started its numbering anew, and expects us to have done so too (KD protocol, 1.4)."""
        first_id = packet.id & ~SYNC
        self._acknowledge(first_id)
        if packet.payload == self._sync_taken:
            self.counters.duplicates += 1
            return
        lost = self._drop_all("the target has started anew") if self.phase is _SYNCED else []
        self.phase = _SYNCED
        self._next_id = INITIAL_ID
        self._expected = first_id ^ 1
        self._taken = self._sync_taken = packet.payload
        self._late_until = now + _LATE
        yield from lost
        yield ResetSeen()
        self._send_next(now)
        yield self._deliver(packet)

    def _on_reset(self, now: float) -> Iterator[Event]:
        """The target's answer to our RESET, or a RESET of its own (which is answered once).

        RESETs that waited in the line are answered one by one. The target read them all before what we have sent since,
        so the later answers change nothing: until it acknowledges a packet, no RESET is taken for its own.
        """
        self.counters.resets += 1
        if self.phase is _SYNCED and now < self._late_until:
            return
        if self.phase is not _RESETTING:
            self._output.append(_RESET)
        lost = self._drop_all("the target has reset the link") if self.phase is _SYNCED else []
        self.phase = _SYNCED
        self._next_id = INITIAL_ID
        self._expected = self._sync_taken = None
        self._late_until = now + _LATE
        yield from lost
        yield ResetSeen()
        self._send_next(now)

    def _deliver(self, packet: HostPacket) -> Packet:
        self.counters.packets_received += 1
        if packet.type in _STOPS:
            self.breaking_in = False
        return Packet(packet.type, packet.payload)

    def _is_new(self, packet: HostPacket) -> bool:
        """Whether a packet with the id of the last one is another. A repeat has the same bytes.

        The one between them got lost: a target takes a request of ours for the ACK that it waits for (KD protocol, 1.6
        step 5). Right after a RESET any id will do.
        """
        return self._expected is None or packet.payload != self._taken

    def _answers(self, packet: HostPacket, ours: Packet) -> bool:
        """Whether this is the reply to our unacknowledged request: then its ACK got lost (KD protocol, 1.9)."""
        return packet.type == ours.type == _MANIPULATE and packet.payload[:4] == ours.payload[:4]

    def _acknowledged(self, now: float) -> Acknowledged:
        ours = self._unacknowledged
        assert ours is not None
        self._unacknowledged = self._sync_taken = None
        self._late_until = now
        self._next_id ^= 1
        if self._queue:
            self._send_next(now)
        return Acknowledged(ours.type)

    def _repeat(self, now: float) -> Iterator[Event]:
        if self._tries < self._max_tries:
            self._transmit(now)
            return
        self.phase = _UNKNOWN
        yield from self._drop_all(f"the target does not acknowledge it, sent {self._tries} times")

    def _send_reset(self, now: float) -> None:
        self.phase = _RESETTING
        self._resets_sent += 1
        self._reset_at = now
        self._talked_at = None
        self._break_in_behind_reset = False
        self._output.append(_RESET)
        self._set_deadline(now)

    def _reset_due(self) -> float:
        """When the answer to our last RESET is overdue; a target in the middle of a packet answers after it."""
        if self._talked_at is not None:
            return max(self._reset_at + self._reset_timeout, self._talked_at + _GRACE)
        since = min(max(self._reset_at, self._heard_at), self._reset_at + _LONGEST_PACKET)
        return since + self._reset_timeout * (1 << min(max(self._resets_sent - 1, 0), 4))

    def _may_send(self) -> bool:
        return self.phase is _SYNCED

    def _transmit(self, now: float) -> None:
        patience = 3 * self._ack_timeout if self._tries else self._ack_timeout
        self._ack_at = now + patience + len(self._frame) * self._byte_time
        super()._transmit(now)

    def _set_deadline(self, now: float) -> None:
        deadline: float | None = None
        if self._unacknowledged is not None and self.phase is _SYNCED:
            deadline = self._ack_at
        elif self.phase is _RESETTING:
            deadline = self._reset_due()
        if self._framer.missing:
            due = self._heard_at + self._byte_timeout
            deadline = due if deadline is None else min(deadline, due)
        if self.breaking_in:
            deadline = self._break_in_at if deadline is None else min(deadline, self._break_in_at)
        self.deadline = deadline
