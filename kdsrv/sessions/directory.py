"""All targets of a server that somebody holds, and the only way to get one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred

from kdsrv.auth.users import ANYBODY, Role, User
from kdsrv.connection_strings import KdSpec, TargetSpec
from kdsrv.errors import KdsrvError, SetupError, TargetError, TargetHeld
from kdsrv.kd.packets import Packet
from kdsrv.link_driver import HeldAcks
from kdsrv.policy.places import HostPlaces
from kdsrv.policy.policy import NotAllowed, Permit, Policy
from kdsrv.sessions.applications import Applications, NotGiven
from kdsrv.sessions.lease import Lease, LeaseBook
from kdsrv.sessions.read_only_session import ReadOnlySession
from kdsrv.sessions.session import Session
from kdsrv.sessions.tenant import Applicant, Take, TargetGiven, TargetTaken, Tenant
from kdsrv.sessions.uplink import SessionUser
from kdsrv.transports.links import link_for
from kdsrv.transports.opener import Opener, target_key

__all__ = ["MAX_SESSIONS", "Directory"]

MAX_SESSIONS: Final = 1024


def _local_time(since: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))


class TargetAway(TargetError):
    """{target} is held by {holder} from {address} since {since}: {absence}; to have it now, ask for it (--take ask)"""

    code = "held"


class TargetInUse(TargetHeld):
    """{target} is held by {holder} from {address} since {since}; it is free again when they leave; to ask them for it
    now: --take ask"""


class TooManySessions(SetupError):
    """this server has {number} sessions open, which is all that it may have: one has to end first"""


class NobodyAsks(SetupError):
    """nobody asks for {target}: it stays with you"""


class Directory:
    """Opens sessions, one per target at a time.

    ``environ`` fills in what a kd-string leaves out (connection strings, 2.9); ``wall_clock`` gives seconds since 1970,
    for telling people since when a target is held. ``policy`` says who may open what; the default is that of a server
    that was told nothing. What is in ``opened`` is called with each session that is opened, before it starts; what is
    in ``freed`` with the key of each target that nobody holds any more. ``max_sessions`` may be open at a time.
    """

    def __init__(
        self,
        reactor: Any,
        opener: Opener,
        environ: Mapping[str, str],
        wall_clock: Callable[[], float] = time.time,
        policy: Policy | None = None,
        max_sessions: int = MAX_SESSIONS,
    ) -> None:
        self.opened: list[Callable[[Session], None]] = []
        self.freed: list[Callable[[str], None]] = []
        self._reactor = reactor
        self._opener = opener
        self._environ = environ
        self._policy = Policy(HostPlaces()) if policy is None else policy
        self.wall_clock = wall_clock
        self._leases = LeaseBook(_local_time)
        self._sessions: dict[str, Session] = {}
        self._tenants: dict[Session, Tenant] = {}
        self._unread: dict[Session, Sequence[Packet]] = {}
        self._giving_way: dict[str, Callable[[], None]] = {}
        self._applications = Applications(reactor)
        self._max_sessions = max_sessions
        self._leaving: dict[str, list[Deferred[None]]] = {}
        self.acks = HeldAcks(reactor)

    def __iter__(self) -> Iterator[Session]:
        """The sessions that are open now."""
        return iter(tuple(self._sessions.values()))

    def open(
        self,
        spec: KdSpec | None,
        holder: str,
        address: str,
        user: User | None = ANYBODY,
        *,
        host: str | None = None,
        take: Take | None = None,
        tell: Callable[[str], None] | None = None,
        give_way: Callable[[], None] | None = None,
    ) -> Deferred[Session]:
        """A session on the target, for ``holder`` at ``address`` (both as people read them), to be started by the
        caller with ``start``. It may be one that somebody had before: then it is handed over by that.

        ``user`` says what they may do; None: who runs the server, and may do everything. ``host`` tells them from
        others of that name, ``take`` says what to do about who has the target, ``tell`` is called with what comes of
        that. ``give_way`` is called if somebody else wants the target before it is open, and cancels.
        Fails with NotAllowed, TargetHeld, another TargetError or a SetupError, all sentences. Cancelling gives up.
        """
        applicant = Applicant(holder, address, host, user, take)
        return Deferred.fromCoroutine(self._open(spec, applicant, tell or _unheard, give_way))

    def start(self, session: Session, tenant: Tenant, user: SessionUser) -> None:
        """Begin on behalf of ``tenant``, who can be asked for the session, and uses it by ``user``. What a former
        tenant has left unread comes first."""
        self._tenants[session] = tenant
        for packet in self._unread.pop(session, ()):
            user.packet_received(packet)
        session.start(user)
        for applicant in self._applications.pass_on(session.lease.target, session.lease.holder):
            tenant.asked(self._application(applicant, session.name))

    def tenant_of(self, session: Session) -> Tenant | None:
        """Who has a session, if they have said so."""
        return self._tenants.get(session)

    def permit(self, spec: KdSpec | None, user: User | None) -> Permit:
        """What would be opened for a user who asks for this, and what it is called. NotAllowed is a sentence."""
        return self._policy.permit(spec, user, self._environ)

    def release(self, spec: KdSpec | None, user: User, host: str | None) -> tuple[str, str]:
        """The holder gives the target to who has asked for it first: its name, and who that is.

        The holder is known by their login, or where nobody logs in by the host. A sentence for anybody else.
        """
        permit = self.permit(spec, user)
        session = self._sessions.get(target_key(permit.spec))
        tenant = None if session is None else self._tenants.get(session)
        if session is None or tenant is None:
            raise SetupError(why=f"nobody holds {permit.name} who could give it away")
        held = tenant.applicant
        by_name = held.user is not None and bool(held.user.name or user.name)
        if (held.user != user) if by_name else (held.host != host):
            raise NotAllowed(target=permit.name, why=f"it is held by {held.holder} from {held.address}")
        applicant = self._applications.give(session.lease.target)
        if applicant is None:
            raise NobodyAsks(target=permit.name)
        return permit.name, applicant.holder

    def published(self, user: User) -> dict[str, str | None]:
        """The published targets that a user may open, each with the key of the device behind it, if that is known."""
        keys: dict[str, str | None] = {}
        for name in self._policy.names(user):
            try:
                keys[name] = target_key(self._policy.permit(TargetSpec(name), user, self._environ).spec)
            except KdsrvError:
                keys[name] = None
        return keys

    def close(self, session: Session) -> None:
        """The holder has left: the target stays as it is, and is free for the next as soon as its line is quiet."""
        key = session.lease.target
        if self._sessions.get(key) is not session or key in self._leaving:
            return
        self._tenants.pop(session, None)
        self._unread.pop(session, None)
        self._leaving[key] = []
        session.leave(lambda: self._gone(session))

    def close_all(self) -> Deferred[None]:
        """The server ends; fires when every line is closed, a few seconds later at the most."""
        for session in self:
            if session.lease.target not in self._leaving:
                user = session.user
                self.close(session)
                if user is not None:
                    user.session_lost(SetupError(why="the server is shutting down"))
        return Deferred.fromCoroutine(self._all_gone())

    def _gone(self, session: Session) -> None:
        key = session.lease.target
        del self._sessions[key]
        waiting = self._leaving.pop(key)
        self._leases.release(session.lease)
        for one in waiting:
            one.callback(None)
        self._free(key)

    def _free(self, key: str) -> None:
        """Nobody holds a target any more, unless somebody has been waiting for that."""
        if not self._leases.is_held(key):
            self._applications.give(key)
        for freed in tuple(self.freed):
            freed(key)

    async def _all_gone(self) -> None:
        for target in tuple(self._leaving):
            await self._when_gone(target)

    async def _when_gone(self, target: str) -> None:
        """Wait for the session that is leaving ``target``, if one is."""
        while target in self._leaving:
            gone: Deferred[None] = Deferred()
            self._leaving[target].append(gone)
            await gone

    async def _open(
        self,
        wanted: KdSpec | None,
        applicant: Applicant,
        tell: Callable[[str], None],
        give_way: Callable[[], None] | None,
    ) -> Session:
        spec, name = self._policy.permit(wanted, applicant.user, self._environ)
        key = target_key(spec)
        unread: Sequence[Packet] = ()
        while True:
            await self._when_gone(key)
            try:
                lease = self._leases.take(key, applicant.holder, applicant.address, self.wall_clock())
            except TargetHeld as held:
                refusal = TargetHeld(**{**held.facts, "target": name})
            else:
                if len(self._leases) > self._max_sessions:
                    self._leases.release(lease)
                    raise TooManySessions(number=self._max_sessions)
                if give_way is not None:
                    self._giving_way[key] = give_way
                session = await self._open_line(spec, name, lease, applicant)
                self._unread[session] = unread
                return session
            held_by = self._sessions.get(key)
            if held_by is None:
                make_way = self._giving_way.pop(key, None)
                if make_way is None:
                    raise refusal
                make_way()
                continue
            is_given = await self._make_way(held_by, applicant, refusal, tell)
            if self._sessions.get(key) is not held_by or key in self._leaving:
                continue
            is_handed, unread = self._hand_over(held_by, applicant, is_given=is_given)
            if is_handed:
                self._unread[held_by] = unread
                held_by.name = name  # each is told the name that they know it by
                return held_by

    async def _open_line(self, spec: KdSpec, name: str, lease: Lease, applicant: Applicant) -> Session:
        try:
            transport = await self._opener.open(spec)
        except BaseException:
            self._giving_way.pop(lease.target, None)
            self._leases.release(lease)
            self._free(lease.target)
            raise
        self._giving_way.pop(lease.target, None)
        kind = _kind_for(applicant)
        session = kind(self._reactor, name, transport, link_for(spec, transport), lease, acks=self.acks)
        self._sessions[lease.target] = session
        try:
            for opened in self.opened:
                opened(session)
        except BaseException:
            self.close(session)
            raise
        return session

    async def _make_way(
        self, session: Session, applicant: Applicant, refusal: TargetHeld, tell: Callable[[str], None]
    ) -> bool:
        """Returns when the applicant may have a session that somebody else has, or that has ended; else a sentence.
        Whether its holder gives it away."""
        tenant = self._tenants.get(session)
        absence = None if tenant is None else tenant.absence
        if tenant is not None:
            if tenant.yields:
                return False
            if absence is not None and _is_next(applicant, tenant.applicant):
                return False
        if applicant.take is Take.FORCE:
            if applicant.may_force:
                return False
            raise NotAllowed(
                target=refusal.facts["target"], why="to take it by force a user needs the role full, and all targets"
            )
        if tenant is None:
            raise refusal
        if applicant.take is None:
            raise TargetInUse(**refusal.facts) if absence is None else TargetAway(**refusal.facts, absence=absence)
        name, holder = str(refusal.facts["target"]), session.lease.holder
        asking = self._applications.ask(session.lease.target, applicant, name, holder)
        if tenant.asked(self._application(applicant, name)):
            tell(f"{holder} has been asked for {name}, and has {self._applications.limit:.0f} s to answer")
        else:
            tell(f"the client of {holder} shows no messages: have them type kdsrv release for {name}")
        try:
            await asking
        except (NotGiven, CancelledError):
            if (asked := self._tenants.get(session)) is not None:
                asked.told(f"{_who(applicant)} has given up asking for {name}: it stays with you")
            raise
        return True

    def _application(self, applicant: Applicant, name: str) -> str:
        limit = f"{self._applications.limit:.0f} s"
        return f"{_who(applicant)} asks for {name}: kdsrv release gives it away, and after {limit} it stays with you"

    def _hand_over(self, session: Session, applicant: Applicant, *, is_given: bool) -> tuple[bool, Sequence[Packet]]:
        """Whether the session is its new user's now, or has to be closed and opened anew; and what is unread."""
        tenant = self._tenants.pop(session, None)
        kind = TargetGiven if is_given else TargetTaken
        reason = kind(target=session.name, holder=applicant.holder, address=applicant.address)
        if tenant is None or type(session) is not _kind_for(applicant):
            user = session.user
            self.close(session)
            if tenant is not None:
                return False, tenant.taken(reason)
            if user is not None:
                user.session_lost(reason)
            return False, ()
        session.lease = self._leases.pass_on(session.lease, applicant.holder, applicant.address, self.wall_clock())
        return True, tenant.taken(reason)


def _kind_for(applicant: Applicant) -> type[Session]:
    looks_only = applicant.user is not None and applicant.user.role is Role.READ_ONLY
    return ReadOnlySession if looks_only else Session


def _is_next(applicant: Applicant, absent: Applicant) -> bool:
    """Whether an applicant may have what is kept for somebody who is absent: the same one anew, or whoever asks for it,
    but for one who may only look and would make the session of another end."""
    if applicant.take is None:
        return absent.is_same(applicant)
    return _kind_for(applicant) is Session or _kind_for(absent) is not Session


def _who(applicant: Applicant) -> str:
    return f"{applicant.holder} from {applicant.address}"


def _unheard(_: str) -> None:
    """Nobody wants to know."""
