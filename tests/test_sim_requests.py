"""Conformance cases C27 to C38 on the simulated target (KD protocol, 6.2), and the requests they leave out."""

from __future__ import annotations

from struct import pack, unpack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_debugger import SimDebugger

from kdsrv.kd.amd64 import Context, SpecialRegisters
from kdsrv.kd.api import Api
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.statuses import Status
from kdsrv.sim.kernel import KERNEL_BASE, WORKER_BASE
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import TargetState

UNMAPPED = 0xFFFF_F802_7000_0000
POOL_END = 0xFFFF_8A00_0020_0000


@pytest.fixture
def debugger() -> SimDebugger:
    debugger = SimDebugger()
    assert debugger.stop()["exception_code"] == Status.BREAKPOINT
    return debugger


@pytest.mark.parametrize(("cap", "asked"), [(3944, 0x2000), (1992, 0x2000), (3944, 100)])
def test_c27_a_long_read_is_cut(cap: int, asked: int) -> None:
    debugger = SimDebugger(SimOptions(read_cap=cap))
    debugger.stop()
    reply = debugger.ask(Manipulate.read_virtual(KERNEL_BASE, asked))
    expected = debugger.target.memory.read_virtual(KERNEL_BASE, min(cap, asked))
    assert (reply.status, reply["actual"], reply.data) == (0, len(expected), expected)
    assert len(reply.encode()) == 56 + min(cap, asked)


def test_c28_a_read_into_nothing_is_partial(debugger: SimDebugger) -> None:
    reply = debugger.ask(Manipulate.read_virtual(POOL_END - 10, 100))
    assert (reply.status, reply["actual"], len(reply.data)) == (Status.UNSUCCESSFUL, 10, 10)
    reply = debugger.ask(Manipulate.read_virtual(UNMAPPED, 100))
    assert (reply.status, reply["actual"], reply.data) == (Status.UNSUCCESSFUL, 0, b"")


def test_c28_a_write_into_nothing_is_partial(debugger: SimDebugger) -> None:
    reply = debugger.ask(Manipulate.write_virtual(POOL_END - 10, bytes(range(20))))
    assert (reply.status, reply["actual"], reply.data) == (Status.UNSUCCESSFUL, 10, b"")
    assert debugger.target.memory.read_virtual(POOL_END - 10, 20) == bytes(range(10))


@pytest.mark.parametrize(
    ("request_", "results"),
    [
        (Manipulate.read_virtual(KERNEL_BASE, 8), {0x08: 4, 0x1C: 4}),
        (Manipulate.restore_breakpoint(1), {0x08: 4}),
        (Manipulate.get_context(), {0x08: 4}),
        (Manipulate.get_version(), {0x08: 4, 0x10: 40}),
    ],
    ids=lambda value: value.name if isinstance(value, Manipulate) else "",
)
def test_c29_garbage_comes_back(debugger: SimDebugger, request_: Manipulate, results: dict[int, int]) -> None:
    garbage = bytearray(b"\xa5" * 56)
    for name in request_.fields:
        at, size = request_.fields[name]
        if name not in ("level", "pad", "status", "context_flags"):
            garbage[at : at + size] = request_.fixed[at : at + size]
    reply = debugger.ask(Manipulate.decode(bytes(garbage)))
    for at in range(56):
        if not any(start <= at < start + size for start, size in results.items()):
            assert reply.fixed[at] == garbage[at], f"byte {at:#x} was changed"


def test_c30_an_unknown_request_is_echoed(debugger: SimDebugger) -> None:
    request = Manipulate.request(0x3199, 0, b"some data").encode()
    debugger.send(Manipulate.decode(request))
    reply = Manipulate.decode(debugger.take(2))
    assert reply.encode() == request[:8] + pack("<I", Status.UNSUCCESSFUL) + request[12:56]


def test_c31_breakpoints(debugger: SimDebugger) -> None:
    for handle in range(1, 33):
        assert debugger.ask(Manipulate.restore_breakpoint(handle)).status == Status.UNSUCCESSFUL
    base = WORKER_BASE + 0x1100
    for number in range(32):
        reply = debugger.ask(Manipulate.write_breakpoint(base + number))
        assert (reply.status, reply["handle"]) == (0, number + 1)
    for address in (base, base + 32, UNMAPPED):
        reply = debugger.ask(Manipulate.write_breakpoint(address))
        assert (reply.status, reply["handle"]) == (Status.UNSUCCESSFUL, 0)
    assert debugger.target.memory.read_virtual(base, 33) == b"\xcc" * 32 + b"\0"
    assert debugger.ask(Manipulate.restore_breakpoint(7)).status == 0
    assert debugger.target.memory.read_virtual(base + 5, 3) == b"\xcc\0\xcc"
    assert debugger.ask(Manipulate.write_breakpoint(base + 32))["handle"] == 7


def test_c31_one_breakpoint_at_an_address(debugger: SimDebugger) -> None:
    assert debugger.ask(Manipulate.write_breakpoint(WORKER_BASE + 0x1100))["handle"] == 1
    reply = debugger.ask(Manipulate.write_breakpoint(WORKER_BASE + 0x1100))
    assert (reply.status, reply["handle"]) == (Status.UNSUCCESSFUL, 0)


def test_c32_a_breakpoint_near_a_stop_is_dead(debugger: SimDebugger) -> None:
    work = debugger.target.machine.kernel.worker_routines["WorkerStep"]
    original = debugger.target.memory.read_virtual(work, 32)
    near, at, far = (debugger.ask(Manipulate.write_breakpoint(work + offset))["handle"] for offset in (15, 0, 16))
    step_over_break(debugger)
    debugger.send(Manipulate.continue2())
    stop = debugger.stop()
    assert stop.program_counter == work
    assert stop.report[0x18:0x28] == original[:16]
    assert debugger.ask(Manipulate.restore_breakpoint(near)).status == Status.UNSUCCESSFUL
    assert debugger.ask(Manipulate.restore_breakpoint(at)).status == Status.UNSUCCESSFUL
    assert debugger.ask(Manipulate.restore_breakpoint(far)).status == 0
    assert debugger.target.memory.read_virtual(work, 32) == original


def test_c33_a_context_is_set_only_after_a_look_at_it(debugger: SimDebugger) -> None:
    context = Context.from_bytes(debugger.target.machine.current.read_context()).replace(rbx=0x1234)
    assert debugger.ask(Manipulate.set_context(context)).status == Status.UNSUCCESSFUL
    assert debugger.ask(Manipulate.get_context()).status == 0
    assert debugger.ask(Manipulate.set_context(context)).status == 0
    assert Context.from_bytes(debugger.ask(Manipulate.get_context()).data)["rbx"] == 0x1234
    part = context.replace(rbx=0x5678, r15=9, xmm0=b"\xff" * 16).raw[:0x100]
    assert debugger.ask(Manipulate.set_context(part)).status == 0
    after = Context.from_bytes(debugger.ask(Manipulate.get_context()).data)
    assert (after["rbx"], after["r15"], after["xmm0"]) == (0x5678, 9, 0)
    assert debugger.ask(Manipulate.set_context(context, processor=2)).status == Status.UNSUCCESSFUL
    debugger.send(Manipulate.continue2())
    debugger.stop()
    assert debugger.ask(Manipulate.set_context(context)).status == Status.UNSUCCESSFUL


def test_c33_context_flags_choose_what_is_set(debugger: SimDebugger) -> None:
    before = Context.from_bytes(debugger.ask(Manipulate.get_context()).data)
    changed = before.replace(context_flags=0x100002, rax=1, rip=2, rsp=3, eflags=4, cs=5, xmm1=b"\x01" * 16, dr0=6)
    assert debugger.ask(Manipulate.set_context(changed)).status == 0
    after = Context.from_bytes(debugger.ask(Manipulate.get_context()).data)
    assert after == before.replace(rax=1)
    debugger.ask(Manipulate.set_context(before.replace(context_flags=0x100010, dr0=0x77, rax=9)))
    special = SpecialRegisters.from_bytes(debugger.ask(Manipulate.read_control_space(2, 0xE0)).data)
    assert special["dr0"] == 0x77
    assert Context.from_bytes(debugger.ask(Manipulate.get_context()).data)["rax"] == 1


def test_c34_a_context_in_slices(debugger: SimDebugger) -> None:
    whole = debugger.ask(Manipulate.get_context()).data
    reply = debugger.ask(Manipulate.get_context_ex(0, 0x4D0))
    assert (reply.status, reply["bytes_copied"], reply.data) == (0, 0x4D0, whole)
    slices = [debugger.ask(Manipulate.get_context_ex(*where)).data for where in ((0, 0x448), (0x448, 0x88))]
    assert b"".join(slices) == whole
    reply = debugger.ask(Manipulate.get_context_ex(0x448, 0x89))
    assert (reply.status, reply["bytes_copied"], reply.data) == (Status.UNSUCCESSFUL, 0, b"")
    changed = Context(whole).replace(rbx=1, xmm5=b"\x05" * 16).raw
    for at in (0, 0x200, 0x400):
        assert debugger.ask(Manipulate.get_context()).data == whole
        reply = debugger.ask(Manipulate.set_context_ex(at, changed[at : at + 0x200], 0x4D0))
        assert (reply.status, reply["bytes_copied"]) == (0, min(0x200, 0x4D0 - at))
    assert debugger.ask(Manipulate.get_context()).data == changed


def test_c34_a_boot_debugger_knows_no_slices() -> None:
    debugger = SimDebugger(SimOptions(context_ex=False))
    debugger.stop()
    reply = debugger.ask(Manipulate.get_context_ex(0, 0x4D0))
    assert (reply.status, reply["bytes_copied"], reply.data) == (Status.UNSUCCESSFUL, 0, b"")


@pytest.mark.parametrize(
    ("request_", "state"),
    [
        (Manipulate.continue_(), TargetState.RUNNING),
        (Manipulate.continue2(), TargetState.RUNNING),
        (Manipulate.reboot(), TargetState.OFF),
        (Manipulate.cause_bug_check(0xE2), TargetState.STOPPED),
        (Manipulate.clear_all_internal_breakpoints(), TargetState.STOPPED),
    ],
    ids=lambda value: value.name if isinstance(value, Manipulate) else "",
)
def test_c35_no_reply(debugger: SimDebugger, request_: Manipulate, state: TargetState) -> None:
    step_over_break(debugger)
    debugger.send(request_)
    assert debugger.link.backlog == 0
    assert not [packet for packet in debugger.packets if packet.type == 2]
    assert debugger.target.state is state


def test_c36_switch_processor(debugger: SimDebugger) -> None:
    debugger.send(Manipulate.switch_processor(1))
    stop = debugger.stop()
    assert (stop.processor, stop["exception_code"], stop["processors"]) == (1, Status.WAKE_DEBUGGER, 2)
    assert stop.program_counter == debugger.target.machine.kernel.routines["KiIdleLoop"]
    assert not debugger.packets
    reply = debugger.ask(Manipulate.switch_processor(2))
    assert reply.status == Status.UNSUCCESSFUL


def test_c37_control_space(debugger: SimDebugger) -> None:
    kernel = debugger.target.machine.kernel
    for processor in (0, 1):
        pointers = [debugger.ask(Manipulate.read_control_space(index, 8, processor)).data for index in (0, 1, 3)]
        pcr, prcb, thread = (unpack("<Q", pointer)[0] for pointer in pointers)
        assert (pcr, prcb) == (kernel.pcrs[processor], kernel.pcrs[processor] + 0x180)
        assert debugger.target.memory.read_virtual(prcb + 8, 8) == pack("<Q", thread)
    reply = debugger.ask(Manipulate.read_control_space(2, 0xE0))
    assert (reply.status, reply["actual"]) == (0, 0xE0)
    assert SpecialRegisters.from_bytes(reply.data)["cr3"] == kernel.memory.root
    assert debugger.ask(Manipulate.read_control_space(2, 0x20)).data == reply.data[:0x20]
    for index, processor in ((7, 0), (2, 2)):
        reply = debugger.ask(Manipulate.read_control_space(index, 8, processor))
        assert (reply.status, reply["actual"], reply.data) == (Status.UNSUCCESSFUL, 0, b"")


def test_special_registers_are_written(debugger: SimDebugger) -> None:
    special = SpecialRegisters.from_bytes(debugger.ask(Manipulate.read_control_space(2, 0xE0)).data)
    reply = debugger.ask(Manipulate.write_control_space(2, special.replace(dr0=5, dr7=0x401)))
    assert (reply.status, reply.data) == (0, b"")
    assert debugger.ask(Manipulate.read_control_space(2, 0xE0)).data == special.replace(dr0=5, dr7=0x401).raw
    assert debugger.ask(Manipulate.write_control_space(3, bytes(8))).status == Status.UNSUCCESSFUL


def test_c38_the_caching_of_a_physical_write_is_no_length(debugger: SimDebugger) -> None:
    memory = debugger.target.memory
    physical = memory.translate(WORKER_BASE + 0x3000)
    assert physical is not None
    reply = debugger.ask(Manipulate.write_physical(physical, b"0123456789", caching=2))
    assert (reply.status, reply["actual"], reply.data) == (0, 10, b"")
    assert memory.read_virtual(WORKER_BASE + 0x3000, 10) == b"0123456789"
    reply = debugger.ask(Manipulate.read_physical(physical, 10, caching=2))
    assert (reply.status, reply["actual"], reply.data) == (0, 10, b"0123456789")
    reply = debugger.ask(Manipulate.read_physical(debugger.target.machine.kernel.physical.size - 4, 10))
    assert (reply.status, len(reply.data)) == (Status.UNSUCCESSFUL, 4)


def test_version(debugger: SimDebugger) -> None:
    version = debugger.ask(Manipulate.get_version(processor=1)).version
    assert (version.build_number, version["flags"], version["machine_type"]) == (17134, 7, 0x8664)
    assert (version["protocol_version"], version["secondary_version"], version["max_packet_type"]) == (6, 2, 12)
    assert version.kernel_base == KERNEL_BASE


def test_model_specific_registers(debugger: SimDebugger) -> None:
    kernel = debugger.target.machine.kernel
    assert debugger.ask(Manipulate.read_msr(0xC0000080)).msr_value == 0xD01
    assert debugger.ask(Manipulate.read_msr(0xC0000101, processor=1)).msr_value == kernel.pcrs[1]
    assert debugger.ask(Manipulate.write_msr(0xC0000082, 0x1_0000_0002)).status == 0
    assert debugger.ask(Manipulate.read_msr(0xC0000082)).msr_value == 0x1_0000_0002
    special = SpecialRegisters.from_bytes(debugger.ask(Manipulate.read_control_space(2, 0xE0)).data)
    assert special["lstar"] == 0x1_0000_0002
    assert debugger.ask(Manipulate.read_msr(0x12345)).status == Status.NO_SUCH_DEVICE
    assert debugger.ask(Manipulate.write_msr(0x12345, 1)).status == Status.NO_SUCH_DEVICE


def test_search_finds_what_crosses_a_page(debugger: SimDebugger) -> None:
    place = POOL_END - 0x1003
    debugger.ask(Manipulate.write_virtual(place, b"needle"))
    reply = debugger.ask(Manipulate.search_memory(place - 0x5000, 0x6100, b"needle"))
    assert (reply.status, reply["address"]) == (0, place)
    for start, length in ((place - 0x5000, 0x5005), (place + 1, 0x10000), (UNMAPPED, 0x1000)):
        assert debugger.ask(Manipulate.search_memory(start, length, b"needle")).status == Status.NO_MORE_ENTRIES
    assert debugger.ask(Manipulate.search_memory(place, 10, b"")).status == Status.INVALID_PARAMETER


def test_fill_memory(debugger: SimDebugger) -> None:
    place = WORKER_BASE + 0x3FFC
    reply = debugger.ask(Manipulate.fill_memory(place, 10, b"abc"))
    assert (reply.status, reply["length"]) == (0, 10)
    assert debugger.target.memory.read_virtual(place - 1, 12) == b"\0abcabcabca\0"
    physical = debugger.target.memory.translate(WORKER_BASE + 0x3000)
    assert physical is not None
    assert debugger.ask(Manipulate.fill_memory(physical, 4, b"x", physical=True)).status == 0
    assert debugger.target.memory.read_virtual(WORKER_BASE + 0x3000, 5) == b"xxxx\0"
    reply = debugger.ask(Manipulate.fill_memory(POOL_END - 0x180000, 0x7FFFFFFF, b"\0"))
    assert (reply.status, reply["length"]) == (Status.UNSUCCESSFUL, 1 << 20)
    reply = debugger.ask(Manipulate.fill_memory(POOL_END - 2, 10, b"x"))
    assert (reply.status, reply["length"]) == (Status.UNSUCCESSFUL, 2)
    assert debugger.ask(Manipulate.fill_memory(place, 10, b"")).status == Status.INVALID_PARAMETER


def test_query_memory(debugger: SimDebugger) -> None:
    reply = debugger.ask(Manipulate.query_memory(KERNEL_BASE))
    assert (reply.status, reply["address_space"], reply["flags"]) == (0, 2, 7)
    assert debugger.ask(Manipulate.query_memory(UNMAPPED)).status == Status.UNSUCCESSFUL
    other_space = Manipulate.query_memory(KERNEL_BASE).replace(address_space=1)
    assert debugger.ask(other_space).status == Status.INVALID_PARAMETER


def test_io_ports(debugger: SimDebugger) -> None:
    assert debugger.ask(Manipulate.read_io(0x3F8, 2))["value"] == 0xFFFF
    assert debugger.ask(Manipulate.write_io(0x3F8, 1, 0x41)).status == 0
    assert debugger.ask(Manipulate.read_io(0x3F8, 1))["value"] == 0x41
    assert debugger.ask(Manipulate.read_io(0x3F8, 3)).status == Status.INVALID_PARAMETER
    assert debugger.ask(Manipulate.read_io(0x3F9, 2)).status == Status.MISALIGNED
    assert debugger.ask(Manipulate.read_io_extended(0x80, 1))["value"] == 0xFF


def test_breakpoints_in_bulk_continue(debugger: SimDebugger) -> None:
    work = debugger.target.machine.kernel.worker_routines["WorkerStep"]
    step_over_break(debugger)
    debugger.send(Manipulate.write_breakpoints([work, UNMAPPED, work + 0x100]))
    reply = Manipulate.decode(debugger.take(2))
    assert (reply.status, reply.breakpoints()) == (
        Status.UNSUCCESSFUL,
        [(work, 1), (UNMAPPED, 0), (work + 0x100, 2)],
    )
    assert debugger.stop().program_counter == work
    reply = debugger.ask(Manipulate.restore_breakpoints([1, 2], status=Status.UNSUCCESSFUL))
    assert reply.status == Status.UNSUCCESSFUL
    assert debugger.target.memory.read_virtual(work + 0x100, 1) == b"\0"


@pytest.mark.parametrize("api", [*Api, 0, 0xFFFFFFFF])
def test_nothing_a_debugger_sends_is_an_error_here(api: int) -> None:
    for filling, data in ((b"\xff", b""), (b"\xff", b"\xff" * 100), (b"\0", b"")):
        debugger = SimDebugger()
        debugger.stop()
        debugger.send(Manipulate(pack("<IHHI", api, 0, 0, 0) + filling * 44, data))
        debugger.wait(1.5)
        assert debugger.target.log[0].kind == api


PLACES = st.sampled_from(
    [KERNEL_BASE, WORKER_BASE + 0x1000, POOL_END - 8, UNMAPPED, 0xFFFF_F780_0000_0000, 0xFFFF_F802_0F00_0180, 0, 0x1000]
) | st.integers(0, (1 << 64) - 1)


@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(sorted(Api)),
            st.integers(0, 2),
            PLACES,
            st.integers(0, 0x2000) | st.integers(0, (1 << 32) - 1),
            st.binary(max_size=32) | st.just(b"\0" * 0x800),
        ),
        max_size=12,
    )
)
@settings(deadline=None)
def test_no_order_of_requests_is_an_error_here(requests: list[tuple[Api, int, int, int, bytes]]) -> None:
    """Not even those that destroy the machine: page tables, the stack, the kernel's own structures."""
    debugger = SimDebugger()
    for api, processor, place, number, data in requests:
        union = pack("<QIIQQQ", place, number, number & 3, place, place, place)
        debugger.send(Manipulate(pack("<IHHII", api, 0, processor, 0, 0) + union, data))
        debugger.link.break_in(debugger.now)
        debugger.wait(2.0)
    assert len(debugger.target.log) <= len(requests)


def test_a_machine_without_page_tables_still_stops(debugger: SimDebugger) -> None:
    root = debugger.target.machine.kernel.memory.root
    assert debugger.ask(Manipulate.write_physical(root + 0x800, bytes(0x800))).succeeded
    assert debugger.ask(Manipulate.read_virtual(KERNEL_BASE, 8)).data == b""
    debugger.send(Manipulate.continue2())
    stop = debugger.stop()
    assert (stop["exception_code"], stop["thread"]) == (Status.ACCESS_VIOLATION, 0)


def step_over_break(debugger: SimDebugger) -> None:
    """Move the program counter past the int3 of a break-in, as debuggers do before they continue."""
    context = Context.from_bytes(debugger.ask(Manipulate.get_context()).data)
    debugger.ask(Manipulate.set_context(context.replace(rip=context["rip"] + 1)))
