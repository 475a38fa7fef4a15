"""The Python API against simulated targets, in memory, in the clock's own time."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from kdsrv.client import (
    Event,
    EventsDropped,
    EventStream,
    FileAsked,
    MemoryUnreadable,
    MemoryUnwritable,
    ModuleLoaded,
    ModuleUnloaded,
    Printed,
    Prompted,
    Rebooting,
    RequestFailed,
    RequestLost,
    ServerAway,
    ServerRefused,
    SessionEnded,
    SessionLost,
    StatusChanged,
    Stopped,
    Target,
    TargetRunning,
    TookTooLong,
)
from kdsrv.errors import ConnectionStringError, LinkLost, TargetHeld
from kdsrv.kd.amd64 import CONTEXT_DEBUG_REGISTERS, CONTEXT_INTEGER
from kdsrv.kd.api import Api
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.statuses import Status
from kdsrv.sessions.status import HaltReason, RunState
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.processor import Processor
from kdsrv.sim.target import TargetState
from kdsrv.testing import MemoryLab, NothingHappens

POOL = 0xFFFFF802_20000000
MEGABYTE = 1 << 20
NOWHERE = 0xFFFFF880_00000000


@pytest.fixture(params=["network", "process"])
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lab() -> Iterator[MemoryLab]:
    lab = MemoryLab()
    yield lab
    lab.close()
    assert lab.clock.getDelayedCalls() == []


def attach(lab: MemoryLab, where: str = "network", trans: str = "sim:", **options: Any) -> Target:
    opening = (
        lab.open_session(trans, **options) if where == "network" else lab.open_session_in_process(trans, **options)
    )
    target = lab.run(opening)
    assert isinstance(target, Target)
    return target


def halted(lab: MemoryLab, where: str = "network", trans: str = "sim:", **options: Any) -> Target:
    target = attach(lab, where, trans, **options)
    lab.run(target.break_in())
    return target


def processor(lab: MemoryLab, number: int = 0) -> Processor:
    return lab.simulated().machine.processors[number]


def routine(lab: MemoryLab, name: str) -> int:
    return lab.simulated().machine.kernel.worker_routines[name]


def gather(target: Target) -> list[Event]:
    events: list[Event] = []
    target.listen(events.append)
    return events


def of_kind(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def pool(lab: MemoryLab, size: int) -> int:
    """A place of ``size`` bytes of noise that can be read and written."""
    address = lab.simulated().machine.kernel.pool(size)
    lab.simulated().memory.write_virtual(address, Random(size).randbytes(size))
    return address


# Coming and going


def test_attaching_to_a_halted_target(lab: MemoryLab, where: str) -> None:
    target = attach(lab, where)
    stop = lab.run(target.wait_for_stop())
    assert stop.reason is HaltReason.BREAKPOINT
    assert stop.program_counter == processor(lab).pc
    assert (target.run_state, target.stop) == (RunState.HALTED, stop)
    assert target.status == stop.summary
    assert target.name == "sim:"
    assert target.description == "simulated target sim"


def test_break_in_into_a_running_target(lab: MemoryLab, where: str) -> None:
    target = attach(lab, where, "sim:state=running")
    lab.advance(5)
    assert target.run_state is RunState.UNKNOWN
    with pytest.raises(TargetRunning, match="no byte from the target for"):
        lab.run(target.read_virtual(KERNEL_BASE, 1))
    assert lab.run(target.break_in()).reason is HaltReason.BREAKPOINT


def test_break_in_on_a_halted_target_gives_the_stop_and_disturbs_nothing(lab: MemoryLab, where: str) -> None:
    target = attach(lab, where)
    assert lab.run(target.break_in()) is lab.run(target.break_in()) is target.stop
    lab.run(target.continue_())
    lab.advance(5)
    assert target.run_state is RunState.RUNNING


def test_leaving_leaves_the_target_halted_for_the_next(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    pc = processor(lab).pc
    lab.run(target.leave())
    with pytest.raises(SessionEnded, match="this side has left"):
        lab.run(target.read_virtual(KERNEL_BASE, 1))
    lab.advance(60)
    again = attach(lab, where)
    assert lab.run(again.wait_for_stop()).program_counter == pc


def test_async_with_leaves(lab: MemoryLab, where: str) -> None:
    async def script() -> Target:
        opening = lab.open_session() if where == "network" else lab.open_session_in_process()
        async with opening as target:
            await target.break_in()
            return target

    target = lab.run(script())
    with pytest.raises(SessionEnded):
        lab.run(target.wait_for_stop())
    assert list(lab.directory) == []


def test_a_second_client_is_told_who_has_the_target(lab: MemoryLab) -> None:
    attach(lab, client="kim@desk")
    sentence = "sim: is held by kim@desk from 127.0.0.1:1 since .*; it is free again .* to ask .* --take ask"
    with pytest.raises(ServerRefused, match=sentence) as refusal:
        lab.run(lab.open_session())
    assert refusal.value.code == "held"
    with pytest.raises(TargetHeld, match=sentence):
        lab.run(lab.open_session_in_process())


@pytest.mark.parametrize(("trans", "code"), [("sim:cpus=900", "bad-string"), ("usb:targetname=x", "setup")])
def test_what_the_server_cannot_do_is_a_sentence(lab: MemoryLab, trans: str, code: str) -> None:
    with pytest.raises(ServerRefused) as refusal:
        lab.run(lab.open_session(trans))
    assert refusal.value.code == code


def test_a_bad_string_is_found_before_anything_is_opened(lab: MemoryLab) -> None:
    with pytest.raises(ConnectionStringError):
        lab.run(lab.open_session_in_process("com:port"))


def test_the_default_target() -> None:
    lab = MemoryLab(environ={"_NT_DEBUG_PORT": "com7"})
    with pytest.raises(ServerRefused, match="ttyS6"):
        lab.run(lab.open_session(None))
    lab.close()


# What waits always ends


def waiting_work(lab: MemoryLab, target: Target) -> list[Deferred[Any]]:
    """One of everything that can wait, on a target across a slow network."""
    coroutines = [
        target.read_virtual(KERNEL_BASE, 0x100000),
        target.write_virtual(POOL, bytes(10000)),
        target.version(),
        target.context(),
        target.run_until_stop(),
        target.wait_for_stop(),
    ]
    return [Deferred.fromCoroutine(coroutine) for coroutine in coroutines]


def test_everything_ends_when_the_connection_is_cut() -> None:
    lab = MemoryLab(latency=0.1)
    target = halted(lab, resume=False)
    events, stream = gather(target), target.events()
    work = waiting_work(lab, target)
    lab.advance(0.05)
    lab.cut()
    for each in work[:-1]:
        with pytest.raises(SessionEnded, match="the connection to the server has ended"):
            lab.run(each)
    assert isinstance(events[-1], SessionLost)
    assert target.run_state is RunState.UNKNOWN
    assert isinstance(lab.run(drain(stream))[-1], SessionLost)
    for make in (target.break_in, target.wait_for_stop, target.context, target.run_until_stop):
        with pytest.raises(SessionEnded):
            lab.run(make())
    lab.close()


@pytest.mark.parametrize("seconds", [0.0, 3.0, 40.0])
def test_everything_outlasts_a_network_that_is_away_for_less_than_the_server_waits(seconds: float) -> None:
    """Whatever was under way just takes longer, and what is asked meanwhile waits."""
    lab = MemoryLab(latency=0.1)
    target = halted(lab)
    events = gather(target)
    work = waiting_work(lab, target)
    lab.advance(0.15)
    lab.cut(seconds)
    lab.advance(0.5)
    meanwhile = Deferred.fromCoroutine(target.read_virtual(KERNEL_BASE, 10000))
    with pytest.raises(MemoryUnreadable) as unreadable:
        lab.run(work[0])
    assert unreadable.value.read == lab.simulated().memory.read_virtual(KERNEL_BASE, 0x4000)
    with pytest.raises(MemoryUnwritable):
        lab.run(work[1])
    assert lab.run(work[2]).kernel_base == KERNEL_BASE
    assert lab.run(work[3])["rip"] == processor(lab).pc
    assert lab.run(meanwhile) == lab.simulated().memory.read_virtual(KERNEL_BASE, 10000)
    away = [event.status for event in of_kind(events, StatusChanged) if isinstance(event.status, ServerAway)]
    assert away[0].run_state is RunState.HALTED
    lab.advance(3)
    assert target.run_state is RunState.RUNNING
    lab.run(target.break_in())
    assert lab.run(work[4]) is target.stop
    lab.run(target.leave())
    assert of_kind(events, SessionLost) == []
    lab.close()


def test_a_wait_for_a_stop_outlasts_a_break_in_which_it_comes() -> None:
    lab = MemoryLab(latency=0.1)
    target = halted(lab)
    lab.run(target.continue_())
    lab.advance(1)
    waiting = Deferred.fromCoroutine(target.wait_for_stop())
    lab.cut(5)
    lab.act(lambda simulated, now: simulated.stop(now))
    assert lab.run(waiting).reason is HaltReason.BREAKPOINT
    lab.close()


def test_a_network_that_is_away_for_longer_than_the_server_waits_ends_the_session() -> None:
    lab = MemoryLab(latency=0.1)
    target = halted(lab)
    work = waiting_work(lab, target)
    lab.advance(0.05)
    lab.cut(100)
    before = lab.clock.seconds()
    for each in work[:-1]:
        with pytest.raises(SessionEnded, match="the connection to the server has ended"):
            lab.run(each)
    assert lab.clock.seconds() - before == pytest.approx(60)
    lab.close()


def test_a_server_that_is_restarted_loses_what_is_under_way_and_goes_on() -> None:
    lab = MemoryLab(latency=0.1)
    target = halted(lab)
    stop = target.stop
    reading = Deferred.fromCoroutine(target.read_virtual(KERNEL_BASE, 0x4000))
    lab.advance(0.15)
    lab.restart_server()
    with pytest.raises(RequestLost):
        lab.run(reading)
    assert stop is not None
    assert lab.run(target.wait_for_stop()).packet == stop.packet
    assert lab.run(target.read_virtual(KERNEL_BASE, 2)) == b"MZ"
    lab.run(target.continue_())
    lab.advance(1)
    breaking_in = Deferred.fromCoroutine(target.break_in())
    lab.advance(0.05)
    lab.restart_server()
    assert lab.run(breaking_in).reason is HaltReason.BREAKPOINT
    lab.run(target.leave())
    lab.close()


def test_a_target_may_be_taken_and_is_left_as_one_likes(lab: MemoryLab) -> None:
    first = halted(lab, client="kim@desk")
    second = lab.run(lab.open_session(take="force", on_leave="continue", client="jo@desk"))
    with pytest.raises(SessionEnded, match="sim: was taken over by jo@desk"):
        lab.run(first.break_in())
    assert lab.run(second.wait_for_stop()).reason is HaltReason.BREAKPOINT
    lab.run(second.leave())
    lab.advance(5)
    assert lab.simulated().state is TargetState.RUNNING
    with pytest.raises(ValueError, match="borrow"):
        lab.open_session(take="borrow")


def test_everything_ends_when_the_server_shuts_down(lab: MemoryLab) -> None:
    target = halted(lab)
    work = waiting_work(lab, target)
    lab.server.stopFactory()
    for each in work[:-1]:
        with pytest.raises(SessionEnded, match="the server is shutting down"):
            lab.run(each)


def test_a_session_in_process_ends_when_the_line_is_lost(lab: MemoryLab) -> None:
    target = halted(lab, "process")
    lab.run(target.continue_())
    waiting = Deferred.fromCoroutine(target.wait_for_stop())
    (session,) = lab.directory
    session.transport_lost(LinkLost(target="sim:", why="unplugged"))
    with pytest.raises(SessionEnded, match="unplugged"):
        lab.run(waiting)
    assert list(lab.directory) == []
    assert attach(lab, "process").name == "sim:"


@pytest.mark.parametrize("work", ["wait_for_stop", "run_until_stop", "break_in"])
def test_a_timeout_ends_a_wait_and_nothing_else(lab: MemoryLab, where: str, work: str) -> None:
    target = halted(lab, where)
    if work != "run_until_stop":
        lab.run(target.continue_())
    if work == "break_in":
        lab.simulated().state = TargetState.OFF
    with pytest.raises(TookTooLong, match=r"took longer than 1.5 s"):
        lab.run(getattr(target, work)(timeout=1.5))
    assert target.run_state is not RunState.HALTED
    if work != "break_in":
        assert lab.run(target.break_in(timeout=5)).reason is HaltReason.BREAKPOINT


def test_a_request_that_took_too_long_does_not_shift_the_replies_to_others() -> None:
    lab = MemoryLab(latency=1.0)
    target = halted(lab)
    address = pool(lab, 64)
    early = Deferred.fromCoroutine(target.read_virtual(address, 16, timeout=1.0))
    version = Deferred.fromCoroutine(target.version(timeout=1.0))
    late = Deferred.fromCoroutine(target.read_virtual(address + 16, 16))
    for each in (early, version):
        with pytest.raises(TookTooLong):
            lab.run(each)
    assert lab.run(late) == lab.simulated().memory.read_virtual(address + 16, 16)
    lab.close()


# Memory


def test_reading_a_byte(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    assert lab.run(target.read_virtual(KERNEL_BASE, 1)) == b"M"
    assert lab.run(target.read_virtual(KERNEL_BASE, 0)) == b""


def test_a_megabyte_costs_a_few_round_trips_and_the_second_one_less() -> None:
    lab = MemoryLab(latency=0.025)
    target = halted(lab)
    address = pool(lab, MEGABYTE)
    expected = lab.simulated().memory.read_virtual(address, MEGABYTE)
    trips = []
    for _ in range(2):
        before = lab.clock.seconds()
        assert lab.run(target.read_virtual(address, MEGABYTE)) == expected
        trips.append((lab.clock.seconds() - before) / 0.05)
    assert trips[0] < 4.5
    assert trips[1] < 1.5
    lab.close()


def test_a_slow_line_is_not_flooded() -> None:
    """What comes behind a long read on a line of 115200 baud waits for some requests of it, not for hundreds."""
    lab = MemoryLab()
    target = halted(lab, trans="sim:baud=115200")
    address = pool(lab, MEGABYTE)
    reading = Deferred.fromCoroutine(target.read_virtual(address, MEGABYTE, timeout=60))
    with pytest.raises(TookTooLong):
        lab.run(reading)
    before = lab.clock.seconds()
    lab.run(target.version())
    assert lab.clock.seconds() - before < 4
    lab.close()


def test_short_replies_are_followed_up(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where, "sim:readcap=1000")
    address = pool(lab, 50000)
    assert lab.run(target.read_virtual(address, 50000)) == lab.simulated().memory.read_virtual(address, 50000)


def test_the_first_address_that_cannot_be_read(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    image = lab.simulated().machine.kernel.modules.modules["simwork.sys"]
    end = image.base + image.size
    with pytest.raises(MemoryUnreadable, match=f"virtual memory cannot be read at {end:#x}") as error:
        lab.run(target.read_virtual(image.base, MEGABYTE))
    assert error.value.address == end
    assert error.value.read == lab.simulated().memory.read_virtual(image.base, image.size)
    with pytest.raises(MemoryUnreadable) as nothing:
        lab.run(target.read_virtual(NOWHERE + 5, 10))
    assert (nothing.value.address, nothing.value.read) == (NOWHERE + 5, b"")


def test_physical_memory(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    physical = lab.simulated().machine.kernel.physical
    assert lab.run(target.read_physical(0x3000, 20000)) == physical.read(0x3000, 20000)
    with pytest.raises(MemoryUnreadable, match="physical"):
        lab.run(target.read_physical(physical.size - 10, 20))
    at = lab.simulated().memory.translate(pool(lab, 8000))
    assert at is not None
    lab.run(target.write_physical(at, b"kdsrv" * 1600, caching=2))
    assert physical.read(at, 8000) == b"kdsrv" * 1600


def test_writing(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    address = pool(lab, 100_000)
    data = Random(1).randbytes(100_000 - 33)
    lab.run(target.write_virtual(address + 7, data))
    memory = lab.simulated().memory
    assert memory.read_virtual(address + 7, len(data)) == data
    assert lab.run(target.read_virtual(address, 100_000)) == memory.read_virtual(address, 100_000)


def test_the_first_address_that_cannot_be_written(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    image = lab.simulated().machine.kernel.modules.modules["simwork.sys"]
    end = image.base + image.size
    with pytest.raises(MemoryUnwritable) as error:
        lab.run(target.write_virtual(end - 5000, b"x" * 10000))
    assert (error.value.address, error.value.written) == (end, 5000)
    assert lab.simulated().memory.read_virtual(end - 5000, 5000) == b"x" * 5000


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_read_is_what_the_machine_has(data: st.DataObject) -> None:
    """Holes of whole pages anywhere; reads of any length from anywhere; any cap of the target."""
    cap = data.draw(st.sampled_from([3944, 1992, 777]))
    lab = MemoryLab(latency=data.draw(st.sampled_from([0.0, 0.03])))
    target = halted(lab, data.draw(st.sampled_from(["network", "process"])), f"sim:readcap={cap}")
    kernel = lab.simulated().machine.kernel
    kernel.map_fresh(kernel.memory, NOWHERE, 16 * 0x1000)
    memory = lab.simulated().memory
    memory.write_virtual(NOWHERE, Random(cap).randbytes(16 * 0x1000))
    for page in data.draw(st.sets(st.integers(0, 15), max_size=4)):
        memory.unmap(NOWHERE + page * 0x1000, 1)
    reads = data.draw(st.lists(st.tuples(st.integers(-10, 0x10000), st.integers(0, 0x11000)), min_size=1, max_size=4))
    work = [Deferred.fromCoroutine(target.read_virtual(NOWHERE + at, length)) for at, length in reads]
    for (at, length), each in zip(reads, work, strict=True):
        expected = memory.read_virtual(NOWHERE + at, length)
        if len(expected) == length:
            assert lab.run(each) == expected
            continue
        with pytest.raises(MemoryUnreadable) as error:
            lab.run(each)
        assert error.value.read == expected
        assert error.value.address == NOWHERE + at + len(expected)
    lab.close()


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_bad_lines_and_slow_networks_change_nothing(data: st.DataObject) -> None:
    rates = ",".join(f"{name}={data.draw(st.sampled_from(['0', '0.1']))}" for name in ("loss", "damage", "duplicate"))
    seed = data.draw(st.integers(0, 1000))
    lab = MemoryLab(latency=data.draw(st.sampled_from([0.0, 0.2])))
    target = attach(lab, trans=f"sim:{rates},seed={seed}")
    lab.run(target.break_in())
    address = pool(lab, 30000)
    expected = lab.simulated().memory.read_virtual(address, 30000)
    for _ in range(3):
        try:
            assert lab.run(target.read_virtual(address, 30000)) == expected
        except RequestLost:
            lab.run(target.break_in())
    lab.close()


def test_search_and_fill(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    address = pool(lab, 0x4000)
    lab.run(target.fill(address, 0x4000, b"\0"))
    assert lab.run(target.search_memory(address, 0x4000, b"needle")) is None
    lab.run(target.write_virtual(address + 0xFFE, b"needle"))
    assert lab.run(target.search_memory(address, 0x4000, b"needle")) == address + 0xFFE
    lab.run(target.fill(address, 10, b"ab"))
    assert lab.run(target.read_virtual(address, 11)) == b"ababababab\0"
    image = lab.simulated().machine.kernel.modules.modules["simwork.sys"]
    with pytest.raises(MemoryUnwritable) as error:
        lab.run(target.fill(image.base + image.size - 100, 200, b"z"))
    assert error.value.address == image.base + image.size


# Processors


def test_version_is_asked_for_once(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    assert lab.run(target.version()) is lab.run(target.version())
    assert lab.run(target.version()).kernel_base == KERNEL_BASE
    asked = [request for request in lab.simulated().log if request.api == Api.GET_VERSION]
    assert len(asked) == 1


@pytest.mark.parametrize("context_ex", [True, False])
def test_registers(lab: MemoryLab, where: str, context_ex: bool) -> None:
    target = attach(lab, where)
    object.__setattr__(lab.simulated().options, "context_ex", context_ex)
    lab.run(target.break_in())
    context = lab.run(target.context())
    assert context.raw == processor(lab).read_context()
    assert context["rip"] == processor(lab).pc
    lab.run(target.set_context(context.replace(rax=0x1234, rip=0x5678, context_flags=CONTEXT_INTEGER)))
    changed = lab.run(target.context())
    assert (changed["rax"], changed["rip"]) == (0x1234, context["rip"])
    assert lab.run(target.context(1)).raw == processor(lab, 1).read_context()
    with pytest.raises(RequestFailed, match="C0000001 unsuccessful"):
        lab.run(target.context(7))
    asked = {request.api for request in lab.simulated().log}
    assert (Api.GET_CONTEXT_EX in asked, Api.SET_CONTEXT in asked) == (True, not context_ex)


def test_registers_can_be_set_without_having_been_read(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    context = lab.run(target.context())
    lab.run(target.step())
    lab.run(target.set_context(context.replace(rbx=7)))
    assert lab.run(target.context())["rbx"] == 7


def test_special_registers(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    special = lab.run(target.special_registers())
    assert special.raw == processor(lab).read_special()
    lab.run(target.set_special_registers(special.replace(star=77), 1))
    assert processor(lab, 1).read_msr(0xC0000081) == 77
    assert lab.run(target.read_control_space(0, 8)) == lab.simulated().machine.kernel.pcrs[0].to_bytes(8, "little")
    lab.run(target.write_control_space(2, special.raw))
    with pytest.raises(RequestFailed, match="ReadControlSpace"):
        lab.run(target.read_control_space(99, 8))


def test_model_specific_registers(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    lab.run(target.write_msr(0xC0000082, 0x1122334455667788))
    assert lab.run(target.read_msr(0xC0000082)) == 0x1122334455667788
    with pytest.raises(RequestFailed, match="no such device") as error:
        lab.run(target.read_msr(0x99))
    assert (error.value.request, error.value.status) == ("ReadMachineSpecificRegister", Status.NO_SUCH_DEVICE)


def test_ports_and_buses(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    lab.run(target.write_io(0x80, 2, 0xABCD))
    assert lab.run(target.read_io(0x80, 2)) == 0xABCD
    with pytest.raises(RequestFailed, match="misaligned"):
        lab.run(target.read_io(0x81, 2))
    for work in (target.get_bus_data(4, 0, 0, 0, 4), target.set_bus_data(4, 0, 0, 0, b"abcd")):
        with pytest.raises(RequestFailed, match="BusData"):
            lab.run(work)


def test_switching_processors(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    stop = lab.run(target.switch_processor(1))
    assert (stop.reason, stop.processor) == (HaltReason.PROCESSOR_SWITCH, 1)
    assert lab.run(target.context()).raw == processor(lab, 1).read_context()
    assert lab.run(target.switch_processor(0)).processor == 0
    assert lab.run(target.switch_processor(0)).processor == 0
    with pytest.raises(ValueError, match="no processor 2"):
        lab.run(target.switch_processor(2))


def test_any_request(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    reply = lab.run(target.request(Manipulate.query_memory(KERNEL_BASE)))
    assert (reply.name, reply["address_space"]) == ("QueryMemory", 2)
    refused = lab.run(target.request(Manipulate.request(0x3199), check=False))
    assert refused.status == Status.UNSUCCESSFUL
    with pytest.raises(RequestFailed, match="the target refuses 0x3199"):
        lab.run(target.request(Manipulate.request(0x3199)))
    with pytest.raises(ValueError, match="use send"):
        lab.run(target.request(Manipulate.continue_()))
    with pytest.raises(ValueError, match="use request"):
        target.send(Manipulate.get_version())
    with pytest.raises(ValueError, match="at most 4000 bytes"):
        lab.run(target.request(Manipulate.write_virtual(KERNEL_BASE, bytes(4000))))
    target.send(Manipulate.continue_())
    assert target.run_state is RunState.RUNNING


# Running


def test_a_breakpoint_hits_again_and_again(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    events = gather(target)
    breakpoint_ = lab.run(target.set_breakpoint(routine(lab, "WorkerStep")))
    assert lab.run(target.set_breakpoint(routine(lab, "WorkerStep"))) is breakpoint_
    assert target.breakpoints == (breakpoint_,)
    counts = []
    for _ in range(4):
        stop = lab.run(target.run_until_stop(timeout=10))
        assert (stop.reason, stop.program_counter) == (HaltReason.BREAKPOINT, routine(lab, "WorkerStep"))
        counts.append(lab.run(target.context())["rcx"])
    assert counts == list(range(counts[0], counts[0] + 4))
    assert len(of_kind(events, Stopped)) == 4
    lab.run(breakpoint_.clear())
    assert (breakpoint_.is_set, target.breakpoints) == (False, ())
    with pytest.raises(TookTooLong):
        lab.run(target.run_until_stop(timeout=10))
    assert lab.simulated().memory.read_virtual(routine(lab, "WorkerStep"), 1) == b"\x55"


def test_breakpoints_close_together_all_hit(lab: MemoryLab, where: str) -> None:
    """The kernel takes out those within 16 bytes of a stop, and they are put in again."""
    target = halted(lab, where)
    addresses = [routine(lab, "WorkerStep") + offset for offset in (0, 1, 4, 7)]
    for address in addresses:
        lab.run(target.set_breakpoint(address))
    hits = [lab.run(target.run_until_stop(timeout=10)).program_counter for _ in range(8)]
    assert hits == addresses * 2


def test_a_breakpoint_set_where_the_target_stands(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    lab.run(target.set_breakpoint(routine(lab, "WorkerStep")))
    lab.run(target.run_until_stop())
    pc = lab.run(target.step()).program_counter
    lab.run(target.set_breakpoint(pc))
    assert lab.run(target.run_until_stop()).program_counter in (pc, routine(lab, "WorkerStep"))


def test_breakpoints_of_earlier_sessions_can_be_cleared(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    lab.run(target.set_breakpoint(routine(lab, "WorkerStep")))
    lab.run(target.leave())
    target = halted(lab, where)
    with pytest.raises(RequestFailed, match="WriteBreakpoint"):
        lab.run(target.set_breakpoint(routine(lab, "WorkerStep")))
    assert lab.run(target.clear_all_breakpoints()) == 1
    assert lab.run(target.clear_all_breakpoints()) == 0
    lab.run(target.set_breakpoint(routine(lab, "WorkerStep")))


def test_stepping(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    lab.run(target.set_breakpoint(routine(lab, "WorkerStep")))
    lab.run(target.run_until_stop())
    passed = []
    for _ in range(3):
        stop = lab.run(target.step())
        assert stop.reason is HaltReason.SINGLE_STEP
        passed.append(stop.program_counter - routine(lab, "WorkerStep"))
    assert passed == [1, 4, 7]


def test_a_watchpoint_survives_continuing(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    context = lab.run(target.context())
    watching = context.replace(
        context_flags=CONTEXT_DEBUG_REGISTERS, dr0=routine(lab, "WorkerCounter"), dr7=0x90402, dr6=0
    )
    lab.run(target.set_context(watching))
    for _ in range(3):
        stop = lab.run(target.run_until_stop(timeout=10))
        assert stop.reason is HaltReason.SINGLE_STEP
        assert lab.run(target.special_registers())["dr6"] & 1


def test_moving_the_program_counter_is_respected(lab: MemoryLab, where: str) -> None:
    """The breakpoint instruction of the kernel's own is passed over only if the program counter is still on it."""
    target = halted(lab, where)
    context = lab.run(target.context())
    there = routine(lab, "WorkerStep")
    lab.run(target.set_context(context.replace(rip=there)))
    assert lab.run(target.step()).program_counter == there + 1


def test_an_exception_is_passed_on(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    context = lab.run(target.context())
    lab.run(target.set_context(context.replace(rip=NOWHERE)))
    stop = lab.run(target.run_until_stop())
    assert (stop.reason, stop.code) == (HaltReason.EXCEPTION, Status.ACCESS_VIOLATION)
    assert stop.change is not None
    assert stop.change["first_chance"] == 1
    again = lab.run(target.run_until_stop(Status.DBG_EXCEPTION_NOT_HANDLED))
    assert again.change is not None
    assert again.change["first_chance"] == 0


def test_a_break_in_right_behind_a_continue() -> None:
    for latency in (0.0, 0.3):
        lab = MemoryLab(latency=latency)
        target = halted(lab)
        for _ in range(3):
            lab.run(target.continue_())
            assert lab.run(target.break_in(timeout=20)).reason is HaltReason.BREAKPOINT
        lab.close()


def test_a_break_in_that_crosses_a_stop_is_not_taken_for_the_next_one() -> None:
    """The server answers it with the stop that it has already sent."""
    lab = MemoryLab(latency=0.3)
    target = attach(lab, trans="sim:state=running")
    lab.advance(3)
    lab.act(lambda machine, now: machine.stop(now))
    breaking = Deferred.fromCoroutine(target.break_in())
    lab.run(breaking)
    before = lab.clock.seconds()
    with pytest.raises(TookTooLong):
        lab.run(target.run_until_stop(timeout=5))
    assert lab.clock.seconds() - before == pytest.approx(5)
    lab.close()


def test_rebooting(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    breakpoint_ = lab.run(target.set_breakpoint(routine(lab, "WorkerStep")))
    version = lab.run(target.version())
    target.reboot()
    assert not breakpoint_.is_set
    lab.advance(0.1)
    assert target.status.sentence() == "the target reboots"
    stop = lab.run(target.wait_for_stop(timeout=10))
    assert stop.reason is HaltReason.MODULE_LOAD
    assert lab.run(target.version()) is not version


def test_a_crash(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    events = gather(target)
    target.crash(0xDEADDEAD)
    lab.run(target.wait_for_stop(timeout=10))
    assert "Fatal System Error: 0xdeaddead" in "".join(event.text for event in of_kind(events, Printed))


# Events


async def drain(stream: EventStream) -> list[Event]:
    return [event async for event in stream]


def test_prints(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    events, stream = gather(target), target.events()
    lab.run(target.continue_())
    lab.act(lambda machine, now: machine.print("hello \u20ac" + "x" * 5000, now))
    assert "".join(event.text for event in of_kind(events, Printed)) == "hello \u20ac" + "x" * 5000
    lab.run(target.leave())
    streamed = lab.run(drain(stream))
    assert streamed == events[: len(streamed)]
    assert of_kind(streamed, Printed) == of_kind(events, Printed)


def test_a_stream_waits_for_its_reader_and_its_reader_for_it(lab: MemoryLab) -> None:
    target = halted(lab)

    async def first_print() -> str:
        async for event in target.events():
            if isinstance(event, Printed):
                return event.text
        return "nothing"

    reading = Deferred.fromCoroutine(first_print())
    lab.run(target.continue_())
    lab.act(lambda machine, now: machine.print("hello", now))
    assert lab.run(reading) == "hello"


def test_a_stream_is_bounded_and_drops_prints_first(lab: MemoryLab) -> None:
    target = halted(lab)
    lab.run(target.continue_())
    stream = target.events(limit=5)
    lab.act(lambda machine, now: machine.load_module("a.sys", 0xFFFFF802_55000000, 0x3000, now))
    lab.run(target.continue_())
    for number in range(10):
        lab.act(lambda machine, now, number=number: machine.print(f"line {number}", now))
    assert len(stream) == 5
    lab.run(target.leave())
    events = lab.run(drain(stream))
    assert isinstance(events[0], EventsDropped)
    assert [type(event) for event in events if isinstance(event, ModuleLoaded | Stopped)] == [ModuleLoaded]
    assert [event.text for event in of_kind(events, Printed)] == ["line 8", "line 9"]
    assert events[0].number == 8


def test_listeners_that_fail_or_leave_disturb_nobody(lab: MemoryLab) -> None:
    logged: list[Any] = []
    target = halted(lab)
    leave = target.listen(lambda event: leave())

    def fail(event: Event) -> None:
        raise RuntimeError("a mistake in a script")

    target.listen(fail)
    events = gather(target)
    globalLogPublisher.addObserver(logged.append)
    lab.run(target.continue_())
    globalLogPublisher.removeObserver(logged.append)
    assert of_kind(events, StatusChanged)
    assert any("log_failure" in event for event in logged)
    leave()


def test_modules(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    events = gather(target)
    lab.run(target.continue_())
    lab.act(lambda machine, now: machine.load_module("new.sys", 0xFFFFF802_55000000, 0x3000, now))
    stop = lab.run(target.wait_for_stop())
    assert stop.is_module
    assert str(stop) == "halted: module load \\SystemRoot\\system32\\drivers\\new.sys"
    (loaded,) = of_kind(events, ModuleLoaded)
    assert (loaded.path, loaded.base) == ("\\SystemRoot\\system32\\drivers\\new.sys", 0xFFFFF802_55000000)
    assert loaded.size >= 0x3000
    assert lab.run(target.read_virtual(loaded.base, 2)) == b"MZ"
    lab.run(target.continue_())
    lab.act(lambda machine, now: machine.unload_module("new.sys", now))
    lab.run(target.wait_for_stop())
    (unloaded,) = of_kind(events, ModuleUnloaded)
    assert (unloaded.path, unloaded.base) == (loaded.path, loaded.base)
    assert of_kind(events, Stopped) == []


def test_modules_are_continued_if_asked_for(lab: MemoryLab, where: str) -> None:
    target = attach(lab, where, "sim:state=running", continue_modules=True)
    events = gather(target)
    waiting = Deferred.fromCoroutine(target.wait_for_stop())
    for number in range(5):
        base = 0xFFFFF802_55000000 + number * 0x10000
        lab.act(lambda machine, now, base=base: machine.load_module(f"{base:x}.sys", base, 0x3000, now))
    lab.advance(1)
    assert [event.base & 0xFFFFF for event in of_kind(events, ModuleLoaded)] == [
        0x00000,
        0x10000,
        0x20000,
        0x30000,
        0x40000,
    ]
    assert not waiting.called
    assert target.run_state is RunState.RUNNING
    lab.act(lambda machine, now: machine.stop(now))
    assert lab.run(waiting).reason is HaltReason.BREAKPOINT


def test_breakpoints_outlive_modules_that_are_continued(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where, continue_modules=True)
    lab.run(target.set_breakpoint(routine(lab, "WorkerStep")))
    lab.run(target.run_until_stop())
    lab.act(lambda machine, now: machine.load_module("new.sys", 0xFFFFF802_55000000, 0x3000, now))
    for _ in range(3):
        assert lab.run(target.run_until_stop(timeout=10)).program_counter == routine(lab, "WorkerStep")


def test_a_reboot_notice(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    events = gather(target)
    lab.run(target.version())
    lab.run(target.set_breakpoint(routine(lab, "WorkerStep")))
    lab.run(target.continue_())
    lab.advance(0.001)
    lab.run(target.leave())
    target = attach(lab, where)
    events = gather(target)
    lab.run(target.wait_for_stop())
    lab.run(target.clear_all_breakpoints())
    lab.run(target.continue_())
    lab.act(lambda machine, now: machine.reboot(now))
    stop = lab.run(target.wait_for_stop())
    assert (stop.is_reboot, stop.is_module) == (True, False)
    assert of_kind(events, Rebooting) == [Rebooting(stop)]
    lab.run(target.continue_())
    assert lab.run(target.wait_for_stop(timeout=10)).reason is HaltReason.MODULE_LOAD


def test_a_reboot_is_continued_if_asked_for(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where, continue_modules=True, continue_reboots=True)
    events = gather(target)
    version = lab.run(target.version())
    lab.run(target.continue_())
    lab.act(lambda machine, now: machine.reboot(now))
    lab.advance(5)
    assert len(of_kind(events, Rebooting)) == 1
    assert len(of_kind(events, ModuleLoaded)) == 4
    stop = lab.run(target.wait_for_stop(timeout=5))
    assert stop.reason is HaltReason.BREAKPOINT
    assert lab.run(target.version()) is not version


def test_prompts(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    events = gather(target)
    lab.run(target.continue_())
    lab.act(lambda machine, now: machine.prompt("Break, Ignore? ", now, 4))
    (prompt,) = of_kind(events, Prompted)
    assert (prompt.text, prompt.most) == ("Break, Ignore? ", 4)
    prompt.answer("ignore")
    prompt.answer("break")
    lab.advance(1)
    assert [answer.payload[16:] for answer in lab.simulated().answers] == [b"igno"]
    target.answer_prompts(lambda text: "b" if text == "again? " else None)
    lab.act(lambda machine, now: machine.prompt("again? ", now))
    lab.advance(1)
    assert [answer.payload[16:] for answer in lab.simulated().answers] == [b"igno", b"b"]
    lab.act(lambda machine, now: machine.prompt("late? ", now))
    lab.run(target.leave())
    of_kind(events, Prompted)[-1].answer("nobody hears this")


def test_files_are_refused_unless_somebody_has_them(lab: MemoryLab, where: str) -> None:
    target = halted(lab, where)
    events = gather(target)
    lab.run(target.continue_())
    lab.act(lambda machine, now: machine.request_file("\\??\\a.sys", now))
    lab.advance(1)
    (asked,) = of_kind(events, FileAsked)
    assert (asked.request.name, asked.answer.status) == ("\\??\\a.sys", Status.NO_SUCH_FILE)

    def opener(request: FileIo) -> FileIo | None:
        return request.reply(handle=5, length=7) if request.name.endswith("b.sys") else None

    target.answer_files(opener)
    for name in ("b.sys", "c.sys"):
        lab.act(lambda machine, now, name=name: machine.request_file(name, now))
        lab.advance(1)
    answers = [FileIo.decode(answer.payload) for answer in lab.simulated().answers]
    assert [answer.status for answer in answers] == [Status.NO_SUCH_FILE, Status.SUCCESS, Status.NO_SUCH_FILE]
    assert answers[1]["handle"] == 5


# The lab itself


def test_waiting_for_what_never_comes_is_an_error_and_no_hang(lab: MemoryLab) -> None:
    target = halted(lab)
    lab.run(target.continue_())
    with pytest.raises(NothingHappens, match="no result after 90 s"):
        lab.run(target.wait_for_stop(), within=90)


def test_two_targets_at_a_time(lab: MemoryLab) -> None:
    first, second = halted(lab, trans="sim:name=one"), halted(lab, trans="sim:name=two")
    lab.run(first.continue_())
    lab.advance(0.1)
    assert (first.run_state, second.run_state) == (RunState.RUNNING, RunState.HALTED)
    assert lab.simulated("one") is not lab.simulated("two")
