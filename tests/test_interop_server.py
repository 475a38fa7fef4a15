"""Both debuggers through the whole path: a unix socket, ``kdsrv connect``, the server, a line, the simulated target.

Everything is a process of its own, started as users start it. The lines are those a lab has: a pty stands for a serial
port, a unix socket and a pair of FIFOs for a virtual machine's pipe, TCP for a terminal server.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from debugger_visits import visit_with_ntoseye, visit_with_radare2

from kdsrv.sim.kernel import Kernel
from kdsrv.sim.target import SimulatedTarget

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.interop

Visit = Callable[[Path, Kernel], None]
each_debugger = pytest.mark.parametrize("visit", [visit_with_ntoseye, visit_with_radare2])


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """The memory of a target that nobody has touched."""
    return SimulatedTarget().machine.kernel


class Lab:
    """A server, and on demand simulated targets on its lines and clients beside the debuggers."""

    def __init__(self, room: Path, programs: ExitStack) -> None:
        self.room = room
        self._programs = programs
        self._count = 0
        options = ("--listen", "tcp:0:interface=127.0.0.1", "--no-password")
        server = self.start("twisted", "--log-format", "text", "kdsrv", *options)
        self.port = server.wait_for(r"listens on 127\.0\.0\.1:(\d+)").group(1)

    def start(self, *words: str | Path) -> BackgroundProgram:
        """Run a Python module with arguments until the test ends."""
        return self._programs.enter_context(BackgroundProgram([sys.executable, "-m", *words], cwd=ROOT))

    def new_path(self, name: str) -> Path:
        self._count += 1
        return self.room / f"{name}{self._count}"

    def wire(self, medium: str, *options: str) -> str:
        """Put a new target on a line of this medium; the kd-string that names it."""
        path = self.new_path("target")
        place = {
            "pty": ["--pty"],
            "unix socket": ["--unix", str(path)],
            "FIFO pair": ["--fifo", str(path)],
            "tcp": ["--tcp", "0"],
        }[medium]
        sim = self.start("kdsrv.cli", "sim", *place, *options)
        where = sim.wait_for(rf"at {medium} (\S+);").group(1)
        if medium == "pty":
            return f"com:port={where},baud=115200"
        if medium == "tcp":
            host, port = re.fullmatch(r"(.*):(\d+)", where).groups()  # type: ignore[union-attr]
            return f"com:ipport={port},port={host}"
        return f"com:pipe,port={where}"

    def connect(self, kd_string: str) -> tuple[BackgroundProgram, Path]:
        """Hold a target; where the debugger reaches it."""
        bridge = self.new_path("bridge")
        string = f"kdsrv:server=@{{tcp:server=127.0.0.1,port={self.port}}},trans=@{{{kd_string}}}"
        client = self.start("kdsrv.cli", "connect", "-k", string, "--unix", bridge)
        client.wait_for(f"{bridge}")
        return client, bridge


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as programs:
        yield Lab(tmp_path, programs)


@each_debugger
@pytest.mark.parametrize("medium", ["pty", "unix socket", "FIFO pair", "tcp"])
def test_a_visit(visit: Visit, medium: str, lab: Lab, kernel: Kernel) -> None:
    _client, bridge = lab.connect(lab.wire(medium))
    visit(bridge, kernel)


def test_visits_one_after_the_other_in_one_session(lab: Lab, kernel: Kernel) -> None:
    """A debugger may leave and another attach while ``kdsrv connect`` keeps the session."""
    _client, bridge = lab.connect(lab.wire("pty"))
    for visit in (visit_with_ntoseye, visit_with_radare2, visit_with_radare2, visit_with_ntoseye):
        visit(bridge, kernel)


@each_debugger
def test_the_next_session_finds_the_target_as_it_was_left(visit: Visit, lab: Lab, kernel: Kernel) -> None:
    line = lab.wire("pty")
    first, bridge = lab.connect(line)
    visit(bridge, kernel)
    first.stop()
    _second, bridge = lab.connect(line)
    visit(bridge, kernel)


@each_debugger
def test_a_visit_over_a_bad_line(visit: Visit, lab: Lab, kernel: Kernel) -> None:
    """The server makes the line good: over the bridge even radare2 works, which never sends a packet again."""
    line = lab.wire("unix socket", "--loss", "0.03", "--duplicate", "0.03", "--seed", "1")
    _client, bridge = lab.connect(line)
    visit(bridge, kernel)
