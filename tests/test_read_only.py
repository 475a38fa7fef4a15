"""Somebody who may only look: no word of theirs changes the target, and their debugger does not hang over it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_bench import LineBench, QuietLine, SimBench, User

from kdsrv.kd.api import NO_REPLY, RUNS_TARGET, Api, changes_target
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.host_link import HostLink
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import BREAK_IN, INITIAL_ID, Packet, PacketType, encode_control
from kdsrv.kd.state_change import LOAD_SYMBOLS, StateChange
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.read_only import file_refusal, pass_module, refusal
from kdsrv.sessions.read_only_session import ReadOnlySession
from kdsrv.sessions.session import Session
from kdsrv.sessions.status import Halted, Refused, RunState
from kdsrv.sim.faults import FaultRates
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import TargetState
from kdsrv.transports.simulated import SimulatedTransport

A, B = INITIAL_ID, INITIAL_ID | 1
SEEN: Any = frozenset(
    {
        Api.READ_VIRTUAL_MEMORY,
        Api.READ_PHYSICAL_MEMORY,
        Api.READ_CONTROL_SPACE,
        Api.READ_MACHINE_SPECIFIC_REGISTER,
        Api.GET_CONTEXT,
        Api.GET_CONTEXT_EX,
        Api.GET_VERSION,
        Api.GET_BUS_DATA,
        Api.GET_INTERNAL_BREAKPOINT,
        Api.QUERY_MEMORY,
        Api.QUERY_SPECIAL_CALLS,
        Api.SEARCH_MEMORY,
    }
)
"""All that may arrive, written down once more: a request that somebody adds to the table has to be added here too."""


class Watch(SimBench):
    """Somebody who may only look at a simulated target."""

    session: Session

    def open(self, kind: type[Session] = ReadOnlySession) -> None:
        self.user = User()
        transport = SimulatedTransport(self.clock, self.live, "simulated", 0.0)
        self.session = kind(self.clock, "sim", transport, HostLink(), Lease("sim", "a test", "here", 0.0))
        self.session.start(self.user)
        self.wait(1)

    def requests(self) -> list[int]:
        return [request.kind for request in self.target.log]

    def act(self, name: str, *arguments: Any) -> None:
        getattr(self.target, name)(*arguments, self.clock.seconds())
        self.live.flush()


def at_kernel(api: int) -> bytes:
    """A request about the first byte of the kernel."""
    return api.to_bytes(4, "little") + bytes(12) + KERNEL_BASE.to_bytes(8, "little") + bytes(32)


def memory_of(bench: SimBench) -> bytes:
    return bench.target.memory.read_virtual(KERNEL_BASE, 4096)


# What is answered


@pytest.mark.parametrize("api", range(0x3100, 0x3200))
def test_each_request(api: int) -> None:
    """The answer is the target's if it only reads, and a refusal in every other case, also for unknown ones."""
    payload = api.to_bytes(4, "little") + bytes(range(52)) + b"more"
    refused = refusal(payload)
    assert (refused is None) is (api in SEEN)
    if refused is None:
        return
    if api in NO_REPLY:
        assert refused.reply is None
        assert refused.stop_again is (api != Api.CLEAR_ALL_INTERNAL_BREAKPOINTS)
        assert refused.told
    else:
        assert refused.reply is not None
        assert refused.reply.payload == payload[:8] + b"\x22\0\0\xc0" + payload[12:56]
        assert refused.told is None


@given(st.binary(min_size=4, max_size=80))
def test_any_request_is_refused_or_known_to_be_harmless(payload: bytes) -> None:
    refused = refusal(payload)
    if int.from_bytes(payload[:4], "little") in SEEN:
        assert refused is None
    else:
        assert refused is not None
        assert refused.reply is None or len(refused.reply.payload) == 56


def test_a_file_request_is_answered_that_there_is_no_such_file() -> None:
    request = FileIo.create(r"\SystemRoot\x.sys")
    answer = file_refusal(request.encode())
    assert answer is not None
    assert FileIo.decode(answer).status == NtStatus.NO_SUCH_FILE
    assert file_refusal(b"short") is None


def test_only_a_stop_that_tells_of_a_module_is_passed() -> None:
    report = bytes(48)
    module = StateChange.load_symbols(b"x.sys", 0x1000, report=report, processor=1)
    go_on = pass_module(Packet(PacketType.STATE_CHANGE64, module.encode()))
    assert go_on is not None
    assert Manipulate.decode(go_on)["continue_status"] == NtStatus.DBG_CONTINUE
    assert Manipulate.decode(go_on).processor == 1
    assert pass_module(Packet(PacketType.STATE_CHANGE64, StateChange.reboot(report=report).encode())) is not None
    for other in (
        StateChange.exception(0x80000003, 1, report=report).encode(),
        StateChange.command_string(b"a", b"b", report=report).encode(),
        LOAD_SYMBOLS.to_bytes(4, "little"),
        b"",
    ):
        assert pass_module(Packet(PacketType.STATE_CHANGE64, other)) is None
    assert pass_module(Packet(PacketType.STATE_CHANGE32, module.encode())) is None


# With a target


def test_every_api_number_and_only_the_harmless_arrive() -> None:
    bench = Watch()
    before = memory_of(bench)
    assert bench.session.description == "simulated, read-only"
    for api in (*range(0x3100, 0x3200), 0, 0xFFFFFFFF, 0x00013131, *SEEN):
        bench.session.send_packet(PacketType.STATE_MANIPULATE, at_kernel(api))
    bench.wait(60)
    assert set(bench.requests()) == SEEN
    assert len(bench.requests()) == 2 * len(SEEN)
    assert memory_of(bench) == before
    assert bench.target.state is TargetState.STOPPED
    answered = [reply.kind for reply in bench.user.replies]
    assert answered == [*(api for api in range(0x3100, 0x3200) if api not in NO_REPLY), 0, 0xFFFFFFFF, 0x13131, *SEEN]
    assert bench.user.lost == 0
    bench.close()


@pytest.mark.parametrize("packet_type", [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x4242, 0xFFFF])
@pytest.mark.parametrize("state", ["halted", "running", "asking"])
def test_no_other_packet_arrives(packet_type: int, state: str) -> None:
    bench = Watch(SimOptions(state="halted" if state == "halted" else "running"))
    bench.wait(5)
    if state == "asking":
        bench.act("prompt", "Break or ignore? ")
        bench.wait(1)
    for _ in range(3):
        bench.session.send_packet(packet_type, DebugIo.get_string(b"i", 9).encode())
        bench.session.send_packet(packet_type, Manipulate.continue_().encode())
    bench.wait(5)
    assert bench.requests() == []
    assert not bench.target.answers
    stands = {"halted": TargetState.STOPPED, "running": TargetState.RUNNING, "asking": TargetState.ASKING}
    assert bench.target.state is stands[state]
    assert bench.user.sentences.count("you may only look (read-only): an answer does not reach the target") == 1
    bench.close()


def test_refusals_keep_their_place_among_the_replies() -> None:
    bench = Watch()
    wanted = []
    for number in range(50):
        for request in (
            Manipulate.read_virtual(KERNEL_BASE + number, 4),
            Manipulate.write_virtual(KERNEL_BASE + number, b"!"),
        ):
            bench.ask(request)
            wanted.append((request.kind, KERNEL_BASE + number))
    bench.wait(5)
    assert [(reply.kind, reply["address"]) for reply in bench.user.replies] == wanted
    statuses = [reply.status for reply in bench.user.replies]
    assert statuses == [NtStatus.SUCCESS, NtStatus.ACCESS_DENIED] * 50
    assert all(not reply.data for reply in bench.user.replies[1::2])
    bench.close()


@pytest.mark.parametrize("api", sorted(RUNS_TARGET | {Api.SWITCH_PROCESSOR}))
def test_a_debugger_that_lets_go_is_given_the_stop_again(api: int) -> None:
    bench = Watch()
    first = bench.user.stops
    bench.user.events.clear()
    bench.ask(Manipulate.read_virtual(KERNEL_BASE, 4))
    bench.ask(Manipulate.request(api))
    bench.ask(Manipulate.read_virtual(KERNEL_BASE, 4))
    bench.wait(1)
    assert bench.user.stops == first
    kinds = [packet.type for packet in bench.user.packets]
    assert kinds == [PacketType.STATE_MANIPULATE, PacketType.STATE_CHANGE64, PacketType.STATE_MANIPULATE]
    said = [event for event in bench.user.events if isinstance(event, Refused)]
    assert [status.run_state for status in said] == [RunState.HALTED]
    assert isinstance(bench.session.status, Halted)
    assert bench.target.state is TargetState.STOPPED
    bench.close()


def test_a_break_in_does_not_stop_a_running_target() -> None:
    bench = Watch(SimOptions(state="running"))
    bench.wait(5)
    for _ in range(5):
        bench.session.break_in()
        bench.wait(10)
    assert bench.target.state is TargetState.RUNNING
    assert bench.user.packets == []
    assert bench.user.sentences.count("you may only look (read-only): the break-in does not reach the target") == 5, (
        "each time after the line was said to be quiet in between"
    )
    bench.act("print", "hello\n")
    bench.wait(1)
    assert [DebugIo.decode(packet.payload).text for packet in bench.user.packets] == [b"hello\n"]
    bench.close()


def test_a_break_in_shows_the_stop_of_a_halted_target() -> None:
    bench = Watch()
    bench.user.events.clear()
    bench.session.break_in()
    assert len(bench.user.stops) == 1
    bench.wait(30)
    assert not bench.target.link.break_pending, "no break-in was kept for later"
    assert not bench.session.link.breaking_in
    bench.close()


def test_no_break_in_byte_leaves_when_a_reply_is_overdue() -> None:
    bench = LineBench()
    bench.session.close()
    line = QuietLine()
    session = ReadOnlySession(bench.clock, "line", line, HostLink(), Lease("line", "a test", "here", 0.0))
    session.start(bench.user)
    bench.session = session
    bench.halt()
    line.take()
    bench.ask(Manipulate.read_virtual(1, 8))
    bench.hear(encode_control(PacketType.ACKNOWLEDGE, A))
    line.take()
    bench.wait(4)
    session.break_in()
    assert BREAK_IN not in bytes(line.written).replace(encode_control(PacketType.RESET), b"")
    assert bench.user.lost == 1
    session.close()


def test_leaving_gives_no_last_continue() -> None:
    bench = Watch()
    bench.ask(Manipulate.read_virtual(KERNEL_BASE, 4))
    bench.ask(Manipulate.continue_())
    left: list[bool] = []
    bench.session.leave(lambda: left.append(True))
    bench.wait(3)
    assert left
    assert bench.target.state is TargetState.STOPPED
    bench.close()


# What the target asks for


def test_a_target_that_asks_for_files_is_told_that_there_are_none() -> None:
    bench = Watch(SimOptions(state="running"))
    bench.wait(5)
    bench.act("request_file", r"\SystemRoot\x.sys")
    bench.wait(2)
    assert bench.target.state is TargetState.RUNNING
    assert [FileIo.decode(answer.payload).status for answer in bench.target.answers] == [NtStatus.NO_SUCH_FILE]
    assert bench.user.packets == [], "nobody else is to answer it"
    bench.close()


def test_a_prompt_waits_for_somebody_who_may_answer() -> None:
    bench = Watch(SimOptions(state="running"))
    bench.wait(5)
    bench.act("prompt", "Break or ignore? ")
    bench.wait(2)
    assert [DebugIo.decode(packet.payload).text for packet in bench.user.packets] == [b"Break or ignore? "]
    bench.session.close()
    bench.open(Session)
    bench.wait(2)
    assert [DebugIo.decode(packet.payload).text for packet in bench.user.packets] == [b"Break or ignore? "]
    bench.session.send_packet(PacketType.DEBUG_IO, DebugIo.decode(bench.user.packets[0].payload).answer(b"i").encode())
    bench.wait(2)
    assert bench.target.state is TargetState.RUNNING
    bench.close()


@pytest.mark.parametrize("rates", [FaultRates(), FaultRates(loss=0.1, damage=0.1, duplicate=0.1)], ids=["good", "bad"])
def test_a_target_that_loads_modules_is_not_held_up(rates: FaultRates) -> None:
    bench = Watch(SimOptions(state="running"), rates, seed=5)
    bench.wait(10)
    for number in range(20):
        bench.act("load_module", f"m{number}.sys", 0xFFFFF80600000000 + number * 0x10000, 0x8000)
        bench.wait(8)
        assert bench.target.state is TargetState.RUNNING, number
    bench.wait(60)
    assert bench.user.packets == []
    assert bench.session.run_state is not RunState.HALTED
    bench.act("stop")
    bench.wait(10)
    assert bench.target.state is TargetState.STOPPED, "a stop that is none of a module's stays"
    assert len(bench.user.stops) >= 1
    bench.close()


def test_a_boot_is_not_held_up() -> None:
    bench = Watch(SimOptions(state="running"))
    bench.wait(10)
    bench.act("reboot")
    bench.wait(60)
    assert bench.target.state is TargetState.RUNNING
    assert set(bench.requests()) <= {Api.CONTINUE}
    bench.close()


def test_a_module_at_which_somebody_left_the_target_stays() -> None:
    bench = Watch(SimOptions(state="running"))
    bench.session.close()
    bench.open(Session)
    bench.wait(5)
    bench.act("load_module", "m.sys", 0xFFFFF80600000000, 0x8000)
    bench.wait(1)
    assert len(bench.user.stops) == 1
    bench.session.close()
    bench.open()
    bench.wait(60)
    bench.session.resync()
    bench.wait(10)
    assert len(bench.user.stops) == 2
    assert bench.target.state is TargetState.STOPPED
    assert bench.requests() == []
    bench.close()


# Whatever they do

STEPS = st.one_of(
    st.builds(lambda api, data: ("ask", api.to_bytes(4, "little") + data), st.integers(0x3120, 0x3170), st.binary()),
    st.builds(lambda kind, data: ("other", kind, data), st.integers(0, 12), st.binary(max_size=64)),
    st.tuples(st.sampled_from(["break_in", "resync", "leave"])),
    st.builds(lambda seconds: ("wait", seconds), st.sampled_from([0.01, 0.3, 2.0, 6.0])),
)


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=20), st.sampled_from(["halted", "running"]), st.integers(0, 99))
def test_whatever_they_do_the_target_stands_as_it_stood(steps: list[Any], state: str, seed: int) -> None:
    bench = Watch(SimOptions(state=state), FaultRates(loss=0.05, damage=0.05), seed)
    before, stood = memory_of(bench), bench.target.state
    for step, *arguments in steps:
        if step == "ask":
            bench.session.send_packet(PacketType.STATE_MANIPULATE, *arguments)
        elif step == "other":
            if arguments[0] != PacketType.STATE_MANIPULATE:
                bench.session.send_packet(*arguments)
        elif step == "wait":
            bench.wait(*arguments)
        elif step == "leave":
            bench.session.leave(lambda: None)
            bench.wait(2)
            bench.open()
        else:
            getattr(bench.session, step)()
    bench.wait(20)
    assert bench.target.state is stood
    assert memory_of(bench) == before
    assert all(not changes_target(request.kind) for request in bench.target.log)
    bench.close()
