"""What there is to say about a target on KDNET while it has no debugger connection, with the evidence for it.

Addresses are text as people read it, ``192.0.2.7:50000``; times are seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kdsrv.sessions.status import PATIENCE, Status
from kdsrv.wire.members import Members, one_line

__all__ = [
    "NET_READERS",
    "NET_TICKING",
    "NetRebooted",
    "NetSilent",
    "NetTakenOver",
    "NetUnanswered",
    "NetWaiting",
    "NetWrongKey",
]


@dataclass(frozen=True, slots=True)
class NetWaiting(Status):
    """No target with this key has offered itself on the UDP port for ``seconds``.

    Meanwhile ``foreign`` datagrams came that are not KDNET's, and ``data`` that belong to a debug session which this
    server does not have; ``address`` sent the last of them.
    """

    kind = "net-waiting"
    port: int
    seconds: float
    foreign: int = 0
    data: int = 0
    address: str = ""

    @property
    def is_early(self) -> bool:
        return self.seconds < PATIENCE and not self.data and not self.foreign

    def sentence(self) -> str:
        if self.is_early:
            return f"waiting for an OFFER on UDP port {self.port}"
        waiting = f"no OFFER of the target on UDP port {self.port} for {self.seconds:.0f} s"
        address = one_line(self.address)
        if self.data:
            came = f"{self.data} datagrams of another debug session came, last from {address}"
            return f"{waiting}; {came}: if that is the target, compare the key, or reboot it"
        if self.foreign:
            came = f"{self.foreign} datagrams came that are not KDNET's, last from {address}"
            return f"{waiting}; {came}: something else uses this port"
        ask = "is it up, does its bcdedit /dbgsettings name this host and port, does a firewall drop UDP here?"
        return f"{waiting}, and nothing else either: {ask}"

    def _fields(self) -> dict[str, object]:
        fields: dict[str, object] = {"port": self.port, "seconds": self.seconds}
        return {**fields, "foreign": self.foreign, "data": self.data, "address": one_line(self.address)}


@dataclass(frozen=True, slots=True)
class NetWrongKey(Status):
    """``offers`` came that this session's key does not open, nor that of any other on the port; the last one from
    ``address``."""

    kind = "net-wrong-key"
    port: int
    address: str
    offers: int

    def sentence(self) -> str:
        offers = "an OFFER" if self.offers == 1 else f"{self.offers} OFFERs"
        came = f"{offers} on UDP port {self.port} did not authenticate, the last from {one_line(self.address)}"
        return f"wrong key? {came}: compare key= with what bcdedit /dbgsettings shows on the target"

    def _fields(self) -> dict[str, object]:
        return {"port": self.port, "address": one_line(self.address), "offers": self.offers}


@dataclass(frozen=True, slots=True)
class NetUnanswered(Status):
    """The target was answered ``answers`` times and does not go on from there."""

    kind = "net-unanswered"
    address: str
    answers: int

    def sentence(self) -> str:
        times = "an OFFER" if self.answers == 1 else f"{self.answers} OFFERs"
        answered = f"{times} of the target at {one_line(self.address)} were answered, and it does not go on"
        return f"{answered}: do datagrams from this host reach it? a firewall may be in between"

    def _fields(self) -> dict[str, object]:
        return {"address": one_line(self.address), "answers": self.answers}


@dataclass(frozen=True, slots=True)
class NetTakenOver(Status):
    """Another debugger, at ``by``, has the target."""

    kind = "net-taken-over"
    address: str
    by: str

    def sentence(self) -> str:
        taken = f"the target at {one_line(self.address)} was taken over by the debugger at {one_line(self.by)}"
        return f"{taken}: it is back when it reboots; to have it sooner, end that one and attach again, with target="

    def _fields(self) -> dict[str, object]:
        return {"address": one_line(self.address), "by": one_line(self.by)}


@dataclass(frozen=True, slots=True)
class NetSilent(Status):
    """Nothing came from the connected target for ``seconds``, while one that lives offers itself every three."""

    kind = "net-silent"
    address: str
    seconds: float

    def sentence(self) -> str:
        silent = f"nothing from the target at {one_line(self.address)} for {self.seconds:.0f} s"
        return f"{silent}, not even its OFFER every 3 s: it is off, starts, or has lost the network; waiting for it"

    def _fields(self) -> dict[str, object]:
        return {"address": one_line(self.address), "seconds": self.seconds}


@dataclass(frozen=True, slots=True)
class NetRebooted(Status):
    """The target has booted, or its boot has come to the next stage; what was asked before is lost."""

    kind = "net-rebooted"
    address: str

    def sentence(self) -> str:
        return f"the target at {one_line(self.address)} has started anew: breakpoints and what was asked are gone"

    def _fields(self) -> dict[str, object]:
        return {"address": one_line(self.address)}


NET_TICKING: Final = frozenset({NetWaiting.kind, NetWrongKey.kind, NetUnanswered.kind, NetSilent.kind})
"""Those that come again and again while nothing but a number in them changes."""


def _waiting(members: Members) -> Status:
    return NetWaiting(
        members.integer("port"),
        members.seconds("seconds"),
        members.integer("foreign"),
        members.integer("data"),
        members.text("address"),
    )


NET_READERS: Final[dict[str, Callable[[Members], Status]]] = {
    NetWaiting.kind: _waiting,
    NetWrongKey.kind: lambda members: NetWrongKey(
        members.integer("port"), members.text("address"), members.integer("offers")
    ),
    NetUnanswered.kind: lambda members: NetUnanswered(members.text("address"), members.integer("answers")),
    NetTakenOver.kind: lambda members: NetTakenOver(members.text("address"), members.text("by")),
    NetSilent.kind: lambda members: NetSilent(members.text("address"), members.seconds("seconds")),
    NetRebooted.kind: lambda members: NetRebooted(members.text("address")),
}
