"""What is wrong with a line, told by what an examination has found: a verdict, its evidence, and what to do.

The words for what a session sees too are those of its statuses. What there is to do is in one table, by the code of the
verdict.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kdsrv.errors import KdsrvError
from kdsrv.kd.version import Version
from kdsrv.sessions.link_status import Damaged, Deaf, Rebooted
from kdsrv.sessions.net_status import NET_READERS
from kdsrv.sessions.outlook import Facts, noise, trouble
from kdsrv.sessions.status import Interrupted, RunState
from kdsrv.wire.members import one_line

__all__ = ["ADVICE", "Findings", "Verdict", "is_well", "judge", "not_opened"]

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

    ``line`` is the open transport, in words. ``lost``: why it went away for good. ``was_halted``: the target stood
    still before anything was done to it; ``broke_in``: a break-in was sent; ``asked`` requests were sent, of which
    ``replies`` were answered. ``rebooted``: the target started anew meanwhile. ``runs_again``: whether one that was
    halted for this could be made to run, None where there was none.
    """

    line: str
    facts: Facts
    is_serial: bool = False
    lost: str | None = None
    was_halted: bool = False
    broke_in: bool = False
    asked: int = 0
    replies: int = 0
    version: Version | None = None
    rebooted: bool = False
    runs_again: bool | None = None


ADVICE: Final[dict[str, tuple[str, ...]]] = {
    "well-halted": ("a debugger can have this target: see README.md for how it connects",),
    "well-running": ("a debugger can have this target: see README.md for how it connects",),
    "well-heard": ("without --no-break-in it is halted for a moment, to see whether it answers",),
    "missing": ("plug it in or start it, or give its right name: the names are in the sentence above, or in /dev",),
    "no-permission": ("let the user who runs this, and the server, open it; then log in again",),
    "held": ("end that program, or if it is a server ask it for the target: kdsrv list shows who has it",),
    "refused": ("start what should listen there, and compare host and port",),
    "cannot-open": ("what opens nothing cannot be examined further",),
    "away": ("start the virtual machine, or what offers this line, and try again",),
    "lost": ("see to it that the line stays: a plug, a machine that is being restarted",),
    "echoing": (
        "take off the loopback plug, or close the program that echoes at the other end",
        "on a virtual machine's port: connect it to the machine, not to a terminal",
    ),
    "resets-bouncing": (
        "see to it that nothing else reads or writes this line: another debugger, a console, an echo",
        "restart the target if it goes on",
    ),
    "damaged": (
        "try another cable, a lower rate on both sides, or a port without a hub in between",
        "see to it that no other program reads this port: it takes bytes away",
    ),
    "unheard": (
        "look at the line towards the target: TX and RX, a null modem cable, a permission to write at its other end",
    ),
    "deaf": (
        "wait, if the target is busy; wake it, if it sleeps",
        "if it hangs with interrupts off, only a reset or an NMI helps",
        "if it prints and still does not stop, look at the line towards it: TX, or the pipe's other direction",
    ),
    "noise": (
        "compare the baud rate with what bcdedit /dbgsettings shows on the target",
        "kdsrv doctor --find-baud tries them all",
    ),
    "text": (
        "the target writes text there: a console (EMS, a boot loader), or debugging is off; see bcdedit /dbgsettings",
    ),
    "silent": (
        "is debugging on (bcdedit /debug on), and set to this port (bcdedit /dbgsettings serial debugport:N)?",
        "is it the right port on both sides, and the cable a null modem cable?",
        "on a serial line the baud rate may be wrong too: kdsrv doctor --find-baud tries them",
    ),
    "unasked": ("without --no-break-in it is asked to halt: a target that runs says nothing by itself",),
    "mute": ("restart the target; its debugger stands still, but does not work",),
    "rebooted": ("try again when it is up",),
    **{
        "net-waiting": (
            "on the target: bcdedit /dbgsettings, the driver's network card (kdnet.exe), and then a reboot",
        ),
        "net-wrong-key": ("make a new key for both sides with kdsrv key, or take that of bcdedit /dbgsettings",),
        "net-unanswered": ("let UDP pass both ways between this host and the target",),
        "net-taken-over": ("end the other debugger, then reboot the target or attach with target=",),
        "net-silent": ("see whether the target is up, and whether its network card is the one that kdnet.exe set up",),
        "net-rebooted": ("try again when it is up",),
    },
}
"""What there is to do, by the code of the verdict."""

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


def not_opened(error: KdsrvError) -> Verdict:
    """The verdict on a line that cannot even be opened."""
    code = "missing" if error.code == "absent" else "cannot-open"
    cause: BaseException | None = error
    while cause is not None:
        number = getattr(cause, "errno", None) or getattr(cause, "osError", None)  # as Twisted calls it
        code = _ERRORS.get(number, code) if isinstance(number, int) else code
        cause = cause.__cause__
    return _verdict(code, str(error), ())


def judge(findings: Findings) -> Verdict:
    """The verdict on a line that was open."""
    for look in _LOOKS:
        if (found := look(findings)) is not None:
            code, sentence = found
            return _verdict(code, sentence, _evidence(findings))
    return _verdict("silent", _silence(findings), _evidence(findings))


def _verdict(code: str, sentence: str, evidence: tuple[str, ...]) -> Verdict:
    return Verdict(code, sentence, evidence, ADVICE[code])


_Found = tuple[str, str] | None


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
    if findings.was_halted:
        return "well-halted", f"the line is well: the target is halted and answers ({target})"
    return "well-running", f"the line is well: the target ran, halted when asked to, and answers ({target})"


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
    if not findings.is_serial:
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
        return "a RESET was answered, and nothing came after it: the line echoes, or the target hangs"
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
    if findings.broke_in and not counters.packets_received:
        lines.append("a target that heard the break-in, and is not heard here, stands still now")
    if findings.was_halted and facts.run_state is RunState.HALTED:
        lines.append("the target was halted before, and still is")
    elif findings.was_halted:
        lines.append("something answered a RESET, so it is taken to be halted, and was not made to run")
    elif findings.runs_again is not None:
        lines.append("the target was halted for this, and runs again" if findings.runs_again else _STUCK)
    return tuple(lines)


_STUCK: Final = "the target was halted for this and could not be made to run again: it stands still"


def _of_noise(findings: Findings) -> list[str]:
    sample, status = findings.facts.sample, noise(findings.facts)
    if status is None:
        return []
    if _is_text(sample):
        text = sample[: 2 * _SHOWN].decode("latin-1")
        return [f"as text: {one_line(text)}"]
    if findings.is_serial and not status.rates:
        if not any(sample):
            return ["all of them are 0: the target's rate is lower by far, or the line is held low"]
        return [f"they are not what KD at one of the usual rates looks like at {status.baud} baud"]
    return []


def _is_text(sample: bytes) -> bool:
    text = sum(32 <= byte < 127 or byte in b"\t\r\n\x1b" for byte in sample)
    return len(sample) >= 8 and text >= _MOSTLY * len(sample)
