"""One client's hold on one target, from the server's side of the network.

The session owns the link to the target. It puts requests on the link one after another, for KD allows one at a time,
though a client may hand over many at once; it learns from the packets whether the target is halted, and keeps the state
change that halted it, so that a debugger that attaches or lost the thread is given it without disturbing the target.

    run state   becomes       when
    any         halted        a state change arrives
    halted      running       Continue, Continue2, Reboot or CauseBugCheck is acknowledged
    any         running       the target asks for a file or a string; if unknown, anything else that is no reply
    any         unknown       the line is away, the link is being reset, or the target stops acknowledging

Requests wait until the target halts, which one that is halted says again after a reset. Nothing here is done per packet
but what ``_on_packet`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from kdsrv.alarm import Alarm
from kdsrv.errors import PeerError, TargetError
from kdsrv.kd.api import NO_REPLY, Api
from kdsrv.kd.link import Acknowledged, Event, GaveUp, HostRole, Phase, ResetSeen
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import MANIPULATE, MAX_PAYLOAD, Packet, PacketType
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.link_driver import HeldAcks, LinkDriver
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.observer import SessionObserver
from kdsrv.sessions.outbox import is_print
from kdsrv.sessions.requests import Requests
from kdsrv.sessions.status import (
    BreakingIn,
    Interrupted,
    Lost,
    Noise,
    Quiet,
    Rebooting,
    Running,
    RunState,
    Status,
)
from kdsrv.sessions.stop import describe_stop
from kdsrv.sessions.uplink import SessionUser
from kdsrv.transports.transport import Transport

__all__ = ["Session"]

_STOPS: Final = frozenset({PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32})
_CONTINUES: Final = frozenset({NtStatus.DBG_CONTINUE, NtStatus.DBG_EXCEPTION_HANDLED})
_ANSWERS: Final = frozenset({PacketType.DEBUG_IO, PacketType.FILE_IO})
_LEAVE_LIMIT: Final = 1.0
"""Seconds that a target has to finish what is on the line when its user leaves."""
_LAST_BYTES: Final = 64
"""So many bytes get the time to leave a serial port before it is closed, which drops the rest."""
_STATUS_INTERVAL: Final = 1.0
"""Seconds between two looks at a line on which nothing is settled."""
_PROBE_EVERY: Final = 5
"""Looks at a lost target between two RESETs."""
_OVERDUE: Final = 3.0
"""Seconds after which a break-in is no longer held back by a request that the target has taken and does not answer."""


class Session:
    """``link`` to a target on an open transport. ``name`` is how people call the target.

    Made by the ``Directory``, which holds the lease; ``start`` begins with one RESET, which a halted target answers and
    a running one ignores.
    """

    read_only = False

    def __init__(
        self,
        clock: IReactorTime,
        name: str,
        transport: Transport,
        link: HostRole,
        lease: Lease,
        *,
        acks: HeldAcks | None = None,
    ) -> None:
        self.name = name
        self.lease = lease
        self.user: SessionUser | None = None
        self.run_state = RunState.UNKNOWN
        self.status: Status = Quiet(0.0)
        self.stop: Packet | None = None
        self.transport = transport
        self.link = link
        self.orphans = 0
        self.on_leave = OnLeave.STAY
        self._observers: tuple[SessionObserver, ...] = ()
        self._clock = clock
        # on a line where bytes take time, an ACK that waits for a request makes that later by its own length
        held = None if transport.byte_time else acks
        self._driver = LinkDriver(clock, self.link, self._on_event, self._write, held)
        self._looks = Alarm(clock, self._look)
        self._looked = 0
        self._requests = Requests()
        self._question: Packet | None = None
        self._heard_at = clock.seconds()
        self._break_in_since: float | None = None
        self._heard_before_break_in = 0
        self._break_in_next = False
        self._away = False
        self._left: Callable[[], None] | None = None
        self._started = False
        self._settled = False
        self._closed = False

    @property
    def description(self) -> str:
        """The line to the target, for people."""
        return self.transport.description

    def start(self, user: SessionUser) -> None:
        """Begin to talk to the target on behalf of ``user``; if that has been begun for another, hand over."""
        if self._started:
            self.hand_over(user, self.lease)
            return
        self._started = True
        self.user = user
        self.transport.start(self)
        self._driver.run(self.link.resync(self._clock.seconds()))
        self._look_later()

    def observe(self, observer: SessionObserver) -> Callable[[], None]:
        """Tell ``observer`` all that happens from now on, until the returned function is called."""
        self._observers += (observer,)

        def stop() -> None:
            self._observers = tuple(other for other in self._observers if other is not observer)

        return stop

    def hand_over(self, user: SessionUser, lease: Lease) -> None:
        """Another user takes the session as it is; the old one hears nothing more.

        The new one is told the status, and given what the target waits for an answer to: its stop, or its question.
        Requests of the old one that wait are dropped. That on the link is left to the target, and its reply is
        nobody's: a reset would only have the target send that reply again, and its stop too.
        """
        self.user = user
        self.lease = lease
        self._requests.disown()
        self._break_in_next = False
        for observer in self._observers:
            observer.holder_changed(lease)
        user.status_changed(self.status)
        if self._question is not None:
            self._give(self._question)
        elif self.stop is not None:
            if self._requests.api is None or (self._requests.is_replied and not self._requests.runs_target):
                self._give(self.stop)
        elif self.run_state is RunState.UNKNOWN and self.link.phase is not Phase.RESETTING:
            self._reset()

    def leave(self, left: Callable[[], None]) -> None:
        """The user has gone: leave the target as it wanted it, let go of its line, and call ``left``.

        What is on the line is finished, and a Continue that was asked for last is still given; the rest of what waits
        is dropped. All this takes a second at the most. No call to the user follows.
        """
        self.user = None
        if self._closed:
            left()
            return
        self._left = left
        self._requests.leave_last()
        self._looks.set(self._clock.seconds() + _LEAVE_LIMIT)
        self._close_when_settled()

    def close(self) -> None:
        """Let go of the line now. No call to the user follows."""
        if not self._closed:
            self._closed = True
            self.user = None
            self._driver.stop()
            self._looks.stop()
            self.transport.close()
            for observer in self._observers:
                observer.session_ended()
            if self._left is not None:
                self._left()

    def _close_when_settled(self) -> None:
        if self._settled or self._requests or self._requests.api is not None or self.link.backlog:
            return
        self._settled = True
        self._driver.flush()
        self._looks.set(self._clock.seconds() + _LAST_BYTES * self.transport.byte_time)

    # What the user asks for

    def send_packet(self, packet_type: int, payload: bytes) -> None:
        if len(payload) > MAX_PAYLOAD:
            raise PeerError(why=f"a packet of {len(payload)} bytes is too long for a KD link")
        if packet_type == MANIPULATE:
            self._requests.put(payload)
            self._next_request()
        elif self._question is not None and packet_type == self._question.type:
            self._question = None
            self._send(packet_type, payload)
        self._driver.flush()

    def break_in(self) -> None:
        requests = self._requests
        if self.run_state is not RunState.HALTED or (requests.runs_target and not requests.is_replied):
            self._send_break_in()
        elif requests.runs_target or requests.waiting_run_target:
            self._break_in_next = True
        elif requests.api is None:
            if self.stop is not None and not requests:
                self._give(self.stop)
        elif self._is_overdue:
            self._lose_requests()
            self._reset()
            self._send_break_in()

    @property
    def _is_overdue(self) -> bool:
        """Whether the reply to the request on the line should be here, and not a byte of it is."""
        return not self.link.missing and self._clock.seconds() >= self._requests.begun_at + _OVERDUE

    def resync(self) -> None:
        in_step = self.link.phase is Phase.SYNCED and self.run_state is not RunState.UNKNOWN
        in_step = in_step and self._requests.api is None and not self.link.backlog
        self._requests.lose_all()
        self._break_in_next = False
        if self.user is None:
            return
        self.user.resynced()
        if in_step:
            if self.stop is not None:
                self._give(self.stop)
        elif self.link.phase is not Phase.RESETTING:
            self._reset()

    # What the transport brings

    def bytes_received(self, data: bytes) -> int:
        self._heard_at = self._clock.seconds()
        missing = self._driver.bytes_received(data)
        if self._left is not None:
            self._close_when_settled()
        return missing

    def transport_interrupted(self, why: str | Status) -> None:
        was_away, self._away = self._away, True
        if not was_away:
            self._lose_requests()
            self._reset()
        self._set_status(why if isinstance(why, Status) else Interrupted(why))

    def transport_resumed(self) -> None:
        self._away = False
        self._heard_at = self._clock.seconds()
        self._reset()
        self._set_status(Quiet(0.0))

    def transport_lost(self, reason: TargetError) -> None:
        user = self.user
        self._set_status(Lost(str(reason.facts.get("why", reason))))
        self.close()
        if user is not None:
            user.session_lost(reason)

    # The link's events

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Packet):
            self._on_packet(event)
        elif isinstance(event, Acknowledged):
            self._on_acknowledged(event)
        elif isinstance(event, GaveUp):
            self._on_gave_up(event)
        elif isinstance(event, ResetSeen):
            self._lose_requests(in_flight_only=True)
            self._forget_stop()

    def _write(self, data: bytes) -> None:
        if not self._away:
            self.transport.write(data)

    def _on_packet(self, packet: Packet) -> None:
        if packet.type == MANIPULATE:
            self._on_reply(packet)
            return
        for observer in self._observers:
            observer.packet_from_target(packet)
        if packet.type in _STOPS:
            self._on_stop(packet)
            self._give(packet)
            self._next_request()
        else:
            if packet.type in _ANSWERS and not is_print(packet):
                self._on_running()
                self._question = packet
            elif self.run_state is RunState.UNKNOWN:
                self._on_running()
            self._give(packet)

    def _on_reply(self, reply: Packet) -> None:
        requests = self._requests
        if not requests.is_answered_by(reply.payload):
            self.orphans += 1
            return
        for observer in self._observers:
            observer.packet_from_target(reply)
        runs_target = requests.runs_target
        if requests.end():
            self._give(reply)
        if runs_target:
            self._on_reply_that_runs(reply.payload)
        self._next_request()

    def _on_reply_that_runs(self, payload: bytes) -> None:
        """Breakpoints are written, and now the target runs, if it has understood the continue status as we do."""
        if Manipulate.decode(payload).succeeded and Manipulate.decode(payload)["continue_status"] in _CONTINUES:
            self._runs(Running())
        else:
            self._reset()

    def _runs(self, status: Status) -> None:
        """A request has let the target run."""
        self.stop = None
        self.run_state = RunState.RUNNING
        self._set_status(status)
        if self._break_in_next:
            self._send_break_in()

    def _on_stop(self, packet: Packet) -> None:
        """The target halted, or says so again. A request that it has not taken yet is still going to be answered."""
        if not self._requests.is_replied or not self.link.backlog:
            self._lose_requests(in_flight_only=True)
        self.stop = packet
        self.run_state = RunState.HALTED
        self._question = self._break_in_since = None
        self._set_status(describe_stop(packet))

    def _on_running(self) -> None:
        """The target does what one that is halted does not do."""
        if self.run_state is not RunState.RUNNING:
            self._lose_requests(in_flight_only=True)
            self.stop = None
            self.run_state = RunState.RUNNING
            self._set_status(Running())

    def _on_acknowledged(self, event: Acknowledged) -> None:
        api, runs_target = self._requests.api, self._requests.runs_target
        if api not in NO_REPLY or event.type != MANIPULATE or api == Api.SWITCH_PROCESSOR:
            return
        self._requests.end()
        if runs_target:
            self._runs(Rebooting() if api == Api.REBOOT else Running())
        self._next_request()

    def _on_gave_up(self, event: GaveUp) -> None:
        if event.type == PacketType.RESET:
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

    def _next_request(self) -> None:
        requests = self._requests
        while requests and requests.api is None and self.run_state is RunState.HALTED:
            payload = requests.next()
            if self._answers(payload):
                continue
            self._ask(payload)
            if self._break_in_next and requests.runs_target and not requests.is_replied:
                self._send_break_in()

    def _ask(self, request: bytes) -> None:
        """Put a request on the link."""
        self._requests.begin(request, self._clock.seconds())
        self._send(MANIPULATE, request)

    def _send(self, packet_type: int, payload: bytes) -> None:
        for observer in self._observers:
            observer.packet_to_target(Packet(packet_type, payload))
        self.link.send(packet_type, payload, self._clock.seconds())

    def _answers(self, payload: bytes) -> bool:
        """Whether the session itself has answered this request, whose turn it is. See ``ReadOnlySession``."""
        return False

    def _send_break_in(self) -> None:
        self._break_in_next = False
        if not self.link.breaking_in:
            self._break_in_since = now = self._clock.seconds()
            self._heard_before_break_in = self.link.counters.bytes_received
            for observer in self._observers:
                observer.break_in_sent()
            self.link.break_in(now)
            self._driver.flush()
            self._look_later()

    def _reset(self) -> None:
        """Have the link begin anew; a target that is halted says so again."""
        self._forget_stop()
        self._driver.run(self.link.resync(self._clock.seconds()))

    def _lose_requests(self, *, in_flight_only: bool = False) -> None:
        """Those that would get no reply anyway do not count."""
        if in_flight_only:
            lost = self._requests.lose()
        else:
            lost = self._requests.lose_all()
            self._break_in_next = False
        if lost and self.user is not None:
            self.user.requests_lost(lost)

    # What there is to say

    def _give(self, packet: Packet) -> None:
        if self.user is not None:
            self.user.packet_received(packet)

    def _forget_stop(self) -> None:
        self.stop = self._question = None
        self.run_state = RunState.UNKNOWN
        self._look_later()

    def _set_status(self, status: Status) -> None:
        if status != self.status:
            self.status = status
            for observer in self._observers:
                observer.status_changed(status)
            if self.user is not None:
                self.user.status_changed(status)

    def _look_later(self) -> None:
        if not self._closed and self._left is None:
            self._looks.set(self._clock.seconds() + _STATUS_INTERVAL)

    def _look(self) -> None:
        """Nothing is settled yet: say how it stands, and once in a while knock at a target that was lost."""
        if self._left is not None:
            self.close()
            return
        now = self._clock.seconds()
        counters = self.link.counters
        self._looked += 1
        if self._away:
            return
        if self._break_in_since is not None:
            came = counters.bytes_received - self._heard_before_break_in
            self._set_status(BreakingIn(round(now - self._break_in_since), came))
        elif self.run_state is not RunState.UNKNOWN:
            return
        elif isinstance(self.status, Lost):
            if self._looked % _PROBE_EVERY == 0:
                self._reset()
        elif self.link.noise and not counters.packets_received:
            self._set_status(Noise(self.link.noise))
        else:
            self._set_status(Quiet(round(now - self._heard_at)))
        self._look_later()
