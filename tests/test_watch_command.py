"""``kdsrv watch``: against real servers, and what it makes of what a server tells."""

from __future__ import annotations

import io
import json
import secrets
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, Client, Debugger, Server, run_program, until
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from kdsrv.auth.passwords import Verifier
from kdsrv.auth.users import Role as UserRole
from kdsrv.auth.users import User, user_line
from kdsrv.client.watching import SeenLine, ServerTooOld, WatchingProtocol
from kdsrv.commands.login_options import GivenLogin
from kdsrv.commands.screen import Screen
from kdsrv.commands.watch import Seat
from kdsrv.connection_strings import parse_kdsrv_string
from kdsrv.errors import KdsrvError, PeerError
from kdsrv.sessions.status import Running, Status
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.tls.settings import ClientCertificates
from kdsrv.wire.connection import Connection
from kdsrv.wire.messages import Bye, ClientHello, Role, Seen, ServerHello, StatusReport, Watch, Watching

USERS = {"kim": User("kim"), "jo": User("jo", UserRole.READ_ONLY, ("rack1",))}


class Watcher(BackgroundProgram):
    """``kdsrv watch --json``."""

    def __init__(self, string: str, *options: str) -> None:
        super().__init__([*KDSRV, "watch", string, "--json", *options], cwd=ROOT)

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.text.splitlines(keepends=True) if line.endswith("\n")]
        return [event for event in lines if event["event"] == kind]

    @property
    def kinds(self) -> list[str]:
        """What was seen, so far."""
        return [event["line"]["kind"] for event in self.events("seen")]

    def interrupt(self) -> int:
        """Ctrl-C; gives the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("server") / "users"
    path.touch(mode=0o600)
    verifiers = {name: Verifier.of(f"word-of-{name}", secrets.token_bytes(16)) for name in USERS}
    path.write_text("".join(f"{user_line(user, verifiers[name])}\n" for name, user in USERS.items()))
    targets = ("--target", "rack1=sim:name=one", "--target", "rack2=sim:name=two")
    with Server("--users", str(path), *targets) as server:
        yield server


def string(server: Server, name: str, target: str = "rack1") -> tuple[str, str, str]:
    place = f"tcp:server=127.0.0.1,port={server.port},password=word-of-{name}"
    return f"kdsrv:server=@{{{place}}},trans=@{{target:name={target}}}", "--user", name


def test_who_may_only_look_sees_what_others_do(server: Server) -> None:
    with Watcher(*string(server, "jo")) as jo:
        until(lambda: jo.events("watching"), 15)
        with Client(*string(server, "kim"), "--tcp", "0") as kim, Debugger(kim.bridge) as debugger:
            debugger.halt()
            debugger.read(KERNEL_BASE, 16)
            until(lambda: "reply" in jo.kinds)
        until(lambda: "end" in jo.kinds)
        assert [kind for kind in jo.kinds if kind in ("holder", "request", "reply", "end")] == [
            *("holder", "request", "reply", "end")
        ]
        holder, *_ = [event["line"] for event in jo.events("seen")]
        assert holder["holder"].startswith("kim (")
        assert jo.events("status")[-1]["sentence"] == "waiting: nobody has the target"
        assert jo.interrupt() == 0


def test_who_may_not_see_a_target_is_told_so(server: Server) -> None:
    ended = run_program((*KDSRV, "watch", *string(server, "jo", "rack2")))
    assert ended.status == 1
    assert ended.text == (
        "kdsrv: the server says: target:name=rack2 is not open to you on this server: it offers target:name=rack1\n"
    )


def test_it_comes_back_with_the_server_unless_told_otherwise() -> None:
    words = [*KDSRV, "watch", "--no-reconnect"]
    with (
        Server() as server,
        Watcher(server.string()) as watcher,
        BackgroundProgram([*words, server.string()], cwd=ROOT) as brief,
        BackgroundProgram([*KDSRV, "watch", server.string()], cwd=ROOT) as plain,
    ):
        until(lambda: watcher.events("watching"), 15)
        brief.wait_for("looking on at sim:")
        plain.wait_for("looking on at sim:")
        server.stop()
        until(lambda: watcher.events("lost"))
        plain.wait_for("^the server is lost: the server says: the server is shutting down; trying again$")
        assert brief.process.wait(10) == 1
        brief.wait_for("kdsrv: the server says: the server is shutting down")
        with Server(port=server.port):
            until(lambda: len(watcher.events("watching")) == 2, 15)


# What it makes of what it is told


class Onlooker:
    """A viewer who keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def seen(self, missed: int, lines: list[SeenLine]) -> None:
        self.told.append((missed, lines))

    def status_changed(self, status: Status) -> None:
        self.told.append(status)

    def lost(self, reason: KdsrvError) -> None:
        self.told.append(reason)


class Talk:
    """A client that looks on, and the server's end of its connection."""

    def __init__(self, instance: str = "0" * 16) -> None:
        self.clock = Clock()
        self.viewer = Onlooker()
        self.protocol = WatchingProtocol(self.clock, "sim:", self.viewer)
        self.transport = StringTransport()
        self.protocol.makeConnection(self.transport)
        self.server = Connection(Role.SERVER)
        assert isinstance(self.hear()[0], ClientHello)
        self.say(ServerHello(1, "a test", instance=instance))

    def hear(self) -> list[Any]:
        data = self.transport.value()
        self.transport.clear()
        return self.server.receive_data(data) if data else []

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.protocol.dataReceived(self.server.send(message))


LINE: dict[str, object] = {"time": 1_700_000_000.25, "kind": "print", "text": "hello", "processor": 0}


def test_the_viewer_is_told_in_order() -> None:
    talk = Talk()
    (watch,) = talk.hear()
    assert isinstance(watch, Watch)
    talk.say(Watching("sim:", "a simulated target", Running()))
    assert talk.protocol.watching.called
    talk.say(Seen(3, [LINE]), StatusReport(Running()))
    line = SeenLine(1_700_000_000.25, "print", "hello", {"processor": 0})
    assert talk.viewer.told == [(3, [line]), Running()]
    talk.clock.advance(16)
    talk.clock.advance(31)
    assert str(talk.viewer.told[-1]) == "the connection to the server has ended: it has been silent for 45 s"


def test_who_leaves_is_told_nothing_more() -> None:
    talk = Talk()
    talk.hear()
    talk.say(Watching("sim:", "", Running()))
    talk.protocol.leave()
    assert talk.hear() == [Bye("the client has seen enough")]
    assert talk.viewer.told == []


def test_a_server_of_an_older_release() -> None:
    talk = Talk(instance="")
    failure = talk.protocol.watching.result
    talk.protocol.watching.addErrback(lambda _: None)
    assert isinstance(failure.value, ServerTooOld)  # type: ignore[union-attr]
    assert talk.hear() == [Bye(str(ServerTooOld()))]


@pytest.mark.parametrize("wrong", [{"time": "now"}, {"time": 1e300}, {"time": -1}, {"kind": 3}, {"text": None}])
def test_what_is_no_line_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PeerError):
        SeenLine.read({**LINE, **wrong})
    for name in wrong:
        with pytest.raises(PeerError):
            SeenLine.read({key: value for key, value in LINE.items() if key != name})
    talk = Talk()
    talk.hear()
    talk.say(Watching("sim:", "", Running()), Seen(0, [{**LINE, **wrong}]))
    assert isinstance(talk.viewer.told[-1], PeerError)


def shown(*, as_json: bool, missed: int, line: dict[str, object]) -> str:
    stream = io.StringIO()
    screen = Screen(as_json=as_json, people=stream, programs=stream)
    spec = parse_kdsrv_string("kdsrv:server=@{tcp:server=lab,port=1},trans=@{sim:}")
    seat = Seat(Clock(), spec, screen, GivenLogin(), ClientCertificates())
    seat.seen(missed, [SeenLine.read(line)])
    return stream.getvalue()


def test_what_is_shown_to_people(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(as_json=False, missed=2, line=LINE).splitlines()
    assert lines[0].startswith("2 lines are missing here")
    assert lines[1].endswith(":20.250 print         hello")


def test_no_terminal_is_steered_by_a_target() -> None:
    evil = "\x1b[2J\u202e\r\ud800"
    for line in ({**LINE, "text": evil}, {**LINE, "kind": "print", "more": evil}):
        for as_json in (False, True):
            told = shown(as_json=as_json, missed=0, line=line)
            assert not set(told.rstrip("\n")) & set(evil) - set("[2J")


def test_what_is_shown_to_programs() -> None:
    missed, seen = map(json.loads, shown(as_json=True, missed=2, line={**LINE, "event": "x", "self": 1}).splitlines())
    assert missed == {"event": "missed", "lines": 2}
    assert seen == {
        "event": "seen",
        "line": {
            "time": "2023-11-14T22:13:20.250000+00:00",
            "kind": "print",
            "text": "hello",
            "processor": 0,
            "event": "x",
            "self": 1,
        },
    }
