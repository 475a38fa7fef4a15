"""The simulated target on KDNET: its OFFERs, what it takes for a RESPONSE, its data channel, and a bad network."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from net_debugger import HOST, KEY, NetDebugger, control, request

from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import HEADER, PacketType
from kdsrv.kdnet.control import NOWHERE, Address, ConnectCheck, Response
from kdsrv.kdnet.datagrams import Channel, Seal
from kdsrv.kdnet.keys import NetKey
from kdsrv.kdnet.target import NetTarget
from kdsrv.kdnet.target_faults import Carried, FaultyNet, NetFaultRates
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.options import SimOptions

OWN: Address = ("10.0.0.2", 50000)
OTHER: Address = ("10.0.0.9", 50000)
START = 100.0


def make_target(host: Address | None = HOST, *, state: str = "halted", key: NetKey = KEY, **more: Any) -> NetTarget:
    return NetTarget(key, host, own=OWN, options=SimOptions(state=state), now=START, **more)


class Visit:
    """A target and a debugger that has attached."""

    def __init__(self, target: NetTarget | None = None, **more: Any) -> None:
        self.target = make_target(**more) if target is None else target
        self.net = FaultyNet(self.target, NetFaultRates(), Random(1))
        self.debugger = NetDebugger(self.net, START)


def quiet_debugger(target: NetTarget) -> NetDebugger:
    """A debugger that leaves OFFERs alone."""
    return NetDebugger(target, START, answers=False)


def ids(payloads: list[bytes]) -> list[tuple[int, int]]:
    """Types and ids of KD packets."""
    return [HEADER.unpack_from(payload)[1:4:2] for payload in payloads if len(payload) >= HEADER.size]


def kinds(recorded: list[Carried]) -> list[tuple[bool, int]]:
    """Of recorded datagrams: which way they went and how long they were."""
    return [(carried.to_target, len(carried.data)) for carried in recorded]


def test_offers_come_every_three_seconds_with_a_key_that_counts() -> None:
    debugger = quiet_debugger(make_target())
    assert [datagram.sequence for datagram, _ in debugger.offers] == [3]
    assert debugger.offer.is_bound is False
    debugger.wait(2.9)
    assert len(debugger.offers) == 1
    debugger.wait(30.1)
    assert [datagram.sequence for datagram, _ in debugger.offers] == list(range(3, 39, 3))
    offers = [offer for _, offer in debugger.offers]
    counters = [offer.counter - offers[0].counter & 0xFFFFFFFF for offer in offers]
    assert counters == list(range(12))
    assert len({offer.base for offer in offers}) == 1


def test_what_an_offer_names() -> None:
    visit = Visit()
    visit.debugger.wait(3.0)
    first, second = (offer for _, offer in visit.debugger.offers)
    assert (first.own, first.host, first.bound) == (OWN, HOST, NOWHERE)
    assert (second.own, second.host, second.bound) == (OWN, HOST, HOST)
    assert kinds(list(visit.net.recorded))[:3] == [(False, 374), (True, 358), (False, 54)]


def test_a_short_offer_names_nobody() -> None:
    target = make_target()
    target.offer_size = 34
    visit = Visit(target)
    assert visit.debugger.offer.own == ("::", 0)
    assert visit.target.bound == HOST


@pytest.mark.parametrize("version", [1, 2, 4, 5, 6])
def test_the_version_is_in_all_that_is_sent(version: int) -> None:
    visit = Visit(version=version)
    visit.debugger.wait(3.0)
    assert {carried.data[4] for carried in visit.net.recorded} == {version}


def test_a_host_of_another_version_is_heard_all_the_same() -> None:
    visit = Visit()
    visit.debugger.version = 9
    assert visit.debugger.ask(Manipulate.get_version()).version.build_number == 17134


def test_a_version_is_one_byte() -> None:
    with pytest.raises(ValueError, match="from 0 to 255, not 256"):
        make_target(version=256)


def test_the_way_into_a_stopped_target() -> None:
    """Connect check, then at once the state change that nobody had acknowledged."""
    visit = Visit()
    assert visit.debugger.checks == [ConnectCheck(HOST[0])]
    assert ids(visit.debugger.heard) == [(PacketType.STATE_CHANGE64, 0)]
    assert visit.target.link.backlog == 0
    assert visit.debugger.ask(Manipulate.get_version()).version.build_number == 17134
    assert ids(visit.debugger.heard)[1:] == [(PacketType.ACKNOWLEDGE, 0x80000000), (PacketType.STATE_MANIPULATE, 2)]


def test_the_way_into_a_running_target() -> None:
    """As WinDbg goes: RESEND, which a running target ignores, break-in, RESET."""
    visit = Visit(state="running")
    debugger = visit.debugger
    debugger.say(control(PacketType.RESEND))
    assert ids(debugger.heard) == []
    debugger.acknowledges = False
    debugger.break_in()
    debugger.say(control(PacketType.RESET, 0x80000000))
    assert ids(debugger.heard) == [
        (PacketType.STATE_CHANGE64, 0), (PacketType.RESET, 0), (PacketType.STATE_CHANGE64, 0),
    ]  # fmt: skip


def test_data_datagrams_are_numbered_from_one_without_gaps() -> None:
    visit = Visit()
    visit.debugger.acknowledges = False
    visit.debugger.say(control(PacketType.RESEND))
    visit.debugger.say(control(PacketType.RESET, 0x80000000))
    assert visit.debugger.high == len(visit.debugger.heard)
    visit.debugger.wait(5.0)
    assert visit.debugger.high == len(visit.debugger.heard) >= 6


def test_a_data_datagram_counts_only_if_its_number_grows() -> None:
    visit = Visit()
    asked = [carried for carried in visit.net.recorded if carried.to_target][-1]
    visit.net.replay(asked, visit.debugger.now)
    assert visit.target.counters.stale == 1
    visit.debugger.ask(Manipulate.get_version())
    assert visit.target.counters.stale == 1


def test_memory_comes_in_pieces_since_version_5() -> None:
    for version, most in ((4, 1360), (5, 1096)):
        visit = Visit(version=version)
        got = visit.debugger.ask(Manipulate.read_virtual(KERNEL_BASE, 3000))
        assert got["actual"] == len(got.data) == most
        assert got.data == visit.target.target.memory.read_virtual(KERNEL_BASE, most)
        largest = max(len(carried.data) for carried in visit.net.recorded)
        assert largest == {4: 1462, 5: 1206}[version]


def test_a_context_comes_whole_or_in_pieces_as_it_is_asked_for() -> None:
    visit = Visit()
    whole = visit.debugger.ask(Manipulate.get_context()).data
    assert len(whole) == 1232
    first = visit.debugger.ask(Manipulate.get_context_ex(0, 1232))
    assert first["bytes_copied"] == 1096
    rest = visit.debugger.ask(Manipulate.get_context_ex(1096, 136))
    assert first.data + rest.data == whole


def test_a_poke_is_answered_at_once_and_to_its_sender() -> None:
    target = make_target(None)
    first, second = NetDebugger(target, START), NetDebugger(target, START, address=OTHER)
    assert first.offers == second.offers == []
    first.poke()
    assert target.bound == HOST
    assert first.checks == [ConnectCheck(HOST[0])]
    second.answers = False
    second.poke()
    assert second.offer.bound == HOST
    assert target.bound == HOST
    second.answers = True
    second.respond(3, second.offer)
    second.pump()
    assert target.bound == OTHER
    assert second.checks == [ConnectCheck(OTHER[0])]
    first.offers.clear()
    first.wait(6.0)
    assert first.offers == []
    assert first.elsewhere[0][1] == OTHER


def test_each_response_makes_a_new_key_and_ids_go_on() -> None:
    visit = Visit()
    debugger = visit.debugger
    debugger.ask(Manipulate.get_version())
    debugger.wait(3.0)
    debugger.respond(*debugger.last)
    debugger.pump()
    assert len(debugger.checks) == 2
    debugger.heard.clear()
    debugger.ask(Manipulate.get_version())
    assert ids(debugger.heard)[-1] == (PacketType.STATE_MANIPULATE, 4)


def test_a_response_counts_once() -> None:
    """Played back, a RESPONSE would bring a key back into force under which old requests could be played back too."""
    visit = Visit()
    visit.debugger.wait(3.0)
    visit.debugger.respond(*visit.debugger.last)
    for carried in [carried for carried in visit.net.recorded if len(carried.data) == 358]:
        visit.net.replay(carried, visit.debugger.now)
    assert visit.target.counters.responses == 2
    assert visit.debugger.ask(Manipulate.get_version()).version.build_number == 17134


@pytest.mark.parametrize(("later", "taken"), [(9, True), (10, False)])
def test_an_old_offer_may_be_answered_if_it_is_recent(later: int, taken: bool) -> None:
    target = make_target()
    debugger = quiet_debugger(target)
    first = debugger.last
    debugger.wait(3.0 * later)
    debugger.respond(*first)
    assert (target.bound == HOST) is taken


def test_a_client_key_of_nobody_is_not_answered() -> None:
    target = make_target()
    debugger = quiet_debugger(target)
    sequence, offer = debugger.last
    debugger.respond(sequence, type(offer)(bytes(32), offer.own, offer.host))
    assert (target.bound, target.counters.stale) == (None, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1] + bytes((data[-1] ^ 1,)),
        lambda data: data[:4] + b"\x04" + data[5:],
        lambda data: data[:5] + b"\x00" + data[6:],
        lambda data: data[:5] + b"\x02" + data[6:],
        lambda data: data[:-16],
        lambda data: data[:20],
        lambda data: b"",
    ],
)
def test_what_is_not_authentic_changes_nothing(change: Any) -> None:
    target = make_target()
    debugger = quiet_debugger(target)
    seal = Seal(KEY.control, KEY.mac)
    data = seal.seal(5, Channel.CONTROL, 3, True, Response(debugger.offer.client_key, bytes(32)).encode())
    target.receive(change(data), HOST, debugger.now)
    assert (target.bound, target.counters.foreign) == (None, 1)
    target.receive(data, HOST, debugger.now)
    assert target.bound == HOST


def test_what_is_reflected_is_not_taken() -> None:
    visit = Visit()
    for carried in [carried for carried in visit.net.recorded if not carried.to_target]:
        visit.target.receive(carried.data, HOST, visit.debugger.now)
    assert visit.target.counters.foreign == 3
    assert visit.target.counters.pokes == 0


def test_a_reboot_is_a_new_target_to_the_host() -> None:
    visit = Visit(state="running")
    debugger = visit.debugger
    old = debugger.offer
    debugger.break_in()
    debugger.ask(Manipulate.get_version())
    visit.target.target.power_cycle(debugger.now)
    debugger.offers.clear()
    debugger.heard.clear()
    debugger.wait(0.4)
    debugger.say(control(PacketType.RESEND))
    assert (debugger.offers, debugger.heard) == ([], [])
    debugger.wait(0.2)
    datagram, new = debugger.offers[0]
    assert (datagram.sequence, new.bound) == (3, NOWHERE)
    assert new.base != old.base
    assert ids(debugger.heard)[0] == (PacketType.DEBUG_IO, 0)


def test_a_request_to_reboot_is_acknowledged_before() -> None:
    visit = Visit()
    visit.debugger.heard.clear()
    visit.debugger.send(Manipulate.reboot())
    assert ids(visit.debugger.heard) == [(PacketType.ACKNOWLEDGE, 0x80000000)]
    assert visit.target.bound is None


def test_offers_can_be_delayed() -> None:
    target = make_target()
    target.delay_offers(START + 7.0)
    debugger = NetDebugger(target, START)
    debugger.wait(6.9)
    assert debugger.offers == []
    debugger.wait(0.2)
    assert len(debugger.checks) == 1


def test_the_host_may_have_another_address() -> None:
    target = make_target()
    debugger = NetDebugger(target, START, address=OTHER)
    debugger.wait(3.0)
    assert debugger.offers == []
    target.host = OTHER
    debugger.wait(3.0)
    assert (target.bound, debugger.offer.host) == (OTHER, OTHER)


def test_a_host_with_an_ipv6_address() -> None:
    address = ("fd00::1", 50000)
    visit = NetDebugger(make_target(address), START, address=address)
    assert visit.offer.host == address
    assert visit.checks == [ConnectCheck("0.0.0.0")]


def test_two_targets_with_keys_of_their_own_at_one_host() -> None:
    """A debugger cannot open what the other target sends, nor the target what is not for it."""
    other_key = NetKey.parse("1.2.3.4")
    first, second = make_target(), make_target(key=other_key)
    debugger = NetDebugger(first, START)
    other = NetDebugger(second, START, key=other_key)
    second.offer()
    said = second.take_output()
    assert said is not None
    debugger.line.receive(said[0], said[1], debugger.now)
    assert (first.counters.foreign, other.foreign, debugger.foreign) == (1, 0, 0)


def test_a_lost_response_is_seen_from_the_next_offer() -> None:
    target = make_target()
    net = FaultyNet(target, NetFaultRates(), Random(1))
    net.drop_next(to_target=1)
    debugger = NetDebugger(net, START)
    assert debugger.checks == []
    debugger.wait(3.0)
    assert [offer.is_bound for _, offer in debugger.offers] == [False, False]
    assert len(debugger.checks) == 1


def test_datagrams_lost_by_choice() -> None:
    target = make_target()
    net = FaultyNet(target, NetFaultRates(), Random(1))
    net.loses = lambda carried: not carried.to_target and len(carried.data) > 200 and carried.data[5] == Channel.DATA
    debugger = NetDebugger(net, START)
    debugger.wait(3.5)
    assert debugger.packets == []
    net.loses = lambda carried: False
    debugger.wait(1.0)
    assert [packet.type for packet in debugger.packets] == [PacketType.STATE_CHANGE64]


def test_silence_ends_by_itself() -> None:
    visit = Visit()
    debugger = visit.debugger
    visit.net.silence(debugger.now + 8.0)
    debugger.offers.clear()
    debugger.wait(7.9)
    assert debugger.offers == []
    debugger.wait(3.0)
    assert debugger.offer.is_bound


def test_what_was_recorded_can_be_played_back_to_the_host() -> None:
    visit = Visit()
    for carried in [carried for carried in visit.net.recorded if not carried.to_target]:
        visit.net.replay(carried, visit.debugger.now)
    visit.debugger.pump()
    assert len(visit.debugger.offers) == 2
    assert visit.debugger.foreign == 2


def test_what_comes_too_late_is_overtaken() -> None:
    visit = Visit()
    visit.net.rates = NetFaultRates(reorder=1.0)
    visit.debugger.send(Manipulate.get_version())
    assert len(visit.debugger.heard) == 2
    visit.debugger.wait(0.05)
    assert ids(visit.debugger.heard)[-1] == (PacketType.STATE_MANIPULATE, 2)


@pytest.mark.parametrize("name", ["loss", "damage", "duplicate", "reorder"])
def test_chances_are_from_0_to_1(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is a chance"):
        NetFaultRates(**{name: 1.5})


chances = st.sampled_from([0.0, 0.1, 0.25])


@settings(max_examples=25)
@given(st.builds(NetFaultRates, loss=chances, damage=chances, duplicate=chances, reorder=chances), st.integers(0, 99))
def test_memory_is_read_rightly_over_a_bad_network(rates: NetFaultRates, seed: int) -> None:
    visit = Visit()
    visit.net = FaultyNet(visit.target, rates, Random(seed))
    visit.debugger.line = visit.net
    for number in range(6):
        address = KERNEL_BASE + 0x400 * number
        got = visit.debugger.ask(Manipulate.read_virtual(address, 0x200 + number))
        assert (got["address"], got["status"]) == (address, 0)
        assert got.data == visit.target.target.memory.read_virtual(address, 0x200 + number)


def test_a_loss_in_a_real_session() -> None:
    """As in a recording of WinDbg and a version 4 target: what the target sends when its reply got lost, and to what.

    The reply to GetContext gets lost; WinDbg asks anew, is refused, asks again, and has the ids put right by a RESET.
    """
    visit = Visit(version=4)
    debugger = visit.debugger
    for _ in range(0x2E):
        debugger.ask(Manipulate.get_version())
    debugger.acknowledges = False
    debugger.heard.clear()
    visit.net.loses = lambda carried: len(carried.data) == 1334
    asked = Manipulate.get_context().encode()
    debugger.say(request(0x8000005C, asked))
    assert ids(debugger.heard) == [(PacketType.ACKNOWLEDGE, 0x8000005C)]
    visit.net.loses = lambda carried: False
    debugger.wait(0.485)
    assert len(debugger.heard) == 1
    debugger.repeats = False
    debugger.say(request(0x8000005E, asked))
    assert ids(debugger.heard[1:]) == [(PacketType.RESEND, 0)]
    debugger.wait(0.0155)
    debugger.say(request(0x8000005E, asked))
    assert ids(debugger.heard[2:]) == [(PacketType.ACKNOWLEDGE, 0x8000005E), (PacketType.STATE_MANIPULATE, 0x60)]
    debugger.say(control(PacketType.RESET, 0x80000060))
    assert ids(debugger.heard[4:]) == [(PacketType.RESET, 0x60), (PacketType.STATE_MANIPULATE, 0x60)]
    debugger.say(control(PacketType.ACKNOWLEDGE, 0x60))
    debugger.wait(2.0)
    assert len(debugger.heard) == 6
