"""The doctor's verdicts, word for word, on lines that are played in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from session_bench import RESET, QuietLine, pass_time, stop_payload
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kdsrv.connection_strings import (
    FireWireSpec,
    KdSpec,
    ModemSpec,
    NetSpec,
    PipeSpec,
    SerialSpec,
    TcpSerialSpec,
    UsbSpec,
)
from kdsrv.doctor.advice import ANSWERED, advise
from kdsrv.doctor.bit_rates import RATES, as_read
from kdsrv.doctor.examination import LIMITS, SHORT_LIMITS, TOTAL, Act, Examination, Seen, Step, short_total
from kdsrv.doctor.examiner import Examiner, search_seconds
from kdsrv.doctor.rate_search import RateSearch
from kdsrv.doctor.verdicts import Findings, Verdict, is_well, judge, not_opened
from kdsrv.errors import LinkLost, SetupError, TargetError
from kdsrv.kd.packets import DATA_LEADER, INITIAL_ID, PacketType, encode_data
from kdsrv.sim.faults import FaultRates
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget, TargetState
from kdsrv.transports.simulated import LiveTarget, SimulatedTransport
from kdsrv.transports.transport import AbsentError, Receiver

SERIAL = SerialSpec("/dev/ttyUSB0", 115200)
PIPE = PipeSpec("/run/vm")
STOP = encode_data(PacketType.STATE_CHANGE64, INITIAL_ID, stop_payload(0x1000) + bytes(9))
TARGET = "Windows kernel build 17134 on AMD64"


class Desk:
    """Where a line is examined, on a clock."""

    def __init__(self, spec: KdSpec = SERIAL) -> None:
        self.clock = Clock()
        self.spec = spec
        self.verdict = Verdict("", "", (), ())
        self.seconds = 0.0

    def examine(self, transport: object, *, may_break_in: bool = True, total: float = TOTAL) -> Verdict:
        """The verdict; nothing is left in the clock but what was there before."""
        before = self.clock.seconds()
        examiner = Examiner(self.clock, self.spec, transport, may_break_in=may_break_in, total=total)  # type: ignore[arg-type]
        found: list[Findings] = []
        Deferred.fromCoroutine(examiner.examine()).addCallback(found.append)
        while not found:
            pass_time(self.clock, 0.1)
            assert self.clock.seconds() < before + total + 4, "it takes too long"
        self.seconds = self.clock.seconds() - before
        self.verdict = judge(found[0])
        return self.verdict


class Simulated(Desk):
    """A simulated target at the other end. ``hears`` says what of that which is sent to it arrives."""

    def __init__(
        self,
        options: SimOptions,
        rates: FaultRates | None = None,
        hears: Callable[[bytes], bool] = lambda data: True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.target = SimulatedTarget(options)
        self.live = LiveTarget(self.clock, self.target, rates or FaultRates(), seed)
        feed = self.live.feed
        self.live.feed = lambda data: feed(data) if hears(data) else None  # type: ignore[method-assign]

    def look(self, *, may_break_in: bool = True) -> Verdict:
        transport = SimulatedTransport(self.clock, self.live, "a line", 0.0)
        verdict = self.examine(transport, may_break_in=may_break_in)
        self.live.stop()
        assert self.clock.getDelayedCalls() == []
        return verdict


class Played(QuietLine):
    """A line that is played: ``says`` comes every second, ``answers`` to what is written."""

    description = "a line"

    def __init__(
        self,
        clock: Clock,
        says: bytes = b"",
        answers: Callable[[bytes], bytes] = lambda data: b"",
        begin: Callable[[Receiver], object] = lambda receiver: None,
    ) -> None:
        super().__init__()
        self.byte_time = 10 / 115200
        self._clock = clock
        self._says = says
        self._answers = answers
        self._begin = begin

    def start(self, receiver: Receiver) -> None:
        super().start(receiver)
        self._clock.callLater(0, self._begin, receiver)
        if self._says:
            self._clock.callLater(0.4, self._speak)

    def write(self, data: bytes) -> None:
        super().write(data)
        self._clock.callLater(0.01, self._hand, self._answers(data))

    def _speak(self) -> None:
        if not self.closed:
            self._hand(self._says)
            self._clock.callLater(1.0, self._speak)

    def _hand(self, data: bytes) -> None:
        if data and not self.closed and self.receiver is not None:
            self.receiver.bytes_received(data)


ANSWERED_ALONE = (
    "a RESET was answered, and nothing came after it: the line echoes, the target hangs, or a bridge of kdsrv connect "
    "answers in its place"
)


def played(says: bytes = b"", *, spec: KdSpec = SERIAL, may_break_in: bool = True, **how: object) -> Verdict:
    desk = Desk(spec)
    line = Played(desk.clock, says, **how)  # type: ignore[arg-type]
    verdict = desk.examine(line, may_break_in=may_break_in)
    assert line.closed
    assert desk.seconds < 15
    assert is_well(verdict) is False
    assert verdict.advice in (advise(verdict.code, spec), ANSWERED)
    return verdict


def said(verdict: Verdict) -> tuple[str, str]:
    return verdict.code, verdict.sentence


# Lines that are well


def test_a_halted_target_is_well_and_stays_halted() -> None:
    desk = Simulated(SimOptions())
    assert said(desk.look()) == ("well-halted", f"the line is well: the target is halted and answers ({TARGET})")
    assert desk.verdict.evidence[3:] == (
        "16 of 16 requests were answered",
        "the target was halted before, and still is",
    )
    assert is_well(desk.verdict)
    assert desk.target.state is TargetState.STOPPED
    assert desk.seconds < 1.5


def test_a_running_target_is_well_and_runs_again() -> None:
    desk = Simulated(SimOptions(state="running"))
    sentence = f"the line is well: the target ran, halted when asked to, and answers ({TARGET})"
    assert said(desk.look()) == ("well-running", sentence)
    assert desk.verdict.evidence[-1] == "the target was halted for this, and runs again"
    assert "a break-in among them" in desk.verdict.evidence[1]
    assert desk.target.state is TargetState.RUNNING


def test_a_running_target_that_prints_is_well_as_far_as_it_goes_without_a_break_in() -> None:
    desk = Simulated(SimOptions(state="running", print_every=0.5))
    sentence = "the line is well as far as it goes: the target runs and speaks KD"
    assert said(desk.look(may_break_in=False)) == ("well-heard", sentence)
    assert desk.target.state is TargetState.RUNNING


@pytest.mark.parametrize("state", ["halted", "running"])
def test_a_target_that_tells_of_no_stop_before_a_break_in_is_made_to_run(state: str) -> None:
    desk = Simulated(SimOptions(state=state))
    transport = SimulatedTransport(desk.clock, desk.live, "a line", 0.0)
    listener = desk.live._listener
    assert listener is not None

    def hear(data: bytes) -> None:
        if desk.clock.seconds() > 4:
            listener(data)
        elif data.startswith(RESET):
            listener(RESET)

    desk.live.listen(hear)
    if state == "running":  # what answers is not the target but a bridge before it
        desk.clock.callLater(1.0, listener, RESET)
    verdict = desk.examine(transport)
    if state == "running":
        sentence = f"the line is well: the target halted when asked to, and answers ({TARGET})"
        assert said(verdict) == ("well-running", sentence)
        assert verdict.evidence[-2:] == (
            "before the break-in a RESET was answered and no stop was told, as at a bridge of kdsrv connect: the "
            "target is taken to have run",
            "the target was halted for this, and runs again",
        )
        assert desk.target.state is TargetState.RUNNING
    else:  # it has noted the break-in, and halts by it as soon as it runs
        assert said(verdict) == ("well-halted", f"the line is well: the target is halted and answers ({TARGET})")
        assert verdict.evidence[-1] == (
            "the target was told to run, and stands still: it was halted before, or halted again"
        )
        assert desk.target.state is TargetState.STOPPED
    desk.live.stop()


# Lines that are not


def test_a_target_that_does_not_answer_break_ins() -> None:
    desk = Simulated(SimOptions(state="running", print_every=1.0), hears=lambda data: data != b"b")
    verdict = desk.look()
    assert verdict.code == "deaf"
    assert verdict.sentence.startswith("the target spoke KD, but has not answered break-ins for 7 s while ")
    assert verdict.sentence.endswith(" bytes came from it: it is too busy, or does not hear this host")


def test_a_target_that_reboots_meanwhile() -> None:
    desk = Simulated(SimOptions(state="running", print_every=1.0), hears=lambda data: desk.clock.seconds() < 3.5)
    desk.live.feed, feed = lambda data: feed(data) if data != b"b" else None, desk.live.feed  # type: ignore[method-assign]

    def reboot() -> None:
        desk.target.power_cycle(desk.clock.seconds())
        desk.live.flush()

    desk.clock.callLater(3.5, reboot)
    assert said(desk.look()) == (
        "rebooted",
        "the target has started anew: it rebooted, or had given its debugger up; what was asked is lost",
    )
    assert desk.verdict.evidence[-1] == "the target started anew meanwhile"


def test_a_line_that_damages_packets() -> None:
    desk = Simulated(SimOptions(), FaultRates(damage=0.15), seed=3)
    verdict = desk.look()
    assert verdict.code == "damaged"
    assert verdict.sentence.endswith(
        "packets of the target came damaged: a bad cable, bytes lost at this rate, or another program that reads this "
        "port too"
    )


def test_a_target_that_answers_no_request() -> None:
    desk = Simulated(SimOptions(), hears=lambda data: not data.startswith(DATA_LEADER))
    assert said(desk.look()) == ("mute", "the target tells of its stop, but answers no request")
    assert "0 of 1 requests were answered" in desk.verdict.evidence


def test_silence() -> None:
    assert said(played()) == ("silent", "the line is open and silent: no byte came, whatever was sent")


def test_silence_where_nothing_was_asked() -> None:
    verdict = played(may_break_in=False)
    assert said(verdict) == (
        "unasked",
        "nothing came, and the target was not asked to halt: it runs, is off, or is not connected",
    )
    assert "break-in" not in verdict.evidence[1]


def test_kd_at_another_rate() -> None:
    verdict = played(as_read(STOP, 57600, 115200))
    assert verdict.code == "noise"
    assert verdict.sentence.endswith(" bytes came but no KD packet: at 115200 baud they look like KD at 57600")
    assert verdict.evidence[3].startswith("the first bytes: ")


def test_noise_that_nothing_looks_like() -> None:
    verdict = played(b"\x91\x84\xf5")
    assert said(verdict) == ("noise", f"{noise_bytes(verdict)} bytes came but no KD packet: wrong baud rate?")
    assert verdict.evidence[-2] == "they are not what KD at one of the usual rates looks like at 115200 baud"


def test_noise_of_a_rate_far_lower() -> None:
    verdict = played(as_read(STOP, 1200, 115200))
    assert verdict.evidence[-2] == "all of them are 0: the target's rate is lower by far, or the line is held low"


def test_noise_on_a_pipe_has_nothing_to_do_with_rates() -> None:
    verdict = played(b"\x91\x84\xf5", spec=PIPE)
    sentence = f"{noise_bytes(verdict)} bytes came but no KD packet: something else is at the other end"
    assert said(verdict) == ("noise", sentence)


def test_a_console_is_known_by_its_text() -> None:
    verdict = played(b"login: \x1b[0m\r\n")
    assert said(verdict) == ("text", f"{noise_bytes(verdict)} bytes came, and they are text, not KD")
    assert verdict.evidence[-2].startswith("as text: login: ?[0m??login:")


def noise_bytes(verdict: Verdict) -> int:
    return int(verdict.evidence[2].split()[1])


def test_an_echo() -> None:
    verdict = played(answers=lambda data: data)
    assert verdict.code == "echoing"
    sent = int(verdict.evidence[1].split()[1])
    echo = f"the line echoes: the {sent} bytes that came are what was sent; no target is at its other end"
    assert verdict.sentence == echo
    assert verdict.evidence[3].startswith("the first bytes: ")
    assert len(verdict.evidence) == 4, "of a target that stands still nothing is said where there is none"


def test_a_reset_that_comes_back_and_nothing_else() -> None:
    verdict = played(answers=lambda data: data, may_break_in=False)
    assert said(verdict) == ("silent", ANSWERED_ALONE)
    assert not verdict.evidence[-1].startswith("the break-in")


def test_a_bridge_behind_which_nothing_happens() -> None:
    """One that may only look, or whose server is away."""
    verdict = played(answers=lambda data: data if data == RESET else b"")
    assert said(verdict) == ("silent", ANSWERED_ALONE)
    assert verdict.evidence[-1] == (
        "the break-in was not answered: a target that gets it later, by a bridge that waits, stands still then"
    )
    assert verdict.advice == (
        "at a bridge of kdsrv connect: see there whether it may only look, and whether its server and the target are "
        "there",
        "at a target's own line: take off what echoes, and restart the target if it hangs",
    )


def test_resets_that_lead_to_nothing() -> None:
    verdict = played(RESET)
    assert verdict.code == "resets-bouncing"
    assert verdict.sentence.endswith(
        "RESETs of the target in a row and no packet: it does not come out of beginning anew; does a second debugger, "
        "or something that echoes, sit on the line?"
    )


def test_a_target_that_does_not_hear() -> None:
    verdict = played(STOP)
    assert verdict.code == "unheard"
    assert verdict.sentence.endswith("no RESET was answered: what is sent from here does not reach the target")


def test_a_line_that_is_away() -> None:
    verdict = played(begin=lambda receiver: receiver.transport_interrupted("the pipe is not there"))
    assert said(verdict) == ("away", "the line is not there: the pipe is not there")
    assert verdict.evidence == ("opened: a line",)


def test_a_line_that_is_lost_meanwhile() -> None:
    verdict = played(begin=lambda receiver: receiver.transport_lost(LinkLost(target="a line", why="unplugged")))
    assert said(verdict) == ("lost", "the line was lost: unplugged")


# Lines that cannot be opened


def caused(error: TargetError, *causes: BaseException) -> TargetError:
    last: BaseException = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


@pytest.mark.parametrize(
    ("causes", "code"),
    [
        ([FileNotFoundError(2, "no")], "missing"),
        ([PermissionError(13, "no")], "no-permission"),
        ([BlockingIOError(11, "no")], "held"),
        ([ValueError("x"), OSError(16, "no")], "held"),
        ([OSError(98, "no")], "held"),
        ([ConnectionRefusedError(111, "no")], "refused"),
        ([OSError(99, "no")], "cannot-open"),
        ([], "cannot-open"),
    ],
)
def test_why_a_line_cannot_be_opened(causes: Iterable[BaseException], code: str) -> None:
    verdict = not_opened(caused(TargetError(target="com9", why="it is so"), *causes), SERIAL)
    assert verdict == Verdict(code, "com9: it is so", (), advise(code, SERIAL))


def test_what_is_absent_is_missing_and_what_is_not_offered_cannot_be_opened() -> None:
    assert not_opened(AbsentError(target="/run/vm", why="gone"), PIPE).code == "missing"
    assert said(not_opened(SetupError(why="not here"), PIPE)) == ("cannot-open", "not here")


OTHER_KINDS = "use a line that kdsrv can open: com: with a serial port, a pipe or a TCP port, net:, or 1394:"


@pytest.mark.parametrize(
    ("code", "spec", "advice"),
    [
        (
            "missing",
            SERIAL,
            "plug it in, or give its right name: ls -l /dev/serial/by-id shows what is plugged in",
        ),
        ("missing", PIPE, "start the virtual machine, and compare the path with that of its serial port"),
        (
            "missing",
            FireWireSpec(3),
            "put a FireWire card into this host, and see that its driver is there: sudo modprobe firewire-ohci",
        ),
        (
            "cannot-open",
            SERIAL,
            "give a serial port, and a rate that it has: ls -l /dev/serial/by-id shows what is plugged in",
        ),
        (
            "cannot-open",
            TcpSerialSpec("nowhere", 5000),
            "compare host and port, and see whether that host can be reached from here: its name, firewalls in between",
        ),
        ("cannot-open", ModemSpec(), OTHER_KINDS),
        ("cannot-open", UsbSpec("x"), OTHER_KINDS),
        ("no-permission", NetSpec(53, "1.2.3.4"), "give another port, here and in bcdedit /dbgsettings on the target"),
        (
            "silent",
            PIPE,
            "is debugging on (bcdedit /debug on), and set to this port (bcdedit /dbgsettings serial debugport:N)?",
        ),
    ],
)
def test_advice_fits_the_kind_of_the_line(code: str, spec: KdSpec, advice: str) -> None:
    assert advise(code, spec)[0] == advice


def test_rates_are_spoken_of_where_one_can_be_wrong() -> None:
    for code in ("silent", "noise"):
        assert "the baud rate may be wrong: kdsrv doctor --find-baud tries them all" in advise(code, SERIAL)
        assert "baud" not in " ".join((*advise(code, SERIAL, has_rate=False), *advise(code, PIPE)))


# The order of things


def test_rates_are_tried_from_the_usual_to_the_rare_and_first_what_was_asked_for() -> None:
    search = RateSearch(38400)
    assert [search.next() for _ in range(12)] == [
        *(38400, 115200, 57600, 19200, 9600, 230400, 460800, 921600, 4800, 2400, 1200),
        None,
    ]


def test_without_a_rate_that_was_asked_for_only_the_usual_ones_are_tried() -> None:
    assert RateSearch(None).left[0] == 115200
    assert sorted(RateSearch(None).left) == list(RATES)


def test_what_the_noise_looks_like_is_tried_next() -> None:
    search = RateSearch(14400)
    assert [search.next(), search.next()] == [14400, 115200]
    search.note(as_read(STOP, 9600, 115200))
    search.note(as_read(RESET, 19200, 115200))
    assert [search.next(), search.next()] == [19200, 57600]


def test_all_steps_fit_in_the_time_of_all() -> None:
    assert max(LIMITS.values()) < TOTAL < 15
    desk = Desk()
    desk.examine(Played(desk.clock), total=2.0)
    assert desk.seconds < 2.1
    assert desk.verdict.code == "silent"


def test_a_stop_that_is_coming_when_the_time_for_it_ends_is_waited_for() -> None:
    examination = Examination(0.0, may_break_in=True)
    assert examination.look(Seen(), 0.4) is None
    assert examination.look(Seen(receiving=True), 9.0) is None
    assert examination.step is Step.RESET
    examination.look(Seen(halted=True), 9.1)
    assert (examination.step, examination.was_halted, examination.broke_in) == (Step.TALK, True, False)


def test_the_time_that_all_rates_take_is_what_their_examinations_take() -> None:
    seconds = 0.0
    for rate in RateSearch(None).left:
        desk = Desk()
        line = Played(desk.clock)
        line.byte_time = 10 / rate
        total = short_total(line.byte_time)
        examiner = Examiner(desk.clock, SERIAL, line, may_break_in=True, total=total, limits=SHORT_LIMITS)  # type: ignore[arg-type]
        found: list[Findings] = []
        Deferred.fromCoroutine(examiner.examine()).addCallback(found.append)
        while not found:
            pass_time(desk.clock, 0.05)
        seconds += desk.clock.seconds()
    assert 20 < seconds < 26
    assert 35 < search_seconds(None) < 45


def test_a_slow_line_has_the_time_that_its_packets_take() -> None:
    slow = Examination(0.0, may_break_in=True, byte_time=10 / 1200)
    slow.look(Seen(), 0.4)
    assert slow.look(Seen(), 3.9) is None
    assert slow.look(Seen(), 4.0) is Act.BREAK_IN
    assert slow.look(Seen(receiving=True), 12.0) is None
    assert slow.step is Step.BREAK_IN


def test_a_line_that_goes_away_is_waited_for_again_and_not_longer_than_all_may_take() -> None:
    examination = Examination(0.0, may_break_in=True)
    examination.look(Seen(), 0.4)
    examination.look(Seen(away=True), 2.0)
    assert examination.step is Step.CONNECT
    examination.look(Seen(away=True), 8.9)
    assert examination.step is Step.CONNECT
    examination.look(Seen(away=True), 9.0)
    assert examination.step is Step.DONE
    examination = Examination(0.0, may_break_in=True)
    examination.look(Seen(receiving=True), TOTAL)
    assert examination.step is Step.DONE
