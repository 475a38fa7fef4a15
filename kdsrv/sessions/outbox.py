"""Packets of a target that their reader is not ready for, in order and bounded.

KD is stop-and-wait: a target waits for its reader after all it sends but printed text and trace, so these are all that
can pile up. Past the bound the oldest of them go, and their number is told in their place; state changes and replies
are never dropped.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from kdsrv.kd.debug_io import PRINT_STRING, DebugIo
from kdsrv.kd.packets import Packet, PacketType

__all__ = ["DroppedPrints", "LostRequests", "Outbox", "is_print"]

_PRINT: Final = PRINT_STRING.to_bytes(4, "little")
_DEBUG_IO: Final = int(PacketType.DEBUG_IO)
_TRACES: Final = frozenset(map(int, (PacketType.TRACE_IO, PacketType.CONTROL_REQUEST)))


class DroppedPrints(NamedTuple):
    """At this place so many printed packets are missing."""

    number: int


class LostRequests(NamedTuple):
    """The oldest so many requests that have no reply at this place get none."""

    number: int


def is_print(packet: Packet) -> bool:
    """Whether a packet is text or trace that the target does not wait for."""
    if packet.type == _DEBUG_IO:
        return packet.payload[:4] == _PRINT
    return packet.type in _TRACES


class Outbox:
    """Holds packets until ``take``; at most ``max_prints`` of them are prints."""

    __slots__ = ("_dropped", "_max_prints", "_packets", "_prints")

    def __init__(self, max_prints: int = 1000) -> None:
        self._max_prints = max_prints
        self._packets: deque[Packet | LostRequests] = deque()
        self._prints = 0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._packets)

    def put(self, packet: Packet) -> None:
        """Add a packet at the end."""
        self._packets.append(packet)
        if is_print(packet):
            self._prints += 1
            if self._prints > self._max_prints:
                self._drop_oldest_print()

    @property
    def is_filling(self) -> bool:
        """Whether its reader is behind, and prints need not be dropped yet if they come more slowly."""
        return self._max_prints // 4 <= self._prints < self._max_prints

    def lose_requests(self, number: int) -> None:
        """At this place the reader has to learn that it waits in vain."""
        self._packets.append(LostRequests(number))

    def put_back(self, packet: Packet) -> None:
        """Add a packet that was taken and could not be handed over."""
        self._packets.appendleft(packet)
        self._prints += is_print(packet)

    def take(self) -> Packet | DroppedPrints | LostRequests | None:
        """The oldest there is, or before it how many prints were dropped, or None if there is nothing."""
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            return DroppedPrints(dropped)
        if not self._packets:
            return None
        packet = self._packets.popleft()
        if type(packet) is Packet:
            self._prints -= is_print(packet)
        return packet

    def take_prints(self) -> list[Packet]:
        """All prints that are held, oldest first; nothing is left. If some were dropped, a line says how many."""
        prints = [packet for packet in self._packets if type(packet) is Packet and is_print(packet)]
        if self._dropped:
            text = f"[kdsrv: {self._dropped} prints of the target were dropped here]\n".encode()
            prints.insert(0, Packet(_DEBUG_IO, DebugIo.print_string(text).encode()))
        self._packets.clear()
        self._prints = self._dropped = 0
        return prints

    def keep_prints(self) -> None:
        """Forget everything that is no print, as after a resync."""
        self._packets = deque(packet for packet in self._packets if type(packet) is Packet and is_print(packet))

    def _drop_oldest_print(self) -> None:
        for index, packet in enumerate(self._packets):
            if type(packet) is Packet and is_print(packet):
                del self._packets[index]
                self._prints -= 1
                self._dropped += 1
                return
