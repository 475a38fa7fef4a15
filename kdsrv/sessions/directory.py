"""All targets of a server that somebody holds, and the only way to get one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from kdsrv.connection_strings import KdSpec, PipeSpec, fill_in
from kdsrv.link_driver import ACK_DELAY
from kdsrv.sessions.lease import Lease, LeaseBook
from kdsrv.sessions.session import Session
from kdsrv.transports.opener import Opener, target_key

__all__ = ["Directory"]

_DEFAULT_RESETS = 3


def _local_time(since: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))


class Directory:
    """Opens sessions, one per target at a time.

    ``environ`` fills in what a kd-string leaves out (connection strings, 2.9); ``wall_clock`` gives seconds since 1970,
    for telling people since when a target is held.
    """

    def __init__(
        self,
        reactor: Any,
        opener: Opener,
        environ: Mapping[str, str],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._opener = opener
        self._environ = environ
        self._wall_clock = wall_clock
        self._leases = LeaseBook(_local_time)
        self._sessions: dict[Lease, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        """The sessions that are open now."""
        return iter(tuple(self._sessions.values()))

    def open(self, spec: KdSpec | None, holder: str, address: str) -> Deferred[Session]:
        """A session on the target, for ``holder`` at ``address`` (both as people read them).

        Fails with TargetHeld, another TargetError or a SetupError, all sentences. Cancelling gives the target up.
        """
        return Deferred.fromCoroutine(self._open(spec, holder, address))

    def close(self, session: Session) -> None:
        """The holder has left: the target stays as it is and is free for the next."""
        session.close()
        self._sessions.pop(session.lease, None)
        self._leases.release(session.lease)

    def close_all(self) -> None:
        """The server ends."""
        for session in self:
            self.close(session)

    async def _open(self, wanted: KdSpec | None, holder: str, address: str) -> Session:
        spec = fill_in(wanted, self._environ)
        lease = self._leases.take(target_key(spec), holder, address, self._wall_clock())
        try:
            transport = await self._opener.open(spec)
        except BaseException:
            self._leases.release(lease)
            raise
        resets = spec.resets if isinstance(spec, PipeSpec) and spec.resets is not None else _DEFAULT_RESETS
        session = Session(self._reactor, str(spec), transport, lease, max_resets=resets, ack_delay=ACK_DELAY)
        self._sessions[lease] = session
        return session
