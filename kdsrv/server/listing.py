"""What a server tells of itself when it is asked: the JSON of a ``listing`` (docs/policy.md, "Listing").

A user sees the published targets that they may open and who holds them. Who is bound to no targets sees all sessions.
No kd-string of a published target is in a listing, and no secret of any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from kdsrv.auth.users import User
from kdsrv.kd.link import LinkCounters
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.status import RunState, Status
from kdsrv.sessions.tenant import Tenant
from kdsrv.wire.members import one_line
from kdsrv.wire.messages import Listing

__all__ = ["Listed", "ListedLink", "make_listing"]

_MAX_BYTES: Final = 60_000
"""Of JSON; a message has room for 65,536 bytes."""
_MAX_NAME: Final = 200
"""Characters of a text that somebody else has chosen."""


class ListedLink(Protocol):
    """What is told of a link."""

    @property
    def counters(self) -> LinkCounters: ...
    @property
    def noise(self) -> int: ...


class Listed(Protocol):
    """What is told of a session."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def lease(self) -> Lease: ...
    @property
    def link(self) -> ListedLink: ...
    @property
    def run_state(self) -> RunState: ...
    @property
    def status(self) -> Status: ...
    @property
    def read_only(self) -> bool: ...


def _nobody(_: Any) -> Tenant | None:
    return None


def make_listing(
    software: str,
    user: User,
    published: Mapping[str, str | None],
    sessions: Iterable[Listed],
    now: float,
    tenant_of: Callable[[Any], Tenant | None] = _nobody,
) -> Listing:
    """The listing for ``user``. ``published`` are the names of the targets that they may open, each with the key of the
    device behind it (None: not known); ``now`` is in seconds, as leases count them; ``tenant_of`` gives the tenant of a
    session, if it has one.

    What does not fit into a message is left out, and its number told.
    """
    sessions = tuple(sessions)
    names = {key: name for name, key in published.items() if key is not None}
    states = {session.lease.target: _state(tenant_of(session)) for session in sessions}
    bound = user.targets is not None
    room = _Room(_MAX_BYTES)
    entries: list[dict[str, object]] = [
        {"name": name, "state": states.get(key or "", "free")} for name, key in published.items()
    ]
    targets = [entry for entry in entries if room.takes(entry)]
    visible = [session for session in sessions if not bound or session.lease.target in names]
    told = [
        entry for session in visible if room.takes(entry := _session(session, tenant_of(session), names, now))
    ]
    server: dict[str, object] = {
        "software": one_line(software),
        "user": _short(user.name),
        "role": str(user.role),
        "left_out": room.left_out,
    }
    return Listing(server, targets, told)


class _Room:
    """What is left of a message."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.left_out = 0

    def takes(self, entry: dict[str, object]) -> bool:
        size = len(json.dumps(entry, ensure_ascii=False).encode()) + 1
        if size > self._left:
            self.left_out += 1
            return False
        self._left -= size
        return True


def _state(tenant: Tenant | None) -> str:
    return "watched" if tenant is not None and tenant.yields else "held"


def _session(session: Listed, tenant: Tenant | None, names: Mapping[str, str], now: float) -> dict[str, object]:
    lease, counters = session.lease, session.link.counters
    published = names.get(lease.target)
    return {
        "target": f"target:name={published}" if published is not None else _short(session.name),
        "description": None if published is not None else _short(session.description),
        "holder": _short(lease.holder),
        "address": _short(lease.address),
        "since": datetime.fromtimestamp(lease.since, UTC).isoformat(timespec="seconds"),
        "seconds": max(0, int(now - lease.since)),
        "absence": None if tenant is None else tenant.absence,
        "read_only": session.read_only,
        "run_state": str(session.run_state),
        "status": _short(session.status.sentence()),
        "counters": {
            "packets_received": counters.packets_received,
            "packets_sent": counters.packets_sent,
            "repeats_sent": counters.repeats_sent,
            "duplicates": counters.duplicates,
            "damaged": counters.damaged,
            "resets": counters.resets,
            "bytes_received": counters.bytes_received,
            "bytes_sent": counters.bytes_sent,
            "noise": session.link.noise,
        },
    }


def _short(text: str) -> str:
    return one_line(text[:_MAX_NAME])
