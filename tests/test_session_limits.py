"""What a session does about targets that start anew unseen, do not answer, or print faster than anybody reads; and
requests on a medium that is too narrow for them."""

from __future__ import annotations

import pytest
from session_bench import RESET, LineBench, Observer, SimBench, User, stop_payload

from kdsrv.kd.api import Api
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import BREAK_IN, INITIAL_ID, SYNC, Packet, PacketType, encode_control, encode_data
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.sessions.read_only_session import ReadOnlySession
from kdsrv.sessions.status import Halted, Lost, Running, RunState
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.target import TargetState

A, B = INITIAL_ID, INITIAL_ID | 1


def ack(packet_id: int) -> bytes:
    return encode_control(PacketType.ACKNOWLEDGE, packet_id)


def stop(packet_id: int, address: int = 0x1000) -> bytes:
    return encode_data(PacketType.STATE_CHANGE64, packet_id, stop_payload(address))


def text(packet_id: int, line: bytes = b"a line\n") -> bytes:
    return encode_data(PacketType.DEBUG_IO, packet_id, DebugIo.print_string(line).encode())


def read(address: int, size: int = 8) -> Manipulate:
    return Manipulate.read_virtual(address, size)


def manipulate(packet_id: int, reply: Manipulate) -> bytes:
    return encode_data(PacketType.STATE_MANIPULATE, packet_id, reply.encode())


@pytest.fixture
def halted() -> LineBench:
    bench = LineBench()
    bench.halt()
    return bench


# A target that starts anew


def test_a_machine_that_is_switched_off_while_halted_is_seen_to_run_by_its_first_print(halted: LineBench) -> None:
    halted.hear(text(A | SYNC))
    assert halted.session.run_state is RunState.RUNNING
    assert halted.session.stop is None
    assert halted.session.status == Running()
    halted.line.take()
    halted.session.break_in()
    assert halted.line.take() == BREAK_IN


def test_who_may_only_look_does_not_hold_up_a_machine_that_starts_anew() -> None:
    bench = SimBench()
    bench.session.close()
    user = User()
    session = ReadOnlySession(
        bench.clock, "sim", bench.session.transport, bench.session.link, bench.session.lease
    )  # only its rules are looked at
    session.user = user
    one, other = (Packet(PacketType.STATE_CHANGE64, stop_payload(address)) for address in (1, 2))
    session._on_stop(one)
    session._forget_stop()
    session._on_stop(one)
    assert not session._is_new_stop
    session._forget_stop()
    session._on_stop(other)
    assert session._is_new_stop
    session.close()
    bench.live.stop()


# A target that does not answer


def test_a_request_that_is_not_answered_is_lost_and_the_next_goes_on(halted: LineBench) -> None:
    for address in (1, 2):
        halted.ask(read(address))
    halted.hear(ack(A))
    halted.line.take()
    halted.wait(9.9)
    assert halted.user.lost == 0
    assert halted.line.take() == b""
    halted.wait(0.2)
    assert halted.user.lost == 1
    assert halted.line.take() == RESET
    halted.hear(RESET, stop(A))
    assert halted.asked() == [2]
    assert halted.session.status == Halted(0, halted.session.status.reason, 0x80000003, 0x1000)  # type: ignore[attr-defined]
    assert halted.user.lost == 1


def test_a_target_that_answers_nothing_at_all_is_lost_with_all_requests(halted: LineBench) -> None:
    for address in (1, 2):
        halted.ask(read(address))
    halted.hear(ack(A))
    halted.wait(20)
    assert halted.user.lost == 2
    assert halted.session.status == Lost("ReadVirtualMemory was not answered in 10 s")
    halted.line.take()
    halted.wait(20)
    assert RESET in halted.line.take()
    halted.hear(RESET, stop(A))
    assert isinstance(halted.session.status, Halted)


def test_each_byte_of_the_target_gives_it_more_time(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.hear(ack(A))
    for _ in range(5):
        halted.wait(8)
        halted.hear(text(B))
    assert halted.user.lost == 0
    halted.wait(10.1)
    assert halted.user.lost == 1


def test_the_time_runs_from_each_request(halted: LineBench) -> None:
    ids = [A, B]
    for address in range(1, 9):
        halted.ask(read(address))
        halted.hear(ack(ids[0]))
        halted.wait(6)
        halted.hear(manipulate(ids[1], read(address).reply()))
        ids.reverse()
    assert halted.user.lost == 0
    halted.wait(60)
    assert len(halted.user.replies) == 8
    assert halted.session.run_state is RunState.HALTED


def test_a_target_that_was_not_asked_for_long_has_its_time_too(halted: LineBench) -> None:
    halted.wait(100)
    halted.ask(read(1))
    halted.hear(ack(A))
    halted.wait(9.9)
    assert halted.user.lost == 0
    halted.wait(0.2)
    assert halted.user.lost == 1


@pytest.mark.parametrize(
    ("request_", "limit"),
    [
        (Manipulate.search_memory(0, 40 << 20, b"MZ"), 20),
        (Manipulate.fill_memory(0, 40 << 20, b"\0"), 20),
        (Manipulate.search_memory(0, 1 << 63, b"MZ"), 610),
        (read(0, 40 << 20), 10),
    ],
)
def test_a_search_may_take_its_time(request_: Manipulate, limit: float, halted: LineBench) -> None:
    halted.ask(request_)
    halted.hear(ack(A))
    halted.wait(limit - 0.1)
    assert halted.user.lost == 0
    halted.wait(0.2)
    assert halted.user.lost == 1


def test_a_slow_line_has_time_for_both_packets() -> None:
    bench = LineBench()
    bench.line.byte_time = 0.001
    bench.halt()
    bench.ask(read(1))
    bench.hear(ack(A))
    bench.wait(14)
    assert bench.user.lost == 0
    bench.wait(0.1)
    assert bench.user.lost == 1


def test_a_continue_is_waited_for_as_long_as_the_target_runs(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.hear(ack(A), manipulate(B, read(1).reply()))
    halted.ask(Manipulate.continue2())
    halted.hear(ack(B))
    halted.wait(1000)
    assert halted.session.status == Running()


# Breakpoints with a continue status


def test_a_target_runs_after_breakpoints_that_say_so(halted: LineBench) -> None:
    request = Manipulate.write_breakpoints([0x1000])
    halted.ask(request)
    halted.ask(read(1))
    halted.session.break_in()
    halted.line.take()
    halted.hear(ack(A))
    assert halted.session.stop is not None
    halted.hear(manipulate(B, request.reply()))
    assert halted.session.status == Running()
    assert halted.session.stop is None
    assert len(halted.user.replies) == 1
    assert halted.line.take() == ack(B) + BREAK_IN
    halted.hear(stop(A))
    assert halted.asked() == [1]


def test_a_target_stands_after_breakpoints_that_say_nothing(halted: LineBench) -> None:
    request = Manipulate.restore_breakpoints([1], status=0)
    halted.ask(request)
    halted.ask(read(1))
    halted.line.take()
    halted.hear(ack(A), manipulate(B, request.reply()))
    assert halted.asked() == [1]


@pytest.mark.parametrize(
    ("continue_status", "status"),
    [(NtStatus.DBG_CONTINUE, NtStatus.UNSUCCESSFUL), (NtStatus.UNSUCCESSFUL, NtStatus.SUCCESS)],
)
def test_where_it_is_not_sure_whether_it_runs_a_reset_tells(
    continue_status: int, status: int, halted: LineBench
) -> None:
    request = Manipulate.restore_breakpoints([1], status=continue_status)
    halted.ask(request)
    halted.ask(read(1))
    halted.line.take()
    halted.hear(ack(A), manipulate(B, request.reply(status)))
    assert halted.line.take() == ack(B) + RESET
    assert halted.session.run_state is RunState.UNKNOWN
    halted.hear(RESET, stop(A))
    assert halted.asked() == [1]


def test_the_simulated_target_agrees() -> None:
    bench = SimBench()
    bench.wait(1)
    bench.step_over_break()
    bench.ask(Manipulate.write_breakpoints([KERNEL_BASE + 0x1000]))
    bench.wait(1)
    assert bench.target.state is TargetState.RUNNING
    assert bench.session.run_state is RunState.RUNNING
    bench.close()


# Prints


class SlowUser(User):
    is_behind = True


def test_prints_come_more_slowly_for_a_user_that_is_behind(halted: LineBench) -> None:
    halted.session.user = user = SlowUser()
    for packet_id in (B, A, B):
        halted.hear(text(packet_id))
        halted.wait(0.24)
        assert halted.line.take() == b""
        halted.wait(0.02)
        assert halted.line.take() == ack(packet_id)
    user.is_behind = False
    halted.hear(text(A))
    assert halted.line.take() == ack(A)
    assert len(user.packets) == 4


def test_nothing_but_prints_comes_more_slowly(halted: LineBench) -> None:
    halted.session.user = SlowUser()
    halted.hear(stop(B))
    assert halted.line.take() == ack(B)
    halted.hear(encode_data(PacketType.FILE_IO, A, FileIo.create("a.sys").encode()))
    assert halted.line.take() == ack(A)


def test_what_is_sent_meanwhile_takes_the_acknowledgement_along(halted: LineBench) -> None:
    halted.session.user = SlowUser()
    halted.hear(text(B))
    halted.ask(read(1))
    assert [packet.type for packet in halted.said()] == [PacketType.ACKNOWLEDGE, PacketType.STATE_MANIPULATE]
    halted.wait(0.3)
    assert halted.line.take() == b""


def test_on_a_medium_of_datagrams_they_are_not_joined() -> None:
    bench = LineBench()
    bench.halt()
    bench.session.user = SlowUser()
    bench.session.link.in_datagrams = True
    written: list[bytes] = []
    bench.line.write = written.append  # type: ignore[method-assign, assignment]
    bench.hear(text(B))
    bench.ask(read(1))
    assert [len(data) for data in written] == [16, 16 + 56 + 1]


def test_an_end_gives_what_was_held_back(halted: LineBench) -> None:
    halted.session.user = SlowUser()
    halted.hear(text(B))
    halted.session.close()
    assert halted.line.take() == ack(B)
    assert halted.clock.getDelayedCalls() == []


# A medium that is too narrow


def test_a_read_in_portions_comes_in_one_piece() -> None:
    bench = SimBench(room=1152)
    bench.wait(1)
    observer = Observer()
    bench.session.observe(observer)
    whole = read(KERNEL_BASE, 3944)
    bench.ask(whole)
    bench.ask(read(KERNEL_BASE, 16))
    bench.wait(1)
    first, second = bench.user.replies
    assert (first.status, first["transfer_count"], first["actual"], len(first.data)) == (0, 3944, 3944, 3944)
    assert first.data == bench.target.memory.read_virtual(KERNEL_BASE, 3944)
    assert second["transfer_count"] == 16
    assert [request["transfer_count"] for request in bench.target.log] == [1096, 1096, 1096, 656, 16]
    assert [(way, len(packet.payload)) for way, packet in observer.events if isinstance(packet, Packet)] == [
        *(("to", 56), ("from", 56 + 3944), ("to", 56), ("from", 56 + 16)),
    ]
    bench.close()


def test_a_context_goes_there_and_back() -> None:
    bench = SimBench(room=1152)
    bench.wait(1)
    bench.ask(Manipulate.get_context())
    bench.wait(1)
    (reply,) = bench.user.replies
    assert reply.api == Api.GET_CONTEXT
    assert reply.data == bench.target.machine.current.read_context()
    changed = reply.data[:0x78] + b"\x11" * 8 + reply.data[0x80:]
    bench.ask(Manipulate.set_context(changed))
    bench.wait(1)
    assert bench.user.replies[-1].api == Api.SET_CONTEXT
    assert bench.user.replies[-1].succeeded
    assert bench.target.machine.current.read_context()[0x78:0x80] == b"\x11" * 8
    assert {request.api for request in bench.target.log} == {Api.GET_CONTEXT_EX, Api.SET_CONTEXT_EX}
    bench.close()


def test_what_does_not_fit_is_refused_in_its_turn() -> None:
    bench = SimBench(room=1152)
    bench.wait(1)
    bench.ask(read(KERNEL_BASE, 16))
    bench.ask(Manipulate.search_memory(KERNEL_BASE, 0x1000, bytes(2000)))
    bench.ask(read(KERNEL_BASE, 16))
    bench.wait(1)
    assert [(reply.api, reply.succeeded) for reply in bench.user.replies] == [
        *((Api.READ_VIRTUAL_MEMORY, True), (Api.SEARCH_MEMORY, False), (Api.READ_VIRTUAL_MEMORY, True)),
    ]
    assert bench.user.lost == 0
    bench.close()


@pytest.fixture
def narrow() -> LineBench:
    bench = LineBench(room=1152)
    bench.halt()
    return bench


def test_a_portion_that_is_not_answered_loses_one_request(narrow: LineBench) -> None:
    whole = read(0x1000, 2000)
    narrow.ask(whole)
    first = whole.replace(transfer_count=1096)
    narrow.wait(6)
    narrow.hear(ack(A), manipulate(B, first.reply(data=bytes(1096))))
    assert narrow.asked()[-1] == 0x1000 + 1096
    narrow.hear(ack(B))
    narrow.wait(9)
    assert narrow.user.lost == 0
    narrow.wait(1.1)
    assert narrow.user.lost == 1
    narrow.hear(RESET, stop(A))
    narrow.ask(read(1))
    assert narrow.asked() == [1]


def test_a_break_in_waits_for_each_portion_anew(narrow: LineBench) -> None:
    whole = read(0x1000, 2000)
    narrow.ask(whole)
    narrow.wait(2)
    narrow.hear(ack(A), manipulate(B, whole.replace(transfer_count=1096).reply(data=bytes(1096))), ack(B))
    narrow.line.take()
    narrow.wait(2)
    narrow.session.break_in()
    assert narrow.line.take() == b""
    narrow.wait(1.1)
    narrow.session.break_in()
    assert narrow.line.take() == RESET + BREAK_IN


def test_the_next_user_gets_nothing_of_a_request_in_portions(narrow: LineBench) -> None:
    whole = read(0x1000, 2000)
    narrow.ask(whole)
    user = User()
    narrow.session.hand_over(user, narrow.session.lease)
    narrow.session.send_packet(PacketType.STATE_MANIPULATE, read(1).encode())
    narrow.line.take()
    narrow.hear(ack(A), manipulate(B, whole.replace(transfer_count=1096).reply(data=bytes(1096))))
    assert narrow.asked() == [1]
    assert user.replies == []


def test_a_file_that_is_read_comes_in_what_the_medium_carries(narrow: LineBench) -> None:
    asked = FileIo.read(5, 0, 3936)
    narrow.hear(encode_data(PacketType.FILE_IO, B, asked.encode()))
    narrow.line.take()
    narrow.session.send_packet(PacketType.FILE_IO, asked.reply(data=bytes(range(200)) * 15).encode())
    (packet,) = narrow.said()
    answer = FileIo.decode(packet.payload)
    assert (len(packet.payload), answer["length"], len(answer.data)) == (1152, 1088, 1088)
    assert answer.data == (bytes(range(200)) * 15)[:1088]
