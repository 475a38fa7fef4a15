"""The server as the holder of a published target that no client has (``--watch NAME``; docs/reliability.md).

A target whose prints nobody acknowledges gives its debugger up, and what it says then is lost. The keeper acknowledges,
keeps what is printed and which modules come and go, and hands the session over to the first client that wants it, with
all that. When the client has gone it takes the target again.

A stop that only tells of a module is passed, a file that is asked for is not there. What to do about any other stop is
for the operator to say: hold it for a client, or continue.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv.alarm import Alarm
from kdsrv.client.conversation import Conversation
from kdsrv.client.events import Event, Stopped
from kdsrv.client.target import Target
from kdsrv.connection_strings import TargetSpec
from kdsrv.errors import KdsrvError, TargetHeld
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.sessions.decoded import seen_from_target
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.outbox import Outbox, is_print
from kdsrv.sessions.read_only import pass_module
from kdsrv.sessions.session import Session
from kdsrv.sessions.status import HaltReason, Status
from kdsrv.sessions.tenant import Applicant, TargetTaken

__all__ = ["Keeper", "StopPolicy"]

_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0
_LONG: Final = 10.0
"""Seconds after which a line has been one: the next wait is a short one again."""
_STOPS: Final = frozenset({PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32})
_OWN_STOPS: Final = frozenset({HaltReason.BREAKPOINT, HaltReason.SINGLE_STEP, HaltReason.COMMAND})
"""What a debugger answers by going on; any other exception is the target's to handle."""


_STORM: Final = 20
_STORM_TIME: Final = 10.0
"""More stops than that in so many seconds, and the target is no longer continued."""


class StopPolicy(StrEnum):
    """What becomes of a stop that nobody asked for. HOLD: the target waits for a client. CONTINUE: it goes on."""

    HOLD = "hold"
    CONTINUE = "continue"


class Keeper(Service):
    """Holds the published target ``name`` whenever nobody else does. A SessionUser and a Tenant."""

    _log = Logger()
    absence = None
    yields = True

    def __init__(self, reactor: Any, directory: Directory, name: str, stops: StopPolicy = StopPolicy.HOLD) -> None:
        self._reactor = reactor
        self._directory = directory
        self._name = name
        self._stops = stops
        self._session: Session | None = None
        self._opening: Deferred[Session] | None = None
        self._outbox = Outbox()
        self._again = Alarm(reactor, self._open)
        self._wait = _FIRST_WAIT
        self._opened_at = 0.0
        self._told = ""
        self._debugger: Conversation | None = None
        self._target: Target | None = None
        self._continues: list[float] = []

    @override
    def startService(self) -> None:
        super().startService()
        self._directory.freed.append(self._freed)
        self._open()

    @override
    def stopService(self) -> None:
        super().stopService()
        self._directory.freed.remove(self._freed)
        self._again.stop()
        self._give_way()
        session = self._let_go(None)
        if session is not None:
            self._directory.close(session)

    # Having the target

    def _freed(self, _: str) -> None:
        """Some target is free: perhaps ours. Whoever waits for it has it before us."""
        if self._session is None and self._opening is None:
            self._again.set(self._reactor.seconds())

    def _open(self) -> None:
        self._opening = self._directory.open(
            TargetSpec(self._name), self.applicant.holder, self.applicant.address, user=None, give_way=self._give_way
        )
        self._opening.addCallbacks(self._opened, self._not_opened)

    def _give_way(self) -> None:
        """Open it no longer: somebody else wants the target."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()

    def _opened(self, session: Session) -> None:
        self._opening = None
        self._session = session
        self._opened_at = self._reactor.seconds()
        self._tell(f"watches {self._name} until a client comes")
        self._debugger = Conversation(self._reactor, session, session.status)
        self._debugger.listen(self._on_event)
        self._target = Target(
            self._debugger,
            self._name,
            session.description,
            lambda: succeed(None),
            continue_modules=True,
            continue_reboots=True,
        )
        self._directory.start(session, self, self)

    def _not_opened(self, failure: Failure) -> None:
        if self._opening is None:
            return
        self._opening = None
        error = failure.value
        if not isinstance(error, KdsrvError):
            self._log.failure("opening {name}", failure, name=self._name)
        elif not isinstance(error, TargetHeld):
            self._tell(f"cannot watch {self._name}: {error}")
        self._open_later()

    def _open_later(self) -> None:
        self._again.set(self._reactor.seconds() + self._wait)
        self._wait = min(self._wait * 2, _LONGEST_WAIT)

    def _tell(self, text: str) -> None:
        """Log it, unless it was the last thing that was logged."""
        if text != self._told:
            self._told = text
            self._log.info("{text}", text=text)

    # As the tenant

    @property
    def applicant(self) -> Applicant:
        return Applicant(f"the server itself (--watch {self._name})", "this host")

    def asked(self, text: str) -> bool:
        """Never asked: whoever wants the session has it."""
        return False

    def told(self, text: str) -> None:
        """Never asked, so nobody gives up."""

    def taken(self, reason: TargetTaken) -> Sequence[Packet]:
        self._let_go(reason)
        self._tell(str(reason))
        return self._outbox.take_prints()

    # As the session's user

    def packet_received(self, packet: Packet) -> None:
        if is_print(packet):
            self._outbox.put(packet)
            return
        if packet.type in _STOPS and pass_module(packet) is not None:
            text = f"[kdsrv: {seen_from_target(packet).text}]\n".encode("cp1252", "replace")
            self._outbox.put(Packet(PacketType.DEBUG_IO, DebugIo.print_string(text).encode()))
        if self._debugger is not None:
            self._debugger.packet_received(packet)

    def resynced(self) -> None:
        """Nothing to do: what is asked is asked by the debugger below, which knows."""

    def requests_lost(self, count: int) -> None:
        if self._debugger is not None:
            self._debugger.requests_lost(count)

    def status_changed(self, status: Status) -> None:
        if self._debugger is not None:
            self._debugger.status_changed(status)

    def session_lost(self, reason: KdsrvError) -> None:
        session = self._let_go(reason)
        self._tell(f"{self._name}: {reason}")
        if session is not None:
            self._directory.close(session)
            if self._reactor.seconds() >= self._opened_at + _LONG:
                self._wait = _FIRST_WAIT
            if self.running:
                self._open_later()

    def _let_go(self, reason: KdsrvError | None) -> Session | None:
        debugger, self._debugger = self._debugger, None
        if debugger is not None:
            debugger.end(reason)
        session, self._session = self._session, None
        return session

    # As the debugger of a target that stops

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, Stopped):
            return
        self._tell(f"{self._name} {event.stop}")
        if self._stops is StopPolicy.CONTINUE and self._target is not None:
            now = self._reactor.seconds()
            self._continues = [at for at in self._continues if at > now - _STORM_TIME] + [now]
            if len(self._continues) > _STORM:
                self._tell(f"{self._name} stops again and again: it is held now, for a client to look at")
                return
            handled = event.stop.reason in _OWN_STOPS
            verdict = NtStatus.DBG_CONTINUE if handled else NtStatus.DBG_EXCEPTION_NOT_HANDLED
            going = Deferred.fromCoroutine(self._target.continue_(verdict))
            going.addErrback(lambda failure: failure.trap(KdsrvError))
