"""``kdsrv list``, ``kdsrv -QR`` and ``kdsrv end``, against servers with roles and a policy."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, Client, Debugger, Outcome, Server, run_program, until

from kdsrv.auth.passwords import Verifier
from kdsrv.auth.users import Role, User, user_line
from kdsrv.cli import _spelled
from kdsrv.commands.list import as_json, as_table, qr_string
from kdsrv.errors import PeerError
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import PacketType
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.wire.messages import Listing

TARGETS = ("--target", "rack1=sim:name=secret-one", "--target", "rack2=sim:name=secret-two,state=running")
USERS = {
    "kim": User("kim"),
    "jo": User("jo", Role.READ_ONLY, ("rack1",)),
    "ann": User("ann", Role.FULL, ("rack1",)),
    "vic": User("vic", Role.READ_ONLY),
}


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.touch(mode=0o600)
    verifiers = {name: Verifier.of(f"word-of-{name}", secrets.token_bytes(16)) for name in USERS}
    path.write_text("".join(f"{user_line(user, verifiers[name])}\n" for name, user in USERS.items()))
    return path


def command(*words: str) -> Outcome:
    return run_program((*KDSRV, *words))


def place(server: Server, name: str = "") -> tuple[str, ...]:
    password = f",password=word-of-{name}" if name else ""
    return (f"tcp:server=127.0.0.1,port={server.port}{password}", *(("--user", name) if name else ()))


def session_of(server: Server, name: str, trans: str = "target:name=rack1") -> Client:
    string, *options = place(server, name)
    return Client(f"kdsrv:server=@{{{string}}},trans=@{{{trans}}}", "--tcp", "0", *options)


# What is shown

ENTRY: dict[str, Any] = {
    "target": "target:name=rack1",
    "holder": "kim@desk",
    "address": "192.0.2.7:4000",
    "since": "2025-11-25T14:00:00+00:00",
    "seconds": 61,
    "read_only": True,
    "run_state": "running",
    "status": "running",
    "counters": {"packets_received": 12, "packets_sent": 11, "repeats_sent": 3, "damaged": 2},
}
SERVER: dict[str, object] = {"software": "kdsrv 0.1.0", "user": "", "role": "full", "left_out": 0}


def test_a_table() -> None:
    listing = Listing(SERVER, [{"name": "rack1", "state": "held"}, {"name": "r", "state": "free"}], [ENTRY, ENTRY])
    lines = as_table(listing).splitlines()
    assert lines[0] == "kdsrv 0.1.0; there are no users here: everybody has the role full"
    assert lines[2:5] == ["PUBLISHED TARGET   STATE", "target:name=rack1  held", "target:name=r      free"]
    assert " ".join(lines[6].split()) == "TARGET HOLDER STATUS FROM SINCE RECEIVED SENT REPEATED DAMAGED"
    assert lines[7] == lines[8]
    assert lines[7].startswith("target:name=rack1  kim@desk  running (read-only)  192.0.2.7:4000  2025-11-2")
    assert lines[7].split()[-4:] == ["12", "11", "3", "2"]
    assert len(lines) == 9


def test_targets_on_the_network_are_told_from_each_other() -> None:
    entry = {
        **ENTRY,
        "target": "net:port=50000,key=*",
        "description": "KDNET on UDP port 50000, target 192.0.2.9:50000",
    }
    shown = "net:port=50000,key=* (KDNET on UDP port 50000, target 192.0.2.9:50000)  kim@desk"
    assert shown in as_table(Listing(SERVER, [], [entry]))
    assert "KDNET" not in as_table(Listing(SERVER, [], [{**ENTRY, "description": entry["description"]}]))
    with pytest.raises(PeerError):
        as_table(Listing(SERVER, [], [{**entry, "description": 5}]))


def test_nothing_to_show() -> None:
    text = as_table(Listing({**SERVER, "user": "kim", "left_out": 3}, [], []))
    assert text.splitlines() == [
        "kdsrv 0.1.0; you are kim, role full",
        "",
        "no published targets",
        "",
        "no sessions",
        "",
        "and 3 more, for which the message has no room",
    ]


def test_json_is_one_line_with_everything() -> None:
    text = as_json(Listing(SERVER, [], [ENTRY]))
    assert text.count("\n") == 1
    assert json.loads(text) == {"server": SERVER, "targets": [], "sessions": [ENTRY]}


@pytest.mark.parametrize(
    ("server", "target", "session"),
    [
        ({"software": "a\x1b[2J"}, {}, {}),
        ({"left_out": -1}, {}, {}),
        ({}, {"name": 5}, {}),
        ({}, {"state": None}, {}),
        ({}, {}, {"holder": "a\nb"}),
        ({}, {}, {"counters": 5}),
        ({}, {}, {"counters": {"damaged": "many"}}),
    ],
)
def test_what_a_broken_server_sends_is_not_shown(server: Any, target: Any, session: Any) -> None:
    listing = Listing({**SERVER, **server}, [{"name": "a", "state": "free", **target}], [{**ENTRY, **session}])
    with pytest.raises(PeerError):
        as_table(listing)


@pytest.mark.parametrize("since", ["yesterday", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
def test_an_odd_time_is_shown_as_it_is(since: str) -> None:
    assert since in as_table(Listing(SERVER, [], [{**ENTRY, "since": since}])) or since.startswith(("9", "0"))


def test_the_spelling_of_old_debuggers() -> None:
    assert _spelled(["-QR", r"\\lab"]) == ["list", r"tcp:server=\\lab,port=1234"]
    assert _spelled(["/qr", "lab", "--json"]) == ["list", "tcp:server=lab,port=1234", "--json"]
    assert qr_string("ssl:server=lab,port=5") == "ssl:server=lab,port=5"
    assert _spelled(["-QR"]) == ["-QR"]
    assert _spelled(["-QR", "--json"]) == ["-QR", "--json"]
    assert _spelled(["list", "-QR"]) == ["list", "-QR"]


# With programs


def test_a_listing_of_a_server_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSRV_PIPE_DIR", str(tmp_path / "pipes"))
    pipes = ("-t", "npipe:pipe=open", "-t", "npipe:pipe=shut,hidden")
    with Server(*TARGETS, *pipes) as server:
        told = json.loads(command("list", *place(server), "--json").text)
        assert told["targets"] == [{"name": "rack1", "state": "free"}, {"name": "rack2", "state": "free"}]
        assert told["sessions"] == []
        with session_of(server, "") as client, Debugger(client.bridge) as debugger:
            debugger.halt()
            table = command("-QR", place(server)[0])
            assert table.status == 0
            assert "target:name=rack1  held" in table.text
            assert "halted: breakpoint" in table.text
            told = json.loads(command("list", "npipe:server=.,pipe=open", "--json").text)
            session = told["sessions"][0]
            assert (session["target"], session["run_state"]) == ("target:name=rack1", "halted")
            assert session["address"].startswith("127.0.0.1:")
            assert session["counters"]["packets_received"] >= 1
            assert "secret-one" not in json.dumps(told)
        hidden = command("list", "npipe:server=.,pipe=shut")
        assert (hidden.status, hidden.text.splitlines()[-1]) == (
            1,
            "kdsrv: the server says: the listing is not open to you on this server: it is hidden",
        )
        refused = run_program((*KDSRV, "connect", "--no-reconnect", "-k", server.string("sim:")))
        assert refused.status == 1
        assert "it offers target:name=rack1, target:name=rack2" in refused.text
        ended = command("end", *place(server), "--json")
        assert (ended.status, ended.text) == (0, '{"event": "ended"}\n')


def test_users_see_and_end_what_is_theirs(user_file: Path) -> None:
    with Server(*TARGETS, "--users", str(user_file)) as server:
        with session_of(server, "kim", "target:name=rack2") as kim:
            kim.wait_event("attached")
            told = {name: json.loads(command("list", *place(server, name), "--json").text) for name in USERS}
            assert {name: len(entry["sessions"]) for name, entry in told.items()} == {
                "kim": 1,
                "jo": 0,
                "ann": 0,
                "vic": 1,
            }
            assert {name: len(entry["targets"]) for name, entry in told.items()} == {
                "kim": 2,
                "jo": 1,
                "ann": 1,
                "vic": 2,
            }
            assert told["jo"]["server"] | {"software": ""} == {
                "software": "",
                "user": "jo",
                "role": "read-only",
                "left_out": 0,
            }
            assert "login refused" in command("list", place(server, "kim")[0], "--user", "jo").text
            for name in ("jo", "ann", "vic"):
                refusal = command("end", *place(server, name))
                assert (refusal.status, "role full, and all targets" in refusal.text) == (1, True)
            assert server.process.poll() is None
            ended = command("end", *place(server, "kim"))
            assert (ended.status, ended.text) == (0, "the server ends\n")
            assert "the server is shutting down" in kim.wait_event("lost")["message"]
        until(lambda: server.process.poll() is not None)
        assert server.process.returncode == 0
        assert "kim ends the server" in server.text


def test_a_debugger_of_somebody_who_may_only_look(user_file: Path) -> None:
    """The whole way: the debugger reads, is refused, is given the stop again, and leaves the target as it was."""
    with Server(*TARGETS, "--users", str(user_file)) as server:
        with session_of(server, "jo") as client, Debugger(client.bridge) as debugger:
            assert client.wait_event("attached")["description"].endswith(", read-only")
            stop = debugger.halt()
            before = debugger.read(KERNEL_BASE, 64)
            refused = debugger.ask(Manipulate.write_virtual(KERNEL_BASE, b"!!!!"))
            assert refused.status == NtStatus.ACCESS_DENIED
            debugger.send(Manipulate.continue_())
            assert debugger.wait_for(PacketType.STATE_CHANGE64) == stop
            assert debugger.read(KERNEL_BASE, 64) == before
            told = client.wait_event("status", kind="refused")
            assert told["sentence"] == "you may only look (read-only): Continue does not reach the target"
        with session_of(server, "jo", "target:name=rack2") as client:
            assert "it offers target:name=rack1" in client.wait_for("not-allowed[^\n]*")[0]
        with session_of(server, "kim") as client, Debugger(client.bridge) as debugger:
            debugger.halt()
            assert debugger.read(KERNEL_BASE, 64) == before


def test_a_listing_by_a_reverse_connection() -> None:
    question = [*KDSRV, "list", "tcp:clicon=127.0.0.1,port=40000:60000", "--json"]
    with BackgroundProgram(question, cwd=ROOT) as client:
        port = client.wait_for(r"listens on port (\d+)")[1]
        with Server("--connect", f"tcp:127.0.0.1:{port}", *TARGETS):
            client.wait_for('"rack1"')
            until(lambda: client.process.poll() is not None)
            assert client.process.returncode == 0
