"""A session that changes its user, and those who look on."""

from __future__ import annotations

import pytest
from session_bench import RESET, LineBench, Observer, User, stop_payload

from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import INITIAL_ID, Packet, PacketType, encode_control, encode_data
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.status import Halted, Quiet, Running

A, B = INITIAL_ID, INITIAL_ID | 1
LEASE = Lease("line", "another", "there", 1.0)


def ack(packet_id: int) -> bytes:
    return encode_control(PacketType.ACKNOWLEDGE, packet_id)


def stop(packet_id: int, address: int = 0x1000) -> bytes:
    return encode_data(PacketType.STATE_CHANGE64, packet_id, stop_payload(address))


def read(address: int) -> Manipulate:
    return Manipulate.read_virtual(address, 8)


def answer(request: Manipulate) -> Packet:
    return Packet(PacketType.STATE_MANIPULATE, request.reply(data=b"8 bytes.").encode())


def reply(packet_id: int, request: Manipulate) -> bytes:
    packet = answer(request)
    return encode_data(packet.type, packet_id, packet.payload)


@pytest.fixture
def halted() -> LineBench:
    bench = LineBench()
    bench.halt()
    return bench


def hand_over(bench: LineBench) -> User:
    user = User()
    bench.session.hand_over(user, LEASE)
    return user


def test_the_new_user_of_a_halted_target_is_given_its_stop_at_once(halted: LineBench) -> None:
    user = hand_over(halted)
    status, packet = user.events
    assert isinstance(status, Halted)
    assert packet == halted.session.stop
    assert halted.line.take() == b""
    assert halted.session.lease is LEASE
    assert halted.user.events == []


def test_a_running_target_is_said_to_run(halted: LineBench) -> None:
    halted.ask(Manipulate.continue2())
    halted.hear(ack(A))
    user = hand_over(halted)
    assert user.events == [Running()]
    assert halted.user.packets == []


def test_what_waits_is_dropped_and_the_reply_on_the_way_is_nobodys(halted: LineBench) -> None:
    for address in (1, 2):
        halted.ask(read(address))
    user = hand_over(halted)
    assert user.packets == [halted.session.stop]
    halted.session.send_packet(PacketType.STATE_MANIPULATE, read(3).encode())
    assert halted.asked() == [1]
    halted.hear(ack(A), reply(B, read(1)))
    assert halted.asked() == [3]
    halted.hear(ack(B), reply(A, read(3)))
    assert [packet["address"] for packet in user.replies] == [3]
    assert user.lost == 0
    assert halted.user.events == []


def test_a_request_of_the_old_user_that_gets_lost_is_no_loss_of_the_new_one(halted: LineBench) -> None:
    halted.ask(read(1))
    halted.hear(ack(A))
    user = hand_over(halted)
    halted.session.send_packet(PacketType.STATE_MANIPULATE, read(2).encode())
    halted.wait(10.1)
    halted.hear(RESET, stop(A))
    assert user.lost == 0
    assert halted.asked()[-1] == 2


def test_a_continue_on_the_way_is_not_followed_by_the_stop_it_ends(halted: LineBench) -> None:
    halted.ask(Manipulate.continue2())
    user = hand_over(halted)
    assert user.packets == []
    halted.hear(ack(A))
    assert user.events[-1] == Running()


def test_a_target_of_which_nothing_is_known_is_asked() -> None:
    bench = LineBench()
    bench.wait(20)
    bench.forget()
    user = hand_over(bench)
    assert isinstance(user.events[0], Quiet)
    assert bench.line.take() == RESET
    bench.hear(RESET, stop(A))
    assert len(user.stops) == 1
    assert bench.user.packets == []


def test_a_reset_under_way_is_not_doubled() -> None:
    bench = LineBench()
    bench.forget()
    user = hand_over(bench)
    assert bench.line.take() == b""
    bench.hear(RESET, stop(A))
    assert len(user.stops) == 1


@pytest.mark.parametrize(
    ("question", "its_answer"),
    [
        (
            Packet(PacketType.DEBUG_IO, DebugIo.get_string(b"? ", 16).encode()),
            DebugIo.get_string(b"? ", 16).answer(b"i").encode(),
        ),
        (
            Packet(PacketType.FILE_IO, FileIo.create("a.sys").encode()),
            FileIo.create("a.sys").refusal().encode(),
        ),
    ],
    ids=["prompt", "file"],
)
def test_a_question_that_waits_is_asked_again(question: Packet, its_answer: bytes, halted: LineBench) -> None:
    halted.hear(encode_data(question.type, B, question.payload))
    user = hand_over(halted)
    assert user.packets == [question]
    halted.line.take()
    halted.session.send_packet(question.type, its_answer)
    assert [packet.type for packet in halted.said()] == [question.type]
    assert hand_over(halted).packets == []


# Those who look on


def test_who_looks_on_is_told_what_passes(halted: LineBench) -> None:
    observer = Observer()
    halted.session.observe(observer)
    halted.ask(read(1))
    halted.hear(ack(A), reply(B, read(1)))
    halted.ask(Manipulate.continue2())
    halted.hear(ack(B))
    halted.session.break_in()
    halted.session.break_in()
    halted.hear(stop(A, 0x2000))
    hand_over(halted)
    halted.session.close()
    halted.session.close()
    assert [what for what, _ in observer.events] == [
        *("to", "from", "to", "status", "break in", "from", "status", "holder", "end"),
    ]
    assert observer.events[0][1] == Packet(PacketType.STATE_MANIPULATE, read(1).encode())
    assert observer.events[1][1] == answer(read(1))
    assert observer.events[-2][1] is LEASE


def test_who_looks_on_sees_what_nobody_reads(halted: LineBench) -> None:
    observer = Observer()
    halted.session.observe(observer)
    halted.session.user = None
    halted.hear(encode_data(PacketType.DEBUG_IO, B, DebugIo.print_string(b"a line\n").encode()))
    assert [what for what, _ in observer.events] == ["from"]


def test_a_stop_that_is_given_again_is_not_the_targets(halted: LineBench) -> None:
    observer = Observer()
    halted.session.observe(observer)
    halted.session.break_in()
    halted.session.resync()
    assert len(halted.user.packets) == 2
    assert observer.events == []


def test_who_does_not_look_on_any_more_hears_nothing(halted: LineBench) -> None:
    observers = Observer(), Observer()
    stops = [halted.session.observe(observer) for observer in observers]
    stops[0]()
    stops[0]()
    halted.hear(stop(B, 0x2000))
    assert observers[0].events == []
    assert len(observers[1].events) == 2
