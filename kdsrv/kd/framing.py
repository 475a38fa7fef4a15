"""Bytes of a KD line -> headers and payloads (KD protocol, 1.1 and 1.6, steps 1 to 3).

A line carries packets, the break-in byte and noise, freely mixed. Both framers keep what has not been used yet in one
buffer and hand out one thing at a time; they differ because the two ends of a KD line do:

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

_LEADER: Final = re.compile(rb"0000|iiii")
_LEADER_BYTES: Final = b"0i"
_CONTROL: Final = ord("i")
_RESEND: Final = int(PacketType.RESEND)
_CONTROL_TYPES: Final = frozenset(map(int, (PacketType.ACKNOWLEDGE, PacketType.RESEND, PacketType.RESET)))
_DATA_TYPES: Final = frozenset(map(int, PacketType)) - _CONTROL_TYPES


def _unfinished_leader(buffer: bytearray) -> int:
    """How many bytes at the end may be the start of a leader."""
    end = buffer[-3:]
    return len(end) - len(end.rstrip(_LEADER_BYTES))


class HostPacket(NamedTuple):
    """What a host finds on the line: a control packet, or a data packet that is whole (``good``) or damaged."""

    control: bool
    type: int
    id: int
    payload: bytes
    good: bool


class HostFramer:
    """Finds packets from a target."""

    __slots__ = ("_buffer", "_wanted", "noise")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = 0
        self.noise = 0

    @property
    def missing(self) -> int:
        """How many bytes the packet being received still lacks; 0 between packets."""
        return max(0, self._wanted - len(self._buffer)) if self._buffer else 0

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def discard(self) -> bool:
        """Drop an unfinished packet, as after a silence within it; true when its header had come (it was data)."""
        had_header = len(self._buffer) >= HEADER_SIZE
        self.noise += len(self._buffer)
        self._buffer.clear()
        self._wanted = 0
        return had_header

    def next_packet(self) -> HostPacket | None:
        """The next packet on the line, or None until more bytes come."""
        buffer = self._buffer
        if not buffer or len(buffer) < self._wanted:
            return None
        found = _LEADER.search(buffer)
        while found:
            start = found.start()
            wanted = start + HEADER_SIZE
            if len(buffer) < wanted:
                break
            leader, packet_type, count, packet_id, wanted_sum = HEADER.unpack_from(buffer, start)
            if leader[0] == _CONTROL and packet_type in _CONTROL_TYPES:
                self._take(start, wanted)
                return HostPacket(True, packet_type, packet_id, b"", True)
            if leader[0] != _CONTROL and packet_type in _DATA_TYPES and count <= MAX_ACCEPTED:
                if count:
                    wanted += count + 1
                if len(buffer) < wanted:
                    break
                payload = bytes(memoryview(buffer)[start + HEADER_SIZE : start + HEADER_SIZE + count])
                good = checksum(payload) == wanted_sum and (not count or buffer[wanted - 1] == TRAILER)
                self._take(start, wanted)
                return HostPacket(False, packet_type, packet_id, payload, good)
            found = _LEADER.search(buffer, start + 1)
        else:
            self._keep(len(buffer) - _unfinished_leader(buffer), 0)
            return None
        self._keep(start, wanted)
        return None

    def _take(self, start: int, end: int) -> None:
        self.noise += start
        del self._buffer[:end]
        self._wanted = 0

    def _keep(self, start: int, wanted: int) -> None:
        """Wait for more bytes: those from ``start`` on may begin a packet that ends at ``wanted``."""
        self.noise += start
        del self._buffer[:start]
        self._wanted = wanted - start if wanted else 0


class TargetHeader(NamedTuple):
    """A header as a target reads it. Of a RESEND only the type is read (KD protocol, 1.6 step 2)."""

    control: bool
    type: int
    length: int
    id: int
    checksum: int


class TargetFramer:
    """Finds what a debugger sends. ``break_seen`` is the flag of KD protocol 1.6 step 1: a 0x62 was the last thing."""

    __slots__ = ("_body", "_buffer", "break_seen")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body: TargetHeader | None = None
        self.break_seen = False

    @property
    def in_body(self) -> bool:
        return self._body is not None

    @property
    def partial(self) -> bool:
        """Whether bytes have come that do not make a header or body yet."""
        return self._body is not None or bool(self._buffer)

    @property
    def missing(self) -> int:
        if self._body is not None:
            return self._body.length + 1 - len(self._buffer)
        return HEADER_SIZE - len(self._buffer) if len(self._buffer) >= 4 else 0

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def discard(self) -> None:
        self._buffer.clear()
        self._body = None

    def take_byte(self) -> int | None:
        """One byte, as a running target polls its line; None when there is none. A body begun before is given up."""
        self._body = None
        if not self._buffer:
            return None
        at = self._buffer.find(BREAK_IN)
        byte = self._buffer[at] if at >= 0 else self._buffer[-1]
        del self._buffer[: at + 1 if at >= 0 else len(self._buffer)]
        return byte

    def next_header(self) -> TargetHeader | None:
        """The next header, or None until more bytes come. Everything before its leader is consumed."""
        buffer = self._buffer
        if not buffer:
            return None
        found = _LEADER.search(buffer)
        if not found:
            self._skip(len(buffer) - _unfinished_leader(buffer), len(buffer))
            return None
        self._skip(found.start(), found.start())
        if len(buffer) < 6:
            return None
        control = buffer[0] == _CONTROL
        if control and int.from_bytes(buffer[4:6], "little") == _RESEND:
            del buffer[:6]
            return TargetHeader(True, _RESEND, 0, 0, 0)
        if len(buffer) < HEADER_SIZE:
            return None
        _, packet_type, count, packet_id, wanted_sum = HEADER.unpack_from(buffer)
        del buffer[:HEADER_SIZE]
        return TargetHeader(control, packet_type, count, packet_id, wanted_sum)

    def expect_body(self, header: TargetHeader) -> None:
        """The header just handed out is wanted: read its payload and trailer next."""
        self._body = header

    def next_body(self) -> tuple[TargetHeader, bytes, bool] | None:
        """Header, payload and whether the trailer is right, or None until more bytes come."""
        header = self._body
        if header is None or len(self._buffer) < header.length + 1:
            return None
        payload = bytes(memoryview(self._buffer)[: header.length])
        trailer = self._buffer[header.length]
        del self._buffer[: header.length + 1]
        self._body = None
        return header, payload, trailer == TRAILER

    def _skip(self, end: int, seen: int) -> None:
        """Drop noise up to ``end``; what of it is no leader byte decides the break flag."""
        if seen:
            noise = self._buffer[:seen].translate(None, _LEADER_BYTES)
            if noise:
                self.break_seen = noise[-1] == BREAK_IN[0]
            del self._buffer[:end]
