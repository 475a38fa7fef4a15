"""Who holds which target: one holder at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kdsrv.errors import TargetHeld

__all__ = ["Lease", "LeaseBook"]


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """One hold on one target. ``target`` is its key, ``since`` in seconds as the caller's clock counts them.

    Two leases are never equal, so that a late release cannot end the lease of a successor.
    """

    target: str
    holder: str
    address: str
    since: float


class LeaseBook:
    """All leases of a server. ``show_time`` turns a lease's ``since`` into the text that a refused client reads."""

    def __init__(self, show_time: Callable[[float], str]) -> None:
        self._show_time = show_time
        self._leases: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        """The leases that are held, oldest first."""
        return iter(tuple(self._leases.values()))

    def take(self, target: str, holder: str, address: str, now: float) -> Lease:
        """Give ``target`` to ``holder``. TargetHeld, which says by whom, if it is not free."""
        held = self._leases.get(target)
        if held is not None:
            since = self._show_time(held.since)
            raise TargetHeld(target=target, holder=held.holder, address=held.address, since=since)
        lease = Lease(target, holder, address, now)
        self._leases[target] = lease
        return lease

    def is_held(self, target: str) -> bool:
        """Whether somebody holds it."""
        return target in self._leases

    def pass_on(self, lease: Lease, holder: str, address: str, now: float) -> Lease:
        """Give the target of a lease that is held to somebody else; that lease ends."""
        assert self._leases.get(lease.target) is lease
        passed = Lease(lease.target, holder, address, now)
        self._leases[lease.target] = passed
        return passed

    def release(self, lease: Lease) -> None:
        """Free the target, if this very lease still holds it."""
        if self._leases.get(lease.target) is lease:
            del self._leases[lease.target]
