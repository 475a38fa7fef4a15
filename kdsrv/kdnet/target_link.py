"""The target's end of the KD link on KDNET's data channel (KDNET, 5): of the simulated target.

What comes and goes is one payload of a datagram at a time: a KD packet, or the break-in byte. A target listens in one
of three ways, as on a serial line (see kdsrv/kd/target_link.py):

    running          only a break-in counts;
    sending          after a packet of its own it waits for the ACK. RESEND and each second of silence make it send
                     again under the same id; data in place of the ACK is refused with RESEND, and counts for the ACK;
    waiting          it wants a packet from the debugger, of a type in ``want``.

Ids are plain counters: ours are 0, 2, 4 ... while the machine runs, and an ACK names the whole id. The debugger's are
told apart only from the one before, since a debugger may skip ids: it gives a request up and asks anew under the next.
The datagrams below come in order or not at all, so that suffices. A RESET changes no id of ours: it is answered with
the id of the packet that waits for its ACK, which follows again, or else of the next one. A break-in to a machine that
stands still is noted for when it runs, and has it announce its stop again, as on a serial line and on 1394.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kdsrv.kd.link import Acknowledged, BreakIn, Event, GaveUp, ResendAsked, ResetSeen, TargetRole
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
from kdsrv.kd.target_link import SMALLEST, may_be_given_up

__all__ = ["NetTargetLink"]

_STEP: Final = 2
_ID_MASK: Final = 0xFFFFFFFF


class NetTargetLink(TargetRole):
    """The target role of a link on datagrams.

    ``max_reply`` is in bytes of payload, ``timeout`` the seconds until a packet is sent again, ``retries`` how often
    the packets that a target may give up are sent. ``boots`` counts how often the link was started anew.
    """

    def __init__(
        self,
        *,
        max_reply: int = MAX_PAYLOAD,
        timeout: float = 1.0,
        retries: int = 20,
        want: frozenset[int] = frozenset(SMALLEST),
    ) -> None:
        super().__init__(want)
        self.max_reply = max_reply
        self.boots = 0
        self._timeout = timeout
        self._retries = retries
        self._sent_at = 0.0
        self._next_id = 0
        self._taken: int | None = None

    @property
    def missing(self) -> int:
        """Datagrams are whole. See `Link`."""
        return 0

    def restart(self) -> None:
        self._unacknowledged = self._taken = self.deadline = None
        self._queue.clear()
        self._next_id = 0
        self.break_pending = self.running = False
        self.boots += 1

    def connected(self, now: float) -> None:
        """There is a new data channel: its debugger may begin with any id, and hears what is not acknowledged."""
        self._taken = None
        if self._unacknowledged is not None:
            self._transmit(now)

    def receive(self, data: bytes, now: float) -> Iterator[Event]:
        """The payload of a datagram. See `Link`."""
        self.counters.bytes_received += len(data)
        polls = self.running and self._unacknowledged is None
        if data == BREAK_IN:
            if polls:
                self.running = False
                yield BreakIn()
            else:
                self.break_pending = True
                if self._unacknowledged is None:
                    yield ResendAsked()
        elif not polls:
            yield from self._on_packet(data, now)

    def expire(self, now: float) -> Iterator[Event]:
        if self.deadline is None or now < self.deadline:
            return
        ours = self._unacknowledged
        assert ours is not None
        if self._tries < self._retries or not may_be_given_up(ours):
            self._transmit(now)
            return
        self.debugger_absent = True
        self._advance()
        yield GaveUp(ours.type, f"the debugger does not acknowledge it, sent {self._tries} times")
        self._send_next(now)

    def take_output(self) -> bytes:
        if not self._output:
            return b""
        data = self._output.pop(0)
        self.counters.bytes_sent += len(data)
        return data

    def _on_packet(self, data: bytes, now: float) -> Iterable[Event]:
        if len(data) >= HEADER.size:
            leader, packet_type, count, packet_id, wanted_sum = HEADER.unpack_from(data)
            if leader in (DATA_LEADER, CONTROL_LEADER) and len(data) == HEADER.size + count:
                self._tries = min(self._tries, 1)
                self.debugger_absent = False
                if leader == CONTROL_LEADER:
                    return self._on_control(packet_type, packet_id, now)
                return self._on_data(packet_type, packet_id, data[HEADER.size :], wanted_sum, now)
        self.counters.damaged += 1
        return ()

    def _on_control(self, packet_type: int, packet_id: int, now: float) -> Iterable[Event]:
        ours = self._unacknowledged
        if packet_type == PacketType.ACKNOWLEDGE:
            if ours is not None and packet_id == self._next_id:
                return (self._acknowledged(ours, now),)
        elif packet_type == PacketType.RESEND:
            if ours is None:
                return (ResendAsked(),)
            self._transmit(now)
        elif packet_type == PacketType.RESET:
            self.counters.resets += 1
            self._taken = None
            self._control(PacketType.RESET, self._next_id)
            if ours is None:
                return (ResetSeen(),)
            self._transmit(now)
        return ()

    def _on_data(
        self, packet_type: int, packet_id: int, payload: bytes, wanted_sum: int, now: float
    ) -> Iterable[Event]:
        ours = self._unacknowledged
        if packet_id == self._taken:
            self.counters.duplicates += 1
            self._acknowledge(packet_id)
        elif ours is not None:
            self._control(PacketType.RESEND)
            return (self._acknowledged(ours, now),)
        elif packet_type not in self.want:
            self._acknowledge(packet_id)
        elif len(payload) < SMALLEST.get(packet_type, 0) or checksum(payload) != wanted_sum:
            self.counters.damaged += 1
            self._control(PacketType.RESEND)
        else:
            self._acknowledge(packet_id)
            self._taken = packet_id
            self.counters.packets_received += 1
            return (Packet(packet_type, payload),)
        return ()

    def _acknowledged(self, ours: Packet, now: float) -> Acknowledged:
        self._advance()
        self._send_next(now)
        return Acknowledged(ours.type)

    def _advance(self) -> None:
        """The packet under way is done with, one way or the other."""
        self._unacknowledged = self.deadline = None
        self._next_id = (self._next_id + _STEP) & _ID_MASK

    def _encode(self, packet: Packet) -> bytes:
        return encode_data(packet.type, self._next_id, packet.payload, trailer=b"")

    def _may_send(self) -> bool:
        return True

    def _transmit(self, now: float) -> None:
        self._sent_at = now
        super()._transmit(now)

    def _set_deadline(self, now: float) -> None:
        self.deadline = None if self._unacknowledged is None else self._sent_at + self._timeout
