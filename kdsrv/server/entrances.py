"""Which password, or which users, guard which way into a server.

the operator said                   who comes in
password= in the way's own string   whoever has that password
--users FILE                        the users in it
--password-file FILE                whoever has the password in it
nothing of these                    by systemd's credential, if there is one; by a unix socket that is for its owner
                                    or group alone, anybody; else whoever has a password that is made up and shown
--no-password                       anybody
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

from kdsrv.auth.passwords import RandomBytes, new_password
from kdsrv.auth.secret_files import find_credential, read_password, read_user_table
from kdsrv.auth.users import OnePassword, UserBook
from kdsrv.errors import SetupError
from kdsrv.server.attachment import LINGER

__all__ = ["Guarded", "Keys", "take_linger", "take_password", "transport_of"]

Way = TypeVar("Way")

_PASSWORD: Final = re.compile(r":password=((?:\\.|[^:\\])*)", re.DOTALL)
_LINGER: Final = re.compile(r":linger=([^:]*)")
_MOST_LINGER: Final = 86400
_ASTRAY: Final = re.compile(r"password\s*=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Guarded(Generic[Way]):
    """A way in (an endpoint, a destination) and the book of those who may use it; None: anybody.

    ``transport`` is that of the client strings that lead to it. Who comes in by a ``hidden`` one gets no listing.
    ``linger`` is how many seconds a client is waited for whose connection broke.
    """

    way: Way
    book: UserBook | None = field(repr=False)
    transport: str = "tcp"
    hidden: bool = False
    linger: float = LINGER


def take_password(text: str) -> tuple[str, str | None]:
    """A Twisted endpoint string without its ``:password=``, and that password; SetupError if it is empty or twice, or
    where it is none, for then everything that is said of the string later would show it."""
    rest = _PASSWORD.sub("", text)
    if _ASTRAY.search(rest):
        raise SetupError(why="write the password as :password=PASSWORD, as in tcp:1234:password=PASSWORD")
    found = _PASSWORD.findall(text)
    if not found:
        return text, None
    password = re.sub(r"\\(.)", r"\1", found[0])
    if len(found) > 1 or not password:
        raise SetupError(why="password= is empty" if not password else "password= is in it twice")
    return rest, password


def take_linger(text: str) -> tuple[str, float]:
    """A Twisted endpoint string without its ``:linger=``, and how many seconds that is; SetupError for no number."""
    found = _LINGER.findall(text)
    if not found:
        return text, LINGER
    if len(found) > 1 or not (found[0].isascii() and found[0].isdigit() and int(found[0]) <= _MOST_LINGER):
        raise SetupError(why=f"linger= is a number of seconds, 0 to {_MOST_LINGER}, once")
    return _LINGER.sub("", text), float(found[0])


def transport_of(text: str) -> str:
    """The transport of client strings that lead to where this Twisted endpoint string does."""
    return "ssl" if text.partition(":")[0].lower() == "ssl" else "tcp"


class Keys:
    """Gives each way its book. ``made`` is the password that was made up, None as long as no way needs one.

    SetupError, a sentence, if what is given cannot be used or contradicts itself.
    """

    def __init__(
        self,
        *,
        open_to_all: bool,
        password_file: Path | None,
        user_file: Path | None,
        environ: Mapping[str, str],
        random: RandomBytes,
    ) -> None:
        if sum((open_to_all, password_file is not None, user_file is not None)) > 1:
            raise SetupError(why="--users, --password-file and --no-password exclude each other; say one")
        self.made: str | None = None
        self._open_to_all = open_to_all
        self._random = random
        self._books: dict[str, OnePassword] = {}
        self._general: UserBook | None = None
        if user_file is not None:
            self._general = read_user_table(user_file)
        elif password_file is not None:
            self._general = self._one(read_password(password_file))
        elif not open_to_all and (credential := find_credential(environ)) is not None:
            self._general = self._one(read_password(credential, private=False))

    def book_for(self, password: str | None, *, private: bool = False) -> UserBook | None:
        """The book for a way with this password of its own. A ``private`` way is closed to other users of the host."""
        if password is not None:
            if self._open_to_all:
                raise SetupError(why="password= and --no-password contradict each other")
            return self._one(password)
        if self._general is not None or self._open_to_all or private:
            return self._general
        if self.made is None:
            self.made = new_password(self._random)
        return self._one(self.made)

    def _one(self, password: str) -> OnePassword:
        """The same book for the same password."""
        if password not in self._books:
            self._books[password] = OnePassword(password, self._random)
        return self._books[password]
