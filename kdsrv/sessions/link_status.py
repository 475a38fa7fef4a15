"""What there is to say about a line that carries something, but not what a debugger wants, with the evidence for it.

Each stays true for a while and only counts on; see kdsrv/sessions/outlook.py for when it begins and ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kdsrv.sessions.status import RunState, Status
from kdsrv.wire.members import Members

__all__ = ["LINK_READERS", "LINK_TICKING", "Damaged", "Deaf", "Echoing", "Rebooted", "ResetsBouncing", "Unheard"]


@dataclass(frozen=True, slots=True)
class Deaf(Status):
    """KD packets came from the target, but for ``seconds`` no stop has followed break-ins; ``bytes`` came meanwhile."""

    kind = "deaf"
    seconds: float
    bytes: int = 0

    def sentence(self) -> str:
        asked = f"the target spoke KD, but has not answered break-ins for {self.seconds:.0f} s"
        if self.bytes:
            return f"{asked} while {self.bytes} bytes came from it: it is too busy, or does not hear this host"
        return f"{asked} and says nothing: it hangs, sleeps or is off"

    def _fields(self) -> dict[str, object]:
        return {"seconds": self.seconds, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Unheard(Status):
    """KD packets have come for ``seconds``, ``bytes`` of them, but nothing that was sent is answered."""

    kind = "unheard"
    seconds: float
    bytes: int

    def sentence(self) -> str:
        came = f"{self.bytes} bytes of KD packets came, but for {self.seconds:.0f} s no RESET was answered"
        return f"{came}: what is sent from here does not reach the target"

    def _fields(self) -> dict[str, object]:
        return {"seconds": self.seconds, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class ResetsBouncing(Status):
    """The target sent ``resets`` RESETs in a row and no packet after them."""

    kind = "resets-bouncing"
    resets: int

    def sentence(self) -> str:
        return (
            f"{self.resets} RESETs of the target in a row and no packet: it does not come out of beginning anew; "
            "does a second debugger, or something that echoes, sit on the line?"
        )

    def _fields(self) -> dict[str, object]:
        return {"resets": self.resets}


@dataclass(frozen=True, slots=True)
class Echoing(Status):
    """``bytes`` came, and they are what was sent."""

    kind = "echoing"
    bytes: int

    def sentence(self) -> str:
        return f"the line echoes: the {self.bytes} bytes that came are what was sent; no target is at its other end"

    def _fields(self) -> dict[str, object]:
        return {"bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Damaged(Status):
    """``damaged`` of the last ``packets`` came with a wrong checksum or without their end, and had to be repeated."""

    kind = "damaged"
    damaged: int
    packets: int
    state: RunState = RunState.UNKNOWN

    @property
    def run_state(self) -> RunState:
        return self.state

    def sentence(self) -> str:
        lately = f"{self.damaged} of the last {self.packets} packets of the target came damaged"
        return f"{lately}: a bad cable, bytes lost at this rate, or another program that reads this port too"

    def _fields(self) -> dict[str, object]:
        return {"damaged": self.damaged, "packets": self.packets}


@dataclass(frozen=True, slots=True)
class Rebooted(Status):
    """The target, which was there before, has begun to count its packets anew."""

    kind = "rebooted"

    def sentence(self) -> str:
        return "the target has started anew: it rebooted, or had given its debugger up; what was asked is lost"


LINK_TICKING: Final = frozenset({Deaf.kind, Unheard.kind, ResetsBouncing.kind, Echoing.kind, Damaged.kind})
"""Those that come again and again while nothing but a number in them changes."""


def _damaged(members: Members) -> Status:
    return Damaged(members.integer("damaged"), members.integer("packets"), members.choice("run_state", RunState))


LINK_READERS: Final[dict[str, Callable[[Members], Status]]] = {
    Deaf.kind: lambda members: Deaf(members.seconds("seconds"), members.integer("bytes")),
    Unheard.kind: lambda members: Unheard(members.seconds("seconds"), members.integer("bytes")),
    ResetsBouncing.kind: lambda members: ResetsBouncing(members.integer("resets")),
    Echoing.kind: lambda members: Echoing(members.integer("bytes")),
    Damaged.kind: _damaged,
    Rebooted.kind: lambda members: Rebooted(),
}
