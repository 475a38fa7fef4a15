from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_talk import HALTED, METHOD, READ, READ_REPLY, chunks, pair, receive_all

from kdsrv.auth.scram import LoginRefused
from kdsrv.errors import ConnectionStringError, PeerError, SetupError
from kdsrv.kd.packets import Packet
from kdsrv.sessions.status import Opening, Running
from kdsrv.wire.connection import (
    Connection,
    ConnectionClosed,
    LocalProtocolError,
    Sendable,
    State,
    VersionError,
)
from kdsrv.wire.frames import BreakIn, FrameKind, Resync, encode, encode_confirm, encode_packet
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
from kdsrv.wire.messages import encode as encode_message
from kdsrv.wire.window import Window

CONTINUE = Packet(2, bytes.fromhex("3c310000") + bytes(52))
PRINT = Packet(3, b"\x30\x32\0\0" + bytes(12))
STOP = Packet(7, bytes(240))


def control(message: Message) -> bytes:
    return encode(FrameKind.CONTROL, encode_message(message))


def test_the_whole_conversation() -> None:
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    talk: list[tuple[Connection, Sendable, State]] = [
        (client, ClientHello("kdsrv 0.1.0"), State.GREETED),
        (server, ServerHello(1, "kdsrv 0.1.0"), State.READY),
        (client, Attach("sim:", "kim@desk"), State.ATTACHING),
        (server, StatusReport(Opening("sim:")), State.ATTACHING),
        (server, Attached("sim:", "simulated", HALTED), State.ATTACHED),
        (server, STOP, State.ATTACHED),
        (client, READ, State.ATTACHED),
        (server, READ_REPLY, State.ATTACHED),
        (client, CONTINUE, State.ATTACHED),
        (server, StatusReport(Running()), State.ATTACHED),
        (server, PRINT, State.ATTACHED),
        (server, Dropped(3), State.ATTACHED),
        (client, BreakIn(), State.ATTACHED),
        (client, Resync(), State.ATTACHED),
        (server, Resync(), State.ATTACHED),
        (server, Ping(4), State.ATTACHED),
        (client, Pong(4), State.ATTACHED),
        (client, Bye("done"), State.CLOSED),
    ]
    for sender, event, state in talk:
        receiver = server if sender is client else client
        got = receiver.receive_data(sender.send(event))
        assert got == [event]
        assert type(got[0]) is type(event)
        assert sender.state is receiver.state is state
    assert server.version == client.version == 1
    assert client.receive_data(b"") == server.receive_data(b"") == [ConnectionClosed()]


@given(st.lists(st.integers(0, 2000), max_size=12))
@settings(deadline=None)
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    sender, _ = pair()
    requests: list[Sendable] = [READ, BreakIn(), CONTINUE, Resync(), Ping(1), PRINT, READ, Bye("x")]
    data = b"".join(map(sender.send, requests))
    _, server = pair()
    assert receive_all(server, chunks(data, cuts)) == requests


def test_byte_at_a_time_through_the_whole_conversation() -> None:
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    said = client.send(ClientHello("x"))
    assert receive_all(server, [said[at : at + 1] for at in range(len(said))]) == [ClientHello("x")]
    said = server.send(ServerHello(1, "y"))
    assert receive_all(client, [said[at : at + 1] for at in range(len(said))]) == [ServerHello(1, "y")]
    assert client.state is server.state is State.READY


MESSAGES = [
    ClientHello("x"),
    ServerHello(1, "x"),
    Login(METHOD, b"x"),
    Challenge(b"x"),
    Response(b"x"),
    Welcome(b"x"),
    ListEverything(),
    Listing({"version": "x"}, [{"name": "vm1"}], []),
    EndServer(),
    Release(None),
    Released("x", "y"),
    Watch(None, "x"),
    Watching("x", "x", HALTED),
    Seen(1, [{"text": "x"}]),
    Attach(None, "x"),
    Attached("x", "x", HALTED),
    StatusReport(HALTED),
    Dropped(1),
    Ping(1),
    Pong(1),
    Bye("x"),
    Failure("x", "x"),
]
MAY = {
    (Role.CLIENT, State.START): {"ClientHello", "Bye"},
    (Role.CLIENT, State.GREETED): {"Bye"},
    (Role.CLIENT, State.LOGIN): {"Login", "Bye"},
    (Role.CLIENT, State.BEGUN): {"Bye"},
    (Role.CLIENT, State.CHALLENGED): {"Response", "Bye"},
    (Role.CLIENT, State.ANSWERED): {"Bye"},
    (Role.CLIENT, State.READY): {
        *("Attach", "ListEverything", "EndServer", "Release", "Watch"),
        *("Ping", "Pong", "Bye"),
    },
    (Role.CLIENT, State.LISTING): {"Ping", "Pong", "Bye"},
    (Role.CLIENT, State.ENDING): {"Ping", "Pong", "Bye"},
    (Role.CLIENT, State.RELEASING): {"Ping", "Pong", "Bye"},
    (Role.CLIENT, State.JOINING): {"Ping", "Pong", "Bye"},
    (Role.CLIENT, State.WATCHING): {"Ping", "Pong", "Bye"},
    (Role.CLIENT, State.ATTACHING): {"Ping", "Pong", "Bye"},
    (Role.CLIENT, State.ATTACHED): {"Packet", "BreakIn", "Resync", "Ping", "Pong", "Bye"},
    (Role.SERVER, State.START): {"Bye", "Failure"},
    (Role.SERVER, State.GREETED): {"ServerHello", "Bye", "Failure"},
    (Role.SERVER, State.LOGIN): {"Bye", "Failure"},
    (Role.SERVER, State.BEGUN): {"Challenge", "Bye", "Failure"},
    (Role.SERVER, State.CHALLENGED): {"Bye", "Failure"},
    (Role.SERVER, State.ANSWERED): {"Welcome", "Bye", "Failure"},
    (Role.SERVER, State.READY): {"Ping", "Pong", "Bye", "Failure"},
    (Role.SERVER, State.LISTING): {"Listing", "Ping", "Pong", "Bye", "Failure"},
    (Role.SERVER, State.ENDING): {"Ping", "Pong", "Bye", "Failure"},
    (Role.SERVER, State.RELEASING): {"Released", "Ping", "Pong", "Bye", "Failure"},
    (Role.SERVER, State.JOINING): {"Watching", "Ping", "Pong", "Bye", "Failure"},
    (Role.SERVER, State.WATCHING): {"Seen", "StatusReport", "Ping", "Pong", "Bye", "Failure"},
    (Role.SERVER, State.ATTACHING): {"Attached", "StatusReport", "Ping", "Pong", "Bye", "Failure"},
    (Role.SERVER, State.ATTACHED): {"Packet", "StatusReport", "Dropped", "Ping", "Pong", "Bye", "Failure"},
}


@pytest.mark.parametrize("event", [*MESSAGES, READ, BreakIn(), Resync()], ids=lambda event: type(event).__name__)
@pytest.mark.parametrize(("role", "state"), MAY)
def test_who_may_say_what_when(role: Role, state: State, event: Sendable) -> None:
    client, server = pair(state)
    sender, receiver = (client, server) if role is Role.CLIENT else (server, client)
    if type(event).__name__ in MAY[role, state]:
        assert receiver.receive_data(sender.send(event)) == [event]
        return
    with pytest.raises(LocalProtocolError):
        sender.send(event)
    assert sender.state is state
    if isinstance(event, Message):
        data = control(event)
    elif isinstance(event, Packet):
        data = encode_packet(*event)
    else:
        data = encode(FrameKind.BREAK_IN if isinstance(event, BreakIn) else FrameKind.RESYNC)
    with pytest.raises(PeerError):
        receiver.receive_data(data)
    assert receiver.state is State.ERROR


@pytest.mark.parametrize("packet_type", range(13))
@pytest.mark.parametrize(("role", "allowed"), [(Role.CLIENT, {2, 3, 11}), (Role.SERVER, {1, 2, 3, 7, 9, 10, 11})])
def test_packet_types_have_a_direction(role: Role, allowed: set[int], packet_type: int) -> None:
    client, server = pair()
    sender, receiver = (client, server) if role is Role.CLIENT else (server, client)
    packet = Packet(packet_type, b"abc")
    if packet_type in allowed:
        assert receiver.receive_data(sender.send_packet(*packet)) == [packet]
        return
    with pytest.raises(LocalProtocolError, match=f"type {packet_type}"):
        sender.send(packet)
    with pytest.raises(PeerError, match=f"a packet of type {packet_type}"):
        receiver.receive_data(encode_packet(*packet))


def test_no_common_version_is_answered_with_both() -> None:
    client, server = Connection(Role.CLIENT, (2, 3)), Connection(Role.SERVER, (1,))
    with pytest.raises(VersionError) as refusal:
        server.receive_data(client.send(ClientHello("x", (2, 3))))
    (answer,) = client.receive_data(server.give_up(refusal.value))
    assert answer == Failure(
        "version",
        "The client speaks version 2, 3 of the kdsrv protocol and the server version 1; "
        "bring both to one release of kdsrv.",
    )
    assert client.state is server.state is State.CLOSED


def test_the_highest_common_version_is_taken() -> None:
    client, server = Connection(Role.CLIENT, (1, 2, 3)), Connection(Role.SERVER, (1, 2))
    server.receive_data(client.send(ClientHello("x", (1, 2, 3))))
    assert server.version == 2
    with pytest.raises(LocalProtocolError):
        server.send(ServerHello(1, "y"))
    client.receive_data(server.send(ServerHello(2, "y")))
    assert client.version == 2


def test_a_version_that_was_not_offered_is_refused() -> None:
    client, _ = pair(State.GREETED)
    with pytest.raises(VersionError, match=r"client speaks version 1 .* server version 7"):
        client.receive_data(control(ServerHello(7, "y")))


def test_a_login_comes_before_everything_else() -> None:
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    talk: list[tuple[Connection, Message, State]] = [
        (client, ClientHello("x"), State.GREETED),
        (server, ServerHello(1, "y", ("tea", METHOD)), State.LOGIN),
        (client, Login(METHOD, b"one"), State.BEGUN),
        (server, Challenge(b"two"), State.CHALLENGED),
        (client, Response(b"three"), State.ANSWERED),
        (server, Welcome(b""), State.READY),
        (client, ListEverything(), State.LISTING),
        (server, Listing({}, [], []), State.READY),
        (client, EndServer(), State.ENDING),
        (server, Bye("the server ends"), State.CLOSED),
    ]
    for sender, message, state in talk:
        receiver = server if sender is client else client
        assert receiver.receive_data(sender.send(message)) == [message]
        assert sender.state is receiver.state is state


@pytest.mark.parametrize("state", [State.LOGIN, State.BEGUN, State.CHALLENGED, State.ANSWERED])
@pytest.mark.parametrize("request_", [Attach(None, "x"), ListEverything(), EndServer(), Ping(1)])
def test_nothing_is_served_before_the_login(state: State, request_: Message) -> None:
    _, server = pair(state)
    with pytest.raises(PeerError, match=f"does not send when {state.value}"):
        server.receive_data(control(request_))


def test_what_comes_together_with_a_login_is_refused_too() -> None:
    """The answer has not been said yet, so the client cannot know that it is in."""
    client, server = pair(State.CHALLENGED)
    with pytest.raises(PeerError, match=r"'attach'.* when answered"):
        server.receive_data(client.send(Response(b"x")) + control(Attach(None, "x")))


def test_only_a_method_that_was_offered_begins_a_login() -> None:
    client, server = pair(State.LOGIN)
    with pytest.raises(LocalProtocolError, match="did not offer tea"):
        client.send(Login("tea", b"x"))
    with pytest.raises(PeerError, match="log in by tea, which was not offered"):
        server.receive_data(control(Login("tea", b"x")))


def test_a_client_may_leave_instead_of_logging_in() -> None:
    client, server = pair(State.LOGIN)
    assert server.receive_data(client.give_up(SetupError(why="no password"))) == [Bye("no password")]


def test_a_login_that_fails_ends_the_connection() -> None:
    client, server = pair(State.ANSWERED)
    assert client.receive_data(server.give_up(LoginRefused())) == [
        Failure("login", "login refused (0x80004005): wrong user or password")
    ]
    assert client.state is server.state is State.CLOSED


def test_data_of_a_login_is_not_shown() -> None:
    for message in (Login(METHOD, b"secret"), Challenge(b"secret"), Response(b"secret"), Welcome(b"secret")):
        assert "secret" not in repr(message)


def test_an_error_stays_until_somebody_gives_up() -> None:
    _, server = pair(State.START)
    with pytest.raises(PeerError, match="HTTP") as first:
        server.receive_data(b"GET / HTTP/1.1\r\n")
    with pytest.raises(PeerError, match="HTTP"):
        server.receive_data(b"Host: lab\r\n")
    with pytest.raises(PeerError, match="HTTP"):
        server.receive_data(b"")
    with pytest.raises(LocalProtocolError):
        server.send(Failure("protocol", "x"))
    answer = Connection(Role.CLIENT).receive_data(server.give_up(first.value))
    assert answer == [Failure("protocol", str(first.value))]
    assert server.receive_data(b"more") == []
    assert server.receive_data(b"") == [ConnectionClosed()]
    assert server.give_up(first.value) == b""


def test_giving_up_says_the_code_of_the_error() -> None:
    client, server = pair(State.ATTACHING)
    assert client.receive_data(server.give_up(SetupError(why="no such port"))) == [Failure("setup", "no such port")]
    client, server = pair()
    assert server.receive_data(client.give_up(SetupError(why="no such port"))) == [Bye("no such port")]


def test_only_the_sentence_of_an_error_is_sent() -> None:
    client, server = pair(State.ATTACHING)
    mistake = ConnectionStringError(column=5, why="a number is needed", text="com:x", caret=4)
    assert client.receive_data(server.give_up(mistake)) == [Failure("bad-string", "column 5: a number is needed")]


def test_after_the_last_word_everything_is_dropped() -> None:
    client, server = pair()
    assert client.receive_data(server.send(Bye("x")) + encode_packet(*STOP)) == [Bye("x")]
    assert client.receive_data(encode_packet(*STOP) + b"\xff\xff\xff\xff\xff\xff") == []
    with pytest.raises(LocalProtocolError):
        client.send(Ping(1))
    assert server.receive_data(encode_packet(*READ)) == []
    assert server.receive_data(b"\0\0") == []
    assert server.receive_data(b"") == [ConnectionClosed()]


def test_the_end_of_the_network_connection() -> None:
    client, server = pair()
    assert client.receive_data(b"") == [ConnectionClosed()]
    assert client.state is State.CLOSED
    assert server.receive_data(encode_packet(*READ)[:-1]) == []
    with pytest.raises(PeerError, match="in the middle of a frame"):
        server.receive_data(b"")


def test_the_window_is_that_of_attached() -> None:
    client, server = pair(window=Window(2, 1000))
    data = client.send(READ) + client.send(READ)
    assert not client.has_room(READ.payload)
    assert client.has_room(CONTINUE.payload)
    with pytest.raises(LocalProtocolError, match="window"):
        client.send(READ)
    server.receive_data(data + client.send(CONTINUE))
    with pytest.raises(PeerError, match="more requests than the window allows"):
        server.receive_data(encode_packet(*READ))


def test_a_reply_makes_room() -> None:
    client, server = pair(window=Window(1, 1000))
    for _ in range(3):
        server.receive_data(client.send(READ))
        assert not client.has_room(READ.payload)
        client.receive_data(server.send(STOP) + server.send(PRINT))
        assert not client.has_room(READ.payload)
        client.receive_data(server.send(READ_REPLY))
        assert client.has_room(READ.payload)


def test_a_resync_makes_room_and_old_replies_do_not_count() -> None:
    client, server = pair(window=Window(1, 1000))
    asked = client.send(READ)
    server.receive_data(asked)
    late = server.send(READ_REPLY)
    resync = client.send(Resync())
    assert client.resyncing
    again = client.send(READ)
    client.receive_data(late)
    assert not client.has_room(READ.payload)
    server.receive_data(resync + again)
    client.receive_data(server.send(Resync()))
    assert not client.resyncing
    assert not client.has_room(READ.payload)
    client.receive_data(server.send(READ_REPLY))
    assert client.has_room(READ.payload)


def test_lost_requests_make_room_like_replies() -> None:
    client, server = pair(window=Window(3, 1000))
    for _ in range(3):
        server.receive_data(client.send(READ))
    assert not client.has_room(READ.payload)
    client.receive_data(server.send(Dropped(requests=2)))
    assert len(client.outstanding) == len(server.outstanding) == 1
    for _ in range(2):
        server.receive_data(client.send(READ))
    assert not client.has_room(READ.payload)
    for _ in range(3):
        client.receive_data(server.send(READ_REPLY))
    assert client.outstanding.bytes == server.outstanding.bytes == 0


def test_prints_that_were_dropped_make_no_room() -> None:
    client, server = pair(window=Window(1, 1000))
    server.receive_data(client.send(READ))
    client.receive_data(server.send(Dropped(prints=5)))
    assert not client.has_room(READ.payload)


def test_more_lost_requests_than_there_are_take_off_what_there_is() -> None:
    client, server = pair()
    server.receive_data(client.send(READ))
    client.receive_data(server.send(Dropped(requests=2**53 - 1)))
    assert len(client.outstanding) == len(server.outstanding) == 0


def test_requests_from_before_a_resync_are_lost_by_the_resync_alone() -> None:
    client, server = pair(window=Window(3, 1000))
    for _ in range(2):
        server.receive_data(client.send(READ))
    late = server.send(Dropped(requests=2))
    resync = client.send(Resync())
    new = client.send(READ)
    client.receive_data(late)
    assert len(client.outstanding) == 1
    server.receive_data(resync + new)
    client.receive_data(server.send(Resync()))
    assert len(client.outstanding) == len(server.outstanding) == 1


def test_lines_that_are_json_already() -> None:
    client, server = pair(State.WATCHING)
    lines: list[dict[str, object]] = [{"text": "x"}, {"text": "y"}]
    assert server.send_seen(3, [b'{"text":"x"}', b'{"text":"y"}']) == server.send(Seen(3, lines))
    assert client.receive_data(server.send_seen(0, [b'{"text":"x"}'])) == [Seen(0, lines[:1])]
    for end in (client, pair(State.READY)[1]):
        with pytest.raises(LocalProtocolError, match="what was seen"):
            end.send_seen(0, [])


def test_only_resyncs_that_were_sent_are_echoed() -> None:
    client, server = pair()
    with pytest.raises(LocalProtocolError, match="no resync to echo"):
        server.send(Resync())
    with pytest.raises(PeerError, match="never sent"):
        client.receive_data(encode(FrameKind.RESYNC))


sendable = st.one_of(
    st.sampled_from([*MESSAGES, CONTINUE, PRINT, STOP, BreakIn(), Resync(), Resync()]),
    st.builds(Packet, st.just(2), st.sampled_from([b"\x30\x31\0\0" + bytes(52), b"\x31\x31\0\0" + bytes(300)])),
    st.builds(Dropped, st.integers(0, 2), st.integers(0, 3)),
)
moves = st.lists(st.tuples(st.booleans(), st.one_of(sendable, st.integers(1, 400))), max_size=60)


@given(st.sampled_from([State.START, State.LOGIN, State.READY, State.ATTACHED, State.ATTACHED]), moves)
@settings(max_examples=300, deadline=None)
def test_what_one_side_may_send_the_other_always_takes(state: State, steps: list[tuple[bool, Sendable | int]]) -> None:
    client, server = pair(state, Window(3, 700))
    under_way = {client: b"", server: b""}
    for from_client, step in steps:
        sender, receiver = (client, server) if from_client else (server, client)
        if isinstance(step, int):
            data, under_way[receiver] = under_way[receiver][:step], under_way[receiver][step:]
            if data:
                receiver.receive_data(data)
            continue
        unasked = isinstance(step, Packet) and step.type == 2 and not len(server.outstanding)
        if sender is server and (unasked or server.resyncing):
            step = Resync()
        elif isinstance(step, Dropped):
            step = Dropped(step.prints, min(step.requests, len(server.outstanding)))
        try:
            under_way[receiver] += sender.send(step)
        except LocalProtocolError:
            continue
    for receiver, data in under_way.items():
        if data:
            receiver.receive_data(data)


@given(
    st.sampled_from([Role.CLIENT, Role.SERVER]),
    st.sampled_from([state for state in State if state not in (State.CLOSED, State.ERROR)]),
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(MESSAGES).map(control),
            st.builds(encode_packet, st.integers(0, 0xFFFF), st.binary(max_size=60)),
            st.builds(encode, st.just(FrameKind.CONTROL), st.binary(max_size=60)),
            st.sampled_from([encode(FrameKind.BREAK_IN), encode(FrameKind.RESYNC), encode_confirm(0), b""]),
        ),
        max_size=6,
    ),
)
@settings(deadline=None)
def test_nothing_but_a_peer_error_comes_out(role: Role, state: State, pieces: list[bytes]) -> None:
    client, server = pair(state)
    receiver = client if role is Role.CLIENT else server
    for piece in pieces:
        try:
            receiver.receive_data(piece)
        except PeerError as error:
            receiver.give_up(error)
            assert receiver.receive_data(b"more") == []
