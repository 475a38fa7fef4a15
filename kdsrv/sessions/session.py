"""One client's hold on one target, from the server's side of the network.

What is known of the target, and how it is talked to, is for ``TargetSide``. Here is who has the session and who looks
on, what its user may ask for, and how it passes to another user or ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from typing_extensions import override

from kdsrv.errors import PeerError, TargetError
from kdsrv.kd.link import GaveUp, HostRole, Phase
from kdsrv.kd.packets import MANIPULATE, MAX_PAYLOAD, Packet
from kdsrv.link_driver import HeldAcks
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.leaving import Departure, OnLeave
from kdsrv.sessions.observer import SessionObserver
from kdsrv.sessions.outlook import Lookout, quiet
from kdsrv.sessions.status import Interrupted, Lost, RunState, Status
from kdsrv.sessions.status_log import StatusLog
from kdsrv.sessions.target_side import TargetSide
from kdsrv.sessions.uplink import SessionUser
from kdsrv.transports.transport import Transport

__all__ = ["Session"]

_LEAVE_LIMIT: Final = 1.0
"""Seconds that a target has to finish what is on the line when its user leaves."""
_DEPARTURE_LIMIT: Final = 5.0
"""Seconds that it has to be made to run, besides what the line takes for it."""
_OVERDUE: Final = 3.0
"""Seconds after which a break-in is no longer held back by a request that the target has taken and does not answer."""
_LAST_BYTES: Final = 64
"""So many bytes get the time to leave a serial port before it is closed, which drops the rest."""


class Session(TargetSide):
    """``link`` to a target on an open transport. ``name`` is how people call the target.

    Made by the ``Directory``, which holds the lease; ``start`` begins with one RESET, which a halted target answers and
    a running one ignores. ``on_leave`` is what becomes of the target in the end; for ``reply_limit`` see `TargetSide`.
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
        reply_limit: float = 10.0,
    ) -> None:
        super().__init__(clock, transport, link, acks, reply_limit)
        self.name = name
        self.lease = lease
        self.user: SessionUser | None = None
        self.on_leave = OnLeave.STAY
        self._left: Callable[[], None] | None = None
        self._departure: Departure | None = None
        self._started = False
        self._settled = False
        self._status_log = StatusLog(clock, name)

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
        for observer in self._observers:
            observer.holder_changed(lease)
        user.status_changed(self.status)
        if self._question is not None:
            self._give(self._question)
        elif self._stands:
            self._give_stop()
        elif self.run_state is RunState.UNKNOWN and self.link.phase is not Phase.RESETTING:
            self._reset()

    def leave(self, left: Callable[[], None]) -> None:
        """The user has gone: leave the target as ``on_leave`` says, let go of its line, and call ``left``.

        What is on the line is finished, and a Continue that was asked for last is still given; the rest of what waits
        is dropped. That takes a second at the most, to make the target run a few. No call to the user follows.
        """
        self.user = None
        if self._closed:
            left()
            return
        self._left = left
        last = self._requests.disown()
        limit = _LEAVE_LIMIT
        if self.on_leave is OnLeave.CONTINUE and not self.read_only:
            limit = _DEPARTURE_LIMIT + self._depart(last)
        elif last:
            self._requests.put(last)
        self._looks.set(self._clock.seconds() + limit)
        self._close_when_settled()

    def close(self) -> None:
        """Let go of the line now. No call to the user follows."""
        if not self._closed:
            self._closed = True
            self.user = None
            self._driver.stop()
            self._looks.stop()
            self._replies.stop()
            self.transport.close()
            for observer in self._observers:
                observer.session_ended()
            if self._left is not None:
                self._left()

    def _depart(self, last: bytes) -> float:
        """Have the target made to run; seconds that its line may take for that."""
        handles = self._breakpoints.handles
        self.user = self._departure = Departure(lambda request: self.send_packet(MANIPULATE, request), handles, last)
        if self._stands:
            self._give_stop()
        return (1 + len(handles)) * MAX_PAYLOAD * self.transport.byte_time

    @property
    def _departs(self) -> bool:
        """Whether the target is still to be made to run. One of which nothing is known may be halted, until it has
        left a RESET without an answer."""
        if self._departure is None or self._departure.done:
            return False
        return self.run_state is RunState.HALTED or self.link.phase is Phase.RESETTING

    def _close_when_settled(self) -> None:
        requests = self._requests
        if self._settled or requests.waiting or requests.api is not None or self.link.backlog or self._departs:
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
            self._answer(payload)
        self._driver.flush()

    def break_in(self) -> None:
        requests = self._requests
        if self.run_state is not RunState.HALTED or (requests.runs_target and not requests.is_replied):
            self._send_break_in()
        elif requests.runs_target or requests.waiting_run_target:
            requests.then_break_in = True
        elif requests.api is None:
            if not requests.waiting:
                self._give_stop()
        elif self._is_overdue:
            self._lose_requests()
            self._reset()
            self._send_break_in()

    def resync(self) -> None:
        in_step = self._is_in_step
        self._requests.lose_all()
        if self.user is None:
            return
        self.user.resynced()
        if in_step:
            self._give_stop()
        elif self.link.phase is not Phase.RESETTING:
            self._reset()

    @property
    def _stands(self) -> bool:
        """Whether the target stands at its stop, and nothing that ends it is on the link."""
        requests = self._requests
        return self.stop is not None and (requests.api is None or (requests.is_replied and not requests.runs_target))

    @property
    def _is_in_step(self) -> bool:
        """Whether both ends of the link agree, and nothing is under way."""
        agreed = self.link.phase is Phase.SYNCED and self.run_state is not RunState.UNKNOWN
        return agreed and self._requests.api is None and not self.link.backlog

    @property
    def _is_overdue(self) -> bool:
        """Whether the reply to the request on the link should be here, and not a byte of it is."""
        return not self.link.missing and self._clock.seconds() >= self._requests.begun_at + _OVERDUE

    # What the transport brings

    def bytes_received(self, data: bytes) -> int:
        lookout = self._lookout
        lookout.heard_at = self._clock.seconds()
        if lookout.samples:
            lookout.sample(data)
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
        self._lookout = Lookout(self._clock.seconds(), self.link.counters)
        self._reset()
        self._set_status(quiet(0.0, is_there=self.link.in_datagrams))

    def transport_lost(self, reason: TargetError) -> None:
        user = self.user
        self._set_status(Lost(str(reason.facts.get("why", reason))))
        self.close()
        if user is not None:
            user.session_lost(reason)

    # What there is for the user

    @override
    def _give(self, packet: Packet) -> None:
        if self.user is not None:
            self.user.packet_received(packet)

    def _give_stop(self) -> None:
        """The stop at which the target stands, once more."""
        if self.stop is not None:
            self._give(self.stop)

    @property
    @override
    def _user_is_behind(self) -> bool:
        return bool(getattr(self.user, "is_behind", False))

    @override
    def _tell_lost(self, count: int) -> None:
        if self.user is not None:
            self.user.requests_lost(count)

    @override
    def _tell_status(self, status: Status) -> None:
        self._status_log.note(status)
        if self.user is not None:
            self.user.status_changed(status)

    # While it ends

    @override
    def _on_gave_up(self, event: GaveUp) -> None:
        super()._on_gave_up(event)
        if self._left is not None:
            self._close_when_settled()

    @override
    def _look_later(self) -> None:
        if self._left is None:
            super()._look_later()

    @override
    def _look(self) -> None:
        if self._left is not None:
            self.close()
        else:
            super()._look()
