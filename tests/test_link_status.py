"""What is said of a line that carries something, but not what a debugger wants."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kdsrv.errors import PeerError
from kdsrv.sessions.link_status import (
    LINK_READERS,
    LINK_TICKING,
    Damaged,
    Deaf,
    Echoing,
    Rebooted,
    ResetsBouncing,
    Unheard,
)
from kdsrv.sessions.net_status import NetWaiting
from kdsrv.sessions.news import is_news
from kdsrv.sessions.status import Connected, RunState, Status, status_from_json

EACH = [
    (
        Deaf(12.0),
        "unknown",
        "the target spoke KD, but has not answered break-ins for 12 s and says nothing: it hangs, sleeps or is off",
    ),
    (
        Deaf(12.0, 40),
        "unknown",
        "the target spoke KD, but has not answered break-ins for 12 s while 40 bytes came from it: it is too busy, or "
        "does not hear this host",
    ),
    (
        Unheard(4.0, 160),
        "unknown",
        "160 bytes of KD packets came, but for 4 s no RESET was answered: what is sent from here does not reach the "
        "target",
    ),
    (
        ResetsBouncing(5),
        "unknown",
        "5 RESETs of the target in a row and no packet: it does not come out of beginning anew; does a second "
        "debugger, or something that echoes, sit on the line?",
    ),
    (
        Echoing(18),
        "unknown",
        "the line echoes: the 18 bytes that came are what was sent; no target is at its other end",
    ),
    (
        Damaged(12, 80, RunState.HALTED),
        "halted",
        "12 of the last 80 packets of the target came damaged: a bad cable, bytes lost at this rate, or another "
        "program that reads this port too",
    ),
    (
        Rebooted(),
        "unknown",
        "the target has started anew: it rebooted, or had given its debugger up; what was asked is lost",
    ),
]


@pytest.mark.parametrize(("status", "run_state", "sentence"), EACH)
def test_each_status(status: Status, run_state: str, sentence: str) -> None:
    assert status.run_state == run_state
    assert status.sentence() == sentence
    value = json.loads(json.dumps(status.to_json()))
    assert (value["kind"], value["run_state"], value["sentence"]) == (status.kind, run_state, sentence)
    assert status_from_json(value) == status


def test_every_kind_is_among_them() -> None:
    assert {status.kind for status, _, _ in EACH} == set(LINK_READERS)


@pytest.mark.parametrize(("status", "run_state", "sentence"), EACH)
def test_a_field_that_does_not_fit_is_refused(status: Status, run_state: str, sentence: str) -> None:
    good = status.to_json()
    for name in good.keys() - {"kind", "run_state", "sentence"}:
        with pytest.raises(PeerError, match=f"'{name}' in its status"):
            status_from_json({**good, name: ["wrong"]})


def test_only_another_kind_is_news() -> None:
    assert set(LINK_READERS) > LINK_TICKING
    assert not is_news(Deaf(12.0), Deaf(13.0, 5))
    assert not is_news(Damaged(5, 20), Damaged(6, 21))
    assert is_news(Deaf(12.0), Damaged(5, 20))


def test_what_begins_to_ask_questions_is_news() -> None:
    for early, late in ((NetWaiting(50000, 4.0), NetWaiting(50000, 6.0)), (Connected(5.0), Connected(6.0))):
        assert is_news(early, late)
        assert not is_news(late, early), "one that is silent and speaks in turns fills no log"
        assert not is_news(late, replace(late, seconds=9.0))
