"""A session that outlives its connections.

    state     becomes   when
    closed    present   the server gives the target; what goes wrong before that is for whoever opens it
    present   absent    the connection is lost; or the server ends the session, if that is endured as well
    absent    present   the server goes on with the session; or it has none any more, and gives a new one
    any       over      we leave; somebody else has taken the target; we are not let in any more; or what is not
                        endured: the server has ended the session, or was away for longer than it waits

While it is absent, what the user asks for waits in order, and the user hears nothing but why. When it is present again
everything arrives that was on its way, in both directions, once and in its order. If it is a new session that was
given, what was under way is lost, which the user is told.

A new session finds the target as it was, but knows of no break-in that the old one was asked for. One that no stop came
of is therefore sent again, after a moment in which a target that is halted has said so.
"""

from __future__ import annotations

import random as chance
from collections.abc import Callable
from enum import Enum
from typing import Final

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kdsrv.alarm import Alarm
from kdsrv.auth.scram import LoginRefused
from kdsrv.backoff import Backoff
from kdsrv.client.backlog import Backlog
from kdsrv.client.breaks import Broken, News, Renewed, Resumed, absence
from kdsrv.client.connecting import Route
from kdsrv.client.failures import ServerRefused
from kdsrv.client.protocol import ClientProtocol
from kdsrv.client.terms import PLAIN, Rhythm, Terms, Thread
from kdsrv.errors import KdsrvError, PeerError, SetupError
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.status import RunState, Status
from kdsrv.sessions.tenant import TargetGiven, TargetTaken
from kdsrv.sessions.uplink import SessionUser
from kdsrv.tls.contexts import CertificateRefused
from kdsrv.wire.frames import BreakIn, Resync
from kdsrv.wire.messages import Attached

__all__ = ["WATCHFUL", "Endurance", "LastingSession"]

WATCHFUL: Final = Rhythm(ping=8.0, silence=15.0)
"""A connection that has died without a sign is soon replaced."""

_AT_ONCE: Final = 0.05
"""Seconds until the first try, if the connection has been of use: something came by it, or it stood for a second."""
_OF_USE: Final = 1.0
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 15.0
_LONGEST_WAIT_TO_RESUME: Final = 5.0
"""The server does not wait for ever."""
_LONG: Final = 10.0
"""Seconds after which a connection has been one: the next wait is a short one again."""
_SETTLING: Final = 1.0
"""Seconds in which a target that is halted has said so."""

_UNKNOWN: Final = "unknown-session"
_FINAL: Final = frozenset({LoginRefused.code, CertificateRefused.code, TargetTaken.code, TargetGiven.code})
_PASSING: Final = frozenset({"login-later", SetupError.code})
"""What a server says that has no room or is about to end, whatever it is asked for."""
_STOPS: Final = frozenset({PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32})


class Endurance(Enum):
    """What a session outlives. NOTHING: it ends with its connection. BREAKS: the network breaks, for no longer than the
    server waits. EVERYTHING: the server may also end the session, or be away for as long as it likes."""

    NOTHING = "nothing"
    BREAKS = "breaks"
    EVERYTHING = "everything"


class LastingSession:
    """A session at the end of ``route``: an Uplink for ``user``, which has to be set before ``open`` fires.

    ``tell`` is called with what happens to the connection. ``prints_dropped`` is that of ``ClientProtocol``, None for
    what it does by itself. ``random`` gives a float from 0 to below 1.
    """

    _log = Logger()

    def __init__(
        self,
        route: Route,
        terms: Terms = PLAIN,
        endurance: Endurance = Endurance.BREAKS,
        *,
        tell: Callable[[News], None] | None = None,
        rhythm: Rhythm = WATCHFUL,
        random: Callable[[], float] = chance.random,
    ) -> None:
        self.user: SessionUser | None = None
        self.prints_dropped: Callable[[int], None] | None = None
        self._route = route
        self._clock = route.clock
        self._terms = terms._replace(resumable=endurance is not Endurance.NOTHING)
        self._endurance = endurance
        self._tell = tell
        self._rhythm = rhythm
        self._backoff = Backoff(random, _FIRST_WAIT, _LONGEST_WAIT)
        self._backlog = Backlog()
        self._protocol: ClientProtocol | None = None
        self._coming: Deferred[None] | None = None
        self._is_over = False
        self._instance = ""
        self._linger = 0.0
        self._present_at = self._absent_at = 0.0
        self._received = 0
        self._unanswered = 0
        self._run_state = RunState.UNKNOWN
        self._absence: Status | None = None
        self._breaking_in = False
        self._break_in_again = Alarm(self._clock, self._repeat_break_in)

    def open(self) -> Deferred[Attached]:
        """Ask for the target. Fails as ``Route.attach`` does, and does not try again."""
        opening = self._route.attach(self._terms, backlog=self._backlog, rhythm=self._rhythm)
        return opening.addCallback(self._opened)

    def leave(self, reason: str = "the client leaves") -> Deferred[None]:
        """End the session; fires when the connection is gone. Nothing more goes to ``user``.

        A server that is away cannot be told: it waits for its time.
        """
        self._over()
        self.user = None
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            return succeed(None)
        protocol.leave(reason)
        return protocol.disconnected

    # Uplink

    def send_packet(self, packet_type: int, payload: bytes) -> None:
        if self._protocol is not None:
            self._protocol.send_packet(packet_type, payload)
        elif not self._is_over:
            self._backlog.put(Packet(packet_type, payload))

    def break_in(self) -> None:
        self._breaking_in = True
        if self._protocol is not None:
            self._protocol.break_in()
        elif not (self._is_over or self._backlog.ends_with(BreakIn)):
            self._backlog.put(BreakIn())

    def resync(self) -> None:
        if self._protocol is not None:
            self._protocol.resync()
        elif self._backlog.has(Resync):
            # a debugger that goes on resetting its link for as long as the server is away: one is enough
            self._backlog.drop_requests()
            self.resynced()
        elif not self._is_over:
            self._backlog.put(Resync())

    # What the connection brings

    def packet_received(self, packet: Packet) -> None:
        if self._breaking_in and packet.type in _STOPS:
            self._breaking_in = False
        if self.user is not None:
            self.user.packet_received(packet)

    def resynced(self) -> None:
        if self.user is not None:
            self.user.resynced()

    def requests_lost(self, count: int) -> None:
        if self.user is not None:
            self.user.requests_lost(count)

    def status_changed(self, status: Status) -> None:
        self._run_state = status.run_state
        if self.user is not None:
            self.user.status_changed(status)

    def session_lost(self, reason: KdsrvError) -> None:
        protocol, self._protocol = self._protocol, None
        assert protocol is not None
        self._break_in_again.stop()
        self._unanswered = protocol.unanswered
        thread = None if isinstance(reason, ServerRefused | PeerError) else protocol.thread
        if self._endurance is Endurance.NOTHING or reason.code in _FINAL or not (thread or self._reopens):
            self._end(reason)
            return
        self._absent_at = self._clock.seconds()
        if thread is None:
            self._run_state = RunState.UNKNOWN
        self._say(Broken(reason, absence(reason, self._run_state)))
        self._stay_away(reason)
        coming = Deferred.fromCoroutine(self._come_back(thread, self._first_wait(thread)))
        if not self._reopens:
            coming.addTimeout(self._linger, self._clock)
        self._coming = coming
        coming.addErrback(self._not_back, reason)

    # Coming back

    def _first_wait(self, thread: Thread | None) -> float:
        """Seconds to wait after this connection: none to speak of if it was of use."""
        stood = self._absent_at - self._present_at
        came = 0 if thread is None else thread.ledger.received - self._received
        if thread is not None and (came or stood >= _OF_USE):
            self._received += came
            self._backoff.reset()
            return _AT_ONCE
        if stood >= _LONG:
            self._backoff.reset()
        return self._next_wait(thread)

    def _next_wait(self, thread: Thread | None) -> float:
        """Seconds to wait after one more failure."""
        return min(self._backoff.next(), _LONGEST_WAIT if thread is None else _LONGEST_WAIT_TO_RESUME)

    @property
    def _reopens(self) -> bool:
        return self._endurance is Endurance.EVERYTHING

    async def _come_back(self, thread: Thread | None, wait: float) -> None:
        """Try until there is a session again. Raises the error that makes it hopeless."""
        # to take it from somebody, or to ask them, was for the first time
        terms = self._terms._replace(take=None)
        why = "the target is there again"
        while True:
            await deferLater(self._clock, wait)
            try:
                protocol, attached = await self._route.attach(
                    terms, thread=thread, backlog=self._backlog, rhythm=self._rhythm
                )
            except KdsrvError as error:
                if thread is not None and error.code == _UNKNOWN:
                    why, thread, wait = self._why_unknown(error), None, 0.0
                    self._run_state = RunState.UNKNOWN
                    continue
                if _is_answer(error):
                    if error.code in _FINAL or not self._reopens:
                        raise
                    thread = None
                    self._run_state = RunState.UNKNOWN
                self._stay_away(error)
                wait = self._next_wait(thread)
                continue
            self._coming = None
            if thread is None:
                self._renewed(protocol, attached, why)
            else:
                self._present(protocol, attached)
                self._say(Resumed(self._present_at - self._absent_at))
            return

    def _opened(self, found: tuple[ClientProtocol, Attached]) -> Attached:
        protocol, attached = found
        self._present(protocol, attached)
        self._run_state = attached.status.run_state
        return attached

    def _present(self, protocol: ClientProtocol, attached: Attached) -> None:
        protocol.user = self
        if self.prints_dropped is not None:
            protocol.prints_dropped = self.prints_dropped
        self._protocol = protocol
        self._instance = self._route.instance
        self._linger = attached.linger
        self._absence = None
        self._present_at = self._clock.seconds()

    def _renewed(self, protocol: ClientProtocol, attached: Attached, why: str) -> None:
        """Another session is in the place of the one that was lost."""
        lost = self._unanswered + self._backlog.unanswered
        self._backlog.take_all()
        if self._route.instance != self._instance:
            why = "the server was restarted"
        as_it_was = "" if self._terms.on_leave is OnLeave.CONTINUE else ", the target is as it was"
        self._received = 0
        self._present(protocol, attached)
        self._say(Renewed(attached, f"{why}: a new session{as_it_was}"))
        if lost:
            self.requests_lost(lost)
        self.status_changed(attached.status)
        if self._breaking_in:
            self._break_in_again.set(self._present_at + _SETTLING)

    def _repeat_break_in(self) -> None:
        if self._breaking_in and self._protocol is not None:
            self._protocol.break_in()

    def _why_unknown(self, error: KdsrvError) -> str:
        """Why a server that was not restarted does not know the session any more, half a sentence."""
        if self._clock.seconds() - self._absent_at >= self._linger:
            return f"the server did not wait longer than {self._linger:.0f} s"
        return str(error.facts["message"])

    def _stay_away(self, reason: KdsrvError) -> None:
        status = absence(reason, self._run_state)
        if self.user is not None and status != self._absence:
            self.user.status_changed(status)
        self._absence = status

    # The end

    def _not_back(self, failure: Failure, lost: KdsrvError) -> None:
        if self._is_over:
            return
        error = failure.value
        if failure.check(TimeoutError):
            error = lost
        elif not isinstance(error, KdsrvError):
            self._log.failure("connecting again failed", failure)
            error = SetupError(why=f"an error inside kdsrv; please report it: {failure.getErrorMessage()}")
        self._end(error)

    def _end(self, reason: KdsrvError) -> None:
        self._over()
        user, self.user = self.user, None
        if user is not None:
            user.session_lost(reason)

    def _over(self) -> None:
        self._is_over = True
        self._break_in_again.stop()
        self._backlog.take_all()
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()

    def _say(self, news: News) -> None:
        if self._tell is not None:
            self._tell(news)


def _is_answer(error: KdsrvError) -> bool:
    """Whether a server has said no, and will again."""
    if error.code in _FINAL or isinstance(error, PeerError):
        return True
    return isinstance(error, ServerRefused) and error.code not in _PASSING
