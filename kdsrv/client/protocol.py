"""The client's end of one connection to a server: a session on one target, or a while of it, as an Uplink.

What happens goes to a ``SessionUser`` (a bridge, or the Python API), in the order in which the server says it. Requests
that the server's window has no room for wait here; a break-in or a resync never waits.

A session that is ``resumable`` can be gone on with by another connection: ``thread`` is what that one needs to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure as TwistedFailure
from typing_extensions import override

from kdsrv import __version__
from kdsrv.auth.passwords import Credentials
from kdsrv.client.admission import Admission
from kdsrv.client.backlog import Backlog
from kdsrv.client.failures import ServerGone, ServerRefused, why_lost
from kdsrv.client.line import Line
from kdsrv.client.terms import CALM, PLAIN, Rhythm, Terms, Thread
from kdsrv.errors import KdsrvError, PeerError
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.packets import MANIPULATE, Packet, PacketType
from kdsrv.sessions.status import Status
from kdsrv.sessions.tenant import Take
from kdsrv.sessions.uplink import SessionUser
from kdsrv.tls.binding import channel_binding
from kdsrv.wire.connection import Connection, ConnectionClosed, Event, State
from kdsrv.wire.frames import BreakIn, Resync
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Bye,
    Challenge,
    ClientHello,
    Dropped,
    Failure,
    Message,
    Notice,
    Ping,
    Pong,
    Resume,
    Role,
    ServerHello,
    StatusReport,
    Welcome,
)

__all__ = ["ClientProtocol", "ServerGone", "ServerRefused"]

SOFTWARE: Final = f"kdsrv {__version__}"
ANSWER_LIMIT: Final = 30.0
"""Seconds that the server may take to attach, which includes opening the target."""
PATIENCE: Final = 2.0
"""Seconds without a word from the server after which people are told what is waited for."""


class ClientProtocol(Protocol):
    """One connection. ``attached`` fires with the server's ``Attached`` or fails with a KdsrvError. What happens after
    that goes to ``user``, to be set before the callback of ``attached`` (or the coroutine that awaits it) returns.

    ``trans`` is the kd-string of the target, or None for the server's default; ``client`` says who we are, which
    ``credentials`` prove, if there are any. With ``thread`` the session is not a new one; what waits in ``backlog`` is
    said as soon as there is one. ``binding_of`` gives the channel binding of a transport.

    ``disconnected`` fires when the network connection is gone, with or without a reason. ``prints_dropped`` is called
    with the number of prints that the server left out; unless replaced, it prints that number to ``user``. ``noticed``
    is called with what the server says of other users, ``waits`` if it is slow to say anything at all. ``is_greeted``:
    it has said hello, if only by an earlier connection. ``instance`` tells one run of a server from the next.
    """

    _line: Line
    """From connectionMade on."""

    def __init__(
        self,
        clock: IReactorTime,
        trans: str | None,
        client: str,
        credentials: Credentials | None = None,
        *,
        terms: Terms = PLAIN,
        thread: Thread | None = None,
        backlog: Backlog | None = None,
        rhythm: Rhythm = CALM,
        noticed: Callable[[Notice], None] | None = None,
        is_greeted: bool = False,
        binding_of: Callable[[object], bytes | None] = channel_binding,
    ) -> None:
        self.attached: Deferred[Attached] = Deferred()
        self.disconnected: Deferred[None] = Deferred()
        self.prints_dropped: Callable[[int], None] = self._print_dropped
        self.user: SessionUser | None = None
        self.thread = thread
        self.waits: Callable[[], None] = _nothing
        self.is_greeted = is_greeted
        self.instance = ""
        self._clock = clock
        self._trans = trans
        self._client = client
        self._terms = terms
        self._rhythm = rhythm
        self._noticed = noticed
        self._admission = Admission(credentials)
        self._binding_of = binding_of
        self._connection = Connection(Role.CLIENT, ledger=None if thread is None else thread.ledger)
        self._backlog = Backlog() if backlog is None else backlog
        self._made_at = self._heard_at = 0.0
        self._status_behind: Status | None = None
        self._error: KdsrvError | None = None
        self._leaving = False

    @property
    def unanswered(self) -> int:
        """How many requests are under way that get a reply."""
        return len(self._connection.outstanding)

    # Uplink

    def send_packet(self, packet_type: int, payload: bytes) -> None:
        """Hand a packet to the target. A request waits if the server's window is full; PeerError if too many do."""
        if self._connection.state is not State.ATTACHED:
            return
        connection = self._connection
        if packet_type == MANIPULATE and (len(self._backlog) or not self._has_room(payload)):
            self._backlog.put(Packet(packet_type, payload))
        else:
            self._line.write(connection.send_packet(packet_type, payload))

    def break_in(self) -> None:
        if self._connection.state is State.ATTACHED:
            self._line.write(self._connection.send(BreakIn()))

    def resync(self) -> None:
        if self._connection.state is State.ATTACHED:
            self._backlog.drop_requests()
            self._line.write(self._connection.send(Resync()))

    def leave(self, reason: str = "the client leaves") -> None:
        """End the session; the target stays as it is. Nothing more goes to ``user``."""
        self.user = None
        self._leaving = True
        if self._connection.state not in (State.CLOSED, State.ERROR):
            self._line.write(self._connection.send(Bye(reason)))
        self._line.hang_up()

    # Twisted's side

    @override
    def connectionMade(self) -> None:
        self._line = Line(self._clock, self.transport, self._too_late)
        self._made_at = self._heard_at = self._clock.seconds()
        self._line.set_alarm(self._made_at + PATIENCE)
        self._say(ClientHello(SOFTWARE))

    @override
    def dataReceived(self, data: bytes) -> None:
        if not self._line.is_open:
            return  # another connection may be going on with the session
        self._heard_at = self._clock.seconds()
        try:
            for event in self._connection.receive_data(data):
                if not self._line.is_open:
                    return
                self._on_event(event)
        except PeerError as error:
            self._fail(error)
            return
        if not self._line.is_open:
            return
        if self._connection.ledger.is_overfull:
            self._fail(PeerError(why="it confirms nothing of what it is sent"))
            return
        if confirmation := self._connection.confirmation():
            self._line.write(confirmation)
        if len(self._backlog) and self._connection.state is State.ATTACHED:
            self._send_waiting()

    @override
    def connectionLost(self, reason: TwistedFailure = connectionDone) -> None:
        self._line.lost()
        if self._error is None and not self._leaving:
            self._error = why_lost(reason, is_greeted=self.is_greeted)
        self._tell_end()
        self.disconnected.callback(None)

    # What the server says

    def _on_event(self, event: Event) -> None:
        user = self.user
        if type(event) is Packet:
            if user is not None and not (self._connection.resyncing and event.type == PacketType.STATE_MANIPULATE):
                user.packet_received(event)
        elif isinstance(event, Resync):
            if user is not None:
                user.resynced()
        elif isinstance(event, StatusReport):
            self._status_behind = None
            if user is not None:
                user.status_changed(event.status)
        elif isinstance(event, ServerHello | Challenge | Welcome):
            self._come_in(event)
        elif isinstance(event, Attached):
            self._begin(event)
        elif isinstance(event, Dropped):
            if event.prints and user is not None:
                self.prints_dropped(event.prints)
            if event.requests and user is not None and not self._connection.resyncing:
                user.requests_lost(event.requests)
        elif isinstance(event, Ping):
            self._say(Pong(event.id))
        elif isinstance(event, Pong):
            status, self._status_behind = self._status_behind, None
            if status is not None and user is not None:
                user.status_changed(status)
        elif isinstance(event, Notice) and self._noticed is not None:
            self._noticed(event)
        elif isinstance(event, Failure):
            self._fail(self._admission.refused(event))
        elif isinstance(event, Bye | ConnectionClosed):
            self._fail(ServerGone(why=event.reason if isinstance(event, Bye) else "it closed the connection"))

    def _come_in(self, event: ServerHello | Challenge | Welcome) -> None:
        """One step of the login, if there has to be one; then ask for the target."""
        admission = self._admission
        answer: Message | None = None
        try:
            if isinstance(event, ServerHello):
                self.is_greeted = True
                self.instance = event.instance
                answer = admission.greeted(event, self._binding_of(self.transport))
            elif isinstance(event, Challenge):
                answer = admission.challenged(event)
            else:
                admission.welcomed(event)
        except KdsrvError as error:
            self._fail(error)
            return
        self._say(self._request() if answer is None else answer)

    def _request(self) -> Message:
        """What is asked for once this client has come in."""
        if self._terms.take is Take.ASK:
            self._line.set_alarm(self._clock.seconds() + self._rhythm.ping)
        thread, (resumable, take, on_leave) = self.thread, self._terms
        resume = None if thread is None else Resume(thread.token, thread.ledger.received)
        return Attach(self._trans, self._client, resumable, take, on_leave, resume)

    def _begin(self, attached: Attached) -> None:
        """We have the target. What the connection before has lost goes first, then what has waited since."""
        connection = self._connection
        if attached.token is None:
            self._rhythm = CALM  # it cannot be replaced, so it is not given up lightly
        self._line.set_alarm(self._clock.seconds() + self._rhythm.ping)
        self.thread = None if attached.token is None else Thread(attached.token, connection.ledger)
        is_open = connection.state is State.ATTACHED  # if not, the server's last word is in the same segment
        if attached.resumed and is_open:
            self._line.write(connection.resume(attached.received))
        self.attached.callback(attached)
        if not is_open:
            return
        for saying in self._backlog.take_all():
            if type(saying) is Packet:
                self.send_packet(*saying)
            else:
                (self.break_in if isinstance(saying, BreakIn) else self.resync)()
        if attached.resumed:
            # what the server says again comes before the answer to this, and the status belongs behind it
            self._status_behind = attached.status
            self._say(Ping(0))

    def _print_dropped(self, number: int) -> None:
        text = f"[kdsrv: {number} prints of the target were dropped on the way]\n".encode()
        if self.user is not None:
            self.user.packet_received(Packet(PacketType.DEBUG_IO, DebugIo.print_string(text).encode()))

    def _has_room(self, payload: bytes) -> bool:
        """Whether the server's window, and what it has yet to confirm, leave room for this request."""
        return self._connection.has_room(payload) and not self._connection.ledger.is_full

    def _send_waiting(self) -> None:
        """While there is a session only requests wait."""
        connection, backlog = self._connection, self._backlog
        ready = []
        while len(backlog):
            request = backlog.first()
            assert type(request) is Packet
            if not self._has_room(request.payload):
                break
            ready.append(connection.send_packet(*request))
            backlog.take()
        if ready:
            self._line.write(b"".join(ready))

    # Talking and ending

    def _say(self, message: Message) -> None:
        """Say it, unless the server's last word came in the segment that is being looked at."""
        if self._connection.state is not State.CLOSED:
            self._line.write(self._connection.send(message))

    def _too_late(self) -> None:
        """Nothing has come that should have, or nothing at all for a while."""
        now, heard_at, rhythm = self._clock.seconds(), self._heard_at, self._rhythm
        if not self.attached.called and not self._waits_for_holder:
            self._not_attached(now)
        elif now >= heard_at + rhythm.silence:
            self._fail(ServerGone(why=f"it has been silent for {rhythm.silence:.0f} s"))
        elif now >= heard_at + rhythm.ping:
            self._say(Ping(0))
            self._line.set_alarm(min(now + rhythm.ping, heard_at + rhythm.silence))
        else:
            self._line.set_alarm(heard_at + rhythm.ping)

    def _not_attached(self, now: float) -> None:
        """There is no answer yet to what this client came for."""
        limit = self._answer_limit
        if now >= self._made_at + limit:
            self._fail(ServerGone(why=f"it did not answer within {limit:.0f} s"))
            return
        self._line.set_alarm(self._made_at + limit)
        if not self.is_greeted:
            self.waits()

    @property
    def _answer_limit(self) -> float:
        """Seconds until there has to be a session. One that is there already needs no target to be opened."""
        return ANSWER_LIMIT if self.thread is None else self._rhythm.silence

    @property
    def _waits_for_holder(self) -> bool:
        """Whether somebody is being asked for the target, who may take their time."""
        return self._terms.take is Take.ASK and self._connection.state is State.ATTACHING

    def _fail(self, error: KdsrvError) -> None:
        """It is over. A server that is merely not heard is told nothing: it would come late, and end what another
        connection is going on with by then."""
        if self._error is not None:
            return
        self._error = error
        if self.thread is None or not isinstance(error, ServerGone):
            self._line.write(self._connection.give_up(error))
            self._line.hang_up()
        else:
            self._line.drop()
        self._tell_end()

    def _tell_end(self) -> None:
        """Tell whoever waits, once."""
        user, self.user = self.user, None
        error = self._error
        if error is None:
            return
        if not self.attached.called:
            self.attached.errback(error)
        elif user is not None:
            user.session_lost(error)


def _nothing() -> None:
    """Nobody wants to know."""
