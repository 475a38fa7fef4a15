"""Bytes of a KD line -> headers and payloads (KD protocol, 1.1 and 1.6, steps 1 to 3).

A line carries packets, the break-in byte and noise, freely mixed. Both framers read what came where it lies, from a
position that moves on, join to it what comes next, and hand out one thing at a time; they differ because the two ends
of a KD line do:

``HostFramer`` (we are the debugger's side) takes a packet only as a whole. A header that cannot be one (unknown type,
impossible length) is noise, and the search goes on one byte later, so that a lost or doubled leader byte costs nothing.

``TargetFramer`` (we are the target's side) does as a kernel does: it commits itself after four leader bytes, hands out
the header as soon as it is there, and reads a body only when told to; a body nobody wants becomes noise. It watches for
the break-in byte between packets.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from kdsrv.kd.packets import BREAK_IN, HEADER, TRAILER, PacketType, checksum

__all__ = ["HEADER_SIZE", "MAX_ACCEPTED", "HostFramer", "HostPacket", "TargetFramer", "TargetHeader"]

HEADER_SIZE: Final = HEADER.size
MAX_ACCEPTED: Final = 8192
"""A host takes payloads up to this many bytes, since some targets send more than 4000 (KD protocol, 4.8)."""

_LEADERS: Final = (b"0000", b"iiii")
_LEADER: Final = re.compile(b"|".join(_LEADERS))
_LEADER_BYTES: Final = b"0i"
_CONTROL: Final = ord("i")
_RESEND: Final = int(PacketType.RESEND)
_CONTROL_TYPES: Final = frozenset(map(int, (PacketType.ACKNOWLEDGE, PacketType.RESEND, PacketType.RESET)))
_DATA_TYPES: Final = frozenset(map(int, PacketType)) - _CONTROL_TYPES


def _find_leader(buffer: bytes, at: int) -> int:
    """Where the first leader from ``at`` on begins, -1 if there is none. Nearly always it is the next thing."""
    if buffer.startswith(_LEADERS, at):
        return at
    found = _LEADER.search(buffer, at)
    return found.start() if found else -1


def _unfinished_leader(buffer: bytes, at: int) -> int:
    """Where the bytes at the end that may be the start of a leader begin, looking no further back than ``at``."""
    end = buffer[max(at, len(buffer) - 3) :]
    return len(buffer) - len(end) + len(end.rstrip(_LEADER_BYTES))


def _joined(buffer: bytes, at: int, data: bytes) -> bytes:
    """What of ``buffer`` is left from ``at`` on, and ``data``: mostly nothing is left, and nothing is copied."""
    return data if at == len(buffer) else buffer[at:] + data


class HostPacket(NamedTuple):
    """What a host finds on the line: a control packet, or a data packet that is whole (``good``) or damaged."""

    control: bool
    type: int
    id: int
    payload: bytes
    good: bool


class HostFramer:
    """Finds packets from a target."""

    __slots__ = ("_at", "_buffer", "_wanted", "noise")

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0
        self._wanted = 0
        self.noise = 0

    @property
    def missing(self) -> int:
        """How many bytes the packet being received still lacks; 0 between packets."""
        left = len(self._buffer) - self._at
        return max(0, self._wanted - left) if left else 0

    def feed(self, data: bytes) -> None:
        self._buffer = _joined(self._buffer, self._at, data)
        self._at = 0

    def discard(self) -> bool:
        """Drop an unfinished packet, as after a silence within it; true when its header had come (it was data)."""
        left = len(self._buffer) - self._at
        self.noise += left
        self._at += left
        self._wanted = 0
        return left >= HEADER_SIZE

    def next_packet(self) -> HostPacket | None:
        """The next packet on the line, or None until more bytes come."""
        buffer, at = self._buffer, self._at
        end = len(buffer)
        if at == end or end - at < self._wanted:
            return None
        start = _find_leader(buffer, at)
        while start >= 0:
            wanted = start + HEADER_SIZE
            if end < wanted:
                break
            leader, packet_type, count, packet_id, wanted_sum = HEADER.unpack_from(buffer, start)
            if leader[0] == _CONTROL and packet_type in _CONTROL_TYPES:
                self._take(start, wanted)
                return HostPacket(True, packet_type, packet_id, b"", True)
            if leader[0] != _CONTROL and packet_type in _DATA_TYPES and count <= MAX_ACCEPTED:
                if count:
                    wanted += count + 1
                if end < wanted:
                    break
                payload = buffer[start + HEADER_SIZE : start + HEADER_SIZE + count]
                good = checksum(payload) == wanted_sum and (not count or buffer[wanted - 1] == TRAILER)
                self._take(start, wanted)
                return HostPacket(False, packet_type, packet_id, payload, good)
            start = _find_leader(buffer, start + 1)
        else:
            self._take(_unfinished_leader(buffer, at), 0)
            return None
        self._take(start, start)
        self._wanted = wanted - start
        return None

    def _take(self, start: int, end: int) -> None:
        """What lies before ``start`` is noise, and everything before ``end`` has been used."""
        self.noise += start - self._at
        self._at = max(start, end)
        self._wanted = 0


class TargetHeader(NamedTuple):
    """A header as a target reads it. Of a RESEND only the type is read (KD protocol, 1.6 step 2)."""

    control: bool
    type: int
    length: int
    id: int
    checksum: int


class TargetFramer:
    """Finds what a debugger sends. ``break_seen`` is the flag of KD protocol 1.6 step 1: a 0x62 was the last thing."""

    __slots__ = ("_at", "_body", "_buffer", "break_seen")

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0
        self._body: TargetHeader | None = None
        self.break_seen = False

    @property
    def in_body(self) -> bool:
        return self._body is not None

    @property
    def partial(self) -> bool:
        """Whether bytes have come that do not make a header or body yet."""
        return self._body is not None or self._at < len(self._buffer)

    @property
    def missing(self) -> int:
        left = len(self._buffer) - self._at
        if self._body is not None:
            return self._body.length + 1 - left
        return HEADER_SIZE - left if left >= 4 else 0

    def feed(self, data: bytes) -> None:
        self._buffer = _joined(self._buffer, self._at, data)
        self._at = 0

    def discard(self) -> None:
        self._at = len(self._buffer)
        self._body = None

    def take_byte(self) -> int | None:
        """One byte, as a running target polls its line; None when there is none. A body begun before is given up."""
        self._body = None
        buffer = self._buffer
        if self._at == len(buffer):
            return None
        found = buffer.find(BREAK_IN, self._at)
        self._at = found + 1 if found >= 0 else len(buffer)
        return buffer[self._at - 1]

    def next_header(self) -> TargetHeader | None:
        """The next header, or None until more bytes come. Everything before its leader is consumed."""
        buffer, at = self._buffer, self._at
        if at == len(buffer):
            return None
        start = _find_leader(buffer, at)
        if start < 0:
            self._skip(len(buffer))
            self._at = _unfinished_leader(buffer, at)
            return None
        if start > at:
            self._skip(start)
        left = len(buffer) - start
        if left < 6:
            return None
        control = buffer[start] == _CONTROL
        if control and buffer[start + 4] == _RESEND and not buffer[start + 5]:
            self._at += 6
            return TargetHeader(True, _RESEND, 0, 0, 0)
        if left < HEADER_SIZE:
            return None
        _, packet_type, count, packet_id, wanted_sum = HEADER.unpack_from(buffer, start)
        self._at += HEADER_SIZE
        return TargetHeader(control, packet_type, count, packet_id, wanted_sum)

    def expect_body(self, header: TargetHeader) -> None:
        """The header just handed out is wanted: read its payload and trailer next."""
        self._body = header

    def next_body(self) -> tuple[TargetHeader, bytes, bool] | None:
        """Header, payload and whether the trailer is right, or None until more bytes come."""
        header, buffer, at = self._body, self._buffer, self._at
        if header is None or len(buffer) - at < header.length + 1:
            return None
        end = at + header.length
        self._at = end + 1
        self._body = None
        return header, buffer[at:end], buffer[end] == TRAILER

    def _skip(self, end: int) -> None:
        """Drop noise up to ``end``; what of it is no leader byte decides the break flag."""
        noise = self._buffer[self._at : end].translate(None, _LEADER_BYTES)
        if noise:
            self.break_seen = noise[-1] == BREAK_IN[0]
        self._at = end
