"""``kdsrv connect`` as a program: how it ends, how it comes back, and what it says to people and to programs."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
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

import pytest
from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, Client, Debugger, Server, addresses, run_program, until

from kdsrv.client.breaks import ServerAway
from kdsrv.commands.connect import _release_command, configure
from kdsrv.commands.default_socket import default_socket
from kdsrv.commands.screen import Screen
from kdsrv.connection_strings import parse_kdsrv_string
from kdsrv.kd.manipulate import Manipulate
from kdsrv.sessions.decoded import printable
from kdsrv.sessions.net_status import NetWrongKey
from kdsrv.sessions.status import Quiet, Running
from kdsrv.sim.kernel import KERNEL_BASE


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
                renewed = client.wait_event("renewed")
                assert renewed["message"] == "the server was restarted: a new session, the target is as it was"
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


def test_a_port_that_is_taken_is_told_before_anybody_is_asked_for_the_target() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy, socket.create_server(("127.0.0.1", 0)) as asked:
        port, server = busy.getsockname()[1], asked.getsockname()[1]
        string = f"kdsrv:server=@{{tcp:server=127.0.0.1,port={server}}},trans=@{{sim:}}"
        ended = run_program((*KDSRV, "connect", "-k", string, "--tcp", str(port)))
        assert ended.status == 1
        assert f"127.0.0.1:{port}" in ended.text
        assert "Address already in use" in ended.text
        asked.settimeout(0.1)
        with pytest.raises(TimeoutError):
            asked.accept()


def test_a_target_that_is_taken_by_force_is_gone(server: Server) -> None:
    """The first debugger's line stays, and its program does not fight for the target."""
    string = server.string("sim:name=forced")
    with Client(string) as first:
        first.wait_event("ready")
        with Client(string, "--tcp", "0", "--take", "force") as second:
            second.wait_event("ready")
            assert first.process.wait(5) == 1
            (error,) = first.events("error")
            assert error["code"] == "taken"
            assert "was taken over by " in error["message"]
            assert first.events("lost") == []
            with Debugger(second.bridge) as debugger:
                debugger.halt()
                assert debugger.read(KERNEL_BASE, 2) == b"MZ"


def test_a_target_is_asked_for_and_given_away(server: Server) -> None:
    string = server.string("sim:name=asked")
    release = (*KDSRV, "release", string)
    ended = run_program(release)
    assert (ended.status, ended.text) == (
        1,
        "kdsrv: the server says: nobody holds sim:name=asked who could give it away\n",
    )
    with Client(string) as first:
        first.wait_event("ready")
        ended = run_program((*release, "--json"))
        assert ended.status == 1
        assert json.loads(ended.text)["message"] == (
            "the server says: nobody asks for sim:name=asked: it stays with you"
        )
        with Client(string, "--tcp", "0", "--take", "ask") as second:
            notice = first.wait_event("notice")
            assert "kdsrv release gives it away" in notice["text"]
            assert notice["command"] == f"kdsrv release '{string}'"
            assert " has been asked for sim:name=asked" in second.wait_event("notice")["text"]
            ended = run_program(release)
            assert ended.status == 0, ended.text
            assert ended.text.endswith(" has sim:name=asked now\n")
            assert first.process.wait(5) == 0
            assert first.events("error") == []
            assert "sim:name=asked was given to " in first.events("given")[0]["message"]
            second.wait_event("ready")


@pytest.mark.parametrize(("on_leave", "state"), [("continue", "running"), ("stay", "halted")])
def test_what_becomes_of_the_target(server: Server, on_leave: str, state: str) -> None:
    string = server.string(f"sim:name=left{on_leave}")
    with Client(string, "--tcp", "0", "--on-leave", on_leave) as client:
        client.wait_event("status", kind="halted")
        client.process.send_signal(signal.SIGINT)
        assert client.process.wait(5) == 0
    with Client(string, "--tcp", "0") as client:
        client.wait_event("ready")
        if state == "halted":
            client.wait_event("status", kind="halted")
        else:
            client.wait_event("status", kind="quiet", seconds=1)


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


def test_a_terminal_that_is_gone_is_no_trouble() -> None:
    master, slave = pty.openpty()
    with open(slave, "w", encoding="utf-8") as people:
        screen = Screen(as_json=False, people=people)
        gone: list[None] = []
        screen.gone = lambda: gone.append(None)
        os.close(master)
        screen.live(Quiet(1.0))
        assert gone == [None]


def test_a_status_that_is_longer_than_the_terminal_is_shown_whole_once() -> None:
    """Again when it says something else, but not when a number in it has changed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    statuses = [NetWrongKey(50000, f"192.0.2.{place}", offers) for offers, place in [(1, 7), (2, 7)]]
    with open(slave, "w", encoding="utf-8") as people, open(master, "rb", buffering=0) as terminal:
        screen = Screen(as_json=False, people=people)
        for status in (*statuses, Running(), statuses[1], ServerAway("x" * 60)):
            screen.live(status)
            screen.report("debugger", "a debugger came")
        away = ServerAway("y" * 60)
        screen.report("lost", "y, and so on")
        screen.know(away)
        screen.live(away)
        shown = b""
        while select.select([terminal], [], [], 0.2)[0]:
            shown += terminal.read(65536)
    rows = [row.rpartition("\x1b[K")[2] for row in shown.decode().split("\r\n")]
    whole = [row for row in rows if len(row) >= 40]
    assert whole == [statuses[0].sentence(), statuses[1].sentence(), f"waiting for the server: {'x' * 60}"]
    assert rows[-1] == f"[{away.sentence()}]"[:39]


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


def test_the_socket_of_a_long_directory_gets_a_short_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runtime = tmp_path / "r"
    while len(os.fsencode(runtime)) < 75:
        runtime /= "uuu"
    runtime.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    string = "kdsrv:server=@{tcp:server=lab,port=1234},trans=@{com:pipe,port=/run/a-very-long-name/of/a/machine.sock}"
    place = default_socket(parse_kdsrv_string(string))
    assert place.parent == runtime / "kdsrv"
    assert place.name.startswith("com")
    assert len(os.fsencode(place)) <= 107


def test_sockets_of_processes_that_are_gone_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = tmp_path / "kdsrv"
    directory.mkdir(0o700)
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    names = [f"sim-{gone.pid}.sock", f"heard-{gone.pid}.sock", f"sim-{os.getpid()}.sock", "sim.sock"]
    sockets = [socket.socket(socket.AF_UNIX) for _ in names]
    for each, name in zip(sockets, names, strict=True):
        each.bind(str(directory / name))
    (directory / f"file-{gone.pid}.sock").touch()
    sockets[1].listen()
    default_socket(parse_kdsrv_string("kdsrv:server=@{tcp:server=lab,port=1234}"))
    assert {path.name for path in directory.iterdir()} == {*names[1:], f"file-{gone.pid}.sock"}
    for each in sockets:
        each.close()


def test_the_command_that_gives_a_target_away_shows_no_secret() -> None:
    parser = argparse.ArgumentParser()
    configure(parser)
    options = parser.parse_args(["--user", "kim", "--password-file", "a b", "--ca", "ca.pem", "-k", "x"])
    spec = parse_kdsrv_string("kdsrv:server=@{ssl:server=lab,port=1,password=word},trans=@{net:port=5,key=1.2.3.4}")
    assert _release_command(spec, options) == (
        "kdsrv release 'kdsrv:server=@{ssl:server=lab,port=1},trans=@{net:port=5,key=*}' --user kim --ca ca.pem "
        "--password-file 'a b'"
    )
