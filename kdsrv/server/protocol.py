"""One client's connection, as the server sees it: hello, login, attach, then a session's packets until either leaves.

    step        what is awaited                 time limit, seconds
    greeting    hello, and a login if the       10, or the connection is closed; counted from the first byte where the
                door asks for one               server dialled, as that connection waits for its client
    ready       attach, or a question           10, from the login if there was one
    opening     the transport to the target     the transport's own, and as in the next
    attached    anything                        45 without a byte (a ping goes out after 15)

The rules of what may be said when are those of ``kdsrv.wire.connection``; who may come in, and how soon after failures,
is for the ``Door``, and the ``Reception`` asks it; what waits for a client to read it is with the ``Delivery``; what a
client holds, beyond this connection, is its ``Attachment``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure
from typing_extensions import override

from kdsrv import __version__
from kdsrv.alarm import Alarm
from kdsrv.auth.users import User
from kdsrv.direct_writer import set_up_tcp
from kdsrv.errors import KdsrvError, PeerError, SetupError
from kdsrv.kd.packets import Packet
from kdsrv.server.attachment import Attachment
from kdsrv.server.delivery import Delivery
from kdsrv.server.errands import Errands
from kdsrv.server.reception import Reception
from kdsrv.sessions.session import Session
from kdsrv.wire.connection import Connection, ConnectionClosed, Event, State
from kdsrv.wire.frames import BreakIn, Resync
from kdsrv.wire.messages import (
    Attach,
    Bye,
    ClientHello,
    EndServer,
    ListEverything,
    Login,
    Message,
    Ping,
    Pong,
    Release,
    Response,
    Resume,
    Role,
    ServerHello,
    Watch,
)

if TYPE_CHECKING:
    from kdsrv.server.factory import KdsrvServerFactory

__all__ = ["CLOSE_LIMIT", "GREETING_LIMIT", "PING_INTERVAL", "SILENCE_LIMIT", "Dialled", "KdsrvServerProtocol"]

SOFTWARE: Final = f"kdsrv {__version__}"
GREETING_LIMIT: Final = 10.0
PING_INTERVAL: Final = 15.0
SILENCE_LIMIT: Final = 45.0
CLOSE_LIMIT: Final = 5.0
HURRIED_CLOSE_LIMIT: Final = 0.5


@dataclass(frozen=True, slots=True)
class Dialled:
    """What whoever dialled a client wants to be told: the client's first byte, that it has a target, and the end of
    the connection with its reason."""

    spoken: Callable[[], None]
    attached: Callable[[], None]
    gone: Callable[[TwistedFailure], None]


class KdsrvServerProtocol(Protocol):
    """The presence of a client.

    ``address`` is where it is (None: on this host), ``peer`` the same for people. ``dialled`` is given if the server
    opened the connection.
    """

    _log = Logger()
    delivery: Delivery
    """From connectionMade on."""

    def __init__(
        self, factory: KdsrvServerFactory, address: str | None, peer: str, dialled: Dialled | None = None
    ) -> None:
        self._factory = factory
        self._dialled = dialled
        self._is_unheard = dialled is not None
        self._clock = factory.clock
        self._peer = peer
        self._connection = Connection(Role.SERVER)
        self._alarm = Alarm(factory.clock, self._too_late)
        self._reception = Reception(factory.clock, factory.door, address, peer, say=self._say, refuse=self._end)
        self._attachment: Attachment | None = None
        self._session: Session | None = None
        self._errands = Errands(factory, peer, address, say=self._say, settle=self._settle, refuse=self._end)
        self._heard_at = 0.0
        self._ending = False

    # Twisted's side

    @override
    def connectionMade(self) -> None:
        transport: Any = self.transport
        set_up_tcp(transport)
        self.delivery = Delivery(self._connection, transport, self._too_much_unread)
        self._heard_at = self._clock.seconds()
        self._factory.connected(self)
        if self._dialled is not None:
            return
        self._alarm.set(self._heard_at + GREETING_LIMIT)
        crowded_out = self._factory.door.crowd.come(self, self._reception.place)
        if isinstance(crowded_out, KdsrvServerProtocol):
            crowded_out.make_room()

    @override
    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            return
        self._heard_at = self._clock.seconds()
        if self._is_unheard:
            self._first_heard()
        try:
            for event in self._connection.receive_data(data):
                self._on_event(event)
        except PeerError as error:
            self._log_breach(error)
            self._end(error)
            return
        if self._session is not None:
            self.delivery.confirm()

    @override
    def connectionLost(self, reason: TwistedFailure = connectionDone) -> None:
        self._alarm.stop()
        self._factory.forget(self)
        attachment = self._attachment
        if attachment is not None and not self._ending and attachment.depart(self):
            self._log.info(
                "{peer}: the connection broke; {target} waits {seconds:.0f} s for its client",
                peer=self._peer,
                target=attachment.session.name,
                seconds=attachment.linger,
            )
            self._attachment = self._session = None
        self._leave()
        if self._dialled is not None:
            self._dialled.gone(reason)

    def _log_breach(self, error: PeerError) -> None:
        """Of those that never had a target, such as port scanners, the log tells with the logarithm of their number."""
        if self._session is not None:
            self._log.info("{peer}: {error}", peer=self._peer, error=str(error))
            return
        count = self._factory.count_stranger()
        if count & (count - 1) == 0:
            self._log.info("{peer}: {error} (so far: {count})", peer=self._peer, error=str(error), count=count)

    # What the client says

    def _first_heard(self) -> None:
        """The client of a connection that the server opened is there: from now on it has to hurry like any other."""
        assert self._dialled is not None
        self._is_unheard = False
        self._alarm.set(self._heard_at + GREETING_LIMIT)
        self._dialled.spoken()

    def _on_event(self, event: Event) -> None:
        if self._ending:
            return
        if type(event) is Packet:
            assert self._session is not None
            self._session.send_packet(event.type, event.payload)
        elif isinstance(event, BreakIn):
            assert self._session is not None
            self._session.break_in()
        elif isinstance(event, Resync):
            assert self._session is not None
            self._session.resync()
        elif isinstance(event, ClientHello):
            self._greet()
        elif isinstance(event, Login):
            self._reception.challenge(event)
        elif isinstance(event, Response):
            self._judge(event)
        elif isinstance(event, Attach | ListEverything | EndServer | Release | Watch):
            self._serve(event)
        elif isinstance(event, Ping):
            self._say(Pong(event.id))
        elif isinstance(event, Bye | ConnectionClosed):
            self._leave()
            self._hang_up()

    # Coming in

    def _greet(self) -> None:
        version = self._connection.version
        assert version is not None
        methods = self._reception.offer(self._factory.binding_of(self.transport), self._factory.random)
        self._say(ServerHello(version, SOFTWARE, methods, instance=self._factory.instance))

    def _judge(self, message: Response) -> None:
        self._reception.judge(message)
        if self._reception.client is not None:
            self._factory.door.crowd.leave(self)
            self._alarm.set(self._clock.seconds() + GREETING_LIMIT)

    def make_room(self) -> None:
        """Too many connections wait to come in: this one goes, soon."""
        if not self._ending:
            self._end(SetupError(why="too many connections wait to come in, and yours is one of the oldest; try again"))
        self._alarm.set(self._clock.seconds() + HURRIED_CLOSE_LIMIT)

    # Being served

    def _serve(self, request: Attach | ListEverything | EndServer | Release | Watch) -> None:
        client = self._reception.client
        assert client is not None
        self._factory.door.crowd.leave(self)
        try:
            self._factory.serve(self)
            if isinstance(request, Attach):
                self._errands.attach(request, client, self._reception.name, self._connection.ledger)
            elif isinstance(request, ListEverything):
                self._say(self._factory.questions.listing(client))
            elif isinstance(request, Release):
                self._errands.release(request, client)
            elif isinstance(request, Watch):
                self._errands.watch(request, client, self.delivery)
                self._stay()
            else:
                self._end_server(client)
        except KdsrvError as error:
            self._end(error)

    def _end_server(self, client: User) -> None:
        self._factory.questions.end(client)
        self._say(Bye("the server ends"))
        self._leave()
        self._hang_up()

    def _settle(self, attachment: Attachment, resume: Resume | None) -> None:
        """From now on this connection is the client's presence. One that comes back is told again what got lost."""
        again = b"" if resume is None else attachment.ledger.kept_after(resume.received)
        self._connection.ledger = attachment.ledger
        self._attachment, self._session = attachment, attachment.session
        self.delivery.outbox = attachment.outbox
        self._say(attachment.attached(resumed=resume is not None))
        attachment.arrive(self)
        self.delivery.write_again(again)
        self.delivery.go_on()
        self._stay()

    def _stay(self) -> None:
        """The client has what it came for, and may take its time as long as it is there."""
        self._factory.attached(self)
        self._heard_at = self._clock.seconds()
        self._alarm.set(self._heard_at + PING_INTERVAL)
        if self._dialled is not None:
            self._dialled.attached()

    # What the attachment says

    def superseded(self) -> None:
        """The client has come back by another connection."""
        self._attachment = self._session = None
        self._ending = True
        self.delivery.detach()  # what waits is for the other connection
        self._abort()

    def lost(self, reason: KdsrvError) -> None:
        """The session is over for this client."""
        self._attachment = self._session = None
        self._log.info("{peer}: {error}", peer=self._peer, error=str(reason))
        self._end(reason)

    # Talking and ending

    def _say(self, message: Message) -> None:
        self.delivery.say(message)

    def _too_much_unread(self) -> None:
        """A client that asks without end and reads nothing; its end comes in the reactor's next turn."""
        if not self._ending:
            self._ending = True
            self._log.info("{peer} does not read what it asks for: its target is free again", peer=self._peer)
            self._abort()

    def _too_late(self) -> None:
        """The alarm of whatever step the connection is in."""
        now = self._clock.seconds()
        if self._ending:
            self._abort()
        elif self._reception.client is None:
            self._end(PeerError(why=f"it has not come in within {GREETING_LIMIT:.0f} s"))
        elif self._session is None and not (self._errands.is_opening or self._errands.is_watching):
            self._end(PeerError(why=f"it did not ask for a target within {GREETING_LIMIT:.0f} s"))
        elif now - self._heard_at >= SILENCE_LIMIT:
            self._log.info("{peer} is silent: its connection is given up", peer=self._peer)
            self._abort()
        else:
            self._say(Ping(0))
            self._alarm.set(now + PING_INTERVAL)

    def _end(self, error: KdsrvError) -> None:
        """Say why, and close."""
        self._leave()
        self.delivery.give_up(error)
        self._hang_up()

    def _leave(self) -> None:
        """Let go of the target, or of the attempt to open it."""
        self._ending = True
        self._reception.close()
        self._errands.cancel()
        attachment, self._attachment, self._session = self._attachment, None, None
        if attachment is not None:
            self._log.info("{peer} has left {target}", peer=self._peer, target=attachment.session.name)
            attachment.leave(self)

    def shut_down(self) -> None:
        """The server ends."""
        if not self._ending:
            if self._connection.state not in (State.CLOSED, State.ERROR):
                self.delivery.give_up(SetupError(why="the server is shutting down"))
            self._leave()
            self._hang_up()

    def _hang_up(self) -> None:
        self._alarm.set(self._clock.seconds() + CLOSE_LIMIT)
        self.delivery.detach()
        assert self.transport is not None
        self.transport.loseConnection()

    def _abort(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()
