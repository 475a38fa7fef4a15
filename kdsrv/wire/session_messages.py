"""The messages of a session: how it is asked for, had, resumed, and what is said in it beside packets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.status import Status, status_from_json
from kdsrv.sessions.tenant import Take
from kdsrv.wire.members import Members, one_line
from kdsrv.wire.message import Message
from kdsrv.wire.window import DEFAULT_WINDOW, Window

__all__ = ["TOKEN_DIGITS", "Attach", "Attached", "Dropped", "Notice", "Resume", "StatusReport"]

TOKEN_DIGITS: Final = 32
"""Hexadecimal digits in the token of a session: 128 bits that nobody guesses."""


@dataclass(frozen=True, slots=True)
class Resume:
    """A session to go on with: the ``token`` in its Attached, and how many of its numbered frames have come."""

    token: str = field(repr=False)
    received: int

    def to_json(self) -> dict[str, object]:
        """The JSON object for it."""
        return {"token": self.token, "received": self.received}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The way back. PeerError if a member is missing or is not what it has to be."""
        members = Members("resume", value)
        return cls(members.digits("token", TOKEN_DIGITS), members.integer("received"))


@dataclass(frozen=True, slots=True)
class Attach(Message):
    """The client asks for a target. ``trans`` is a kd-string and may hold secrets: it is not for logs.

    ``resumable``: the session is to outlive its connection. ``take``: what to do if somebody else has the target;
    None: nothing. ``on_leave``: what becomes of the target at the end; None: as the server was told.
    """

    type = "attach"
    trans: str | None = field(repr=False)
    client: str
    resumable: bool = False
    take: Take | None = None
    on_leave: OnLeave | None = None
    resume: Resume | None = None

    def members(self) -> dict[str, object]:
        members: dict[str, object] = {"trans": self.trans, "client": one_line(self.client)}
        if self.resumable:
            members["resumable"] = True
        if self.take is not None:
            members["take"] = str(self.take)
        if self.on_leave is not None:
            members["on_leave"] = str(self.on_leave)
        if self.resume is not None:
            members["resume"] = self.resume.to_json()
        return members

    @classmethod
    def read(cls, members: Members) -> Self:
        resume = members.value("resume")
        return cls(
            members.text_or_none("trans"),
            members.text("client"),
            members.flag("resumable"),
            members.choice_or_none("take", Take),
            members.choice_or_none("on_leave", OnLeave),
            None if resume is None else Resume.from_json(resume),
        )


@dataclass(frozen=True, slots=True)
class Attached(Message):
    """The client has the target. ``target`` is its kd-string without secrets, ``description`` the line for people.

    With a ``token`` the session outlives its connection by ``linger`` seconds. ``received`` are the numbered frames of
    the session that have come to the server; ``resumed`` says that it is not a new one.
    """

    type = "attached"
    target: str
    description: str
    status: Status
    window: Window = DEFAULT_WINDOW
    token: str | None = field(default=None, repr=False)
    linger: float = 0.0
    received: int = 0
    resumed: bool = False

    def members(self) -> dict[str, object]:
        members: dict[str, object] = {
            "target": one_line(self.target),
            "description": one_line(self.description),
            "window": {"packets": self.window.packets, "bytes": self.window.bytes},
            "status": self.status.to_json(),
        }
        if self.token is not None:
            members["token"] = self.token
        if self.linger:
            members["linger"] = self.linger
        if self.resumed:
            members["resumed"] = True
        if self.received:
            members["received"] = self.received
        return members

    @classmethod
    def read(cls, members: Members) -> Self:
        window = Members("window", members.value("window"))
        return cls(
            members.text("target"),
            members.text("description"),
            status_from_json(members.value("status")),
            Window(window.integer("packets", 1), window.integer("bytes", 1)),
            members.digits_or_none("token", TOKEN_DIGITS),
            members.seconds("linger") if members.has("linger") else 0.0,
            members.integer("received") if members.has("received") else 0,
            members.flag("resumed"),
        )


@dataclass(frozen=True, slots=True)
class StatusReport(Message):
    """What there is to say about the target has changed."""

    type = "status"
    status: Status

    def members(self) -> dict[str, object]:
        return {"status": self.status.to_json()}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(status_from_json(members.value("status")))


@dataclass(frozen=True, slots=True)
class Dropped(Message):
    """At this place ``prints`` printed packets are missing, since the client was too slow; and the ``requests`` oldest
    requests will get no reply, since the target was reset or stopped answering."""

    type = "dropped"
    prints: int = 0
    requests: int = 0

    def members(self) -> dict[str, object]:
        return {"prints": self.prints, "requests": self.requests}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.integer("prints"), members.integer("requests"))


@dataclass(frozen=True, slots=True)
class Notice(Message):
    """A line for the user, about other users. ``asks``: somebody wants the target, which a Release gives to them."""

    type = "notice"
    text: str
    asks: bool = False

    def members(self) -> dict[str, object]:
        return {"text": one_line(self.text), **({"asks": True} if self.asks else {})}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.text("text"), members.flag("asks"))
