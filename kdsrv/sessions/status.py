"""What there is to say about a target and the line to it: one frozen value per situation.

A status is shown to the client that waits, in listings and in the log. As JSON it carries its ``kind``, its fields, the
``run_state`` and the ``sentence``, so that a client that does not know the kind can still print it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from kdsrv.wire.members import Members, one_line

__all__ = [
    "PATIENCE",
    "BreakingIn",
    "Connected",
    "HaltReason",
    "Halted",
    "Interrupted",
    "Lost",
    "Noise",
    "Opening",
    "Quiet",
    "Rebooting",
    "Refused",
    "RunState",
    "Running",
    "Status",
    "UnknownStatus",
    "status_from_json",
]


PATIENCE: Final = 6.0
"""Seconds, two periods of KDNET's OFFERs, in which a target that is there should have said something."""


class RunState(StrEnum):
    """What is known of the target from the packets it sent."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    HALTED = "halted"


class HaltReason(StrEnum):
    """Why a target stopped (KD protocol, 2.1)."""

    BREAKPOINT = "breakpoint"
    SINGLE_STEP = "single-step"
    PROCESSOR_SWITCH = "processor-switch"
    EXCEPTION = "exception"
    MODULE_LOAD = "module-load"
    MODULE_UNLOAD = "module-unload"
    COMMAND = "command"

    @classmethod
    def of_exception(cls, code: int) -> HaltReason:
        """The reason that an exception code stands for."""
        return _EXCEPTIONS.get(code, cls.EXCEPTION)


_EXCEPTIONS: Final = {
    0x80000003: HaltReason.BREAKPOINT,
    0x80000004: HaltReason.SINGLE_STEP,
    0x80000007: HaltReason.PROCESSOR_SWITCH,
}


class Status(ABC):
    """One situation. ``kind`` names it in JSON and never changes once published."""

    __slots__ = ()
    kind: ClassVar[str]

    @property
    def run_state(self) -> RunState:
        """What the target does, as far as this status tells."""
        return RunState.UNKNOWN

    @property
    def is_early(self) -> bool:
        """Whether nothing is told yet: as long as what is waited for may take anyhow."""
        return False

    @abstractmethod
    def sentence(self) -> str:
        """The status as people read it: one line, no full stop."""

    def to_json(self) -> dict[str, object]:
        """A JSON object; ``status_from_json`` is the way back."""
        return {"kind": self.kind, **self._fields(), "run_state": str(self.run_state), "sentence": self.sentence()}

    def _fields(self) -> dict[str, object]:
        return {}


@dataclass(frozen=True, slots=True)
class Opening(Status):
    """The transport is being opened."""

    kind = "opening"
    target: str

    def sentence(self) -> str:
        return f"opening {one_line(self.target)}"

    def _fields(self) -> dict[str, object]:
        return {"target": one_line(self.target)}


@dataclass(frozen=True, slots=True)
class Quiet(Status):
    """The line is open and nothing comes."""

    kind = "quiet"
    seconds: float

    def sentence(self) -> str:
        return f"no byte from the target for {self.seconds:.0f} s: it is running, off, or nothing is connected"

    def _fields(self) -> dict[str, object]:
        return {"seconds": self.seconds}


@dataclass(frozen=True, slots=True)
class Connected(Quiet):
    """The same where the line itself would say that the target is away: it is there."""

    kind = "connected"

    @property
    def is_early(self) -> bool:
        return self.seconds < PATIENCE

    def sentence(self) -> str:
        if self.is_early:
            return "the target is connected and has said nothing yet"
        return f"the target is connected and has said nothing for {self.seconds:.0f} s: it is running"


@dataclass(frozen=True, slots=True)
class Noise(Status):
    """Bytes come that are no KD packets. Read at ``baud``, they look like KD at ``rates``, the likeliest first; 0 and
    none: that cannot be told."""

    kind = "noise"
    bytes: int
    baud: int = 0
    rates: tuple[int, ...] = ()

    def sentence(self) -> str:
        came = f"{self.bytes} bytes came but no KD packet"
        if self.rates:
            rates = " or ".join(map(str, self.rates))
            return f"{came}: at {self.baud} baud they look like KD at {rates}"
        return f"{came}: wrong baud rate?"

    def _fields(self) -> dict[str, object]:
        return {"bytes": self.bytes, "baud": self.baud, "rates": list(self.rates)}


@dataclass(frozen=True, slots=True)
class BreakingIn(Status):
    """A break-in was sent ``seconds`` ago; ``bytes`` have come since, but no stop."""

    kind = "breaking-in"
    seconds: float
    bytes: int = 0

    def sentence(self) -> str:
        came = f" ({self.bytes} bytes came)" if self.bytes else ""
        return f"break-in sent {self.seconds:.0f} s ago, no answer yet{came}"

    def _fields(self) -> dict[str, object]:
        return {"seconds": self.seconds, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Running(Status):
    """The target runs and its debugger is content."""

    kind = "running"

    @property
    def run_state(self) -> RunState:
        return RunState.RUNNING

    def sentence(self) -> str:
        return "running"


@dataclass(frozen=True, slots=True)
class Halted(Status):
    """The target waits for its debugger. ``code`` is that of the exception; ``text`` a module path or a command."""

    kind = "halted"
    processor: int
    reason: HaltReason
    code: int = 0
    address: int = 0
    text: str = ""

    @property
    def run_state(self) -> RunState:
        return RunState.HALTED

    def sentence(self) -> str:
        where = f"at {self.address >> 32:08x}`{self.address & 0xFFFFFFFF:08x} on processor {self.processor}"
        match self.reason:
            case HaltReason.BREAKPOINT:
                return f"halted: breakpoint {where}"
            case HaltReason.SINGLE_STEP:
                return f"halted: single step {where}"
            case HaltReason.PROCESSOR_SWITCH:
                return f"halted: switched to processor {self.processor}"
            case HaltReason.EXCEPTION:
                return f"halted: exception {self.code:08x} {where}"
            case HaltReason.MODULE_LOAD:
                return f"halted: module load {one_line(self.text)}"
            case HaltReason.MODULE_UNLOAD:
                return f"halted: module unload {one_line(self.text)}"
            case HaltReason.COMMAND:
                return f"halted: command {one_line(self.text)}"

    def _fields(self) -> dict[str, object]:
        # 64-bit numbers go as text: many JSON readers would round them
        return {
            "processor": self.processor,
            "reason": str(self.reason),
            "code": f"{self.code:#x}",
            "address": f"{self.address:#x}",
            "text": one_line(self.text),
        }


@dataclass(frozen=True, slots=True)
class Rebooting(Status):
    """The target said that it goes down or was told to reboot."""

    kind = "rebooting"

    @property
    def run_state(self) -> RunState:
        return RunState.RUNNING

    def sentence(self) -> str:
        return "the target reboots"


@dataclass(frozen=True, slots=True)
class Interrupted(Status):
    """A line that comes back by itself, a VM's pipe for one, is away."""

    kind = "interrupted"
    why: str

    def sentence(self) -> str:
        return f"waiting: {one_line(self.why)}"

    def _fields(self) -> dict[str, object]:
        return {"why": one_line(self.why)}


@dataclass(frozen=True, slots=True)
class Lost(Status):
    """The line is gone for good."""

    kind = "lost"
    why: str

    def sentence(self) -> str:
        return f"the line is lost: {one_line(self.why)}"

    def _fields(self) -> dict[str, object]:
        return {"why": one_line(self.why)}


@dataclass(frozen=True, slots=True)
class Refused(Status):
    """Somebody who may only look asked for ``what``; the target goes on as it was, in this state."""

    kind = "refused"
    what: str
    state: RunState

    @property
    def run_state(self) -> RunState:
        return self.state

    def sentence(self) -> str:
        return f"you may only look (read-only): {one_line(self.what)} does not reach the target"

    def _fields(self) -> dict[str, object]:
        return {"what": one_line(self.what)}


@dataclass(frozen=True, slots=True)
class UnknownStatus(Status):
    """A status of a kind that this version of kdsrv does not know, as the peer worded it."""

    name: str
    text: str
    state: RunState = RunState.UNKNOWN

    @property
    def run_state(self) -> RunState:
        return self.state

    def sentence(self) -> str:
        return one_line(self.text)

    def to_json(self) -> dict[str, object]:
        return {"kind": self.name, "run_state": str(self.state), "sentence": self.sentence()}


def _halted(members: Members) -> Status:
    return Halted(
        members.integer("processor"),
        members.choice("reason", HaltReason),
        members.hexadecimal("code"),
        members.hexadecimal("address"),
        members.text("text"),
    )


def _noise(members: Members) -> Status:
    if not members.has("rates"):
        return Noise(members.integer("bytes"))
    return Noise(members.integer("bytes"), members.integer("baud"), members.integers("rates"))


_READERS: Final[dict[str, Callable[[Members], Status]]] = {
    Opening.kind: lambda members: Opening(members.text("target")),
    Quiet.kind: lambda members: Quiet(members.seconds("seconds")),
    Connected.kind: lambda members: Connected(members.seconds("seconds")),
    Noise.kind: _noise,
    BreakingIn.kind: lambda members: BreakingIn(members.seconds("seconds"), members.integer("bytes")),
    Running.kind: lambda members: Running(),
    Halted.kind: _halted,
    Rebooting.kind: lambda members: Rebooting(),
    Interrupted.kind: lambda members: Interrupted(members.text("why")),
    Lost.kind: lambda members: Lost(members.text("why")),
    Refused.kind: lambda members: Refused(members.text("what"), members.choice("run_state", RunState)),
}


def status_from_json(value: object) -> Status:
    """The status that a peer sent; one of an unknown kind is an UnknownStatus. PeerError if a field does not fit."""
    members = Members("status", value)
    kind = members.text("kind")
    from kdsrv.sessions.link_status import LINK_READERS  # they build on this module
    from kdsrv.sessions.net_status import NET_READERS

    reader = _READERS.get(kind) or NET_READERS.get(kind) or LINK_READERS.get(kind)
    if reader is not None:
        return reader(members)
    return UnknownStatus(kind, members.text("sentence"), members.choice("run_state", RunState))
