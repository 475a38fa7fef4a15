"""What a NetHost tells its owner, in order, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from kdsrv.kdnet.control import Address

__all__ = [
    "AddressChanged",
    "Connected",
    "Heard",
    "NetCounters",
    "NetEvent",
    "Payload",
    "Silent",
    "Stranger",
    "TakenOver",
]


class Payload(NamedTuple):
    """The target sent this on the data channel: one KD packet, if it keeps to the protocol. Never empty."""

    data: bytes


class Connected(NamedTuple):
    """A new data channel is up: the target has shown that it has the key. The link has to begin anew.

    ``is_new_instance``: the target has booted since the Connected before this one (false for the first).
    """

    peer: Address
    version: int
    is_new_instance: bool


class TakenOver(NamedTuple):
    """The target has its data channel with the debugger at ``by`` now; ours is closed until the target boots."""

    by: Address


class Silent(NamedTuple):
    """Nothing came from the connected target for ``seconds``. The data channel is kept."""

    seconds: float


class Heard(NamedTuple):
    """The target that was silent is there again, with the same data channel; ``seconds`` is how long it was silent."""

    seconds: float


class AddressChanged(NamedTuple):
    """The connected target sends from another port now, and is answered there."""

    peer: Address


class Stranger(NamedTuple):
    """Another machine has the same key and offers itself; it is ignored. Comes once for each address in a row."""

    address: Address


NetEvent: TypeAlias = Payload | Connected | TakenOver | Silent | Heard | AddressChanged | Stranger


@dataclass(slots=True)
class NetCounters:
    """What happened since the host was made; all are counts of datagrams.

    ``refused_control`` and ``refused_data`` did not authenticate: the wrong key, or on the data channel one that is
    gone. ``foreign`` came from other machines while the target was there and were dropped unopened. ``reflected`` are
    our own, sent back; ``replayed`` came before, or too late.
    """

    authenticated: int = 0
    malformed: int = 0
    refused_control: int = 0
    refused_data: int = 0
    foreign: int = 0
    reflected: int = 0
    replayed: int = 0
    offers: int = 0
    responses: int = 0
    pokes: int = 0
    received: int = 0
    sent: int = 0
    unsent: int = 0

    @property
    def refused(self) -> int:
        """All that did not authenticate."""
        return self.refused_control + self.refused_data
