"""Who there is, what each may do, and the books they are found in.

A book answers for every name, also for those it does not have: an unknown name gets a verifier that no password fits,
always the same for the same name. So a login under a wrong name looks like one with a wrong password from the first
byte to the last, and takes as long.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from kdsrv.auth.passwords import (
    DIGEST_SIZE,
    ITERATIONS,
    LEAST_ITERATIONS,
    MOST_ITERATIONS,
    SALT_SIZE,
    RandomBytes,
    Verifier,
    digest,
)
from kdsrv.errors import SetupError

__all__ = [
    "ANYBODY",
    "Entry",
    "OnePassword",
    "Role",
    "User",
    "UserBook",
    "UserFileBroken",
    "UserTable",
    "check_name",
    "read_users",
    "user_line",
]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_TARGET: Final = re.compile(r"(?!\*$)[A-Za-z0-9*?][A-Za-z0-9._@*?-]{0,63}")
"""The name of a target, or a pattern of such names."""
_SCHEME: Final = "scram-sha-256"
_ALL_TARGETS: Final = "*"


class UserFileBroken(SetupError):
    """line {line} of the user file: {why}"""


class Role(StrEnum):
    """What a user may do with a target: anything, or only look at it."""

    FULL = "full"
    READ_ONLY = "read-only"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who has come in. ``targets`` are the published targets they may open, by name or by a pattern with ``*``
    and ``?`` in it; None: no limit."""

    name: str
    role: Role = Role.FULL
    targets: tuple[str, ...] | None = None


ANYBODY: Final = User("")
"""Who comes in where nobody has to log in."""


class Entry(NamedTuple):
    """What a book knows under a name. Without ``user`` there is nobody of that name."""

    user: User | None
    verifier: Verifier


class UserBook(Protocol):
    """All users of a server."""

    def find(self, name: str) -> Entry:
        """The entry for a name; for each name there is one, and finding it takes the same time."""


class OnePassword:
    """A book for a server with one password: whoever has it comes in, under any name, and may do everything."""

    def __init__(self, password: str, random: RandomBytes) -> None:
        self._verifier = Verifier.of(password, random(SALT_SIZE))

    def find(self, name: str) -> Entry:
        return Entry(User(name), self._verifier)


class UserTable:
    """A book of named users.

    ``secret`` makes the verifiers of unknown names. It must not be known to those who log in, and should be the same
    whenever the server starts, or a name whose salt has changed is known not to exist.
    """

    def __init__(self, entries: Mapping[str, Entry], secret: bytes) -> None:
        self._entries = dict(entries)
        self._secret = secret
        counts = Counter(entry.verifier.iterations for entry in entries.values())
        self._iterations = counts.most_common(1)[0][0] if counts else ITERATIONS

    def find(self, name: str) -> Entry:
        salt, stored_key, server_key = (
            digest(self._secret, what + name.encode()) for what in (b"salt:", b"stored key:", b"server key:")
        )
        nobody = Entry(None, Verifier(salt[:SALT_SIZE], self._iterations, stored_key, server_key))
        return self._entries.get(name, nobody)


def check_name(name: str) -> str:
    """The name, if it can be one in a user file; SetupError if it cannot."""
    if not _NAME.fullmatch(name):
        raise SetupError(why=f"{name!r} is not a user name: up to 64 letters, digits and any of . _ @ -")
    return name


def user_line(user: User, verifier: Verifier) -> str:
    """The line of a user file: ``name:role:targets:scram-sha-256$iterations$salt$stored-key$server-key``."""
    targets = _ALL_TARGETS if user.targets is None else ",".join(map(_checked_target, user.targets))
    keys = "$".join(_text(part) for part in (verifier.salt, verifier.stored_key, verifier.server_key))
    return f"{check_name(user.name)}:{user.role}:{targets}:{_SCHEME}${verifier.iterations}${keys}"


def read_users(text: str) -> dict[str, Entry]:
    """The users in a user file, by name; UserFileBroken names the line that is wrong, and never what is in it.

    Empty lines and lines that start with ``#`` say nothing.
    """
    users: dict[str, Entry] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            entry = _read_line(line)
        except ValueError as error:
            raise UserFileBroken(line=number, why=str(error)) from None
        assert entry.user is not None
        if entry.user.name in users:
            raise UserFileBroken(line=number, why=f"there is a user {entry.user.name} already")
        users[entry.user.name] = entry
    return users


def _read_line(line: str) -> Entry:
    """One user; ValueError is a sentence about what is wrong."""
    parts = line.split(":")
    if len(parts) != 4:
        raise ValueError("it is not name:role:targets:verifier, as 'kdsrv password' makes it")
    name, role, targets, verifier = parts
    if not _NAME.fullmatch(name):
        raise ValueError("the name is not up to 64 letters, digits and any of . _ @ -")
    if role not in tuple(Role):
        raise ValueError(f"the role is not one of {', '.join(Role)}")
    allowed = None if targets == _ALL_TARGETS else tuple(name for name in targets.split(",") if name)
    if allowed is not None and not all(map(_TARGET.fullmatch, allowed)):
        raise ValueError(f"the targets are neither {_ALL_TARGETS} nor names or patterns with , between them")
    return Entry(User(name, Role(role), allowed), _read_verifier(verifier))


def _read_verifier(text: str) -> Verifier:
    scheme, *parts = text.split("$")
    if scheme != _SCHEME or len(parts) != 4:
        raise ValueError(f"the verifier is not {_SCHEME}$iterations$salt$stored-key$server-key")
    count, *keys = parts
    if not (count.isascii() and count.isdecimal() and len(count) < 8):
        raise ValueError("the number of iterations is no number")
    if not LEAST_ITERATIONS <= int(count) <= MOST_ITERATIONS:
        raise ValueError(f"{count} iterations are not {LEAST_ITERATIONS} to {MOST_ITERATIONS}")
    sizes = (SALT_SIZE, DIGEST_SIZE, DIGEST_SIZE)
    salt, stored_key, server_key = (_bytes(key, size) for key, size in zip(keys, sizes, strict=True))
    return Verifier(salt, int(count), stored_key, server_key)


def _checked_target(name: str) -> str:
    if not _TARGET.fullmatch(name):
        what = "up to 64 letters, digits and any of . _ @ -, with * and ? for several names"
        raise SetupError(why=f"{name!r} is not the name of a target: {what}")
    return name


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _bytes(text: str, size: int) -> bytes:
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        data = b""
    if len(data) != size:
        raise ValueError(f"a part of the verifier is not {size} bytes in base64")
    return data
