"""What is said of a target while nothing is settled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdsrv.doctor.bit_rates import as_read
from kdsrv.kd.host_link import HostLink
from kdsrv.kd.link import LinkCounters, Phase
from kdsrv.kd.packets import INITIAL_ID, SYNC, PacketType, encode_control, encode_data
from kdsrv.sessions.link_status import Damaged, Deaf, Echoing, ResetsBouncing, Unheard
from kdsrv.sessions.outlook import MAX_SAMPLE, Facts, Lookout, outlook
from kdsrv.sessions.status import BreakingIn, Connected, Lost, Noise, Quiet, Running, RunState, Status

FACTS = Facts(Quiet(0.0), RunState.UNKNOWN, Phase.UNKNOWN, LinkCounters(), 0, silent_for=7.4)
RESET = encode_control(PacketType.RESET)
SPOKE = replace(FACTS, counters=LinkCounters(packets_received=9, bytes_received=900))
AT_57600 = as_read(RESET, 57600, 115200) * 3


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        (FACTS, Quiet(7)),
        (replace(FACTS, noise=12), Noise(12)),
        (replace(FACTS, noise=12, baud=9600), Noise(12, 9600)),
        (replace(FACTS, noise=12, counters=LinkCounters(packets_received=1)), Quiet(7)),
        (replace(FACTS, break_in_for=3.3, bytes_since_break_in=5), BreakingIn(3, 5)),
        (replace(FACTS, run_state=RunState.RUNNING, break_in_for=3.3), BreakingIn(3, 0)),
        (replace(FACTS, run_state=RunState.RUNNING, status=Running()), None),
        (replace(FACTS, run_state=RunState.HALTED), None),
        (replace(FACTS, status=Lost("it is away"), noise=12), Lost("it is away")),
        (replace(FACTS, noise=12, baud=115200, sample=AT_57600), Noise(12, 115200, (57600,))),
        # break-ins that a target does not answer: patience, then why
        (replace(SPOKE, break_in_for=5.9), BreakingIn(6, 0)),
        (replace(SPOKE, break_in_for=6.0), Deaf(6)),
        (replace(SPOKE, break_in_for=60.0, bytes_since_break_in=40), Deaf(60, 40)),
        (replace(SPOKE, run_state=RunState.RUNNING, break_in_for=6.0), Deaf(6)),
        (replace(FACTS, break_in_for=60.0), BreakingIn(60, 0)),
        (replace(FACTS, break_in_for=60.0, is_there=True), Deaf(60)),
        (replace(FACTS, is_there=True), Connected(7)),
        (replace(FACTS, break_in_for=5.9, noise=12), BreakingIn(6, 0)),
        (replace(FACTS, break_in_for=6.0, noise=12), Noise(12)),
        # what is wrong with or without a break-in
        (replace(SPOKE, resets_in_a_row=3), Quiet(7)),
        (replace(SPOKE, resets_in_a_row=4), ResetsBouncing(4)),
        (replace(SPOKE, resets_in_a_row=4, break_in_for=60.0), ResetsBouncing(4)),
        (replace(FACTS, sample=RESET + b"bb", noise=2, counters=LinkCounters(bytes_received=18)), Echoing(18)),
        (replace(FACTS, sample=RESET + b"bc", noise=2), Noise(2)),
        (replace(FACTS, sample=b"b" * 20, noise=20), Noise(20)),
        (replace(FACTS, sample=RESET), Quiet(7)),
        (replace(FACTS, spoke_for=2.9, counters=LinkCounters(bytes_received=160)), Quiet(7)),
        (replace(FACTS, spoke_for=3.0, counters=LinkCounters(bytes_received=160)), Unheard(3, 160)),
        # damage: from 5 packets and a share of 5 % on, and said until it falls below 2 %
        (replace(SPOKE, damaged_lately=4, packets_lately=4), Quiet(7)),
        (replace(SPOKE, damaged_lately=5, packets_lately=100), Damaged(5, 100)),
        (replace(SPOKE, damaged_lately=5, packets_lately=101), Quiet(7)),
        (replace(SPOKE, damaged_lately=5, packets_lately=101, status=Damaged(5, 100)), Damaged(5, 101)),
        (replace(SPOKE, damaged_lately=5, packets_lately=251, status=Damaged(5, 100)), Quiet(7)),
        (replace(SPOKE, damaged_lately=5, packets_lately=9, run_state=RunState.HALTED), None),
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


def test_a_sample_is_kept_until_kd_flows_and_never_more_than_its_bound() -> None:
    lookout, link = Lookout(0.0), HostLink()
    assert lookout.samples
    for _ in range(5):
        lookout.sample(b"\x80" * 1000)
    assert not lookout.samples
    assert look(lookout, link, 1.0).sample == b"\x80" * MAX_SAMPLE
    lookout.runs()
    assert look(lookout, link, 2.0).sample == b""
    lookout = Lookout(0.0)
    lookout.halted()
    assert not lookout.samples


def test_a_target_that_repeats_a_packet_and_answers_no_reset_is_unheard_since_it_spoke() -> None:
    lookout, link = Lookout(0.0), HostLink()
    link.resync(0.0)
    assert look(lookout, link, 1.0).spoke_for == 0
    for now in (2.0, 3.0, 4.0):
        list(link.receive(encode_data(PacketType.DEBUG_IO, INITIAL_ID, b"text" * 9), now))
        assert look(lookout, link, now).spoke_for == now - 2.0
    list(link.receive(RESET, 5.0))
    assert look(lookout, link, 5.0).spoke_for == 0


def test_a_medium_that_gives_packets_back_has_no_unheard_targets() -> None:
    lookout, link = Lookout(0.0), HostLink()
    link.in_datagrams = True
    list(link.receive(encode_control(PacketType.ACKNOWLEDGE) * 3, 1.0))
    assert [look(lookout, link, now).spoke_for for now in (1.0, 9.0)] == [0.0, 0.0]


def test_a_lookout_on_a_line_that_is_back_counts_from_there() -> None:
    link = HostLink()
    link.counters.damaged, link.counters.packets_received, link.counters.resets = 9, 20, 6
    lookout = Lookout(100.0, link.counters)
    facts = look(lookout, link, 101.0)
    assert (facts.damaged_lately, facts.packets_lately, facts.resets_in_a_row) == (0, 0, 0)
    assert lookout.samples


def test_damage_is_counted_lately() -> None:
    lookout, link = Lookout(0.0), HostLink()
    link.counters.damaged, link.counters.packets_received = 3, 5
    assert (look(lookout, link, 9.0).damaged_lately, look(lookout, link, 9.0).packets_lately) == (3, 8)
    look(lookout, link, 10.0)
    link.counters.damaged, link.counters.duplicates = 4, 2
    assert (look(lookout, link, 19.0).damaged_lately, look(lookout, link, 19.0).packets_lately) == (4, 11)
    assert (look(lookout, link, 20.0).damaged_lately, look(lookout, link, 20.0).packets_lately) == (1, 3)


def test_a_target_that_settles_is_told_its_damage_once_per_spell() -> None:
    lookout, link = Lookout(0.0), HostLink()
    link.counters.damaged, link.counters.packets_received = 6, 14
    assert lookout.damage(link, RunState.HALTED, 1.0) == Damaged(6, 20, RunState.HALTED)
    assert lookout.damage(link, RunState.HALTED, 2.0) is None
    assert lookout.damage(link, RunState.HALTED, 12.0) is None
    link.counters.packets_received += 1000
    assert lookout.damage(link, RunState.HALTED, 22.0) is None
    link.counters.damaged += 500
    assert lookout.damage(link, RunState.RUNNING, 23.0) == Damaged(500, 1500, RunState.RUNNING)


def test_a_target_that_counts_anew_by_itself_has_rebooted() -> None:
    lookout, link = Lookout(0.0), HostLink()
    assert not lookout.began_anew(link)  # before its first packet
    link.counters.packets_received = 9
    list(link.receive(RESET, 2.0))
    assert not lookout.began_anew(link)
    assert not lookout.began_anew(link)
    link.counters.packets_received = 10
    assert lookout.began_anew(link)
