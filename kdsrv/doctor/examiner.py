"""Examines a line: opens it, does what the examination says, and leaves the target as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from kdsrv.connection_strings import KdSpec, SerialSpec
from kdsrv.doctor.examination import SHORT_LIMITS, TOTAL, Act, Examination, Seen, Step, short_total
from kdsrv.doctor.rate_search import RateSearch
from kdsrv.doctor.verdicts import Findings, Verdict, judge, not_opened
from kdsrv.errors import KdsrvError, TargetError
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import MANIPULATE, Packet
from kdsrv.kd.version import Version
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.link_status import Echoing, Rebooted
from kdsrv.sessions.net_status import NET_READERS
from kdsrv.sessions.outlook import trouble
from kdsrv.sessions.session import Session
from kdsrv.sessions.status import Interrupted, RunState, Status
from kdsrv.transports.devices import is_pseudo_terminal
from kdsrv.transports.links import link_for
from kdsrv.transports.opener import Opener
from kdsrv.transports.transport import Transport

__all__ = ["Examiner", "examine", "find_rate", "search_seconds"]

_LOOK_EVERY: Final = 0.05
_LEAVE_LIMIT: Final = 2.0
"""Seconds that a target has to be made to run again."""


class Examiner:
    """Uses a session of its own on an open ``transport`` of ``spec``. ``reactor`` has time."""

    def __init__(
        self,
        reactor: Any,
        spec: KdSpec,
        transport: Transport,
        *,
        may_break_in: bool,
        total: float,
        limits: Mapping[Step, float] | None = None,
    ) -> None:
        self._reactor = reactor
        self._spec = spec
        self._is_pseudo = isinstance(spec, SerialSpec) and is_pseudo_terminal(spec.port or "")
        self._line = transport.description
        now = reactor.seconds()
        byte_time = transport.byte_time
        self.examination = Examination(now, may_break_in=may_break_in, byte_time=byte_time, total=total, limits=limits)
        lease = Lease("doctor", "kdsrv doctor", "this host", now)
        self.session = Session(reactor, str(spec), transport, link_for(spec, transport), lease)
        self._version: Version | None = None
        self._replies = 0
        self._rebooted = False
        self._lost: str | None = None

    async def examine(self) -> Findings:
        """Do all of it; the line is closed when this returns, raises, or is cancelled."""
        try:
            self.session.start(self)
            while self.examination.step is not Step.DONE:
                await deferLater(self._reactor, _LOOK_EVERY)
                self._look()
            findings = self._findings()
        finally:
            runs_again = await self._leave()
        return replace(findings, runs_again=runs_again)

    def _look(self) -> None:
        match self.examination.look(self._seen(), self._reactor.seconds()):
            case Act.BREAK_IN:
                self.session.break_in()
            case Act.ASK:
                self.session.send_packet(MANIPULATE, Manipulate.get_version().encode())

    def _seen(self) -> Seen:
        session, link = self.session, self.session.link
        status = session.status
        return Seen(
            away=isinstance(status, Interrupted) or status.kind in NET_READERS,
            lost=self._lost is not None,
            receiving=link.missing > 0,
            in_step=link.counters.resets > 0,
            running=session.run_state is RunState.RUNNING,
            halted=session.run_state is RunState.HALTED,
            replies=self._replies,
        )

    def _findings(self) -> Findings:
        examination = self.examination
        return Findings(
            line=self._line,
            facts=self.session.facts,
            spec=self._spec,
            is_pseudo=self._is_pseudo,
            lost=self._lost,
            was_halted=examination.was_halted,
            answered=examination.answered,
            broke_in=examination.broke_in,
            asked=examination.asked,
            replies=self._replies,
            version=self._version,
            rebooted=self._rebooted,
        )

    async def _leave(self) -> bool | None:
        """Close the line; whether the target runs again, None if it was not this that halted it."""
        session, examination = self.session, self.examination
        halted_here = examination.broke_in and not examination.was_halted
        is_halted = session.run_state is RunState.HALTED
        if halted_here and (is_halted or session.link.counters.packets_received):
            session.on_leave = OnLeave.CONTINUE
        left: Deferred[None] = Deferred()
        limit = self._reactor.callLater(_LEAVE_LIMIT, session.close)
        with suppress(CancelledError):
            session.leave(lambda: left.callback(None))
            await left
        if limit.active():
            limit.cancel()
        return session.run_state is RunState.RUNNING if halted_here and is_halted else None

    # As the user of the session

    def packet_received(self, packet: Packet) -> None:
        """A reply: to GetVersion, as nothing else is asked."""
        if packet.type == MANIPULATE:
            self._replies += 1
            reply = Manipulate.decode(packet.payload.ljust(Manipulate.SIZE, b"\0"))
            if reply.succeeded:
                self._version = reply.version

    def resynced(self) -> None:
        """Nobody asks for that."""

    def requests_lost(self, count: int) -> None:
        """The examination sees that replies are missing."""

    def status_changed(self, status: Status) -> None:
        """It is looked at all the time."""
        self._rebooted = self._rebooted or isinstance(status, Rebooted)

    def session_lost(self, reason: KdsrvError) -> None:
        """The line is gone."""
        self._lost = str(reason.facts.get("why", reason))


async def examine(
    reactor: Any, opener: Opener, spec: KdSpec, *, may_break_in: bool = True, total: float = TOTAL
) -> Verdict:
    """Open the line and say what is wrong with it, in ``total`` seconds and what it takes to leave."""
    began = reactor.seconds()
    opening = opener.open(spec)
    limit = reactor.callLater(total, opening.cancel)
    try:
        transport = await opening
    except KdsrvError as error:
        return not_opened(error, spec)
    except CancelledError:
        if limit.active():
            raise
        return not_opened(TargetError(target=spec, why=f"it did not open within {total:.0f} s"), spec)
    finally:
        if limit.active():
            limit.cancel()
    left = max(1.0, total - (reactor.seconds() - began))
    return judge(await Examiner(reactor, spec, transport, may_break_in=may_break_in, total=left).examine())


def search_seconds(baud: int | None) -> float:
    """Seconds that `find_rate` takes at the most, if it begins with ``baud``. Only a target that is found is left to
    run."""
    return _LEAVE_LIMIT + sum(short_total(10 / rate) + _LOOK_EVERY for rate in RateSearch(baud).left)


async def find_rate(
    reactor: Any, opener: Opener, spec: SerialSpec, tell: Callable[[str], None], *, may_break_in: bool = True
) -> int | None:
    """The rate at which the target on this port speaks KD, found by trying; None if it speaks at none.

    ``tell`` gets a line for each rate. KdsrvError if the port cannot be opened at the rate that was asked for.
    """
    search = RateSearch(spec.baud)
    while (rate := search.next()) is not None:
        try:
            transport = await opener.open(replace(spec, baud=rate))
        except KdsrvError as error:
            if len(search.tried) == 1:
                raise
            tell(f"{rate} baud: {error}")
            continue
        total = short_total(transport.byte_time)
        examiner = Examiner(reactor, spec, transport, may_break_in=may_break_in, total=total, limits=SHORT_LIMITS)
        facts = (await examiner.examine()).facts
        counters = facts.counters
        answered = counters.resets and examiner.examination.broke_in and not isinstance(trouble(facts), Echoing)
        if counters.packets_received or answered:
            tell(f"{rate} baud: the target speaks KD")
            return rate
        tell(f"{rate} baud: {f'{counters.bytes_received} bytes, no KD' if counters.bytes_received else 'silence'}")
        search.note(facts.sample)
    return None
