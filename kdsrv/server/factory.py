"""All clients of one way into a server: each gets a protocol, and how many wait for a target is bounded here."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from typing_extensions import override

from kdsrv.auth.door import Door
from kdsrv.auth.passwords import RandomBytes
from kdsrv.auth.users import UserBook
from kdsrv.errors import SetupError
from kdsrv.server.attachment import LINGER, Attachments
from kdsrv.server.protocol import Dialled, KdsrvServerProtocol
from kdsrv.server.questions import NoAnswers, Questions
from kdsrv.server.spectators import Spectators
from kdsrv.sessions.directory import Directory
from kdsrv.tls.binding import channel_binding

__all__ = ["MAX_WAITING", "KdsrvServerFactory"]

MAX_WAITING: Final = 256
"""Clients that have come in and have no target yet; more are turned away. How many may wait outside, the door says."""


class KdsrvServerFactory(Factory):
    """Makes a protocol for each client; knows those that are connected.

    ``door`` says who may come in; without one, anybody may. ``questions`` answers what clients ask. ``binding_of``
    gives the channel binding of a transport, ``random`` the randomness of logins and tokens. ``linger`` is how many
    seconds a client whose connection broke is waited for.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        directory: Directory,
        door: Door | None = None,
        *,
        questions: Questions | None = None,
        binding_of: Callable[[object], bytes | None] = channel_binding,
        random: RandomBytes = secrets.token_bytes,
        linger: float = LINGER,
    ) -> None:
        self.clock = clock
        self.directory = directory
        self.door = Door(None) if door is None else door
        self.questions: Questions = NoAnswers() if questions is None else questions
        self.binding_of = binding_of
        self.random = random
        self.linger = linger
        self.instance = random(8).hex()
        self.attachments = Attachments(clock, directory, random)
        self.spectators = Spectators(clock, directory)
        self._connected: set[KdsrvServerProtocol] = set()
        self._waiting: set[KdsrvServerProtocol] = set()
        self._attached: set[KdsrvServerProtocol] = set()
        self._strangers = 0

    def beside(
        self, book: UserBook | None, questions: Questions | None = None, linger: float = LINGER
    ) -> KdsrvServerFactory:
        """The same for a listener of the same server with another book, and other answers if they are given; what the
        door counts is counted together, and a client may come back by either."""
        beside = KdsrvServerFactory(
            self.clock,
            self.directory,
            self.door.beside(book),
            questions=self.questions if questions is None else questions,
            binding_of=self.binding_of,
            random=self.random,
            linger=linger,
        )
        beside.instance, beside.attachments, beside.spectators = self.instance, self.attachments, self.spectators
        return beside

    @override
    def buildProtocol(self, addr: IAddress | None, dialled: Dialled | None = None) -> KdsrvServerProtocol:
        return KdsrvServerProtocol(self, getattr(addr, "host", None), _peer_name(addr), dialled)

    def connected(self, protocol: KdsrvServerProtocol) -> None:
        self._connected.add(protocol)

    def count_stranger(self) -> int:
        """One more has come who does not speak the protocol; gives how many have."""
        self._strangers += 1
        return self._strangers

    def serve(self, protocol: KdsrvServerProtocol) -> None:
        """Count a client that asks for something. SetupError, a sentence, if too many do already."""
        self._waiting.add(protocol)
        if len(self._waiting) > MAX_WAITING:
            raise SetupError(why=f"this server has {MAX_WAITING} clients waiting for a target; try again later")

    def attached(self, protocol: KdsrvServerProtocol) -> None:
        self._waiting.discard(protocol)
        self._attached.add(protocol)

    def forget(self, protocol: KdsrvServerProtocol) -> None:
        self.door.crowd.leave(protocol)
        self._connected.discard(protocol)
        self._waiting.discard(protocol)
        self._attached.discard(protocol)

    @override
    def stopFactory(self) -> None:
        for protocol in tuple(self._connected):
            protocol.shut_down()


def _peer_name(address: Any) -> str:
    """Where a client is, for people."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return "a local program"
    if port is None:
        return str(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
