"""The debugger's end of a KD link over 1394: the packets as they are, and next to nothing of a link around them.

The bus carries what it carries undamaged, and a mailbox holds one packet until it is taken. So there are no ids to
agree on, no ACK and no RESET on the wire; the transport gives an ACK in place of a target when that has taken a packet,
under the id that we have put into it (the target does not look at it). What is left (KD over 1394, 1.4 and 1.5):

    resync         the target is asked by RESEND to tell of its stop again. One that stands still does; one that runs
                   does not look, and nothing is given up then but the asking. A break-in would make both talk, but it
                   stops the one and gives the other a stop too many.
    RESEND         from the target: it could not use our last packet, though it has taken it. It gets it again.
    silence        a packet that is not taken is given again, in case a break-in has taken its place, and then given up.
    a stop         upon a break-in: what has not been taken yet was meant for before it, as a Continue is, and is given
                   up too.

A packet with a wrong sum was read while another took its place, or the target is not what we take it for: asking it to
tell of its stop again is done a few times in a row and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kdsrv.kd.link import Acknowledged, Event, GaveUp, HostRole, Phase
from kdsrv.kd.packets import (
    BREAK_IN,
    CONTROL_LEADER,
    DATA_LEADER,
    HEADER,
    MAX_PAYLOAD,
    Packet,
    PacketType,
    checksum,
    encode_data,
)

__all__ = ["MailboxLink"]

_STOPS: Final = frozenset(map(int, (PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32)))
_ACKNOWLEDGE: Final = int(PacketType.ACKNOWLEDGE)
_RESEND: Final = int(PacketType.RESEND)
_MOST_DAMAGED: Final = 3
_LAST_ID: Final = 0xFFFFFFFF


class MailboxLink(HostRole):
    """The host role of a link by mailboxes. What it is given, and what `take_output` gives, is one KD packet at a time.

    All times are seconds: a packet is given again each ``ack_timeout``, ``tries`` times in all; after
    ``resync_timeout`` a target has told of its stop or runs; a break-in is repeated each ``break_in_interval``.
    """

    in_datagrams = True
    max_request = MAX_PAYLOAD - HEADER.size

    def __init__(
        self,
        *,
        ack_timeout: float = 1.0,
        tries: int = 4,
        resync_timeout: float = 3.0,
        break_in_interval: float = 2.0,
    ) -> None:
        super().__init__()
        self._ack_timeout = ack_timeout
        self._max_tries = tries
        self._resync_timeout = resync_timeout
        self._break_in_interval = break_in_interval
        self._next_id = 1
        self._last: Packet | None = None
        self._ack_at = 0.0
        self._resync_until = 0.0
        self._break_in_at = 0.0
        self._damaged_in_row = 0

    @property
    def missing(self) -> int:
        """Packets come whole. See `Link`."""
        return 0

    @property
    def noise(self) -> int:
        """There is nothing between packets. See `HostRole`."""
        return 0

    def send(self, packet_type: int, payload: bytes, now: float) -> None:
        """Send one data packet, after those already waiting. Raises ValueError for a payload over 3984 bytes."""
        if len(payload) > self.max_request:
            raise ValueError(f"a mailbox takes a payload of {self.max_request} bytes, this one is {len(payload)}")
        super().send(packet_type, payload, now)

    def break_in(self, now: float) -> None:
        self.breaking_in = True
        self._output.append(BREAK_IN)
        self._break_in_at = now + self._break_in_interval
        self._set_deadline(now)

    def resync(self, now: float) -> list[GaveUp]:
        """Have a target that stands still tell of its stop again. Unsent packets go."""
        lost = self._drop_all("the link is being reset")
        self._last = None
        self._damaged_in_row = 0
        self.phase = Phase.RESETTING
        self._resync_until = now + self._resync_timeout
        self._control(PacketType.RESEND)
        self._set_deadline(now)
        return lost

    def receive(self, data: bytes, now: float) -> Iterator[Event]:
        """One packet came. See `Link`."""
        self.counters.bytes_received += len(data)
        if len(data) < HEADER.size:
            self.counters.damaged += 1
            return
        leader, packet_type, _, packet_id, wanted_sum = HEADER.unpack_from(data)
        if leader == DATA_LEADER:
            yield from self._on_data(packet_type, data[HEADER.size :], wanted_sum)
            self._send_next(now)
        elif leader != CONTROL_LEADER:
            self.counters.damaged += 1
        elif packet_type == _ACKNOWLEDGE:
            yield from self._on_taken(packet_id, now)
        elif packet_type == _RESEND and self._last is not None:
            self._unacknowledged = self._last
            yield from self._repeat(now, "the target asks for it again and again")
        self._set_deadline(now)

    def expire(self, now: float) -> Iterator[Event]:
        if self.phase is Phase.RESETTING and now >= self._resync_until:
            self.phase = Phase.UNKNOWN
            yield GaveUp(PacketType.RESET, "the target does not tell of a stop")
        if self._unacknowledged is not None and now >= self._ack_at:
            yield from self._repeat(now, f"the target does not take it in {self._tries * self._ack_timeout:.0f} s")
        if self.breaking_in and now >= self._break_in_at:
            self.break_in(now)
        self._set_deadline(now)

    def take_output(self) -> bytes:
        """One packet, or a break-in byte; b"" if there is none. See `Link`."""
        if not self._output:
            return b""
        data = self._output.pop(0)
        self.counters.bytes_sent += len(data)
        return data

    def _on_data(self, packet_type: int, payload: bytes, wanted_sum: int) -> Iterator[Event]:
        if checksum(payload) != wanted_sum:
            self.counters.damaged += 1
            self._damaged_in_row += 1
            if self._damaged_in_row <= _MOST_DAMAGED:
                self._control(PacketType.RESEND)
            return
        self._damaged_in_row = 0
        self.counters.packets_received += 1
        self.phase = Phase.SYNCED
        if packet_type in _STOPS and self.breaking_in:
            self.breaking_in = False
            yield from self._drop_all("the target has stopped before it was taken")
        yield Packet(packet_type, payload)

    def _on_taken(self, packet_id: int, now: float) -> Iterator[Event]:
        ours = self._unacknowledged
        if ours is not None and packet_id == self._next_id:
            self._unacknowledged = None
            yield Acknowledged(ours.type)
            self._send_next(now)

    def _repeat(self, now: float, why: str) -> Iterator[Event]:
        if self._tries < self._max_tries:
            self._transmit(now)
            return
        self.phase = Phase.UNKNOWN
        self._last = None
        yield from self._drop_all(why)

    def _put_on_line(self, packet: Packet, now: float) -> None:
        self._next_id = self._next_id % _LAST_ID + 1
        self._last = packet
        super()._put_on_line(packet, now)

    def _encode(self, packet: Packet) -> bytes:
        return encode_data(packet.type, self._next_id, packet.payload, trailer=b"")

    def _may_send(self) -> bool:
        return self.phase is Phase.SYNCED

    def _transmit(self, now: float) -> None:
        self._ack_at = now + self._ack_timeout
        super()._transmit(now)

    def _set_deadline(self, now: float) -> None:
        times = []
        if self._unacknowledged is not None:
            times.append(self._ack_at)
        if self.phase is Phase.RESETTING:
            times.append(self._resync_until)
        if self.breaking_in:
            times.append(self._break_in_at)
        self.deadline = min(times, default=None)
