"""What a client that has come in asks for: a target, its old session, the giving away of a target, a look on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from kdsrv.auth.users import User
from kdsrv.connection_strings import parse_kd_string
from kdsrv.errors import KdsrvError, PeerError, SetupError
from kdsrv.server.attachment import Attachment
from kdsrv.server.delivery import Delivery
from kdsrv.server.spectators import Spectator
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.session import Session
from kdsrv.sessions.tenant import Applicant
from kdsrv.wire.ledger import Ledger
from kdsrv.wire.messages import Attach, Message, Notice, Release, Released, Resume, Watch

if TYPE_CHECKING:
    from kdsrv.server.factory import KdsrvServerFactory

__all__ = ["Errands"]


class Errands:
    """The errands of one connection from ``peer``, as people call it, at ``host`` (None: this host).

    ``say`` sends a message, ``settle`` makes the connection the presence of a hold, new or taken up again, ``refuse``
    ends the connection with a sentence. Methods raise a KdsrvError, a sentence, for what is not possible.
    """

    _log = Logger()

    def __init__(
        self,
        factory: KdsrvServerFactory,
        peer: str,
        host: str | None,
        *,
        say: Callable[[Message], None],
        settle: Callable[[Attachment, Resume | None], None],
        refuse: Callable[[KdsrvError], None],
    ) -> None:
        self._factory = factory
        self._peer = peer
        self._host = host
        self._say = say
        self._settle = settle
        self._refuse = refuse
        self._opening: Deferred[Session] | None = None
        self._spectator: Spectator | None = None

    @property
    def is_watching(self) -> bool:
        """Whether the client looks on at a target."""
        return self._spectator is not None

    @property
    def is_opening(self) -> bool:
        """Whether a target is being opened, or asked for."""
        return self._opening is not None

    def cancel(self) -> None:
        """The client has gone."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        if self._spectator is not None:
            self._spectator.stop()

    def attach(self, request: Attach, client: User, name: str, ledger: Ledger) -> None:
        """Give the client its target, now or when it is open. ``ledger`` is that of its connection."""
        holder = request.client or "an unnamed client"
        if name:
            holder = f"{name} ({holder})"
        applicant = Applicant(holder, self._peer, self._host, client, request.take)
        if request.resume is not None:
            if not request.resumable:
                raise PeerError(why="it wants to resume a session that is not to be resumable")
            attachment = self._factory.attachments.find(request.resume.token, applicant)
            self._log.info("{peer} has come back to {target}", peer=self._peer, target=attachment.session.name)
            self._settle(attachment, request.resume)
            return
        self._opening = self._factory.directory.open(
            None if request.trans is None else parse_kd_string(request.trans),
            holder,
            self._peer,
            client,
            host=self._host,
            take=request.take,
            tell=lambda text: self._say(Notice(text)),
        )
        self._opening.addCallbacks(self._opened, self._not_opened, callbackArgs=(request, applicant, ledger))

    def release(self, request: Release, client: User) -> None:
        """Give the client's target to who has asked for it."""
        spec = None if request.trans is None else parse_kd_string(request.trans)
        target, to = self._factory.directory.release(spec, client, self._host)
        self._log.info("{peer} has given {target} to {to}", peer=self._peer, target=target, to=to)
        self._say(Released(target, to))

    def watch(self, request: Watch, client: User, delivery: Delivery) -> None:
        """Let the client look on at a target, as long as it is there."""
        spec = None if request.trans is None else parse_kd_string(request.trans)
        self._spectator = self._factory.spectators.watch(spec, client, delivery)
        who = request.client or "an unnamed client"
        self._log.info("{peer} ({who}) looks on at {target}", peer=self._peer, who=who, target=self._spectator.target)
        delivery.drained = self._spectator.drained
        self._spectator.start()

    def _opened(self, session: Session, request: Attach, applicant: Applicant, ledger: Ledger) -> None:
        self._opening = None
        self._log.info(
            "{peer} ({holder}) has {target}", peer=self._peer, holder=session.lease.holder, target=session.name
        )
        factory = self._factory
        attachment = factory.attachments.new(
            session, applicant, ledger, lingers=request.resumable, linger=factory.linger
        )
        session.on_leave = request.on_leave or OnLeave.STAY
        self._settle(attachment, None)
        factory.directory.start(session, attachment, attachment)

    def _not_opened(self, failure: TwistedFailure) -> None:
        if self._opening is None:
            return
        self._opening = None
        error = failure.value
        if isinstance(error, KdsrvError):
            self._log.info("{peer}: {error}", peer=self._peer, error=str(error))
            self._refuse(error)
        else:
            self._log.failure("opening a target for {peer}", failure, peer=self._peer)
            self._refuse(SetupError(why="the server failed to open the target; its log has the details"))
