"""Whose datagrams are looked at when strangers send more than can be looked at."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kdsrv.transports.net_budget import StrangerBudget

FLOOD = 20_000
"""Datagrams a second."""


def looked_at(budget: StrangerBudget, host: str, port: int, begin: float, seconds: float) -> int:
    """How many of a flood are looked at."""
    count = int(FLOOD * seconds)
    return sum(budget.allows(host, port, 1, begin + number / FLOOD) for number in range(count))


def test_a_flood_of_one_source_gets_few_looks() -> None:
    assert looked_at(StrangerBudget(), "192.0.2.66", 4444, 100.0, 10.0) <= 60


def test_a_flood_keeps_neither_other_hosts_nor_its_own_from_being_heard() -> None:
    budget = StrangerBudget()
    heard = {"other host": 0, "same host": 0}
    for second in range(100, 130):
        looked_at(budget, "192.0.2.66", 4444, second, 1.0)
        if second % 3 == 0:
            heard["other host"] += budget.allows("192.0.2.7", 50000, 1, second + 1.0)
            heard["same host"] += budget.allows("192.0.2.66", 50000, 1, second + 1.0)
    # by chance a target may fall into a share with the flood; not into both
    assert heard["other host"] == heard["same host"] == 10


def test_a_flood_from_everywhere_is_bounded_and_lets_some_through() -> None:
    budget = StrangerBudget()
    begin, looks = 100.0, 0
    for number in range(2 * FLOOD):
        looks += budget.allows(f"198.51.{number % 251}.{number % 241}", number % 60_000, 4, begin + number / FLOOD)
    assert 1000 < looks * 4 <= 400 + 4000 * 2


def test_more_keys_than_the_budget_holds_are_tried_all_the_same() -> None:
    budget = StrangerBudget()
    assert budget.allows("192.0.2.7", 50000, 1000, 100.0)
    assert not budget.allows("192.0.2.8", 50000, 1000, 100.1)
    assert budget.allows("192.0.2.8", 50000, 1000, 101.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 300), st.floats(0, 1)), max_size=200))
def test_looks_never_exceed_the_rate(steps: list[tuple[int, int, float]]) -> None:
    budget = StrangerBudget()
    now, begin, looks = 50.0, 50.0, 0
    for host, wanted, pause in steps:
        now += pause
        looks += wanted if budget.allows(str(host), 1, wanted, now) else 0
        assert looks <= 400 + 4000 * (now - begin) + 1e-6
