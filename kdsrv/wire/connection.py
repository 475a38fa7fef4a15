"""One connection of the kdsrv protocol, seen from either side, without I/O (docs/wire-protocol.md, "Conversation").

Bytes from the network go into ``receive_data``, which gives events; events go into ``send``, which gives bytes for the
network. An event is a control message, a ``Packet``, a ``BreakIn``, a ``Resync``, or at the end ``ConnectionClosed``.

Who may say what when is one table, ``_TABLE``: sender -> state -> event -> next state. Both sides walk through it with
what they send and what they receive. Up to ATTACHED the two take turns, so that they are in the same state but for what
is under way; from there on the state no longer changes until somebody says the last word.

* START: the client greets with the versions it speaks.
* GREETED: the server answers with the version for both, or with an error if there is none.
* LOGIN: the server has named login methods; the client begins with one of them, or leaves.
* BEGUN, CHALLENGED, ANSWERED: the messages of the login, in turn (``kdsrv.auth.scram`` says what is in them).
* READY: the client asks for a target, for a listing, or for the end of the server.
* LISTING, ENDING: the server answers that.
* ATTACHING: the server takes and opens it, and may report how that goes.
* ATTACHED: packets, break-ins, resyncs.
* CLOSED: one side has said its last word, ``bye`` or ``error``. We say no more; what still comes is dropped unread.
* ERROR: the peer broke a rule. The one thing left to do is ``give_up``, which says why if that is possible.

What the table does not show: a server hello that names login methods leads to LOGIN, one that names none to READY; a
client begins with a method that was named; KD packet types are bound to a direction; a server echoes no more resyncs
than it got; requests stay within the window.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from kdsrv.errors import KdsrvError, PeerError
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.wire import messages
from kdsrv.wire.frames import (
    BreakIn,
    Control,
    Frame,
    FrameKind,
    FrameReader,
    LocalProtocolError,
    Resync,
    encode,
    encode_packet,
)
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Bye,
    Challenge,
    ClientHello,
    Dropped,
    EndServer,
    Failure,
    ListEverything,
    Listing,
    Login,
    Message,
    Ping,
    Pong,
    Response,
    Role,
    ServerHello,
    StatusReport,
    Welcome,
)
from kdsrv.wire.window import Outstanding

__all__ = [
    "Connection",
    "ConnectionClosed",
    "Event",
    "LocalProtocolError",
    "Sendable",
    "State",
    "VersionError",
]


class VersionError(PeerError):
    """The client speaks version {client} of the kdsrv protocol and the server version {server}; bring both to one
    release of kdsrv."""

    code = "version"


class ConnectionClosed(NamedTuple):
    """The network connection has ended between two frames."""


Sendable: TypeAlias = Message | Packet | BreakIn | Resync
Event: TypeAlias = Sendable | ConnectionClosed


class State(Enum):
    """How far the conversation is; the module's docstring explains each."""

    START = "start"
    GREETED = "greeted"
    LOGIN = "login"
    BEGUN = "begun"
    CHALLENGED = "challenged"
    ANSWERED = "answered"
    READY = "ready"
    LISTING = "listing"
    ENDING = "ending"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    CLOSED = "closed"
    ERROR = "error"


_TABLE: Final[dict[Role, dict[State, dict[type[object], State]]]] = {
    Role.CLIENT: {
        State.START: {ClientHello: State.GREETED, Bye: State.CLOSED},
        State.GREETED: {Bye: State.CLOSED},
        State.LOGIN: {Login: State.BEGUN, Bye: State.CLOSED},
        State.BEGUN: {Bye: State.CLOSED},
        State.CHALLENGED: {Response: State.ANSWERED, Bye: State.CLOSED},
        State.ANSWERED: {Bye: State.CLOSED},
        State.READY: {
            Attach: State.ATTACHING,
            ListEverything: State.LISTING,
            EndServer: State.ENDING,
            Ping: State.READY,
            Pong: State.READY,
            Bye: State.CLOSED,
        },
        State.LISTING: {Ping: State.LISTING, Pong: State.LISTING, Bye: State.CLOSED},
        State.ENDING: {Ping: State.ENDING, Pong: State.ENDING, Bye: State.CLOSED},
        State.ATTACHING: {Ping: State.ATTACHING, Pong: State.ATTACHING, Bye: State.CLOSED},
        State.ATTACHED: {
            Packet: State.ATTACHED,
            BreakIn: State.ATTACHED,
            Resync: State.ATTACHED,
            Ping: State.ATTACHED,
            Pong: State.ATTACHED,
            Bye: State.CLOSED,
        },
    },
    Role.SERVER: {
        State.START: {Bye: State.CLOSED, Failure: State.CLOSED},
        State.GREETED: {ServerHello: State.READY, Bye: State.CLOSED, Failure: State.CLOSED},
        State.LOGIN: {Bye: State.CLOSED, Failure: State.CLOSED},
        State.BEGUN: {Challenge: State.CHALLENGED, Bye: State.CLOSED, Failure: State.CLOSED},
        State.CHALLENGED: {Bye: State.CLOSED, Failure: State.CLOSED},
        State.ANSWERED: {Welcome: State.READY, Bye: State.CLOSED, Failure: State.CLOSED},
        State.READY: {Ping: State.READY, Pong: State.READY, Bye: State.CLOSED, Failure: State.CLOSED},
        State.LISTING: {
            Listing: State.READY,
            Ping: State.LISTING,
            Pong: State.LISTING,
            Bye: State.CLOSED,
            Failure: State.CLOSED,
        },
        State.ENDING: {Ping: State.ENDING, Pong: State.ENDING, Bye: State.CLOSED, Failure: State.CLOSED},
        State.ATTACHING: {
            Attached: State.ATTACHED,
            StatusReport: State.ATTACHING,
            Ping: State.ATTACHING,
            Pong: State.ATTACHING,
            Bye: State.CLOSED,
            Failure: State.CLOSED,
        },
        State.ATTACHED: {
            Packet: State.ATTACHED,
            Resync: State.ATTACHED,
            StatusReport: State.ATTACHED,
            Dropped: State.ATTACHED,
            Ping: State.ATTACHED,
            Pong: State.ATTACHED,
            Bye: State.CLOSED,
            Failure: State.CLOSED,
        },
    },
}

_LAST_WORDS: Final = (Bye, Failure)

_PACKET_TYPES: Final[dict[Role, frozenset[int]]] = {
    Role.CLIENT: frozenset({PacketType.STATE_MANIPULATE, PacketType.DEBUG_IO, PacketType.FILE_IO}),
    Role.SERVER: frozenset(PacketType) - {PacketType.ACKNOWLEDGE, PacketType.RESEND, PacketType.RESET},
}
"""Acknowledgements, resends and resets belong to a link and never cross the network."""


class Connection:
    """One network connection as ``role`` sees it. ``version`` is set once both sides have one."""

    def __init__(self, role: Role, versions: tuple[int, ...] = messages.VERSIONS) -> None:
        self.role = role
        self.state = State.START
        self.version: int | None = None
        self.outstanding = Outstanding()
        self._methods: tuple[str, ...] = ()
        self._versions = versions
        self._reader = FrameReader()
        self._error: PeerError | None = None

    @property
    def resyncing(self) -> bool:
        """Whether a resync is not echoed yet. Until it is, a client ignores replies: they are to older requests."""
        return self.outstanding.echoes_missing > 0

    def has_room(self, payload: bytes) -> bool:
        """Whether the window lets a client send this STATE_MANIPULATE payload now."""
        return self.outstanding.has_room(payload)

    def send_packet(self, packet_type: int, payload: bytes) -> bytes:
        """``send`` for a packet, without the detour."""
        if self.state is not State.ATTACHED:
            raise LocalProtocolError(f"a {self.role} cannot send a packet when {self.state.name}")
        if packet_type not in _PACKET_TYPES[self.role]:
            raise LocalProtocolError(f"a {self.role} cannot send packets of type {packet_type}")
        data = encode_packet(packet_type, payload)
        if packet_type == PacketType.STATE_MANIPULATE and not self._account(self.role, payload):
            raise LocalProtocolError("more requests than the window allows; ask has_room first")
        return data

    def send(self, event: Sendable) -> bytes:
        """The bytes that say ``event``. LocalProtocolError, and nothing changes, if this side may not say it now."""
        if type(event) is Packet:
            return self.send_packet(*event)
        state = _TABLE[self.role].get(self.state, {}).get(type(event))
        if state is None:
            raise LocalProtocolError(f"a {self.role} cannot send {event!r} when {self.state.name}")
        if isinstance(event, BreakIn):
            return encode(FrameKind.BREAK_IN)
        if isinstance(event, Resync):
            if self.role is Role.SERVER and not self.resyncing:
                raise LocalProtocolError("there is no resync to echo")
            self._resync(self.role)
            return encode(FrameKind.RESYNC)
        if isinstance(event, ServerHello) and event.version != self.version:
            raise LocalProtocolError(f"version {self.version} was agreed on, not {event.version}")
        if isinstance(event, Login) and event.method not in self._methods:
            raise LocalProtocolError(f"the server did not offer {event.method}")
        assert isinstance(event, Message)
        data = encode(FrameKind.CONTROL, messages.encode(event))
        self._enter(event, state)
        return data

    def give_up(self, error: KdsrvError) -> bytes:
        """The sentence that says why this side ends the connection now, as bytes: none if the last word has been said.

        Unlike ``send`` this is allowed in every state, also after the peer broke a rule.
        """
        if self.state is State.CLOSED:
            return b""
        self.state = State.CLOSED
        text = str(error.args[0])
        last_word: Message = Failure(error.code, text) if self.role is Role.SERVER else Bye(text)
        return encode(FrameKind.CONTROL, messages.encode(last_word))

    def receive_data(self, data: bytes) -> list[Event]:
        """What the peer said with these bytes; ``b""`` means that the network connection has ended.

        PeerError if it may not say that; then, and whenever called again after it, until ``give_up``.
        """
        if self._error is not None and self.state is State.ERROR:
            raise self._error
        if not data:
            return self._receive_end()
        events: list[Event] = []
        try:
            if self.state is not State.CLOSED:
                for frame in self._reader.receive(data):
                    events.append(self._receive(frame))
                    if isinstance(events[-1], _LAST_WORDS):
                        break
        except PeerError as error:
            self._fail(error)
            raise
        return events

    def _receive_end(self) -> list[Event]:
        if self._reader.partial and self.state is not State.CLOSED:
            raise self._fail(PeerError(why="the connection ended in the middle of a frame"))
        self.state = State.CLOSED
        return [ConnectionClosed()]

    def _receive(self, frame: Frame) -> Event:
        """The event in a frame, after checking that the peer may send it now."""
        peer = self.role.other
        event: Event
        if type(frame) is Packet:
            if self.state is State.ATTACHED and frame.type in _PACKET_TYPES[peer]:
                if frame.type == PacketType.STATE_MANIPULATE and not self._account(peer, frame.payload):
                    raise PeerError(why="it sent more requests than the window allows")
                return frame
            event, name = frame, f"a packet of type {frame.type}"
        elif isinstance(frame, Control):
            message = messages.decode(frame.body, peer)
            event, name = message, f"message '{message.type}'"
        else:
            event, name = frame, "a break-in" if isinstance(frame, BreakIn) else "a resync"
        state = _TABLE[peer].get(self.state, {}).get(type(event))
        if state is None or type(event) is Packet:
            raise PeerError(why=f"it sent {name}, which a {peer} does not send when {self.state.value}")
        if isinstance(event, Resync):
            if peer is Role.SERVER and not self.resyncing:
                raise PeerError(why="it echoed a resync that was never sent")
            self._resync(peer)
        elif isinstance(event, Message):
            self._agree(event)
            self._enter(event, state)
        return event

    def _agree(self, message: Message) -> None:
        """Find the version for both in a hello of the peer, and hold it to the login methods that were offered."""
        if isinstance(message, ClientHello):
            common = set(message.versions).intersection(self._versions)
            if not common:
                raise VersionError(client=_listed(message.versions), server=_listed(self._versions))
            self.version = max(common)
        elif isinstance(message, ServerHello):
            if message.version not in self._versions:
                raise VersionError(client=_listed(self._versions), server=message.version)
            self.version = message.version
        elif isinstance(message, Login) and message.method not in self._methods:
            raise PeerError(why=f"it wants to log in by {message.method}, which was not offered")

    def _enter(self, message: Message, state: State) -> None:
        """Go on to ``state``, as the table says after ``message``."""
        if isinstance(message, ServerHello) and message.login:
            self._methods = message.login
            state = State.LOGIN
        elif isinstance(message, Attached):
            self.outstanding.window = message.window
        elif isinstance(message, Dropped):
            for _ in range(min(message.requests, len(self.outstanding))):
                self.outstanding.answered()
        self.state = state

    def _account(self, sender: Role, payload: bytes) -> bool:
        """Count a STATE_MANIPULATE packet. False if it is a request for which the window has no room."""
        if sender is Role.SERVER:
            self.outstanding.answered()
            return True
        if not self.outstanding.has_room(payload):
            return False
        self.outstanding.asked(payload)
        return True

    def _resync(self, sender: Role) -> None:
        if sender is Role.CLIENT:
            self.outstanding.resync()
        else:
            self.outstanding.echo()

    def _fail(self, error: PeerError) -> PeerError:
        self.state = State.ERROR
        self._error = error
        return error


def _listed(versions: tuple[int, ...]) -> str:
    return ", ".join(map(str, versions)) or "none"
