"""What there is to say of a target and its line while nothing is settled: facts in, a status out.

A target that is halted or runs says so itself. In between a session looks once a second at what it knows, and this
module, and no other, makes a status of it. A reader who knows more of what goes wrong on lines adds it to ``outlook``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kdsrv.kd.link import HostRole, LinkCounters, Phase
from kdsrv.sessions.status import BreakingIn, Lost, Noise, Quiet, RunState, Status

__all__ = ["Facts", "Lookout", "outlook"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a session knows. Times are in seconds; ``counters`` are a copy.

    ``status`` is what was said last. ``silent_for``: since the last byte, or since the line came back.
    ``break_in_for``: since the break-in that no stop has followed, None if there is none, and ``bytes_since_break_in``
    what came after it. ``resets_in_a_row``: RESETs of the target since it sent a packet. ``unanswered``: why the
    target, which was there, is taken to be away.
    """

    status: Status
    run_state: RunState
    phase: Phase
    counters: LinkCounters
    noise: int
    silent_for: float
    break_in_for: float | None = None
    bytes_since_break_in: int = 0
    resets_in_a_row: int = 0
    unanswered: str | None = None


def outlook(facts: Facts) -> Status | None:
    """What to say now; None if all is settled, and there is nothing to look at any more."""
    if facts.break_in_for is not None:
        return BreakingIn(round(facts.break_in_for), facts.bytes_since_break_in)
    if facts.run_state is not RunState.UNKNOWN:
        return None
    if isinstance(facts.status, Lost):
        return facts.status
    if facts.unanswered is not None and facts.phase is Phase.UNKNOWN:
        return Lost(facts.unanswered)
    if facts.noise and not facts.counters.packets_received:
        return Noise(facts.noise)
    return Quiet(round(facts.silent_for))


class Lookout:
    """Remembers what a session's facts are counted from."""

    def __init__(self, now: float) -> None:
        self.heard_at = now
        self.unanswered: str | None = None
        self._broke_in_at: float | None = None
        self._bytes_before = 0
        self._packets = 0
        self._resets_before = 0

    def broke_in(self, link: HostRole, now: float) -> None:
        """A break-in goes out."""
        self._broke_in_at = now
        self._bytes_before = link.counters.bytes_received

    def runs(self) -> None:
        """The target was seen to run."""
        self.unanswered = None

    def halted(self) -> None:
        """The target halted."""
        self._broke_in_at = self.unanswered = None

    def facts(self, link: HostRole, run_state: RunState, status: Status, now: float) -> Facts:
        """How it stands ``now``."""
        counters = replace(link.counters)
        if counters.packets_received != self._packets:
            self._packets, self._resets_before = counters.packets_received, counters.resets
        return Facts(
            status=status,
            run_state=run_state,
            phase=link.phase,
            counters=counters,
            noise=link.noise,
            silent_for=now - self.heard_at,
            break_in_for=None if self._broke_in_at is None else now - self._broke_in_at,
            bytes_since_break_in=counters.bytes_received - self._bytes_before,
            resets_in_a_row=counters.resets - self._resets_before,
            unanswered=self.unanswered,
        )
