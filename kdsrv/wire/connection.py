"""One connection of the kdsrv protocol, seen from either side, without I/O (docs/wire-protocol.md, "Conversation").

Bytes from the network go into ``receive_data``, which gives events; events go into ``send``, which gives bytes for the
network. An event is a control message, a ``Packet``, a ``BreakIn``, a ``Resync``, or at the end ``ConnectionClosed``.

Who may say what when is a table (``kdsrv.wire.conversation_table``), through which both sides walk with what they send
and receive. Up to ATTACHED the two take turns, so that they are in the same state but for what is under way; from there
on the state no longer changes until somebody says the last word.

* START: the client greets with the versions it speaks.
* GREETED: the server answers with the version for both, or with an error if there is none.
* LOGIN: the server has named login methods; the client begins with one of them, or leaves.
* BEGUN, CHALLENGED, ANSWERED: the messages of the login, in turn (``kdsrv.auth.scram`` says what is in them).
* READY: the client asks for a target, for a listing, for the end of the server, to give its target away, or to look on.
* LISTING, ENDING, RELEASING: the server answers that.
* ATTACHING: the server takes and opens it, and may report how that goes.
* ATTACHED: packets, break-ins, resyncs.
* JOINING, WATCHING: the server takes it on, and tells what happens.
* CLOSED: one side has said its last word, ``bye`` or ``error``. We say no more; what still comes is dropped unread.
* ERROR: the peer broke a rule. The one thing left to do is ``give_up``, which says why if that is possible.

What the table does not show: a server hello that names login methods leads to LOGIN, one that names none to READY; a
client begins with a method that was named; KD packet types are bound to a direction; a server echoes no more resyncs
than it got; requests stay within the window; what only some clients know is said to those that asked for it.

A session may outlive its connection. What is remembered for that is in the ``Ledger``, which is handed on to the next
connection; confirmations concern it alone, and are no events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from kdsrv.errors import KdsrvError, PeerError
from kdsrv.kd.packets import MANIPULATE, Packet
from kdsrv.wire import messages
from kdsrv.wire.conversation_table import LAST_WORDS, PACKET_TYPES, TABLE, State
from kdsrv.wire.frames import (
    BreakIn,
    Confirm,
    Control,
    Frame,
    FrameKind,
    FrameReader,
    LocalProtocolError,
    Resync,
    encode,
    encode_confirm,
    encode_packet,
)
from kdsrv.wire.ledger import Ledger
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Bye,
    ClientHello,
    Dropped,
    Failure,
    Login,
    Message,
    Notice,
    Role,
    ServerHello,
    Watch,
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

_NUMBERED: Final = (BreakIn, Resync, Dropped)
"""What a ledger counts beside packets."""


class Connection:
    """One network connection as ``role`` sees it. ``version`` is set once both sides have one.

    ``ledger`` is that of the connection before, to go on with its session; a server may put it in its place until it
    says that the client is attached. ``takes_notices`` says whether the client may be told a Notice.
    """

    def __init__(self, role: Role, versions: tuple[int, ...] = messages.VERSIONS, ledger: Ledger | None = None) -> None:
        self.role = role
        self.state = State.START
        self.version: int | None = None
        self.ledger = Ledger() if ledger is None else ledger
        self.takes_notices = False
        self._asked = Attach(None, "")
        self._methods: tuple[str, ...] = ()
        self._versions = versions
        self._reader = FrameReader()
        self._error: PeerError | None = None

    @property
    def outstanding(self) -> Outstanding:
        """The window account."""
        return self.ledger.outstanding

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
        if packet_type not in PACKET_TYPES[self.role]:
            raise LocalProtocolError(f"a {self.role} cannot send packets of type {packet_type}")
        data = encode_packet(packet_type, payload)
        if packet_type == MANIPULATE and not self._account(self.role, payload):
            raise LocalProtocolError("more requests than the window allows; ask has_room first")
        self.ledger.keep(data)
        return data

    def send(self, event: Sendable) -> bytes:
        """The bytes that say ``event``. LocalProtocolError, and nothing changes, if this side may not say it now."""
        if type(event) is Packet:
            return self.send_packet(*event)
        state = TABLE[self.role].get(self.state, {}).get(type(event))
        if state is None:
            raise LocalProtocolError(f"a {self.role} cannot send {event!r} when {self.state.name}")
        if isinstance(event, BreakIn):
            data = encode(FrameKind.BREAK_IN)
        elif isinstance(event, Resync):
            if self.role is Role.SERVER and not self.resyncing:
                raise LocalProtocolError("there is no resync to echo")
            data = encode(FrameKind.RESYNC)
            self._resync(self.role)
        else:
            assert isinstance(event, Message)
            if isinstance(event, ServerHello) and event.version != self.version:
                raise LocalProtocolError(f"version {self.version} was agreed on, not {event.version}")
            if isinstance(event, Login) and event.method not in self._methods:
                raise LocalProtocolError(f"the server did not offer {event.method}")
            if unasked := self._unasked(event):
                raise LocalProtocolError(f"the server must not send {unasked}")
            data = encode(FrameKind.CONTROL, messages.encode(event))
            self._enter(event, state)
        if isinstance(event, _NUMBERED):
            self.ledger.keep(data)
        return data

    def send_seen(self, missed: int, lines: Sequence[bytes]) -> bytes:
        """``send`` for a Seen whose lines are JSON already: what many see is put into JSON once."""
        if self.role is not Role.SERVER or self.state is not State.WATCHING:
            raise LocalProtocolError(f"a {self.role} cannot send what was seen when {self.state.name}")
        return encode(FrameKind.CONTROL, messages.encode_seen(missed, lines))

    def confirmation(self) -> bytes:
        """What tells the peer, after ``receive_data``, how much has come: nothing as long as that is not due."""
        ledger = self.ledger
        if not (ledger.keeping and ledger.confirm_due and self.state is State.ATTACHED):
            return b""
        return encode_confirm(ledger.confirm())

    def resume(self, received: int) -> bytes:
        """What to say again first to a peer that has received so many numbered frames. PeerError if that cannot be."""
        if self.state is not State.ATTACHED or not self.ledger.keeping:
            raise LocalProtocolError(f"there is nothing to resume when {self.state.name}")
        return self.ledger.kept_after(received)

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
                    if type(frame) is Confirm:
                        self._confirmed(frame)
                        continue
                    events.append(self._receive(frame))
                    if isinstance(events[-1], LAST_WORDS):
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

    def _confirmed(self, frame: Confirm) -> None:
        if self.state is not State.ATTACHED or not self.ledger.keeping:
            raise PeerError(why="it confirmed frames of a session that cannot be resumed")
        self.ledger.confirmed(frame.received)

    def _receive(self, frame: Frame) -> Event:
        """The event in a frame, after checking that the peer may send it now."""
        peer = self.role.other
        event: Event
        assert not isinstance(frame, Confirm)
        if type(frame) is Packet:
            if self.state is State.ATTACHED and frame.type in PACKET_TYPES[peer]:
                if frame.type == MANIPULATE and not self._account(peer, frame.payload):
                    raise PeerError(why="it sent more requests than the window allows")
                self.ledger.came(len(frame.payload))
                return frame
            event, name = frame, f"a packet of type {frame.type}"
        elif isinstance(frame, Control):
            message = messages.decode(frame.body, peer)
            event, name = message, f"message '{message.type}'"
        else:
            event, name = frame, "a break-in" if isinstance(frame, BreakIn) else "a resync"
        state = TABLE[peer].get(self.state, {}).get(type(event))
        if state is None or type(event) is Packet:
            raise PeerError(why=f"it sent {name}, which a {peer} does not send when {self.state.value}")
        if isinstance(event, Resync):
            if peer is Role.SERVER and not self.resyncing:
                raise PeerError(why="it echoed a resync that was never sent")
            if self.ledger.is_overfull:
                raise PeerError(why="it resyncs without end, and confirms nothing of what it is told")
            self._resync(peer)
        elif isinstance(event, Message):
            self._agree(event)
            self._enter(event, state)
        if isinstance(event, _NUMBERED):
            self.ledger.came(0)
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
        elif unasked := self._unasked(message):
            raise PeerError(why=f"it sent {unasked}")

    def _unasked(self, message: Message) -> str:
        """What a server must not say in this message to a client that has not asked for it, if anything."""
        if isinstance(message, Notice) and not self.takes_notices:
            return "a notice, which the client did not ask for"
        if isinstance(message, Attached):
            asked = self._asked
            if message.resumed is not (asked.resume is not None):
                return "a new session where one was to be resumed" if asked.resume else "a session that was to be new"
            if message.token is not None and not asked.resumable:
                return "a token, which the client did not ask for"
            if message.resumed and message.token is None:
                return "no token for a session that was resumed"
        return ""

    def _enter(self, message: Message, state: State) -> None:
        """Go on to ``state``, as the table says after ``message``."""
        if isinstance(message, ServerHello) and message.login:
            self._methods = message.login
            state = State.LOGIN
        elif isinstance(message, Attach):
            self._asked = message
            self.takes_notices = message.resumable or message.take is not None
        elif isinstance(message, Watch):
            self.takes_notices = True
        elif isinstance(message, Attached):
            self._attached(message)
        elif isinstance(message, Dropped):
            for _ in range(min(message.requests, len(self.outstanding))):
                self.outstanding.answered()
        self.state = state

    def _attached(self, message: Attached) -> None:
        """A session begins or goes on, with its window. The counts in the two messages confirmed what has come."""
        self.ledger.keeping = message.token is not None
        self.ledger.confirm()
        if not message.resumed:
            self.outstanding.window = message.window

    def _account(self, sender: Role, payload: bytes) -> bool:
        """Count a STATE_MANIPULATE packet. False if it is a request for which the window has no room."""
        outstanding = self.ledger.outstanding
        if sender is Role.SERVER:
            outstanding.answered()
            return True
        if not outstanding.has_room(payload):
            return False
        outstanding.asked(payload)
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
