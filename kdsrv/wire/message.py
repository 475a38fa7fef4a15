"""What every control message of the kdsrv protocol is, and whose it can be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import ClassVar, Self

from kdsrv.wire.members import Members

__all__ = ["Message", "Role"]


class Role(StrEnum):
    """Which side of a connection."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> Role:
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class Message(ABC):
    """One control message. What a receiver takes for an absent member is left out where it is said."""

    __slots__ = ()
    type: ClassVar[str]

    @abstractmethod
    def members(self) -> dict[str, object]:
        """The JSON members beside ``type``."""

    @classmethod
    @abstractmethod
    def read(cls, members: Members) -> Self:
        """The message with these members. PeerError if one is missing or is not what it has to be."""
