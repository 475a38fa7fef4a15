"""Two ends of the kdsrv protocol for tests: ready-made events, and connections brought to a given state."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from kdsrv.kd.packets import Packet, PacketType
from kdsrv.sessions.status import Halted, HaltReason
from kdsrv.wire.connection import Connection, Event, State
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Challenge,
    ClientHello,
    EndServer,
    ListEverything,
    Login,
    Release,
    Response,
    Role,
    ServerHello,
    Watch,
    Watching,
)
from kdsrv.wire.window import DEFAULT_WINDOW, Window

__all__ = ["HALTED", "METHOD", "READ", "READ_REPLY", "chunks", "pair", "receive_all"]

METHOD = "SCRAM-SHA-256"
_LOGIN_STATES = (State.LOGIN, State.BEGUN, State.CHALLENGED, State.ANSWERED)

HALTED = Halted(0, HaltReason.BREAKPOINT, 0x80000003, 0xFFFFF80312345678)

READ = Packet(PacketType.STATE_MANIPULATE, bytes.fromhex("30310000") + bytes(52))
"""ReadVirtualMemory, a request that is replied to."""

READ_REPLY = Packet(PacketType.STATE_MANIPULATE, READ.payload + b"MZ")


_HELLO = (Role.CLIENT, ClientHello("a client"))
_READY = (_HELLO, (Role.SERVER, ServerHello(1, "a server")))
_LOGIN = (
    _HELLO,
    (Role.SERVER, ServerHello(1, "a server", (METHOD,))),
    (Role.CLIENT, Login(METHOD, b"begin")),
    (Role.SERVER, Challenge(b"challenge")),
    (Role.CLIENT, Response(b"response")),
)
_LIST = (*_READY, (Role.CLIENT, ListEverything()))
_END = (*_READY, (Role.CLIENT, EndServer()))
_RELEASE = (*_READY, (Role.CLIENT, Release("sim:")))
_WATCH = (
    *_READY,
    (Role.CLIENT, Watch("sim:", "kim@desk")),
    (Role.SERVER, Watching("sim:", "a simulated target", HALTED)),
)


def pair(state: State = State.ATTACHED, window: Window = DEFAULT_WINDOW) -> tuple[Connection, Connection]:
    """A client and a server that have talked until both are in ``state``."""
    attach = (
        *_READY,
        (Role.CLIENT, Attach("sim:", "kim@desk")),
        (Role.SERVER, Attached("sim:", "a simulated target", HALTED, window)),
    )
    ways = {
        State.LISTING: _LIST,
        State.ENDING: _END,
        State.RELEASING: _RELEASE,
        **dict.fromkeys((State.JOINING, State.WATCHING), _WATCH),
        **dict.fromkeys(_LOGIN_STATES, _LOGIN),
    }
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    for role, message in ways.get(state, attach):
        if client.state is state:
            break
        sender, receiver = (client, server) if role is Role.CLIENT else (server, client)
        receiver.receive_data(sender.send(message))
    assert client.state is server.state is state
    return client, server


def chunks(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """``data`` cut at these places, without empty pieces."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(places) if start < stop]


def receive_all(connection: Connection, pieces: Iterable[bytes]) -> list[Event]:
    """All events that these pieces give, one after another."""
    return [event for piece in pieces for event in connection.receive_data(piece)]
