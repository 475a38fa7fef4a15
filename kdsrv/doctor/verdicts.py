"""What is wrong with a line, told by what an examination has found: a verdict, its evidence, and what to do.

The words for what a session sees too are those of its statuses.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kdsrv.connection_strings.kd import KdSpec, SerialSpec
from kdsrv.doctor.advice import ANSWERED, advise
from kdsrv.errors import KdsrvError
from kdsrv.kd.version import Version
from kdsrv.sessions.link_status import Damaged, Deaf, Echoing, Rebooted
from kdsrv.sessions.net_status import NET_READERS
from kdsrv.sessions.outlook import Facts, noise, trouble
from kdsrv.sessions.status import Interrupted, RunState
from kdsrv.wire.members import one_line

__all__ = ["Findings", "Verdict", "is_well", "judge", "not_opened"]

_SHOWN: Final = 24
_MOSTLY: Final = 0.8
_LEAST_DAMAGED: Final = 2
_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """``code`` never changes once published. One that begins with "well" is a line that works."""

    code: str
    sentence: str
    evidence: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """What an examination has found. Times are seconds.

    ``line`` is the open transport of ``spec``, in words; ``is_pseudo``: it is a pseudo terminal. ``lost``: why it went
    away for good. ``was_halted``: the target told of its stop before a break-in was sent; ``answered``: it only
    answered a RESET before that; ``broke_in``: one was sent; ``asked`` requests were sent, of which ``replies`` were
    answered. ``rebooted``: the target started anew meanwhile. ``runs_again``: whether one that was halted for this
    could be made to run, None where there was none.
    """

    line: str
    facts: Facts
    spec: KdSpec
    is_pseudo: bool = False
    lost: str | None = None
    was_halted: bool = False
    answered: bool = False
    broke_in: bool = False
    asked: int = 0
    replies: int = 0
    version: Version | None = None
    rebooted: bool = False
    runs_again: bool | None = None

    @property
    def has_rate(self) -> bool:
        """Whether the line has a rate that can be wrong."""
        return isinstance(self.spec, SerialSpec) and not self.is_pseudo


_ERRORS: Final = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ENXIO: "missing",
    errno.ENODEV: "missing",
    errno.EACCES: "no-permission",
    errno.EPERM: "no-permission",
    errno.EAGAIN: "held",
    errno.EBUSY: "held",
    errno.EADDRINUSE: "held",
    errno.ECONNREFUSED: "refused",
}


def is_well(verdict: Verdict) -> bool:
    """Whether the line works."""
    return verdict.code.startswith("well")


def not_opened(error: KdsrvError, spec: KdSpec) -> Verdict:
    """The verdict on the line of ``spec``, which cannot even be opened."""
    code = "missing" if error.code == "absent" else "cannot-open"
    cause: BaseException | None = error
    while cause is not None:
        number = getattr(cause, "errno", None) or getattr(cause, "osError", None)  # as Twisted calls it
        code = _ERRORS.get(number, code) if isinstance(number, int) else code
        cause = cause.__cause__
    return Verdict(code, str(error), (), advise(code, spec))


def judge(findings: Findings) -> Verdict:
    """The verdict on a line that was open."""
    code, sentence = _found(findings)
    if code == "silent" and findings.facts.counters.resets:
        advice: tuple[str, ...] = ANSWERED
    else:
        advice = advise(code, findings.spec, has_rate=findings.has_rate)
    return Verdict(code, sentence, _evidence(findings), advice)


_Found = tuple[str, str] | None


def _found(findings: Findings) -> tuple[str, str]:
    """Code and sentence."""
    for look in _LOOKS:
        if (found := look(findings)) is not None:
            return found
    return "silent", _silence(findings)


def _lost(findings: Findings) -> _Found:
    return None if findings.lost is None else ("lost", f"the line was lost: {one_line(findings.lost)}")


def _away(findings: Findings) -> _Found:
    status = findings.facts.status
    if isinstance(status, Interrupted):
        return "away", f"the line is not there: {one_line(status.why)}"
    return (status.kind, status.sentence()) if status.kind in NET_READERS else None


def _answers(findings: Findings) -> _Found:
    if findings.version is None:
        return None
    if (damage := _damage(findings.facts)) is not None:
        return damage
    target = _target(findings.version)
    if findings.was_halted or (findings.answered and not findings.runs_again):
        return "well-halted", f"the line is well: the target is halted and answers ({target})"
    ran = "" if findings.answered else "ran, "
    return "well-running", f"the line is well: the target {ran}halted when asked to, and answers ({target})"


def _heard(findings: Findings) -> _Found:
    if findings.broke_in:
        return None
    if findings.facts.run_state is RunState.RUNNING:
        return "well-heard", "the line is well as far as it goes: the target runs and speaks KD"
    if findings.facts.run_state is RunState.UNKNOWN and findings.facts.is_there:
        return "well-heard", "the line is well as far as it goes: the target is connected, and runs"
    return None


def _troubled(findings: Findings) -> _Found:
    status = trouble(findings.facts)
    return None if status is None else (status.kind, status.sentence())


def _mute(findings: Findings) -> _Found:
    if findings.facts.run_state is not RunState.HALTED and not findings.asked:
        return None
    return "mute", "the target tells of its stop, but answers no request"


def _anew(findings: Findings) -> _Found:
    return ("rebooted", Rebooted().sentence()) if findings.rebooted else None


def _deaf(findings: Findings) -> _Found:
    facts = findings.facts
    if facts.break_in_for is None or not (facts.counters.packets_received or facts.is_there):
        return None
    return "deaf", Deaf(round(facts.break_in_for), facts.bytes_since_break_in).sentence()


def _half_heard(findings: Findings) -> _Found:
    """Packets, but too few for one of the statuses."""
    facts = findings.facts
    return _damage(facts) if not facts.counters.packets_received else None


def _noisy(findings: Findings) -> _Found:
    found = noise(findings.facts)
    if found is None:
        return None
    if not found.rates and _is_text(findings.facts.sample):
        return "text", f"{found.bytes} bytes came, and they are text, not KD"
    if not findings.has_rate and not found.rates:
        return "noise", f"{found.bytes} bytes came but no KD packet: something else is at the other end"
    return "noise", found.sentence()


def _unasked(findings: Findings) -> _Found:
    if findings.broke_in or findings.facts.counters.bytes_received:
        return None
    return "unasked", "nothing came, and the target was not asked to halt: it runs, is off, or is not connected"


_LOOKS: Final[tuple[Callable[[Findings], _Found], ...]] = (
    _lost,
    _away,
    _answers,
    _heard,
    _troubled,
    _mute,
    _anew,
    _deaf,
    _half_heard,
    _noisy,
    _unasked,
)


def _silence(findings: Findings) -> str:
    counters = findings.facts.counters
    if counters.resets:
        after = "the line echoes, the target hangs, or a bridge of kdsrv connect answers in its place"
        return f"a RESET was answered, and nothing came after it: {after}"
    if counters.bytes_received:
        return "hardly anything came, and nothing answers RESETs or break-ins"
    return "the line is open and silent: no byte came, whatever was sent"


def _damage(facts: Facts) -> _Found:
    counters = facts.counters
    packets = counters.packets_received + counters.duplicates + counters.damaged
    if counters.damaged < max(_LEAST_DAMAGED, _SHARE * packets):
        return None
    return Damaged.kind, Damaged(counters.damaged, packets).sentence()


def _target(version: Version) -> str:
    machine = "an unknown machine" if version.machine is None else version.machine.name
    return f"Windows kernel build {version.build_number} on {machine}"


def _evidence(findings: Findings) -> tuple[str, ...]:
    facts = findings.facts
    counters = facts.counters
    lines = [f"opened: {findings.line}"]
    if findings.is_pseudo:
        lines.append("it is a pseudo terminal, which has no baud rate: any will do")
    if _away(findings) is None:  # else what is sent goes nowhere
        lines += [
            f"sent: {counters.bytes_sent} bytes{', a break-in among them' if findings.broke_in else ''}",
            f"came: {counters.bytes_received} bytes; {counters.packets_received} packets, {counters.resets} RESETs, "
            f"{counters.damaged} damaged packets, {facts.noise} bytes of noise",
        ]
    if facts.sample and not counters.packets_received:
        lines.append(f"the first bytes: {facts.sample[:_SHOWN].hex(' ')}{' ...' if len(facts.sample) > _SHOWN else ''}")
        lines += _of_noise(findings)
    if findings.asked:
        lines.append(f"{findings.replies} of {findings.asked} requests were answered")
    if findings.rebooted:
        lines.append("the target started anew meanwhile")
    return (*lines, *_of_break_in(findings))


def _echoes(findings: Findings) -> bool:
    """Whether no target is at the other end."""
    return isinstance(trouble(findings.facts), Echoing)


def _of_break_in(findings: Findings) -> list[str]:
    """What became of a target that was to halt."""
    facts = findings.facts
    if findings.was_halted:
        return ["the target was halted before, and still is"] if facts.run_state is RunState.HALTED else []
    if findings.runs_again is not None and findings.answered:
        return [_TAKEN_TO_RUN, _RUNS_AGAIN] if findings.runs_again else [_STANDS]
    if findings.runs_again is not None:
        return [_RUNS_AGAIN if findings.runs_again else _STUCK]
    if not findings.broke_in or facts.counters.packets_received or _echoes(findings):
        return []
    if findings.answered:
        return ["the break-in was not answered: a target that gets it later, by a bridge that waits, stands still then"]
    return ["a target that heard the break-in, and is not heard here, stands still now"]


_RUNS_AGAIN: Final = "the target was halted for this, and runs again"
_TAKEN_TO_RUN: Final = (
    "before the break-in a RESET was answered and no stop was told, as at a bridge of kdsrv connect: the target is "
    "taken to have run"
)
_STANDS: Final = "the target was told to run, and stands still: it was halted before, or halted again"
_STUCK: Final = "the target was halted for this and could not be made to run again: it stands still"


def _of_noise(findings: Findings) -> list[str]:
    sample, status = findings.facts.sample, noise(findings.facts)
    if status is None or _echoes(findings):
        return []
    if _is_text(sample):
        text = sample[: 2 * _SHOWN].decode("latin-1")
        return [f"as text: {one_line(text)}"]
    if findings.has_rate and not status.rates:
        if not any(sample):
            return ["all of them are 0: the target's rate is lower by far, or the line is held low"]
        return [f"they are not what KD at one of the usual rates looks like at {status.baud} baud"]
    return []


def _is_text(sample: bytes) -> bool:
    text = sum(32 <= byte < 127 or byte in b"\t\r\n\x1b" for byte in sample)
    return len(sample) >= 8 and text >= _MOSTLY * len(sample)
