"""Control messages of the kdsrv protocol: JSON objects with a ``type`` (docs/wire-protocol.md, "Messages").

    type      from    class         members
    hello     client  ClientHello   protocol "kdsrv", versions, software
    hello     server  ServerHello   version, software, login (the methods that are accepted; [] = none needed)
    login     client  Login         method (one of those), data (what begins it)
    challenge server  Challenge     data
    response  client  Response      data
    welcome   server  Welcome       data (with which the server proves itself)
    attach    client  Attach        trans (a kd-string, or null for the server's own target), client (name of user@host)
    attached  server  Attached      target (canonical kd-string), description, window {packets, bytes}, status
    status    server  StatusReport  status
    dropped   server  Dropped       prints (how many are missing here), requests (how many of the oldest get no reply)
    list      client  ListEverything
    listing   server  Listing       server (an object), targets, sessions (lists of objects)
    end       client  EndServer
    ping      both    Ping          id
    pong      both    Pong          id (that of the ping)
    bye       both    Bye           reason
    error     server  Failure       code, message

Members that are not listed are ignored, a type that is not listed is an error. Texts are single lines of up to 2048
characters; in what we send, other characters are replaced and the rest is cut off. The data of a login is base64 of up
to 4096 characters. What is in a listing is checked by whoever shows it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Final, NoReturn

from kdsrv.errors import PeerError
from kdsrv.sessions.status import Status, status_from_json
from kdsrv.wire.members import Members, base64_text, one_line
from kdsrv.wire.window import DEFAULT_WINDOW, Window

__all__ = [
    "PROTOCOL",
    "VERSIONS",
    "Attach",
    "Attached",
    "Bye",
    "Challenge",
    "ClientHello",
    "Dropped",
    "EndServer",
    "Failure",
    "ListEverything",
    "Listing",
    "Login",
    "Message",
    "Ping",
    "Pong",
    "Response",
    "Role",
    "ServerHello",
    "StatusReport",
    "Welcome",
    "decode",
    "encode",
]

PROTOCOL: Final = "kdsrv"

VERSIONS: Final = (1,)
"""The versions of the protocol that this program speaks."""

_MAX_VERSION: Final = 65535


class Role(StrEnum):
    """Which side of a connection."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> Role:
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class Message(ABC):
    """One control message."""

    __slots__ = ()
    type: ClassVar[str]

    @abstractmethod
    def members(self) -> dict[str, object]:
        """The JSON members beside ``type``."""


@dataclass(frozen=True, slots=True)
class ClientHello(Message):
    """The first message: what the client speaks."""

    type = "hello"
    software: str
    versions: tuple[int, ...] = VERSIONS

    def members(self) -> dict[str, object]:
        return {"protocol": PROTOCOL, "versions": list(self.versions), "software": one_line(self.software)}


@dataclass(frozen=True, slots=True)
class ServerHello(Message):
    """The answer to it: the version both will speak, and the login methods that are accepted (none: no login)."""

    type = "hello"
    version: int
    software: str
    login: tuple[str, ...] = ()

    def members(self) -> dict[str, object]:
        return {"version": self.version, "software": one_line(self.software), "login": list(self.login)}


@dataclass(frozen=True, slots=True)
class Login(Message):
    """The client begins a login by one of the methods that were offered. ``data`` is what the method says first."""

    type = "login"
    method: str
    data: bytes = field(repr=False)

    def members(self) -> dict[str, object]:
        return {"method": one_line(self.method), "data": base64_text(self.data)}


@dataclass(frozen=True, slots=True)
class Challenge(Message):
    """What the client has to answer."""

    type = "challenge"
    data: bytes = field(repr=False)

    def members(self) -> dict[str, object]:
        return {"data": base64_text(self.data)}


@dataclass(frozen=True, slots=True)
class Response(Message):
    """The answer to the challenge, by which the client proves who it is."""

    type = "response"
    data: bytes = field(repr=False)

    def members(self) -> dict[str, object]:
        return {"data": base64_text(self.data)}


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """The client is in; with ``data`` the server proves who it is."""

    type = "welcome"
    data: bytes = field(repr=False)

    def members(self) -> dict[str, object]:
        return {"data": base64_text(self.data)}


@dataclass(frozen=True, slots=True)
class ListEverything(Message):
    """The client wants to know what the server has."""

    type = "list"

    def members(self) -> dict[str, object]:
        return {}


@dataclass(frozen=True, slots=True)
class Listing(Message):
    """What the server has, as JSON objects: about itself, its published targets, its sessions."""

    type = "listing"
    server: dict[str, object]
    targets: list[dict[str, object]]
    sessions: list[dict[str, object]]

    def members(self) -> dict[str, object]:
        return {"server": self.server, "targets": self.targets, "sessions": self.sessions}


@dataclass(frozen=True, slots=True)
class EndServer(Message):
    """The client wants the server to end; the answer is its bye."""

    type = "end"

    def members(self) -> dict[str, object]:
        return {}


@dataclass(frozen=True, slots=True)
class Attach(Message):
    """The client asks for a target. ``trans`` is a kd-string and may hold secrets: it is not for logs."""

    type = "attach"
    trans: str | None = field(repr=False)
    client: str

    def members(self) -> dict[str, object]:
        return {"trans": self.trans, "client": one_line(self.client)}


@dataclass(frozen=True, slots=True)
class Attached(Message):
    """The client has the target. ``target`` is its kd-string without secrets, ``description`` the line for people."""

    type = "attached"
    target: str
    description: str
    status: Status
    window: Window = DEFAULT_WINDOW

    def members(self) -> dict[str, object]:
        return {
            "target": one_line(self.target),
            "description": one_line(self.description),
            "window": {"packets": self.window.packets, "bytes": self.window.bytes},
            "status": self.status.to_json(),
        }


@dataclass(frozen=True, slots=True)
class StatusReport(Message):
    """What there is to say about the target has changed."""

    type = "status"
    status: Status

    def members(self) -> dict[str, object]:
        return {"status": self.status.to_json()}


@dataclass(frozen=True, slots=True)
class Dropped(Message):
    """At this place ``prints`` printed packets are missing, since the client was too slow; and the ``requests`` oldest
    requests will get no reply, since the target was reset or stopped answering."""

    type = "dropped"
    prints: int = 0
    requests: int = 0

    def members(self) -> dict[str, object]:
        return {"prints": self.prints, "requests": self.requests}


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Are you there? To be answered with a Pong of the same id."""

    type = "ping"
    id: int

    def members(self) -> dict[str, object]:
        return {"id": self.id}


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """I am here."""

    type = "pong"
    id: int

    def members(self) -> dict[str, object]:
        return {"id": self.id}


@dataclass(frozen=True, slots=True)
class Bye(Message):
    """The last word of a side that leaves in peace."""

    type = "bye"
    reason: str

    def members(self) -> dict[str, object]:
        return {"reason": one_line(self.reason)}


@dataclass(frozen=True, slots=True)
class Failure(Message):
    """The last word of a server that cannot go on: a code for programs, a sentence for people."""

    type = "error"
    code: str
    message: str

    def members(self) -> dict[str, object]:
        return {"code": one_line(self.code), "message": one_line(self.message)}


def _client_hello(members: Members) -> Message:
    protocol = members.text("protocol")
    if protocol != PROTOCOL:
        raise PeerError(why=f"it speaks '{protocol}'")
    return ClientHello(members.text("software"), members.integers("versions", 1, _MAX_VERSION))


def _server_hello(members: Members) -> Message:
    version = members.integer("version", 1, _MAX_VERSION)
    return ServerHello(version, members.text("software"), members.texts("login"))


def _attached(members: Members) -> Message:
    window = Members("window", members.value("window"))
    return Attached(
        members.text("target"),
        members.text("description"),
        status_from_json(members.value("status")),
        Window(window.integer("packets", 1), window.integer("bytes", 1)),
    )


_Readers = dict[str, Callable[[Members], Message]]

_FROM_BOTH: Final[_Readers] = {
    Ping.type: lambda members: Ping(members.integer("id")),
    Pong.type: lambda members: Pong(members.integer("id")),
    Bye.type: lambda members: Bye(members.text("reason")),
}
_FROM: Final[dict[Role, _Readers]] = {
    Role.CLIENT: {
        ClientHello.type: _client_hello,
        Login.type: lambda members: Login(members.text("method"), members.base64("data")),
        Response.type: lambda members: Response(members.base64("data")),
        ListEverything.type: lambda members: ListEverything(),
        EndServer.type: lambda members: EndServer(),
        Attach.type: lambda members: Attach(members.text_or_none("trans"), members.text("client")),
        **_FROM_BOTH,
    },
    Role.SERVER: {
        ServerHello.type: _server_hello,
        Challenge.type: lambda members: Challenge(members.base64("data")),
        Welcome.type: lambda members: Welcome(members.base64("data")),
        Listing.type: lambda members: Listing(
            members.json_object("server"), members.json_objects("targets"), members.json_objects("sessions")
        ),
        Attached.type: _attached,
        StatusReport.type: lambda members: StatusReport(status_from_json(members.value("status"))),
        Dropped.type: lambda members: Dropped(members.integer("prints"), members.integer("requests")),
        Failure.type: lambda members: Failure(members.text("code"), members.text("message")),
        **_FROM_BOTH,
    },
}


def encode(message: Message) -> bytes:
    """The JSON of a message, in UTF-8."""
    text = json.dumps({"type": message.type, **message.members()}, ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def decode(body: bytes, sender: Role) -> Message:
    """The message in a control frame from ``sender``. PeerError if it is none, or not one that ``sender`` may send."""
    try:
        values = json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise PeerError(why="a control message from it is not JSON") from None
    kind = Members("control message", values).text("type")
    reader = _FROM[sender].get(kind)
    if reader is None:
        raise PeerError(why=f"it sent a message of type '{kind}', which a {sender} does not send in this version")
    return reader(Members(f"message '{kind}'", values))


def _no_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python's reader would take."""
    raise ValueError(name)
