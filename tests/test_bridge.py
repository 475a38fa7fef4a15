from __future__ import annotations

import pytest
from bridge_bench import BridgeBench, FarSession, printed, session_and_bridge
from session_bench import stop_payload

from kdsrv.errors import LinkLost, PeerError
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import BREAK_IN, INITIAL_ID, SYNC, Packet, PacketType, encode_control, encode_data
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.sessions.status import Interrupted, Running
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.target import TargetState

RESET = encode_control(PacketType.RESET)
STOP = Packet(PacketType.STATE_CHANGE64, stop_payload(0x1000))
LATER_STOP = Packet(PacketType.STATE_CHANGE64, stop_payload(0x2000))
PROMPT = Packet(PacketType.DEBUG_IO, DebugIo.get_string(b"Break or ignore? ", 16).encode())
ANSWER = DebugIo.decode(PROMPT.payload).answer(b"i").encode()
FILE = Packet(PacketType.FILE_IO, FileIo.create("ntoskrnl.exe").encode())


def read(address: int) -> Manipulate:
    return Manipulate.read_virtual(address, 8)


def reply(address: int) -> Packet:
    return Packet(PacketType.STATE_MANIPULATE, read(address).reply(data=b"8 bytes.").encode())


@pytest.fixture
def bench() -> BridgeBench:
    bench = BridgeBench()
    bench.session.stop = STOP
    return bench


# Coming


def test_a_reset_brings_the_stop_once(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    assert debugger.take() == [STOP]
    bench.wait(30)
    assert debugger.take() == []


def test_a_break_in_and_a_reset_bring_one_stop(bench: BridgeBench) -> None:
    """What radare2 begins with: the stop that the break-in brings is not acknowledged before the RESET."""
    bench.come()
    bench.bridge.bytes_received(BREAK_IN + RESET)
    debugger_line = bench.bridge._line
    written = bytes(debugger_line.written)  # type: ignore[union-attr]
    assert bench.session.break_ins == 0
    assert written[written.index(RESET) :].count(STOP.payload) == 1


def test_a_break_in_brings_the_stop_of_a_halted_target(bench: BridgeBench) -> None:
    debugger = bench.come()
    bench.bridge.bytes_received(BREAK_IN)
    assert STOP.payload in debugger.line.take()
    assert bench.session.break_ins == 0


def test_nothing_is_said_before_the_debuggers_first_word(bench: BridgeBench) -> None:
    debugger = bench.come()
    bench.give(LATER_STOP, printed(b"text"))
    bench.wait(10)
    assert debugger.line.take() == b""
    bench.bridge.bytes_received(BREAK_IN)
    debugger.link.phase = type(debugger.link.phase).SYNCED
    assert debugger.take() == [printed(b"text"), LATER_STOP]


def test_the_first_packet_of_a_bridge_carries_the_sync_bit(bench: BridgeBench) -> None:
    debugger = bench.come()
    bench.bridge.bytes_received(BREAK_IN)
    assert (INITIAL_ID | SYNC).to_bytes(4, "little") in debugger.line.take()


def test_a_request_as_first_word_shows_that_the_stop_is_known(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    debugger.leave()
    debugger = bench.come()
    debugger.link.phase = type(debugger.link.phase).SYNCED
    debugger.ask(read(1))
    assert debugger.take() == []
    assert bench.session.asked[-1].payload == read(1).encode()


def test_a_second_debugger_is_refused(bench: BridgeBench) -> None:
    first = bench.come()
    second = bench.come()
    assert (first.let_in, second.let_in) == (True, False)
    assert bench.watcher.said == ["came"]
    first.reset()
    assert first.take() == [STOP]
    assert second.line.take() == b""


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_web_page_reaches_no_target(bench: BridgeBench, method: str) -> None:
    """A page chooses the body of what a browser sends to a port of loopback, and a packet in there would be taken."""
    browser = bench.come()
    request = encode_data(PacketType.STATE_MANIPULATE, INITIAL_ID, read(1).encode())
    head = f"{method} / HTTP/1.1\r\nHost: 127.0.0.1:5001\r\n\r\n".encode()
    bench.bridge.bytes_received(head + request)
    assert bench.session.asked == []
    assert bench.session.break_ins == 0
    assert browser.line.closed
    assert bench.bridge.debugger is None
    debugger = bench.come()
    debugger.reset()
    assert debugger.take() == [STOP]


def test_who_asks_without_end_is_turned_away(bench: BridgeBench) -> None:
    """The session takes no more than it has room for, and that is no error inside kdsrv."""

    def full(packet_type: int, payload: bytes) -> None:
        raise PeerError(why="it sends requests without end")

    debugger = bench.come()
    debugger.reset()
    debugger.ask(read(1))
    bench.session.send_packet = full  # type: ignore[method-assign]
    debugger.ask(read(2))
    assert debugger.line.closed
    assert bench.watcher.said == ["came", "left"]


def test_a_debugger_leaves_and_another_comes(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.ask(read(1))
    debugger.leave()
    assert bench.bridge.debugger is None
    bench.give(reply(1))
    debugger = bench.come()
    assert bench.bridge.debugger == debugger.line.description
    debugger.reset()
    assert debugger.take() == [STOP]
    assert bench.watcher.said == ["came", "left", "came"]
    assert bench.session.resyncs == 4


# Packets


def test_requests_and_replies(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    for address in (1, 2, 3):
        debugger.ask(read(address))
        bench.give(reply(address))
        assert debugger.take() == [reply(address)]
    assert [packet.payload for packet in bench.session.asked] == [read(address).encode() for address in (1, 2, 3)]


def test_a_break_in_goes_to_a_running_target(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    bench.bridge.status_changed(Running())
    debugger.break_in()
    assert bench.session.break_ins == 1
    bench.give(LATER_STOP)
    assert debugger.take() == [LATER_STOP]


def test_what_was_under_way_when_the_reset_came_goes_no_further(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    debugger.ask(read(1))
    bench.session.answers_at_once = False
    debugger.reset()
    bench.give(reply(1), STOP, printed(b"text"))
    assert debugger.take() == [printed(b"text")]
    bench.session.echo()
    assert debugger.take() == [STOP]
    debugger.ask(read(2))
    bench.give(reply(2))
    assert debugger.take() == [reply(2)]


def test_what_waited_for_the_debugger_when_the_reset_came_goes_no_further(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    bench.give(reply(1), reply(2), printed(b"text"))
    debugger.line.take()
    debugger.reset()
    assert debugger.take() == [printed(b"text"), STOP]


def test_large_reads_of_radare2_are_cut(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.ask(Manipulate.get_context(flags=0x1003F))
    debugger.ask(Manipulate.read_virtual(1, 4096))
    assert Manipulate.decode(bench.session.asked[-1].payload)["transfer_count"] < 2048
    debugger.leave()
    debugger = bench.come()
    debugger.reset()
    debugger.ask(Manipulate.read_virtual(1, 4096))
    assert Manipulate.decode(bench.session.asked[-1].payload)["transfer_count"] == 4096


def test_each_reset_waits_for_its_own_echo(bench: BridgeBench) -> None:
    debugger = bench.come()
    bench.session.answers_at_once = False
    debugger.reset()
    debugger.reset()
    bench.session.echo()
    assert debugger.take() == []
    bench.session.echo()
    assert debugger.take() == [STOP]


def test_a_resend_brings_the_stop_again(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    bench.bridge.bytes_received(encode_control(PacketType.RESEND))
    assert debugger.take() == [STOP]
    bench.bridge.status_changed(Running())
    bench.bridge.bytes_received(encode_control(PacketType.RESEND))
    assert debugger.take() == []


def test_more_than_a_debugger_takes_is_cut(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    bench.give(Packet(PacketType.DEBUG_IO, printed(b"x" * 5000).payload))
    (packet,) = debugger.take()
    assert len(packet.payload) == 4000


# Prints


def test_prints_come_in_order_and_before_the_stop_after_them(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    said = [*(printed(b"line %d" % n) for n in range(20)), LATER_STOP, printed(b"last")]
    bench.give(*said)
    assert debugger.take() == said


def test_prints_to_nobody_are_told(bench: BridgeBench) -> None:
    bench.give(printed(b"text"))
    assert bench.watcher.unseen == [printed(b"text")]


@pytest.mark.parametrize("how", ["reset", "leave"])
def test_a_print_that_was_not_taken_is_printed_again(how: str, bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    bench.give(printed(b"one"), printed(b"two"))
    debugger.line.take()
    if how == "leave":
        debugger.leave()
        debugger = bench.come()
    debugger.reset()
    assert debugger.take() == [printed(b"one"), printed(b"two"), STOP]


def test_a_debugger_that_takes_nothing_costs_a_bounded_number_of_prints(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    for number in range(3000):
        bench.give(printed(b"%d" % number))
    debugger.line.take()
    bench.wait(1.5)
    first, told, *rest = debugger.take()
    assert first == printed(b"0")
    assert told == printed(b"[kdsrv: 1999 prints of the target were dropped here]\n")
    assert rest == [printed(b"%d" % number) for number in range(2000, 3000)]


# Files and prompts


def test_files_are_refused_when_nobody_is_there(bench: BridgeBench) -> None:
    bench.give(FILE)
    ((packet_type, payload),) = bench.session.asked
    assert packet_type == PacketType.FILE_IO
    assert FileIo.decode(payload).status == NtStatus.NO_SUCH_FILE
    bench.give(Packet(PacketType.FILE_IO, b"short"))
    assert len(bench.session.asked) == 1


def test_files_are_refused_before_the_first_word(bench: BridgeBench) -> None:
    debugger = bench.come()
    bench.give(FILE)
    assert len(bench.session.asked) == 1
    assert debugger.line.take() == b""


def test_the_debugger_answers_for_files(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    bench.give(FILE)
    assert debugger.take() == [FILE]
    assert bench.session.asked == []
    refusal = FileIo.decode(FILE.payload).refusal().encode()
    debugger.say(PacketType.FILE_IO, refusal)
    debugger.leave()
    assert bench.session.asked == [(PacketType.FILE_IO, refusal)]


def test_a_file_request_that_a_debugger_left_unanswered_is_refused(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    bench.give(FILE)
    debugger.pump()
    debugger.leave()
    assert [packet.type for packet in bench.session.asked] == [PacketType.FILE_IO]
    debugger = bench.come()
    debugger.reset()
    assert FILE not in debugger.take()


@pytest.mark.parametrize("left", [False, True])
def test_a_prompt_is_held_for_the_next_debugger(left: bool, bench: BridgeBench) -> None:
    bench.session.stop = None
    if left:
        debugger = bench.come()
        debugger.reset()
        bench.give(PROMPT)
        assert debugger.take() == [PROMPT]
        debugger.leave()
    else:
        bench.give(PROMPT)
    debugger = bench.come()
    debugger.reset()
    assert debugger.take() == [PROMPT]
    debugger.say(PacketType.DEBUG_IO, ANSWER)
    assert bench.session.asked == [(PacketType.DEBUG_IO, ANSWER)]
    debugger.reset()
    assert debugger.take() == []


def test_a_prompt_is_said_again_after_a_reset(bench: BridgeBench) -> None:
    bench.session.stop = None
    debugger = bench.come()
    debugger.reset()
    bench.give(PROMPT)
    debugger.reset()
    assert debugger.take()[-1] == PROMPT


# The session behind


def test_a_stop_is_void_once_the_target_runs(bench: BridgeBench) -> None:
    bench.give(STOP)
    bench.session.stop = None
    bench.bridge.status_changed(Interrupted("the VM is off"))
    debugger = bench.come()
    debugger.reset()
    assert debugger.take() == []
    debugger.break_in()
    assert bench.session.break_ins == 1
    assert bench.watcher.statuses == [Interrupted("the VM is off")]


def test_a_new_session_takes_the_place_of_one_that_was_lost(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    debugger.take()
    debugger.ask(read(1))
    bench.session.answers_at_once = False
    debugger.reset()
    bench.bridge.session_lost(LinkLost(target="sim", why="a test"))
    assert bench.watcher.said == ["came", "lost"]
    assert not debugger.line.closed
    bench.wait(30)
    session = FarSession()
    session.bridge, session.stop = bench.bridge, LATER_STOP
    bench.use(session)
    assert session.resyncs == 1
    assert debugger.take() == [LATER_STOP]
    debugger.ask(read(2))
    assert session.asked == [(PacketType.STATE_MANIPULATE, read(2).encode())]


def test_a_new_session_is_left_alone_when_nobody_is_there(bench: BridgeBench) -> None:
    session = FarSession()
    bench.use(session)
    assert session.resyncs == 0


def test_close_lets_the_debugger_go_and_leaves_nothing_in_the_clock(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    bench.give(printed(b"unread"))
    bench.bridge.close()
    assert debugger.line.closed
    bench.give(printed(b"late"), STOP)
    assert bench.clock.getDelayedCalls() == []


def test_a_debugger_that_leaves_leaves_nothing_in_the_clock(bench: BridgeBench) -> None:
    debugger = bench.come()
    debugger.reset()
    bench.give(printed(b"unread"))
    debugger.leave()
    assert bench.clock.getDelayedCalls() == []


# With a real session


def test_two_visits_to_a_simulated_target() -> None:
    bench, bridge, _ = session_and_bridge()
    visitors = BridgeBench()
    visitors.clock, visitors.bridge = bench.clock, bridge
    for _ in range(2):
        debugger = visitors.come()
        bench.wait(0.1)
        bridge.bytes_received(BREAK_IN)
        debugger.reset()
        bench.wait(0.1)
        assert [packet.type for packet in debugger.take()] == [PacketType.STATE_CHANGE64]
        debugger.ask(read(KERNEL_BASE))
        bench.wait(0.1)
        (answer,) = debugger.take()
        assert Manipulate.decode(answer.payload).data == bench.target.memory.read_virtual(KERNEL_BASE, 8)
        bench.step_over_break()
        debugger.ask(Manipulate.continue2())
        bench.wait(3)
        assert bench.target.state is TargetState.RUNNING
        debugger.break_in()
        bench.wait(1)
        assert [packet.type for packet in debugger.take()] == [PacketType.STATE_CHANGE64]
        debugger.ask(read(KERNEL_BASE))
        debugger.leave()
        bench.wait(1)
    bridge.close()
    bench.close()
