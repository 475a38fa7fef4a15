"""The mailboxes of a waiting target: KD packets in its memory (KD over 1394, 1.3 to 1.6).

The target has two boxes of one packet each: from the *send* box the host takes, into the *receive* box it puts. A
status word in front of each says whether it is full (0x103) or empty (0); whoever fills a box writes the status last,
whoever empties it writes it after reading. The host does both by reads and writes over the bus, and the target only
looks at its own memory. So the machine here does the same turn again and again:

    1. look into the send box;
    2. look after what lies in the receive box: a packet that is gone was taken, one that lies too long is taken back;
    3. take what is in the send box: read it, check the sum, empty the box, hand the packet on;
    4. put into the receive box what there is to put, a packet or a break-in: body, then status, one after the other.

As long as things move, turn follows turn; in a silence they become rarer, a thousand in a second after 36 ms and a
hundred after 180. By this order a request counts for taken before its reply is handed on.

A packet counts for read only when the emptying has succeeded; if a bus reset comes in between, the next look tells.
What cannot be told is whether the target has got a packet of ours when the write of its status was cancelled and both
boxes are empty: that is `Disturbed`, for a request that is done twice, or a reply that belongs to another, would be
worse.

What is given later takes the place of what was given before. A packet is given up by its link, and only then followed
by another; a break-in waits a moment for the packet before it, and takes that back if the target does not look for
packets, since it runs. A request to repeat the stop is of use only to a target that stands still, which takes it at
once. From one that runs it is taken back soon, since no target waits until a print is taken while there is something in
its receive box. It is dropped too when the target tells of something by itself, and so is a break-in that has not been
put in the box when it tells of a stop: for a target that stands still that is one stop too many.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kdsrv.firewire.descriptor import Block, NoBlock, find_block
from kdsrv.firewire.errand import PATIENCE, Came, Disturbed, Errand, Event, Found, Taken
from kdsrv.firewire.transactions import Read, ResponseCode, Script, TransactionFailed, Write, read, write
from kdsrv.kd.packets import BREAK_IN, CONTROL_LEADER, DATA_LEADER, HEADER, PacketType, checksum

__all__ = ["EMPTY", "FULL", "HEAD_SIZE", "MAX_BODY", "Mailbox", "Pace"]

FULL: Final = (0x103).to_bytes(4, "little")
EMPTY: Final = bytes(4)
MAX_BODY: Final = 4000
"""Bytes of a packet's body, in the send box, and of header and body, in the receive box."""

HEAD_SIZE: Final = 24
"""Of the send box: the status, the header of the packet, and the length of its body."""
_BODY: Final = 24
"""Where in the send box the body is."""
_LENGTH: Final = 4
"""Where in the receive box the length is; the packet follows."""
_BREAK_IN_BODY: Final = BREAK_IN * 4
"""Shorter than a header, by which a target knows it."""

_RESEND: Final = int(PacketType.RESEND)
_TELLING: Final = frozenset(map(int, PacketType)) - {PacketType.STATE_MANIPULATE, PacketType.ACKNOWLEDGE, _RESEND}
"""What a target tells by itself, and not as an answer."""
_STOPS: Final = frozenset(map(int, (PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32)))
_MOST_MISREADS: Final = 2


class Pace(NamedTuple):
    """How often the boxes are looked at, and how long a packet may lie; all in seconds.

    No pause for ``spin`` seconds after something moved; then one of a ``slowing``-th of the silence, up to ``longest``.
    """

    spin: float = 0.02
    slowing: float = 16.0
    longest: float = 0.01
    break_in_waits: float = 0.2
    repetition_lies: float = 0.2


_PACE: Final = Pace()


class Mailbox(Errand):
    """The mailboxes of the node at hand, if it waits on ``channel``.

    ``bus_limit`` is the longest transaction of bus and system, in bytes. A node that waits on another channel is told
    as found too, and ends it: its mailboxes are not looked into.
    """

    def __init__(self, channel: int, bus_limit: int, *, pace: Pace = _PACE, patience: float = PATIENCE) -> None:
        super().__init__(patience)
        self._channel = channel
        self._bus_limit = bus_limit
        self._pace = pace
        self._places: tuple[int, int] | None = None
        self._moved_at = 0.0
        # the receive box
        self._given = b""
        self._break_in = False
        self._boxed = b""
        self._boxed_at = 0.0
        self._is_told = False
        self._is_empty = False
        self._unsure = b""
        # the send box
        self._held: tuple[bytes, bytes] | None = None
        self._misreads = 0

    def give(self, packet: bytes, now: float) -> list[Event]:
        """Put this packet (header and body, 4000 bytes at the most) or break-in byte into the receive box.

        One that lies there already stays as it is.
        """
        if packet == self._boxed:
            return []
        if packet == BREAK_IN:
            self._break_in = True
        else:
            self._given = packet
        self._moved_at = now
        return [] if self.operation is not None or self._failures else self.expire(now)

    def withdrawal(self) -> Write | None:
        """What takes back a packet that the target has not taken, when nobody will look after it any more."""
        return Write(self._places[1], EMPTY) if self._boxed and self._places is not None else None

    def _script(self) -> Script[None]:
        block = self._block
        if block is None:
            block = yield from find_block(self._bus_limit)
            self._arrive(block)
        while True:
            yield from self._turn(block)
            if pause := self._pause():
                self.deadline = self._now + pause
                yield None

    def _arrive(self, block: Block) -> None:
        """A block was found, for the first time or again."""
        self._events.append(Found(block))
        descriptor = block.descriptor
        if descriptor.channel != self._channel:
            raise NoBlock(f"it waits on channel {descriptor.channel}")
        places = (descriptor.send, descriptor.receive)
        if self._places not in (None, places):
            self._given = self._boxed = self._unsure = b""
            self._break_in = False
            self._events.append(Disturbed("the target has started anew"))
        self._places = places
        self._block = block
        self._moved_at = self._now

    def _pause(self) -> float:
        silence = self._now - self._moved_at - self._pace.spin
        return 0.0 if silence <= 0 else min(silence / self._pace.slowing, self._pace.longest)

    def _turn(self, block: Block) -> Script[None]:
        head = yield Read(block.descriptor.send, HEAD_SIZE)
        self._heard()
        is_full = head.startswith(FULL)
        if self._boxed or self._unsure:
            yield from self._look_after_ours(block, is_full)
        if self._held is not None and not (is_full and head == self._held[0]):
            self._hand_on(self._held[1])  # the box was emptied, though the bus did not say so
        if is_full and not (yield from self._take(block, head)):
            return
        if self._given or self._break_in:
            yield from self._put(block)

    def _take(self, block: Block, head: bytes) -> Script[bool]:
        """Whether the box is empty now; if not, it has to be looked into again."""
        length = int.from_bytes(head[20:24], "little")
        body = b""
        if 0 < length <= MAX_BODY:
            body = yield from read(block.descriptor.send + _BODY, length, block.limit)
        wanted_sum = int.from_bytes(head[16:20], "little")
        if checksum(body) != wanted_sum and self._misreads < _MOST_MISREADS:
            self._misreads += 1  # perhaps another took its place meanwhile; if not, the link has to deal with it
            return False
        self._misreads = 0
        packet = head[4:20] + body
        self._held = (head, packet)
        yield Write(block.descriptor.send, EMPTY)
        self._hand_on(packet)
        return True

    def _hand_on(self, packet: bytes) -> None:
        self._held = None
        self._moved_at = self._now
        kind = int.from_bytes(packet[4:6], "little")
        if kind in _STOPS:
            self._break_in = False
        if kind in _TELLING:
            self._is_told = True
            if _is_repetition(self._given):
                self._given = b""
        self._events.append(Came(packet))

    def _look_after_ours(self, block: Block, has_said: bool) -> Script[None]:
        """``has_said``: the target has put something into the send box."""
        status = yield Read(block.descriptor.receive, len(FULL))
        if self._unsure:
            packet, self._unsure = self._unsure, b""
            if status != FULL and not has_said:
                self._given = b""
                self._events.append(Disturbed("a bus reset came between a packet and the target"))
                return
            self._lies(packet)
        if status != FULL:
            packet, self._boxed = self._boxed, b""
            self._is_empty = True
            self._moved_at = self._now
            if packet != BREAK_IN:
                self._events.append(Taken(packet))
        elif self._is_stale():
            yield Write(block.descriptor.receive, EMPTY)
            self._boxed = b""
            self._is_empty = True

    def _is_stale(self) -> bool:
        """Whether what lies in the box should lie there no longer."""
        age = self._now - self._boxed_at
        if self._given:
            return self._boxed != BREAK_IN or age >= self._pace.break_in_waits
        if self._break_in:
            return age >= self._pace.break_in_waits
        return _is_repetition(self._boxed) and (self._is_told or age >= self._pace.repetition_lies)

    def _put(self, block: Block) -> Script[None]:
        if self._boxed:
            return
        box = block.descriptor.receive
        if not self._is_empty:
            if (yield Read(box, len(FULL))) == FULL:  # of somebody who was here before us
                yield Write(box, EMPTY)
            self._is_empty = True
        packet = self._given or BREAK_IN
        body = _BREAK_IN_BODY if packet == BREAK_IN else packet
        yield from write(box + _LENGTH, len(body).to_bytes(4, "little") + body, block.limit)
        self._is_empty = False
        try:
            yield Write(box, FULL)
        except TransactionFailed as failure:
            if failure.code == ResponseCode.CANCELLED and packet.startswith(DATA_LEADER):
                self._unsure = packet
            raise
        self._lies(packet)

    def _lies(self, packet: bytes) -> None:
        """This packet is in the receive box now."""
        self._boxed = packet
        self._is_told = False
        self._boxed_at = self._moved_at = self._now
        if packet == BREAK_IN:
            self._break_in = False
        elif packet == self._given:
            self._given = b""


def _is_repetition(packet: bytes) -> bool:
    """Whether this asks the target to tell of its stop again."""
    return packet.startswith(CONTROL_LEADER) and len(packet) == HEADER.size and packet[4] == _RESEND
