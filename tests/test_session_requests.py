"""The queue of requests, without a session."""

from __future__ import annotations

import pytest

from kdsrv.errors import PeerError
from kdsrv.kd.manipulate import Manipulate
from kdsrv.sessions.requests import Requests, runs_target, time_to_work

READ = Manipulate.read_virtual(0x1000, 8).encode()
CONTINUE = Manipulate.continue2().encode()


@pytest.fixture
def requests() -> Requests:
    """One on the link, then another read, a Continue, a read."""
    requests = Requests()
    for payload in (READ, READ, CONTINUE, READ):
        requests.put(payload)
    requests.begin(requests.waiting.popleft(), 5.0)
    return requests


def test_one_is_on_the_link_and_the_others_wait(requests: Requests) -> None:
    assert list(requests.waiting) == [READ, CONTINUE, READ]
    assert (requests.api, requests.begun_at, requests.reply_begins) == (0x3130, 5.0, READ[:4])
    assert requests.end()
    assert (requests.api, requests.reply_begins) == (None, None)


def test_those_that_get_a_reply_are_lost(requests: Requests) -> None:
    assert requests.lose() == 1
    assert requests.lose() == 0
    assert requests.lose_all() == 2
    assert not requests.waiting


def test_a_continue_on_the_link_is_no_loss(requests: Requests) -> None:
    requests.begin(CONTINUE, 6.0)
    assert requests.runs_target
    assert not requests.is_replied
    assert requests.lose() == 0
    assert not requests.runs_target


def test_what_is_disowned_is_nobodys(requests: Requests) -> None:
    assert requests.disown() == b""
    assert not requests.waiting
    assert not requests.end()
    requests.begin(READ, 6.0)
    assert requests.disown() == b""
    assert requests.lose() == 0
    requests.begin(READ, 7.0)
    assert requests.lose() == 1


def test_the_continue_that_was_asked_for_last_is_told(requests: Requests) -> None:
    requests.put(CONTINUE)
    assert requests.disown() == CONTINUE


def test_a_break_in_behind_a_continue_goes_with_it(requests: Requests) -> None:
    assert requests.waiting_run_target
    requests.then_break_in = True
    requests.lose()
    assert requests.then_break_in
    requests.lose_all()
    assert not requests.then_break_in
    assert not requests.waiting_run_target
    requests.then_break_in = True
    requests.disown()
    assert not requests.then_break_in


def test_there_is_a_bound() -> None:
    requests = Requests()
    for _ in range(2000):
        requests.put(READ)
    with pytest.raises(PeerError):
        requests.put(READ)


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(PeerError):
        Requests().put(b"123")


@pytest.mark.parametrize(
    ("request_", "runs"),
    [
        (Manipulate.continue_(), True),
        (Manipulate.reboot(), True),
        (Manipulate.switch_processor(1), False),
        (Manipulate.write_breakpoints([1]), True),
        (Manipulate.write_breakpoints([1], status=0), False),
        (Manipulate.restore_breakpoints([1], status=0x80010001), True),
        (Manipulate.write_breakpoint(1), False),
    ],
)
def test_which_requests_run_the_target(request_: Manipulate, runs: bool) -> None:
    assert runs_target(request_.encode()) is runs
    assert not runs_target(Manipulate.write_breakpoints([1]).encode()[:8])


def test_only_a_search_and_a_filling_take_long() -> None:
    assert time_to_work(Manipulate.search_memory(0, 8 << 20, b"MZ").encode()) == 2
    assert time_to_work(Manipulate.fill_memory(0, 8 << 20, b"MZ").encode()) == 2
    assert time_to_work(Manipulate.search_memory(0, 1 << 60, b"MZ").encode()) == 600
    assert time_to_work(READ) == 0
    assert time_to_work(Manipulate.search_memory(0, 8 << 20, b"MZ").encode()[:8]) == 0
