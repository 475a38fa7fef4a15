"""``kdsrv sim``: the target at the end of a pty, FIFOs, a unix socket and a TCP port."""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdsrv.commands.sim import configure, run
from kdsrv.errors import SetupError
from kdsrv.kd.host_link import HostLink
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType

PROGRAM = """
import argparse
from twisted.internet.task import react
from kdsrv.commands import sim
parser = argparse.ArgumentParser()
sim.configure(parser)
options = parser.parse_args()
react(lambda reactor: sim.run(reactor, options))
"""
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def simulated_target(*arguments: str, reached: str = r"com:\S+") -> Iterator[str]:
    """Run the command; gives the place where it says that the target is. ``reached``: the kd-string, a pattern."""
    words = [sys.executable, "-c", PROGRAM, *arguments]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            line = program.stdout.readline()
            found = re.fullmatch(r"simulated target \(\w+\) at (.+); Ctrl-C ends it\n", line)
            assert found, line
            line = program.stdout.readline()
            assert re.fullmatch(rf"a server on this host reaches it as trans=@{{{reached}}}\n", line), line
            yield found[1]
        finally:
            program.terminate()
            assert program.wait(10) == 0


def visit(read: Callable[[], bytes], write: Callable[[bytes], object]) -> list[Packet]:
    """Resynchronise, ask for the version and for 2 KB of memory; the packets that came."""
    link = HostLink()
    packets: list[Packet] = []

    def talk_until(count: int) -> None:
        end = time.monotonic() + 20
        while len(packets) < count:
            assert time.monotonic() < end
            write(link.take_output())
            packets.extend(event for event in link.receive(read(), time.monotonic()) if isinstance(event, Packet))
        write(link.take_output())

    link.resync(time.monotonic())
    talk_until(1)
    for count, request in ((2, Manipulate.get_version()), (3, Manipulate.read_virtual(0xFFFF_F802_1000_0000, 2048))):
        link.send(PacketType.STATE_MANIPULATE, request.encode(), time.monotonic())
        talk_until(count)
    return packets


def check(packets: list[Packet]) -> None:
    assert packets[0].type == PacketType.STATE_CHANGE64
    version, memory = (Manipulate.decode(packet.payload) for packet in packets[-2:])
    assert version.version.build_number == 17134
    assert (memory["actual"], memory.data[:2]) == (2048, b"MZ")


def connect(kind: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
    debugger = socket.socket(kind)
    debugger.settimeout(20)
    debugger.connect(address)
    return debugger


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "target.sock"
    with simulated_target("--unix", str(path), reached=f"com:pipe,port={path}") as where:
        assert where == f"unix socket {path}"
        assert path.stat().st_mode & 0o777 == 0o600
        for _ in range(2):
            with connect(socket.AF_UNIX, str(path)) as debugger:
                check(visit(lambda: debugger.recv(4096), debugger.sendall))
                with connect(socket.AF_UNIX, str(path)) as second:
                    assert second.recv(10) == b""
    assert not path.exists()


def test_tcp_port() -> None:
    with simulated_target("--tcp", "0", "--state", "halted") as where:
        host, port = where.removeprefix("tcp ").rsplit(":", 1)
        assert host == "127.0.0.1"
        with connect(socket.AF_INET, (host, int(port))) as debugger:
            check(visit(lambda: debugger.recv(4096), debugger.sendall))


def test_pty() -> None:
    with simulated_target("--pty") as where:
        for _ in range(2):
            check(visit_serial_port(where.removeprefix("pty ")))


def visit_serial_port(path: str) -> list[Packet]:
    line = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(line)
        return visit(lambda: os.read(line, 4096), lambda data: os.write(line, data))
    finally:
        os.close(line)


def test_fifos(tmp_path: Path) -> None:
    name = tmp_path / "com1"
    with simulated_target("--fifo", str(name)) as where:
        assert where == f"FIFO pair {name}"
        with open(f"{name}.out", "rb", buffering=0) as said, open(f"{name}.in", "wb", buffering=0) as heard:
            check(visit(lambda: said.read(4096), heard.write))
    assert not list(tmp_path.iterdir())


def test_a_target_that_talks_and_stops_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "target.sock"
    with (
        simulated_target("--unix", str(path), "--state", "running", "--print-every", "0.1", "--stop-after", "0.3"),
        connect(socket.AF_UNIX, str(path)) as debugger,
    ):
        link = HostLink()
        types: list[int] = []
        while PacketType.STATE_CHANGE64 not in types:
            events = link.receive(debugger.recv(4096), time.monotonic())
            types += [event.type for event in events if isinstance(event, Packet)]
            debugger.sendall(link.take_output())
        assert types[0] == PacketType.DEBUG_IO


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tcp", "0", "--loss", "2"], "loss is a chance from 0 to 1"),
        (["--tcp", "0", "--cpus", "0"], "1 to 64 processors"),
        (["--tcp", "0", "--read-cap", "5000"], "1 to 3944 bytes"),
        (["--unix", "/nowhere/at/all.sock"], "cannot listen on /nowhere/at/all.sock"),
        (["--fifo", "/nowhere/at/all"], "cannot make the FIFOs"),
    ],
)
def test_wrong_options_are_one_sentence(arguments: list[str], message: str) -> None:
    from twisted.internet import reactor

    parser = argparse.ArgumentParser()
    configure(parser)
    with pytest.raises(SetupError, match=re.escape(message)):
        run(reactor, parser.parse_args(arguments))


@pytest.mark.parametrize("arguments", [[], ["--pty", "--tcp", "1"], ["--tcp", "x"], ["--tcp", "70000"]])
def test_the_command_line_is_checked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    configure(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)
    assert "usage:" in capsys.readouterr().err
