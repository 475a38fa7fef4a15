"""The Python API against an uplink that says what no simulated target says, or when none says it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_uplink import ScriptedUplink, result_of, stop_at
from twisted.internet.defer import Deferred

from kdsrv.client import (
    Event,
    EventsDropped,
    MemoryUnreadable,
    OtherPacket,
    RequestFailed,
    RequestLost,
    ServerAway,
    Stopped,
    TookTooLong,
    TooManyRequests,
)
from kdsrv.client.memory import Pace
from kdsrv.errors import PeerError, SetupError
from kdsrv.kd import amd64, x86
from kdsrv.kd.api import Api
from kdsrv.kd.machine import Machine
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.kd.statuses import Status
from kdsrv.sessions.status import Running, RunState

PC = 0xFFFFF803_12345678
HERE = 0xFFFFF803_00000000


def start(work: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(work)


def halted(machine: Machine = Machine.AMD64) -> ScriptedUplink:
    uplink = ScriptedUplink(machine)
    uplink.stop(PC)
    return uplink


def data_of(request: Manipulate, count: int | None = None) -> bytes:
    """Memory in which every address holds its own low byte."""
    count = request["transfer_count"] if count is None else count
    return bytes((request["address"] + offset) & 0xFF for offset in range(count))


# Replies


def test_lost_requests_are_the_oldest() -> None:
    uplink = halted()
    work = [start(uplink.target.read_virtual(HERE + offset, 1)) for offset in range(4)]
    uplink.conversation.requests_lost(2)
    for each in work[:2]:
        with pytest.raises(RequestLost, match="ReadVirtualMemory gets no answer"):
            result_of(each)
    for request in uplink.asked[2:]:
        uplink.reply(request.reply(data=data_of(request), actual=1))
    assert [result_of(each) for each in work[2:]] == [b"\x02", b"\x03"]
    uplink.conversation.requests_lost(5)


def test_a_long_read_is_lost_once_and_its_other_replies_are_nobody_elses() -> None:
    uplink = halted()
    long = start(uplink.target.read_virtual(HERE, 20000))
    short = start(uplink.target.read_virtual(HERE + 7, 1))
    uplink.conversation.requests_lost(1)
    with pytest.raises(RequestLost):
        result_of(long)
    assert len(uplink.asked) == 7
    for request in uplink.asked[1:]:
        uplink.reply(request.reply(data=data_of(request), actual=request["transfer_count"]))
    assert result_of(short) == b"\x07"


def test_a_reply_to_nothing_is_an_event_or_nothing() -> None:
    uplink = halted()
    events: list[Event] = []
    uplink.target.listen(events.append)
    uplink.reply(Manipulate.get_version().reply())
    reading = start(uplink.target.read_virtual(HERE, 1))
    uplink.reply(Manipulate.get_context().reply())
    short = Packet(PacketType.STATE_MANIPULATE, b"\x30\x31")
    uplink.conversation.packet_received(short)
    assert events == [OtherPacket(short)]
    uplink.answer_all(lambda request: request.reply(data=b"x", actual=1))
    assert result_of(reading) == b"x"


def test_a_reply_that_is_cut_short_fails_its_request() -> None:
    uplink = halted()
    version = start(uplink.target.version())
    uplink.conversation.packet_received(Packet(PacketType.STATE_MANIPULATE, uplink.asked.pop().encode()[:20]))
    with pytest.raises(Exception, match="20 bytes where 56 are needed"):
        result_of(version)


@pytest.mark.parametrize("packet_type", [1, 7, 3, 9, 10, 11])
@pytest.mark.parametrize("payload", [b"", b"\x30\x30\0\0", b"\xff" * 300])
def test_packets_that_cannot_be_read_raise_nothing(packet_type: int, payload: bytes) -> None:
    uplink = ScriptedUplink()
    events: list[Event] = []
    uplink.target.listen(events.append)
    uplink.conversation.packet_received(Packet(packet_type, payload))
    assert len(events) == 1


def test_a_processor_switch_that_is_refused() -> None:
    uplink = halted()
    switching = start(uplink.target.switch_processor(1))
    uplink.answer_all(lambda request: request.reply_unknown())
    with pytest.raises(RequestFailed, match="SwitchProcessor"):
        result_of(switching)


def test_a_request_that_nobody_answers_is_given_up_and_the_line_brought_in_step() -> None:
    uplink = halted()
    first = start(uplink.target.read_virtual(HERE, 1))
    uplink.clock.pump([1.0] * 10)
    uplink.answer_all(lambda request: request.reply(data=b"x", actual=1))
    assert result_of(first) == b"x"
    work = [start(uplink.target.read_virtual(HERE, 1)), start(uplink.target.version())]
    uplink.clock.pump([1.0] * 14)
    assert uplink.resyncs == 0
    uplink.clock.pump([1.0] * 16)
    assert uplink.resyncs == 1
    for each in work:
        with pytest.raises(RequestLost):
            result_of(each)
    last = start(uplink.target.read_virtual(HERE, 1))
    uplink.answer_all(lambda request: request.reply(data=b"y", actual=1))
    assert result_of(last) == b"y"
    uplink.clock.pump([1.0] * 60)
    assert (uplink.resyncs, uplink.clock.getDelayedCalls()) == (1, [])


def test_a_target_that_answers_slowly_is_waited_for() -> None:
    uplink = halted()
    reading = start(uplink.target.read_virtual(HERE, 100 * 3944))
    for _ in range(100):
        uplink.clock.pump([1.0] * 14)
        request = uplink.asked.pop(0)
        uplink.reply(request.reply(data=data_of(request), actual=3944))
    assert len(result_of(reading)) == 100 * 3944  # type: ignore[arg-type]
    assert uplink.resyncs == 0


# Memory


def test_a_target_that_does_not_tell_how_far_it_came() -> None:
    """It refuses whatever goes over an edge it cannot cross; the first unreadable page is found all the same."""
    uplink = halted()
    hole = HERE + 0x3000

    def answer(request: Manipulate) -> Manipulate:
        if request["address"] + request["transfer_count"] > hole:
            return request.reply(Status.UNSUCCESSFUL, actual=0)
        return request.reply(data=data_of(request), actual=request["transfer_count"])

    reading = start(uplink.target.read_virtual(HERE + 10, 0x8000))
    uplink.answer_all(answer)
    with pytest.raises(MemoryUnreadable) as error:
        result_of(reading)
    assert error.value.address == hole
    assert error.value.read == bytes((10 + offset) & 0xFF for offset in range(0x3000 - 10))


def test_a_read_fails_without_waiting_for_what_lies_behind_the_hole() -> None:
    uplink = halted()
    reading = start(uplink.target.read_virtual(HERE, 30 * 3944))
    assert len(uplink.asked) > 20
    for count in (3944, 0, 0):
        request = uplink.asked.pop(0)
        uplink.reply(request.reply(data=data_of(request, count), actual=count))
    first = next(request for request in uplink.asked if request["transfer_count"] < 3944)
    while uplink.asked[0] != first:
        request = uplink.asked.pop(0)
        uplink.reply(request.reply(data=data_of(request), actual=3944))
    assert not reading.called
    uplink.reply(uplink.asked.pop(0).reply(Status.UNSUCCESSFUL, actual=0))
    with pytest.raises(MemoryUnreadable) as error:
        result_of(reading)
    assert error.value.address == HERE + 3944


@given(st.integers(0, 9000), st.integers(0, 40000), st.lists(st.integers(1, 3944), min_size=1), st.booleans())
@settings(deadline=None)
def test_replies_of_any_length_make_a_whole(at: int, length: int, counts: list[int], honest: bool) -> None:
    uplink = halted()
    reading = start(uplink.target.read_virtual(HERE + at, length))
    turn = [0]

    def answer(request: Manipulate) -> Manipulate:
        turn[0] += 1
        count = min(counts[turn[0] % len(counts)], request["transfer_count"])
        return request.reply(data=data_of(request, count), actual=count if honest else 0xFFFFFFFF)

    uplink.answer_all(answer)
    assert result_of(reading) == bytes((at + offset) & 0xFF for offset in range(length))


def test_the_pace_follows_the_target() -> None:
    pace = Pace()
    for _ in range(1000):
        pace.answered(0.1)
    assert pace.limit == Pace.MOST
    for _ in range(1000):
        pace.answered(3.0)
    assert pace.limit == Pace.FEWEST


def test_addresses_wrap() -> None:
    uplink = halted()
    reading = start(uplink.target.read_virtual(0xFFFFFFFF_FFFFFFFE, 4))
    (request,) = uplink.answer_all(lambda request: request.reply(data=b"abcd", actual=4))
    assert (request["address"], result_of(reading)) == (0xFFFFFFFF_FFFFFFFE, b"abcd")


def test_nothing_is_given_up_while_the_server_is_away() -> None:
    uplink = halted()
    reading = start(uplink.target.read_virtual(HERE, 1))
    uplink.clock.advance(10)
    uplink.conversation.status_changed(ServerAway("no route", RunState.HALTED))
    uplink.clock.pump([1.0] * 100)
    later = start(uplink.target.read_virtual(HERE + 1, 1))
    uplink.clock.pump([1.0] * 20)
    uplink.conversation.status_changed(uplink.target.stop.summary)  # type: ignore[union-attr]
    uplink.clock.pump([1.0] * 14)
    assert uplink.resyncs == 0
    uplink.answer_all(lambda request: request.reply(data=data_of(request), actual=1))
    assert (result_of(reading), result_of(later)) == (b"\x00", b"\x01")
    lost = start(uplink.target.read_virtual(HERE, 1))
    uplink.clock.pump([1.0] * 30)
    with pytest.raises(RequestLost):
        result_of(lost)


class FullUplink(ScriptedUplink):
    """Has room for so many requests beside those that are asked."""

    room = 0

    def send_packet(self, packet_type: int, payload: bytes) -> None:
        if len(self.asked) >= self.room:
            raise PeerError(why="it asks without end")
        super().send_packet(packet_type, payload)


def test_a_request_for_which_there_is_no_room_fails_and_disturbs_no_other() -> None:
    uplink = FullUplink()
    uplink.stop(PC)
    with pytest.raises(TooManyRequests, match="await some of them first"):
        result_of(start(uplink.target.read_virtual(HERE, 1)))
    with pytest.raises(TooManyRequests):
        result_of(start(uplink.target.request(Manipulate.get_version())))
    uplink.room = 1
    first = start(uplink.target.read_virtual(HERE, 1))
    with pytest.raises(TooManyRequests):
        result_of(start(uplink.target.read_virtual(HERE, 1)))
    uplink.answer_all(lambda request: request.reply(data=data_of(request), actual=1))
    assert result_of(first) == b"\0"


def test_a_long_read_for_which_there_is_little_room_takes_what_there_is() -> None:
    uplink = FullUplink()
    uplink.room = 2
    uplink.stop(PC)
    reading = start(uplink.target.read_virtual(HERE, 20000))
    rounds = 0
    while not reading.called:
        assert 1 <= len(uplink.asked) <= 2
        request = uplink.asked.pop(0)
        uplink.reply(request.reply(data=data_of(request), actual=request["transfer_count"]))
        rounds += 1
    assert result_of(reading) == bytes(offset & 0xFF for offset in range(20000))
    assert rounds == 6


# Stops


def test_the_same_stop_twice_is_told_once() -> None:
    uplink = ScriptedUplink()
    events: list[Event] = []
    uplink.target.listen(events.append)
    uplink.stop(PC)
    uplink.stop(PC)
    assert len(events) == 1
    assert isinstance(events[0], Stopped)


def test_a_late_copy_of_a_stop_is_not_the_next_one() -> None:
    """A break-in has crossed the stop on the way, and makes the session say it again."""
    uplink = halted()
    uplink.conversation.break_in()
    uplink.target.send(Manipulate.continue_())
    waiting = start(uplink.target.wait_for_stop())
    uplink.stop(PC)
    assert not waiting.called
    uplink.conversation.status_changed(Running())
    uplink.stop(PC)
    assert result_of(waiting) is uplink.target.stop


def test_without_a_break_in_an_equal_stop_is_the_next_one() -> None:
    """That the target ran in between was said while the connection was broken, and is not said again."""
    uplink = halted()
    uplink.target.send(Manipulate.continue_())
    waiting = start(uplink.target.wait_for_stop())
    uplink.stop(PC)
    assert result_of(waiting) is uplink.target.stop


def test_a_break_in_makes_the_same_stop_count_again() -> None:
    uplink = halted()
    uplink.target.send(Manipulate.continue_())
    breaking = start(uplink.target.break_in())
    assert uplink.break_ins == 1
    uplink.stop(PC)
    assert result_of(breaking) is uplink.target.stop


def test_a_break_in_soon_after_attaching_waits_for_what_the_target_has_to_say() -> None:
    uplink = ScriptedUplink()
    breaking = start(uplink.target.break_in())
    uplink.clock.advance(0.9)
    assert uplink.break_ins == 0
    uplink.stop(PC)
    assert result_of(breaking) is uplink.target.stop
    late = ScriptedUplink()
    breaking = start(late.target.break_in(timeout=9))
    late.clock.advance(1.0)
    assert (late.break_ins, breaking.called) == (1, False)
    late.clock.advance(8.0)
    with pytest.raises(TookTooLong, match="breaking in took longer than 9 s"):
        result_of(breaking)


def test_prints_that_were_dropped_on_the_way_are_told() -> None:
    uplink = ScriptedUplink()
    events: list[Event] = []
    uplink.target.listen(events.append)
    uplink.conversation.prints_dropped(12)
    assert events == [EventsDropped(12)]


def test_a_module_that_comes_while_breaking_in_counts_as_the_stop() -> None:
    uplink = ScriptedUplink()
    uplink.target.continue_modules = True
    uplink.clock.advance(2)
    breaking = start(uplink.target.break_in())
    change = StateChange.load_symbols(b"a.sys", HERE, report=bytes(48))
    uplink.conversation.packet_received(Packet(PacketType.STATE_CHANGE64, change.encode()))
    assert result_of(breaking) is uplink.target.stop
    assert uplink.asked == []


# Machines


def test_x86_registers() -> None:
    uplink = halted(Machine.X86)
    context = x86.Context.build(context_flags=x86.CONTEXT_CONTROL, eip=0x80501234)
    special = x86.SpecialRegisters.build(cr3=0x39000)

    def answer(request: Manipulate) -> Manipulate:
        if request.api == Api.GET_CONTEXT:
            return request.reply(data=context.raw)
        if request.api == Api.READ_CONTROL_SPACE:
            return request.reply(data=special.raw, actual=84)
        return request.reply_unknown()

    reading, special_reading = start(uplink.target.context()), start(uplink.target.special_registers())
    asked = uplink.answer_all(answer)
    assert result_of(reading) == context
    assert result_of(special_reading) == special
    assert [request["address"] for request in asked if request.api == Api.READ_CONTROL_SPACE] == [0x2CC]
    with pytest.raises(TypeError, match="x86 context, not a AMD64 context"):
        result_of(start(uplink.target.set_context(amd64.Context.build())))


def test_x86_steps_and_breakpoints() -> None:
    uplink = ScriptedUplink(Machine.X86)
    report = x86.ControlReport.build(instruction_count=16, dr7=0x402)
    uplink.stop(0xFFFFFFFF_80501234, report=report)
    setting = start(uplink.target.set_breakpoint(0x80501234))
    asked = uplink.answer_all(lambda request: request.reply(handle=3))
    assert asked[-1]["address"] == 0xFFFFFFFF_80501234
    assert result_of(setting).handle == 3  # type: ignore[attr-defined]
    stepping = start(uplink.target.step())
    (request,) = uplink.answer_all(lambda request: None)
    assert (request.api, request["trace_flag"], request["dr7_x86"]) == (Api.CONTINUE2, 1, 0x402)
    uplink.stop(0xFFFFFFFF_80501235, Status.SINGLE_STEP, report=report)
    assert result_of(stepping) is uplink.target.stop


def test_the_debug_register_is_the_programs_until_the_next_stop() -> None:
    uplink = halted()
    context = amd64.Context.build(context_flags=amd64.CONTEXT_DEBUG_REGISTERS, dr7=0x455)
    setting = start(uplink.target.set_context(context))
    uplink.answer_all(lambda request: request.reply())
    result_of(setting)
    registers = []
    for pc in (PC + 1, PC + 2):
        stepping = start(uplink.target.step())
        (request,) = uplink.answer_all(lambda request: None)
        registers.append(request["dr7"])
        uplink.stop(pc, Status.SINGLE_STEP)
        result_of(stepping)
    assert registers == [0x455, 0x400]


def test_a_stop_that_is_said_again_takes_no_breakpoint_out() -> None:
    uplink = halted()
    setting = start(uplink.target.set_breakpoint(PC + 4))
    uplink.answer_all(lambda request: request.reply(handle=1))
    result_of(setting)
    uplink.stop(PC)
    continuing = start(uplink.target.continue_())
    (request,) = uplink.answer_all(lambda request: None)
    result_of(continuing)
    assert request.api == Api.CONTINUE2


def test_machines_that_are_not_known_can_still_be_continued() -> None:
    uplink = halted(Machine.ARM64)
    for work in (uplink.target.context(), uplink.target.step()):
        waiting = start(work)
        uplink.answer_all(lambda request: None)
        with pytest.raises(SetupError, match="not supported"):
            result_of(waiting)
    continuing = start(uplink.target.continue_())
    (request,) = uplink.answer_all(lambda request: None)
    result_of(continuing)
    assert (request.api, uplink.target.run_state) == (Api.CONTINUE, RunState.RUNNING)


def test_a_breakpoint_instruction_of_the_targets_own_is_passed_over() -> None:
    uplink = ScriptedUplink()
    report = amd64.ControlReport.build(instruction_count=16, dr7=0x400, instruction_stream=b"\xcc" * 16)
    uplink.stop(PC, report=report)
    context = amd64.Context.build(rip=PC, rsp=HERE, context_flags=0x10001F)
    continuing = start(uplink.target.continue_())
    asked = uplink.answer_all(lambda request: None if request.api == Api.CONTINUE2 else request.reply(data=context.raw))
    result_of(continuing)
    (setting,) = [request for request in asked if request.api == Api.SET_CONTEXT_EX]
    given_context = amd64.Context.from_bytes(setting.data)
    assert (given_context["rip"], given_context["rsp"]) == (PC + 1, HERE)
    assert given_context["context_flags"] == amd64.CONTEXT_CONTROL
    assert asked[-1].api == Api.CONTINUE2


def test_the_stop_value() -> None:
    uplink = ScriptedUplink()
    uplink.conversation.packet_received(Packet(PacketType.STATE_CHANGE32, bytes(300)))
    stop = uplink.target.stop
    assert stop is not None
    assert (stop.change, stop.is_module, stop.is_reboot) == (None, False, False)
    assert str(stop) == "halted: command of a kind that kdsrv cannot read"
    uplink.conversation.packet_received(stop_at(PC))
    assert uplink.target.stop is not None
    assert uplink.target.stop.program_counter == PC
