"""What there is to say of a target and its line while nothing is settled: facts in, a status out.

A target that is halted or runs says so itself. In between a session looks once a second at what it knows, and this
module, and no other, makes a status of it. A reader who knows more of what goes wrong on lines adds it to ``outlook``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from kdsrv.doctor.bit_rates import likely_rates
from kdsrv.kd.link import HostRole, LinkCounters, Phase
from kdsrv.kd.packets import BREAK_IN, HEADER, PacketType, encode_control
from kdsrv.sessions.link_status import Damaged, Deaf, Echoing, ResetsBouncing, Unheard
from kdsrv.sessions.status import BreakingIn, Connected, Lost, Noise, Quiet, RunState, Status

__all__ = ["MAX_SAMPLE", "Facts", "Lookout", "noise", "outlook", "quiet", "trouble"]

MAX_SAMPLE: Final = 4096
"""Bytes that are kept of what comes before the first packet."""
_PATIENCE: Final = 6.0
"""Seconds of break-ins, three of them, without a stop."""
_UNHEARD_AFTER: Final = 3.0
"""Seconds in which a target that speaks should have answered a RESET."""
_BOUNCING: Final = 4
_LEAST_DAMAGED: Final = 5
_SHARE: Final = 0.05
_SHARE_STILL: Final = 0.02
"""Of packets that are damaged: from the one on it is said, until it falls below the other."""
_LATELY: Final = 10.0
"""Seconds: damage is counted over one to two of these."""
_LEAST_ECHO: Final = 17
_RESET: Final = encode_control(PacketType.RESET)
_NONE: Final = LinkCounters()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a session knows. Times are in seconds; ``counters`` are a copy.

    ``status`` is what was said last. ``silent_for``: since the last byte, or since the line came back.
    ``break_in_for``: since the break-in that no stop has followed, None if there is none, and ``bytes_since_break_in``
    what came after it. ``resets_in_a_row``: RESETs of the target since it sent a packet. ``unanswered``: why the
    target, which was there, is taken to be away. ``sample``: the first bytes of a line on which no packet has come;
    ``baud``: at which rate they were read, 0 if there is none. ``spoke_for``: since something like a packet came that
    could not be taken. ``damaged_lately`` of ``packets_lately`` were damaged. ``is_there``: the line would say so if
    the target were away.
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
    sample: bytes = b""
    baud: int = 0
    spoke_for: float = 0.0
    damaged_lately: int = 0
    packets_lately: int = 0
    is_there: bool = False


def outlook(facts: Facts) -> Status | None:
    """What to say now; None if all is settled, and there is nothing to look at any more."""
    breaking_in = facts.break_in_for is not None
    if not breaking_in and facts.run_state is not RunState.UNKNOWN:
        return None
    if not breaking_in and isinstance(facts.status, Lost):
        return facts.status
    if not breaking_in and facts.unanswered is not None and facts.phase is Phase.UNKNOWN:
        return Lost(facts.unanswered)
    if (wrong := trouble(facts)) is not None:
        return wrong
    if facts.break_in_for is not None:
        return _breaking_in(facts, facts.break_in_for)
    return noise(facts) or quiet(facts.silent_for, is_there=facts.is_there)


def quiet(seconds: float, *, is_there: bool) -> Quiet:
    """Nothing has come for so long."""
    return Connected(round(seconds)) if is_there else Quiet(round(seconds))


def trouble(facts: Facts) -> Status | None:
    """What is wrong with a line whether or not somebody breaks in."""
    if _echoes(facts.sample):
        return Echoing(facts.counters.bytes_received)
    if facts.resets_in_a_row >= _BOUNCING:
        return ResetsBouncing(facts.resets_in_a_row)
    said = isinstance(facts.status, Damaged)
    damaged = _damaged(facts.damaged_lately, facts.packets_lately, facts.run_state, said=said)
    if damaged is None and facts.spoke_for >= _UNHEARD_AFTER:
        return Unheard(round(facts.spoke_for), facts.counters.bytes_received - facts.noise)
    return damaged


def _breaking_in(facts: Facts, seconds: float) -> Status:
    if seconds >= _PATIENCE:
        if facts.counters.packets_received or facts.is_there:
            return Deaf(round(seconds), facts.bytes_since_break_in)
        if (found := noise(facts)) is not None:
            return found
    return BreakingIn(round(seconds), facts.bytes_since_break_in)


def noise(facts: Facts) -> Noise | None:
    """Bytes that are no packets, where no packet is."""
    if not facts.noise or facts.counters.packets_received:
        return None
    rates = likely_rates(facts.sample, facts.baud) if facts.baud else []
    return Noise(facts.noise, facts.baud, tuple(rates[:2]))


def _echoes(sample: bytes) -> bool:
    """Whether the line brought back a RESET and a break-in, and nothing else: a target does not send the latter."""
    rest = sample.replace(_RESET, b"")
    return len(rest) < len(sample) >= _LEAST_ECHO and bool(rest) and not rest.strip(BREAK_IN)


def _damaged(damaged: int, packets: int, run_state: RunState, *, said: bool) -> Damaged | None:
    """None if there is too little of it; ``said``: that it is so was said before."""
    enough = max(_LEAST_DAMAGED, (_SHARE_STILL if said else _SHARE) * packets)
    return Damaged(damaged, packets, run_state) if damaged >= enough else None


def _packets(counters: LinkCounters) -> int:
    """Those that came, whole or damaged."""
    return counters.packets_received + counters.duplicates + counters.damaged


class Lookout:
    """Remembers what a session's facts are counted from: ``now``, and ``counters``, those of the link.

    While ``samples``, it wants to be given what comes by `sample`.
    """

    def __init__(self, now: float, counters: LinkCounters = _NONE) -> None:
        self.heard_at = now
        self.unanswered: str | None = None
        self.samples = True
        self._sample = bytearray()
        self._broke_in_at: float | None = None
        self._bytes_before = counters.bytes_received
        self._packets = counters.packets_received
        self._resets_before = counters.resets
        self._began = (counters.resets, counters.packets_received)
        self._spoke_at: float | None = None
        self._marks = deque([(now, counters.damaged, _packets(counters))], maxlen=2)
        self._damage_said = False

    def sample(self, data: bytes) -> None:
        """Keep the beginning of what comes."""
        self._sample += data[: MAX_SAMPLE - len(self._sample)]
        self.samples = len(self._sample) < MAX_SAMPLE

    def broke_in(self, link: HostRole, now: float) -> None:
        """A break-in goes out."""
        self._broke_in_at = now
        self._bytes_before = link.counters.bytes_received

    def runs(self) -> None:
        """The target was seen to run."""
        self.unanswered = None
        self._settle()

    def halted(self) -> None:
        """The target halted."""
        self._broke_in_at = self.unanswered = None
        self._settle()

    def facts(self, link: HostRole, run_state: RunState, status: Status, now: float, byte_time: float = 0.0) -> Facts:
        """How it stands ``now``, on a line where a byte takes ``byte_time`` seconds."""
        counters = replace(link.counters)
        if counters.packets_received != self._packets:
            self._packets, self._resets_before = counters.packets_received, counters.resets
            self._settle()
        damaged, packets = self._lately(counters, now)
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
            sample=bytes(self._sample),
            baud=round(10 / byte_time) if byte_time else 0,
            spoke_for=self._spoke_for(link, now),
            damaged_lately=damaged,
            packets_lately=packets,
            is_there=link.in_datagrams,
        )

    def damage(self, link: HostRole, run_state: RunState, now: float) -> Damaged | None:
        """That much came damaged on the way to what is settled ``now``, if it did and this was not said yet."""
        damaged = _damaged(*self._lately(link.counters, now), run_state, said=self._damage_said)
        is_news = damaged is not None and not self._damage_said
        self._damage_said = damaged is not None
        return damaged if is_news else None

    def began_anew(self, link: HostRole) -> bool:
        """Whether the target counts anew of its own accord: without a RESET, and in the middle of its packets. To be
        asked each time that it counts anew."""
        before, self._began = self._began, (link.counters.resets, link.counters.packets_received)
        return before[0] == self._began[0] and before[1] < self._began[1]

    def _settle(self) -> None:
        """KD flows: what came before it does not matter any more."""
        self.samples = False
        self._sample.clear()

    def _lately(self, counters: LinkCounters, now: float) -> tuple[int, int]:
        """How many packets were damaged since the older of two marks, and of how many."""
        packets = _packets(counters)
        if now >= self._marks[-1][0] + _LATELY:
            self._marks.append((now, counters.damaged, packets))
        _, damaged_before, packets_before = self._marks[0]
        return counters.damaged - damaged_before, packets - packets_before

    def _spoke_for(self, link: HostRole, now: float) -> float:
        """For how long there has been something like a packet, but none taken, and no RESET answered."""
        counters = link.counters
        heard = counters.packets_received or counters.resets or counters.damaged
        # where packets come whole, what was taken of ours comes back as one
        if heard or link.in_datagrams or counters.bytes_received - link.noise < 2 * HEADER.size:
            self._spoke_at = None
            return 0.0
        if self._spoke_at is None:
            self._spoke_at = now
        return now - self._spoke_at
