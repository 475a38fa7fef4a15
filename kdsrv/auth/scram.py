"""The login: SCRAM-SHA-256, and SCRAM-SHA-256-PLUS over TLS (RFC 5802, 7677, 9266), one machine for each side.

    client                                              server
      p=tls-exporter,,n=NAME,r=NONCE              ->
                                                  <-    r=NONCE+MORE,s=SALT,i=ITERATIONS
      c=BINDING,r=NONCE+MORE,p=PROOF              ->
                                                  <-    v=SIGNATURE

Each side proves that it knows the password (the server: its verifier) over both nonces and over the TLS channel that it
sees, so what is said is worthless on any other connection. Where there is no TLS, the first message begins with "n,,".

Where the connection is TLS, both sides insist on PLUS: somebody in between, who ends TLS at himself, cannot get the
client to log in without the binding, nor the server to take it. The server decides in one place, after all the work,
and its refusal is one sentence.

Not from ``scramp``: it has no ``tls-exporter``, takes no empty name and puts no low bound on what a server may ask for.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Final

from kdsrv.auth.passwords import (
    DIGEST_SIZE,
    LEAST_ITERATIONS,
    MOST_ITERATIONS,
    Credentials,
    RandomBytes,
    digest,
    prepared,
    salted,
)
from kdsrv.auth.users import Entry, User, UserBook
from kdsrv.errors import KdsrvError, PeerError

__all__ = [
    "BOUND",
    "MAX_DATA",
    "PLAIN",
    "ClientLogin",
    "LoginNotOffered",
    "LoginRefused",
    "ServerLogin",
    "ServerUnproven",
    "method_for",
]

PLAIN: Final = "SCRAM-SHA-256"
BOUND: Final = "SCRAM-SHA-256-PLUS"
MAX_DATA: Final = 3072
"""Most bytes in one message of a login."""

_NONCE_SIZE: Final = 18
_MAX_NAME: Final = 255
_NONCE: Final = r"[!-+\--~]"
_BASE64: Final = r"[A-Za-z0-9+/]+={0,2}"
_CLIENT_FIRST: Final = re.compile(rf"(n,,|p=tls-exporter,,)(n=([^,\0]*),r=({_NONCE}{{1,128}}))")
_SERVER_FIRST: Final = re.compile(rf"r=({_NONCE}{{1,256}}),s=({_BASE64}),i=([1-9][0-9]{{0,9}})")
_CLIENT_FINAL: Final = re.compile(rf"(c=({_BASE64}),r=({_NONCE}{{1,256}})),p=({_BASE64})")
_SERVER_FINAL: Final = re.compile(rf"v=({_BASE64})")
_STRAY_EQUALS: Final = re.compile(r"=(?!2C|3D)")


class LoginRefused(KdsrvError):
    """login refused (0x80004005): wrong user or password"""

    code = "login"


class LoginNotOffered(KdsrvError):
    """{why}"""

    code = "login"


class ServerUnproven(KdsrvError):
    """the server did not prove that it knows the password: it is not the server that was meant"""

    code = "login"


def method_for(binding: bytes | None) -> str:
    """The one method that is right for a connection with this channel binding (None: no TLS)."""
    return PLAIN if binding is None else BOUND


class ServerLogin:
    """The server's side of one login. ``user`` is whoever has come in, None before that.

    ``binding`` is the tls-exporter channel binding of the connection, None where there is no TLS.
    """

    def __init__(self, book: UserBook, *, binding: bytes | None, random: RandomBytes) -> None:
        self.user: User | None = None
        self._book = book
        self._header = _header(binding)
        self._binding = binding or b""
        self._nonce = _text(random(_NONCE_SIZE))
        self._entry: Entry | None = None
        self._talk = ""
        self._over = False

    def receive(self, data: bytes) -> bytes:
        """The answer to a message of the client: the challenge to the first, to the second the proof of the server, and
        then ``user`` is set. LoginRefused, and the login is over, for anything but a login that succeeds."""
        if self._over:
            raise LoginRefused
        try:
            return self._challenge(data) if self._entry is None else self._judge(data, self._entry)
        except LoginRefused:
            self._over = True
            raise

    def _challenge(self, data: bytes) -> bytes:
        said = _match(_CLIENT_FIRST, data)
        if said is None or said[1] != self._header:
            raise LoginRefused
        escaped = said[3]
        if len(escaped) > _MAX_NAME or _STRAY_EQUALS.search(escaped):
            raise LoginRefused
        self._entry = self._book.find(escaped.replace("=2C", ",").replace("=3D", "="))
        verifier = self._entry.verifier
        self._nonce = said[4] + self._nonce
        answer = f"r={self._nonce},s={_text(verifier.salt)},i={verifier.iterations}"
        self._talk = f"{said[2]},{answer},"
        return answer.encode()

    def _judge(self, data: bytes, entry: Entry) -> bytes:
        self._over = True
        said = _match(_CLIENT_FINAL, data)
        if said is None:
            raise LoginRefused
        user, verifier = entry
        talk = (self._talk + said[1]).encode()
        signature = digest(verifier.stored_key, talk)
        proof = _bytes(said[4])
        client_key = bytes(a ^ b for a, b in zip(signature, proof, strict=False))
        good = [
            len(proof) == DIGEST_SIZE,
            hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key),
            hmac.compare_digest(_bytes(said[2]), self._header.encode() + self._binding),
            hmac.compare_digest(said[3], self._nonce),
            user is not None,
        ]
        if not all(good):
            raise LoginRefused
        self.user = user
        return b"v=" + b64encode(digest(verifier.server_key, talk))


class ClientLogin:
    """The client's side of one login: ``begin()``, then ``receive`` what the server says, until ``done``.

    ``iterations`` are the least and the most rounds that the server may ask for.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        binding: bytes | None,
        random: RandomBytes,
        iterations: tuple[int, int] = (LEAST_ITERATIONS, MOST_ITERATIONS),
    ) -> None:
        self.done = False
        self.method = method_for(binding)
        self._credentials = credentials
        self._header = _header(binding)
        self._binding = binding or b""
        self._nonce = _text(random(_NONCE_SIZE))
        self._limits = iterations
        self._bare = ""
        self._signature: bytes | None = None

    def check_offer(self, methods: Sequence[str]) -> None:
        """See whether the server offers the method that fits this connection; LoginNotOffered if it does not.

        That includes a server that offers none at all: who has a password wants the server to prove that it knows it.
        """
        if self.method in methods:
            return
        if not methods:
            raise LoginNotOffered(
                why="the server wants no password and proves nothing; leave the password out if that is what you want"
            )
        offered = ", ".join(methods)
        if self.method == BOUND:
            raise LoginNotOffered(
                why=f"the server offers no login bound to this TLS connection ({offered}): somebody may be in between"
            )
        raise LoginNotOffered(why=f"the server offers no login for a connection without TLS ({offered}); use ssl:")

    def begin(self) -> bytes:
        """The first message. PasswordUnfit if the user's name or the password can be none."""
        name = prepared(self._credentials.user, "user name").replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={name},r={self._nonce}"
        return f"{self._header}{self._bare}".encode()

    def receive(self, data: bytes) -> bytes:
        """The answer to a message of the server; b"" once it has proved itself, and then ``done`` is set.

        PeerError if it says something else than a challenge, ServerUnproven if its proof is wrong.
        """
        if self._signature is None:
            return self._prove(data)
        said = _match(_SERVER_FINAL, data)
        if said is None or not hmac.compare_digest(_bytes(said[1]), self._signature):
            raise ServerUnproven
        self.done = True
        return b""

    def _prove(self, data: bytes) -> bytes:
        said = _match(_SERVER_FIRST, data)
        if said is None or not said[1].startswith(self._nonce) or len(said[1]) == len(self._nonce):
            raise PeerError(why="its login challenge is none")
        least, most = self._limits
        iterations = int(said[3])
        if not least <= iterations <= most:
            raise PeerError(why=f"its login asks for {iterations} rounds, where {least} to {most} can be")
        salt = _bytes(said[2])
        if not salt:
            raise PeerError(why="its login challenge is none")
        root = salted(self._credentials.password, salt, iterations)
        client_key = digest(root, b"Client Key")
        final = f"c={_text(self._header.encode() + self._binding)},r={said[1]}"
        talk = ",".join((self._bare, said[0], final)).encode()
        signature = digest(hashlib.sha256(client_key).digest(), talk)
        self._signature = digest(digest(root, b"Server Key"), talk)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{final},p={_text(proof)}".encode()


def _header(binding: bytes | None) -> str:
    """How a client's first message begins (``gs2-header``)."""
    return "n,," if binding is None else "p=tls-exporter,,"


def _match(pattern: re.Pattern[str], data: bytes) -> re.Match[str] | None:
    if len(data) > MAX_DATA:
        return None
    try:
        return pattern.fullmatch(data.decode())
    except UnicodeDecodeError:
        return None


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _bytes(text: str) -> bytes:
    """What base64 text stands for; b"" if it is broken."""
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return b""
