"""The example conversation of docs/wire-protocol.md, made by the two ends of the implementation."""

from __future__ import annotations

import struct
from textwrap import wrap

from kdsrv.auth.passwords import Credentials
from kdsrv.auth.scram import PLAIN, ClientLogin, ServerLogin
from kdsrv.auth.users import OnePassword
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.sessions.status import Halted, HaltReason, Running
from kdsrv.wire.connection import Connection, Sendable
from kdsrv.wire.frames import BreakIn, Resync
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Bye,
    Challenge,
    ClientHello,
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

__all__ = ["login", "transcript"]

_PC = 0xFFFFF80312345678
_WIDTH = 100


def login() -> list[tuple[Role, bytes]]:
    """The messages of the login of somebody with the password ``secret``, in turn."""
    client = ClientLogin(
        Credentials("secret", "kim"), binding=None, random=lambda size: b"client nonce".ljust(size, b"!")
    )
    book = OnePassword("secret", lambda size: b"salt".ljust(size, b"!"))
    server = ServerLogin(book, binding=None, random=lambda size: b"server nonce".ljust(size, b"!"))
    said = [(Role.CLIENT, client.begin())]
    while len(said) < 4:
        role, data = said[-1]
        machine = server if role is Role.CLIENT else client
        said.append((role.other, machine.receive(data)))
    client.receive(said[-1][1])
    return said


def _request(api: int, union: bytes = b"", data: bytes = b"", status: int = 0x103) -> Packet:
    """A STATE_MANIPULATE packet (KD protocol, 2.3)."""
    head = struct.pack("<IHHII", api, 0, 0, status, 0)
    return Packet(PacketType.STATE_MANIPULATE, head + union.ljust(40, b"\0") + data)


def _stop() -> Packet:
    """A breakpoint on processor 0 (KD protocol, 2.1)."""
    head = struct.pack("<IHHIIQQ", 0x3030, 6, 0, 2, 0, 0xFFFFA80400001080, _PC)
    record = struct.pack("<IIQQII", 0x80000003, 0, 0, _PC, 1, 0).ljust(152, b"\0") + struct.pack("<II", 1, 0)
    report = struct.pack(
        "<QQIHH16sHHHHI", 0xFFFF0FF0, 0x400, 0x246, 16, 3, b"\xcc\xc3".ljust(16, b"\xcc"), 16, 43, 43, 83, 0
    )
    return Packet(PacketType.STATE_CHANGE64, head + record + report)


def _conversation() -> list[tuple[Role, Sendable]]:
    client, server = Role.CLIENT, Role.SERVER
    stopped = Halted(0, HaltReason.BREAKPOINT, 0x80000003, _PC)
    where = struct.pack("<QII", _PC, 2, 0)
    text = b"hello\n"
    (_, begin), (_, challenge), (_, response), (_, proof) = login()
    return [
        (client, ClientHello("kdsrv 0.1.0")),
        (server, ServerHello(1, "kdsrv 0.1.0", (PLAIN,))),
        (client, Login(PLAIN, begin)),
        (server, Challenge(challenge)),
        (client, Response(response)),
        (server, Welcome(proof)),
        (client, Attach("sim:", "kim@desk")),
        (server, Attached("sim:", "a simulated target", stopped)),
        (server, _stop()),
        (client, _request(0x3130, where)),
        (client, _request(0x3130, where)),
        (server, _request(0x3130, struct.pack("<QII", _PC, 2, 2), b"\xcc\xc3", status=0)),
        (server, _request(0x3130, struct.pack("<QII", _PC, 2, 2), b"\xcc\xc3", status=0)),
        (client, _request(0x313C, struct.pack("<IIQQQ", 0x10002, 0, 0x400, 1, 0))),
        (server, StatusReport(Running())),
        (server, Packet(PacketType.DEBUG_IO, struct.pack("<IHHII", 0x3230, 6, 0, len(text), 0) + text)),
        (client, BreakIn()),
        (server, _stop()),
        (server, StatusReport(stopped)),
        (client, Resync()),
        (server, Resync()),
        (server, _stop()),
        (server, Ping(1)),
        (client, Pong(1)),
        (client, Bye("the debugger has left")),
    ]


def _shown(sender: Role, event: Sendable, data: bytes) -> str:
    """A frame as the document shows it: the length, the kind, then JSON as it is and anything else in hexadecimal."""
    head = f"{sender}  {data[:4].hex()} {data[4:5].hex()}"
    if isinstance(event, Message):
        return f"{head} {data[5:].decode()}"
    body = data[5:7].hex() + " " + data[7:].hex(" ", -4) if isinstance(event, Packet) else ""
    return "\n".join(wrap(f"{head} {body}".rstrip(), _WIDTH, subsequent_indent=" " * 21))


def transcript() -> str:
    """All frames of the conversation, in order. Both ends have to agree with every one of them."""
    ends = {role: Connection(role) for role in Role}
    shown = []
    for sender, event in _conversation():
        data = ends[sender].send(event)
        received = ends[sender.other].receive_data(data)
        if received != [event]:
            raise AssertionError(f"{event!r} came out as {received!r}")
        shown.append(_shown(sender, event, data))
    return "\n".join(shown) + "\n"
