"""The programs of this project as a user starts them, from this source tree, and a debugger to put on their lines."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Self

from background_program import BackgroundProgram

from kdsrv.kd.host_link import HostLink
from kdsrv.kd.link import Event
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType

__all__ = [
    "KDSRV",
    "ROOT",
    "TWIST",
    "TWISTD",
    "Client",
    "Debugger",
    "Outcome",
    "Server",
    "Simulation",
    "fake_server",
    "run_each",
    "run_program",
    "until",
]

ROOT = Path(__file__).resolve().parents[1]
KDSRV = (sys.executable, "-m", "kdsrv.cli")
TWIST = (sys.executable, "-m", "twisted", "--log-format=text", "kdsrv")
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
_LIMIT = 20.0


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    status: int
    text: str


def run_program(words: tuple[str, ...], limit: float = _LIMIT) -> Outcome:
    """Run a program to its end, which comes within the limit."""
    done = subprocess.run(
        words,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=limit,
        check=False,
    )
    return Outcome(done.returncode, done.stdout)


_FORK_EACH = """
import json, os, sys
from kdsrv import cli
from twisted.internet import endpoints, tcp, unix
ended = []
for number, words in enumerate(json.load(sys.stdin)):
    path = f"{sys.argv[1]}/{number}"
    child = os.fork()
    if not child:
        output = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.exit(cli.main(words))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ended.append([status, open(path, errors="replace").read()])
json.dump(ended, sys.stdout)
"""


def run_each(commands: list[tuple[str, ...]], folder: Path, limit: float = 60) -> list[Outcome]:
    """Run the ``kdsrv`` command with each of these words, one after the other.

    Each is a process of its own, forked from one that has done the imports, which are most of the time it takes.
    """
    done = subprocess.run(
        [sys.executable, "-c", _FORK_EACH, folder],
        cwd=ROOT,
        input=json.dumps(commands),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=limit,
        check=True,
    )
    return [Outcome(*ended) for ended in json.loads(done.stdout)]


def until(condition: Callable[[], object], limit: float = 5.0) -> float:
    """Wait until it is so; how many seconds that took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < limit, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - begin


class Server(BackgroundProgram):
    """``twist kdsrv`` on a free port of loopback, or on a given one.

    Anybody may come in, unless ``options`` say something of a password or users.
    """

    def __init__(self, *options: str, port: int = 0, before: tuple[str, ...] = ()) -> None:
        login = () if re.search("password|users", " ".join(options)) else ("--no-password",)
        listen = ("--listen", f"tcp:{port}:interface=127.0.0.1")
        super().__init__([*before, *TWIST, *listen, *options, *login], cwd=ROOT)
        self.port = 0

    def __enter__(self) -> Self:
        super().__enter__()
        self.port = int(self.wait_for(r"listens on 127\.0\.0\.1:(\d+)")[1])
        self.wait_for("Starting reactor")
        return self

    def string(self, trans: str = "sim:") -> str:
        """For ``kdsrv connect -k``."""
        return f"kdsrv:server=@{{tcp:server=127.0.0.1,port={self.port}}},trans=@{{{trans}}}"

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def resident(self) -> int:
        """Memory in bytes."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


class Simulation(BackgroundProgram):
    """``kdsrv sim``; ``place`` is where it is."""

    def __init__(self, *options: str) -> None:
        super().__init__([*KDSRV, "sim", *options], cwd=ROOT)

    def __enter__(self) -> Self:
        super().__enter__()
        self.place = self.wait_for(r"at (?:pty |tcp |unix socket |FIFO pair )(\S+);")[1]
        return self


class Client(BackgroundProgram):
    """``kdsrv connect --json``, with a bridge on a free TCP port unless told otherwise."""

    def __init__(self, string: str, *options: str) -> None:
        super().__init__([*KDSRV, "connect", "-k", string, "--json", *(options or ("--tcp", "0"))], cwd=ROOT)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind so far; every line that was printed is an event."""
        lines = self.text.splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if event["event"] == kind]

    def wait_event(self, name: str, count: int = 1, limit: float = 15, /, **facts: object) -> dict[str, Any]:
        """The event of this kind, and with these facts, that makes ``count`` of them."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [event for event in self.events(name) if facts.items() <= event.items()]
            assert len(found) >= count or self.process.poll() is None, str(self)
            return len(found) >= count

        until(is_there, limit)
        return found[count - 1]

    @property
    def bridge(self) -> tuple[str, int]:
        """The address of its TCP bridge."""
        host, _, port = self.wait_event("bridge", kind="tcp")["address"].rpartition(":")
        return host, int(port)


class Debugger:
    """A small debugger on a stream socket: blocking, one request at a time."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.connect(address)
        self.link = HostLink()
        self.packets: list[Packet] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def halt(self) -> Packet:
        """The stop of the target; breaks in if it runs."""
        self._take(self.link.resync(time.monotonic()))
        self.link.break_in(time.monotonic())
        return self.wait_for(PacketType.STATE_CHANGE64)

    def send(self, request: Manipulate) -> None:
        self.link.send(PacketType.STATE_MANIPULATE, request.encode(), time.monotonic())
        self._flush()

    def ask(self, request: Manipulate) -> Manipulate:
        self.send(request)
        return Manipulate.decode(self.wait_for(PacketType.STATE_MANIPULATE).payload)

    def read(self, address: int, count: int) -> bytes:
        reply = self.ask(Manipulate.read_virtual(address, count))
        assert reply.succeeded
        return reply.data

    def wait_for(self, packet_type: int, limit: float = 10.0) -> Packet:
        """The next packet of this type; others that come before it are dropped."""
        end = time.monotonic() + limit
        self._flush()
        while True:
            while self.packets:
                packet = self.packets.pop(0)
                if packet.type == packet_type:
                    return packet
            now = time.monotonic()
            assert now < end, "the target does not answer"
            deadline = self.link.deadline
            self.socket.settimeout(max(0.001, min(end, deadline or end) - now))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                self._take(self.link.expire(time.monotonic()))
                continue
            assert data, "the line was closed"
            self._take(self.link.receive(data, time.monotonic()))

    def _take(self, events: Any) -> None:
        found: list[Event] = list(events)
        self.packets += [event for event in found if isinstance(event, Packet)]
        self._flush()

    def _flush(self) -> None:
        output = self.link.take_output()
        if output:
            self.socket.sendall(output)


@contextmanager
def fake_server(answer: bytes, *, listens: bool = True) -> Iterator[int]:
    """Something else on a port: answers the first bytes of each connection with these and closes. Gives its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if listens:
            listener.listen()
        listener.settimeout(0.1)
        ended = False

        def serve() -> None:
            while not ended:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    continue
                with connection:
                    connection.settimeout(5)
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = Thread(target=serve, daemon=True)
        if listens:
            thread.start()
        yield listener.getsockname()[1]
        ended = True
        if listens:
            thread.join()


def addresses(text: str) -> list[str]:
    """The bridges named in what ``kdsrv connect`` tells people."""
    return re.findall(r"^a debugger finds the target on [a-zA-Z ]+ (\S+):$", text, re.MULTILINE)
