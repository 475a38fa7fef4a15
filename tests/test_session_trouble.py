"""What a session says of lines and targets with which something is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from session_bench import RESET, LineBench, SimBench
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from kdsrv.doctor.bit_rates import as_read
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import INITIAL_ID, PacketType, encode_data
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.sessions.link_status import Damaged, Deaf, Echoing, Rebooted, ResetsBouncing, Unheard
from kdsrv.sessions.status import BreakingIn, Halted, HaltReason, Noise, Running, RunState, Status
from kdsrv.sessions.status_log import StatusLog
from kdsrv.sim.faults import FaultRates
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.options import SimOptions


def kinds(events: Sequence[object]) -> list[str]:
    """The kinds of the statuses, those that come in a row once."""
    told = [event.kind for event in events if isinstance(event, Status)]
    return [kind for number, kind in enumerate(told) if not number or told[number - 1] != kind]


def test_noise_names_the_rate_that_it_was_sent_at() -> None:
    bench = LineBench()
    bench.line.byte_time = 10 / 115200
    bench.hear(as_read(RESET, 57600, 115200) * 3)
    bench.wait(1)
    assert bench.session.status == Noise(63, 115200, (57600,))
    bench.session.close()


def test_an_echo_is_told_from_a_target() -> None:
    bench = LineBench()
    bench.hear(RESET)
    bench.session.break_in()
    bench.hear(b"b")
    bench.wait(1)
    assert bench.session.status == Echoing(17)
    bench.session.close()


def test_resets_that_lead_to_nothing() -> None:
    bench = LineBench()
    for _ in range(8):
        bench.hear(RESET)
        bench.wait(1)
    assert bench.session.status == ResetsBouncing(8)
    assert kinds(bench.user.events) == ["quiet", "resets-bouncing"]
    bench.session.close()


def test_a_target_that_does_not_hear() -> None:
    bench = LineBench()
    stop = encode_data(PacketType.STATE_CHANGE64, INITIAL_ID, bytes(240))
    for _ in range(6):
        bench.hear(stop)
        bench.wait(1)
    assert bench.session.status == Unheard(5, 6 * len(stop))
    bench.session.close()


def test_a_target_that_ran_and_does_not_stop() -> None:
    bench = SimBench(SimOptions(state="running", print_every=1.0))
    bench.wait(3)
    assert bench.session.run_state is RunState.RUNNING
    bench.live.feed = lambda data: None  # type: ignore[method-assign]
    bench.session.break_in()
    bench.wait(8)
    assert isinstance(bench.session.status, Deaf)
    assert kinds(bench.user.events)[-3:] == ["running", "breaking-in", "deaf"]
    bench.close()


def test_damage_is_said_once_before_the_next_stop_that_lasts() -> None:
    bench = SimBench(rates=FaultRates(damage=0.2))
    for _ in range(12):
        for number in range(9):
            bench.ask(Manipulate.read_virtual(KERNEL_BASE + number, 64))
        bench.wait(20)
        bench.step_over_break()
        bench.ask(Manipulate.continue_(NtStatus.DBG_CONTINUE))
        bench.session.break_in()
        bench.wait(10)
    told = kinds(bench.user.events)
    assert told.count("damaged") == 1
    assert isinstance(bench.session.status, Halted)
    damaged = next(event for event in bench.user.events if isinstance(event, Damaged))
    assert damaged.damaged >= 5
    bench.close()


def test_a_target_that_loses_its_power_is_said_to_have_started_anew() -> None:
    bench = SimBench()
    bench.wait(1)
    bench.target.power_cycle(bench.clock.seconds())
    bench.live.flush()
    bench.wait(3)
    assert [event for event in bench.user.events if isinstance(event, Rebooted)] == [Rebooted()]
    assert kinds(bench.user.events)[-3:] == ["rebooted", "running", "halted"]
    bench.close()


class TheLog:
    """What a session writes into the log, as sentences."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._statuses = StatusLog(self.clock, "target:name=lab4")
        self.lines: list[str] = []

    def note(self, *statuses: Status, apart: float = 5.0) -> list[str]:
        """The lines that come of these statuses, so many seconds apart."""
        self.lines.clear()
        globalLogPublisher.addObserver(self._observe)
        try:
            for status in statuses:
                self.clock.advance(apart)
                self._statuses.note(status)
        finally:
            globalLogPublisher.removeObserver(self._observe)
        return self.lines

    def _observe(self, event: LogEvent) -> None:
        self.lines.append(formatEvent(event))


HALT = Halted(0, HaltReason.BREAKPOINT, 0x80000003, 0x1000)
HALTED_LINE = "target:name=lab4: halted: breakpoint at 00000000`00001000 on processor 0"


def test_trouble_is_logged_once_with_the_name_of_the_target_and_so_is_its_end() -> None:
    log = TheLog()
    assert log.note(Noise(9), Noise(12), Noise(20, 9600)) == [
        "target:name=lab4: 9 bytes came but no KD packet: wrong baud rate?"
    ]
    assert log.note(HALT, Running(), HALT) == [HALTED_LINE]
    assert log.note(BreakingIn(1.0), BreakingIn(2.0), Running(), BreakingIn(9.0)) == []
    assert log.note(Deaf(10.0), Deaf(11.0), HALT, Running()) == [
        f"target:name=lab4: {Deaf(10.0).sentence()}",
        HALTED_LINE,
    ]


def test_a_target_that_changes_its_mind_all_the_time_does_not_fill_the_log() -> None:
    assert len(TheLog().note(*(Rebooted(), Running()) * 50, apart=0.001)) == 1
