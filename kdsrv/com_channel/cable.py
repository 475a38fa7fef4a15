"""One end of a serial cable that carries many streams: sessions, keep-alive, and what goes onto the line next.

Both ends are alike. Its owner passes in what the line brings (``receive``), calls ``expire`` at ``deadline``, and after
each call on the cable or its ``channels`` empties ``channels.events`` and writes ``take_output``.

Sessions. Each end names itself by eight random bytes, anew for every session, and frames carry a tag made of both
names. So what was sent before either end started again, and what comes back from an echoing line, is told apart from
what belongs to now.

| state | a stream is to be opened | ASK from a new name | ANSWER to our name | frame, right tag | frame, another tag |
|---|---|---|---|---|---|
| no session | ASK each second | ANSWER | session | session | ASK, at most each second |
| session | OPEN | session over; ANSWER | - | taken | ASK, at most each second |

An ASK that has our name in it counts as an ANSWER too. A session is also over when nothing has come for ten seconds in
spite of pings (after three), when the other end leaves, and when it breaks the rules. Without streams there are no
pings: a session may sleep for days, and if the other end has gone meanwhile, the first OPEN gets an ASK for an answer.
Streams that are not accepted yet stay for the next session.

Pace. Only so much is handed out as the line carries in a moment, computed from the baud rate. What is not handed out
yet can still be overtaken, so an ACK or another channel never waits behind more than that. Sent are, in this order:
greetings, what has to be repeated, records about channels, stream bytes in turns. Each frame acknowledges what has
come; if none is to be sent, a frame of its own does.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kdsrv.com_channel.channels import MAX_CHANNEL, Channels
from kdsrv.com_channel.frames import MAX_PAYLOAD, OVERHEAD, Frame, FrameKind, FrameReader, encode
from kdsrv.com_channel.sequence import Incoming, Outgoing, Record
from kdsrv.errors import PeerError

__all__ = ["AHEAD", "BITS_PER_BYTE", "OPEN_LIMIT", "SILENCE_LIMIT", "VERSION", "Cable", "CableCounters"]

VERSION: Final = 1
BITS_PER_BYTE: Final = 10
"""8N1: a start bit, eight data bits, a stop bit."""

OPEN_LIMIT: Final = 5.0
"""Seconds that a stream waits to be accepted, unless told otherwise."""

SILENCE_LIMIT: Final = 10.0
"""Seconds of silence, in spite of pings, after which the cable is taken for unplugged."""

AHEAD: Final = 0.05
"""Seconds of the line's time that are handed out before they are needed: more than the reactor is ever late."""

_PING_AFTER: Final = 3.0
_ASK_AGAIN: Final = 1.0
_FRAME_TIME: Final = 0.2
_SMALLEST: Final = 64
_NAME: Final = 8
_NOBODY: Final = bytes(_NAME)
_GREETING: Final = struct.Struct(f"<B{_NAME}s{_NAME}s")
_REMEMBERED: Final = 16


@dataclass(slots=True)
class CableCounters:
    """What happened since the cable was made; all are counts."""

    frames_received: int = 0
    frames_sent: int = 0
    repeats: int = 0
    duplicates: int = 0
    strangers: int = 0
    sessions: int = 0


class Cable:
    """One end. ``random`` gives that many random bytes, ``now`` is in seconds of any clock that goes on."""

    def __init__(self, baud: int, random: Callable[[int], bytes]) -> None:
        self.counters = CableCounters()
        self._byte_time = BITS_PER_BYTE / baud
        size = max(_SMALLEST, min(MAX_PAYLOAD, int(_FRAME_TIME / self._byte_time) - OVERHEAD))
        frame_time = (size + OVERHEAD) * self._byte_time
        self._patience = 0.25 + 4 * frame_time
        self._silence = max(SILENCE_LIMIT, 20 * frame_time)
        self.channels = Channels(size)
        self._random = random
        self._reader = FrameReader()
        self._past: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._version = VERSION
        self._free_at = 0.0
        self._asked_at: float | None = None
        self._ask = self._answer = self._ping = False
        self._leaving = b""
        self._heard_at = self._pinged_at = 0.0
        self._renew()

    @property
    def in_session(self) -> bool:
        """Whether both ends know each other."""
        return self._up

    @property
    def damaged(self) -> int:
        """Frames that were damaged on the line, or were none."""
        return self._reader.damaged

    @property
    def free_at(self) -> float:
        """When the line will have carried what was handed out."""
        return self._free_at

    @property
    def deadline(self) -> float | None:
        """When ``expire`` wants to be called next."""
        times = [stream.deadline for stream in self.channels.opening]
        if self._wants_line():
            times.append(self._free_at - AHEAD)
        if self._up:
            retry = self._outgoing.deadline
            if retry is not None:
                times.append(retry)
            if len(self.channels):
                times.append(min(self._ping_at(), self._heard_at + self._silence))
        elif any(self.channels.opening):
            times.append(self._ask_at())
        return min(times, default=None)

    def receive(self, data: bytes, now: float) -> None:
        """Bytes came from the line."""
        for frame in self._reader.read(data):
            self.counters.frames_received += 1
            if frame.kind in (FrameKind.ASK, FrameKind.ANSWER):
                self._greeted(frame, now)
            elif self._peer != _NOBODY and frame.tag == self._tag_in:
                self._take(frame, now)
            elif frame.tag != self._tag_out:
                self.counters.strangers += 1
                self._ask = self._ask or (frame.kind != FrameKind.LEAVE and now >= self._ask_at())

    def expire(self, now: float) -> None:
        """``deadline`` has come."""
        if self._up:
            self._outgoing.expire(now)
            if len(self.channels):
                if now >= self._heard_at + self._silence:
                    quiet = f"nothing has come for {self._silence:.0f} s; is the cable unplugged?"
                    self._end_session(quiet)
                elif now >= self._ping_at():
                    self._ping = True
                    self._pinged_at = now
        elif now >= self._ask_at() and any(self.channels.opening):
            self._ask = True
        self.channels.expire(now, self._no_answer())

    def opened(self, now: float) -> None:
        """To be called after ``channels.open``: the silence before it says nothing about the cable."""
        if len(self.channels) == 1:
            self._heard_at = max(self._heard_at, now)
        self._ask = self._ask or (not self._up and now >= self._ask_at())

    def leave(self, now: float) -> None:
        """Tell the other end that this one goes away. All streams are lost."""
        if self._up:
            self._leaving = encode(Frame(FrameKind.LEAVE, self._tag_out))
            self._end_session("the cable is closed")

    def take_output(self, now: float) -> bytes:
        """What to write to the line now."""
        output = []
        if self._leaving:
            output.append(b"\0" + self._leaving)
            self._leaving = b""
            self._occupy(len(output[0]), now)
        while self._free_at - AHEAD <= now and (frame := self._next_frame(now)) is not None:
            data = encode(frame)
            if self._free_at <= now:
                data = b"\0" + data
            self._occupy(len(data), now)
            output.append(data)
            self.counters.frames_sent += 1
        return b"".join(output)

    # What comes

    def _greeted(self, frame: Frame, now: float) -> None:
        if len(frame.body) != _GREETING.size:
            return
        version, theirs, heard = _GREETING.unpack(frame.body)
        if theirs in (self._own, _NOBODY) or theirs in self._past:
            return
        self._version = version
        if version != VERSION:
            return
        if theirs != self._peer:
            if self._up:
                self._end_session("the other end has started again")
            self._meet(theirs)
        if frame.kind == FrameKind.ASK:
            self._answer = True
        if heard == self._own and not self._up:
            self._begin(now)

    def _take(self, frame: Frame, now: float) -> None:
        if not self._up:
            self._begin(now)
        self._heard_at = now
        if frame.kind == FrameKind.LEAVE:
            self._end_session("the other end has closed the cable")
            return
        self._outgoing.acknowledged(frame.acknowledge, gap=frame.gap, now=now)
        if frame.ping:
            self._incoming.must_tell = True
        if frame.kind < FrameKind.OPEN:
            return
        try:
            for record in self._incoming.take(frame.sequence, _record(frame)):
                self.channels.take(record)
        except PeerError as error:
            self._end_session(str(error))

    # Sessions

    def _renew(self) -> None:
        self._own = self._random(_NAME)
        self._peer = _NOBODY
        self._tag_in = self._tag_out = 0
        self._up = False
        self._ask = self._answer = self._ping = False
        self._outgoing = Outgoing(self._patience)
        self._incoming = Incoming()

    def _meet(self, theirs: bytes) -> None:
        self._peer = theirs
        self._tag_out = zlib.crc32(self._own + theirs)
        self._tag_in = zlib.crc32(theirs + self._own)

    def _begin(self, now: float) -> None:
        self._up = True
        self._ask = False
        self._heard_at = now
        # the other end knows by our first frame that its answer has come
        self._incoming.must_tell = True
        self.counters.sessions += 1

    def _end_session(self, why: str) -> None:
        self.counters.repeats += self._outgoing.repeats
        self.counters.duplicates += self._incoming.duplicates
        self._past.append(self._peer)
        self._renew()
        self._asked_at = None
        self.channels.fail(why)

    def _no_answer(self) -> str:
        if self._up:
            return "the other end does not answer"
        if self._version != VERSION:
            return f"the other end speaks version {self._version} of the cable's protocol, this one {VERSION}"
        return "nobody answers; does the server run, are the baud rates the same, and is the cable a null modem?"

    def _ask_at(self) -> float:
        return float("-inf") if self._asked_at is None else self._asked_at + _ASK_AGAIN

    def _ping_at(self) -> float:
        return max(self._heard_at, self._pinged_at) + _PING_AFTER

    # What goes

    def _wants_line(self) -> bool:
        if self._ask or self._answer:
            return True
        if not self._up:
            return False
        outgoing = self._outgoing
        records = outgoing.must_send or (outgoing.has_room and self.channels.has_records)
        return records or self._ping or self._incoming.must_tell

    def _next_frame(self, now: float) -> Frame | None:
        if self._ask or self._answer:
            return self._greeting(now)
        if not self._up:
            return None
        outgoing, incoming = self._outgoing, self._incoming
        if not outgoing.must_send and outgoing.has_room:
            record = self.channels.next_record()
            if record is not None:
                outgoing.add(record)
        kind, number, body = int(FrameKind.STATE), 0, b""
        if outgoing.must_send:
            size = len(outgoing.upcoming.payload) + OVERHEAD
            number, record = outgoing.send(max(self._free_at, now) + size * self._byte_time)
            kind, body = record.kind, bytes((record.channel,)) + record.payload
        elif not (self._ping or incoming.must_tell):
            return None
        frame = Frame(kind, self._tag_out, number, incoming.expected, body, incoming.gap, self._ping)
        incoming.told()
        self._ping = False
        return frame

    def _greeting(self, now: float) -> Frame:
        kind = FrameKind.ANSWER if self._answer else FrameKind.ASK
        if not self._answer:
            self._asked_at = now
            self._ask = False
        self._answer = False
        return Frame(kind, body=_GREETING.pack(VERSION, self._own, self._peer))

    def _occupy(self, size: int, now: float) -> None:
        self._free_at = max(self._free_at, now) + size * self._byte_time


def _record(frame: Frame) -> Record:
    if not frame.body or frame.body[0] > MAX_CHANNEL:
        raise PeerError(why=f"record {frame.kind} on no channel of the cable")
    return Record(frame.kind, frame.body[0], frame.body[1:])
