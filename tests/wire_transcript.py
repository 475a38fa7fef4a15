"""The example conversations of docs/wire-protocol.md, made by the two ends of the implementation."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from textwrap import wrap

from kdsrv.auth.passwords import Credentials
from kdsrv.auth.scram import PLAIN, ClientLogin, ServerLogin
from kdsrv.auth.users import OnePassword
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.sessions.status import Halted, HaltReason, Running
from kdsrv.wire.connection import Connection, Sendable
from kdsrv.wire.frames import BreakIn, Resync, encode_confirm
from kdsrv.wire.ledger import Ledger
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
    Resume,
    Role,
    Seen,
    ServerHello,
    StatusReport,
    Watch,
    Watching,
    Welcome,
)

__all__ = ["login", "resumed_transcript", "transcript", "watch_transcript"]

_PC = 0xFFFFF80312345678
_STOPPED = Halted(0, HaltReason.BREAKPOINT, 0x80000003, _PC)
_INSTANCE = "00112233445566ff"
_TOKEN = "0123456789abcdef0123456789abcdef"
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


def _read(size: int = 2) -> Packet:
    return _request(0x3130, struct.pack("<QII", _PC, size, 0))


def _read_reply(data: bytes = b"\xcc\xc3") -> Packet:
    return _request(0x3130, struct.pack("<QII", _PC, len(data), len(data)), data, status=0)


def _print(text: bytes) -> Packet:
    return Packet(PacketType.DEBUG_IO, struct.pack("<IHHII", 0x3230, 6, 0, len(text), 0) + text)


def _conversation() -> list[tuple[Role, Sendable]]:
    client, server = Role.CLIENT, Role.SERVER
    (_, begin), (_, challenge), (_, response), (_, proof) = login()
    return [
        (client, ClientHello("kdsrv 0.1.0")),
        (server, ServerHello(1, "kdsrv 0.1.0", (PLAIN,))),
        (client, Login(PLAIN, begin)),
        (server, Challenge(challenge)),
        (client, Response(response)),
        (server, Welcome(proof)),
        (client, Attach("sim:", "kim@desk")),
        (server, Attached("sim:", "a simulated target", _STOPPED)),
        (server, _stop()),
        (client, _read()),
        (client, _read()),
        (server, _read_reply()),
        (server, _read_reply()),
        (client, _request(0x313C, struct.pack("<IIQQQ", 0x10002, 0, 0x400, 1, 0))),
        (server, StatusReport(Running())),
        (server, _print(b"hello\n")),
        (client, BreakIn()),
        (server, _stop()),
        (server, StatusReport(_STOPPED)),
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


class _Line:
    """One network connection. What is said on it comes at once, unless it is lost."""

    def __init__(self, ledgers: dict[Role, Ledger] | None = None) -> None:
        self.ends = {role: Connection(role, ledger=None if ledgers is None else ledgers[role]) for role in Role}

    def say(self, conversation: Iterable[tuple[Role, Sendable]], *, lost: bool = False) -> Iterator[str]:
        """The frames of the conversation. Both ends have to agree with every one of them."""
        for sender, event in conversation:
            data = self.ends[sender].send(event)
            if not lost:
                self._hear(sender, data, event)
            yield _shown(sender, event, data)

    def confirm(self, sender: Role) -> str:
        """One end says how much has come, earlier than it has to."""
        data = encode_confirm(self.ends[sender].ledger.confirm())
        assert self.ends[sender.other].receive_data(data) == []
        return f"{sender}  {data[:4].hex()} {data[4:5].hex()} {data[5:].hex()}"

    def say_again(self, sender: Role, received: int, event: Sendable) -> str:
        """One end repeats what the other has not got, which is this event."""
        data = self.ends[sender].resume(received)
        self._hear(sender, data, event)
        return _shown(sender, event, data)

    def _hear(self, sender: Role, data: bytes, event: Sendable) -> None:
        received = self.ends[sender.other].receive_data(data)
        if received != [event]:
            raise AssertionError(f"{event!r} came out as {received!r}")


def transcript() -> str:
    """A client logs in, and has a session."""
    return "\n".join(_Line().say(_conversation())) + "\n"


def resumed_transcript() -> str:
    """A client whose connection breaks comes back by another."""
    client, server = Role.CLIENT, Role.SERVER
    ledgers = {role: Ledger() for role in Role}
    hellos: list[tuple[Role, Sendable]] = [
        (client, ClientHello("kdsrv 0.1.0")),
        (server, ServerHello(1, "kdsrv 0.1.0", instance=_INSTANCE)),
    ]
    attached = Attached("sim:", "a simulated target", _STOPPED, token=_TOKEN, linger=60)
    first, second = _Line(ledgers), _Line(ledgers)
    shown = [
        *first.say(hellos),
        *first.say([(client, Attach("sim:", "kim@desk", resumable=True)), (server, attached)]),
        *first.say([(server, _stop()), (client, _read(2)), (server, _read_reply())]),
        first.confirm(client),
        *first.say([(client, _read(1))]),
        "------  the connection breaks, and with it goes what is under way:",
        *first.say([(server, _read_reply(b"\xcc")), (client, _read(4))], lost=True),
        "------  the client comes back by another connection:",
        *second.say(hellos),
    ]
    resume = Resume(_TOKEN, ledgers[client].received)
    again = Attached(
        *("sim:", "a simulated target", _STOPPED),
        token=_TOKEN,
        linger=60,
        received=ledgers[server].received,
        resumed=True,
    )
    shown += [
        *second.say([(client, Attach("sim:", "kim@desk", resumable=True, resume=resume)), (server, again)]),
        "------  both say again what the other has not got:",
        second.say_again(server, resume.received, _read_reply(b"\xcc")),
        second.say_again(client, again.received, _read(4)),
        "------  and go on:",
        *second.say([(server, _read_reply(b"\xcc\xc3\xcc\xcc")), (client, Bye("the debugger has left"))]),
    ]
    return "\n".join(shown) + "\n"


def watch_transcript() -> str:
    """A client looks on."""
    client, server = Role.CLIENT, Role.SERVER
    holder = {"holder": "kim@desk", "address": "192.0.2.7", "text": "kim@desk from 192.0.2.7 has the target"}
    go_on = {"api": "Continue2", "processor": 0, "status": "0x10002", "step": False}
    conversation: list[tuple[Role, Sendable]] = [
        (client, ClientHello("kdsrv 0.1.0")),
        (server, ServerHello(1, "kdsrv 0.1.0", instance=_INSTANCE)),
        (client, Watch("sim:", "pat@lab")),
        (server, Watching("sim:", "a simulated target", _STOPPED)),
        (server, Seen(0, [{"time": 1767225600.25, "kind": "holder", **holder}])),
        (
            server,
            Seen(
                0,
                [
                    {
                        "time": 1767225601.5,
                        "kind": "continue",
                        "direction": "to-target",
                        "text": "continue: 00010002 dbg continue",
                        **go_on,
                    },
                    {
                        "time": 1767225601.75,
                        "kind": "print",
                        "direction": "from-target",
                        "text": "hello",
                        "processor": 0,
                        "printed": "hello\n",
                    },
                ],
            ),
        ),
        (server, StatusReport(Running())),
        (client, Bye("the client has seen enough")),
    ]
    return "\n".join(_Line().say(conversation)) + "\n"
