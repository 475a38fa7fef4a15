"""How a client comes in: what it makes of the login that the server wants, or does not want.

Whatever the server says, a client with a password says nothing of what it came for before the server has proved that it
knows that password.
"""

from __future__ import annotations

import secrets

from kdsrv.auth.passwords import Credentials, RandomBytes
from kdsrv.auth.scram import ClientLogin
from kdsrv.errors import KdsrvError
from kdsrv.wire.messages import Challenge, Login, Response, ServerHello, Welcome

__all__ = ["Admission", "LoginNeeded"]


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
