"""Sessions that outlive their network connections: whatever is lost with a connection comes by the next, once."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from wire_lines import TOKEN, BrokenSession
from wire_talk import HALTED, READ, READ_REPLY, pair

from kdsrv.errors import PeerError
from kdsrv.kd.packets import Packet
from kdsrv.sessions.status import Running
from kdsrv.wire.connection import Connection, Sendable
from kdsrv.wire.frames import BreakIn, FrameKind, LocalProtocolError, Resync, encode, encode_confirm, encode_packet
from kdsrv.wire.ledger import CONFIRM_BYTES, CONFIRM_FRAMES, MAX_KEPT_FRAMES
from kdsrv.wire.messages import (
    Attach,
    Attached,
    ClientHello,
    Dropped,
    Message,
    Notice,
    Resume,
    Role,
    ServerHello,
    StatusReport,
)
from kdsrv.wire.messages import encode as encode_message
from kdsrv.wire.window import Window

CLIENT, SERVER = Role.CLIENT, Role.SERVER
CONTINUE = Packet(2, bytes.fromhex("3c310000") + bytes(52))
ANSWER = Packet(3, b"answer")
STOP = Packet(7, bytes(240))
LONG_READ = Packet(2, READ.payload + bytes(400))


class Cuts(RuleBasedStateMachine):
    """Anything that both sides may say, and a line that breaks at any byte of it, also while it is being taken up."""

    def __init__(self) -> None:
        super().__init__()
        self.session = BrokenSession(Window(40, 8000))
        self.number = 0

    def say(self, role: Role, event: Sendable) -> None:
        if self.session.can_say(role):
            self.session.say(role, event)

    def numbered(self, text: bytes) -> bytes:
        self.number += 1
        return text + self.number.to_bytes(4, "little")

    @rule(request=st.sampled_from([READ, LONG_READ, CONTINUE]), times=st.integers(1, 60))
    def ask(self, request: Packet, times: int) -> None:
        for _ in range(times):
            packet = Packet(2, self.numbered(request.payload))
            end = self.session.client_line.ends[CLIENT]
            if end.has_room(packet.payload):
                self.say(CLIENT, packet)
            elif self.session.can_say(CLIENT):
                with pytest.raises(LocalProtocolError, match="window"):
                    end.send(packet)

    @rule(event=st.sampled_from([BreakIn(), Resync(), ANSWER]))
    def say_as_client(self, event: Sendable) -> None:
        self.say(CLIENT, event)

    @rule(times=st.integers(1, 60))
    def answer(self, times: int) -> None:
        for _ in range(times):
            books = self.session.ledgers[SERVER].outstanding
            if books.echoes_missing:
                self.say(SERVER, Resync())
            elif len(books):
                self.say(SERVER, Packet(2, self.numbered(READ_REPLY.payload)))

    @rule(size=st.sampled_from([8, 3000]), times=st.integers(1, 80))
    def print_text(self, size: int, times: int) -> None:
        for _ in range(times):
            self.say(SERVER, Packet(3, self.numbered(b"\x30\x32\0\0" + bytes(size))))

    @rule(prints=st.integers(0, 3), requests=st.integers(0, 5))
    def drop(self, prints: int, requests: int) -> None:
        self.say(SERVER, Dropped(prints, min(requests, len(self.session.ledgers[SERVER].outstanding))))

    @rule(event=st.sampled_from([STOP, StatusReport(Running()), Notice("pat asks for it")]))
    def say_as_server(self, event: Sendable) -> None:
        self.say(SERVER, event)

    @rule(role=st.sampled_from(Role), size=st.integers(1, 3000))
    def deliver(self, role: Role, size: int) -> None:
        self.session.deliver(role, size)

    @rule()
    def cut(self) -> None:
        self.session.cut()

    @rule()
    def settle(self) -> None:
        self.session.deliver_all()
        for role in Role:
            assert self.session.seen[role] == self.session.said[role.other]
            assert self.session.ledgers[role].kept_bytes < CONFIRM_BYTES + 64 * CONFIRM_FRAMES

    @precondition(lambda self: self.session.lines_broken == 0)
    @invariant()
    def nothing_is_said_twice_while_no_line_breaks(self) -> None:
        for role in Role:
            assert self.session.ledgers[role].received <= self.session.ledgers[role.other].sent

    def teardown(self) -> None:
        self.settle()


TestCuts = Cuts.TestCase
TestCuts.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("from_end", range(0, 700, 7))
def test_a_line_that_breaks_at_any_byte_of_a_resume(from_end: int) -> None:
    """The second line breaks in its hellos, its attach, or in what is sent again; the third is as good as ever."""
    session = BrokenSession(Window())
    for number in range(3):
        session.say(CLIENT, Packet(2, READ.payload + bytes([number])))
        session.say(SERVER, Packet(3, b"\x30\x32\0\0" + bytes([number])))
    session.cut()
    for size in range(from_end):
        session.deliver(Role.SERVER if size % 2 else Role.CLIENT, 2)
    session.cut()
    session.deliver_all()
    session.say(CLIENT, BreakIn())
    session.deliver_all()
    assert session.seen[SERVER] == session.said[CLIENT]
    assert session.seen[CLIENT] == session.said[SERVER]


def resumable(resume: Resume | None = None) -> tuple[Connection, Connection]:
    """A client and a server with a session that outlives their connection."""
    client, server = Connection(CLIENT), Connection(SERVER)
    talk: list[tuple[Connection, Message]] = [
        (client, ClientHello("x")),
        (server, ServerHello(1, "y")),
        (client, Attach("sim:", "x", resumable=True, resume=resume)),
        (server, Attached("sim:", "x", HALTED, token=TOKEN, linger=60.0, resumed=resume is not None)),
    ]
    for sender, message in talk:
        receiver = server if sender is client else client
        assert receiver.receive_data(sender.send(message)) == [message]
    return client, server


def control(message: Message) -> bytes:
    return encode(FrameKind.CONTROL, encode_message(message))


def test_what_came_is_confirmed_by_number() -> None:
    client, server = resumable()
    for _ in range(CONFIRM_FRAMES - 1):
        client.receive_data(server.send(STOP))
    assert client.confirmation() == b""
    client.receive_data(server.send(Dropped(1)))
    assert client.confirmation() == bytes.fromhex("00000009 05 0000000000000040")
    assert client.confirmation() == b""


def test_what_came_is_confirmed_by_its_bytes() -> None:
    client, server = resumable()
    came = 0
    while not (said := client.confirmation()):
        data = server.send(Packet(3, bytes(8000)))
        came += len(data)
        client.receive_data(data)
    assert said == encode_confirm(client.ledger.received)
    assert CONFIRM_BYTES <= came + 1000 < CONFIRM_BYTES + 9000


def test_a_confirmation_lets_the_other_side_forget() -> None:
    client, server = resumable()
    for _ in range(CONFIRM_FRAMES):
        client.receive_data(server.send(STOP))
    server.send(STOP)
    assert server.ledger.kept_bytes == 65 * len(encode_packet(*STOP))
    assert server.receive_data(client.confirmation()) == []
    assert server.resume(CONFIRM_FRAMES) == encode_packet(*STOP)


def test_pings_statuses_and_confirmations_are_not_numbered() -> None:
    client, server = resumable()
    for message in (StatusReport(Running()), Notice("x")):
        client.receive_data(server.send(message))
    server.receive_data(encode_confirm(0))
    assert server.ledger.sent == server.ledger.received == client.ledger.received == 0


@pytest.mark.parametrize(
    ("count", "says"), [(4, "received 4 frames, where 3 were sent"), (0, "received 0 frames, and before it said 2")]
)
def test_a_count_that_cannot_be_is_refused(count: int, says: str) -> None:
    client, server = resumable()
    for _ in range(3):
        client.receive_data(server.send(STOP))
    server.receive_data(encode_confirm(2))
    with pytest.raises(PeerError, match=says):
        server.resume(count)
    with pytest.raises(PeerError, match=says):
        server.receive_data(encode_confirm(count))
    with pytest.raises(PeerError, match=says):
        server.receive_data(encode_confirm(3))


def test_who_resyncs_without_end_and_confirms_nothing_is_stopped() -> None:
    client, server = resumable()
    resync = client.send(Resync())
    for _ in range(2 * MAX_KEPT_FRAMES + 1):
        server.receive_data(resync)
        server.send(Resync())
    with pytest.raises(PeerError, match="resyncs without end"):
        server.receive_data(resync)


def test_no_confirmation_where_nothing_can_be_resumed() -> None:
    client, server = pair()
    for _ in range(3 * CONFIRM_FRAMES):
        client.receive_data(server.send(STOP))
    assert client.confirmation() == b""
    assert server.ledger.kept_bytes == 0
    with pytest.raises(LocalProtocolError, match="nothing to resume"):
        server.resume(0)
    with pytest.raises(PeerError, match="frames of a session that cannot be resumed"):
        server.receive_data(encode_confirm(0))


def test_no_confirmation_before_a_session() -> None:
    client, _ = resumable()
    server = Connection(SERVER, ledger=client.ledger)
    with pytest.raises(PeerError, match="frames of a session that cannot be resumed"):
        server.receive_data(encode_confirm(0))
    assert Connection(CLIENT, ledger=client.ledger).confirmation() == b""


def test_the_window_of_a_session_stays() -> None:
    client, _ = resumable()
    client.outstanding.window = Window(3, 100)
    again = Connection(CLIENT, ledger=client.ledger)
    again.send(ClientHello("x"))
    again.receive_data(control(ServerHello(1, "y")))
    again.send(Attach("sim:", "x", resumable=True, resume=Resume(TOKEN, 0)))
    again.receive_data(control(Attached("sim:", "x", HALTED, Window(9, 9), TOKEN, resumed=True)))
    assert again.outstanding.window == Window(3, 100)


@pytest.mark.parametrize(
    ("asked", "answer", "says"),
    [
        ({}, {"token": TOKEN}, "a token, which the client did not ask for"),
        ({}, {"resumed": True}, "a session that was to be new"),
        ({"resumable": True}, {"token": TOKEN, "resumed": True}, "a session that was to be new"),
        (
            {"resumable": True, "resume": Resume(TOKEN, 0)},
            {"token": TOKEN},
            "a new session where one was to be resumed",
        ),
        ({"resumable": True, "resume": Resume(TOKEN, 0)}, {"resumed": True}, "no token"),
    ],
)
def test_a_session_is_what_was_asked_for(asked: dict[str, object], answer: dict[str, object], says: str) -> None:
    client, server = Connection(CLIENT), Connection(SERVER)
    server.receive_data(client.send(ClientHello("x")))
    client.receive_data(server.send(ServerHello(1, "y")))
    server.receive_data(client.send(Attach("sim:", "x", **asked)))  # type: ignore[arg-type]
    attached = Attached("sim:", "x", HALTED, **answer)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match=says):
        server.send(attached)
    with pytest.raises(PeerError, match=says) as refusal:
        client.receive_data(control(attached))
    assert TOKEN not in str(refusal.value)


def test_a_session_that_the_server_does_not_keep() -> None:
    """As from a server that knows nothing of it."""
    client, server = Connection(CLIENT), Connection(SERVER)
    server.receive_data(client.send(ClientHello("x")))
    client.receive_data(server.send(ServerHello(1, "y")))
    server.receive_data(client.send(Attach("sim:", "x", resumable=True)))
    client.receive_data(server.send(Attached("sim:", "x", HALTED)))
    for _ in range(2 * CONFIRM_FRAMES):
        server.receive_data(client.send(BreakIn()))
    assert server.confirmation() == b""
    assert client.ledger.kept_bytes == 0


def test_a_notice_is_for_those_who_know_of_it() -> None:
    client, server = pair()
    assert not server.takes_notices
    with pytest.raises(LocalProtocolError, match="a notice, which the client did not ask for"):
        server.send(Notice("x"))
    with pytest.raises(PeerError, match="a notice, which the client did not ask for"):
        client.receive_data(control(Notice("x")))
    client, server = resumable()
    assert server.takes_notices
    assert client.receive_data(server.send(Notice("x"))) == [Notice("x")]


def test_a_token_is_shown_nowhere() -> None:
    client, server = resumable()
    with pytest.raises(LocalProtocolError) as refusal:
        client.send(Attach("sim:", "x", resumable=True, resume=Resume(TOKEN, 0)))
    assert TOKEN not in str(refusal.value)
    with pytest.raises(LocalProtocolError) as refusal:
        server.send(Attached("sim:", "x", HALTED, token=TOKEN))
    assert TOKEN not in str(refusal.value)
    assert TOKEN not in repr(client.__dict__ | server.__dict__)
