"""What a session leaves behind: a target as it is, or one that runs."""

from __future__ import annotations

import pytest
from session_bench import LineBench, SimBench, User, stop_payload

from kdsrv.kd import x86
from kdsrv.kd.amd64 import Context
from kdsrv.kd.api import Api
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import INITIAL_ID, Packet, PacketType, encode_control, encode_data
from kdsrv.kd.state_change import StateChange
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.sessions.leaving import Departure, OnLeave
from kdsrv.sessions.read_only_session import ReadOnlySession
from kdsrv.sessions.status import RunState
from kdsrv.sim.kernel import WORKER_BASE
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import TargetState

A, B = INITIAL_ID, INITIAL_ID | 1
HERE = 0x1000


def ack(packet_id: int) -> bytes:
    return encode_control(PacketType.ACKNOWLEDGE, packet_id)


def leave(bench: SimBench, *, seconds: float = 6.0) -> list[str]:
    """What happened of leaving, in that time."""
    left: list[str] = []
    bench.user.events.clear()
    bench.session.leave(lambda: left.append("left"))
    bench.wait(seconds)
    return left


@pytest.fixture
def bench() -> SimBench:
    bench = SimBench()
    bench.wait(1)
    bench.session.on_leave = OnLeave.CONTINUE
    return bench


# On a simulated target


@pytest.mark.parametrize("room", [4000, 1152, 100])
def test_a_target_that_was_broken_into_runs_on(room: int) -> None:
    bench = SimBench(room=room)
    bench.wait(1)
    bench.session.on_leave = OnLeave.CONTINUE
    assert leave(bench) == ["left"]
    assert bench.target.state is TargetState.RUNNING
    assert bench.user.events == []
    bench.close()


def test_it_stays_halted_if_nobody_says_otherwise(bench: SimBench) -> None:
    bench.session.on_leave = OnLeave.STAY
    assert leave(bench, seconds=0.1) == ["left"]
    assert bench.target.state is TargetState.STOPPED
    bench.close()


def test_breakpoints_are_removed_so_that_it_does_not_halt_again(bench: SimBench) -> None:
    worker = bench.target.machine.kernel.worker_routines["WorkerLoop"]
    bench.ask(Manipulate.write_breakpoint(worker))
    bench.ask(Manipulate.write_breakpoint(WORKER_BASE + 0x1100))
    bench.wait(1)
    assert all(reply.succeeded for reply in bench.user.replies)
    assert leave(bench, seconds=0.1) == ["left"]
    bench.wait(10)
    assert bench.target.state is TargetState.RUNNING
    assert not bench.target.machine.breakpoints
    bench.close()


def test_at_a_breakpoint_of_the_user_it_goes_on_from_there(bench: SimBench) -> None:
    worker = bench.target.machine.kernel.worker_routines["WorkerLoop"]
    bench.step_over_break()
    bench.ask(Manipulate.write_breakpoint(worker))
    bench.ask(Manipulate.continue2())
    bench.wait(2)
    assert bench.user.stops[-1].program_counter == worker
    asked = len(bench.target.log)
    leave(bench)
    assert bench.target.state is TargetState.RUNNING
    assert Api.SET_CONTEXT not in [request.api for request in list(bench.target.log)[asked:]]
    bench.close()


def test_hardware_breakpoints_are_off(bench: SimBench) -> None:
    leave(bench)
    assert bench.target.log[-1].api == Api.CONTINUE2
    assert bench.target.log[-1]["dr7"] == 0x400
    bench.close()


def test_a_running_target_is_left_running() -> None:
    bench = SimBench(SimOptions(state="running"))
    bench.wait(20)
    bench.session.on_leave = OnLeave.CONTINUE
    assert leave(bench, seconds=0.1) == ["left"]
    assert list(bench.target.log) == []
    bench.close()


def test_a_halted_target_of_which_nothing_is_known_yet_runs_too() -> None:
    bench = SimBench()
    bench.session.on_leave = OnLeave.CONTINUE
    assert leave(bench) == ["left"]
    assert bench.target.state is TargetState.RUNNING
    bench.close()


def test_requests_that_are_under_way_are_finished_first(bench: SimBench) -> None:
    for number in range(20):
        bench.ask(Manipulate.read_virtual(WORKER_BASE + number, 1))
    assert leave(bench) == ["left"]
    assert bench.target.state is TargetState.RUNNING
    assert [request.api for request in bench.target.log].count(Api.READ_VIRTUAL_MEMORY) == 2
    assert bench.user.events == []
    bench.close()


def test_a_target_that_does_not_answer_is_let_be(bench: SimBench) -> None:
    bench.live.feed = lambda data: None  # type: ignore[method-assign]
    assert leave(bench, seconds=4.9) == []
    bench.wait(0.2)
    assert bench.session.transport._live is None  # type: ignore[attr-defined]
    bench.close()


def test_a_read_only_session_changes_nothing() -> None:
    bench = LineBench()
    bench.halt()
    session = ReadOnlySession(bench.clock, "line", bench.line, bench.session.link, bench.session.lease)
    session.start(User())
    bench.line.take()
    session.on_leave = OnLeave.CONTINUE
    session.leave(lambda: None)
    bench.wait(2)
    assert bench.said() == []


# As a user that asks


class Asked:
    """A target in which ``memory`` is at the program counter."""

    def __init__(self, handles: list[int], last: bytes = b"", *, context: bytes = b"", memory: bytes = b"\xcc") -> None:
        self.requests: list[Manipulate] = []
        self._context = context
        self._memory = memory
        self._replies: list[Packet] = []
        self.departure = Departure(self._ask, handles, last)

    def _ask(self, payload: bytes) -> None:
        request = Manipulate.decode(payload)
        self.requests.append(request)
        if request.api == Api.GET_CONTEXT:
            status = NtStatus.SUCCESS if self._context else NtStatus.UNSUCCESSFUL
            reply = request.reply(status, self._context)
        else:
            reply = request.reply(data=self._memory if request.api == Api.READ_VIRTUAL_MEMORY else b"")
        self._replies.append(Packet(PacketType.STATE_MANIPULATE, reply.encode()))

    def stand(self, stop: Packet) -> list[int]:
        """What it is asked for, when it stands there."""
        self.departure.packet_received(stop)
        while self._replies and not self.departure.done:
            self.departure.packet_received(self._replies.pop(0))
        assert self.departure.done
        return [request.api for request in self.requests]


def exception(code: int) -> Packet:
    return Packet(PacketType.STATE_CHANGE64, stop_payload(HERE, code))


AMD64 = bytes(Context.build(rip=HERE))
X86 = bytes(x86.Context.build(eip=HERE))


@pytest.mark.parametrize("context", [AMD64, X86])
def test_an_int3_of_the_target_is_stepped_over(context: bytes) -> None:
    asked = Asked([3, 5], context=context)
    assert asked.stand(exception(NtStatus.BREAKPOINT)) == [
        *(Api.RESTORE_BREAKPOINT, Api.RESTORE_BREAKPOINT, Api.GET_CONTEXT, Api.READ_VIRTUAL_MEMORY, Api.SET_CONTEXT),
        Api.CONTINUE2,
    ]
    assert [request["handle"] for request in asked.requests[:2]] == [3, 5]
    changed = asked.requests[4].data
    counter = Context(changed)["rip"] if context is AMD64 else x86.Context(changed)["eip"]
    assert counter == HERE + 1
    dr7 = asked.requests[-1]["dr7" if context is AMD64 else "dr7_x86"]
    assert (asked.requests[-1]["continue_status"], dr7) == (NtStatus.DBG_CONTINUE, 0x400)


@pytest.mark.parametrize(
    ("context", "memory", "code"),
    [
        (AMD64, b"\x90", NtStatus.BREAKPOINT),
        (AMD64, b"", NtStatus.BREAKPOINT),
        (bytes(Context.build(rip=HERE + 1)), b"\xcc", NtStatus.BREAKPOINT),
        (AMD64, b"\xcc", NtStatus.SINGLE_STEP),
    ],
    ids=["a breakpoint that was set", "unreadable", "stepped over already", "a step"],
)
def test_nothing_else_is_stepped_over(context: bytes, memory: bytes, code: int) -> None:
    asked = Asked([], context=context, memory=memory)
    assert Api.SET_CONTEXT not in asked.stand(exception(code))
    assert asked.requests[-1]["continue_status"] == NtStatus.DBG_CONTINUE


def test_an_exception_is_passed_on() -> None:
    asked = Asked([], context=AMD64)
    asked.stand(exception(NtStatus.ACCESS_VIOLATION))
    assert asked.requests[-1]["continue_status"] == NtStatus.DBG_EXCEPTION_NOT_HANDLED


@pytest.mark.parametrize("context", [b"", bytes(912)])
def test_a_machine_that_is_not_known_just_continues(context: bytes) -> None:
    asked = Asked([1], context=context)
    assert asked.stand(exception(NtStatus.BREAKPOINT)) == [Api.RESTORE_BREAKPOINT, Api.GET_CONTEXT, Api.CONTINUE]


@pytest.mark.parametrize(
    "stop",
    [
        Packet(PacketType.STATE_CHANGE64, b"short"),
        Packet(PacketType.STATE_CHANGE32, bytes(300)),
        Packet(PacketType.STATE_CHANGE64, StateChange.load_symbols(b"a.sys", 1, report=bytes(48)).encode()),
    ],
)
def test_any_stop_is_continued(stop: Packet) -> None:
    asked = Asked([])
    assert asked.stand(stop)[-1] == Api.CONTINUE
    assert asked.requests[-1]["continue_status"] == NtStatus.DBG_CONTINUE


@pytest.mark.parametrize("last", [Manipulate.reboot(), Manipulate.continue_(0x80010001)])
def test_what_the_user_asked_for_last_is_given_when_the_breakpoints_are_gone(last: Manipulate) -> None:
    asked = Asked([1], last.encode(), context=AMD64)
    assert asked.stand(exception(NtStatus.BREAKPOINT)) == [Api.RESTORE_BREAKPOINT, last.api]
    assert asked.requests[-1] == last


def test_a_target_that_loses_a_request_is_let_be() -> None:
    asked = Asked([1])
    asked.departure.packet_received(exception(NtStatus.BREAKPOINT))
    asked.departure.requests_lost(1)
    assert asked.departure.done


def test_the_session_gives_the_continue_of_its_user_behind_the_breakpoints() -> None:
    bench = LineBench()
    bench.halt()
    request = Manipulate.write_breakpoint(HERE)
    bench.ask(request)
    bench.hear(ack(A), encode_data(PacketType.STATE_MANIPULATE, B, request.reply(handle=7).encode()))
    bench.session.on_leave = OnLeave.CONTINUE
    bench.ask(Manipulate.read_virtual(HERE, 8))
    bench.ask(Manipulate.continue2())
    bench.line.take()
    left: list[RunState] = []
    bench.session.leave(lambda: left.append(bench.session.run_state))
    read = Manipulate.read_virtual(HERE, 8)
    bench.hear(ack(B), encode_data(PacketType.STATE_MANIPULATE, A, read.reply(data=bytes(8)).encode()))
    restore = Manipulate.restore_breakpoint(7)
    assert [packet.payload for packet in bench.said() if packet.type == PacketType.STATE_MANIPULATE] == [
        restore.encode()
    ]
    bench.hear(ack(A), encode_data(PacketType.STATE_MANIPULATE, B, restore.reply().encode()))
    assert bench.said()[-1].payload == Manipulate.continue2().encode()
    assert left == []
    bench.hear(ack(B))
    bench.wait(0.01)
    assert left == [RunState.RUNNING]
    assert bench.clock.getDelayedCalls() == []
