"""The network is cut at random bytes, and neither the debugger on the bridge nor the target sees any difference."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from cut_session import Cut, Seen, Visit, run_script
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdsrv.client.breaks import Resumed

CUTS = 300
"""In one session; to be raised to 1000 and more by hand."""

# so many that the server still waits if none of the connections comes as far as resuming the session
MOST = 10
cuts = st.builds(Cut, st.booleans(), st.integers(1, 400) | st.integers(1, 15000))


def uncut(rounds: int) -> Seen:
    visit = Visit()
    for _ in range(rounds):
        run_script(visit)
    return visit.close()


@pytest.fixture(scope="module")
def once() -> Seen:
    return uncut(1)


@given(st.lists(cuts, min_size=1, max_size=MOST), st.sampled_from([0.0, 0.003, 0.2]))
@settings(max_examples=60)
@example([Cut(True, 1), Cut(False, 1), Cut(True, 5), Cut(False, 5)], 0.01)
@example([Cut(False, at) for at in range(60, 360, 30)], 0.003)
@example([Cut(True, at) for at in range(60, 860, 80)], 0.003)
def test_cuts_at_any_byte_change_nothing(once: Seen, cuts: list[Cut], latency: float) -> None:
    visit = Visit(cuts, latency)
    run_script(visit)
    assert visit.close() == once


def test_a_session_that_is_cut_hundreds_of_times() -> None:
    dice = Random(1)

    def always() -> Iterator[Cut]:
        while True:
            yield Cut(dice.random() < 0.5, round(dice.choice([400, 2000, 6000]) * dice.random()) + 1)

    visit, rounds = Visit(always()), 0
    while visit.endpoint.connected <= CUTS:
        run_script(visit)
        rounds += 1
    resumed = sum(isinstance(news, Resumed) for news in visit.news)
    assert visit.close() == uncut(rounds)
    assert resumed > CUTS / 3


@pytest.mark.parametrize("seconds", [0.1, 0.105, 0.11, 0.115, 0.12, 0.2, 0.22])
def test_a_connection_that_dies_without_a_sign(once: Seen, seconds: float) -> None:
    """The client notices, and comes back by another one while the server still takes the old one for good."""
    visit = Visit()
    visit.lab.clock.callLater(seconds, visit.fall_silent)
    run_script(visit)
    assert sum(isinstance(news, Resumed) for news in visit.news) == 1
    assert len(visit.lab.server._attached) == 1
    assert visit.close() == once
