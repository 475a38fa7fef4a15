"""The main loop of the simulated target: stops, steps, breakpoints, prints, modules, crashes and reboots."""

from __future__ import annotations

import pytest
from sim_debugger import SimDebugger

from kdsrv.kd.amd64 import Context, ControlReport, SpecialRegisters
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import INITIAL_ID, SYNC, Packet, PacketType, encode_control, encode_data
from kdsrv.kd.state_change import LOAD_SYMBOLS, StateChange
from kdsrv.kd.statuses import Status
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget, TargetState

RESET = encode_control(PacketType.RESET)


@pytest.fixture
def debugger() -> SimDebugger:
    """On a target that has stopped for it, with the program counter past the int3 of the break-in."""
    debugger = SimDebugger()
    debugger.stop()
    advance(debugger)
    return debugger


def advance(debugger: SimDebugger, distance: int = 1) -> None:
    context = Context.from_bytes(debugger.ask(Manipulate.get_context()).data)
    assert debugger.ask(Manipulate.set_context(context.replace(rip=context["rip"] + distance))).succeeded


def registers(debugger: SimDebugger) -> Context:
    return Context.from_bytes(debugger.ask(Manipulate.get_context()).data)


def run(debugger: SimDebugger, *, trace: bool = False) -> StateChange:
    debugger.send(Manipulate.continue2(trace=trace))
    return debugger.stop()


def test_a_halted_target_says_so_until_somebody_hears() -> None:
    target = SimulatedTarget(now=5.0)
    first = target.take_output()
    assert first[8:12] == (INITIAL_ID | SYNC).to_bytes(4, "little")
    for time in (6.0, 7.0):
        assert target.deadline == time
        target.expire(time)
        assert target.take_output() == first
    target.receive(encode_control(PacketType.ACKNOWLEDGE, INITIAL_ID), 7.5)
    assert (target.take_output(), target.deadline) == (b"", None)


def test_reset_announces_the_stop_again() -> None:
    target = SimulatedTarget()
    stop = target.take_output()
    target.receive(RESET, 0.5)
    again = encode_data(PacketType.STATE_CHANGE64, INITIAL_ID, stop[16:-1])
    assert target.take_output() == RESET + again
    target.receive(encode_control(PacketType.ACKNOWLEDGE, INITIAL_ID), 0.6)
    target.receive(RESET, 0.7)
    assert target.take_output() == RESET + again


def test_a_target_for_rizin_waits_for_the_reset() -> None:
    options = SimOptions(
        hold_state_change_until_reset=True, sync_on_boot=False, reset_reply_id=7, first_id_after_reset=INITIAL_ID | 1
    )
    target = SimulatedTarget(options)
    assert target.take_output() == b""
    target.receive(RESET, 1.0)
    answer = target.take_output()
    assert answer[:16] == encode_control(PacketType.RESET, 7)
    assert answer[24:28] == (INITIAL_ID | 1).to_bytes(4, "little")


def test_the_first_stop_tells_where_the_target_is() -> None:
    debugger = SimDebugger()
    stop = debugger.stop()
    kernel = debugger.target.machine.kernel
    breakpoint_ = kernel.routines["DbgBreakPointWithStatus"]
    assert (stop["exception_code"], stop["first_chance"], stop.parameters) == (Status.BREAKPOINT, 1, (0,))
    assert (stop.program_counter, stop["exception_address"]) == (breakpoint_, breakpoint_)
    assert stop["thread"] == kernel.current_thread(0)
    report = ControlReport.from_bytes(stop.report)
    assert (report["instruction_count"], report["report_flags"], report["cs"]) == (16, 3, 0x10)
    assert report.raw[0x18:0x28] == debugger.target.memory.read_virtual(breakpoint_, 16)


def test_break_in_calls_the_int3_routine(debugger: SimDebugger) -> None:
    worker = debugger.target.machine.kernel.worker_routines
    debugger.send(Manipulate.continue2())
    assert not debugger.packets
    stop = debugger.break_in()
    assert stop.program_counter == debugger.target.machine.kernel.routines["DbgBreakPointWithStatus"]
    back = int.from_bytes(debugger.ask(Manipulate.read_virtual(registers(debugger)["rsp"], 8)).data, "little")
    assert worker["DriverEntry"] <= back < worker["WorkerStep"] + 0x40


def test_an_int3_that_is_not_passed_stops_again(debugger: SimDebugger) -> None:
    advance(debugger, -1)
    before = registers(debugger)
    stop = run(debugger)
    assert stop.program_counter == before["rip"]
    assert registers(debugger)["rsp"] == before["rsp"]


def test_single_steps(debugger: SimDebugger) -> None:
    worker = debugger.target.machine.kernel.worker_routines
    loop, work = worker["WorkerLoop"], worker["WorkerStep"]
    places = []
    for _ in range(12):
        stop = run(debugger, trace=True)
        assert stop["exception_code"] == Status.SINGLE_STEP
        assert ControlReport.from_bytes(stop.report)["dr6"] & 0x4000
        assert not registers(debugger)["eflags"] & 0x100
        places.append(stop.program_counter)
    steps = [loop, loop + 3, loop + 6, loop + 9, work, *(work + offset for offset in (1, 4, 7, 11, 12, 19, 20))]
    assert places == steps
    after = registers(debugger)
    assert (after["rax"], after["rbx"], after["rcx"], after["rdx"]) == (1, 1, 1, 5)
    assert debugger.target.memory.read_virtual(worker["WorkerCounter"], 8) == (5).to_bytes(8, "little")


def test_a_breakpoint_is_hit_and_passed(debugger: SimDebugger) -> None:
    work = debugger.target.machine.kernel.worker_routines["WorkerStep"]
    for rounds in (1, 2, 3):
        debugger.ask(Manipulate.write_breakpoint(work))
        stop = run(debugger)
        assert (stop["exception_code"], stop.program_counter) == (Status.BREAKPOINT, work)
        assert registers(debugger)["rax"] == rounds
        assert run(debugger, trace=True).program_counter == work + 1


def test_a_breakpoint_far_off_is_hit_in_time(debugger: SimDebugger) -> None:
    """In the loop's rare turn, which one slice of the program does not reach."""
    restart = debugger.target.machine.kernel.worker_routines["DriverEntry"]
    debugger.ask(Manipulate.write_breakpoint(restart))
    debugger.send(Manipulate.continue2())
    assert not debugger.packets
    debugger.wait(10.0)
    assert debugger.stop().program_counter == restart
    assert registers(debugger)["rax"] == 1000


def test_a_running_target_with_nothing_armed_sleeps() -> None:
    target = SimulatedTarget(SimOptions(state="running"))
    assert target.deadline is None
    target.receive(b"xyz" + RESET, 1.0)
    assert (target.take_output(), target.deadline) == (b"", None)
    target.receive(b"b", 2.0)
    assert target.take_output()[8:12] == (INITIAL_ID | SYNC).to_bytes(4, "little")


@pytest.mark.parametrize("by_context", [True, False])
def test_hardware_breakpoints(debugger: SimDebugger, by_context: bool) -> None:
    kernel = debugger.target.machine.kernel
    work, counter = kernel.worker_routines["WorkerStep"], kernel.worker_routines["WorkerCounter"]
    dr7 = 0x400 | 0b0101 | 0b1001 << 20
    if by_context:
        debugger.ask(Manipulate.set_context(registers(debugger).replace(dr0=work, dr1=counter, dr7=dr7)))
    else:
        special = SpecialRegisters.from_bytes(debugger.ask(Manipulate.read_control_space(2, 0xE0)).data)
        debugger.ask(Manipulate.write_control_space(2, special.replace(dr0=work, dr1=counter, dr7=dr7)))
    for place, bit in ((work, 1), (work + 19, 2), (work, 1)):
        debugger.send(Manipulate.continue2(dr7=dr7))
        stop = debugger.stop()
        assert (stop["exception_code"], stop.program_counter) == (Status.SINGLE_STEP, place)
        assert ControlReport.from_bytes(stop.report)["dr6"] & 0xF == bit
    debugger.send(Manipulate.continue2())
    debugger.wait(1.0)
    assert not debugger.packets


@pytest.mark.parametrize(
    ("code", "expected", "parameters"),
    [
        ("0f0b", 0xC000001D, ()),
        ("48c70425 00000000 01000000", 0xC000001D, ()),
        ("31c0 488b00", Status.ACCESS_VIOLATION, (0, 0)),
        ("31c0 488900", Status.ACCESS_VIOLATION, (1, 0)),
    ],
)
def test_exceptions_of_the_program(
    debugger: SimDebugger, code: str, expected: int, parameters: tuple[int, ...]
) -> None:
    place = debugger.target.machine.kernel.worker_routines["WorkerStep"]
    debugger.ask(Manipulate.write_virtual(place, bytes.fromhex(code)))
    stop = run(debugger)
    assert (stop["exception_code"], stop.parameters, stop["first_chance"]) == (expected, parameters, 1)
    debugger.send(Manipulate.continue2(status=Status.DBG_EXCEPTION_NOT_HANDLED))
    stop = debugger.stop()
    assert (stop["exception_code"], stop["first_chance"]) == (expected, 0)
    debugger.send(Manipulate.continue2(status=Status.DBG_EXCEPTION_NOT_HANDLED))
    assert b"*** Fatal System Error: 0x0000001e" in debugger.text()
    assert debugger.stop()["exception_code"] == Status.BREAKPOINT


@pytest.mark.parametrize("breaks", [b"b", b"bbbbb"])
def test_c51_a_break_in_to_a_stopped_target_arms_one_more_stop(debugger: SimDebugger, breaks: bytes) -> None:
    debugger.target.receive(breaks, debugger.now)
    debugger.wait(1.1)
    assert debugger.stop()["exception_code"] == Status.BREAKPOINT
    stop = run(debugger)
    assert stop.program_counter == debugger.target.machine.kernel.routines["DbgBreakPointWithStatus"]
    advance(debugger)
    debugger.send(Manipulate.continue2())
    debugger.wait(2.0)
    assert not debugger.packets


def test_c51_the_noted_break_in_comes_before_the_program(debugger: SimDebugger) -> None:
    work = debugger.target.machine.kernel.worker_routines["WorkerStep"]
    debugger.ask(Manipulate.write_breakpoint(work))
    advance(debugger, -1)
    before = registers(debugger)
    debugger.target.receive(b"b", debugger.now)
    debugger.wait(1.1)
    debugger.stop()
    stop = run(debugger)
    after = registers(debugger)
    assert (stop.program_counter, after["rsp"]) == (before["rip"], before["rsp"])
    advance(debugger)
    assert run(debugger).program_counter == work


def test_a_step_is_one_of_the_processor_looked_at(debugger: SimDebugger) -> None:
    debugger.send(Manipulate.switch_processor(1))
    idle = debugger.stop().program_counter
    stop = run(debugger, trace=True)
    assert (stop.processor, stop["exception_code"], stop.program_counter) == (1, Status.SINGLE_STEP, idle + 1)


def test_prints_go_out_one_by_one(debugger: SimDebugger) -> None:
    debugger.target.print("while stopped\n", debugger.now)
    debugger.pump()
    assert not debugger.packets
    debugger.send(Manipulate.continue2())
    assert debugger.text() == b"while stopped\n"
    debugger.target.print("x" * 5000, debugger.now)
    debugger.pump()
    assert [len(debugger.text()), len(debugger.text())] == [3984, 1016]


def test_a_print_nobody_hears_is_given_up_and_the_target_goes_on() -> None:
    options = SimOptions(state="running", retries=3)
    target = SimulatedTarget(options)
    target.print("hello\n", 0.0)
    first = target.take_output()
    for time in (1.0, 2.0):
        target.expire(time)
        assert target.take_output() == first
    target.expire(3.0)
    target.print("alone\n", 3.0)
    assert (target.take_output(), target.deadline) == (b"", None)
    target.receive(b"b", 4.0)
    assert target.take_output()[8:12] == (INITIAL_ID | SYNC).to_bytes(4, "little")


def test_a_break_in_during_a_print_stops_after_it() -> None:
    target = SimulatedTarget(SimOptions(state="running"))
    target.print("hello\n", 0.0)
    target.take_output()
    target.receive(b"b", 0.1)
    target.expire(1.1)
    assert target.take_output()[4:6] == bytes((PacketType.DEBUG_IO, 0))
    target.receive(encode_control(PacketType.ACKNOWLEDGE, INITIAL_ID), 1.2)
    assert target.take_output()[4:6] == bytes((PacketType.STATE_CHANGE64, 0))


def test_a_talkative_target_prints_while_it_runs() -> None:
    debugger = SimDebugger(SimOptions(state="running", print_every=0.5))
    debugger.wait(1.6)
    assert [debugger.text() for _ in range(3)] == [b"simulated target: line %d\n" % number for number in (1, 2, 3)]
    debugger.break_in()
    debugger.wait(2.0)
    assert not debugger.packets


def test_lines_that_nobody_takes_do_not_pile_up() -> None:
    target = SimulatedTarget(SimOptions(state="running", print_every=0.25))
    for quarter in range(1, 4):
        target.expire(quarter / 4)
    first = target.take_output()
    assert b"line 1\n" in first
    assert first.count(b"line") == 1
    target.receive(encode_control(PacketType.ACKNOWLEDGE, INITIAL_ID), 0.9)
    assert target.take_output() == b""
    target.expire(1.0)
    assert b"line 4\n" in target.take_output()


def test_modules_come_and_go(debugger: SimDebugger) -> None:
    base = 0xFFFF_F802_2000_0000
    debugger.send(Manipulate.continue2())
    debugger.target.load_module("late.sys", base, 0x6000, debugger.now)
    debugger.pump()
    stop = debugger.stop()
    assert (stop.kind, stop["base"], stop["image_size"], stop["unload"]) == (LOAD_SYMBOLS, base, 0x6000, 0)
    assert stop.path == b"\\SystemRoot\\system32\\drivers\\late.sys"
    assert debugger.ask(Manipulate.read_virtual(base, 2)).data == b"MZ"
    debugger.send(Manipulate.continue2())
    assert not debugger.packets
    debugger.target.unload_module("late.sys", debugger.now)
    debugger.pump()
    stop = debugger.stop()
    assert (stop.kind, stop["base"], stop["unload"]) == (LOAD_SYMBOLS, base, 1)
    assert not debugger.ask(Manipulate.read_virtual(base, 2)).succeeded
    for name, place in (
        ("hal.dll", base),
        ("new.sys", base + 1),
        ("new.sys", 0x1000),
        ("new.sys", stop["thread"] & ~0xFFF),
    ):
        with pytest.raises(ValueError, match=r"already|no kernel address"):
            debugger.target.load_module(name, place, 0x1000, debugger.now)
    with pytest.raises(ValueError, match="not loaded"):
        debugger.target.unload_module("late.sys", debugger.now)


def test_questions_and_their_answers(debugger: SimDebugger) -> None:
    debugger.send(Manipulate.continue2())
    debugger.target.prompt("really? ", debugger.now, most=4)
    debugger.target.request_file("\\Windows\\x.sys", debugger.now)
    debugger.pump()
    question = DebugIo.decode(debugger.take(PacketType.DEBUG_IO))
    assert (question.is_prompt, question.text) == (True, b"really? ")
    debugger.link.send(PacketType.DEBUG_IO, question.answer(b"yes").encode(), debugger.now)
    debugger.pump()
    request = FileIo.decode(debugger.take(PacketType.FILE_IO))
    assert request.name == "\\Windows\\x.sys"
    debugger.link.send(PacketType.FILE_IO, request.refusal().encode(), debugger.now)
    debugger.pump()
    prompt, file = debugger.target.answers
    assert DebugIo.decode(prompt.payload).answer_text == b"yes"
    assert FileIo.decode(file.payload).status == Status.NO_SUCH_FILE
    assert debugger.target.state is TargetState.RUNNING


def test_a_bugcheck_prints_stops_and_reboots(debugger: SimDebugger) -> None:
    debugger.send(Manipulate.continue2())
    debugger.target.bugcheck(0xD1, debugger.now, 1, 2)
    debugger.pump()
    assert b"*** Fatal System Error: 0x000000d1" in debugger.text()
    assert debugger.stop()["exception_code"] == Status.BREAKPOINT
    data = debugger.target.machine.kernel.variables["KiBugcheckData"]
    codes = debugger.ask(Manipulate.read_virtual(data, 24)).data
    assert [codes[0], codes[8], codes[16]] == [0xD1, 1, 2]
    debugger.send(Manipulate.switch_processor(1))
    debugger.stop()
    debugger.send(Manipulate.continue2())
    assert debugger.target.state is TargetState.OFF
    debugger.wait(1.0)
    assert debugger.text().startswith(b"simulated target: Windows build 17134")


def test_a_reboot_is_announced_and_starts_everything_again(debugger: SimDebugger) -> None:
    place = debugger.target.machine.kernel.worker_routines["WorkerCounter"] + 8
    debugger.ask(Manipulate.write_virtual(place, b"old"))
    debugger.send(Manipulate.continue2())
    debugger.target.reboot(debugger.now)
    debugger.pump()
    assert debugger.stop().is_reboot
    debugger.send(Manipulate.continue2())
    debugger.target.receive(b"b" + RESET, debugger.now)
    assert debugger.target.take_output() == b""
    debugger.now += 0.5
    debugger.target.expire(debugger.now)
    banner = debugger.target.take_output()
    assert banner[8:12] == (INITIAL_ID | SYNC).to_bytes(4, "little")
    heard = debugger.link.receive(banner, debugger.now)
    debugger.packets += [event for event in heard if isinstance(event, Packet)]
    debugger.target.receive(debugger.link.take_output(), debugger.now)
    debugger.pump()
    debugger.packets.pop(0)
    for name in ("ntoskrnl.exe", "hal.dll", "kdcom.dll", "simwork.sys"):
        assert debugger.stop().path.endswith(name.encode())
        debugger.send(Manipulate.continue2())
    assert debugger.stop()["exception_code"] == Status.BREAKPOINT
    assert debugger.ask(Manipulate.read_virtual(place, 3)).data == bytes(3)


def test_a_booting_target_runs_on_alone() -> None:
    target = SimulatedTarget(SimOptions(state="boot", retries=2))
    assert target.take_output()[4:6] == bytes((PacketType.DEBUG_IO, 0))
    target.expire(1.0)
    target.expire(2.0)
    target.take_output()
    assert (target.state, target.deadline) == (TargetState.RUNNING, None)


def test_a_module_event_nobody_hears_is_given_up() -> None:
    target = SimulatedTarget(SimOptions(state="running", retries=2))
    target.load_module("late.sys", 0xFFFF_F802_2000_0000, 0x1000, 0.0)
    assert target.state is TargetState.STOPPED
    target.expire(1.0)
    target.expire(2.0)
    assert (target.state, target.deadline) == (TargetState.RUNNING, None)


def test_a_file_request_nobody_hears_is_given_up() -> None:
    target = SimulatedTarget(SimOptions(state="running", retries=2))
    target.request_file("x.sys", 0.0)
    assert target.state is TargetState.ASKING
    target.expire(1.0)
    target.expire(2.0)
    assert (target.state, target.deadline) == (TargetState.RUNNING, None)
    target.take_output()
    target.reboot(3.0)
    assert target.state is TargetState.OFF
    target.expire(3.5)
    assert b"Windows build" in target.take_output()


def test_options_are_checked() -> None:
    for wrong in ({"state": "asleep"}, {"cpus": 0}, {"read_cap": 4000}):
        with pytest.raises(ValueError, match=r"target is|processors|bytes of data"):
            SimOptions(**wrong)  # type: ignore[arg-type]
