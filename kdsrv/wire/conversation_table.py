"""Who may say what when in the kdsrv protocol: one table, sender -> state -> event -> next state.

``kdsrv.wire.connection`` walks through it, and explains the states.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from kdsrv.kd.packets import Packet, PacketType
from kdsrv.wire.frames import BreakIn, Confirm, Resync
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
    Notice,
    Ping,
    Pong,
    Release,
    Released,
    Response,
    Role,
    Seen,
    ServerHello,
    StatusReport,
    Watch,
    Watching,
    Welcome,
)

__all__ = ["LAST_WORDS", "PACKET_TYPES", "TABLE", "State"]


class State(Enum):
    """How far a conversation is."""

    START = "start"
    GREETED = "greeted"
    LOGIN = "login"
    BEGUN = "begun"
    CHALLENGED = "challenged"
    ANSWERED = "answered"
    READY = "ready"
    LISTING = "listing"
    ENDING = "ending"
    RELEASING = "releasing"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    JOINING = "joining"
    WATCHING = "watching"
    CLOSED = "closed"
    ERROR = "error"


_Row = dict[type[object], State]


def _stays(state: State, *said: type[object]) -> _Row:
    return dict.fromkeys(said, state)


_CLIENT_ENDS: Final[_Row] = {Bye: State.CLOSED}
_SERVER_ENDS: Final[_Row] = {Bye: State.CLOSED, Failure: State.CLOSED}

TABLE: Final[dict[Role, dict[State, _Row]]] = {
    Role.CLIENT: {
        State.START: {ClientHello: State.GREETED, **_CLIENT_ENDS},
        State.GREETED: _CLIENT_ENDS,
        State.LOGIN: {Login: State.BEGUN, **_CLIENT_ENDS},
        State.BEGUN: _CLIENT_ENDS,
        State.CHALLENGED: {Response: State.ANSWERED, **_CLIENT_ENDS},
        State.ANSWERED: _CLIENT_ENDS,
        State.READY: {
            Attach: State.ATTACHING,
            ListEverything: State.LISTING,
            EndServer: State.ENDING,
            Release: State.RELEASING,
            Watch: State.JOINING,
            **_stays(State.READY, Ping, Pong),
            **_CLIENT_ENDS,
        },
        State.LISTING: {**_stays(State.LISTING, Ping, Pong), **_CLIENT_ENDS},
        State.ENDING: {**_stays(State.ENDING, Ping, Pong), **_CLIENT_ENDS},
        State.RELEASING: {**_stays(State.RELEASING, Ping, Pong), **_CLIENT_ENDS},
        State.ATTACHING: {**_stays(State.ATTACHING, Ping, Pong), **_CLIENT_ENDS},
        State.ATTACHED: {
            **_stays(State.ATTACHED, Packet, BreakIn, Resync, Confirm, Ping, Pong),
            **_CLIENT_ENDS,
        },
        State.JOINING: {**_stays(State.JOINING, Ping, Pong), **_CLIENT_ENDS},
        State.WATCHING: {**_stays(State.WATCHING, Ping, Pong), **_CLIENT_ENDS},
    },
    Role.SERVER: {
        State.START: _SERVER_ENDS,
        State.GREETED: {ServerHello: State.READY, **_SERVER_ENDS},
        State.LOGIN: _SERVER_ENDS,
        State.BEGUN: {Challenge: State.CHALLENGED, **_SERVER_ENDS},
        State.CHALLENGED: _SERVER_ENDS,
        State.ANSWERED: {Welcome: State.READY, **_SERVER_ENDS},
        State.READY: {**_stays(State.READY, Ping, Pong), **_SERVER_ENDS},
        State.LISTING: {Listing: State.READY, **_stays(State.LISTING, Ping, Pong), **_SERVER_ENDS},
        State.ENDING: {**_stays(State.ENDING, Ping, Pong), **_SERVER_ENDS},
        State.RELEASING: {Released: State.READY, **_stays(State.RELEASING, Ping, Pong), **_SERVER_ENDS},
        State.ATTACHING: {
            Attached: State.ATTACHED,
            **_stays(State.ATTACHING, StatusReport, Notice, Ping, Pong),
            **_SERVER_ENDS,
        },
        State.ATTACHED: {
            **_stays(State.ATTACHED, Packet, Resync, Dropped, Confirm, StatusReport, Notice, Ping, Pong),
            **_SERVER_ENDS,
        },
        State.JOINING: {Watching: State.WATCHING, **_stays(State.JOINING, Ping, Pong), **_SERVER_ENDS},
        State.WATCHING: {
            **_stays(State.WATCHING, Seen, StatusReport, Notice, Ping, Pong),
            **_SERVER_ENDS,
        },
    },
}

LAST_WORDS: Final = (Bye, Failure)

PACKET_TYPES: Final[dict[Role, frozenset[int]]] = {
    Role.CLIENT: frozenset({PacketType.STATE_MANIPULATE, PacketType.DEBUG_IO, PacketType.FILE_IO}),
    Role.SERVER: frozenset(PacketType) - {PacketType.ACKNOWLEDGE, PacketType.RESEND, PacketType.RESET},
}
"""Acknowledgements, resends and resets belong to a link and never cross the network."""
