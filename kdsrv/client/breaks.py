"""What there is to say of a connection that breaks, and of a session that goes on or begins anew after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from kdsrv.client.failures import ServerRefused
from kdsrv.errors import KdsrvError
from kdsrv.sessions.status import Interrupted, RunState, Status
from kdsrv.wire.members import one_line
from kdsrv.wire.messages import Attached

__all__ = ["Broken", "News", "Renewed", "Resumed", "ServerAway", "absence"]


class Broken(NamedTuple):
    """The connection, or the whole session, is lost for this reason; the server is tried again. ``status`` says
    the same as how things stand now."""

    reason: KdsrvError
    status: ServerAway

    def __str__(self) -> str:
        lost = f"the session is lost: {self.reason}" if isinstance(self.reason, ServerRefused) else str(self.reason)
        return f"{lost.rstrip('.')}; trying again"


class Resumed(NamedTuple):
    """The session goes on, ``seconds`` after its connection was lost, as if nothing had happened."""

    seconds: float

    def __str__(self) -> str:
        return f"connected again after {self.seconds:.1f} s: the session goes on"


class Renewed(NamedTuple):
    """There is no such session any more, which ``sentence`` says why. In its place is a new one: what was asked for in
    the old one is lost."""

    attached: Attached
    sentence: str

    def __str__(self) -> str:
        return self.sentence


News: TypeAlias = Broken | Resumed | Renewed


@dataclass(frozen=True, slots=True)
class ServerAway(Status):
    """The server is away, or ``refuses``, and what was known of the target, its ``state``, may still be so. To programs
    that read this as JSON it is an interruption like any other: nothing comes, and it will again."""

    kind = Interrupted.kind
    why: str
    state: RunState = RunState.UNKNOWN
    refuses: bool = False

    @property
    def run_state(self) -> RunState:
        return self.state

    def sentence(self) -> str:
        return f"waiting{'' if self.refuses else ' for the server'}: {one_line(self.why)}"

    def _fields(self) -> dict[str, object]:
        return {"why": one_line(self.why)}


def absence(reason: KdsrvError, state: RunState) -> ServerAway:
    """Why there is no session now, the point of it first: a status line is cut where the terminal ends."""
    if isinstance(reason, ServerRefused):
        return ServerAway(str(reason.facts["message"]), state, refuses=True)
    return ServerAway(str(reason.facts.get("why", reason)), state)
