"""Takes in what a session does, and gives it out in pieces for a file of packets and a file of lines.

While a packet passes it is only put into a list. It is made into blocks and lines when somebody takes the next piece,
some packets at a time. What nobody takes, because the disk is slow or full, is dropped past a bound, and the number of
packets that are missing is told in their place.

Any piece may become the first of new files, so each brings along what those then begin with: what is recorded, who has
the session, how the target does and what it stands at. So every recording can be read alone.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from kdsrv import __version__
from kdsrv.kd.api import RUNS_TARGET
from kdsrv.kd.packets import MANIPULATE, Packet, PacketType
from kdsrv.recorder.entries import BreakInSent, Entry, Note, PacketSeen, entry_block, head_blocks
from kdsrv.sessions.decoded import BREAK_IN_SEEN, Direction, SeenKind, seen
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.news import is_news
from kdsrv.sessions.status import Status

__all__ = ["Growth", "Piece", "Recorder"]

_MAX_WAITING: Final = 4 << 20
"""Bytes that wait to be taken."""
_ENTRY_COST: Final = 256
"""Bytes that an entry takes besides its payload, about."""
_BUSY: Final = 1000
"""With so many entries waiting, requests and replies get no comment: that takes longer than all the rest."""
_MAX_COMMENT: Final = 200
"""Characters: a comment is there to be read in a list of packets."""
_PIECE_ENTRIES: Final = 200
_PIECE_BYTES: Final = 256 * 1024
_STOPS: Final = frozenset({int(PacketType.STATE_CHANGE64), int(PacketType.STATE_CHANGE32)})
_GOES_ON: Final = frozenset(api.to_bytes(4, "little") for api in RUNS_TARGET)
_NOT_INDEXED: Final = frozenset(
    {SeenKind.REQUEST, SeenKind.REPLY, SeenKind.CONTINUE, SeenKind.BREAK_IN, SeenKind.FILE, SeenKind.OTHER}
)


@dataclass(frozen=True, slots=True)
class Growth:
    """By what the file of packets grows, and the one of lines."""

    packets: bytes = b""
    lines: bytes = b""

    def __len__(self) -> int:
        return len(self.packets) + len(self.lines)

    def __add__(self, other: Growth) -> Growth:
        return Growth(self.packets + other.packets, self.lines + other.lines)


@dataclass(frozen=True, slots=True)
class Piece:
    """``head`` is for new files only, ``body`` for whichever there are. ``time`` is that of the first packet, in
    nanoseconds since 1970; ``ends``: nothing follows."""

    time: int
    head: Growth
    body: Growth
    ends: bool


class Recorder:
    """A SessionObserver of one session on ``target``, over the line that ``line`` describes.

    ``wall_clock`` gives nanoseconds since 1970. ``wake`` is called when so much waits that somebody should take it, and
    when the session has ended.
    """

    def __init__(
        self, target: str, line: str, lease: Lease, wall_clock: Callable[[], int], wake: Callable[[], None]
    ) -> None:
        self.target = target
        self._line = line
        self._now = wall_clock
        self._wake = wake
        self._waiting: deque[Entry] = deque()
        self._bytes = 0
        self._dropped = 0
        self.has_ended = False
        self._said: Status | None = None
        # how things are before the first that waits
        self._holder = _holder(wall_clock(), lease)
        self._status: Note | None = None
        self._stop: PacketSeen | None = None

    # What the session tells

    def packet_from_target(self, packet: Packet) -> None:
        """See SessionObserver."""
        self._put(PacketSeen(self._now(), Direction.FROM_TARGET, packet), len(packet.payload))

    def packet_to_target(self, packet: Packet) -> None:
        """See SessionObserver."""
        self._put(PacketSeen(self._now(), Direction.TO_TARGET, packet), len(packet.payload))

    def break_in_sent(self) -> None:
        """See SessionObserver."""
        self._put(BreakInSent(self._now()))

    def status_changed(self, status: Status) -> None:
        """See SessionObserver."""
        said, self._said = self._said, status
        if is_news(said, status):
            self._put(Note(self._now(), "status", status.sentence(), {"status": status.to_json()}))

    def holder_changed(self, lease: Lease) -> None:
        """See SessionObserver."""
        self._put(_holder(self._now(), lease))

    def session_ended(self) -> None:
        """See SessionObserver."""
        now = self._now()
        self.has_ended = True
        self._tell_dropped(now)
        self._append(Note(now, "ended", "the session ended"))
        self._wake()

    def _put(self, entry: Entry, size: int = 0) -> None:
        if self._bytes > _MAX_WAITING:
            self._dropped += 1
            return
        self._tell_dropped(entry.time)
        self._append(entry, size)
        if len(self._waiting) == _BUSY:
            self._wake()

    def _tell_dropped(self, now: int) -> None:
        if self._dropped:
            text = f"{self._dropped} packets are missing here: the disk did not take them in time"
            self._append(Note(now, "lost", text, {"packets": self._dropped}))
            self._dropped = 0

    def _append(self, entry: Entry, size: int = 0) -> None:
        self._waiting.append(entry)
        self._bytes += size + _ENTRY_COST

    # What becomes of it

    def take(self) -> Piece | None:
        """The next piece, None if nothing waits. Its body has at most 256 KiB and what one entry comes to."""
        waiting = self._waiting
        if not waiting:
            return None
        time = waiting[0].time
        head = self._head(time)
        commented = len(waiting) <= _BUSY
        body = _Text()
        ends = False
        while waiting and len(body.blocks) < _PIECE_ENTRIES and body.size < _PIECE_BYTES:
            entry = waiting.popleft()
            self._bytes -= _ENTRY_COST
            match entry:
                case PacketSeen():
                    self._bytes -= len(entry.packet.payload)
                    self._follow(entry)
                case Note(_, "holder"):
                    self._holder = entry
                case Note(_, "status"):
                    self._status = entry
                case Note(_, "ended"):
                    ends = True
            body.write(entry, commented=commented)
        return Piece(time, head, body.whole(), ends)

    def _head(self, time: int) -> Growth:
        text = _Text()
        told = {**self._holder.data, "target": self.target, "line": self._line}
        text.write(Note(time, "session", f"{self.target} ({self._line}), {self._holder.text}", told))
        for entry in (self._status, self._stop):
            if entry is not None:
                text.write(entry)
        return Growth(head_blocks(f"kdsrv {__version__}", self.target, self._line)) + text.whole()

    def _follow(self, entry: PacketSeen) -> None:
        """Remember what the target stands at."""
        packet = entry.packet
        if packet.type in _STOPS:
            self._stop = entry
        elif packet.type == MANIPULATE and entry.direction is Direction.TO_TARGET and packet.payload[:4] in _GOES_ON:
            self._stop = None


class _Text:
    """Entries as blocks and lines."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.size = 0
        self._lines: list[str] = []

    def write(self, entry: Entry, *, commented: bool = True) -> None:
        match entry:
            case PacketSeen(time, direction, packet):
                comment = ""
                if commented or packet.type != MANIPULATE:
                    told = seen(direction, packet)
                    comment = told.text
                    if told.kind not in _NOT_INDEXED:
                        self._index(time, told.to_json())
            case BreakInSent():
                comment = BREAK_IN_SEEN.text
            case Note(time):
                comment = entry.text
                self._index(time, entry.to_json())
        block = entry_block(entry, comment[:_MAX_COMMENT])
        self.blocks.append(block)
        self.size += len(block)

    def _index(self, time: int, told: dict[str, object]) -> None:
        when = datetime.fromtimestamp(time // 1000 / 1e6, UTC).isoformat(timespec="microseconds")
        line = json.dumps({"time": when, **told}) + "\n"
        self._lines.append(line)
        self.size += len(line)

    def whole(self) -> Growth:
        return Growth(b"".join(self.blocks), "".join(self._lines).encode())


def _holder(now: int, lease: Lease) -> Note:
    data = {"holder": lease.holder, "address": lease.address}
    return Note(now, "holder", f"held by {lease.holder} from {lease.address}", data)
