"""Real programs on a network that is cut again and again."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from cutting_proxy import CuttingProxy
from real_debuggers import RADARE2_READ_LIMIT, radare2_bytes, run_radare2
from running_programs import KDSRV, ROOT, Client, Debugger, Server, Simulation

from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.sim.kernel import KERNEL_BASE, Kernel
from kdsrv.sim.target import SimulatedTarget

PIECE = 3000
MEGABYTES = 4


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running
    assert "Traceback" not in running.text, running.text


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """The memory of a target that nobody has touched."""
    return SimulatedTarget().machine.kernel


def through(proxy: CuttingProxy, trans: str) -> str:
    return f"kdsrv:server=@{{tcp:server=127.0.0.1,port={proxy.port}}},trans=@{{{trans}}}"


def test_a_debugger_on_a_network_that_is_cut_again_and_again(server: Server, kernel: Kernel) -> None:
    """Its line is never touched, and it is answered each time."""
    expected = kernel.memory.read_virtual(KERNEL_BASE, PIECE)
    with CuttingProxy(server.port, life=0.15) as proxy:
        with Client(through(proxy, "sim:name=cut,baud=921600")) as client, Debugger(client.bridge) as debugger:
            debugger.halt()
            reads = 0
            while proxy.connections < 12:
                assert debugger.read(KERNEL_BASE, PIECE) == expected
                reads += 1
            assert reads > 12
        assert len(client.events("resumed")) > 8
        assert client.events("renewed") == []
        assert {event["code"] for event in client.events("lost")} == {"server-gone"}


def test_what_a_target_says_while_the_network_is_away_is_heard_later(server: Server) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(CuttingProxy(server.port))
        target = stack.enter_context(Simulation("--pty", "--state", "running", "--print-every", "0.05"))
        client = stack.enter_context(Client(through(proxy, f"com:port={target.place},baud=115200")))
        debugger = stack.enter_context(Debugger(client.bridge))
        stop = StateChange.decode(debugger.halt().payload)
        assert debugger.ask(Manipulate.write_virtual(stop["program_counter"], b"\x90")).succeeded, "no int3 any more"
        debugger.send(Manipulate.continue_())
        heard = [line(debugger) for _ in range(3)]
        proxy.is_up = False
        proxy.cut()
        client.wait_event("lost")
        time.sleep(0.5)
        proxy.is_up = True
        client.wait_event("resumed")
        heard += [line(debugger) for _ in range(20)]
        assert heard == list(range(heard[0], heard[0] + 23))
        debugger.halt()
        assert debugger.read(KERNEL_BASE, 2) == b"MZ"


def line(debugger: Debugger) -> int:
    """The number of the next line that the target prints."""
    found = re.search(rb"line (\d+)", debugger.wait_for(PacketType.DEBUG_IO).payload)
    assert found is not None
    return int(found[1])


def test_what_people_read_of_breaks(server: Server) -> None:
    with CuttingProxy(server.port) as proxy:
        words = [*KDSRV, "connect", "-k", through(proxy, "sim:name=read"), "--tcp", "0"]
        with BackgroundProgram(words, cwd=ROOT) as client:
            client.wait_for("^Ctrl-C ends")
            time.sleep(1.0)
            proxy.cut()
            client.wait_for(r"^connected again.*\nhalted: ")
            client.process.send_signal(signal.SIGINT)
            assert client.process.wait(5) == 0
    lines = client.text.splitlines()
    lost = next(at for at, text in enumerate(lines) if text.startswith("the connection to the server has ended: "))
    assert lines[lost].endswith("; trying again")
    assert re.fullmatch(r"connected again after \d\.\d s: the session goes on", lines[lost + 1]), "said once"


@pytest.mark.interop
def test_radare2_reads_four_megabytes_across_a_network_that_is_cut_five_times_a_second(
    server: Server, kernel: Kernel, tmp_path: Path
) -> None:
    """The same 16 KiB again and again, as the simulated kernel has no more in one piece."""
    pieces = [KERNEL_BASE + at * RADARE2_READ_LIMIT for at in range(0x4000 // RADARE2_READ_LIMIT)]
    rounds = MEGABYTES * (1 << 20) // (len(pieces) * RADARE2_READ_LIMIT) + 1
    commands = [f"p8 {RADARE2_READ_LIMIT} @ {place:#x}" for place in pieces] * rounds
    bridge = tmp_path / "bridge"
    with CuttingProxy(server.port, life=0.2) as proxy:
        with Client(through(proxy, "sim:name=radare2"), "--unix", str(bridge)) as client:
            client.wait_event("ready")
            before = proxy.relayed
            told = run_radare2(bridge, commands)
            assert proxy.relayed - before > MEGABYTES << 20
            cuts = len(client.events("resumed"))
        assert client.events("renewed") == []
    expected = [kernel.memory.read_virtual(place, RADARE2_READ_LIMIT) for place in pieces]
    assert [radare2_bytes(answer) for answer in told.answers] == expected * rounds
    assert cuts > 5
