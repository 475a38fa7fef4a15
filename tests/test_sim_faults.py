"""A bad line to a simulated target: what the debugger sees stays right, however bad the line is."""

from __future__ import annotations

from random import Random

import pytest
from sim_debugger import SimDebugger

from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import PacketType, encode_control, encode_data
from kdsrv.sim.faults import FaultRates, FaultyLine
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.target import SimulatedTarget


class Echo:
    """A target that only notes what it hears, and says what it is told to."""

    deadline: float | None = None

    def __init__(self) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self.to_say = b""

    def receive(self, data: bytes, now: float) -> None:
        self.heard.append((now, data))

    def expire(self, now: float) -> None:
        """Nothing is due here."""

    def take_output(self) -> bytes:
        said, self.to_say = self.to_say, b""
        return said


FRAMES = [encode_data(2, 1, b"x" * 56), encode_control(PacketType.ACKNOWLEDGE), encode_data(3, 1, b"y" * 20)]


def make_line(target: Echo, **rates: float) -> FaultyLine:
    return FaultyLine(target, FaultRates(**rates), Random(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_memory_is_read_right_over_a_bad_line(seed: int) -> None:
    """A header is not covered by the checksum, so a request may get lost for good: debuggers then ask again."""
    debugger = SimDebugger()
    debugger.stop()
    debugger.line = FaultyLine(debugger.target, FaultRates(loss=0.1, damage=0.1, duplicate=0.1), Random(seed))
    for at in range(0, 0x3000, 0x400):
        assert read_patiently(debugger, at) == debugger.target.memory.read_virtual(KERNEL_BASE + at, 0x400)
    assert debugger.link.counters.repeats_sent


def read_patiently(debugger: SimDebugger, at: int) -> bytes:
    for _ in range(10):
        debugger.send(Manipulate.read_virtual(KERNEL_BASE + at, 0x400))
        for _ in range(6):
            debugger.wait(0.5)
            replies = [Manipulate.decode(packet.payload) for packet in debugger.packets]
            debugger.packets.clear()
            for reply in replies:
                if reply["address"] == KERNEL_BASE + at and reply.succeeded:
                    return reply.data
    pytest.fail("no answer in 30 s")


def test_loss_strikes_whole_frames_of_either_direction() -> None:
    echo = Echo()
    line = make_line(echo, loss=0.5)
    for _ in range(100):
        echo.to_say = b"".join(FRAMES)
        line.receive(b"".join(FRAMES), 0.0)
    for bytes_ in (b"".join(data for _, data in echo.heard), line.take_output()):
        kept = [bytes_.count(frame) for frame in FRAMES]
        assert sum(len(frame) * count for frame, count in zip(FRAMES, kept, strict=True)) == len(bytes_)
        assert all(25 < count < 75 for count in kept)


def test_damage_changes_one_byte_and_duplicates_double() -> None:
    echo = Echo()
    make_line(echo, damage=1.0).receive(FRAMES[0], 0.0)
    (_, heard), *_ = echo.heard
    assert sum(one != other for one, other in zip(heard, FRAMES[0], strict=True)) == 1
    echo = Echo()
    make_line(echo, duplicate=1.0).receive(FRAMES[0] + b"b" + FRAMES[1], 1.0)
    assert echo.heard == [(1.0, FRAMES[0] * 2 + b"bb" + FRAMES[1] * 2)]


def test_the_same_seed_gives_the_same_faults() -> None:
    runs = []
    for _ in range(2):
        echo = Echo()
        line = FaultyLine(echo, FaultRates(loss=0.3, damage=0.3, duplicate=0.3), Random(9))
        for _ in range(50):
            line.receive(b"".join(FRAMES), 0.0)
        runs.append(echo.heard)
    assert runs[0] == runs[1]


def test_exact_losses_and_silence() -> None:
    echo = Echo()
    line = make_line(echo)
    line.drop_next(to_target=1, from_target=2)
    echo.to_say = b"".join(FRAMES)
    line.receive(b"".join(FRAMES), 0.0)
    assert echo.heard == [(0.0, FRAMES[1] + FRAMES[2])]
    assert line.take_output() == FRAMES[2]
    line.silence(until=5.0)
    echo.to_say = FRAMES[0]
    line.receive(FRAMES[0], 4.9)
    assert len(echo.heard) == 1
    assert line.take_output() == b""
    echo.to_say = FRAMES[0]
    line.receive(FRAMES[0], 5.0)
    assert echo.heard[1:] == [(5.0, FRAMES[0])]
    assert line.take_output() == FRAMES[0]


def test_a_baud_rate_paces_both_directions() -> None:
    echo = Echo()
    line = make_line(echo, baud=10_000)
    data = bytes(1000)
    line.receive(data, 0.0)
    now = 0.0
    while line.deadline is not None:
        now = line.deadline
        line.expire(now)
    assert now == pytest.approx(1.0)
    heard = b""
    for time, piece in echo.heard:
        assert len(piece) == 2
        assert time == pytest.approx(len(heard) / 1000 + 0.002)
        heard += piece
    assert heard == data
    echo.to_say = data
    line.expire(2.0)
    assert line.take_output() == b""
    line.expire(2.5)
    assert len(line.take_output()) == 500
    assert line.deadline == pytest.approx(2.502)


def test_a_slow_target_is_answered_in_the_time_its_bytes_take() -> None:
    debugger = SimDebugger()
    debugger.stop()
    debugger.line = FaultyLine(debugger.target, FaultRates(baud=115200), Random(0))
    started = debugger.now
    debugger.send(Manipulate.read_virtual(KERNEL_BASE, 1000))
    while not debugger.packets:
        debugger.wait(0.001)
    wanted = (16 + 57 + 16 + 57 + 16 + 1000) * 10 / 115200
    assert debugger.now - started == pytest.approx(wanted, abs=0.01)


def test_a_target_keeps_time_behind_a_silent_line() -> None:
    target = SimulatedTarget()
    line = FaultyLine(target, FaultRates(), Random(0))
    assert line.deadline == 1.0
    line.silence(until=2.5)
    line.expire(1.0)
    line.expire(2.0)
    assert (line.take_output(), line.deadline) == (b"", 3.0)
    line.expire(3.0)
    assert line.take_output()


def test_rates_are_checked() -> None:
    for wrong in ({"loss": 1.5}, {"damage": -0.1}, {"baud": -1}):
        with pytest.raises(ValueError, match=r"chance from 0 to 1|no baud rate"):
            FaultRates(**wrong)  # type: ignore[arg-type]
