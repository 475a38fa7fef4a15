"""Both debuggers directly on ``kdsrv sim``: that they are content with it is what makes it fit to test a server with.

Not on a bad line: radare2 never sends a packet again, ntoseye waits 5 s for each that is lost, and the checksum does
not cover a packet's header, so that damage there is believed by either.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from debugger_visits import visit_with_ntoseye, visit_with_radare2
from real_debuggers import RADARE2_READ_LIMIT, radare2_bytes, run_ntoseye, run_radare2

from kdsrv.sim.kernel import KERNEL_BASE, Kernel
from kdsrv.sim.target import SimulatedTarget

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.interop

Visit = Callable[[Path, Kernel], None]
each_debugger = pytest.mark.parametrize("visit", [visit_with_ntoseye, visit_with_radare2])


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """The memory of a target that nobody has touched."""
    return SimulatedTarget().machine.kernel


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "target"


def simulated(socket_path: Path, *options: str) -> AbstractContextManager[BackgroundProgram]:
    """``kdsrv sim`` on a unix socket."""
    return BackgroundProgram([sys.executable, "-m", "kdsrv.cli", "sim", "--unix", socket_path, *options], cwd=ROOT)


@each_debugger
@pytest.mark.parametrize("state", ["halted", "running"])
def test_a_visit(visit: Visit, state: str, socket_path: Path, kernel: Kernel) -> None:
    with simulated(socket_path, "--state", state) as sim:
        sim.wait_for("simulated target")
        visit(socket_path, kernel)


def test_visits_one_after_the_other(socket_path: Path, kernel: Kernel) -> None:
    """Each leaves the target in a state in which the next one is served as well: ntoseye running, radare2 stopped."""
    with simulated(socket_path) as sim:
        sim.wait_for("simulated target")
        for visit in (visit_with_radare2, visit_with_radare2, visit_with_ntoseye, visit_with_radare2):
            visit(socket_path, kernel)


@each_debugger
def test_a_visit_while_the_target_prints(visit: Visit, socket_path: Path, kernel: Kernel) -> None:
    with simulated(socket_path, "--state", "running", "--print-every", "0.05") as sim:
        sim.wait_for("simulated target")
        visit(socket_path, kernel)


def test_ntoseye_watches_a_target_boot(socket_path: Path, kernel: Kernel) -> None:
    """The target waits for somebody to be told of its first module; from there it boots on."""
    with simulated(socket_path, "--state", "boot") as sim:
        sim.wait_for("simulated target")
        told = run_ntoseye(socket_path, ["r rip", "g", "r rip"], break_in_at=[1])
    assert told.answers[2] == f"rip={kernel.routines['DbgBreakPointWithStatus']:016x}"


def test_radare2_reads_as_much_as_it_can_take(socket_path: Path, kernel: Kernel) -> None:
    """More than 1992 bytes at once it cannot take from any target: a packet over 2048 bytes puts it out of step."""
    with simulated(socket_path) as sim:
        sim.wait_for("simulated target")
        told = run_radare2(socket_path, [f"p8 {RADARE2_READ_LIMIT} @ {KERNEL_BASE:#x}"])
    assert radare2_bytes(told.answers[0]) == kernel.memory.read_virtual(KERNEL_BASE, RADARE2_READ_LIMIT)
