"""The side of a session that faces the target: its link, one request at a time, and what is known of the target.

It puts requests on the link one after another, for KD allows one at a time, though a client may hand over many at once;
it learns from the packets whether the target is halted, and keeps the state change that halted it, so that a debugger
that attaches or lost the thread is given it without disturbing the target.

    run state   becomes       when
    any         halted        a state change arrives
    halted      running       Continue, Continue2, Reboot or CauseBugCheck is acknowledged, or a request is answered
                              that writes breakpoints and says to go on
    any         running       the target asks for a file or a string; if unknown, anything else that is no reply
    any         unknown       the line is away, the link is being reset, the target counts ids anew, or it stops
                              acknowledging or answering

Requests wait until the target halts, which one that is halted says again after a reset. Nothing here is done per packet
but what ``_on_packet`` and ``_on_reply`` say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from twisted.internet.interfaces import IReactorTime

from kdsrv.alarm import Alarm
from kdsrv.kd.api import NO_REPLY, Api, api_name
from kdsrv.kd.link import Acknowledged, Event, GaveUp, HostRole, Phase, ResetSeen
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import MANIPULATE, MAX_PAYLOAD, Packet, PacketType
from kdsrv.kd.portions import shorten_answer
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.link_driver import HeldAcks, LinkDriver
from kdsrv.sessions.breakpoints import BREAKPOINT_REQUESTS, Breakpoints
from kdsrv.sessions.link_status import Rebooted
from kdsrv.sessions.observer import SessionObserver
from kdsrv.sessions.outbox import is_print
from kdsrv.sessions.outlook import Facts, Lookout, outlook
from kdsrv.sessions.requests import Requests, time_to_work
from kdsrv.sessions.status import Lost, Quiet, Rebooting, Running, RunState, Status
from kdsrv.sessions.stop import describe_stop
from kdsrv.transports.transport import Transport

__all__ = ["TargetSide"]

_STOPS: Final = frozenset({PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32})
_ANSWERS: Final = frozenset({PacketType.DEBUG_IO, PacketType.FILE_IO})
_CONTINUES: Final = frozenset({NtStatus.DBG_CONTINUE, NtStatus.DBG_EXCEPTION_HANDLED})
_STATUS_INTERVAL: Final = 1.0
"""Seconds between two looks at a line on which nothing is settled."""
_PROBE_EVERY: Final = 5
"""Looks at a lost target between two RESETs."""
_PRINT_HOLD: Final = 0.25
"""Seconds that a target waits for the ACK of a print whose reader is behind; it repeats a print after a second."""


class TargetSide(ABC):
    """``link`` to a target on an open transport. A request is given up when no byte has come for ``reply_limit``
    seconds, besides the time that its line and its work take."""

    def __init__(
        self, clock: IReactorTime, transport: Transport, link: HostRole, acks: HeldAcks | None, reply_limit: float
    ) -> None:
        self.run_state = RunState.UNKNOWN
        self.status: Status = Quiet(0.0)
        self.stop: Packet | None = None
        self.transport = transport
        self.link = link
        self.orphans = 0
        self._clock = clock
        # on a line where bytes take time, an ACK that waits for a request makes that later by its own length
        held = None if transport.byte_time else acks
        self._driver = LinkDriver(clock, self.link, self._on_event, self._write, held)
        self._observers: tuple[SessionObserver, ...] = ()
        self._lookout = Lookout(clock.seconds())
        self._looks = Alarm(clock, self._look)
        self._looked = 0
        self._is_narrow = link.max_request < MAX_PAYLOAD or link.max_reply < MAX_PAYLOAD
        self._requests = Requests()
        self._reply_limit = reply_limit
        self._replies = Alarm(clock, self._await_reply)
        self._awaits_reply = False
        self._question: Packet | None = None
        self._breakpoints = Breakpoints()
        self._away = False
        self._closed = False

    @abstractmethod
    def _give(self, packet: Packet) -> None:
        """Something for the user."""

    @property
    @abstractmethod
    def _user_is_behind(self) -> bool:
        """Whether what is printed should come more slowly."""

    @abstractmethod
    def _tell_lost(self, count: int) -> None:
        """So many of the user's oldest requests get no reply."""

    @abstractmethod
    def _tell_status(self, status: Status) -> None:
        """There is something new to say."""

    def _write(self, data: bytes) -> None:
        if not self._away:
            self.transport.write(data)

    @property
    def facts(self) -> Facts:
        """What there is to know of the target and its line now."""
        now, byte_time = self._clock.seconds(), self.transport.byte_time
        return self._lookout.facts(self.link, self.run_state, self.status, now, byte_time)

    # The link's events

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Packet):
            if event.type == MANIPULATE:
                self._on_reply(event)
            else:
                self._on_packet(event)
        elif isinstance(event, Acknowledged):
            self._on_acknowledged(event)
        elif isinstance(event, GaveUp):
            self._on_gave_up(event)
        elif isinstance(event, ResetSeen):
            self._lose_requests(in_flight_only=True)
            self._forget_stop()
            if self._lookout.began_anew(self.link):
                self._set_status(Rebooted())

    def _on_packet(self, packet: Packet) -> None:
        if self._observers:
            self._show(packet)
        if packet.type in _STOPS:
            self._on_stop(packet)
            self._give(packet)
            self._next_request()
            return
        if packet.type in _ANSWERS and not is_print(packet):
            self._on_running()
            self._question = packet
        elif self.run_state is RunState.UNKNOWN:
            self._on_running()
        self._give(packet)
        if is_print(packet) and self._user_is_behind:
            self._driver.delay_ack(_PRINT_HOLD)

    def _on_reply(self, reply: Packet) -> None:
        requests = self._requests
        if reply.payload[:4] != requests.reply_begins:
            self.orphans += 1
            return
        if requests.portions is not None:
            whole = requests.join(reply.payload, self._clock.seconds())
            if whole is None:
                self.link.send(MANIPULATE, requests.portion, requests.begun_at)
                return
            reply = Packet(MANIPULATE, whole)
        if self._observers:
            self._show(reply)
        if requests.api in BREAKPOINT_REQUESTS:
            self._breakpoints.note(requests.payload, reply.payload)
        runs_target = requests.runs_target
        if requests.end():
            self._give(reply)
        if runs_target:
            self._on_reply_that_runs(reply.payload)
        if requests.waiting:
            self._next_request()

    def _on_reply_that_runs(self, payload: bytes) -> None:
        """Breakpoints are written, and now the target runs, if it has understood the continue status as we do."""
        reply = Manipulate.decode(payload.ljust(Manipulate.SIZE, b"\0"))
        if reply.succeeded and reply["continue_status"] in _CONTINUES:
            self._run(Running())
        else:
            self._reset()

    def _on_stop(self, packet: Packet) -> None:
        """The target halted, or says so again. A request that it has not taken yet is still going to be answered."""
        if not self._requests.is_replied or not self.link.backlog:
            self._lose_requests(in_flight_only=True)
        self.stop = packet
        self.run_state = RunState.HALTED
        self._question = None
        self._lookout.halted()
        self._settle(describe_stop(packet))

    def _on_running(self) -> None:
        """The target does what one that is halted does not do."""
        if self.run_state is not RunState.RUNNING:
            self._lose_requests(in_flight_only=True)
            self._run(Running())

    def _run(self, status: Status) -> None:
        """The target runs from now on."""
        self.stop = None
        self.run_state = RunState.RUNNING
        self._lookout.runs()
        self._settle(status)
        if self._requests.then_break_in:
            self._send_break_in()

    def _on_acknowledged(self, event: Acknowledged) -> None:
        requests = self._requests
        api, runs_target = requests.api, requests.runs_target
        if api not in NO_REPLY or event.type != MANIPULATE or api == Api.SWITCH_PROCESSOR:
            return
        if api in BREAKPOINT_REQUESTS:
            self._breakpoints.note(requests.payload)
        requests.end()
        if runs_target:
            self._run(Rebooting() if api == Api.REBOOT else Running())
        self._next_request()

    def _on_gave_up(self, event: GaveUp) -> None:
        if event.type == PacketType.RESET:
            if self._lookout.unanswered is not None:
                self._lose_requests()
            self._look_later()
            return
        continued = self._requests.runs_target
        self._lose_requests()
        if self.link.phase is Phase.UNKNOWN:
            if continued:
                # perhaps only the ACK got lost, and it runs: a RESET tells, for a target that is halted answers it
                self._reset()
            else:
                self._forget_stop()
                self._set_status(Lost(event.why))

    # What goes to the target

    def _next_request(self) -> None:
        requests = self._requests
        while requests.waiting and requests.api is None and self.run_state is RunState.HALTED:
            payload = requests.waiting.popleft()
            if not self._answers(payload):
                self._ask(payload)

    def _answers(self, payload: bytes) -> bool:
        """Whether the session itself has answered this request, whose turn it is. See ``ReadOnlySession``."""
        return False

    def _ask(self, request: bytes) -> None:
        """Put a request on the link, or the first of its portions."""
        requests, link, now = self._requests, self.link, self._clock.seconds()
        requests.begin(request, now)
        if self._is_narrow:
            refusal = requests.divide(link.max_request, link.max_reply)
            if refusal is not None:
                requests.end()
                self._give(Packet(MANIPULATE, refusal))
                return
        if self._observers:
            self._show_sent(Packet(MANIPULATE, request))
        link.send(MANIPULATE, requests.portion, now)
        if not self._awaits_reply:
            self._await_reply()
        if requests.then_break_in and requests.runs_target and not requests.is_replied:
            self._send_break_in()

    def _answer(self, payload: bytes) -> None:
        """Answer the question that the target has asked."""
        question, self._question = self._question, None
        if question is not None:
            self._show_sent(Packet(question.type, payload))
            payload = shorten_answer(question.type, payload, self.link.max_request)
            self.link.send(question.type, payload, self._clock.seconds())

    def _send_break_in(self) -> None:
        self._requests.then_break_in = False
        if not self.link.breaking_in:
            now = self._clock.seconds()
            self._lookout.broke_in(self.link, now)
            for observer in self._observers:
                observer.break_in_sent()
            self.link.break_in(now)
            self._driver.flush()
            self._look_later()

    def _reset(self) -> None:
        """Have the link begin anew; a target that is halted says so again."""
        self._forget_stop()
        self._driver.run(self.link.resync(self._clock.seconds()))

    def _forget_stop(self) -> None:
        self.stop = self._question = None
        self.run_state = RunState.UNKNOWN
        self._look_later()

    def _lose_requests(self, *, in_flight_only: bool = False) -> None:
        """Those that would get no reply anyway do not count."""
        lost = self._requests.lose() if in_flight_only else self._requests.lose_all()
        if lost:
            self._tell_lost(lost)

    def _await_reply(self) -> None:
        """Give up a request that the target has taken and does not answer. A RESET tells whether it is still there.

        The timer is not set with each request: when it rings, the one on the link may be another.
        """
        requests = self._requests
        self._awaits_reply = requests.is_replied and not self._closed
        if not self._awaits_reply:
            return
        line = (len(requests.portion) + MAX_PAYLOAD) * self.transport.byte_time
        limit = self._reply_limit + line + time_to_work(requests.payload)
        due = max(requests.begun_at, self._lookout.heard_at) + limit
        if self._clock.seconds() < due:
            self._replies.set(due)
            return
        self._awaits_reply = False
        self._lookout.unanswered = f"{api_name(requests.api or 0)} was not answered in {limit:.0f} s"
        self._lose_requests(in_flight_only=True)
        self._reset()

    # What there is to see and to say

    def _show(self, packet: Packet) -> None:
        for observer in self._observers:
            observer.packet_from_target(packet)

    def _show_sent(self, packet: Packet) -> None:
        for observer in self._observers:
            observer.packet_to_target(packet)

    def _set_status(self, status: Status) -> None:
        if status != self.status:
            self.status = status
            for observer in self._observers:
                observer.status_changed(status)
            self._tell_status(status)

    def _settle(self, status: Status) -> None:
        """Say what lasts for a while, and before it whether much came damaged on the way."""
        damaged = self._lookout.damage(self.link, self.run_state, self._clock.seconds())
        if damaged is not None:
            self._set_status(damaged)
        self._set_status(status)

    def _look_later(self) -> None:
        if not self._closed:
            self._looks.set(self._clock.seconds() + _STATUS_INTERVAL)

    def _look(self) -> None:
        """Nothing is settled yet: say how it stands, and once in a while knock at a target that was lost."""
        if self._away:
            return
        status = outlook(self.facts)
        if status is None:
            return
        self._looked += 1
        if isinstance(status, Lost) and self._looked % _PROBE_EVERY == 0:
            self._reset()
        self._set_status(status)
        self._look_later()
