"""A session as the programs' side of it sees it: requests and their replies, stops and who waits for them, events.

    run state   becomes    when
    any         halted     a state change arrives
    halted      running    we send a Continue or the like
    any         as told    the session's status tells of a target that is not halted

A request that is not answered in ``reply_limit`` seconds is given up, and with it all that wait behind it: headers of
KD packets have no checksum, so a target may acknowledge a damaged request and never answer it. A resync brings both
ends together again. While the server is away nothing is given up.

The same stop may come twice, for a break-in may cross it on the way. So after a break-in and a Continue a state change
equal to the last one is no new stop, until the session has told that the target runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar
from weakref import WeakSet

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kdsrv.alarm import Alarm
from kdsrv.client.breaks import ServerAway
from kdsrv.client.events import (
    Event,
    EventsDropped,
    EventStream,
    FileAsked,
    ModuleLoaded,
    ModuleUnloaded,
    OtherPacket,
    Printed,
    Prompted,
    Rebooting,
    SessionLost,
    StatusChanged,
    Stop,
    Stopped,
)
from kdsrv.client.failures import RequestFailed, SessionEnded, TargetRunning, TookTooLong, TooManyRequests
from kdsrv.client.memory import Pace
from kdsrv.client.requests import Question, RequestQueue
from kdsrv.errors import KdsrvError, PeerError
from kdsrv.kd.api import NO_REPLY, RUNS_TARGET
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import MAX_PAYLOAD, Packet, PacketType
from kdsrv.sessions.status import HaltReason, RunState, Status
from kdsrv.sessions.uplink import Uplink

__all__ = ["Conversation"]

T = TypeVar("T")

_STOPS: Final = frozenset({PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32})
_REPLY_LIMIT: Final = 15.0


class Conversation:
    """A SessionUser on ``uplink``, with places for who owns it to look at what comes before anybody is told.

    ``see_stop`` sees every stop; ``take_stop`` says True of one that nobody else shall hear of. ``answer_file`` and
    ``answer_prompt`` answer what the target asks; None is no answer.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, uplink: Uplink, status: Status) -> None:
        self.clock = clock
        self.status = status
        self.run_state = RunState.UNKNOWN
        self.stop: Stop | None = None
        self.ended: SessionEnded | None = None
        self.pace = Pace()
        self.requests = RequestQueue(self._send_request)
        self.reply_limit = _REPLY_LIMIT
        self.see_stop: Callable[[Stop], None] = lambda _: None
        self.take_stop: Callable[[Stop], bool] = lambda _: False
        self.see_status: Callable[[Status], None] = lambda _: None
        self.see_end: Callable[[], None] = lambda: None
        self.answer_file: Callable[[FileIo], FileIo | None] = lambda _: None
        self.answer_prompt: Callable[[str], str | None] = lambda _: None
        self._uplink = uplink
        self._waiters: list[Deferred[Stop]] = []
        self._private: Deferred[Stop] | None = None
        self._listeners: list[Callable[[Event], None]] = []
        self._streams: WeakSet[EventStream] = WeakSet()
        self._last: Packet | None = None
        self._may_repeat = False
        self._ignores_repeat = False
        self._watch = Alarm(clock, self._look)
        self._watching = False
        self._replies_seen = 0

    # What a program asks for

    def ask(self, request: Manipulate, *, check: bool = True) -> Deferred[Manipulate]:
        """Send a request that gets a reply."""
        self.require_halted()
        question = Question(request.api, check=check)
        self.requests.ask(request.encode(), question)
        return question.answer

    def send(self, request: Manipulate) -> None:
        """Send a request that gets no reply."""
        self.require_halted()
        if request.api in RUNS_TARGET:
            self.stop = None
            self.run_state = RunState.RUNNING
            self._ignores_repeat = self._may_repeat
        self._send_request(request.encode())

    def break_in(self) -> None:
        self.require_open()
        self._may_repeat, self._ignores_repeat = True, False
        self._uplink.break_in()

    def require_open(self) -> None:
        """Raise SessionEnded if the session has."""
        if self.ended is not None:
            raise SessionEnded(self.ended.reason)

    def require_halted(self) -> Stop:
        """The stop that the target is in. SessionEnded or TargetRunning."""
        self.require_open()
        if self.stop is None:
            status = self.run_state if self.run_state is RunState.RUNNING else self.status.sentence()
            raise TargetRunning(status=status)
        return self.stop

    def next_stop(self) -> Deferred[Stop]:
        """The next stop that comes."""
        self.require_open()
        waiter: Deferred[Stop] = Deferred(lambda waiter: self._waiters.remove(waiter))
        self._waiters.append(waiter)
        return waiter

    def private_stop(self) -> Deferred[Stop]:
        """The next stop that comes, of which nobody else hears; ``tell`` can make up for that."""
        self.require_open()
        private: Deferred[Stop] = Deferred(self._private_left)
        self._private = private
        return private

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``listener`` with each event; the function returned ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def events(self, limit: int) -> EventStream:
        """A stream of events, which is fed for as long as somebody has it."""
        stream = EventStream(limit)
        if self.ended is None:
            self._streams.add(stream)
        else:
            stream.close()
        return stream

    def limit(self, waiting: Deferred[T], seconds: float | None, what: str) -> Deferred[T]:
        """``waiting``, which fails with TookTooLong when it takes longer than ``seconds``."""
        if seconds is None:
            return waiting

        def timed_out(result: Any, _: float) -> Any:
            if isinstance(result, Failure) and result.check(CancelledError):
                raise TookTooLong(what=what, seconds=seconds)
            return result

        return waiting.addTimeout(seconds, self.clock, timed_out)

    def tell(self, stop: Stop) -> None:
        """Tell everybody of a stop."""
        self.emit_stop(stop)
        self._wake(stop)

    def emit_stop(self, stop: Stop) -> None:
        """Tell those who listen, and not those who wait for a stop."""
        self._emit(_stop_event(stop))

    def end(self, reason: KdsrvError | None) -> None:
        """The session has ended, for ``reason`` or because we leave: so does whatever waits."""
        if self.ended is not None:
            return
        self._watch.stop()
        self.ended = SessionEnded(reason)
        self.stop = None
        self.run_state = RunState.UNKNOWN
        if reason is not None:
            self._emit(SessionLost(reason))
        for stream in tuple(self._streams):
            stream.close()
        self.requests.end(lambda: SessionEnded(reason))
        waiting, self._waiters = self._waiters, []
        private, self._private = self._private, None
        for waiter in (*waiting, *([] if private is None else [private])):
            waiter.errback(SessionEnded(reason))

    # What the session brings

    def packet_received(self, packet: Packet) -> None:
        try:
            if packet.type == PacketType.STATE_MANIPULATE:
                if not self.requests.replied(packet.payload):
                    self._refused(Manipulate.decode(packet.payload))
            elif packet.type in _STOPS:
                self._stopped(packet)
            elif packet.type == PacketType.DEBUG_IO:
                self._debug_io(DebugIo.decode(packet.payload))
            elif packet.type == PacketType.FILE_IO:
                self._file_io(FileIo.decode(packet.payload))
            else:
                self._emit(OtherPacket(packet))
        except PayloadError:
            self._emit(OtherPacket(packet))

    def resynced(self) -> None:
        """What was asked for before is lost already, and what comes now belongs to what was asked for after it."""

    def requests_lost(self, count: int) -> None:
        self.requests.lose(count)

    def prints_dropped(self, number: int) -> None:
        self._emit(EventsDropped(number))

    def status_changed(self, status: Status) -> None:
        if self._watching and isinstance(self.status, ServerAway):
            self._watch_replies()
        self.status = status
        if status.run_state is not RunState.HALTED:
            self.stop = None
            self.run_state = status.run_state
            self._may_repeat = self._ignores_repeat = False
        self.see_status(status)
        self._emit(StatusChanged(status))

    def session_lost(self, reason: KdsrvError) -> None:
        self.see_end()
        self.end(reason)

    def _stopped(self, packet: Packet) -> None:
        if self._ignores_repeat and packet == self._last:
            return
        repeated = self.stop is not None and self.stop.packet == packet
        self._ignores_repeat = False
        self._last = packet
        self.stop = stop = Stop.read(packet)
        self.run_state = RunState.HALTED
        if not repeated:
            self.see_stop(stop)
        private, self._private = self._private, None
        if private is not None and not repeated:
            private.callback(stop)
        elif repeated:
            self._wake(stop)
        elif not self.take_stop(stop):
            self.tell(stop)

    def _wake(self, stop: Stop) -> None:
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            waiter.callback(stop)

    def _refused(self, reply: Manipulate) -> None:
        """Of the requests that get no reply one got a reply: the target does not do it, and no stop comes of it."""
        if reply.api in NO_REPLY:
            waiting, self._waiters = self._waiters, []
            for waiter in waiting:
                waiter.errback(RequestFailed(reply.name, reply.status))

    def _debug_io(self, message: DebugIo) -> None:
        if not message.is_prompt:
            self._emit(Printed(message.text, message["processor"]))
            return
        unanswered = [message]

        def answer(text: bytes) -> None:
            if unanswered and self.ended is None:
                self._uplink.send_packet(PacketType.DEBUG_IO, unanswered.pop().answer(text).encode())

        prompt = Prompted(message.text.decode("cp1252", "replace"), message["string_length"], answer)
        text = self.answer_prompt(prompt.text)
        if text is not None:
            prompt.answer(text)
        self._emit(prompt)

    def _file_io(self, request: FileIo) -> None:
        answer = self.answer_file(request) or request.refusal()
        self._uplink.send_packet(PacketType.FILE_IO, answer.encode())
        self._emit(FileAsked(request, answer))

    def _send_request(self, payload: bytes) -> None:
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a request has at most {MAX_PAYLOAD} bytes, this one {len(payload)}")
        if not self._watching:
            self._watch_replies()
        try:
            self._uplink.send_packet(PacketType.STATE_MANIPULATE, payload)
        except PeerError:
            raise TooManyRequests from None

    def _watch_replies(self) -> None:
        self._watching = True
        self._replies_seen = self.requests.replies
        self._watch.set(self.clock.seconds() + self.reply_limit)

    def _look(self) -> None:
        """See whether any reply came since the last look; so one is overdue after one to two limits."""
        self._watching = False
        waiting = len(self.requests)
        is_silent = self.requests.replies == self._replies_seen and not isinstance(self.status, ServerAway)
        if waiting and is_silent:
            self._may_repeat = True
            self._uplink.resync()
            self.requests.lose(waiting)
        elif waiting:
            self._watch_replies()

    def _private_left(self, _: Deferred[Stop]) -> None:
        self._private = None

    def _emit(self, event: Event) -> None:
        for stream in tuple(self._streams):
            stream.put(event)
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                self._log.failure("a listener failed on {event}", event=event)


def _stop_event(stop: Stop) -> Event:
    change = stop.change
    if change is None or not (stop.is_module or stop.is_reboot):
        return Stopped(stop)
    if stop.is_reboot:
        return Rebooting(stop)
    path, base = change.path.decode("cp1252", "replace"), change["base"]
    if stop.reason is HaltReason.MODULE_UNLOAD:
        return ModuleUnloaded(path, base, stop)
    return ModuleLoaded(path, base, change["image_size"], change["check_sum"], stop)
