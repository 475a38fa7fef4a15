"""Frames of the kdsrv protocol: a length, a kind, a body (docs/wire-protocol.md, "Frames").

    u32 big-endian length of kind and body | u8 kind | body

Reading is linear. A chunk that holds whole frames is cut up where it is; only the beginning of an unfinished frame is
kept, in one bytearray, and looked at again no earlier than when the bytes it lacks have come. A length is judged as
soon as its four bytes are there, so what is kept is never more than one frame and one chunk.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from kdsrv.errors import PeerError
from kdsrv.kd.packets import Packet

__all__ = [
    "MAX_CONTROL",
    "MAX_PACKET_PAYLOAD",
    "BreakIn",
    "Confirm",
    "Control",
    "Frame",
    "FrameKind",
    "FrameReader",
    "LocalProtocolError",
    "Resync",
    "encode",
    "encode_confirm",
    "encode_packet",
]

MAX_CONTROL: Final = 65536
"""Most bytes in the JSON of a control message."""

MAX_PACKET_PAYLOAD: Final = 8192
"""Most bytes in the payload of a KD packet; KD itself stays below 4000 on every link (KD protocol, 1.2)."""

_LENGTH: Final = 4
_HEAD: Final = struct.Struct(">IB")
_PACKET_HEAD: Final = struct.Struct(">IBBB")

_LOOKS: Final = (
    ((b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"CONN", b"PRI "), "an HTTP request"),
    ((b"HTTP",), "an HTTP response"),
    ((b"\x16\x03",), "a TLS hello: use ssl: on both ends or on neither"),
    ((b"\x15\x03",), "a TLS alert: use ssl: on both ends or on neither"),
    ((b"SSH-",), "an SSH greeting"),
    ((b"0000", b"iiii", b"b00", b"bii", b"bbb"), "a debugger's serial line: point the debugger at a bridge instead"),
    ((b"\xff\xfb", b"\xff\xfd", b"\xff\xfc", b"\xff\xfe"), "telnet"),
    ((b'{"',), "JSON without a frame around it"),
)


class LocalProtocolError(Exception):
    """Our own side used the connection wrongly: a programming error, not the peer's fault."""


class FrameKind(IntEnum):
    """What the body of a frame is."""

    CONTROL = 1
    PACKET = 2
    BREAK_IN = 3
    RESYNC = 4
    CONFIRM = 5


class Control(NamedTuple):
    """A control message, not decoded yet."""

    body: bytes


class BreakIn(NamedTuple):
    """Stop the target."""


class Resync(NamedTuple):
    """From the client: I have lost the thread. From the server: the echo of it."""


class Confirm(NamedTuple):
    """So many numbered frames of the session have come (docs/wire-protocol.md, "Resuming")."""

    received: int


Frame: TypeAlias = Packet | Control | BreakIn | Resync | Confirm

_BOUNDS: Final = {
    FrameKind.CONTROL: (1, 1 + MAX_CONTROL),
    FrameKind.PACKET: (3, 3 + MAX_PACKET_PAYLOAD),
    FrameKind.BREAK_IN: (1, 1),
    FrameKind.RESYNC: (1, 1),
    FrameKind.CONFIRM: (9, 9),
}
"""Least and most each kind may have as its length (of kind and body)."""

_LONGEST: Final = max(most for _, most in _BOUNDS.values())


def encode(kind: FrameKind, body: bytes = b"") -> bytes:
    """One frame as it goes on the network. LocalProtocolError if the body does not fit its kind."""
    least, most = _BOUNDS[kind]
    if not least <= 1 + len(body) <= most:
        raise LocalProtocolError(f"a {kind.name} frame cannot have a body of {len(body)} bytes")
    return _HEAD.pack(1 + len(body), kind) + body


def encode_packet(packet_type: int, payload: bytes) -> bytes:
    """``encode`` for a KD packet. LocalProtocolError if the payload is longer than 8192 bytes."""
    if len(payload) > MAX_PACKET_PAYLOAD:
        raise LocalProtocolError(f"a packet cannot have a payload of {len(payload)} bytes")
    return _PACKET_HEAD.pack(3 + len(payload), FrameKind.PACKET, packet_type & 0xFF, packet_type >> 8) + payload


def encode_confirm(received: int) -> bytes:
    """``encode`` for a confirmation."""
    return encode(FrameKind.CONFIRM, received.to_bytes(8, "big"))


class FrameReader:
    """Bytes in, whole frames out."""

    __slots__ = ("_kept", "_wanted")

    def __init__(self) -> None:
        self._kept = bytearray()
        self._wanted = 0

    @property
    def partial(self) -> bool:
        """Whether the beginning of a frame waits for its rest."""
        return bool(self._kept)

    def receive(self, data: bytes) -> list[Frame]:
        """The frames that are whole now. PeerError if these bytes cannot be frames; the reader is useless after it."""
        if self._kept:
            self._kept += data
            if len(self._kept) < self._wanted:
                return []
            data = bytes(self._kept)
            self._kept.clear()
        frames: list[Frame] = []
        start, end = 0, len(data)
        while end - start > _LENGTH:
            length, kind = _HEAD.unpack_from(data, start)
            least, most = _BOUNDS.get(kind, (0, -1))
            if not least <= length <= most:
                raise _refusal(data[start : start + 5], length, kind)
            stop = start + _LENGTH + length
            if stop > end:
                break
            if kind == FrameKind.PACKET:
                frames.append(Packet(data[start + 5] | data[start + 6] << 8, data[start + 7 : stop]))
            elif kind == FrameKind.CONTROL:
                frames.append(Control(data[start + 5 : stop]))
            elif kind == FrameKind.CONFIRM:
                frames.append(Confirm(int.from_bytes(data[start + 5 : stop], "big")))
            else:
                frames.append(BreakIn() if kind == FrameKind.BREAK_IN else Resync())
            start = stop
        if start < end:
            self._keep(data, start)
        return frames

    def _keep(self, data: bytes, start: int) -> None:
        """Keep the beginning of a frame and note how many bytes are worth looking at again."""
        self._kept += data[start:] if start else data
        if len(self._kept) < _LENGTH:
            self._wanted = _LENGTH
            return
        length = int.from_bytes(self._kept[:_LENGTH], "big")
        if not 1 <= length <= _LONGEST:
            raise _refusal(bytes(self._kept[:_LENGTH]), length)
        self._wanted = _LENGTH + (length if len(self._kept) > _LENGTH else 1)


def _refusal(head: bytes, length: int, kind: int | None = None) -> PeerError:
    """What to say of a frame that begins with ``head``."""
    if length > _LONGEST or length == 0:
        for beginnings, look in _LOOKS:
            if head.startswith(beginnings):
                return PeerError(why=f"what it sends looks like {look}")
        return PeerError(why=f"it sent a frame of {length} bytes, where 1 to {_LONGEST} can be")
    if kind not in _BOUNDS:
        return PeerError(why=f"it sent a frame of kind {kind}, which does not exist")
    least, most = _BOUNDS[FrameKind(kind)]
    name = FrameKind(kind).name.lower().replace("_", "-")
    return PeerError(why=f"it sent a {name} frame of {length} bytes, where {least} to {most} can be")
