"""Who has a session, who wants it, and how it changes hands (docs/reliability.md, "Handing over")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from kdsrv.auth.users import Role, User
from kdsrv.errors import TargetError
from kdsrv.kd.packets import Packet

__all__ = ["Applicant", "Take", "TargetGiven", "TargetTaken", "Tenant"]


class Take(StrEnum):
    """What to do about somebody who has the target. ASK: ask them for it, and wait. FORCE: take it from them."""

    ASK = "ask"
    FORCE = "force"


class TargetTaken(TargetError):
    """{target} was taken over by {holder} from {address}"""

    code = "taken"


class TargetGiven(TargetTaken):
    """{target} was given to {holder} from {address}"""

    code = "given"


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who wants a target. ``holder`` and ``address`` are for people, ``host`` is where they are (None: on this host);
    ``user`` says what they may do, None: who runs the server."""

    holder: str
    address: str
    host: str | None = None
    user: User | None = None
    take: Take | None = None

    def is_same(self, other: Applicant) -> bool:
        """Whether both are the same person, as far as can be told: the same program user at the same place, with the
        same login."""
        return (self.holder, self.host, self.user) == (other.holder, other.host, other.user)

    @property
    def may_force(self) -> bool:
        """Whether they may take a target from anybody: as who may end the server."""
        return self.user is None or (self.user.role is Role.FULL and self.user.targets is None)


class Tenant(Protocol):
    """Who has a session. A session may also be used by somebody who is no tenant; then nobody can be asked for it."""

    @property
    def applicant(self) -> Applicant:
        """Who they are."""
        ...

    @property
    def absence(self) -> str | None:
        """Why nobody is there and how long that is borne, half a sentence for people; None while they are there."""
        ...

    @property
    def yields(self) -> bool:
        """Whether the session is anybody's who wants it."""
        ...

    def asked(self, text: str) -> bool:
        """Somebody wants the session: show this line. Whether it is shown."""
        ...

    def told(self, text: str) -> None:
        """Show this line about somebody who has wanted the session."""
        ...

    def taken(self, reason: TargetTaken) -> Sequence[Packet]:
        """Somebody else has the session now. Gives what the target printed and nobody has read."""
        ...
