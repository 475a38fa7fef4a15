"""Passwords, and what a server keeps instead of them (RFC 5802, 3; RFC 7677).

A ``Verifier`` lets a server check a login and prove itself to the client, but nobody can log in with it. Making one
costs tens of milliseconds on purpose: so does every guess of somebody who has stolen it. Only clients pay this for each
login.
"""

from __future__ import annotations

import hashlib
import hmac
import stringprep
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kdsrv.errors import SetupError

__all__ = [
    "DIGEST_SIZE",
    "ITERATIONS",
    "LEAST_ITERATIONS",
    "MOST_ITERATIONS",
    "SALT_SIZE",
    "Credentials",
    "PasswordUnfit",
    "RandomBytes",
    "Verifier",
    "digest",
    "new_password",
    "prepared",
    "salted",
]

RandomBytes = Callable[[int], bytes]
"""Where randomness comes from: ``secrets.token_bytes`` or, in tests, something that repeats."""

ITERATIONS: Final = 60_000
"""Rounds of PBKDF2 for new verifiers: some 40 ms for the client that logs in and for whoever guesses."""
LEAST_ITERATIONS: Final = 60_000
"""A client does no fewer, or an impostor could ask for one round and guess cheaply from what the client answers."""
MOST_ITERATIONS: Final = 600_000
"""A client does no more, or an impostor could keep it busy: about a third of a second."""
SALT_SIZE: Final = 16
DIGEST_SIZE: Final = 32

_MAX_LENGTH: Final = 1024
_GUESS_PROOF: Final = 15
"""Random bytes in a password that is made up: 120 bits, 20 characters."""


class PasswordUnfit(SetupError):
    """the {what} cannot be used: {why}"""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a client says it is, and what it proves that with. The name may be empty where a server has one password."""

    password: str = field(repr=False)
    user: str = ""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A password as a server keeps it: SCRAM-SHA-256's stored key and server key."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str, salt: bytes, iterations: int = ITERATIONS) -> Verifier:
        """The verifier of a password. PasswordUnfit if it cannot be one."""
        root = salted(password, salt, iterations)
        return cls(salt, iterations, hashlib.sha256(digest(root, b"Client Key")).digest(), digest(root, b"Server Key"))

    def fits(self, password: str) -> bool:
        """Whether it is that of this password; as costly as making one."""
        try:
            other = Verifier.of(password, self.salt, self.iterations)
        except PasswordUnfit:
            return False
        return hmac.compare_digest(other.stored_key, self.stored_key)


def digest(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256."""
    return hmac.digest(key, data, "sha256")


def salted(password: str, salt: bytes, iterations: int) -> bytes:
    """PBKDF2 of the prepared password (``Hi`` in RFC 5802, 2.2). PasswordUnfit if it cannot be one."""
    text = prepared(password)
    if not text:
        raise PasswordUnfit(what="password", why="it is empty")
    return hashlib.pbkdf2_hmac("sha256", text.encode(), salt, iterations)


def new_password(random: RandomBytes) -> str:
    """A password that nobody guesses, of letters and digits: it fits into any connection string as it is."""
    while True:
        text = urlsafe_b64encode(random(_GUESS_PROOF)).decode()
        if text.isalnum():
            return text


def prepared(text: str, what: str = "password") -> str:
    """Text in the one form that all ways of typing it lead to: SASLprep (RFC 4013). PasswordUnfit if there is none."""
    if len(text) > _MAX_LENGTH:
        raise PasswordUnfit(what=what, why=f"it is longer than {_MAX_LENGTH} characters")
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    result = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibits(char) for char in result for prohibits in _PROHIBITED):
        raise PasswordUnfit(what=what, why="a character in it looks different, or like nothing, elsewhere")
    if any(map(stringprep.in_table_d1, result)):
        whole = stringprep.in_table_d1(result[0]) and stringprep.in_table_d1(result[-1])
        if not whole or any(map(stringprep.in_table_d2, result)):
            raise PasswordUnfit(what=what, why="it mixes characters written to the right and to the left")
    return result


_PROHIBITED: Final = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)
"""RFC 4013, 2.3 and 2.5."""
