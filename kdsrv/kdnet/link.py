"""The debugger's end of the KD link on KDNET's data channel: what the server runs towards a target (KDNET, 5).

What comes and goes is one payload of a datagram at a time: a KD packet without trailer, or the break-in byte. Datagrams
get lost, but come in order and once, whole and unchanged: below, only what is newer and authentic passes. Ids are plain
counters, from 80000000 on in our direction and from 0 on in the target's, two more with each packet; what is not newer
than the packet taken last is a repeat. The phases are those of a serial line (see kdsrv/kd/host_link.py):

    UNKNOWN    nothing agreed: a machine that has just booted counts from 0 and knows of no debugger; one that was
               debugged before counts on from anywhere, and takes us for its old debugger, whose ids it has seen. A
               packet shows that the target listens: it is not acknowledged, a RESET is sent instead.
    RESETTING  our RESET is on its way, with the id of our next packet. The target answers with the id of the packet
               that it waits to see acknowledged, or else of its next, and repeats that packet or announces its stop
               again. Packets before the answer are not taken. A machine that runs hears no RESET: silence leads to
               another, and after a few to UNKNOWN; a packet, to another at once.
    SYNCED     packets are taken, acknowledged and delivered once; ours are sent, and repeated until acknowledged.

It is not known that a target repeats a reply by itself. So when one does not follow the ACK of its request, a RESEND
asks for it; a debugger need not put the request again. A break-in is repeated too, with something in front of it that
makes a target speak whose stop got lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kdsrv.kd.api import NO_REPLY
from kdsrv.kd.link import Acknowledged, Event, GaveUp, HostRole, Phase, ResetSeen
from kdsrv.kd.packets import (
    BREAK_IN,
    CONTROL_LEADER,
    DATA_LEADER,
    HEADER,
    MANIPULATE,
    Packet,
    PacketType,
    checksum,
    encode_data,
)

__all__ = ["MAX_BODY", "NetLink"]

MAX_BODY: Final = 1152
"""Bytes of payload in the largest packet of current targets; older ones send up to 1288 (KDNET, 5.4)."""

_FIRST_ID: Final = 0x80000000
_STEP: Final = 2
_ID_MASK: Final = 0xFFFFFFFF
_HALF: Final = 1 << 31
_LATE: Final = 5.0
"""Seconds within which further RESETs of a target are taken for answers to those that we had sent before."""

_GRACE: Final = 0.05
"""Seconds that the answer to a RESET may take before a packet in its place means that the RESET was not heard."""

_MAX_PATIENCE: Final = 1.0
"""Seconds, the longest time between two repeats of a packet."""

_MAX_ASKS: Final = 5
"""How often a missing reply is asked for, the time doubling; then it is taken for one that takes long."""

_ACKNOWLEDGE: Final = int(PacketType.ACKNOWLEDGE)
_RESEND: Final = int(PacketType.RESEND)
_RESET: Final = int(PacketType.RESET)
_DATA_TYPES: Final = frozenset(map(int, PacketType)) - {_ACKNOWLEDGE, _RESEND, _RESET}
_STOPS: Final = frozenset(map(int, (PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32)))
_UNANSWERED: Final = frozenset(api.to_bytes(4, "little") for api in NO_REPLY)
_UNKNOWN, _RESETTING, _SYNCED = Phase
"""Names for the hot path: to look a member up in an enumeration takes five times as long."""


class NetLink(HostRole):
    """The host role of a link on datagrams.

    Times are seconds. A packet is repeated after ``ack_timeout``, then in twice that and so on up to one second, and is
    given up when it was sent ``tries`` times; a RESET likewise after ``reset_timeout``, and ``resets`` times in a row
    (0: without limit). A reply is asked for ``reply_timeout`` after the ACK of its request. A break-in is repeated each
    ``break_in_interval``.
    """

    in_datagrams = True
    max_request = max_reply = MAX_BODY

    def __init__(
        self,
        *,
        ack_timeout: float = 0.25,
        reset_timeout: float = 0.5,
        reply_timeout: float = 0.5,
        break_in_interval: float = 1.0,
        tries: int = 12,
        resets: int = 3,
    ) -> None:
        super().__init__()
        self._ack_timeout = ack_timeout
        self._reset_timeout = reset_timeout
        self._reply_timeout = reply_timeout
        self._break_in_interval = break_in_interval
        self._max_tries = tries
        self._max_resets = resets
        self._next_id = _FIRST_ID
        self._last = 0
        self._fresh = False
        self._noise = 0
        self._resets_sent = 0
        self._reset_at = 0.0
        self._reset_due = 0.0
        self._late_until = -float("inf")
        self._ack_at = 0.0
        self._reply_at: float | None = None
        self._asks = 0
        self._break_in_at = 0.0

    @property
    def missing(self) -> int:
        """Datagrams are whole. See `Link`."""
        return 0

    @property
    def noise(self) -> int:
        """Bytes from the target so far that belong to no packet."""
        return self._noise

    def break_in(self, now: float) -> None:
        self.breaking_in = True
        self._output.append(BREAK_IN)
        self._break_in_at = now + self._break_in_interval
        self._set_deadline(now)

    def resync(self, now: float) -> list[GaveUp]:
        lost = self._drop_all("the link is being reset")
        self._begin_reset(now)
        return lost

    def receive(self, data: bytes, now: float) -> Iterator[Event]:
        """The payload of a datagram. See `Link`."""
        self.counters.bytes_received += len(data)
        if len(data) < HEADER.size:
            self._noise += len(data)
            return
        leader, packet_type, count, packet_id, wanted_sum = HEADER.unpack_from(data)
        if leader == DATA_LEADER and packet_type in _DATA_TYPES:
            payload = data[HEADER.size :]
            if len(payload) == count and checksum(payload) == wanted_sum:
                yield from self._on_data(packet_id, Packet(packet_type, payload), now)
            else:
                self.counters.damaged += 1
                self._control(_RESEND)
        elif leader != CONTROL_LEADER:
            self._noise += len(data)
        elif packet_type == _ACKNOWLEDGE:
            if packet_id == self._next_id and self._unacknowledged is not None:
                yield self._acknowledged(now)
        elif packet_type == _RESET:
            yield from self._on_reset(packet_id, now)
        elif packet_type == _RESEND and self._unacknowledged is not None:
            yield from self._repeat(now)
        self._set_deadline(now)

    def expire(self, now: float) -> Iterator[Event]:
        if self.phase is _RESETTING and now >= self._reset_due:
            if self._max_resets and self._resets_sent >= self._max_resets:
                self.phase = _UNKNOWN
                yield GaveUp(_RESET, f"no answer to {self._resets_sent} RESETs")
            else:
                self._send_reset(now)
        if self._unacknowledged is not None and now >= self._ack_at:
            yield from self._repeat(now)
        if self._reply_at is not None and now >= self._reply_at:
            self._control(_RESEND)
            self._asks += 1
            self._reply_at = now + self._reply_timeout * (1 << self._asks) if self._asks < _MAX_ASKS else None
        if self.breaking_in and now >= self._break_in_at:
            if self.phase is _SYNCED:
                self._control(_RESEND)
            elif self.phase is _UNKNOWN:
                self._begin_reset(now)
            self.break_in(now)
        self._set_deadline(now)

    def take_output(self) -> bytes:
        if not self._output:
            return b""
        data = self._output.pop(0)
        self.counters.bytes_sent += len(data)
        return data

    def _on_data(self, packet_id: int, packet: Packet, now: float) -> Iterable[Event]:
        if self.phase is _UNKNOWN:
            self._begin_reset(now)
        elif self.phase is _RESETTING:
            self._resets_sent = 0
            self._reset_due = min(self._reset_due, max(now, self._reset_at + _GRACE))
        elif 0 < (packet_id - self._last) & _ID_MASK < _HALF:
            self._acknowledge(packet_id)
            self._last = packet_id
            orphan, answer = self._is_orphan(packet), self._answers_ours(packet)
            self._fresh = False
            if answer:
                return self._acknowledged(now), self._deliver(packet)
            if not orphan:
                return (self._deliver(packet),)
            if self._unacknowledged is None:
                self._begin_reset(now)
        else:
            self.counters.duplicates += 1
            self._acknowledge(packet_id)
        return ()

    def _on_reset(self, packet_id: int, now: float) -> Iterator[Event]:
        """The target's answer to our RESET, or a RESET of its own (which is answered once).

        RESETs that were sent before the answer to the first came are answered too, and those answers change nothing.
        Once the target acknowledges a packet there are none of them left.
        """
        self.counters.resets += 1
        if self.phase is _SYNCED and now < self._late_until:
            return
        lost = self._drop_all("the target has reset the link") if self.phase is _SYNCED else []
        self._next_id = _FIRST_ID
        if self.phase is not _RESETTING:
            self._control(_RESET, _FIRST_ID)
        self.phase = _SYNCED
        self._last = packet_id - 1
        self._fresh = True
        self._reply_at = None
        self._late_until = now + _LATE
        yield from lost
        yield ResetSeen()
        self._send_next(now)

    def _deliver(self, packet: Packet) -> Packet:
        self.counters.packets_received += 1
        self._reply_at = None
        if packet.type in _STOPS:
            self.breaking_in = False
        return packet

    def _is_orphan(self, packet: Packet) -> bool:
        """Whether this is a reply to whoever was here before us, repeated after our RESET."""
        return self._fresh and packet.type == MANIPULATE and self._next_id == _FIRST_ID

    def _answers_ours(self, packet: Packet) -> bool:
        """Whether this is the reply to our unacknowledged request: then its ACK got lost."""
        ours = self._unacknowledged
        return ours is not None and packet.type == ours.type == MANIPULATE and packet.payload[:4] == ours.payload[:4]

    def _acknowledged(self, now: float) -> Acknowledged:
        ours = self._unacknowledged
        assert ours is not None
        self._unacknowledged = None
        self._late_until = now
        self._next_id = (self._next_id + _STEP) & _ID_MASK | _FIRST_ID
        if ours.type == MANIPULATE and ours.payload[:4] not in _UNANSWERED:
            self._reply_at = now + self._reply_timeout
            self._asks = 0
        self._send_next(now)
        return Acknowledged(ours.type)

    def _repeat(self, now: float) -> Iterator[Event]:
        if self._tries < self._max_tries:
            self._transmit(now)
            return
        self.phase = _UNKNOWN
        yield from self._drop_all(f"the target does not acknowledge it, sent {self._tries} times")

    def _begin_reset(self, now: float) -> None:
        self._next_id = _FIRST_ID
        self._reply_at = None
        self._resets_sent = 0
        self._send_reset(now)

    def _send_reset(self, now: float) -> None:
        self.phase = _RESETTING
        self._control(_RESET, _FIRST_ID)
        self._reset_at = now
        self._reset_due = now + self._reset_timeout * (1 << min(self._resets_sent, 4))
        self._resets_sent += 1
        self._set_deadline(now)

    def _may_send(self) -> bool:
        return self.phase is _SYNCED

    def _encode(self, packet: Packet) -> bytes:
        return encode_data(packet.type, self._next_id, packet.payload, trailer=b"")

    def _transmit(self, now: float) -> None:
        self._ack_at = now + min(self._ack_timeout * (1 << min(self._tries, 8)), _MAX_PATIENCE)
        super()._transmit(now)

    def _set_deadline(self, now: float) -> None:
        deadline: float | None = None
        if self._unacknowledged is not None:
            deadline = self._ack_at
        elif self.phase is _RESETTING:
            deadline = self._reset_due
        if self._reply_at is not None:
            deadline = self._reply_at if deadline is None else min(deadline, self._reply_at)
        if self.breaking_in:
            deadline = self._break_in_at if deadline is None else min(deadline, self._break_in_at)
        self.deadline = deadline
