"""The host's end of KDNET: whom it answers, which key is in force, and what it drops."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdnet_vectors import DATA_KEY, HOST_KEY, KEY, VECTORS

from kdsrv.kd.api import Api
from kdsrv.kd.link import Event, GaveUp
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import MANIPULATE, Packet, PacketType
from kdsrv.kdnet.control import NOWHERE, POKE, Address, ConnectCheck, Offer, Response
from kdsrv.kdnet.datagrams import Channel, Datagram, Seal, channel_of
from kdsrv.kdnet.events import (
    AddressChanged,
    Connected,
    Heard,
    NetEvent,
    Payload,
    Silent,
    Stranger,
    TakenOver,
)
from kdsrv.kdnet.host import NetHost
from kdsrv.kdnet.keys import NetKey
from kdsrv.kdnet.link import NetLink
from kdsrv.kdnet.target import NetTarget
from kdsrv.kdnet.target_faults import FaultyNet, NetFaultRates

HERE: Address = ("10.0.0.1", 50000)
THERE: Address = ("10.0.0.2", 50000)
ELSEWHERE: Address = ("10.0.0.3", 50000)
NET_KEY = NetKey.parse(KEY)
ACK = VECTORS["ACK"].payload
POOL = 0xFFFF_8A00_0010_0000


class Machine:
    """A target as far as datagrams go; ``boot`` gives it another client key, as a boot does."""

    def __init__(self, key: NetKey = NET_KEY, boot: int = 1, version: int = 5) -> None:
        self._key = key
        self._control = Seal(key.control, key.mac)
        self._version = version
        self._base = bytes([boot]) * 28
        self._counter = 100
        self._sequence = 0
        self._sent = 0
        self._data: Seal | None = None
        self.last_response = b""

    def offer(self, bound: Address = NOWHERE, *, host: Address = HERE) -> bytes:
        self._sequence += 3
        self._counter = (self._counter + 1) & 0xFFFFFFFF
        offer = Offer(self._counter.to_bytes(4, "little") + self._base, THERE, host, bound)
        return self._control.seal(self._version, Channel.CONTROL, self._sequence, False, offer.encode())

    def accept(self, data: bytes) -> bytes:
        """Take a RESPONSE; the connect check."""
        opened = self._control.open(data)
        assert opened is not None
        assert opened.from_host
        assert (opened.version, opened.sequence) == (self._version, self._sequence)
        response = Response.decode(opened.payload)
        assert response is not None
        assert response.client_key == self._counter.to_bytes(4, "little") + self._base
        self.last_response = opened.payload
        self._data = Seal(self._key.data_key(opened.payload), self._key.mac)
        self._sent = 0
        return self.say(ConnectCheck(HERE[0]).encode())

    def say(self, payload: bytes, *, from_host: bool = False, sequence: int | None = None) -> bytes:
        assert self._data is not None
        self._sent += 1
        return self._data.seal(self._version, Channel.DATA, sequence or self._sent, from_host, payload)

    def hear(self, data: bytes) -> Datagram | None:
        assert self._data is not None
        return self._data.open(data)


def make_host(**options: object) -> NetHost:
    return NetHost(NET_KEY, random=Random(1).randbytes, **options)  # type: ignore[arg-type]


def receive(host: NetHost, data: bytes, source: Address = THERE, now: float = 0.0) -> list[NetEvent]:
    return list(host.receive(data, source, now))


def answer_to(host: NetHost, offer: bytes, source: Address = THERE, now: float = 0.0) -> bytes | None:
    """The RESPONSE to an OFFER, None if there is none."""
    assert receive(host, offer, source, now) == []
    output = host.take_output()
    assert all(destination == source for _, destination in output)
    return output[0][0] if output else None


def connect(host: NetHost, machine: Machine, now: float = 0.0, source: Address = THERE) -> list[NetEvent]:
    response = answer_to(host, machine.offer(), source, now)
    assert response is not None
    return receive(host, machine.accept(response), source, now)


def sent(host: NetHost, machine: Machine, payload: bytes) -> Datagram | None:
    """What the machine hears when the host sends something."""
    host.send(payload)
    output = host.take_output()
    return machine.hear(output[0][0]) if output else None


# The first connection


def test_the_known_exchange() -> None:
    host = NetHost(NET_KEY, random=lambda size: HOST_KEY[:size])
    assert answer_to(host, VECTORS["OFFER"].datagram) == VECTORS["RESPONSE"].datagram
    assert receive(host, VECTORS["CONNECT_CHECK"].datagram) == [Connected(THERE, 5, False)]
    names = ["BREAKIN", "ACK", "RESEND", "RESET", "GETVERSION_REQ"]
    for name in names:
        host.send(VECTORS[name].payload)
    assert host.take_output() == [(VECTORS[name].datagram, THERE) for name in names]
    assert (host.peer, host.version) == (THERE, 5)
    counters = host.counters
    assert (counters.authenticated, counters.offers, counters.responses, counters.sent) == (2, 1, 1, 5)
    assert counters.refused == 0


def test_the_known_poke() -> None:
    host = make_host(target=THERE)
    assert list(host.expire(0.0)) == []
    assert host.take_output() == [(VECTORS["POKE_EMPTY"].datagram, THERE)]


@pytest.mark.parametrize("version", [1, 2, 4, 5, 9])
def test_the_version_is_the_targets(version: int) -> None:
    host, machine = make_host(), Machine(version=version)
    assert connect(host, machine) == [Connected(THERE, version, False)]
    heard = sent(host, machine, b"b")
    assert heard is not None
    assert heard.version == version == host.version


def test_nothing_is_up_before_the_target_shows_that_it_has_the_key() -> None:
    host, machine = make_host(), Machine()
    assert answer_to(host, machine.offer()) is not None
    assert host.peer is None
    host.send(b"b")
    assert host.take_output() == []
    assert host.counters.unsent == 1


def test_a_packet_shows_it_as_well_when_the_check_got_lost() -> None:
    host, machine = make_host(), Machine()
    response = answer_to(host, machine.offer())
    assert response is not None
    machine.accept(response)
    assert receive(host, machine.say(ACK)) == [Connected(THERE, 5, False), Payload(ACK)]


def test_a_target_that_is_bound_to_a_debugger_of_the_past_is_answered() -> None:
    host, machine = make_host(), Machine()
    response = answer_to(host, machine.offer(("10.0.0.99", 50000)))
    assert response is not None
    assert receive(host, machine.accept(response)) == [Connected(THERE, 5, False)]


def test_a_response_or_its_check_that_got_lost_is_made_up_for_by_the_next_offer() -> None:
    host, machine = make_host(), Machine()
    assert answer_to(host, machine.offer(), now=0.0) is not None
    response = answer_to(host, machine.offer(), now=3.0)
    assert response is not None
    machine.accept(response)
    response = answer_to(host, machine.offer(HERE), now=6.0)
    assert response is not None
    assert receive(host, machine.accept(response), now=6.0) == [Connected(THERE, 5, False)]


def test_a_check_that_comes_late_counts_though_the_next_offer_was_answered_already() -> None:
    host, machine = make_host(), Machine()
    response = answer_to(host, machine.offer(), now=0.0)
    assert response is not None
    late = machine.accept(response)
    assert answer_to(host, machine.offer(), now=3.0) is not None
    assert receive(host, late, now=3.1) == [Connected(THERE, 5, False)]


def test_the_source_is_what_counts_and_not_what_an_offer_says() -> None:
    host, machine = make_host(), Machine()
    nat = ("192.0.2.7", 31000)
    assert connect(host, machine, source=nat) == [Connected(nat, 5, False)]
    host.send(b"b")
    assert [destination for _, destination in host.take_output()] == [nat]


def test_the_check_may_come_from_another_port_but_not_from_another_machine() -> None:
    host, machine = make_host(), Machine()
    response = answer_to(host, machine.offer())
    assert response is not None
    check = machine.accept(response)
    assert receive(host, check, ELSEWHERE) == []
    assert host.counters.refused_data == 1
    moved = (THERE[0], 61000)
    assert receive(host, check, moved) == [Connected(moved, 5, False)]
    host.take_output()
    host.send(b"b")
    assert [destination for _, destination in host.take_output()] == [moved]


def test_every_response_has_a_key_of_its_own() -> None:
    host, machine = make_host(), Machine()
    payloads = set()
    for at in range(5):
        connect(host, machine, now=at)
        payloads.add(machine.last_response[34:66])
    assert len(payloads) == 5


# A live connection


def test_payloads_go_up_and_the_check_does_not() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    assert receive(host, machine.say(ACK)) == [Payload(ACK)]
    assert receive(host, machine.say(bytes(12))) == []
    assert receive(host, machine.say(b"")) == []
    assert host.counters.received == 1


def test_an_offer_that_says_that_the_target_lives_is_not_answered() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    for at in range(1, 100):
        assert answer_to(host, machine.offer(HERE), now=3.0 * at) is None
        assert host.deadline == 3.0 * at + 10.0
    heard = sent(host, machine, b"b")
    assert heard is not None
    assert heard.payload == b"b"


def test_what_was_there_before_is_dropped() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    first, second, third = (machine.say(ACK) for _ in range(3))
    assert receive(host, third) == [Payload(ACK)]
    assert [receive(host, data) for data in (first, second, third)] == [[], [], []]
    assert host.counters.replayed == 3
    assert receive(host, machine.say(ACK)) == [Payload(ACK)]


def test_our_own_datagrams_sent_back_are_dropped() -> None:
    host, machine = make_host(target=THERE), Machine()
    list(host.expire(0.0))
    poke = host.take_output()[0][0]
    connect(host, machine)
    host.send(ACK)
    ours = host.take_output()[0][0]
    assert receive(host, ours) == []
    assert receive(host, poke) == []
    assert receive(host, machine.say(ACK, from_host=True, sequence=1 << 40)) == []
    assert host.counters.reflected == 3
    assert receive(host, machine.say(ACK)) == [Payload(ACK)], "it did not move the mark of what is new"


def test_a_datagram_of_the_other_channel_is_refused() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    data = machine.say(ACK)
    assert receive(host, data[:5] + b"\x01" + data[6:]) == []
    offer = machine.offer()
    assert receive(host, offer[:5] + b"\x00" + offer[6:]) == []
    assert (host.counters.refused_control, host.counters.refused_data) == (1, 1)


def test_a_changed_port_is_followed() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    moved = (THERE[0], 61000)
    assert receive(host, machine.say(ACK), moved) == [AddressChanged(moved), Payload(ACK)]
    host.send(b"b")
    assert host.take_output()[0][1] == moved
    assert receive(host, machine.offer(HERE), THERE) == [AddressChanged(THERE)]


def test_a_target_that_falls_silent_and_is_heard_again() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine, now=100.0)
    assert host.deadline == 110.0
    assert list(host.expire(110.0)) == [Silent(10.0)]
    assert host.deadline is None
    assert receive(host, machine.say(ACK), now=115.0) == [Heard(15.0), Payload(ACK)]
    assert host.deadline == 125.0
    assert list(host.expire(125.0)) == [Silent(10.0)]
    assert receive(host, machine.offer(HERE), now=126.0) == [Heard(11.0)]


def test_another_debugger_takes_the_target() -> None:
    host, machine = make_host(target=THERE), Machine()
    connect(host, machine)
    assert receive(host, machine.offer(ELSEWHERE), now=3.0) == [TakenOver(ELSEWHERE)]
    assert host.peer is None
    host.send(b"b")
    assert host.take_output() == []
    assert host.deadline is None, "it is left to them, and not poked"
    assert answer_to(host, machine.offer(ELSEWHERE), now=6.0) is None
    assert receive(host, machine.say(ACK), now=7.0) == []
    assert host.take_output() == []
    booted = Machine(boot=2)
    assert connect(host, booted, now=60.0) == [Connected(THERE, 5, True)]
    assert list(host.expire(70.0)) == [Silent(10.0)]
    assert pokes(host) == [THERE], "it is ours again"
    assert receive(host, booted.offer(HERE), now=70.1) == [Heard(pytest.approx(10.1))]


def test_another_debugger_on_our_own_machine_takes_the_target() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    assert receive(host, machine.offer(HERE), now=3.0) == []
    assert receive(host, machine.offer((HERE[0], 50001)), now=6.0) == [TakenOver((HERE[0], 50001))]


def test_another_debugger_is_told_from_ourselves_by_the_connection_in_force() -> None:
    """Between us and the target addresses may be translated, and not the same way each time."""
    host, machine = make_host(), Machine()
    connect(host, machine)
    assert receive(host, machine.offer((HERE[0], 31000)), now=3.0) == []
    connect(host, machine, now=6.0)
    assert receive(host, machine.offer((HERE[0], 31001)), now=9.0) == []
    assert receive(host, machine.offer((HERE[0], 31001)), now=12.0) == []
    assert receive(host, machine.offer((HERE[0], 31002)), now=15.0) == [TakenOver((HERE[0], 31002))]


def test_a_target_that_we_have_answered_again_may_be_taken_too() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    assert answer_to(host, machine.offer(), now=10.0) is not None
    assert receive(host, machine.offer(ELSEWHERE), now=13.0) == [TakenOver(ELSEWHERE)]


# The target boots


def test_a_boot() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    receive(host, machine.offer(HERE), now=3.0)
    booted = Machine(boot=2)
    assert connect(host, booted, now=30.0) == [Connected(THERE, 5, True)]
    assert receive(host, machine.say(ACK), now=30.1) == []
    assert receive(host, booted.say(ACK), now=30.2) == [Payload(ACK)]
    assert sent(host, booted, b"b") is not None


@pytest.mark.parametrize("last_heard", [0.0, 29.0])
def test_a_boot_whose_check_got_lost(last_heard: float) -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    receive(host, machine.offer(HERE), now=last_heard)
    booted = Machine(boot=2)
    response = answer_to(host, booted.offer(), now=30.0)
    assert response is not None
    booted.accept(response)
    response = answer_to(host, booted.offer(HERE), now=33.0)
    assert response is not None
    assert receive(host, booted.accept(response), now=33.0) == [Connected(THERE, 5, True)]


def test_a_boot_whose_check_comes_after_the_last_offer_of_the_time_before() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    late, booted = machine.offer(HERE), Machine(boot=2)
    response = answer_to(host, booted.offer(), now=30.0)
    assert response is not None
    assert answer_to(host, late, now=30.1) is None
    assert receive(host, booted.accept(response), now=30.2) == [Connected(THERE, 5, True)]


def test_a_boot_after_a_silence() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    assert list(host.expire(10.0)) == [Silent(10.0)]
    assert connect(host, Machine(boot=2), now=40.0) == [Connected(THERE, 5, True)]
    assert host.deadline == 50.0


def test_a_target_that_dropped_its_channel_is_given_another() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    assert connect(host, machine, now=10.0) == [Connected(THERE, 5, False)]


def test_a_target_that_dropped_its_channel_and_whose_check_got_lost() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    response = answer_to(host, machine.offer(), now=10.0)
    assert response is not None
    machine.accept(response)
    response = answer_to(host, machine.offer(HERE), now=13.0)
    assert response is not None
    assert receive(host, machine.accept(response), now=13.0) == [Connected(THERE, 5, False)]


def test_a_boot_in_silence_that_we_have_answered_and_forgotten() -> None:
    """It says that it has a channel with us, and has none that we know."""
    host, machine = make_host(), Machine()
    connect(host, machine)
    assert answer_to(host, Machine(boot=2).offer(HERE), now=3.0) is None
    assert answer_to(host, Machine(boot=2).offer(HERE), now=5.9) is None, "it does not move forward"
    booted = Machine(boot=3)
    response = answer_to(host, booted.offer(HERE), now=9.0)
    assert response is not None
    assert receive(host, booted.accept(response), now=9.0) == [Connected(THERE, 5, True)]


def test_a_channel_that_works_goes_on_until_another_is_up() -> None:
    """Such an OFFER may be recorded, and its sender without the key. The numbers of the old channel go on as well."""
    host, machine = make_host(), Machine()
    connect(host, machine)
    receive(host, machine.say(ACK))
    recorded = Machine(boot=7).offer()
    assert answer_to(host, recorded, now=5.0) is not None
    stale = machine.say(ACK, sequence=2)
    assert receive(host, stale, now=5.1) == []
    assert receive(host, machine.say(ACK), now=5.2) == [Payload(ACK)]
    assert sent(host, machine, b"b") is not None
    assert answer_to(host, machine.offer(HERE), now=6.0) is None
    assert answer_to(host, recorded, now=7.0) is None, "it does not move forward"
    assert receive(host, machine.say(ACK), now=8.0) == [Payload(ACK)]


def test_a_recorded_offer_of_this_boot_is_ignored() -> None:
    host, machine = make_host(), Machine()
    recorded = machine.offer()
    connect(host, machine)
    assert answer_to(host, recorded, now=5.0) is None
    assert host.counters.replayed == 1
    host_deadline = host.deadline
    assert answer_to(host, recorded, now=5.9) is None
    assert host.deadline == host_deadline, "nor does it count for a sign of life"


def test_a_counter_that_starts_over_moves_forward() -> None:
    host, machine = make_host(), Machine()
    machine._counter = 0xFFFFFFFE
    connect(host, machine)
    assert receive(host, machine.offer(HERE), now=19.0) == []
    assert host.deadline == 29.0


def test_a_recorded_offer_that_names_a_channel_does_not_end_ours() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    recorded = Machine(boot=7).offer(ELSEWHERE)
    assert receive(host, recorded, now=1.0) == []
    assert host.peer == THERE


def test_a_boot_that_another_debugger_answered_is_told_once_the_old_one_is_silent() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    booted = Machine(boot=2)
    assert receive(host, booted.offer(ELSEWHERE), now=6.5) == [TakenOver(ELSEWHERE)]


def test_a_virtual_machine_that_is_set_back() -> None:
    """Its OFFERs and its data count from where they were then, under the key of then."""
    host, machine = make_host(), Machine()
    connect(host, machine)
    for at in range(1, 30):
        receive(host, machine.offer(HERE), now=3.0 * at)
        receive(host, machine.say(ACK), now=3.0 * at)
    machine._counter -= 20
    machine._sequence -= 60
    machine._sent -= 20
    assert receive(host, machine.say(ACK), now=88.0) == []
    assert answer_to(host, machine.offer(HERE), now=90.0) is None
    response = answer_to(host, machine.offer(HERE), now=93.0)
    assert response is not None
    assert receive(host, machine.accept(response), now=93.0) == [Connected(THERE, 5, False)]
    assert receive(host, machine.say(ACK), now=93.1) == [Payload(ACK)]
    for at in range(32, 60):
        assert answer_to(host, machine.offer(HERE), now=3.0 * at) is None
        assert host.deadline == 3.0 * at + 10.0


def test_a_target_whose_client_key_never_changes() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    machine._counter -= 1
    assert answer_to(host, machine.offer(), now=3.0) is None
    machine._counter -= 1
    response = answer_to(host, machine.offer(), now=30.0)
    assert response is not None
    assert receive(host, machine.accept(response), now=30.0) == [Connected(THERE, 5, False)]


# Other machines


def test_a_second_machine_with_the_same_key_is_ignored() -> None:
    host, machine, other = make_host(), Machine(), Machine(boot=2)
    connect(host, machine)
    assert receive(host, other.offer(), ELSEWHERE, 1.0) == [Stranger(ELSEWHERE)]
    assert receive(host, other.offer(), ELSEWHERE, 4.0) == []
    assert host.take_output() == []
    assert host.peer == THERE


def test_a_target_whose_address_changed_is_found_once_the_old_one_is_silent() -> None:
    host, machine, booted = make_host(), Machine(), Machine(boot=2)
    connect(host, machine)
    assert receive(host, booted.offer(), ELSEWHERE, 5.9) == [Stranger(ELSEWHERE)]
    assert connect(host, booted, 8.9, ELSEWHERE) == [Connected(ELSEWHERE, 5, True)]
    assert host.peer == ELSEWHERE
    assert receive(host, booted.say(ACK), ELSEWHERE, 9.0) == [Payload(ACK)]


def test_a_second_machine_that_is_bound_is_ignored_even_then() -> None:
    host, other = make_host(), Machine(boot=2)
    connect(host, Machine())
    offer = other.offer(HERE)
    assert receive(host, offer, ELSEWHERE, 60.0) == [Stranger(ELSEWHERE)]
    assert receive(host, offer, ELSEWHERE, 70.0) == []
    assert host.take_output() == []


def test_a_flood_from_elsewhere_is_not_opened() -> None:
    host, machine = make_host(), Machine()
    connect(host, machine)
    host._control = None  # type: ignore[assignment]
    host._current.open = None  # type: ignore[union-attr,assignment]
    host._trial_at = 1.0
    for data in (VECTORS["ACK"].datagram, VECTORS["OFFER"].datagram):
        assert receive(host, data, ELSEWHERE, 1.5) == []
    assert host.counters.foreign == 2


def test_whose_datagrams_are_worth_a_look() -> None:
    host, machine = make_host(), Machine()
    assert not host.is_mine(THERE)
    response = answer_to(host, machine.offer())
    assert host.is_mine(THERE)
    assert response is not None
    receive(host, machine.accept(response))
    assert host.is_mine((THERE[0], 1))
    assert not host.is_mine(ELSEWHERE)
    assert make_host(target=ELSEWHERE).is_mine(ELSEWHERE)


def test_an_offer_is_recognised_by_the_host_with_its_key_alone() -> None:
    host = make_host()
    offer = Machine().offer()
    assert host.recognises(offer)
    assert not NetHost(NetKey.parse("1.2.3.4"), random=Random(1).randbytes).recognises(offer)
    others = ("RESPONSE", "CONNECT_CHECK", "POKE_EMPTY")
    assert not any(host.recognises(VECTORS[name].datagram) for name in others)
    assert host.take_output() == []
    assert host.counters.offers == 0


def test_a_wrong_key_shows_in_a_counter_of_its_own() -> None:
    host = make_host()
    for at in range(3):
        assert answer_to(host, Machine(NetKey.parse("1.2.3.4")).offer(), now=3.0 * at) is None
    assert (host.counters.refused_control, host.counters.refused_data) == (3, 0)
    assert receive(host, b"M-SEARCH * HTTP/1.1\r\n") == []
    assert host.counters.malformed == 1


def test_responses_are_limited() -> None:
    host = make_host()
    answered = [answer_to(host, Machine(boot=at).offer(), now=at / 100) is not None for at in range(100)]
    assert 4 <= sum(answered) <= 6


# POKE


def pokes(host: NetHost) -> list[Address]:
    seal = Seal(NET_KEY.control, NET_KEY.mac)
    found = []
    for data, destination in host.take_output():
        opened = seal.open(data) if channel_of(data) == Channel.CONTROL else None
        if opened is not None and opened.payload == POKE:
            assert opened.from_host
            found.append(destination)
    return found


def test_a_target_that_is_named_is_poked_until_it_offers_itself() -> None:
    host, machine = make_host(target=THERE), Machine()
    now = 0.0
    for _ in range(10):
        assert host.deadline == now
        assert list(host.expire(now)) == []
        assert pokes(host) == [THERE]
        now += 0.5
    assert answer_to(host, machine.offer(), now=now) is not None
    assert host.deadline == now + 1.0, "the RESPONSE may be lost"
    assert list(host.expire(now + 1.0)) == []
    assert pokes(host) == [THERE]
    connect(host, machine, now=now + 2.0)
    assert host.deadline == now + 12.0
    assert list(host.expire(now + 12.0)) == [Silent(10.0)]
    assert pokes(host) == [THERE], "a target that knows no host offers itself to nobody"


def test_a_poke_has_the_version_of_the_target_once_it_is_known() -> None:
    host = make_host(target=THERE)
    versions = []
    for at in (0.0, 12.0):
        list(host.expire(at))
        versions += [data[4] for data, _ in host.take_output()]
        if host.peer is None:
            connect(host, Machine(version=2), now=1.0)
    assert versions == [5, 2]


def test_pokes_have_numbers_of_their_own() -> None:
    host = make_host(target=THERE)
    seen = []
    for at in range(3):
        list(host.expire(at / 2))
        seen += [data for data, _ in host.take_output()]
    assert len(set(seen)) == 3


def test_data_under_a_key_that_is_gone_is_answered_by_a_poke() -> None:
    machine = Machine()
    connect(make_host(), machine)
    host = make_host()
    assert receive(host, machine.say(ACK), now=0.0) == []
    assert pokes(host) == [THERE]
    for at in range(1, 40):
        receive(host, machine.say(ACK), now=at / 10)
    assert len(pokes(host)) == 3
    assert connect(host, machine, now=4.0) == [Connected(THERE, 5, False)]
    receive(host, DATA_KEY + bytes(22), now=20.0)
    receive(host, VECTORS["ACK"].datagram, now=20.0)
    assert pokes(host) == [], "a live target needs none"


# A whole target, over a network


class Desk:
    """Host and link as a session drives them, and a simulated target behind a network; time goes as things happen."""

    def __init__(self, seed: int, rates: NetFaultRates) -> None:
        self.random = Random(seed)
        self.host = NetHost(NET_KEY, random=self.random.randbytes)
        self.link = NetLink()
        self.target = NetTarget(NET_KEY, HERE, own=THERE, random=self.random)
        self.net = FaultyNet(self.target, rates, self.random)
        self.now = 0.0
        self.told: list[NetEvent] = []
        self.lost = 0
        self.replies: list[Manipulate] = []
        self.stopped = False
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        assert self.steps < 100_000, "they make no way"
        times = (self.net.deadline, self.host.deadline, self.link.deadline)
        self.now = max(self.now, min(time for time in times if time is not None))
        self.net.expire(self.now)
        self._pump()
        self._tell(self.host.expire(self.now))
        if self.link.deadline is not None and self.link.deadline <= self.now:
            self._hear(self.link.expire(self.now))
        self._pump()

    def start_again(self) -> None:
        """As the program does that hosts the debugger: the target knows nothing of it."""
        self.host = NetHost(NET_KEY, random=self.random.randbytes)
        self.link = NetLink()
        self.told.clear()
        self.stopped = False

    def until_stopped(self, *, by_break_in: bool = True) -> None:
        while not self.stopped:
            if by_break_in and self.host.peer is not None and not self.link.breaking_in:
                self.link.break_in(self.now)
            self.step()

    def ask(self, request: Manipulate) -> Manipulate:
        count = len(self.replies)
        self.link.send(MANIPULATE, request.encode(), self.now)
        self._pump()
        while len(self.replies) == count:
            self.step()
        assert len(self.replies) == count + 1
        return self.replies[-1]

    def write_and_read(self, number: int) -> None:
        data = number.to_bytes(4, "little") * (1 + number % 250)
        place = POOL + number % 64
        written = self.ask(Manipulate.write_virtual(place, data))
        assert (written.api, written["address"], written["actual"]) == (Api.WRITE_VIRTUAL_MEMORY, place, len(data))
        read = self.ask(Manipulate.read_virtual(place, len(data)))
        assert (read.api, read["address"], read.data) == (Api.READ_VIRTUAL_MEMORY, place, data)

    def _pump(self) -> None:
        """Carry what both ends have sent until nobody says anything more at this time."""
        moving = True
        while moving:
            moving = False
            while payload := self.link.take_output():
                self.host.send(payload)
            for data, _ in self.host.take_output():
                moving = True
                self.net.receive(data, HERE, self.now)
            while (carried := self.net.take_output()) is not None:
                moving = True
                self._tell(self.host.receive(carried[0], THERE, self.now))

    def _tell(self, events: Iterable[NetEvent]) -> None:
        for event in events:
            if isinstance(event, Payload):
                self._hear(self.link.receive(event.data, self.now))
                continue
            self.told.append(event)
            if isinstance(event, Connected):
                self.stopped = False
                self.lost += len(self.link.resync(self.now))

    def _hear(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, GaveUp) and event.type != PacketType.RESET:
                self.lost += 1
            elif isinstance(event, Packet) and event.type == MANIPULATE:
                self.replies.append(Manipulate.decode(event.payload))
            elif isinstance(event, Packet) and event.type == PacketType.STATE_CHANGE64:
                self.stopped = True


@settings(max_examples=100)
@given(
    st.integers(0, 1 << 32),
    st.builds(
        NetFaultRates,
        loss=st.floats(0, 0.3),
        damage=st.floats(0, 0.2),
        duplicate=st.floats(0, 0.3),
        reorder=st.floats(0, 0.3),
    ),
)
def test_over_any_network_a_target_is_found_and_stopped_and_answers(seed: int, rates: NetFaultRates) -> None:
    desk = Desk(seed, rates)
    desk.until_stopped()
    for number in range(3):
        desk.write_and_read(number)
    assert desk.now < 300.0
    assert desk.told.count(Connected(THERE, 5, False)) >= 1


def test_ten_thousand_requests_over_a_bad_network() -> None:
    """Each writes or reads a number that follows from all before it, and the target counts what it was asked."""
    rates = NetFaultRates(loss=0.05, duplicate=0.05, reorder=0.05)
    desk = Desk(1, rates)
    desk.until_stopped()
    replies, asked = len(desk.replies), desk.target.link.counters.packets_received
    for number in range(5000):
        desk.write_and_read(number)
    assert len(desk.replies) - replies == 10_000
    assert desk.target.link.counters.packets_received - asked == 10_000
    assert desk.lost == 0
    assert [type(event) for event in desk.told] == [Connected]
    assert desk.host.counters.refused == 0
    assert desk.host.counters.replayed > 300
    assert desk.link.counters.repeats_sent > 300


def test_a_host_that_starts_again_is_told_of_the_stop_by_a_target_that_is_halted() -> None:
    desk = Desk(3, NetFaultRates())
    desk.until_stopped()
    desk.write_and_read(1)
    desk.start_again()
    at = desk.now
    desk.until_stopped(by_break_in=False)
    assert desk.now < at + 3.5
    desk.write_and_read(2)
    assert desk.link.counters.packets_sent == 2
    assert not desk.target.link.break_pending


def test_a_boot_in_the_middle_of_a_bad_network() -> None:
    desk = Desk(2, NetFaultRates(loss=0.1, duplicate=0.1, reorder=0.1))
    desk.until_stopped()
    desk.write_and_read(1)
    desk.link.send(MANIPULATE, Manipulate.request(Api.REBOOT).encode(), desk.now)
    told = len(desk.told)
    desk.stopped = False
    while not any(isinstance(event, Connected) for event in desk.told[told:]):
        desk.step()
    assert desk.told[-1] == Connected(THERE, 5, True)
    desk.until_stopped()
    desk.write_and_read(2)
