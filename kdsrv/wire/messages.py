"""Control messages of the kdsrv protocol: JSON objects with a ``type`` (docs/wire-protocol.md, "Messages").

    type      from    class         members (in brackets: may be absent)
    hello     client  ClientHello   protocol "kdsrv", versions, software
    hello     server  ServerHello   version, software, login (the methods that are accepted; [] = none needed),
                                    [instance]
    login     client  Login         method (one of those), data (what begins it)
    challenge server  Challenge     data
    response  client  Response      data
    welcome   server  Welcome       data (with which the server proves itself)
    attach    client  Attach        trans (a kd-string, or null for the server's own target), client (user@host),
                                    [resumable, take, on_leave, resume {token, received}]
    attached  server  Attached      target (canonical kd-string), description, window {packets, bytes}, status,
                                    [token, linger, received, resumed]
    status    server  StatusReport  status
    dropped   server  Dropped       prints (how many are missing here), requests (how many of the oldest get no reply)
    notice    server  Notice        text (a line about other users), [asks]
    list      client  ListEverything
    listing   server  Listing       server (an object), targets, sessions (lists of objects)
    end       client  EndServer
    release   client  Release       trans
    released  server  Released      target, to (who has it now)
    watch     client  Watch         trans, client
    watching  server  Watching      target, description, status
    seen      server  Seen          missed (how many lines were left out before these), lines (objects)
    ping      both    Ping          id
    pong      both    Pong          id (that of the ping)
    bye       both    Bye           reason
    error     server  Failure       code, message

Members that are not listed are ignored, a type that is not listed is an error. Texts are single lines of up to 2048
characters; in what we send, other characters are replaced and the rest is cut off. The data of a login is base64 of up
to 4096 characters. What is in a listing, or in a line that was seen, is checked by whoever shows it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Self

from kdsrv.errors import PeerError
from kdsrv.wire.greeting_messages import (
    PROTOCOL,
    VERSIONS,
    Challenge,
    ClientHello,
    Login,
    Response,
    ServerHello,
    Welcome,
)
from kdsrv.wire.members import Members, one_line
from kdsrv.wire.message import Message, Role
from kdsrv.wire.question_messages import (
    EndServer,
    ListEverything,
    Listing,
    Release,
    Released,
    Seen,
    Watch,
    Watching,
)
from kdsrv.wire.session_messages import Attach, Attached, Dropped, Notice, Resume, StatusReport

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
    "Notice",
    "Ping",
    "Pong",
    "Release",
    "Released",
    "Response",
    "Resume",
    "Role",
    "Seen",
    "ServerHello",
    "StatusReport",
    "Watch",
    "Watching",
    "Welcome",
    "decode",
    "encode",
    "encode_seen",
]


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Are you there? To be answered with a Pong of the same id."""

    type = "ping"
    id: int

    def members(self) -> dict[str, object]:
        return {"id": self.id}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.integer("id"))


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """I am here."""

    type = "pong"
    id: int

    def members(self) -> dict[str, object]:
        return {"id": self.id}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.integer("id"))


@dataclass(frozen=True, slots=True)
class Bye(Message):
    """The last word of a side that leaves in peace."""

    type = "bye"
    reason: str

    def members(self) -> dict[str, object]:
        return {"reason": one_line(self.reason)}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.text("reason"))


@dataclass(frozen=True, slots=True)
class Failure(Message):
    """The last word of a server that cannot go on: a code for programs, a sentence for people."""

    type = "error"
    code: str
    message: str

    def members(self) -> dict[str, object]:
        return {"code": one_line(self.code), "message": one_line(self.message)}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.text("code"), members.text("message"))


_CLIENT: Final[tuple[type[Message], ...]] = (
    *(ClientHello, Login, Response, Attach),
    *(ListEverything, EndServer, Release, Watch),
    *(Ping, Pong, Bye),
)
_SERVER: Final[tuple[type[Message], ...]] = (
    *(ServerHello, Challenge, Welcome, Attached, StatusReport, Dropped, Notice),
    *(Listing, Released, Watching, Seen),
    *(Ping, Pong, Bye, Failure),
)
_FROM: Final[dict[Role, dict[str, type[Message]]]] = {
    Role.CLIENT: {message.type: message for message in _CLIENT},
    Role.SERVER: {message.type: message for message in _SERVER},
}


def encode(message: Message) -> bytes:
    """The JSON of a message, in UTF-8."""
    text = json.dumps({"type": message.type, **message.members()}, ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def encode_seen(missed: int, lines: Sequence[bytes]) -> bytes:
    """``encode`` for a Seen whose lines are JSON already."""
    return b'{"type":"seen","missed":%d,"lines":[%b]}' % (missed, b",".join(lines))


def decode(body: bytes, sender: Role) -> Message:
    """The message in a control frame from ``sender``. PeerError if it is none, or not one that ``sender`` may send."""
    try:
        values = json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise PeerError(why="a control message from it is not JSON") from None
    kind = Members("control message", values).text("type")
    message = _FROM[sender].get(kind)
    if message is None:
        raise PeerError(why=f"it sent a message of type '{kind}', which a {sender} does not send in this version")
    return message.read(Members(f"message '{kind}'", values))


def _no_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python's reader would take."""
    raise ValueError(name)
