from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_talk import HALTED

from kdsrv.errors import PeerError
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.status import Quiet, UnknownStatus
from kdsrv.sessions.tenant import Take
from kdsrv.wire.members import MAX_INTEGER, MAX_TEXT, one_line
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
    Notice,
    Ping,
    Pong,
    Release,
    Released,
    Response,
    Resume,
    Role,
    Seen,
    ServerHello,
    StatusReport,
    Watch,
    Watching,
    Welcome,
    decode,
    encode,
)
from kdsrv.wire.window import Window

lines = st.text(max_size=20).map(one_line)
counts = st.integers(0, MAX_INTEGER)
versions = st.integers(1, 65535)
logins = st.binary(max_size=3072)
tokens = st.text("0123456789abcdef", min_size=32, max_size=32)
objects = st.dictionaries(lines, lines | counts | st.booleans() | st.none(), max_size=3)
from_client = st.one_of(
    st.builds(Login, lines, logins),
    st.builds(Response, logins),
    st.just(ListEverything()),
    st.just(EndServer()),
    st.builds(ClientHello, lines, st.lists(versions, max_size=5).map(tuple)),
    st.builds(Attach, lines | st.none(), lines),
    st.builds(
        Attach,
        lines | st.none(),
        lines,
        st.booleans(),
        st.none() | st.sampled_from(Take),
        st.none() | st.sampled_from(OnLeave),
        st.none() | st.builds(Resume, tokens, counts),
    ),
    st.builds(Release, lines | st.none()),
    st.builds(Watch, lines | st.none(), lines),
    st.builds(Ping, counts),
    st.builds(Pong, counts),
    st.builds(Bye, lines),
)
from_server = st.one_of(
    st.builds(Challenge, logins),
    st.builds(Welcome, logins),
    st.builds(Listing, objects, st.lists(objects, max_size=3), st.lists(objects, max_size=3)),
    st.builds(ServerHello, versions, lines, st.lists(lines, max_size=3).map(tuple), tokens.map(lambda it: it[:16])),
    st.builds(
        Attached,
        lines,
        lines,
        st.just(HALTED),
        st.builds(Window, st.integers(1, 999), st.integers(1, 99999)),
        st.none() | tokens,
        st.floats(0, 1e9),
        counts,
        st.booleans(),
    ),
    st.builds(Notice, lines),
    st.builds(Released, lines, lines),
    st.builds(Watching, lines, lines, st.just(HALTED)),
    st.builds(Seen, counts, st.lists(objects, max_size=3)),
    st.builds(StatusReport, st.builds(Quiet, st.floats(0, 1e9))),
    st.builds(Dropped, counts, counts),
    st.builds(Ping, counts),
    st.builds(Pong, counts),
    st.builds(Bye, lines),
    st.builds(Failure, lines, lines),
)

GOOD: dict[Role, dict[str, dict[str, Any]]] = {
    Role.CLIENT: {
        "hello": {"protocol": "kdsrv", "versions": [1], "software": "x"},
        "login": {"method": "x", "data": "eA=="},
        "response": {"data": "eA=="},
        "list": {},
        "end": {},
        "attach": {"trans": "sim:", "client": "x"},
        "release": {"trans": "sim:"},
        "watch": {"trans": "sim:", "client": "x"},
        "ping": {"id": 1},
        "pong": {"id": 1},
        "bye": {"reason": "x"},
    },
    Role.SERVER: {
        "hello": {"version": 1, "software": "x", "login": []},
        "challenge": {"data": "eA=="},
        "welcome": {"data": "eA=="},
        "listing": {"server": {}, "targets": [{}], "sessions": []},
        "attached": {
            "target": "x",
            "description": "x",
            "window": {"packets": 1, "bytes": 1},
            "status": {"kind": "running", "run_state": "running", "sentence": "running"},
        },
        "status": {"status": {"kind": "running", "run_state": "running", "sentence": "running"}},
        "dropped": {"prints": 1, "requests": 1},
        "notice": {"text": "x"},
        "released": {"target": "x", "to": "x"},
        "watching": {
            "target": "x",
            "description": "x",
            "status": {"kind": "running", "run_state": "running", "sentence": "running"},
        },
        "seen": {"missed": 1, "lines": [{}]},
        "ping": {"id": 1},
        "pong": {"id": 1},
        "bye": {"reason": "x"},
        "error": {"code": "x", "message": "x"},
    },
}
ALL_GOOD = [(role, kind, members) for role, kinds in GOOD.items() for kind, members in kinds.items()]


NOTHING = (True, 1.5, -1, 2**60, "a\nb", "a" * 5001, "\ud800", [1.5], [None])
WRONG: tuple[tuple[object, ...], ...] = ((*NOTHING, {"kind": 1}), NOTHING)
"""Values that fit no member; an object fits only ``server``."""


TOKEN = "0123456789abcdef" * 2
OPTIONAL: dict[tuple[Role, str], dict[str, Any]] = {
    (Role.CLIENT, "attach"): {
        "resumable": True,
        "take": "ask",
        "on_leave": "continue",
        "resume": {"token": TOKEN, "received": 1},
    },
    (Role.SERVER, "hello"): {"instance": "0123456789abcdef"},
    (Role.SERVER, "attached"): {"token": TOKEN, "linger": 60, "received": 1, "resumed": True},
}
"""Members that may be absent, with values that are not what their absence means."""


def take(role: Role, kind: str, members: dict[str, Any]) -> Message:
    return decode(json.dumps({"type": kind, **members}).encode(), role)


@given(from_client)
@settings(deadline=None)
def test_client_messages_survive(message: Message) -> None:
    assert decode(encode(message), Role.CLIENT) == message


@given(from_server)
@settings(deadline=None)
def test_server_messages_survive(message: Message) -> None:
    assert decode(encode(message), Role.SERVER) == message


def test_json_of_the_first_message() -> None:
    expected = '{"type":"hello","protocol":"kdsrv","versions":[1],"software":"kdsrv 0.1.0"}'
    assert encode(ClientHello("kdsrv 0.1.0")) == expected.encode()


@pytest.mark.parametrize(("role", "kind", "members"), ALL_GOOD)
def test_unknown_members_are_ignored(role: Role, kind: str, members: dict[str, Any]) -> None:
    assert take(role, kind, {**members, "later": {"more": 1}}) == take(role, kind, members)


@pytest.mark.parametrize(("role", "kind", "members"), ALL_GOOD)
def test_every_member_is_needed_and_typed(role: Role, kind: str, members: dict[str, Any]) -> None:
    for name in members:
        without = {key: value for key, value in members.items() if key != name}
        with pytest.raises(PeerError, match=name):
            take(role, kind, without)
        for wrong in WRONG[name == "server"]:
            with pytest.raises(PeerError):
                take(role, kind, {**members, name: wrong})


@pytest.mark.parametrize(("role", "kind"), OPTIONAL)
def test_a_member_that_may_be_absent_is_typed_too(role: Role, kind: str) -> None:
    members = GOOD[role][kind]
    for name, value in OPTIONAL[role, kind].items():
        assert take(role, kind, {**members, name: value}) != take(role, kind, members)
        for wrong in (*NOTHING[1:], {"kind": 1}, "", "A" * 32, "0" * 31, 2**53):
            if not (name == "linger" and isinstance(wrong, float)):
                with pytest.raises(PeerError, match=name):
                    take(role, kind, {**members, name: wrong})


@pytest.mark.parametrize(
    "resume", [{}, {"token": TOKEN}, {"token": TOKEN[1:], "received": 1}, {"token": TOKEN, "received": -1}]
)
def test_a_resume_is_a_token_and_a_count(resume: dict[str, object]) -> None:
    with pytest.raises(PeerError, match="in its resume") as refusal:
        take(Role.CLIENT, "attach", {**GOOD[Role.CLIENT]["attach"], "resume": resume})
    assert TOKEN[1:] not in str(refusal.value)


@pytest.mark.parametrize("name", ["take", "on_leave", "resume"])
def test_null_is_as_good_as_absent(name: str) -> None:
    attach = GOOD[Role.CLIENT]["attach"]
    assert take(Role.CLIENT, "attach", {**attach, name: None}) == take(Role.CLIENT, "attach", attach)
    attached = GOOD[Role.SERVER]["attached"]
    assert take(Role.SERVER, "attached", {**attached, "token": None}) == take(Role.SERVER, "attached", attached)


def test_what_nobody_asked_for_is_not_said() -> None:
    """So a client that wants no more than it needs is answered as if there were no more."""
    assert encode(Attach("sim:", "x")) == b'{"type":"attach","trans":"sim:","client":"x"}'
    assert encode(ServerHello(1, "y")) == b'{"type":"hello","version":1,"software":"y","login":[]}'
    assert set(json.loads(encode(Attached("sim:", "x", HALTED)))) == {"type", *GOOD[Role.SERVER]["attached"]}


def test_json_of_an_attach_with_everything() -> None:
    everything = Attach("sim:", "x", True, Take.FORCE, OnLeave.STAY, Resume(TOKEN, 7))
    assert json.loads(encode(everything)) == {
        "type": "attach",
        "trans": "sim:",
        "client": "x",
        "resumable": True,
        "take": "force",
        "on_leave": "stay",
        "resume": {"token": TOKEN, "received": 7},
    }


def test_json_of_a_loss() -> None:
    assert encode(Dropped(prints=3)) == b'{"type":"dropped","prints":3,"requests":0}'
    assert encode(Dropped(requests=2)) == b'{"type":"dropped","prints":0,"requests":2}'


@pytest.mark.parametrize("data", ["eA", "eA=", "e A==", "e\u0660==", "-_==", "QUFB" * 1025])
def test_data_of_a_login_is_base64_and_bounded(data: str) -> None:
    with pytest.raises(PeerError, match="'data' in its message 'response' is not base64 of up to 4096 characters"):
        take(Role.CLIENT, "response", {"data": data})


def test_the_longest_login_fits() -> None:
    assert take(Role.CLIENT, "response", {"data": "QUFB" * 1024}) == Response(b"AAA" * 1024)


def test_no_target_named_is_null_not_absent() -> None:
    assert take(Role.CLIENT, "attach", {"trans": None, "client": "x"}) == Attach(None, "x")


def test_a_status_of_a_later_kind_is_kept() -> None:
    status = {"kind": "melting", "run_state": "unknown", "sentence": "it melts"}
    assert take(Role.SERVER, "status", {"status": status}) == StatusReport(UnknownStatus("melting", "it melts"))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not JSON"),
        (b"[" * 60000, "not JSON"),
        (b'{"type":"ping","id":NaN}', "not JSON"),
        (b'{"type":"ping","id":' + b"9" * 5000 + b"}", "not JSON"),
        (b"[]", "its control message is not a JSON object"),
        (b"{}", "'type' in its control message is missing"),
        (b'{"type":1}', "'type' in its control message is not a line of text"),
        (b'{"type":"dance"}', "type 'dance', which a client does not send"),
        (b'{"type":"attached"}', "type 'attached', which a client does not send"),
        (b'{"type":"ping"}', "'id' in its message 'ping' is missing"),
        (b'{"type":"ping","id":"1"}', "'id' in its message 'ping' is not a whole number"),
        (b'{"type":"hello","protocol":"other"}', "it speaks 'other'"),
    ],
)
def test_what_is_no_message_is_refused_in_a_sentence(body: bytes, says: str) -> None:
    with pytest.raises(PeerError, match=says):
        decode(body, Role.CLIENT)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(ALL_GOOD), st.data())
@settings(deadline=None)
def test_any_json_gives_a_message_or_a_peer_error(good: tuple[Role, str, dict[str, Any]], data: st.DataObject) -> None:
    role, kind, members = good
    changed = {name: data.draw(st.just(value) | json_values) for name, value in members.items()}
    try:
        message = take(role, kind, changed)
    except PeerError:
        return
    assert decode(encode(message), role) == message


def test_texts_of_ours_become_lines() -> None:
    long = "a\nb\x1b[31m\u202e\ud800" + "c" * MAX_TEXT
    assert decode(encode(Bye(long)), Role.CLIENT) == Bye(("a?b?[31m??" + "c" * MAX_TEXT)[:MAX_TEXT])


def test_the_longest_message_fits_a_frame() -> None:
    worst = "\N{GRINNING FACE}" * MAX_TEXT
    message = Attached(worst, worst, UnknownStatus(worst, worst))
    assert len(encode(message)) < 65536


def test_a_secret_is_in_no_repr() -> None:
    trans = "net:port=50000,key=1.2.3.4"
    for message in (
        Attach(trans, "me", resume=Resume(TOKEN, 1)),
        Attached("x", "x", HALTED, token=TOKEN),
        Release(trans),
        Watch(trans, "me"),
    ):
        assert "1.2.3.4" not in repr(message)
        assert TOKEN not in repr(message)
