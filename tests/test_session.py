from __future__ import annotations

import pytest
from session_bench import RESET, LineBench, SimBench, stop_payload

from kdsrv.errors import LinkLost, PeerError
from kdsrv.kd.api import Api
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.link import GaveUp
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import BREAK_IN, INITIAL_ID, SYNC, Packet, PacketType, encode_control, encode_data
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.sessions.session import Session
from kdsrv.sessions.status import (
    BreakingIn,
    Halted,
    HaltReason,
    Interrupted,
    Lost,
    Noise,
    Quiet,
    Rebooting,
    Running,
    RunState,
)
from kdsrv.sessions.stop import describe_stop
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import TargetState

A, B = INITIAL_ID, INITIAL_ID | 1
RESEND = encode_control(PacketType.RESEND)


def ack(packet_id: int) -> bytes:
    return encode_control(PacketType.ACKNOWLEDGE, packet_id)


def stop(packet_id: int, address: int = 0x1000) -> bytes:
    return encode_data(PacketType.STATE_CHANGE64, packet_id, stop_payload(address))


def read(address: int) -> Manipulate:
    return Manipulate.read_virtual(address, 8)


def reply(packet_id: int, request: Manipulate) -> bytes:
    return encode_data(PacketType.STATE_MANIPULATE, packet_id, request.reply(data=b"8 bytes.").encode())


def text(packet_id: int, line: bytes) -> bytes:
    return encode_data(PacketType.DEBUG_IO, packet_id, DebugIo.print_string(line).encode())


@pytest.fixture
def bench() -> LineBench:
    return LineBench()


@pytest.fixture
def halted(bench: LineBench) -> LineBench:
    bench.halt()
    return bench


# Opening


def test_opening_sends_one_reset_and_no_break_in(bench: LineBench) -> None:
    assert bench.line.take() == RESET
    assert bench.session.run_state is RunState.UNKNOWN


def test_a_halted_target_is_found_and_its_stop_given() -> None:
    bench = SimBench()
    bench.wait(0.1)
    assert [change["exception_code"] for change in bench.user.stops] == [0x80000003]
    assert bench.session.run_state is RunState.HALTED
    status = bench.session.status
    assert isinstance(status, Halted)
    assert status.reason is HaltReason.BREAKPOINT
    assert bench.user.events[0] == status
    bench.close()


def test_a_running_target_is_left_running() -> None:
    bench = SimBench(SimOptions(state="running"))
    bench.wait(60)
    assert bench.user.packets == []
    assert bench.target.state is TargetState.RUNNING
    assert bench.session.run_state is RunState.UNKNOWN
    assert bench.session.status == Quiet(60)
    bench.close()


@pytest.mark.parametrize("attached_for", [0.1, 0.6, 1.7, 5.0])
def test_a_running_target_breaks_in_at_once_whenever_it_is_asked(attached_for: float) -> None:
    """Another debugger has let it run. Its stop comes under ids that nobody has agreed on since, and until it has
    answered a RESET nothing can be asked of it."""
    bench = SimBench(SimOptions(state="halted"))
    bench.wait(0.1)
    bench.step_over_break()
    bench.ask(Manipulate.continue2())
    bench.wait(0.1)
    assert bench.target.state is TargetState.RUNNING
    bench.session.close()
    bench.open()
    bench.wait(attached_for)
    bench.session.break_in()
    bench.wait(0.3)
    assert bench.session.run_state is RunState.HALTED
    bench.ask(Manipulate.get_version())
    bench.wait(0.1)
    assert Manipulate.decode(bench.user.packets[-1].payload).succeeded
    bench.close()


def test_a_target_that_prints_is_known_to_run() -> None:
    bench = SimBench(SimOptions(state="running"))
    bench.wait(5)
    bench.target.print("hello\n", bench.clock.seconds())
    bench.live.flush()
    bench.wait(2)
    assert [DebugIo.decode(packet.payload).text for packet in bench.user.packets] == [b"hello\n"]
    assert bench.session.run_state is RunState.RUNNING
    assert bench.session.status == Running()
    bench.close()


def test_a_visitor_leaves_a_halted_target_to_the_next() -> None:
    bench = SimBench()
    bench.wait(1)
    bench.ask(read(KERNEL_BASE))
    bench.session.close()
    bench.open()
    bench.wait(5)
    assert len(bench.user.stops) == 1
    assert bench.user.replies == []
    bench.close()


# Requests


def test_a_hundred_requests_at_once_are_answered_in_order() -> None:
    bench = SimBench()
    bench.wait(1)
    addresses = [KERNEL_BASE + 8 * n for n in range(100)]
    for address in addresses:
        bench.ask(read(address))
    assert len(bench.target.log) == 1
    bench.wait(1)
    replies = bench.user.replies
    assert [answer["address"] for answer in replies] == addresses
    assert all(a.data == bench.target.memory.read_virtual(a["address"], 8) for a in replies)
    assert bench.user.lost == 0
    bench.close()


def test_a_request_goes_out_after_the_reply_to_the_last(halted: LineBench) -> None:
    for address in (1, 2):
        halted.ask(read(address))
    assert halted.asked() == [1]
    halted.hear(ack(A))
    assert halted.asked() == []
    halted.hear(reply(B, read(1)))
    assert halted.asked() == [2]
    assert [answer["address"] for answer in halted.user.replies] == [1]


def test_requests_wait_while_the_target_runs(halted: LineBench) -> None:
    halted.ask(Manipulate.continue2())
    halted.hear(ack(A))
    halted.forget()
    halted.ask(read(1))
    halted.wait(30)
    assert halted.line.take() == b""
    halted.hear(stop(B, 0x2000))
    assert halted.asked() == [1]
    assert halted.user.lost == 0


def test_requests_wait_for_the_stop_that_follows_a_reset(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.session.resync()
    halted.ask(read(2))
    halted.hear(RESET)
    assert halted.asked() == [1]
    halted.hear(stop(A))
    assert halted.asked() == [2]
    assert halted.user.lost == 0


@pytest.mark.parametrize("size", [0, 3, 4001])
@pytest.mark.parametrize("packet_type", [PacketType.STATE_MANIPULATE, PacketType.FILE_IO])
def test_what_no_link_carries_is_refused(size: int, packet_type: PacketType, halted: LineBench) -> None:
    if packet_type == PacketType.FILE_IO and size < 4000:
        return
    with pytest.raises(PeerError):
        halted.session.send_packet(packet_type, bytes(size))
    assert halted.line.take() == b""


def test_packets_of_other_types_go_nowhere(halted: LineBench) -> None:
    halted.session.send_packet(PacketType.STATE_CHANGE64, bytes(240))
    assert halted.line.take() == b""


def test_a_short_reply_is_nobodys(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.hear(ack(A), encode_data(PacketType.STATE_MANIPULATE, B, b"\x30\x31"))
    assert halted.user.replies == []
    assert halted.session.orphans == 1
    halted.hear(reply(A, read(1)))
    assert len(halted.user.replies) == 1


def test_a_reply_to_another_request_is_nobodys(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.hear(ack(A), reply(B, Manipulate.get_version()))
    assert halted.user.replies == []
    assert halted.session.orphans == 1


def test_an_orphan_reply_after_a_reset_is_dropped() -> None:
    """C45."""
    bench = LineBench()
    bench.line.take()
    bench.hear(RESET, reply(A, read(1)))
    assert bench.line.take() == ack(A) + RESET
    bench.hear(RESET, stop(A))
    assert bench.user.replies == []
    assert len(bench.user.stops) == 1


# Continue


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Manipulate.continue_(), Running()),
        (Manipulate.continue2(), Running()),
        (Manipulate.cause_bug_check(1), Running()),
        (Manipulate.reboot(), Rebooting()),
    ],
    ids=lambda value: value.name if isinstance(value, Manipulate) else "",
)
def test_an_acknowledged_continue_runs_the_target(request_: Manipulate, status: object, halted: LineBench) -> None:
    halted.ask(request_)
    assert halted.session.run_state is RunState.HALTED
    halted.hear(ack(A))
    assert halted.session.run_state is RunState.RUNNING
    assert halted.user.events == [status]
    assert halted.session.stop is None


def test_a_breakpoint_hit_at_once(halted: LineBench) -> None:
    halted.ask(Manipulate.continue2())
    halted.hear(ack(A) + stop(B, 0x2000))
    assert halted.session.run_state is RunState.HALTED
    assert halted.user.lost == 0
    assert [change.program_counter for change in halted.user.stops] == [0x2000]
    assert [type(event) for event in halted.user.events] == [Running, Halted, Packet]


def test_the_stop_comes_though_the_ack_of_continue_got_lost(halted: LineBench) -> None:
    halted.ask(Manipulate.continue2())
    halted.hear(stop(B, 0x2000))
    assert halted.session.run_state is RunState.HALTED
    halted.ask(read(1))
    halted.forget()
    halted.wait(0.6)
    assert [packet.id for packet in halted.said()] == [A]
    halted.hear(ack(A))
    assert halted.session.run_state is RunState.HALTED
    assert halted.asked() == [1]
    halted.hear(ack(B), reply(A, read(1)))
    assert len(halted.user.replies) == 1
    assert halted.user.lost == 0


def test_a_continue_that_is_never_acknowledged_may_have_been_taken(halted: LineBench) -> None:
    """The target runs and throws away what it is sent: that is not a lost line."""
    halted.ask(Manipulate.continue2())
    halted.wait(30)
    assert halted.session.run_state is RunState.UNKNOWN
    assert isinstance(halted.session.status, Quiet)
    assert not any(isinstance(event, Lost) for event in halted.user.events)
    assert halted.user.lost == 0


def test_a_continue_that_got_lost_shows_by_the_answer_to_a_reset(halted: LineBench) -> None:
    halted.ask(Manipulate.continue2())
    while RESET not in halted.line.take():
        halted.wait(0.1)
    halted.hear(RESET, stop(A))
    assert halted.session.run_state is RunState.HALTED


def test_requests_without_a_reply_let_the_next_go(halted: LineBench) -> None:
    halted.ask(Manipulate.clear_all_internal_breakpoints())
    halted.ask(read(1))
    halted.line.take()
    halted.hear(ack(A))
    assert halted.asked() == [1]
    assert halted.session.run_state is RunState.HALTED


# Switching the processor


def test_the_stop_is_the_answer_to_a_switch() -> None:
    bench = SimBench()
    bench.wait(1)
    bench.user.events.clear()
    bench.ask(Manipulate.switch_processor(1))
    bench.ask(read(KERNEL_BASE))
    bench.wait(1)
    assert [change.processor for change in bench.user.stops] == [1]
    assert len(bench.user.replies) == 1
    assert bench.user.lost == 0
    assert bench.session.status.sentence() == "halted: switched to processor 1"
    bench.close()


def test_a_switch_to_no_processor_gets_a_reply() -> None:
    bench = SimBench()
    bench.wait(1)
    bench.user.events.clear()
    bench.ask(Manipulate.switch_processor(9))
    bench.ask(read(KERNEL_BASE))
    bench.wait(1)
    refused, answer = bench.user.replies
    assert refused.kind == Api.SWITCH_PROCESSOR
    assert not refused.succeeded
    assert answer["address"] == KERNEL_BASE
    bench.close()


# Lost requests


def test_a_stop_in_place_of_a_reply_loses_the_request(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.ask(read(2))
    halted.hear(ack(A), stop(B, 0x2000))
    assert next(event for event in halted.user.events if isinstance(event, int | Packet)) == 1
    halted.hear(ack(B), reply(A, read(2)))
    assert [answer["address"] for answer in halted.user.replies] == [2]
    assert halted.user.lost == 1


def test_a_request_that_crosses_a_stop_keeps_its_reply(halted: LineBench) -> None:
    """A target that says its stop again takes a request for the ACK of it, and has to be sent it again."""
    halted.ask(read(1))
    halted.ask(read(2))
    halted.hear(RESEND, stop(B))
    halted.hear(ack(A), reply(A, read(1)), ack(B), reply(B, read(2)))
    assert [answer["address"] for answer in halted.user.replies] == [1, 2]
    assert halted.user.lost == 0


def test_a_target_that_does_not_acknowledge_loses_all_requests(halted: LineBench) -> None:
    for request in (read(1), read(2), Manipulate.continue2()):
        halted.ask(request)
    halted.wait(20)
    assert halted.user.lost == 2
    assert halted.session.run_state is RunState.UNKNOWN
    assert isinstance(halted.session.status, Lost)


def test_a_reset_of_the_target_loses_the_request_in_flight(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.hear(ack(A))
    halted.wait(10)
    halted.hear(RESET, stop(A, 0x2000))
    assert halted.user.lost == 1
    assert [change.program_counter for change in halted.user.stops] == [0x2000]


def test_requests_wait_for_the_stop_after_a_reset_of_the_target(halted: LineBench) -> None:
    halted.ask(Manipulate.clear_all_internal_breakpoints())
    halted.hear(ack(A))
    halted.wait(10)
    halted.line.take()
    halted.hear(RESET)
    assert halted.session.run_state is RunState.UNKNOWN
    halted.ask(read(1))
    assert halted.line.take() == RESET
    halted.hear(stop(A))
    assert halted.asked() == [1]


def test_a_boot_loses_the_request_in_flight(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.hear(stop(A | SYNC, 0x2000))
    assert halted.user.lost == 1
    assert halted.session.run_state is RunState.HALTED
    halted.line.take()
    halted.ask(read(2))
    assert [packet.id for packet in halted.said()] == [A]


# Resync


def test_resync_of_a_halted_idle_target_does_not_touch_it(halted: LineBench) -> None:
    halted.session.resync()
    assert halted.line.take() == b""
    word, packet = halted.user.events
    assert word == "resynced"
    assert packet == halted.session.stop


def test_resync_of_a_busy_target_resets_it_and_forgets_all(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.ask(read(2))
    halted.line.take()
    halted.session.resync()
    assert halted.line.take() == RESET
    assert halted.user.events == ["resynced"]
    halted.hear(RESET, reply(A, read(1)), RESET, stop(A))
    assert halted.user.replies == []
    assert len(halted.user.stops) == 1
    assert halted.user.lost == 0


def test_resync_of_a_running_target_does_not_touch_it(halted: LineBench) -> None:
    halted.ask(Manipulate.continue2())
    halted.hear(ack(A))
    halted.forget()
    halted.ask(read(1))
    halted.session.resync()
    assert halted.line.take() == b""
    assert halted.user.events == ["resynced"]
    halted.hear(stop(B))
    assert halted.asked() == []


def test_resync_when_nothing_is_known_knocks(bench: LineBench) -> None:
    bench.wait(10)
    bench.forget()
    bench.session.resync()
    assert bench.line.take() == RESET
    assert bench.user.events == ["resynced"]


def test_resync_during_a_reset_sends_no_other(bench: LineBench) -> None:
    assert bench.line.take() == RESET
    bench.session.resync()
    bench.session.resync()
    assert bench.line.take() == b""
    assert bench.user.events == ["resynced", "resynced"]


def test_resync_of_a_busy_target_that_left_unseen_makes_it_unknown(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.hear(ack(A))
    halted.session.resync()
    halted.wait(10)
    assert halted.session.run_state is RunState.UNKNOWN
    halted.forget()
    halted.session.break_in()
    assert halted.line.take() == BREAK_IN


# Break-in


def test_break_in_of_a_halted_target_gives_the_stop(halted: LineBench) -> None:
    halted.session.break_in()
    assert halted.line.take() == b""
    assert halted.user.packets == [halted.session.stop]


def test_break_in_of_a_running_target_is_one_byte_however_often_pressed(halted: LineBench) -> None:
    halted.ask(Manipulate.continue2())
    halted.hear(ack(A))
    halted.forget()
    for _ in range(3):
        halted.session.break_in()
    assert halted.line.take() == BREAK_IN
    halted.hear(stop(B))
    assert halted.session.run_state is RunState.HALTED
    halted.line.take()
    halted.wait(30)
    assert BREAK_IN not in halted.line.take()


def test_break_in_when_nothing_is_known(bench: LineBench) -> None:
    bench.wait(10)
    bench.line.take()
    bench.session.break_in()
    assert bench.line.take() == BREAK_IN


def test_break_in_halts_a_running_simulated_target() -> None:
    bench = SimBench(SimOptions(state="running"))
    bench.wait(10)
    bench.session.break_in()
    bench.wait(1)
    assert bench.session.run_state is RunState.HALTED
    bench.ask(read(KERNEL_BASE))
    bench.wait(1)
    assert len(bench.user.replies) == 1
    bench.close()


def test_break_in_waits_for_the_replies_of_a_halted_target(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.forget()
    halted.session.break_in()
    assert halted.line.take() == b""
    assert halted.user.events == []


def test_break_in_right_after_continue_halts_again() -> None:
    bench = SimBench()
    bench.wait(1)
    bench.user.events.clear()
    bench.step_over_break()
    bench.ask(Manipulate.continue2())
    bench.session.break_in()
    bench.wait(1)
    assert len(bench.user.stops) == 1
    assert bench.session.run_state is RunState.HALTED
    bench.close()


def test_a_continued_target_runs_until_it_is_broken_into() -> None:
    bench = SimBench()
    bench.wait(1)
    bench.step_over_break()
    bench.ask(Manipulate.continue2())
    bench.wait(10)
    assert bench.target.state is TargetState.RUNNING
    assert bench.session.run_state is RunState.RUNNING
    bench.session.break_in()
    bench.wait(1)
    assert len(bench.user.stops) == 2
    assert bench.session.run_state is RunState.HALTED
    bench.close()


def test_break_in_goes_behind_a_continue_that_waits(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.ask(Manipulate.continue2())
    halted.line.take()
    halted.session.break_in()
    assert halted.line.take() == b""
    halted.hear(ack(A), reply(B, read(1)))
    assert halted.line.take().endswith(BREAK_IN)


def test_break_in_with_a_lost_ack_of_continue(halted: LineBench) -> None:
    halted.ask(Manipulate.continue2())
    halted.line.take()
    halted.session.break_in()
    assert halted.line.take() == BREAK_IN


def test_break_in_resets_a_target_that_owes_a_reply_for_long(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.hear(ack(A))
    halted.wait(5)
    halted.line.take()
    halted.session.break_in()
    assert halted.line.take() == RESET + BREAK_IN
    assert halted.user.lost == 1


# Prompts and files


def test_answers_go_only_to_questions() -> None:
    bench = SimBench(SimOptions(state="running"))
    prompt = DebugIo.get_string(b"Break or ignore? ", 16)
    bench.session.send_packet(PacketType.DEBUG_IO, prompt.answer(b"b").encode())
    bench.wait(5)
    assert bench.target.state is TargetState.RUNNING
    bench.target.prompt("Break or ignore? ", bench.clock.seconds(), most=16)
    bench.live.flush()
    bench.wait(2)
    assert bench.session.run_state is RunState.RUNNING
    (asked,) = bench.user.packets
    for _ in range(2):
        bench.session.send_packet(PacketType.DEBUG_IO, DebugIo.decode(asked.payload).answer(b"i").encode())
    bench.wait(30)
    assert [DebugIo.decode(packet.payload).answer_text for packet in bench.target.answers] == [b"i"]
    assert bench.target.state is TargetState.RUNNING
    assert bench.session.status == Running()
    bench.close()


def test_a_file_request_is_answered_after_its_answer_got_lost() -> None:
    bench = SimBench(SimOptions(state="running"))
    bench.wait(5)
    bench.target.request_file("ntoskrnl.exe", bench.clock.seconds())
    bench.live.flush()
    bench.wait(1)
    asked = bench.user.packets[-1]
    assert asked.type == PacketType.FILE_IO
    bench.session.transport.close()
    refusal = FileIo.decode(asked.payload).refusal().encode()
    bench.session.send_packet(PacketType.FILE_IO, refusal)
    bench.wait(20)
    assert isinstance(bench.session.status, Lost)
    bench.session.close()
    bench.open()
    bench.wait(10)
    assert bench.user.packets[-1].type == PacketType.FILE_IO
    bench.session.send_packet(PacketType.FILE_IO, refusal)
    bench.wait(1)
    assert [FileIo.decode(packet.payload).status for packet in bench.target.answers] == [NtStatus.NO_SUCH_FILE]
    bench.close()


# Statuses over time


def test_quiet_counts_from_the_last_byte(bench: LineBench) -> None:
    bench.wait(10)
    assert bench.session.status == Quiet(10)
    bench.hear(RESET)
    bench.wait(4.5)
    assert bench.session.status == Quiet(4)


def test_bytes_that_are_no_packets(bench: LineBench) -> None:
    bench.hear(bytes(range(0x80, 0xFF)))
    bench.wait(2)
    assert isinstance(bench.session.status, Noise)
    assert "wrong baud rate" in bench.session.status.sentence()


def test_breaking_in_counts_seconds_and_the_bytes_since(bench: LineBench) -> None:
    bench.hear(bytes(range(0x80, 0xC0)))
    bench.wait(10)
    bench.session.break_in()
    bench.wait(3.5)
    assert bench.session.status == BreakingIn(3, 0)
    bench.hear(b"\xff" * 5)
    bench.wait(1)
    assert bench.session.status == BreakingIn(4, 5)
    bench.session.close()
    assert bench.clock.getDelayedCalls() == []


def test_a_paused_machine_is_found_again() -> None:
    bench = SimBench()
    bench.wait(1)
    feed = bench.live.feed
    bench.live.feed = lambda data: None  # type: ignore[method-assign]
    bench.ask(read(KERNEL_BASE))
    bench.wait(30)
    assert isinstance(bench.session.status, Lost)
    bench.live.feed = feed  # type: ignore[method-assign]
    bench.wait(10)
    assert bench.session.run_state is RunState.HALTED
    bench.user.events.clear()
    bench.ask(read(KERNEL_BASE))
    bench.wait(1)
    assert len(bench.user.replies) == 1
    bench.close()


# The transport


def test_an_interrupted_line_loses_requests_and_comes_back(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.session.transport_interrupted("the VM is off")
    assert halted.user.events == [1, Interrupted("the VM is off")]
    halted.line.take()
    halted.session.break_in()
    halted.ask(read(2))
    halted.wait(60)
    assert halted.line.take() == b""
    assert halted.session.status == Interrupted("the VM is off")
    assert halted.user.lost == 1
    halted.session.transport_resumed()
    assert RESET in halted.line.take()
    assert halted.session.status == Quiet(0.0)
    halted.hear(RESET, stop(A))
    assert halted.asked() == [2]


def test_a_line_that_comes_back_is_quiet_from_then_on(halted: LineBench) -> None:
    halted.session.transport_interrupted("the VM is off")
    halted.wait(100)
    halted.session.transport_resumed()
    halted.wait(10)
    assert halted.session.status == Quiet(10)


def test_a_lost_line_ends_the_session(halted: LineBench) -> None:
    reason = LinkLost(target="COM1", why="unplugged")
    halted.session.transport_lost(reason)
    assert halted.user.events == [Lost("unplugged"), reason]
    assert halted.line.closed
    halted.session.send_packet(PacketType.STATE_MANIPULATE, read(1).encode())
    assert halted.clock.getDelayedCalls() == []


def test_close_is_silent_and_leaves_nothing_in_the_clock(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.session.close()
    halted.session.close()
    halted.hear(ack(A), reply(B, read(1)))
    halted.session.break_in()
    halted.session.resync()
    assert halted.user.events == []
    assert halted.line.closed
    assert halted.clock.getDelayedCalls() == []


def test_a_closed_session_may_be_called_and_does_nothing(bench: LineBench) -> None:
    bench.wait(10)
    bench.session.close()
    bench.line.take()
    bench.session.resync()
    bench.session.break_in()
    assert bench.line.take() == b""
    assert bench.clock.getDelayedCalls() == []


def test_a_user_may_close_from_within_a_call(halted: LineBench) -> None:
    session = halted.session

    class Leaving:
        def status_changed(self, status: object) -> None:
            session.close()

        def packet_received(self, packet: Packet) -> None:
            raise AssertionError("no call follows a close")

    session.user = Leaving()  # type: ignore[assignment]
    halted.hear(stop(B, 0x2000))
    assert halted.clock.getDelayedCalls() == []


# What a stop says


@pytest.mark.parametrize("payload", [b"", bytes(240), bytes(100), b"\x34" + bytes(239)])
def test_a_stop_that_cannot_be_read_is_said_to_be_one(payload: bytes) -> None:
    assert "cannot read" in describe_stop(Packet(PacketType.STATE_CHANGE64, payload)).sentence()


def test_a_stop_of_the_old_form_is_not_read_as_one_of_the_new() -> None:
    assert "cannot read" in describe_stop(Packet(PacketType.STATE_CHANGE32, stop_payload(1))).sentence()


def test_gave_up_of_a_reset_is_no_loss(bench: LineBench) -> None:
    session: Session = bench.session
    session._on_event(GaveUp(PacketType.RESET, "no answer"))
    assert bench.user.events == []
