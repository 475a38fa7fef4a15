"""One client's hold on a session, over all the network connections that it takes (docs/reliability.md).

A connection may break at any byte. The hold then lingers: the session goes on, the target is acknowledged, and what it
says waits here, in order and bounded, until the same client comes back with its token and takes up where it was.

    state     becomes     when
    present   absent      the connection breaks, and the client wanted to be able to come back
    absent    present     the client comes back with its token
    present   present     it comes back before we have noticed that the old connection is dead: that one is dropped
    any       over        the client says goodbye or breaks a rule; the wait has ended; the session is lost or taken

Who was absent when it was over is told why, if they come back in the time that they would have been waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kdsrv.alarm import Alarm
from kdsrv.auth.passwords import RandomBytes
from kdsrv.errors import KdsrvError, TargetError
from kdsrv.kd.packets import Packet
from kdsrv.server.delivery import MAX_UNREAD_PACKETS, Delivery
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.outbox import Outbox
from kdsrv.sessions.session import Session
from kdsrv.sessions.status import Status
from kdsrv.sessions.tenant import Applicant, TargetTaken
from kdsrv.wire.ledger import Ledger
from kdsrv.wire.messages import Attached, StatusReport

__all__ = ["LINGER", "Attachment", "Attachments", "Presence", "UnknownSession"]


LINGER: Final = 60.0
"""Seconds that a client whose connection broke is waited for, if nobody says otherwise."""
TOKEN_SIZE: Final = 16
"""Bytes."""
MOST_HOLDS: Final = 2048
"""Holds that are known by their tokens: of those that are over, and only kept to say so, the oldest go first."""


class UnknownSession(TargetError):
    """the session is not there any more: {why}"""

    code = "unknown-session"

    def __init__(self, *, why: str) -> None:
        super().__init__(target="the session", why=why)


class Presence(Protocol):
    """The client's connection, as far as the hold has to do with it."""

    @property
    def delivery(self) -> Delivery: ...

    def superseded(self) -> None:
        """The client has come back by another connection: this one is of no use."""
        ...

    def lost(self, reason: KdsrvError) -> None:
        """The hold is over, for this reason."""
        ...


class Attachment:
    """A SessionUser and a Tenant. ``token`` is None for a client that does not want to come back; it is waited for
    ``linger`` seconds."""

    yields = False
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        directory: Directory,
        session: Session,
        applicant: Applicant,
        ledger: Ledger,
        *,
        token: str | None,
        linger: float,
    ) -> None:
        self.session = session
        self.token = token
        self.linger = linger
        self.ledger = ledger
        self.outbox = Outbox()
        self.over: KdsrvError | None = None
        self.forgotten: Callable[[], None] = _nothing
        self._applicant = applicant
        self._clock = clock
        self._directory = directory
        self._presence: Presence | None = None
        self._delivery: Delivery | None = None
        self._absent_since = 0.0
        self._wait = Alarm(clock, self._waited_enough)

    # Coming and going

    def attached(self, *, resumed: bool) -> Attached:
        """What a client is told that has the session now, or again."""
        session = self.session
        return Attached(
            session.name,
            session.description,
            session.status,
            token=self.token,
            linger=self.linger,
            received=self.ledger.received,
            resumed=resumed,
        )

    def arrive(self, presence: Presence) -> None:
        """The client is there by this connection."""
        old, self._presence, self._delivery = self._presence, presence, presence.delivery
        self._wait.stop()
        if old is not None:
            old.superseded()

    def depart(self, presence: Presence) -> bool:
        """This connection has broken. Whether the client is waited for."""
        if self.token is None or presence is not self._presence or self.over is not None:
            return False
        self._presence = self._delivery = None
        self._absent_since = self._clock.seconds()
        self._wait.set(self._absent_since + self.linger)
        return True

    def leave(self, presence: Presence) -> None:
        """The client has left for good, by this connection."""
        if presence is self._presence:
            self._finish(UnknownSession(why="its client has left"))
            self._directory.close(self.session)
            self._forget()

    def discard(self) -> None:
        """The server ends: nobody is waited for any more, or told."""
        self._finish(UnknownSession(why="the server has ended"))
        self._forget()

    def _waited_enough(self) -> None:
        if self.over is None:
            self._log.info(
                "{target} is free again: its client did not come back in {seconds:.0f} s",
                target=self.session.name,
                seconds=self.linger,
            )
            self._finish(UnknownSession(why=f"the server did not wait longer than {self.linger:.0f} s"))
            self._directory.close(self.session)
        self._forget()

    def _finish(self, reason: KdsrvError) -> None:
        self.over = reason
        self._delivery = None
        self.outbox, self.ledger = Outbox(), Ledger()  # what they kept is of no more use

    def _forget(self) -> None:
        self._wait.stop()
        self.forgotten()

    def _end(self, reason: KdsrvError) -> None:
        """It is over for a reason that is not the client's, who is told at once or when it comes back."""
        presence, self._presence = self._presence, None
        self._finish(reason)
        if presence is not None:
            presence.lost(reason)
            if self.token is not None:
                # the connection may be dead already; then the client comes by another one, and asks
                self._wait.set(self._clock.seconds() + self.linger)
        else:
            self._log.info(
                "{holder} is not waited for any more: {error}", holder=self._applicant.holder, error=str(reason)
            )

    # As the tenant

    @property
    def applicant(self) -> Applicant:
        return self._applicant

    @property
    def absence(self) -> str | None:
        if self._presence is not None:
            return None
        gone = self._clock.seconds() - self._absent_since
        return f"their connection broke {gone:.0f} s ago, and they have {self.linger - gone:.0f} s to come back"

    def asked(self, text: str) -> bool:
        return self._delivery is not None and self._delivery.notify(text, asks=True)

    def told(self, text: str) -> None:
        if self._delivery is not None:
            self._delivery.notify(text)

    def taken(self, reason: TargetTaken) -> Sequence[Packet]:
        unread = self.outbox.take_prints()
        self._end(reason)
        return unread

    # As the session's user

    @property
    def is_behind(self) -> bool:
        """Whether the client is there and does not keep up."""
        return self._presence is not None and self.outbox.is_filling

    def packet_received(self, packet: Packet) -> None:
        delivery = self._delivery
        if delivery is not None:
            delivery.packet_received(packet)
        elif self.over is None:
            self.outbox.put(packet)
            if len(self.outbox) > MAX_UNREAD_PACKETS:
                self.session_lost(UnknownSession(why="the target said more than is kept for a client that is away"))

    def resynced(self) -> None:
        self.outbox.keep_prints()
        if self._delivery is not None:
            self._delivery.resynced()

    def requests_lost(self, count: int) -> None:
        if self._delivery is not None:
            self._delivery.requests_lost(count)
        else:
            self.outbox.lose_requests(count)

    def status_changed(self, status: Status) -> None:
        if self._delivery is not None:
            self._delivery.say(StatusReport(status))

    def session_lost(self, reason: KdsrvError) -> None:
        if self.over is None:
            self._end(reason)
            self._directory.close(self.session)


class Attachments:
    """The holds of all clients of a server. Those of clients that may come back are found by their tokens."""

    def __init__(self, clock: IReactorTime, directory: Directory, random: RandomBytes) -> None:
        self._clock = clock
        self._directory = directory
        self._random = random
        self._by_token: dict[str, Attachment] = {}

    def __len__(self) -> int:
        return len(self._by_token)

    def new(
        self, session: Session, applicant: Applicant, ledger: Ledger, *, lingers: bool, linger: float
    ) -> Attachment:
        """A hold on a session. One that ``lingers`` is kept until it forgets itself."""
        self._make_room()
        token = self._random(TOKEN_SIZE).hex() if lingers and linger > 0 else None
        attachment = Attachment(
            self._clock, self._directory, session, applicant, ledger, token=token, linger=linger if token else 0.0
        )
        ledger.keeping = token is not None
        if token is not None:
            self._by_token[token] = attachment
            attachment.forgotten = lambda: self._forget(token)
        return attachment

    def find(self, token: str, applicant: Applicant) -> Attachment:
        """The hold that a token stands for. UnknownSession, or the reason for which it is over, a sentence."""
        attachment = self._by_token.get(token)
        if attachment is None or attachment.applicant.user != applicant.user:
            raise UnknownSession(why="this server does not have it")
        if attachment.over is not None:
            # raised again and again, it would keep the frames of each time
            raise attachment.over.with_traceback(None)
        return attachment

    def discard(self) -> None:
        """The server has ended."""
        for attachment in tuple(self._by_token.values()):
            attachment.discard()

    def _make_room(self) -> None:
        if len(self._by_token) >= MOST_HOLDS:
            over = (attachment for attachment in self._by_token.values() if attachment.over is not None)
            if (oldest := next(over, None)) is not None:
                oldest.discard()

    def _forget(self, token: str) -> None:
        self._by_token.pop(token, None)


def _nothing() -> None:
    """What a hold does in the end that nobody keeps."""
