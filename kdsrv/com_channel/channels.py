"""The channels of one end of a cable: at most one stream on each, opened by either end, and ended by both.

What goes across the cable comes to the other end once and in order, or the session of the cable is over; how is the
business of cable.py. Each stream ends with one END record from each end, and only then its channel is free, so nothing
of a stream is ever taken for the next one on that channel. A clean END comes after all bytes, and is answered when the
reader has taken them. An END that aborts is answered at once.

| state | OPEN comes | ACCEPT | REFUSE | DATA | CREDIT | END | close() | abort() |
|---|---|---|---|---|---|---|---|---|
| free | ACCEPT; OPEN, or REFUSE | fault | fault | fault | fault | - | | |
| OPENING | REFUSE | OPEN | free | fault | fault | - | as abort() | END; ENDED |
| OPEN | fault | fault | fault | kept | sends on | END; free (1) | CLOSING (2) | END; ENDED |
| CLOSING | fault | fault | fault | dropped | sends on (2) | END; free | - | END; ENDED |
| ENDED | REFUSE | - | free | dropped | - | free | - | - |
| READING | fault | fault | fault | fault | fault | fault | END; free | END; free |

(1) READING, if it is clean and something is unread; when that was read: END; free. (2) When all is sent: END; ENDED.
An OPEN that has not gone yet is taken back by ``abort``. A channel whose stream was aborted here, but not there yet,
can be opened again at once: its OPEN follows.

Each direction of a stream has a credit in bytes, so a stream that is not read holds up no other. Streams with something
to send take turns, a frame each.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from typing import Final

from kdsrv.com_channel.frames import FrameKind
from kdsrv.com_channel.sequence import Record
from kdsrv.com_channel.stream import CREDIT, Arrived, Closed, Event, Lost, Opened, Readable, State, Stream, Writable
from kdsrv.errors import PeerError, SetupError

__all__ = ["HIGH_WATER", "MAX_CHANNEL", "Channels"]

MAX_CHANNEL: Final = 254

HIGH_WATER: Final = 4096
"""Unsent bytes of a stream from which on its writer is to wait."""

_LOW_WATER: Final = 1024
_GRANT: Final = CREDIT // 4
_MAX_CREDIT: Final = 1 << 30
_MAX_QUEUE: Final = 4096
_U32: Final = struct.Struct("<I")
_CLEAN: Final = b"\0"
_ABORT: Final = b"\1"
_REFUSALS: Final = {b"\0": "nobody listens on it", b"\1": "it is in use"}


class Channels:
    """The table. ``frame_size``: most bytes of a stream to send in one record.

    ``listening`` are the channels on which streams are accepted. ``events`` is to be emptied by the owner, after each
    call. Nothing is told any more about a stream after `Closed`, `Lost` or its ``abort``; all calls on it do nothing.
    """

    def __init__(self, frame_size: int) -> None:
        self.listening: set[int] = set()
        self.events: deque[Event] = deque()
        self._frame_size = frame_size
        self._streams: dict[int, Stream] = {}
        self._control: deque[Record] = deque()
        self._ready: deque[Stream] = deque()

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def has_records(self) -> bool:
        """Whether `next_record` has something."""
        return bool(self._control or self._ready)

    @property
    def opening(self) -> Iterator[Stream]:
        """The streams that wait to be accepted."""
        for stream in self._streams.values():
            candidate = stream.successor or stream
            if candidate.state is State.OPENING:
                yield candidate

    # What the owner's streams want

    def open(self, number: int, deadline: float) -> Stream:
        """A new stream on a channel; `Opened` or `Lost` will be told. SetupError if one is in use here already."""
        before = self._streams.get(number)
        if before is not None and (not before.is_gone or before.successor is not None):
            raise SetupError(why="it is in use here already")
        stream = Stream(number, State.OPENING, deadline)
        if before is None:
            self._ask(stream)
        else:
            before.successor = stream
        return stream

    def write(self, stream: Stream, data: bytes) -> bool:
        """Send ``data``; whether the writer is to wait for `Writable` before the next."""
        if stream.state is State.OPEN:
            stream.unsent += data
            stream.is_full = stream.is_full or len(stream.unsent) > HIGH_WATER
            self._check_ready(stream)
        return stream.is_full

    def read(self, stream: Stream) -> bytes:
        """Everything that has come; the other end may send as much again."""
        data = bytes(stream.unread)
        stream.unread.clear()
        if stream.state is State.READING:
            self._end(stream, _CLEAN)
            self._free(stream, Closed(stream))
        elif stream.state is State.OPEN:
            stream.taken += len(data)
            if stream.taken >= _GRANT:
                self._say(FrameKind.CREDIT, stream, _U32.pack(stream.taken))
                stream.allowance += stream.taken
                stream.taken = 0
        return data

    def close(self, stream: Stream) -> None:
        """End it after what was written; what still comes is dropped. `Closed` or `Lost` will be told."""
        if stream.state is State.OPENING:
            self.abort(stream)
        elif stream.state is State.OPEN:
            stream.unread.clear()
            stream.state = State.CLOSING
            self._end_if_sent(stream)
        elif stream.state is State.READING:
            self.read(stream)

    def abort(self, stream: Stream) -> None:
        """End it now and tell nothing more about it."""
        stream.is_gone = True
        stream.unread.clear()
        if stream.state is State.OPENING and not stream.is_asked:
            self._take_back(stream)
        elif stream.state in (State.OPENING, State.OPEN, State.CLOSING):
            self._drop_unsent(stream)
            self._end(stream, _ABORT)
            stream.state = State.ENDED
        elif stream.state is State.READING:
            self._end(stream, _ABORT)
            self._free(stream)

    # What the cable brings and takes

    def next_record(self) -> Record | None:
        """The next record to send, for good."""
        if self._control:
            record = self._control.popleft()
            if record.kind == FrameKind.OPEN:
                self._streams[record.channel].is_asked = True
            return record
        if not self._ready:
            return None
        stream = self._ready.popleft()
        stream.is_ready = False
        size = min(self._frame_size, stream.credit)
        data = bytes(stream.unsent[:size])
        del stream.unsent[:size]
        stream.credit -= len(data)
        self._check_ready(stream)
        if stream.is_full and len(stream.unsent) <= _LOW_WATER and stream.state is State.OPEN:
            stream.is_full = False
            self.events.append(Writable(stream))
        self._end_if_sent(stream)
        return Record(FrameKind.DATA, stream.number, data)

    def take(self, record: Record) -> None:
        """The other end says this. PeerError if it may not."""
        stream = self._streams.get(record.channel)
        if record.kind == FrameKind.OPEN:
            self._take_open(record, stream)
        elif stream is None:
            if record.kind != FrameKind.END:
                raise _fault(record)
        elif record.kind == FrameKind.END:
            self._take_end(record, stream)
        elif stream.state is State.ENDED:
            if record.kind == FrameKind.REFUSE:
                self._free(stream)
        else:
            self._take_in_state(record, stream)

    def fail(self, why: str) -> None:
        """The session of the cable is over, and all streams with it. Those not yet accepted are for the next one."""
        streams = list(self._streams.values())
        for stale in (self._streams, self._control, self._ready):
            stale.clear()
        for stream in streams:
            again = stream.successor or stream
            if again.state is State.OPENING and not again.is_gone:
                again.is_asked = False
                self._ask(again)
            if again is not stream or stream.state is not State.OPENING:
                self._forget(stream, Lost(stream, why))

    def expire(self, now: float, why: str) -> None:
        """Give up what was not accepted in time."""
        for stream in [stream for stream in self.opening if now >= stream.deadline]:
            self.abort(stream)
            self.events.append(Lost(stream, why))

    # How it works

    def _take_open(self, record: Record, stream: Stream | None) -> None:
        if stream is not None and stream.state not in (State.OPENING, State.ENDED):
            raise _fault(record)
        if len(self._control) >= _MAX_QUEUE:
            raise PeerError(why="it asks for more than it takes answers to")
        if stream is not None or record.channel not in self.listening:
            self._control.append(Record(FrameKind.REFUSE, record.channel, b"\0" if stream is None else b"\1"))
            return
        stream = self._streams[record.channel] = Stream(record.channel, State.OPEN)
        self._take_credit(record, stream)
        self._say(FrameKind.ACCEPT, stream, _U32.pack(CREDIT))
        self.events.append(Arrived(stream))

    def _take_end(self, record: Record, stream: Stream) -> None:
        if stream.state is State.READING:
            raise _fault(record)
        if stream.state is State.OPENING:
            return
        aborted = record.payload != _CLEAN
        last = Lost(stream, "it was closed at the other end") if aborted else Closed(stream)
        if stream.state is State.ENDED:
            self._free(stream, last)
            return
        self._drop_unsent(stream)
        if stream.state is State.OPEN and stream.unread and not aborted:
            stream.state = State.READING
            return
        self._end(stream, record.payload)
        self._free(stream, last)

    def _take_in_state(self, record: Record, stream: Stream) -> None:
        kind, state = record.kind, stream.state
        if kind == FrameKind.ACCEPT and state is State.OPENING:
            stream.state = State.OPEN
            self._take_credit(record, stream)
            self.events.append(Opened(stream))
        elif kind == FrameKind.REFUSE and state is State.OPENING:
            self._free(stream, Lost(stream, _REFUSALS.get(record.payload, "the other end refuses it")))
        elif kind == FrameKind.CREDIT and state in (State.OPEN, State.CLOSING):
            self._take_credit(record, stream)
        elif kind == FrameKind.DATA and state is State.OPEN:
            self._take_data(record, stream)
        elif kind != FrameKind.DATA or state is not State.CLOSING:
            raise _fault(record)

    def _take_data(self, record: Record, stream: Stream) -> None:
        stream.allowance -= len(record.payload)
        if stream.allowance < 0:
            raise PeerError(why=f"more data than allowed on channel {record.channel}")
        if not stream.unread:
            self.events.append(Readable(stream))
        stream.unread += record.payload

    def _take_credit(self, record: Record, stream: Stream) -> None:
        if len(record.payload) != _U32.size:
            raise _fault(record)
        stream.credit += _U32.unpack(record.payload)[0]
        if stream.credit > _MAX_CREDIT:
            raise _fault(record)
        self._check_ready(stream)

    def _ask(self, stream: Stream) -> None:
        self._streams[stream.number] = stream
        self._say(FrameKind.OPEN, stream, _U32.pack(CREDIT))

    def _say(self, kind: FrameKind, stream: Stream, payload: bytes) -> None:
        self._control.append(Record(kind, stream.number, payload))

    def _end(self, stream: Stream, how: bytes) -> None:
        self._say(FrameKind.END, stream, how)

    def _end_if_sent(self, stream: Stream) -> None:
        if stream.state is State.CLOSING and not stream.unsent:
            self._end(stream, _CLEAN)
            stream.state = State.ENDED

    def _check_ready(self, stream: Stream) -> None:
        if stream.unsent and stream.credit and not stream.is_ready:
            stream.is_ready = True
            self._ready.append(stream)

    def _drop_unsent(self, stream: Stream) -> None:
        stream.unsent.clear()
        if stream.is_ready:
            stream.is_ready = False
            self._ready.remove(stream)

    def _take_back(self, stream: Stream) -> None:
        """Not even asked for: as if it had never been."""
        before = self._streams[stream.number]
        if before is stream:
            self._control.remove(Record(FrameKind.OPEN, stream.number, _U32.pack(CREDIT)))
            self._free(stream)
        else:
            before.successor = None
            self._forget(stream)

    def _free(self, stream: Stream, last: Event | None = None) -> None:
        """Its channel is free for the next one."""
        del self._streams[stream.number]
        if stream.successor is not None:
            self._ask(stream.successor)
        self._forget(stream, last)

    def _forget(self, stream: Stream, last: Event | None = None) -> None:
        stream.state = State.FREE
        stream.unsent.clear()
        stream.unread.clear()
        if last is not None and not stream.is_gone:
            self.events.append(last)
        stream.is_gone = True


def _fault(record: Record) -> PeerError:
    return PeerError(why=f"unexpected record {record.kind} on channel {record.channel} of the cable")
