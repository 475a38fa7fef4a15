"""Both debuggers directly on ``kdsrv sim --net``, by their own KDNET: nothing of the server's host end is in it.

ntoseye listens where it is told to. radare2 takes the port of every address, and calls the target at the same port, so
that it and its target need a network each. What either cannot do is said in real_debuggers.py.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from debugger_visits import visit_with_ntoseye, visit_with_radare2
from real_debuggers import NetPlace
from two_networks import TwoNetworks

from kdsrv.sim.kernel import Kernel
from kdsrv.sim.target import SimulatedTarget

ROOT = Path(__file__).resolve().parents[1]
KEY = "1m770ts6ru0p.3671pemyie4i.2b8djy3wt5et.1p99ir125v4q"

pytestmark = pytest.mark.interop

each_kind = pytest.mark.parametrize(("state", "version"), [("halted", 5), ("running", 5), ("running", 4)])


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """The memory of a target that nobody has touched."""
    return SimulatedTarget().machine.kernel


@pytest.fixture
def place() -> NetPlace:
    """A UDP port of this host that is free."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return NetPlace("127.0.0.1", free.getsockname()[1], KEY)


@pytest.fixture(scope="module")
def networks() -> Iterator[TwoNetworks]:
    with TwoNetworks() as networks:
        yield networks


def simulated(
    place: NetPlace, *options: str, within: tuple[str, ...] = ()
) -> AbstractContextManager[BackgroundProgram]:
    """``kdsrv sim`` for a debugger that listens there."""
    words = [*within, sys.executable, "-m", "kdsrv.cli", "sim", "--net", f"{place.address}:{place.port}"]
    return BackgroundProgram([*words, "--key", place.key, "--offer-every", "0.5", *options], cwd=ROOT)


@each_kind
def test_a_visit_by_ntoseye(state: str, version: int, place: NetPlace, kernel: Kernel) -> None:
    with simulated(place, "--state", state, "--net-version", str(version)) as sim:
        sim.wait_for("simulated target")
        visit_with_ntoseye(place, kernel)


def test_ntoseye_again_and_again(place: NetPlace, kernel: Kernel) -> None:
    """The second finds a target that has a data channel with a debugger that is gone, and runs."""
    with simulated(place) as sim:
        sim.wait_for("simulated target")
        visit_with_ntoseye(place, kernel)
        visit_with_ntoseye(place, kernel)


@each_kind
def test_a_visit_by_radare2(state: str, version: int, networks: TwoNetworks, kernel: Kernel) -> None:
    visit_by_radare2(networks, kernel, 50000 + version, 1, "--state", state, "--net-version", str(version))


def test_radare2_again_and_again(networks: TwoNetworks, kernel: Kernel) -> None:
    """The second finds a target that has a data channel with a debugger that is gone, and stands still."""
    visit_by_radare2(networks, kernel, 50010, 2)


def visit_by_radare2(networks: TwoNetworks, kernel: Kernel, port: int, times: int, *options: str) -> None:
    sim_place = NetPlace(networks.host, port, KEY)
    with simulated(sim_place, *options, "--from", str(port), within=networks.in_target) as sim:
        sim.wait_for("simulated target")
        for _ in range(times):
            visit_with_radare2(NetPlace(networks.target, port, KEY, networks.in_host), kernel)
