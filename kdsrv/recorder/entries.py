"""What stands in a recording, as values, as blocks of a pcapng file, and as lines of its index.

A recording has two interfaces. On the first are the packets of the session, each whole and as it is on every medium:
the 16 bytes of header (leader ``0000``, type, length, id 80800000, checksum) and the payload, or for a break-in the one
byte ``b``. Inbound is what comes from the target. On the second are notes: JSON objects of what the server has to say.
Both are of the link type that Wireshark has for packets above a network: tags in front of a packet say what it is, so
that it shows them as "KD" and "kdsrv" without being told anything. The comment of a packet says what is in it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from kdsrv.kd.packets import BREAK_IN, DATA_LEADER, HEADER, INITIAL_ID, Packet, checksum
from kdsrv.recorder.pcapng import (
    UPPER_PDU,
    CapturedPacket,
    FormatError,
    Interface,
    PcapngReader,
    Section,
    interface_block,
    packet_block,
    section_block,
)
from kdsrv.sessions.decoded import Direction

__all__ = ["BreakInSent", "Entry", "EntryReader", "ForeignFile", "Note", "PacketSeen", "entry_block", "head_blocks"]

_DISSECTOR: Final = 12
_PROTOCOL: Final = 33
_LINK, _NOTES = 0, 1
_TAG: Final = struct.Struct(">HH")


def _tags(dissector: bytes, protocol: bytes) -> bytes:
    """Those of one sort of packet; names are padded to four bytes."""
    pairs = ((_DISSECTOR, dissector), (_PROTOCOL, protocol))
    tags = [_TAG.pack(tag, len(name) + -len(name) % 4) + name + bytes(-len(name) % 4) for tag, name in pairs]
    return b"".join(tags) + _TAG.pack(0, 0)


_KD_TAGS: Final = _tags(b"data", b"KD")
_NOTE_TAGS: Final = _tags(b"syslog", b"kdsrv")


class PacketSeen(NamedTuple):
    """A packet went this way at ``time``, in nanoseconds since 1970 as everywhere here."""

    time: int
    direction: Direction
    packet: Packet


class BreakInSent(NamedTuple):
    """The target was asked to stop."""

    time: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the server has to say. ``kind`` is what it is about, ``text`` a line for people:

    session     the file begins. ``data``: target, line, holder, address, part (counted from 1)
    holder      somebody else has the session now. holder, address
    status      there is something new about the target or its line. status, as on the network
    lost        packets are missing here. packets
    ended       the line was closed; the last entry
    """

    time: int
    kind: str
    text: str
    data: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return {"kind": self.kind, "text": self.text, **self.data}


Entry: TypeAlias = PacketSeen | BreakInSent | Note


class ForeignFile(FormatError):
    """no recording of kdsrv: {why}"""

    code = "foreign-file"


def head_blocks(application: str, target: str, line: str) -> bytes:
    """What the file of a recording begins with."""
    return section_block(application) + interface_block(target, line) + interface_block("kdsrv", "what the server says")


def entry_block(entry: Entry, comment: str = "") -> bytes:
    """An entry as one block. ``comment`` is what a packet says, one line; that of a note is its text."""
    match entry:
        case PacketSeen(time, direction, (kind, payload)):
            header = HEADER.pack(DATA_LEADER, kind, len(payload), INITIAL_ID, checksum(payload))
            inbound = direction is Direction.FROM_TARGET
            data = b"".join((_KD_TAGS, header, payload))
            return packet_block(_LINK, time, data, inbound=inbound, comment=comment)
        case BreakInSent(time):
            return packet_block(_LINK, time, _KD_TAGS + BREAK_IN, inbound=False, comment=comment)
        case Note(time):
            data = _NOTE_TAGS + json.dumps(entry.to_json()).encode()
            return packet_block(_NOTES, time, data, comment=entry.text)


class EntryReader:
    """Give it a recording piece by piece; ``feed`` raises FormatError for what is none.

    Packets that are no entries, as somebody else may have added, are passed over.
    """

    def __init__(self) -> None:
        self._blocks = PcapngReader()
        self._interfaces = 0

    @property
    def is_torn(self) -> bool:
        """Whether what came so far ends in the middle of an entry, as when the writer was killed."""
        return self._blocks.is_torn

    def feed(self, data: bytes) -> Iterator[Entry]:
        """The entries that are whole now. The iterator must be run to its end."""
        for block in self._blocks.feed(data):
            match block:
                case Section():
                    self._interfaces = 0
                case Interface(link_type):
                    self._interfaces += 1
                    if link_type != UPPER_PDU:
                        raise ForeignFile(
                            why=f"it holds packets of link type {link_type}, those of KD have {UPPER_PDU}"
                        )
                case CapturedPacket():
                    entry = _entry(block)
                    if entry is not None:
                        yield entry


def _entry(captured: CapturedPacket) -> Entry | None:
    data = captured.data
    if data.startswith(_KD_TAGS):
        return _packet(captured, data[len(_KD_TAGS) :])
    if data.startswith(_NOTE_TAGS):
        return _note(captured.time, data[len(_NOTE_TAGS) :])
    return None


def _packet(captured: CapturedPacket, data: bytes) -> Entry | None:
    if data == BREAK_IN:
        return BreakInSent(captured.time)
    if len(data) < HEADER.size:
        return None
    leader, kind, length, _, _ = HEADER.unpack_from(data)
    payload = data[HEADER.size :]
    if leader != DATA_LEADER or len(payload) != length:
        return None
    direction = Direction.FROM_TARGET if captured.inbound else Direction.TO_TARGET
    return PacketSeen(captured.time, direction, Packet(kind, payload))


def _note(time: int, data: bytes) -> Note | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    kind, text = value.pop("kind", None), value.pop("text", None)
    return Note(time, kind, text, value) if isinstance(kind, str) and isinstance(text, str) else None
