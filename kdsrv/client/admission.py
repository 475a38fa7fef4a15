"""How a client comes in: what it makes of the login that the server wants, or does not want.

Whatever the server says, a client with a password says nothing of what it came for before the server has proved that it
knows that password.
"""

from __future__ import annotations

import secrets
from typing import Final

from kdsrv.auth.passwords import Credentials, RandomBytes
from kdsrv.auth.scram import ClientLogin, LoginRefused
from kdsrv.client.failures import ServerRefused
from kdsrv.errors import KdsrvError
from kdsrv.wire.messages import Challenge, Failure, Login, Response, ServerHello, Welcome

__all__ = ["Admission", "LoginNeeded"]

_NAMELESS: Final = " (no user name was given; a server with --users wants --user NAME)"


class LoginNeeded(KdsrvError):
    """the server wants a password, and none was given (0x80004005): put password= into the string, or give
    --password-file or KDSRV_PASSWORD"""

    code = "login"


class Admission:
    """One client's way in. ``credentials`` are None for somebody without a password.

    The methods raise a KdsrvError, a sentence, for everything that does not lead in.
    """

    def __init__(self, credentials: Credentials | None, random: RandomBytes = secrets.token_bytes) -> None:
        self._credentials = credentials
        self._random = random
        self._login: ClientLogin | None = None

    def greeted(self, hello: ServerHello, binding: bytes | None) -> Login | None:
        """What to say to a server's hello over a connection with this channel binding; None: we are in."""
        if self._credentials is None:
            if hello.login:
                raise LoginNeeded
            return None
        self._login = ClientLogin(self._credentials, binding=binding, random=self._random)
        self._login.check_offer(hello.login)
        return Login(self._login.method, self._login.begin())

    def challenged(self, challenge: Challenge) -> Response:
        """The answer to the server's challenge, after some tens of milliseconds of work."""
        assert self._login is not None
        return Response(self._login.receive(challenge.data))

    def welcomed(self, welcome: Welcome) -> None:
        """Check the server's proof. When this returns, we are in."""
        assert self._login is not None
        self._login.receive(welcome.data)

    def refused(self, failure: Failure) -> ServerRefused:
        """What to make of a server's error. It says nothing of why a login failed, but we know what it lacks."""
        is_nameless = self._credentials is not None and not self._credentials.user
        hint = _NAMELESS if is_nameless and failure.code == LoginRefused.code else ""
        return ServerRefused(code=failure.code, message=failure.message + hint)
