"""What both ends of a KD link share: events, and the sending of one packet at a time (KD protocol, 1.4 to 1.9).

A link turns the bytes of a line into whole packets and back: every packet once, in order, however the line loses,
damages or repeats bytes, or it says why it gave up. It owns no line and no clock. Its owner

* passes in what the line brings: ``for event in link.receive(data, now)``, handling each event before the next,
* calls ``expire(now)`` the same way when ``now`` reaches ``deadline``,
* writes what ``take_output()`` returns after each of these and after ``send``.

Both roles send alike: one packet is on the line at a time, repeated with the same id until it is acknowledged; the
others wait in a queue, which the owner bounds by looking at ``backlog``. What a packet, a silence or an ACK does to
each role is in host_link.py and target_link.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from kdsrv.kd.packets import INITIAL_ID, MAX_PAYLOAD, Packet, PacketType, encode_control, encode_data

__all__ = [
    "Acknowledged",
    "BreakIn",
    "Event",
    "GaveUp",
    "HostRole",
    "Link",
    "LinkCounters",
    "Phase",
    "ResendAsked",
    "ResetSeen",
    "TargetRole",
]

_ACKNOWLEDGE: Final = int(PacketType.ACKNOWLEDGE)
_ACKS: Final = {number: encode_control(_ACKNOWLEDGE, number) for number in (INITIAL_ID, INITIAL_ID | 1)}
"""The two ACKs that a link sends nearly always."""


class Phase(Enum):
    """What the two ends of a link agree on, as the host sees it."""

    UNKNOWN = "unknown"
    RESETTING = "resetting"
    SYNCED = "synced"


class BreakIn(NamedTuple):
    """The debugger wants the target to stop."""


class ResetSeen(NamedTuple):
    """Ids have started again; a target announces its stop again, a host has the line in step."""


class ResendAsked(NamedTuple):
    """The debugger wants the last announcement again, and nothing is waiting to be acknowledged."""


class Acknowledged(NamedTuple):
    """The other end has the packet of this type that was sent first of those not yet acknowledged."""

    type: int


class GaveUp(NamedTuple):
    """A packet of this type was not acknowledged and is dropped; ``why`` is half a sentence for people."""

    type: int
    why: str


Event: TypeAlias = Packet | BreakIn | ResetSeen | ResendAsked | Acknowledged | GaveUp


@dataclass(slots=True)
class LinkCounters:
    """What happened on a line since the link was made; all are counts."""

    bytes_received: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    packets_sent: int = 0
    repeats_sent: int = 0
    duplicates: int = 0
    damaged: int = 0
    resets: int = 0


class Link(ABC):
    """The sending half of a KD link, and the face that both roles show to their owner.

    ``in_datagrams``: each ``take_output`` is one datagram, which is not to be joined with another.
    """

    in_datagrams = False

    def __init__(self) -> None:
        self.counters = LinkCounters()
        self.deadline: float | None = None
        self._next_id = INITIAL_ID
        self._queue: deque[Packet] = deque()
        self._unacknowledged: Packet | None = None
        self._frame = b""
        self._tries = 0
        self._output: list[bytes] = []

    @property
    def backlog(self) -> int:
        """Packets that the other end does not have yet."""
        return len(self._queue) + (self._unacknowledged is not None)

    @property
    @abstractmethod
    def missing(self) -> int:
        """Bytes that the packet being received still lacks; 0 between packets."""

    @abstractmethod
    def receive(self, data: bytes, now: float) -> Iterator[Event]:
        """Bytes came from the line at ``now``. The iterator must be run to its end."""

    @abstractmethod
    def expire(self, now: float) -> Iterator[Event]:
        """``deadline`` has come. The iterator must be run to its end."""

    @abstractmethod
    def _may_send(self) -> bool:
        """Whether the line is in a state to take a new packet."""

    @abstractmethod
    def _set_deadline(self, now: float) -> None:
        """Compute ``deadline`` from the state."""

    def send(self, packet_type: int, payload: bytes, now: float) -> None:
        """Send one data packet, after those already waiting. Raises ValueError for a payload over 4000 bytes."""
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a KD payload is at most {MAX_PAYLOAD} bytes, this one is {len(payload)}")
        packet = Packet(packet_type, payload)
        if self._unacknowledged is None and not self._queue and self._may_send():
            self._put_on_line(packet, now)
        else:
            self._queue.append(packet)

    def take_output(self) -> bytes:
        """What to write to the line now; on a medium of datagrams one of them, to be called until there is none."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        self.counters.bytes_sent += len(data)
        return data

    def _send_next(self, now: float) -> None:
        if self._queue and self._unacknowledged is None and self._may_send():
            self._put_on_line(self._queue.popleft(), now)

    def _put_on_line(self, packet: Packet, now: float) -> None:
        self._unacknowledged = packet
        self._frame = self._encode(packet)
        self._tries = 0
        self.counters.packets_sent += 1
        self._transmit(now)

    def _transmit(self, now: float) -> None:
        """Put the unacknowledged packet on the line, for the first time or again."""
        if self._tries:
            self.counters.repeats_sent += 1
        self._tries += 1
        self._output.append(self._frame)
        self._set_deadline(now)

    def _control(self, packet_type: int, packet_id: int = 0) -> None:
        self._output.append(encode_control(packet_type, packet_id))

    def _acknowledge(self, packet_id: int) -> None:
        self._output.append(_ACKS.get(packet_id) or encode_control(_ACKNOWLEDGE, packet_id))

    def _renumber(self, packet_id: int) -> None:
        """Ids have started again: the unacknowledged packet goes out under the new one."""
        self._next_id = packet_id
        if self._unacknowledged is not None:
            self._frame = self._encode(self._unacknowledged)

    def _encode(self, packet: Packet) -> bytes:
        """The packet as it goes on the line, under the next id."""
        return encode_data(packet.type, self._next_id, packet.payload)

    def _drop_all(self, why: str) -> list[GaveUp]:
        """Give up every packet that the other end does not have. To be told once the link is ready for new ones."""
        lost = [] if self._unacknowledged is None else [self._unacknowledged]
        lost += self._queue
        self._unacknowledged = None
        self._queue.clear()
        return [GaveUp(packet.type, why) for packet in lost]


class HostRole(Link):
    """What a session needs of a link in the host role, whichever medium it is for.

    ``max_request`` and ``max_reply`` are the largest payloads, in bytes, that the medium carries to the target and
    back.
    """

    max_request = MAX_PAYLOAD
    max_reply = MAX_PAYLOAD

    def __init__(self) -> None:
        super().__init__()
        self.phase = Phase.UNKNOWN
        self.breaking_in = False

    @property
    @abstractmethod
    def noise(self) -> int:
        """Bytes from the target so far that belong to no packet."""

    @abstractmethod
    def break_in(self, now: float) -> None:
        """Ask a running target to stop, again and again until it announces a stop."""

    @abstractmethod
    def resync(self, now: float) -> list[GaveUp]:
        """Agree on ids anew, upon which a halted target announces its stop again. Unsent packets go."""


class TargetRole(Link):
    """What a machine that is debugged needs of a link in the target role, whichever medium it is for.

    ``running``: the machine runs, and only polls for a break-in. ``want``: the packet types that it takes while it
    stands still. ``break_pending``: a break-in came while it stood still. ``debugger_absent``: the last packet was
    given up. ``max_reply`` is the largest payload, in bytes, of what the machine may tell in pieces.
    """

    max_reply = MAX_PAYLOAD

    def __init__(self, want: frozenset[int]) -> None:
        super().__init__()
        self.running = False
        self.want = want
        self.break_pending = False
        self.debugger_absent = False

    @abstractmethod
    def restart(self) -> None:
        """Forget everything, as a machine that boots does; what the debugger sent is lost too."""
