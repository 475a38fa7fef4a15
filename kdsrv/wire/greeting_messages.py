"""The messages with which a client comes in: both hellos, and a login if there has to be one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from kdsrv.errors import PeerError
from kdsrv.wire.members import Members, base64_text, one_line
from kdsrv.wire.message import Message

__all__ = ["PROTOCOL", "VERSIONS", "Challenge", "ClientHello", "Login", "Response", "ServerHello", "Welcome"]

PROTOCOL: Final = "kdsrv"

VERSIONS: Final = (1,)
"""The versions of the protocol that this program speaks."""

_MAX_VERSION: Final = 65535
_INSTANCE_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class ClientHello(Message):
    """The first message: what the client speaks."""

    type = "hello"
    software: str
    versions: tuple[int, ...] = VERSIONS

    def members(self) -> dict[str, object]:
        return {"protocol": PROTOCOL, "versions": list(self.versions), "software": one_line(self.software)}

    @classmethod
    def read(cls, members: Members) -> Self:
        protocol = members.text("protocol")
        if protocol != PROTOCOL:
            raise PeerError(why=f"it speaks '{protocol}'")
        return cls(members.text("software"), members.integers("versions", 1, _MAX_VERSION))


@dataclass(frozen=True, slots=True)
class ServerHello(Message):
    """The answer to it: the version both will speak, and the login methods that are accepted (none: no login).

    ``instance`` is another one for each run of the server: 16 hexadecimal digits, or empty for a server that knows
    neither resuming nor hand-over nor spectators.
    """

    type = "hello"
    version: int
    software: str
    login: tuple[str, ...] = ()
    instance: str = ""

    def members(self) -> dict[str, object]:
        members = {"version": self.version, "software": one_line(self.software), "login": list(self.login)}
        return {**members, "instance": self.instance} if self.instance else members

    @classmethod
    def read(cls, members: Members) -> Self:
        version = members.integer("version", 1, _MAX_VERSION)
        instance = members.digits_or_none("instance", _INSTANCE_DIGITS) or ""
        return cls(version, members.text("software"), members.texts("login"), instance)


@dataclass(frozen=True, slots=True)
class Login(Message):
    """The client begins a login by one of the methods that were offered. ``data`` is what the method says first."""

    type = "login"
    method: str
    data: bytes = field(repr=False)

    def members(self) -> dict[str, object]:
        return {"method": one_line(self.method), "data": base64_text(self.data)}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.text("method"), members.base64("data"))


@dataclass(frozen=True, slots=True)
class Challenge(Message):
    """What the client has to answer."""

    type = "challenge"
    data: bytes = field(repr=False)

    def members(self) -> dict[str, object]:
        return {"data": base64_text(self.data)}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.base64("data"))


@dataclass(frozen=True, slots=True)
class Response(Message):
    """The answer to the challenge, by which the client proves who it is."""

    type = "response"
    data: bytes = field(repr=False)

    def members(self) -> dict[str, object]:
        return {"data": base64_text(self.data)}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.base64("data"))


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """The client is in; with ``data`` the server proves who it is."""

    type = "welcome"
    data: bytes = field(repr=False)

    def members(self) -> dict[str, object]:
        return {"data": base64_text(self.data)}

    @classmethod
    def read(cls, members: Members) -> Self:
        return cls(members.base64("data"))
