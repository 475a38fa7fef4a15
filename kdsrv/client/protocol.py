"""The client's end of a connection to a server: one session on one target, as an Uplink.

What happens goes to a ``SessionUser`` (a bridge, or the Python API), in the order in which the server says it. Requests
that the server's window has no room for wait here; a break-in or a resync never waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure
from typing_extensions import override

from kdsrv import __version__
from kdsrv.alarm import Alarm
from kdsrv.auth.passwords import Credentials
from kdsrv.client.admission import Admission
from kdsrv.direct_writer import DirectWriter, set_up_tcp
from kdsrv.errors import KdsrvError, PeerError
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.sessions.uplink import SessionUser
from kdsrv.tls.binding import channel_binding, tls_failure
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
    Ping,
    Pong,
    Role,
    ServerHello,
    StatusReport,
    Welcome,
)

__all__ = ["ClientProtocol", "ServerGone", "ServerRefused"]

SOFTWARE: Final = f"kdsrv {__version__}"
ANSWER_LIMIT: Final = 30.0
"""Seconds that the server may take to attach, which includes opening the target."""
PING_INTERVAL: Final = 15.0
SILENCE_LIMIT: Final = 45.0
CLOSE_LIMIT: Final = 5.0
"""Seconds that the last word may take to leave."""


class ServerRefused(KdsrvError):
    """the server says: {message}"""

    def __init__(self, *, code: str, message: str) -> None:
        super().__init__(message=message)
        self.code = code  # type: ignore[misc]  # the server's code, not that of a class here


class ServerGone(KdsrvError):
    """the connection to the server has ended: {why}"""

    code = "server-gone"


_NO_HELLO: Final = " before it said hello: is it a kdsrv server, and does it want tcp: or ssl:?"


class ClientProtocol(Protocol):
    """One session. ``attached`` fires with the server's ``Attached`` or fails with a KdsrvError. What happens after
    that goes to ``user``, to be set before the callback of ``attached`` (or the coroutine that awaits it) returns.

    ``trans`` is the kd-string of the target, or None for the server's default; ``client`` says who we are, which
    ``credentials`` prove, if there are any. ``binding_of`` gives the channel binding of a transport.
    ``disconnected`` fires when the network connection is gone, with or without a reason. ``prints_dropped`` is called
    with the number of prints that the server left out; unless replaced, it prints that number to ``user``.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        trans: str | None,
        client: str,
        credentials: Credentials | None = None,
        *,
        binding_of: Callable[[object], bytes | None] = channel_binding,
    ) -> None:
        self.attached: Deferred[Attached] = Deferred()
        self.disconnected: Deferred[None] = Deferred()
        self.prints_dropped: Callable[[int], None] = self._print_dropped
        self.user: SessionUser | None = None
        self._clock = clock
        self._trans = trans
        self._client = client
        self._admission = Admission(credentials)
        self._binding_of = binding_of
        self._connection = Connection(Role.CLIENT)
        self._alarm = Alarm(clock, self._too_late)
        self._waiting: deque[bytes] = deque()
        self._writer: DirectWriter | None = None
        self._heard_at = 0.0
        self._is_greeted = False
        self._error: KdsrvError | None = None
        self._leaving = False

    # Uplink

    def send_packet(self, packet_type: int, payload: bytes) -> None:
        """Hand a packet to the target. A request waits if the server's window is full."""
        if self._connection.state is not State.ATTACHED:
            return
        connection = self._connection
        if packet_type == PacketType.STATE_MANIPULATE and (self._waiting or not connection.has_room(payload)):
            self._waiting.append(payload)
        else:
            self._write(connection.send_packet(packet_type, payload))

    def break_in(self) -> None:
        if self._connection.state is State.ATTACHED:
            self._write(self._connection.send(BreakIn()))

    def resync(self) -> None:
        if self._connection.state is State.ATTACHED:
            self._waiting.clear()
            self._write(self._connection.send(Resync()))

    def leave(self, reason: str = "the client leaves") -> None:
        """End the session; the target stays as it is. Nothing more goes to ``user``."""
        self.user = None
        self._leaving = True
        if self._connection.state not in (State.CLOSED, State.ERROR):
            self._write(self._connection.send(Bye(reason)))
        self._hang_up()

    # Twisted's side

    @override
    def connectionMade(self) -> None:
        transport: Any = self.transport
        set_up_tcp(transport)
        self._writer = DirectWriter(transport, _nothing_waits)
        self._heard_at = self._clock.seconds()
        self._alarm.set(self._heard_at + ANSWER_LIMIT)
        self._say(ClientHello(SOFTWARE))

    @override
    def dataReceived(self, data: bytes) -> None:
        self._heard_at = self._clock.seconds()
        try:
            for event in self._connection.receive_data(data):
                if self._writer is None:
                    return
                self._on_event(event)
        except PeerError as error:
            self._fail(error)
            return
        if self._waiting and self._writer is not None:
            self._send_waiting()

    @override
    def connectionLost(self, reason: TwistedFailure = connectionDone) -> None:
        self._alarm.stop()
        self._writer = None
        if self._error is None and not self._leaving:
            self._error = self._loss(reason)
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
            if user is not None:
                user.status_changed(event.status)
        elif isinstance(event, ServerHello | Challenge | Welcome):
            self._come_in(event)
        elif isinstance(event, Attached):
            self._alarm.set(self._clock.seconds() + PING_INTERVAL)
            self.attached.callback(event)
        elif isinstance(event, Dropped):
            if event.prints and user is not None:
                self.prints_dropped(event.prints)
            if event.requests and user is not None and not self._connection.resyncing:
                user.requests_lost(event.requests)
        elif isinstance(event, Ping):
            self._say(Pong(event.id))
        elif isinstance(event, Failure):
            self._fail(ServerRefused(code=event.code, message=event.message))
        elif isinstance(event, Bye | ConnectionClosed):
            self._fail(ServerGone(why=event.reason if isinstance(event, Bye) else self._closed()))

    def _come_in(self, event: ServerHello | Challenge | Welcome) -> None:
        """One step of the login, if there has to be one; then ask for the target."""
        admission = self._admission
        answer: Message | None = None
        try:
            if isinstance(event, ServerHello):
                self._is_greeted = True
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
        return Attach(self._trans, self._client)

    def _print_dropped(self, number: int) -> None:
        text = f"[kdsrv: {number} prints of the target were dropped on the way]\n".encode()
        if self.user is not None:
            self.user.packet_received(Packet(PacketType.DEBUG_IO, DebugIo.print_string(text).encode()))

    def _send_waiting(self) -> None:
        connection = self._connection
        ready = []
        while self._waiting and connection.has_room(self._waiting[0]):
            ready.append(connection.send_packet(PacketType.STATE_MANIPULATE, self._waiting.popleft()))
        if ready:
            self._write(b"".join(ready))

    # Talking and ending

    def _say(self, message: Message) -> None:
        """Say it, unless the server's last word came in the segment that is being looked at."""
        if self._connection.state is not State.CLOSED:
            self._write(self._connection.send(message))

    def _write(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.write(data)

    def _too_late(self) -> None:
        now = self._clock.seconds()
        if self._writer is None:
            transport: Any = self.transport
            transport.abortConnection()
        elif not self.attached.called:
            self._fail(ServerGone(why=f"it did not answer within {ANSWER_LIMIT:.0f} s"))
        elif now - self._heard_at >= SILENCE_LIMIT:
            self._fail(ServerGone(why=f"it has been silent for {SILENCE_LIMIT:.0f} s"))
        else:
            self._say(Ping(0))
            self._alarm.set(now + PING_INTERVAL)

    def _fail(self, error: KdsrvError) -> None:
        if self._error is None:
            self._error = error
            self._write(self._connection.give_up(error))
            self._hang_up()
            self._tell_end()

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.detach()
            self._writer = None
            self._alarm.set(self._clock.seconds() + CLOSE_LIMIT)
            assert self.transport is not None
            self.transport.loseConnection()

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

    def _closed(self) -> str:
        return "it closed the connection" + ("" if self._is_greeted else _NO_HELLO)

    def _loss(self, reason: TwistedFailure) -> KdsrvError:
        """Why the connection is lost. A server that is not the expected one says so by itself."""
        if isinstance(reason.value, KdsrvError):
            return reason.value
        if reason.check(type(connectionDone.value)):
            return ServerGone(why=self._closed())
        if (why := tls_failure(reason)) is None:
            return ServerGone(why=reason.getErrorMessage())
        return ServerGone(why=f"{why}; write tcp: if it has no TLS" if "does not speak TLS (" in why else why)


def _nothing_waits() -> None:
    """What a client asks for is bounded by the server's window: it may all be queued."""
