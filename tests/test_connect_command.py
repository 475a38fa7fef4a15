"""``kdsrv connect`` as a program: how it ends, how it comes back, and what it says to people and to programs."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, Client, Debugger, Server, addresses, until
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.testing import MemoryReactorClock

from kdsrv.client.connecting import ServerUnreachable
from kdsrv.client.protocol import ServerGone, ServerRefused
from kdsrv.commands import connect as connect_command
from kdsrv.commands.screen import Screen
from kdsrv.connection_strings import parse_kdsrv_string
from kdsrv.errors import KdsrvError, SetupError
from kdsrv.kd.manipulate import Manipulate
from kdsrv.sessions.decoded import printable
from kdsrv.sessions.status import Quiet
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.wire.messages import Attached


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running
    assert "Traceback" not in running.text, running.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(server: Server, number: signal.Signals, tmp_path: Path) -> None:
    bridge, link = tmp_path / "bridge", tmp_path / "pty"
    with Client(server.string(f"sim:name=signal{number}"), "--unix", str(bridge), "--pty", str(link)) as client:
        client.wait_event("ready")
        assert bridge.is_socket()
        assert bridge.stat().st_mode & 0o777 == 0o600
        assert link.is_symlink()
        client.process.send_signal(number)
        assert client.process.wait(5) == 0
    assert not bridge.exists()
    assert not link.is_symlink()
    assert client.events("error") == []
    server.wait_for(rf"has left sim:name=signal{number:d}$")


def test_it_may_be_ended_while_it_connects() -> None:
    """The server's queue is full, so that nothing is refused and nothing accepted."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        queue = [socket.socket() for _ in range(3)]
        for each in queue:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        words = (*KDSRV, "connect", "-k", f"kdsrv:server=@{{tcp:server=127.0.0.1,port={port}}},trans=@{{sim:}}")
        with BackgroundProgram(words, cwd=ROOT) as client:
            until(lambda: f":{port:04X} 02 " in Path("/proc/net/tcp").read_text() and _sends_syn(client, port))
            client.process.send_signal(signal.SIGINT)
            assert client.process.wait(5) == 0
        for each in queue:
            each.close()
    assert client.text == ""


def _sends_syn(program: BackgroundProgram, port: int) -> bool:
    """Whether the program has a socket open: before that it has not got to connecting."""
    fds = Path(f"/proc/{program.process.pid}/fd")
    links = [os.readlink(entry) for entry in fds.iterdir() if entry.is_symlink()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:")}
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[9] in inodes for row in rows)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_reader_that_goes_away_ends_it(server: Server, as_json: bool) -> None:
    """As in ``kdsrv connect --json | head -1``."""
    words = [*KDSRV, "connect", "-k", server.string(f"sim:name=head{as_json}"), "--tcp", "0"]
    words += ["--json"] if as_json else []
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        read, kept = (client.stdout, client.stderr) if as_json else (client.stderr, client.stdout)
        assert read is not None
        assert kept is not None
        found = ""
        while not (port := re.search(r"127\.0\.0\.1:(\d+)", found)):
            found = read.readline()
        read.close()
        # it may be gone already, and so is its bridge; if not, a debugger that comes is an event to tell
        with contextlib.suppress(OSError, AssertionError), Debugger(("127.0.0.1", int(port[1]))) as debugger:
            debugger.halt()
        try:
            assert client.wait(5) == 1
        finally:
            client.kill()
        assert kept.read() == ""
    server.wait_for(rf"has left sim:name=head{as_json}$")


def test_a_lost_server_with_no_reconnect() -> None:
    with Server() as server, Client(server.string(), "--tcp", "0", "--no-reconnect") as client:
        client.wait_event("ready")
        server.process.kill()
        assert client.process.wait(5) == 1
        assert [event["code"] for event in client.events("error")] == ["server-gone"]


def test_a_lost_server_is_connected_to_again(tmp_path: Path) -> None:
    """The debugger on the bridge keeps its line and goes on; its target is another one by then."""
    with Server() as server, Client(server.string(), "--tcp", "0") as client:
        port = server.port
        with Debugger(client.bridge) as debugger:
            debugger.halt()
            assert debugger.read(KERNEL_BASE, 2) == b"MZ"
            server.process.kill()
            server.process.wait()
            lost = client.wait_event("lost")
            assert lost["code"] == "server-gone"
            client.wait_event("status", kind="interrupted")
            with Server(port=port):
                client.wait_event("attached", 2)
                debugger.halt()
                assert debugger.read(KERNEL_BASE, 2) == b"MZ"
        client.process.send_signal(signal.SIGINT)
        assert client.process.wait(5) == 0


def test_a_server_that_ends_says_so() -> None:
    with Server() as server, Client(server.string(), "--tcp", "0") as client:
        client.wait_event("ready")
        server.process.terminate()
        assert client.wait_event("lost")["message"] == "the server says: the server is shutting down"
        client.process.send_signal(signal.SIGINT)
        assert client.process.wait(5) == 0


FACTS = {
    "attached": {"event", "target", "description", "status"},
    "bridge": {"event", "kind", "address", "commands"},
    "ready": {"event"},
    "status": {"event", "kind", "run_state", "sentence"},
    "debugger": {"event", "state", "line"},
}


def test_what_programs_read(server: Server, tmp_path: Path) -> None:
    options = ("--tcp", "0", "--unix", str(tmp_path / "u"), "--pty", str(tmp_path / "p"))
    with Client(server.string("sim:name=json"), *options) as client:
        client.wait_event("status", kind="halted")
        with Debugger(client.bridge) as debugger:
            debugger.halt()
            client.wait_event("debugger", state="came")
            with socket.socket(socket.AF_UNIX) as second:
                second.connect(str(tmp_path / "u"))
                second.settimeout(5)
                assert second.recv(1) == b""
            client.wait_event("debugger", state="refused")
            assert debugger.read(KERNEL_BASE, 2) == b"MZ"
            debugger.send(Manipulate.continue_())
            client.wait_event("status", kind="running")
        client.wait_event("debugger", state="left")
        client.process.send_signal(signal.SIGINT)
        assert client.process.wait(5) == 0
    said = [json.loads(line) for line in client.text.splitlines()]
    assert {event["event"] for event in said} == set(FACTS)
    for event in said:
        assert set(event) >= FACTS[event["event"]], event
    assert [event["event"] for event in said if event["event"] != "status"][:5] == [
        "attached",
        "bridge",
        "bridge",
        "bridge",
        "ready",
    ]
    bridges = client.events("bridge")
    assert [event["kind"] for event in bridges] == ["tcp", "unix", "pty"]
    assert [event["address"] for event in bridges[1:]] == [str(tmp_path / "u"), str(tmp_path / "p")]


def test_what_people_read_without_a_terminal(server: Server) -> None:
    """Plain lines, each once, though the target is silent for seconds and every second has a status."""
    string = server.string("sim:name=plain,state=running")
    with BackgroundProgram([*KDSRV, "connect", "-k", string, "--tcp", "0"], cwd=ROOT) as client:
        client.wait_for("^no byte from the target")
        time.sleep(2.2)
        client.process.send_signal(signal.SIGINT)
        assert client.process.wait(5) == 0
    lines = client.text.splitlines()
    assert "\x1b" not in client.text
    assert "\r" not in client.text
    assert len([line for line in lines if line.startswith("no byte from the target")]) == 1
    address = addresses(client.text)[0]
    host, _, port = address.rpartition(":")
    assert f"  windbg -k com:ipport={port},port={host}" in lines
    assert lines[0] == "holding simulated target plain"


def test_the_default_bridges(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with BackgroundProgram([*KDSRV, "connect", "-k", server.string("sim:name=two")], cwd=ROOT) as client:
        client.wait_for("^Ctrl-C ends")
        tcp, unix = addresses(client.text)
        assert tcp.startswith("127.0.0.1:")
        assert Path(unix).parent == tmp_path / "kdsrv"
        assert (tmp_path / "kdsrv").stat().st_mode & 0o777 == 0o700
        with Debugger(unix) as debugger:
            debugger.halt()
            assert debugger.read(KERNEL_BASE, 2) == b"MZ"


def test_relative_paths_are_shown_whole_and_the_string_needs_no_k(server: Server, tmp_path: Path) -> None:
    words = [*KDSRV, "connect", "--unix", "u", server.string("sim:name=paths"), "--pty", "p"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = ""
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as client:
        assert client.stderr is not None
        while "Ctrl-C ends" not in said:
            said += client.stderr.readline() or pytest.fail(said)
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(str(tmp_path / "u"))
            while "a debugger came" not in said:
                said += client.stderr.readline() or pytest.fail(said)
            second.connect(str(tmp_path / "u"))
            while "turned away" not in said:
                said += client.stderr.readline() or pytest.fail(said)
        client.send_signal(signal.SIGINT)
        assert client.wait(5) == 0
    assert addresses(said) == [str(tmp_path / "u"), str(tmp_path / "p")]
    assert "serial port" in said.partition(f"{tmp_path}/p:\n")[2].splitlines()[0]
    away = f"a second debugger on {tmp_path}/u was turned away: the target's debugger is there already"
    assert away in said.splitlines()


class Lab:
    """Stands for the way to a server: gives a session at once, or fails with ``error``; keeps the times."""

    def __init__(self, clock: MemoryReactorClock) -> None:
        self.clock = clock
        self.times: list[float] = []
        self.error: KdsrvError | None = None

    def connect(self, *_: object, **__: object) -> Deferred[tuple[object, Attached]]:
        self.times.append(self.clock.seconds())
        if self.error is not None:
            return fail(self.error)
        return succeed((SimpleNamespace(leave=lambda: None), Attached("sim:", "sim", Quiet(0.0))))


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    lab = Lab(MemoryReactorClock())
    monkeypatch.setattr(connect_command, "connect", lab.connect)
    return lab


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def desk(lab: Lab, said: io.StringIO) -> Iterator[connect_command.Desk]:
    spec = parse_kdsrv_string("kdsrv:server=@{tcp:server=lab,port=1},trans=@{sim:}")
    desk = connect_command.Desk(lab.clock, spec, Screen(as_json=False, people=said), reconnect=True)
    opening = ensureDeferred(desk.open([("127.0.0.1", 0)], [], []))
    assert opening.called
    yield desk
    desk.close()


def test_a_session_that_dies_at_once_is_not_tried_again_each_second(desk: connect_command.Desk, lab: Lab) -> None:
    for _ in range(6):
        desk.session_lost(SetupError(why="the line died"))
        lab.clock.pump([0.25] * 80 if len(lab.times) == 4 else [0.25] * 4 * 2 ** (len(lab.times) - 1))
    assert [later - earlier for earlier, later in zip(lab.times, lab.times[1:], strict=False)][:4] == [1, 2, 4, 8]


def test_after_a_long_session_the_wait_is_short_again(desk: connect_command.Desk, lab: Lab) -> None:
    for wait in (1, 2, 4):
        desk.session_lost(SetupError(why="the line died"))
        lab.clock.advance(wait)
    lab.clock.advance(10.5)
    before = len(lab.times)
    desk.session_lost(SetupError(why="the line died"))
    lab.clock.advance(1)
    assert len(lab.times) == before + 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ServerUnreachable(address="lab:1", why="nobody listens there"),
            "waiting for the server: nobody listens there",
        ),
        (ServerRefused(code="held", message="sim: is held by jo"), "waiting: sim: is held by jo"),
    ],
)
def test_what_is_waited_for(
    desk: connect_command.Desk, lab: Lab, said: io.StringIO, error: KdsrvError, sentence: str
) -> None:
    lab.error = error
    desk.session_lost(ServerGone(why="it closed the connection"))
    lab.clock.advance(1)
    assert said.getvalue().splitlines()[-1] == sentence


def test_a_terminal_that_is_gone_is_no_trouble() -> None:
    master, slave = pty.openpty()
    with open(slave, "w", encoding="utf-8") as people:
        screen = Screen(as_json=False, people=people)
        gone: list[None] = []
        screen.gone = lambda: gone.append(None)
        os.close(master)
        screen.live(Quiet(1.0))
        assert gone == [None]


def test_a_terminal_has_a_live_line(server: Server) -> None:
    """It is rewritten in place, never wider than the terminal, and left behind when all is over."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(KDSRV[0], [*KDSRV, "connect", "-k", server.string("sim:name=live,state=running"), "--tcp", "0"])
    try:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        shown = b""
        end = time.monotonic() + 15
        while shown.count(b"\r\x1b[K[") < 3 and time.monotonic() < end:
            if select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 65536)
        os.write(master, b"\x03")
        status = os.waitpid(pid, 0)[1]
        pid = 0
        shown += os.read(master, 65536)
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(master)
    assert os.waitstatus_to_exitcode(status) == 0
    live = re.findall(rb"\r\x1b\[K(\[[^\r^]*)", shown)
    assert len(live) >= 3
    assert all(len(line) < 40 and line.startswith(b"[no byte from the target for ") for line in live)
    assert len(set(live)) == len(live), "it is written only when it changes"
    assert shown.endswith(b"\r\n")


def test_the_target_prints_while_no_debugger_is_there() -> None:
    """Printed text may not steer the terminal of who reads it."""
    assert printable("a\x1b[31mred\x9b2J\ttab\u202eltr\n") == r"a\x1b[31mred\x9b2J\ttab" + r"\u202eltr"
