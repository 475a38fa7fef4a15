from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from kdsrv.alarm import Alarm


class Bell:
    def __init__(self) -> None:
        self.clock = Clock()
        self.rung: list[float] = []
        self.alarm = Alarm(self.clock, self.ring)

    def ring(self) -> None:
        self.rung.append(self.clock.seconds())


@pytest.fixture
def bell() -> Bell:
    return Bell()


def test_it_rings_once_at_the_deadline(bell: Bell) -> None:
    bell.alarm.set(2.0)
    bell.clock.pump([1.0] * 5)
    assert bell.rung == [2.0]
    assert bell.clock.getDelayedCalls() == []


def test_a_deadline_that_moves_away_costs_no_timer(bell: Bell) -> None:
    bell.alarm.set(2.0)
    (timer,) = bell.clock.getDelayedCalls()
    for deadline in range(3, 100):
        bell.alarm.set(float(deadline))
    assert bell.clock.getDelayedCalls() == [timer]
    assert timer.getTime() == 2.0
    bell.clock.pump([1.0] * 98)
    assert bell.rung == []
    bell.clock.advance(1.0)
    assert bell.rung == [99.0]


def test_a_deadline_may_come_nearer(bell: Bell) -> None:
    bell.alarm.set(10.0)
    bell.alarm.set(2.0)
    bell.clock.pump([1.0] * 10)
    assert bell.rung == [2.0]


def test_a_deadline_that_has_passed_rings_in_the_next_turn(bell: Bell) -> None:
    bell.clock.advance(5.0)
    bell.alarm.set(1.0)
    assert bell.rung == []
    bell.clock.advance(0)
    assert bell.rung == [5.0]


def test_no_deadline_no_ring(bell: Bell) -> None:
    bell.alarm.set(2.0)
    bell.alarm.set(None)
    bell.clock.advance(3.0)
    assert bell.rung == []
    bell.alarm.set(4.0)
    bell.clock.advance(1.0)
    assert bell.rung == [4.0]


def test_a_stopped_alarm_leaves_nothing(bell: Bell) -> None:
    bell.alarm.set(2.0)
    bell.alarm.stop()
    bell.alarm.stop()
    assert bell.clock.getDelayedCalls() == []
    bell.clock.advance(3.0)
    assert bell.rung == []


def test_it_may_be_set_while_it_rings() -> None:
    clock = Clock()
    rung: list[float] = []

    def ring() -> None:
        rung.append(clock.seconds())
        alarm.set(clock.seconds() + 1.0)

    alarm = Alarm(clock, ring)
    alarm.set(1.0)
    clock.pump([1.0] * 3)
    assert rung == [1.0, 2.0, 3.0]


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 20)), max_size=30))
def test_it_rings_whenever_the_last_deadline_has_come(steps: list[tuple[int, int | None]]) -> None:
    bell = Bell()
    expected: list[float] = []
    deadline: float | None = None
    now = 0.0
    for wait, ahead in steps:
        for _ in range(wait):
            bell.clock.advance(1.0)
            now += 1.0
            if deadline is not None and now >= deadline:
                expected.append(now)
                deadline = None
        deadline = None if ahead is None else now + ahead
        bell.alarm.set(deadline)
        if ahead == 0:
            bell.clock.advance(0)
            expected.append(now)
            deadline = None
    assert bell.rung == expected
