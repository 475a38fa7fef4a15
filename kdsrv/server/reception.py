"""How a client comes in: what the server offers it, and its login if there has to be one.

    step         what is awaited     what follows
    greeted      the hello           in, where nobody has to log in; else: asked
    asked        login               challenge, held back a little after failures from the same place
    challenged   response            welcome and in, or a refusal, held back a little

Held messages are the only thing here that takes time, and ``close`` drops them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kdsrv.auth.door import Door, TooManyFailures, place_of
from kdsrv.auth.passwords import RandomBytes
from kdsrv.auth.scram import LoginRefused, ServerLogin
from kdsrv.auth.users import ANYBODY, User
from kdsrv.errors import KdsrvError
from kdsrv.wire.members import one_line
from kdsrv.wire.messages import Challenge, Login, Message, Response, Welcome

__all__ = ["Reception"]

MAX_NAME: Final = 64
"""Most characters of a user's name that are shown."""


class Reception:
    """One client at the door. ``client`` is who has come in, None before that.

    ``address`` is where they are (None: on this host), ``peer`` the same for people. ``say`` sends a message,
    ``refuse`` ends the connection with a sentence.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        door: Door,
        address: str | None,
        peer: str,
        *,
        say: Callable[[Message], None],
        refuse: Callable[[KdsrvError], None],
    ) -> None:
        self.client: User | None = None
        self.place = place_of(address)
        self._clock = clock
        self._door = door
        self._peer = peer
        self._say = say
        self._refuse = refuse
        self._login: ServerLogin | None = None
        self._held: IDelayedCall | None = None

    @property
    def name(self) -> str:
        """What the client that has come in calls itself, fit to be shown; may be empty."""
        return "" if self.client is None else one_line(self.client.name)[:MAX_NAME]

    def offer(self, binding: bytes | None, random: RandomBytes) -> tuple[str, ...]:
        """The login methods for a connection with this channel binding. If there are none, the client is in."""
        methods = self._door.methods(binding)
        if methods:
            self._login = self._door.login(binding, random)
        else:
            self.client = ANYBODY
        return methods

    def challenge(self, message: Login) -> None:
        """Challenge the client, as soon as earlier failures of its place allow it."""
        try:
            seconds = self._door.slowdown.hold(self.place, self._clock.seconds())
        except TooManyFailures as error:
            self._refuse(error)
            return
        if seconds:
            self._held = self._clock.callLater(seconds, self._challenge, message)
        else:
            self._challenge(message)

    def judge(self, message: Response) -> None:
        """Let the client in, with the server's own proof, or refuse it."""
        proof = self._answer(message.data)
        if proof is None:
            return
        assert self._login is not None
        self.client = self._login.user
        who = f" as '{self.name}'" if self.name else ""
        self._log.info("{peer} has logged in{who}", peer=self._peer, who=who)
        self._say(Welcome(proof))

    def close(self) -> None:
        """The connection has ended, or is about to: nothing more is said."""
        held, self._held = self._held, None
        if held is not None and held.active():
            held.cancel()

    def _challenge(self, message: Login) -> None:
        challenge = self._answer(message.data)
        if challenge is not None:
            self._say(Challenge(challenge))

    def _answer(self, data: bytes) -> bytes | None:
        """What the login says to a message of the client; None, and a refusal later, if it fails.

        The log grows with the logarithm of the failures.
        """
        assert self._login is not None
        try:
            return self._login.receive(data)
        except LoginRefused as refusal:
            failed = self._door.slowdown.failed(self.place, self._clock.seconds())
            if failed.total & (failed.total - 1) == 0:
                self._log.warn(
                    "{peer}: {error}; failures from {place}: {total}",
                    peer=self._peer,
                    error=str(refusal),
                    place=self.place,
                    total=failed.total,
                )
            self._held = self._clock.callLater(failed.hold, self._refuse, refusal)
            return None
