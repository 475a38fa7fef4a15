from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.auth.door import Crowd, Door, Failed, Slowdown, TooManyFailures, place_of
from kdsrv.auth.scram import BOUND, PLAIN
from kdsrv.auth.users import OnePassword


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("com1 channel 3", "com1 channel 3"),
        (None, "this host"),
        ("x" * 500, "x" * 100),
    ],
)
def test_the_place_of_an_address(address: str | None, place: str) -> None:
    assert place_of(address) == place


def fail(slowdown: Slowdown, times: int, place: str = "a", now: float = 0.0) -> list[Failed]:
    return [slowdown.failed(place, now) for _ in range(times)]


def test_the_answer_is_held_longer_with_each_failure() -> None:
    assert fail(Slowdown(), 5) == [(0.5, 1), (1.0, 2), (2.0, 3), (2.0, 4), (2.0, 5)]


@pytest.mark.parametrize(
    ("failures", "interval"), [(0, 0), (1, 0), (2, 0), (3, 0.25), (4, 0.5), (5, 1), (6, 2), (7, 4), (8, 4), (1000, 4)]
)
def test_challenges_come_slower_with_each_failure(failures: int, interval: float) -> None:
    slowdown = Slowdown()
    fail(slowdown, failures)
    assert slowdown.hold("a", 0.0) == 0.0
    assert slowdown.hold("a", 0.0) == interval
    assert slowdown.hold("a", 100.0) == 0.0


def test_who_does_not_wait_for_answers_gains_nothing() -> None:
    """However many connections guess at once, one gets its challenge every four seconds."""
    slowdown = Slowdown()
    fail(slowdown, 20)
    challenges = 0
    for second in range(0, 60):
        for _ in range(50):
            try:
                slowdown.hold("a", float(second))
            except TooManyFailures:
                break
            challenges += 1
            slowdown.failed("a", float(second))
    assert challenges <= 60 / 4 + 3


def test_who_would_wait_too_long_is_told_when_to_come_back() -> None:
    slowdown = Slowdown()
    fail(slowdown, 7)
    assert [slowdown.hold("a", 0.0), slowdown.hold("a", 0.0)] == [0.0, 4.0]
    with pytest.raises(TooManyFailures, match=r"from your address have failed; try again in 8 s") as refused:
        slowdown.hold("a", 0.0)
    assert refused.value.code == "login-later"
    assert slowdown.hold("a", 8.0) == 0.0


def test_others_never_wait() -> None:
    slowdown = Slowdown()
    for number in range(100):
        fail(slowdown, 30, f"attacker {number}")
    assert slowdown.hold("b", 0.0) == 0.0
    assert slowdown.failed("b", 0.0) == (0.5, 1)


def test_failures_are_forgotten() -> None:
    slowdown = Slowdown()
    fail(slowdown, 4)
    slowdown.hold("a", 0.0)
    assert slowdown.hold("a", 0.0) == 0.5
    slowdown.hold("a", 30.0)
    assert slowdown.hold("a", 30.0) == 0.25
    slowdown.hold("a", 60.0)
    assert slowdown.hold("a", 60.0) == 0.0
    assert slowdown.failed("a", 10_000.0) == (0.5, 5)


def test_even_many_failures_are_forgotten_within_minutes() -> None:
    slowdown = Slowdown()
    fail(slowdown, 5000)
    slowdown.hold("a", 301.0)
    assert slowdown.hold("a", 301.0) == 0.0


def test_a_clock_that_jumps_back_does_no_harm() -> None:
    slowdown = Slowdown()
    fail(slowdown, 3, now=1000.0)
    assert [slowdown.hold("a", 1000.0), slowdown.hold("a", 1000.0)] == [0.0, 0.25]
    assert [slowdown.hold("a", 0.0), slowdown.hold("a", 0.0)] == [0.0, 0.25]
    assert slowdown.hold("a", 90.0) == 0.0
    assert slowdown.hold("a", 90.0) == 0.0


def test_the_places_that_are_remembered_are_bounded() -> None:
    slowdown = Slowdown()
    fail(slowdown, 3, "old")
    for number in range(10_000):
        slowdown.failed(str(number), 1.0)
        assert len(slowdown) <= 4096
    assert slowdown.failed("9999", 1.0).total == 2
    assert slowdown.failed("old", 1.0).total == 1


def test_places_that_were_quiet_are_dropped_as_others_come() -> None:
    slowdown = Slowdown()
    for number in range(100):
        slowdown.failed(str(number), 0.0)
    for number in range(100):
        slowdown.failed("busy", 1000.0 + number)
    assert len(slowdown) == 1


def test_a_crowd_takes_what_it_has_room_for() -> None:
    crowd: Crowd[int] = Crowd(3, 2)
    assert [crowd.come(1, "a"), crowd.come(2, "a"), crowd.come(3, "b")] == [None, None, None]
    assert len(crowd) == 3
    crowd.leave(2)
    crowd.leave(2)
    assert len(crowd) == 2


def test_who_takes_too_many_places_loses_his_own_oldest() -> None:
    crowd: Crowd[int] = Crowd(10, 2)
    assert [crowd.come(number, "a") for number in range(5)] == [None, None, 0, 1, 2]
    assert crowd.come(9, "b") is None
    assert len(crowd) == 3


def test_a_newcomer_gets_in_when_a_few_hold_everything() -> None:
    crowd: Crowd[str] = Crowd(100, 40)
    for number in range(50):
        for place in "xyz":
            crowd.come(f"{place}{number}", place)
    gone = crowd.come("kim", "desk")
    assert gone is not None
    assert gone[0] in "xyz"
    for number in range(500):
        assert crowd.come(f"more {number}", "xyz"[number % 3]) != "kim"


def test_among_equals_the_oldest_goes() -> None:
    crowd: Crowd[int] = Crowd(5, 2)
    assert [crowd.come(number, str(number)) for number in range(8)] == [None] * 5 + [0, 1, 2]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4), st.booleans()), max_size=80))
def test_a_crowd_stays_in_its_bounds(moves: list[tuple[int, int, bool]]) -> None:
    crowd: Crowd[int] = Crowd(6, 3)
    inside: dict[int, int] = {}
    for visitor, place, comes in moves:
        if comes and visitor not in inside:
            out = crowd.come(visitor, str(place))
            inside[visitor] = place
            assert out != visitor
            if out is not None:
                del inside[out]
        elif not comes:
            crowd.leave(visitor)
            inside.pop(visitor, None)
        assert len(crowd) == len(inside) <= 6
        assert all(list(inside.values()).count(place) <= 3 for place in range(5))


def test_what_a_door_offers() -> None:
    book = OnePassword("pencil", secrets.token_bytes)
    assert Door(book).methods(None) == (PLAIN,)
    assert Door(book).methods(bytes(32)) == (BOUND,)
    assert Door(None).methods(None) == Door(None).methods(bytes(32)) == ()


def test_doors_beside_each_other_share_what_they_count() -> None:
    door = Door(None)
    other = door.beside(OnePassword("pencil", secrets.token_bytes))
    assert other.book is not None
    assert door.book is None
    door.slowdown.failed("a", 0.0)
    door.crowd.come(1, "a")
    assert len(other.slowdown) == len(other.crowd) == 1
