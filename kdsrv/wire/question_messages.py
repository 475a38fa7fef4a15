"""The messages of a client that wants no session: a listing, the end of the server, a target given away, a watch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from kdsrv.sessions.status import Status, status_from_json
from kdsrv.wire.members import Members, one_line
from kdsrv.wire.message import Message

__all__ = ["EndServer", "ListEverything", "Listing", "Release", "Released", "Seen", "Watch", "Watching"]


@dataclass(frozen=True, slots=True)
class ListEverything(Message):
    """The client wants to know what the server has."""

    type = "list"

    def members(self) -> dict[str, object]:
        return {}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls()


@dataclass(frozen=True, slots=True)
class Listing(Message):
    """What the server has, as JSON objects: about itself, its published targets, its sessions."""

    type = "listing"
    server: dict[str, object]
    targets: list[dict[str, object]]
    sessions: list[dict[str, object]]

    def members(self) -> dict[str, object]:
        return {"server": self.server, "targets": self.targets, "sessions": self.sessions}

    @classmethod
    def read(cls, members: Members) -> Self:
        targets, sessions = members.json_objects("targets"), members.json_objects("sessions")
        return cls(members.json_object("server"), targets, sessions)


@dataclass(frozen=True, slots=True)
class EndServer(Message):
    """The client wants the server to end; the answer is its bye."""

    type = "end"

    def members(self) -> dict[str, object]:
        return {}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls()


@dataclass(frozen=True, slots=True)
class Release(Message):
    """Whoever has a target gives it to who asks for it. ``trans`` as in Attach."""

    type = "release"
    trans: str | None = field(repr=False)

    def members(self) -> dict[str, object]:
        return {"trans": self.trans}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.text_or_none("trans"))


@dataclass(frozen=True, slots=True)
class Released(Message):
    """``to``, as people read it, has ``target`` now."""

    type = "released"
    target: str
    to: str

    def members(self) -> dict[str, object]:
        return {"target": one_line(self.target), "to": one_line(self.to)}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.text("target"), members.text("to"))


@dataclass(frozen=True, slots=True)
class Watch(Message):
    """The client asks to look on at what others do with a target. Both members as in Attach."""

    type = "watch"
    trans: str | None = field(repr=False)
    client: str

    def members(self) -> dict[str, object]:
        return {"trans": self.trans, "client": one_line(self.client)}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.text_or_none("trans"), members.text("client"))


@dataclass(frozen=True, slots=True)
class Watching(Message):
    """The client looks on from now on. The members are those of Attached; ``description`` is empty while nobody has
    the target."""

    type = "watching"
    target: str
    description: str
    status: Status

    def members(self) -> dict[str, object]:
        return {
            "target": one_line(self.target),
            "description": one_line(self.description),
            "status": self.status.to_json(),
        }

    @classmethod
    def read(cls, members: Members) -> Self:
        status = status_from_json(members.value("status"))
        return cls(members.text("target"), members.text("description"), status)


@dataclass(frozen=True, slots=True)
class Seen(Message):
    """What has happened, as JSON objects; before them ``missed`` lines were left out, as the client was too slow."""

    type = "seen"
    missed: int
    lines: list[dict[str, object]]

    def members(self) -> dict[str, object]:
        return {"missed": self.missed, "lines": self.lines}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.integer("missed"), members.json_objects("lines"))
