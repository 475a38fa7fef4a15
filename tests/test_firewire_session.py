"""Sessions on FireWire targets through a server and a client, on a bus without hardware, in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from firewire_bus import Fault, FireWireBus
from firewire_target import EMPTY, FULL, RECEIVE, FireWireTarget
from twisted.internet.defer import Deferred

from kdsrv.client import ModuleLoaded, Printed, RequestLost, ServerRefused, SessionEnded, StatusChanged, Target
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.server.factory import KdsrvServerFactory
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.status import HaltReason, Interrupted, RunState
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget, TargetState
from kdsrv.testing import MemoryEndpoint, MemoryLab
from kdsrv.transports.opener import Opener

TRANS = "1394:channel=3"
MEGABYTE = 1 << 20


class FireWireLab(MemoryLab):
    """The same with a FireWire bus at the server, and a target on it that waits on channel 3."""

    def __init__(self, options: SimOptions | None = None) -> None:
        super().__init__(latency=0.002)
        self.folder = tempfile.mkdtemp()
        self.bus = FireWireBus(self.clock, Path(self.folder))
        self.directory = Directory(self.clock, Opener(self.clock, self.targets, self.bus.host), {})
        self.server = KdsrvServerFactory(self.clock, self.directory)
        self.endpoint = MemoryEndpoint(self.clock, self.server, 0.002)
        self.node = FireWireTarget(3, options)
        self.name = self.bus.plug(self.node)

    def simulated(self, name: str = "sim") -> SimulatedTarget:
        return self.node.kernel

    def act(self, action: Callable[[SimulatedTarget, float], object], name: str = "sim") -> None:
        action(self.node.kernel, self.clock.seconds())
        self.advance(0.1)

    def attach(self, trans: str = TRANS) -> Target:
        target = self.run(self.open_session(trans))
        assert isinstance(target, Target)
        return target

    def close(self) -> None:
        super().close()
        self.advance(1)
        shutil.rmtree(self.folder)


@pytest.fixture
def lab() -> Iterator[FireWireLab]:
    lab = FireWireLab()
    yield lab
    lab.close()
    assert lab.bus.is_at_rest
    assert lab.clock.getDelayedCalls() == []


@pytest.fixture
def halted(lab: FireWireLab) -> Target:
    target = lab.attach()
    lab.run(target.wait_for_stop())
    return target


def heard(target: Target) -> list[Any]:
    events: list[Any] = []
    target.listen(events.append)
    return events


def lines(events: list[Any]) -> list[str]:
    return [event.text for event in events if isinstance(event, Printed)]


def test_attaching_to_a_halted_target(lab: FireWireLab) -> None:
    target = lab.attach()
    stop = lab.run(target.wait_for_stop())
    assert (stop.reason, target.run_state) == (HaltReason.BREAKPOINT, RunState.HALTED)
    assert (target.name, target.description) == ("1394:channel=3", "1394 channel 3")


def test_attaching_to_a_running_target_and_stopping_it(lab: FireWireLab) -> None:
    target = lab.attach()
    lab.run(target.wait_for_stop())
    lab.run(target.continue_())
    lab.run(target.leave())
    target = lab.attach()
    lab.advance(5)
    assert (target.run_state, lab.node.kernel.state) == (RunState.UNKNOWN, TargetState.RUNNING)
    assert lab.run(target.break_in()).reason is HaltReason.BREAKPOINT


def test_memory(lab: FireWireLab, halted: Target) -> None:
    size = 20_000
    place = lab.simulated().machine.kernel.pool(size)
    data = Random(1394).randbytes(size)
    lab.run(halted.write_virtual(place, data))
    assert lab.simulated().memory.read_virtual(place, size) == data
    assert lab.run(halted.read_virtual(place, size)) == data
    assert len(lab.run(halted.read_virtual(KERNEL_BASE, 3944))) == 3944
    assert lab.node.link.refused == 0


def test_a_request_as_long_as_a_serial_line_takes_it(lab: FireWireLab, halted: Target) -> None:
    """It does not fit into a mailbox, and goes in two portions."""
    place = lab.simulated().machine.kernel.pool(4096)
    data = Random(1995).randbytes(3944)
    reply = lab.run(halted.request(Manipulate.write_virtual(place, data)))
    assert reply["actual"] == len(data)
    assert lab.simulated().memory.read_virtual(place, 3944) == data


def test_registers_breakpoints_and_steps(lab: FireWireLab, halted: Target) -> None:
    work = lab.simulated().machine.kernel.worker_routines["WorkerStep"]
    lab.run(halted.set_breakpoint(work))
    stop = lab.run(halted.run_until_stop())
    assert stop.program_counter == work
    assert lab.run(halted.context())["rip"] == work
    assert lab.run(halted.step()).program_counter == work + 1
    assert lab.run(halted.switch_processor(1)).processor == 1


def test_going_and_stopping_many_times(lab: FireWireLab, halted: Target) -> None:
    for _ in range(10):
        lab.run(halted.continue_())
        lab.advance(0.3)
        assert lab.node.kernel.state is TargetState.RUNNING
        assert lab.run(halted.break_in()).reason is HaltReason.BREAKPOINT
    lab.run(halted.continue_())
    lab.advance(3)
    assert (halted.run_state, lab.node.kernel.state) == (RunState.RUNNING, TargetState.RUNNING)


def test_prints_modules_prompts_and_files(lab: FireWireLab, halted: Target) -> None:
    events = heard(halted)
    halted.answer_prompts(lambda text: "kim")
    halted.answer_files(lambda asked: asked.refusal() if isinstance(asked, FileIo) else None)
    lab.run(halted.continue_())
    lab.act(lambda kernel, now: kernel.print("hello\n", now))
    lab.act(lambda kernel, now: kernel.prompt("who? ", now))
    lab.act(lambda kernel, now: kernel.request_file("some.sys", now))
    lab.act(lambda kernel, now: kernel.load_module("late.sys", 0xFFFFF80400000000, 0x4000, now))
    lab.advance(1)
    assert lines(events) == ["hello\n"]
    assert sum(isinstance(event, ModuleLoaded) for event in events) == 1
    assert len(lab.node.kernel.answers) == 2


def test_a_bus_reset_is_nothing_that_a_client_hears_of(lab: FireWireLab, halted: Target) -> None:
    events = heard(halted)
    expected = lab.simulated().memory.read_virtual(KERNEL_BASE, 3000)
    for moment in range(30):
        reading = halted.read_virtual(KERNEL_BASE, 3000)
        lab.clock.callLater(0.002 + moment * 0.00005, lab.bus.reset)
        assert lab.run(reading) == expected
    assert events == []


def test_a_request_that_nobody_knows_of_is_lost_and_said_so(lab: FireWireLab, halted: Target) -> None:
    events = heard(halted)
    is_flag = lambda asked: (asked.address, asked.data) == (RECEIVE, FULL)  # noqa: E731
    lab.bus.faults.append(Fault(0x11, False, is_flag, resets=True))
    with pytest.raises(RequestLost):
        lab.run(halted.read_virtual(KERNEL_BASE, 8))
    assert lab.run(halted.wait_for_stop()).reason is HaltReason.BREAKPOINT
    assert len(lab.run(halted.read_virtual(KERNEL_BASE, 8))) == 8
    statuses = [event.status for event in events if isinstance(event, StatusChanged)]
    assert statuses[0] == Interrupted("a bus reset came between a packet and the target")
    assert lab.node.link.refused == 0


def test_a_node_that_goes_and_comes_back(lab: FireWireLab, halted: Target) -> None:
    lab.bus.unplug(lab.name)
    lab.advance(3)
    why = "there is no other node on the FireWire bus: is the cable in, and the target on?"
    assert halted.status == Interrupted(why)
    lab.bus.plug(lab.node)
    lab.run(halted.wait_for_stop())
    lab.advance(2)
    assert halted.run_state is RunState.HALTED
    assert len(lab.run(halted.read_virtual(KERNEL_BASE, 5000))) == 5000


def test_a_reboot(lab: FireWireLab, halted: Target) -> None:
    events = heard(halted)
    halted.reboot()
    lab.advance(3)
    assert lines(events)[0].startswith("simulated target: Windows build")
    assert halted.run_state is RunState.HALTED
    assert lab.run(halted.version()).build_number == 17134


def test_a_target_that_hangs_and_comes_back(lab: FireWireLab, halted: Target) -> None:
    lab.node.looks = False
    with pytest.raises(RequestLost):
        lab.run(halted.read_virtual(KERNEL_BASE, 8))
    lab.advance(10)
    assert "the target does not take it" in halted.status.sentence()
    lab.node.looks = True
    lab.advance(10)
    assert halted.run_state is RunState.HALTED
    assert len(lab.run(halted.read_virtual(KERNEL_BASE, 8))) == 8


def test_a_reply_that_never_comes_is_got_over_by_a_break_in(lab: FireWireLab, halted: Target) -> None:
    """And the stop is latched once more, as the bus has it: at the next go the target stops again."""
    original = lab.node.kernel._handle_request
    lab.node.kernel._handle_request = lambda request, now: None  # type: ignore[method-assign]
    reading = halted.request(Manipulate.read_virtual(KERNEL_BASE, 8))
    lab.clock.callLater(4.0, lambda: setattr(lab.node.kernel, "_handle_request", original))
    lab.clock.callLater(5.0, begin_to_break_in, halted)
    with pytest.raises(RequestLost):
        lab.run(reading)
    assert lab.run(halted.wait_for_stop()).reason is HaltReason.BREAKPOINT
    assert len(lab.run(halted.read_virtual(KERNEL_BASE, 8))) == 8


def begin_to_break_in(target: Target) -> None:
    """Wait for no answer; there may be none."""
    Deferred.fromCoroutine(target.break_in()).addErrback(lambda failure: failure.trap(SessionEnded))


def test_leaving_a_running_target_with_a_break_in_under_way(lab: FireWireLab, halted: Target) -> None:
    lab.run(halted.continue_())
    lab.node.looks = False
    begin_to_break_in(halted)
    lab.advance(1.0)
    assert lab.node.memory[RECEIVE : RECEIVE + 4] == FULL
    lab.run(halted.leave())
    lab.advance(2)
    assert lab.node.memory[RECEIVE : RECEIVE + 4] == EMPTY


def test_one_channel_is_one_target(lab: FireWireLab, halted: Target) -> None:
    with pytest.raises(ServerRefused, match="is held by a test"):
        lab.attach("1394:channel=3,symlink=instance")


def test_a_channel_on_which_nobody_waits(lab: FireWireLab) -> None:
    target = lab.attach("1394:channel=9")
    lab.advance(2)
    assert target.status == Interrupted("1 node on the FireWire bus, none waits on channel 9: found channel 3")
    lab.bus.plug(FireWireTarget(9, now=lab.clock.seconds()))
    lab.run(target.wait_for_stop())


def test_a_host_without_firewire(lab: FireWireLab) -> None:
    lab.bus.nodes.rename(lab.bus.nodes.with_name("elsewhere"))
    with pytest.raises(ServerRefused, match="1394 channel 3: this host has no FireWire: no card, or the modules"):
        lab.attach()
