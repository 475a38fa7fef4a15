"""All targets of a server that somebody holds, and the only way to get one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from kdsrv.auth.users import ANYBODY, Role, User
from kdsrv.connection_strings import KdSpec, TargetSpec
from kdsrv.errors import KdsrvError, SetupError, TargetHeld
from kdsrv.link_driver import HeldAcks
from kdsrv.policy.places import HostPlaces
from kdsrv.policy.policy import Policy
from kdsrv.sessions.lease import Lease, LeaseBook
from kdsrv.sessions.read_only_session import ReadOnlySession
from kdsrv.sessions.session import Session
from kdsrv.transports.links import link_for
from kdsrv.transports.opener import Opener, target_key

__all__ = ["Directory"]

def _local_time(since: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))


class Directory:
    """Opens sessions, one per target at a time.

    ``environ`` fills in what a kd-string leaves out (connection strings, 2.9); ``wall_clock`` gives seconds since 1970,
    for telling people since when a target is held. ``policy`` says who may open what; the default is that of a server
    that was told nothing.
    """

    def __init__(
        self,
        reactor: Any,
        opener: Opener,
        environ: Mapping[str, str],
        wall_clock: Callable[[], float] = time.time,
        policy: Policy | None = None,
    ) -> None:
        self._reactor = reactor
        self._opener = opener
        self._environ = environ
        self._policy = Policy(HostPlaces()) if policy is None else policy
        self.wall_clock = wall_clock
        self._leases = LeaseBook(_local_time)
        self._sessions: dict[Lease, Session] = {}
        self._leaving: dict[str, list[Deferred[None]]] = {}
        self.acks = HeldAcks(reactor)

    def __iter__(self) -> Iterator[Session]:
        """The sessions that are open now."""
        return iter(tuple(self._sessions.values()))

    def open(self, spec: KdSpec | None, holder: str, address: str, user: User | None = ANYBODY) -> Deferred[Session]:
        """A session on the target, for ``holder`` at ``address`` (both as people read them).

        ``user`` says what they may do; None: who runs the server, and may do everything. Fails with NotAllowed,
        TargetHeld, another TargetError or a SetupError, all sentences. Cancelling gives the target up.
        """
        return Deferred.fromCoroutine(self._open(spec, holder, address, user))

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
        self._leaving.setdefault(session.lease.target, [])
        session.leave(lambda: self._gone(session))

    def close_all(self) -> Deferred[None]:
        """The server ends; fires when every line is closed, a second later at the most."""
        for session in self:
            if session.lease.target not in self._leaving:
                user = session.user
                self.close(session)
                if user is not None:
                    user.session_lost(SetupError(why="the server is shutting down"))
        return Deferred.fromCoroutine(self._all_gone())

    def _gone(self, session: Session) -> None:
        self._sessions.pop(session.lease, None)
        self._leases.release(session.lease)
        for waiting in self._leaving.pop(session.lease.target, []):
            waiting.callback(None)

    async def _all_gone(self) -> None:
        for target in tuple(self._leaving):
            await self._when_gone(target)

    async def _when_gone(self, target: str) -> None:
        """Wait for the session that is leaving ``target``, if one is."""
        while target in self._leaving:
            gone: Deferred[None] = Deferred()
            self._leaving[target].append(gone)
            await gone

    async def _open(self, wanted: KdSpec | None, holder: str, address: str, user: User | None) -> Session:
        spec, name = self._policy.permit(wanted, user, self._environ)
        key = target_key(spec)
        await self._when_gone(key)
        try:
            lease = self._leases.take(key, holder, address, self.wall_clock())
        except TargetHeld as held:
            raise TargetHeld(**{**held.facts, "target": name}) from None
        try:
            transport = await self._opener.open(spec)
        except BaseException:
            self._leases.release(lease)
            raise
        link = link_for(spec, transport)
        kind = ReadOnlySession if user is not None and user.role is Role.READ_ONLY else Session
        session = kind(self._reactor, name, transport, link, lease, acks=self.acks)
        self._sessions[lease] = session
        return session
