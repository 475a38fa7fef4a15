"""What is said of a target while nothing is settled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdsrv.kd.host_link import HostLink
from kdsrv.kd.link import LinkCounters, Phase
from kdsrv.kd.packets import INITIAL_ID, SYNC, PacketType, encode_control, encode_data
from kdsrv.sessions.outlook import Facts, Lookout, outlook
from kdsrv.sessions.status import BreakingIn, Lost, Noise, Quiet, Running, RunState, Status

FACTS = Facts(Quiet(0.0), RunState.UNKNOWN, Phase.UNKNOWN, LinkCounters(), 0, silent_for=7.4)
RESET = encode_control(PacketType.RESET)


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        (FACTS, Quiet(7)),
        (replace(FACTS, noise=12), Noise(12)),
        (replace(FACTS, noise=12, counters=LinkCounters(packets_received=1)), Quiet(7)),
        (replace(FACTS, break_in_for=3.3, bytes_since_break_in=5), BreakingIn(3, 5)),
        (replace(FACTS, run_state=RunState.RUNNING, break_in_for=3.3), BreakingIn(3, 0)),
        (replace(FACTS, run_state=RunState.RUNNING, status=Running()), None),
        (replace(FACTS, run_state=RunState.HALTED), None),
        (replace(FACTS, status=Lost("it is away"), noise=12), Lost("it is away")),
        (replace(FACTS, unanswered="no answer"), Lost("no answer")),
        (replace(FACTS, unanswered="no answer", phase=Phase.RESETTING), Quiet(7)),
    ],
)
def test_facts_make_a_status(facts: Facts, status: Status | None) -> None:
    assert outlook(facts) == status


def look(lookout: Lookout, link: HostLink, now: float) -> Facts:
    return lookout.facts(link, RunState.UNKNOWN, Quiet(0.0), now)


def test_facts_are_counted_from_what_happened() -> None:
    lookout, link = Lookout(10.0), HostLink()
    list(link.receive(b"\x80" * 5, 12.0))
    lookout.heard_at = 12.0
    lookout.broke_in(link, 13.0)
    list(link.receive(b"\x80" * 3, 14.0))
    facts = look(lookout, link, 15.5)
    assert (facts.silent_for, facts.break_in_for, facts.bytes_since_break_in, facts.noise) == (3.5, 2.5, 3, 8)
    lookout.halted()
    assert look(lookout, link, 16.0).break_in_for is None


def test_facts_do_not_change_afterwards() -> None:
    lookout, link = Lookout(0.0), HostLink()
    facts = look(lookout, link, 1.0)
    list(link.receive(b"\x80" * 5, 2.0))
    assert facts.counters.bytes_received == 0


def test_resets_in_a_row_are_those_that_no_packet_followed() -> None:
    lookout, link = Lookout(0.0), HostLink()
    for number in range(1, 4):
        list(link.receive(RESET, 10.0 * number))
        assert look(lookout, link, 10.0 * number).resets_in_a_row == number
    list(link.receive(encode_data(PacketType.TRACE_IO, INITIAL_ID | SYNC, b"text"), 40.0))
    assert look(lookout, link, 40.0).resets_in_a_row == 0
    list(link.receive(RESET, 50.0))
    assert look(lookout, link, 50.0).resets_in_a_row == 1
