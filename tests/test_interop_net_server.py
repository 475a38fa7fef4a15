"""Both debuggers on a KDNET target, which only the server speaks: a unix socket, ``kdsrv connect``, the server, UDP.

radare2 asks for more than a datagram of KDNET holds, ntoseye for whole pages: the server splits and joins that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_interop_server import Lab, Visit, each_debugger
from transport_rigs import KEY, free_udp_port

from kdsrv.sim.kernel import Kernel
from kdsrv.sim.target import SimulatedTarget

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """The memory of a target that nobody has touched."""
    return SimulatedTarget().machine.kernel


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as programs:
        yield Lab(tmp_path, programs)


def on_the_network(lab: Lab, *options: str) -> str:
    """Start a target; the kd-string that names it."""
    port = free_udp_port()
    words = ("--net", f"127.0.0.1:{port}", "--key", KEY, "--offer-every", "0.3", *options)
    lab.start("kdsrv.cli", "sim", *words).wait_for("reaches it as")
    return f"net:port={port},key={KEY}"


@each_debugger
@pytest.mark.parametrize(("state", "version"), [("halted", 4), ("running", 5)])
def test_a_visit(visit: Visit, state: str, version: int, lab: Lab, kernel: Kernel) -> None:
    """Version 5 has smaller replies."""
    _client, bridge = lab.connect(on_the_network(lab, "--state", state, "--net-version", str(version)))
    visit(bridge, kernel)


def test_visits_one_after_the_other(lab: Lab, kernel: Kernel) -> None:
    """In one session, then in another, by either debugger."""
    line = on_the_network(lab)
    for _ in range(2):
        client, bridge = lab.connect(line)
        for visit in each_debugger.args[1]:
            visit(bridge, kernel)
        client.stop()


@each_debugger
def test_a_visit_over_a_bad_network(visit: Visit, lab: Lab, kernel: Kernel) -> None:
    faults = ("--loss", "0.03", "--duplicate", "0.03", "--reorder", "0.03", "--seed", "1")
    _client, bridge = lab.connect(on_the_network(lab, *faults))
    visit(bridge, kernel)
