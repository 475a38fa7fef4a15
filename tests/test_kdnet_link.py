"""The host's link on datagrams: what it does about each, and how it does with a target's link when some get lost."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdnet_vectors import VECTORS
from link_pair import Debugger, Kernel, LinkPair
from twisted.internet.task import Clock

from kdsrv.kd.api import Api
from kdsrv.kd.link import Acknowledged, Event, GaveUp, Phase, ResetSeen
from kdsrv.kd.packets import BREAK_IN, MANIPULATE, Packet, PacketType, encode_control, encode_data
from kdsrv.kdnet.link import NetLink
from kdsrv.kdnet.target_link import NetTargetLink
from kdsrv.link_driver import HeldAcks, LinkDriver

FIRST = 0x80000000
STOP = bytes.fromhex("30300000") + bytes(236)
READ = Api.READ_VIRTUAL_MEMORY.to_bytes(4, "little") + bytes(52)
VERSION = Api.GET_VERSION.to_bytes(4, "little") + bytes(52)
CONTINUE = Api.CONTINUE2.to_bytes(4, "little") + bytes(52)
PRINT = bytes.fromhex("30320000") + bytes(12) + b"hello"

RESET = encode_control(PacketType.RESET, FIRST)
RESEND = encode_control(PacketType.RESEND)


def ack(packet_id: int) -> bytes:
    return encode_control(PacketType.ACKNOWLEDGE, packet_id)


def data(packet_id: int, payload: bytes, packet_type: int = MANIPULATE) -> bytes:
    return encode_data(packet_type, packet_id, payload, trailer=b"")


def stop(packet_id: int) -> bytes:
    return data(packet_id, STOP, PacketType.STATE_CHANGE64)


def output(link: NetLink) -> list[bytes]:
    return list(iter(link.take_output, b""))


def take(link: NetLink, *payloads: bytes, at: float = 0.0) -> tuple[list[Event], list[bytes]]:
    """What a link says and sends when these come, one by one."""
    events = [event for payload in payloads for event in link.receive(payload, at)]
    return events, output(link)


def expire(link: NetLink) -> tuple[list[Event], list[bytes]]:
    assert link.deadline is not None
    return list(link.expire(link.deadline)), output(link)


def in_step(next_id: int = 0, **options: float) -> NetLink:
    """A link that has agreed with a target whose next packet has this id."""
    link = NetLink(**options)  # type: ignore[arg-type]
    link.resync(0.0)
    take(link, encode_control(PacketType.RESET, next_id))
    assert link.phase is Phase.SYNCED
    return link


# Whole datagrams, one for each payload


def test_packets_are_those_of_kdnet() -> None:
    link = in_step(0x926)
    assert take(link, stop(0x926))[1] == [VECTORS["ACK"].payload]
    link.send(MANIPULATE, VECTORS["GETVERSION_REQ"].payload[16:], 0.0)
    assert output(link) == [VECTORS["GETVERSION_REQ"].payload]
    assert VECTORS["RESET"].payload == RESET
    assert VECTORS["RESEND"].payload == RESEND
    assert VECTORS["BREAKIN"].payload == BREAK_IN


def test_each_output_is_one_datagram() -> None:
    link = in_step()
    link.break_in(0.0)
    link.send(MANIPULATE, READ, 0.0)
    take(link)
    assert link.in_datagrams
    link.resync(0.0)
    link.break_in(0.0)
    assert [link.take_output(), link.take_output(), link.take_output()] == [RESET, BREAK_IN, b""]
    assert link.missing == 0


def test_no_ack_is_held_back_to_travel_with_what_follows() -> None:
    clock, link = Clock(), in_step()
    written: list[bytes] = []
    driver = LinkDriver(clock, link, lambda event: None, written.append, HeldAcks(clock))
    link.send(MANIPULATE, READ, 0.0)
    driver.flush()
    driver.bytes_received(data(0, READ))
    assert written == [data(FIRST, READ), ack(0)]
    link.send(MANIPULATE, READ, 0.0)
    link.break_in(0.0)
    driver.flush()
    assert written[2:] == [data(FIRST + 2, READ), BREAK_IN]
    driver.stop()


def test_what_is_no_packet_is_noise() -> None:
    link = in_step()
    assert take(link, b"b", bytes(12), b"x" * 16, data(0, STOP, 8)) == ([], [])
    assert link.noise == 1 + 12 + 16 + 16 + len(STOP)
    assert link.counters.packets_received == 0


@pytest.mark.parametrize("damaged", [stop(0)[:-1], stop(0) + b"\0", stop(0)[:-1] + b"x", stop(0)[:16]])
def test_what_is_damaged_is_asked_for_again(damaged: bytes) -> None:
    link = in_step()
    assert take(link, damaged) == ([], [RESEND])
    assert link.counters.damaged == 1
    assert take(link, stop(0)) == ([Packet(PacketType.STATE_CHANGE64, STOP)], [ack(0)])


# Coming into step


def test_a_machine_that_boots() -> None:
    """Its first packet comes before it has read our RESET."""
    link = NetLink()
    assert link.resync(0.0) == []
    assert output(link) == [RESET]
    assert take(link, stop(0), at=0.001) == ([], [])
    events, sent = take(link, encode_control(PacketType.RESET, 0), stop(0), at=0.002)
    assert events == [ResetSeen(), Packet(PacketType.STATE_CHANGE64, STOP)]
    assert sent == [ack(0)]
    link.send(MANIPULATE, VERSION, 0.003)
    assert output(link) == [data(FIRST, VERSION)]


def test_a_machine_that_was_debugged_before_and_is_halted() -> None:
    link = NetLink()
    link.resync(0.0)
    events, sent = take(link, encode_control(PacketType.RESET, 0x926), stop(0x926))
    assert events == [ResetSeen(), Packet(PacketType.STATE_CHANGE64, STOP)]
    assert sent == [RESET, ack(0x926)]


def test_a_machine_that_runs_hears_no_reset_and_stops_when_asked_to() -> None:
    link = NetLink()
    link.resync(0.0)
    output(link)
    told = []
    while link.deadline is not None:
        told += expire(link)[0]
    assert told == [GaveUp(PacketType.RESET, "no answer to 3 RESETs")]
    assert link.phase is Phase.UNKNOWN
    link.break_in(100.0)
    assert output(link) == [BREAK_IN]
    assert take(link, stop(0x926), at=100.1) == ([], [RESET])
    events, sent = take(link, encode_control(PacketType.RESET, 0x926), stop(0x926), at=100.2)
    assert events == [ResetSeen(), Packet(PacketType.STATE_CHANGE64, STOP)]
    assert sent == [ack(0x926)]
    assert not link.breaking_in


def test_a_stop_in_place_of_the_answer_to_an_old_reset_leads_to_another_at_once() -> None:
    link = NetLink(resets=0)
    link.resync(0.0)
    output(link)
    link.break_in(0.1)
    assert take(link, stop(4), at=0.2) == ([], [BREAK_IN])
    assert link.deadline == 0.2
    assert expire(link) == ([], [RESET])
    assert take(link, stop(4), at=0.21) == ([], [])
    assert link.deadline == pytest.approx(0.25), "this RESET may still be answered"


def test_a_reset_is_repeated_with_growing_patience() -> None:
    link = NetLink(resets=0)
    link.resync(0.0)
    times = []
    for _ in range(6):
        times.append(link.deadline)
        expire(link)
    assert times == [0.5, 1.5, 3.5, 7.5, 15.5, 23.5]


def test_a_reply_to_the_debugger_before_us_is_acknowledged_and_the_stop_asked_for() -> None:
    link = NetLink()
    link.resync(0.0)
    output(link)
    assert take(link, encode_control(PacketType.RESET, 0x40), data(0x40, READ)) == ([ResetSeen()], [ack(0x40), RESET])
    events, sent = take(link, encode_control(PacketType.RESET, 0x42), stop(0x42))
    assert events == [ResetSeen(), Packet(PacketType.STATE_CHANGE64, STOP)]
    assert sent == [ack(0x42)]


def test_answers_to_more_resets_than_one_change_nothing() -> None:
    link = NetLink()
    link.resync(0.0)
    expire(link)
    answer = encode_control(PacketType.RESET, 8)
    take(link, answer, stop(8), at=1.0)
    link.send(MANIPULATE, READ, 1.0)
    output(link)
    assert take(link, answer, stop(8), at=1.1) == ([], [ack(8)])
    assert take(link, ack(FIRST), at=1.2)[0] == [Acknowledged(MANIPULATE)]


def test_a_reset_of_the_targets_own_is_answered_once() -> None:
    link = in_step(0x100)
    take(link, stop(0x100))
    link.send(MANIPULATE, READ, 1.0)
    take(link, ack(FIRST), data(0x102, READ), at=1.0)
    link.send(MANIPULATE, VERSION, 2.0)
    output(link)
    events, sent = take(link, encode_control(PacketType.RESET, 0), stop(0), at=60.0)
    assert [type(event) for event in events] == [GaveUp, ResetSeen, Packet]
    assert sent == [RESET, ack(0)]
    assert take(link, encode_control(PacketType.RESET, 0), stop(0), at=60.1) == ([], [ack(0)])
    link.send(MANIPULATE, READ, 60.2)
    assert output(link) == [data(FIRST, READ)]


def test_a_reset_of_the_targets_own_soon_after_ours_is_known_by_the_ack_before_it() -> None:
    link = in_step(0x100)
    take(link, stop(0x100), at=0.1)
    link.send(MANIPULATE, CONTINUE, 0.2)
    take(link, ack(FIRST), at=0.2)
    events, sent = take(link, encode_control(PacketType.RESET, 0), stop(0), at=0.5)
    assert events == [ResetSeen(), Packet(PacketType.STATE_CHANGE64, STOP)]
    assert sent == [RESET, ack(0)]


def test_a_packet_of_the_time_before_the_reset_is_a_repeat() -> None:
    link = in_step(0x40)
    assert take(link, data(0x3E, PRINT, PacketType.DEBUG_IO)) == ([], [ack(0x3E)])
    assert take(link, data(0x40, PRINT, PacketType.DEBUG_IO))[0] == [Packet(PacketType.DEBUG_IO, PRINT)]


def test_a_target_that_talks_is_sent_resets_without_end() -> None:
    link = NetLink()
    link.resync(0.0)
    output(link)
    for at in range(1, 10):
        sent = take(link, stop(0), at=float(at))[1]
        assert (expire(link), sent) == (([], [RESET]), [])
    assert link.phase is Phase.RESETTING


def test_no_reply_is_asked_for_across_a_reset() -> None:
    for ours in (True, False):
        link = in_step(0x40)
        link.send(MANIPULATE, READ, 0.0)
        take(link, ack(FIRST))
        if ours:
            link.resync(0.1)
            assert output(link) == [RESET]
            assert link.deadline == 0.6
            assert expire(link) == ([], [RESET])
        take(link, encode_control(PacketType.RESET, 0x40), at=10.0)
        assert link.deadline is None


def test_what_waits_goes_when_ids_are_agreed_on_anew() -> None:
    link = in_step()
    for payload in (READ, VERSION):
        link.send(MANIPULATE, payload, 0.0)
    assert [lost.type for lost in link.resync(0.0)] == [MANIPULATE, MANIPULATE]
    assert link.backlog == 0
    link.send(MANIPULATE, CONTINUE, 0.0)
    output(link)
    assert take(link, encode_control(PacketType.RESET, 0)) == ([ResetSeen()], [data(FIRST, CONTINUE)])


# In step


def test_ids_grow_by_two_and_keep_the_bit_of_the_host() -> None:
    link = in_step()
    link._next_id = 0xFFFFFFFC
    ids = []
    for _ in range(3):
        link.send(MANIPULATE, CONTINUE, 0.0)
        (sent,) = output(link)
        ids.append(struct.unpack_from("<I", sent, 8)[0])
        assert take(link, ack(ids[-1]))[0] == [Acknowledged(MANIPULATE)]
    assert ids == [0xFFFFFFFC, 0xFFFFFFFE, FIRST]


def test_the_bit_that_is_sync_on_a_serial_line_means_nothing() -> None:
    link = in_step(0x7FE)
    for packet_id in (0x7FE, 0x800, 0x802, 0xFFE, 0x1000):
        assert take(link, data(packet_id, PRINT, PacketType.DEBUG_IO))[1] == [ack(packet_id)]
    assert link.counters.packets_received == 5
    link._next_id = FIRST | 0x800
    link.send(MANIPULATE, READ, 0.0)
    assert take(link, ack(FIRST))[0] == []
    assert take(link, ack(FIRST | 0x800))[0] == [Acknowledged(MANIPULATE)]


def test_a_repeat_is_acknowledged_and_not_delivered_and_a_gap_is_nothing() -> None:
    link = in_step()
    prints = [data(packet_id, PRINT, PacketType.DEBUG_IO) for packet_id in (0, 0, 6, 2, 6, 8)]
    events, sent = take(link, *prints)
    assert len(events) == 3
    assert sent == [ack(packet_id) for packet_id in (0, 0, 6, 2, 6, 8)]
    assert link.counters.duplicates == 3


def test_an_unacknowledged_packet_is_repeated_under_its_id_and_then_given_up() -> None:
    link = in_step(tries=5)
    link.send(MANIPULATE, READ, 0.0)
    assert output(link) == [data(FIRST, READ)]
    times = []
    for _ in range(4):
        times.append(link.deadline)
        assert expire(link) == ([], [data(FIRST, READ)])
    assert times == [0.25, 0.75, 1.75, 2.75]
    events, sent = expire(link)
    assert events == [GaveUp(MANIPULATE, "the target does not acknowledge it, sent 5 times")]
    assert (sent, link.phase, link.deadline) == ([], Phase.UNKNOWN, None)


def test_a_target_that_refuses_without_end_is_given_up() -> None:
    link = in_step(tries=5)
    link.send(MANIPULATE, READ, 0.0)
    events, sent = take(link, *[RESEND] * 9)
    assert [type(event) for event in events] == [GaveUp]
    assert sent == [data(FIRST, READ)] * 5


def test_a_resend_with_nothing_on_the_way_is_nothing() -> None:
    assert take(in_step(), RESEND) == ([], [])


def test_the_reply_stands_for_an_ack_that_got_lost() -> None:
    link = in_step()
    link.send(MANIPULATE, READ, 0.0)
    link.send(MANIPULATE, VERSION, 0.0)
    output(link)
    events, sent = take(link, data(0, READ))
    assert events == [Acknowledged(MANIPULATE), Packet(MANIPULATE, READ)]
    assert sent == [ack(0), data(FIRST + 2, VERSION)]


def test_a_reply_that_does_not_come_is_asked_for() -> None:
    link = in_step()
    link.send(MANIPULATE, READ, 0.0)
    take(link, ack(FIRST))
    times = []
    while link.deadline is not None:
        times.append(link.deadline)
        assert expire(link) == ([], [RESEND])
    assert times == [0.5, 1.5, 3.5, 7.5, 15.5]
    assert take(link, data(0, READ), at=16.0) == ([Packet(MANIPULATE, READ)], [ack(0)])


@pytest.mark.parametrize("payload", [CONTINUE, Api.SWITCH_PROCESSOR.to_bytes(4, "little") + bytes(52)])
def test_no_reply_is_asked_for_where_none_comes(payload: bytes) -> None:
    link = in_step()
    link.send(MANIPULATE, payload, 0.0)
    take(link, ack(FIRST))
    assert link.deadline is None


def test_a_break_in_is_repeated_until_the_stop_comes() -> None:
    """A stop that got lost is asked for too, since a halted machine takes no break-in."""
    link = in_step()
    link.break_in(0.0)
    assert output(link) == [BREAK_IN]
    assert take(link, data(0, PRINT, PacketType.DEBUG_IO), at=0.2)[1] == [ack(0)]
    assert expire(link) == ([], [RESEND, BREAK_IN])
    assert expire(link) == ([], [RESEND, BREAK_IN])
    take(link, stop(2), at=2.5)
    assert link.deadline is None


def test_a_break_in_to_a_target_that_was_given_up_goes_with_a_reset() -> None:
    link = NetLink()
    link.break_in(0.0)
    assert output(link) == [BREAK_IN]
    assert expire(link) == ([], [RESET, BREAK_IN])


def test_the_lost_reply_of_a_real_session() -> None:
    """A reply is lost; the debugger asks anew after half a second, as WinDbg did; the target has given the reply up.

    From a session of WinDbg with a Windows 10 boot debugger; there WinDbg reset the link, for it wanted id 60 next.
    """
    link = in_step(0x5E)
    link._next_id = FIRST + 0x5C
    context = Api.GET_CONTEXT.to_bytes(4, "little") + bytes(52)
    reply = context + bytes(1232)
    link.send(MANIPULATE, context, 0.0)
    assert output(link) == [data(FIRST + 0x5C, context)]
    assert take(link, ack(FIRST + 0x5C), at=0.001) == ([Acknowledged(MANIPULATE)], [])
    link.send(MANIPULATE, context, 0.485)
    assert output(link) == [data(FIRST + 0x5E, context)]
    assert take(link, RESEND, at=0.486) == ([], [data(FIRST + 0x5E, context)])
    assert take(link, ack(FIRST + 0x5E), at=0.487) == ([Acknowledged(MANIPULATE)], [])
    assert take(link, data(0x62, reply), at=0.488) == ([Packet(MANIPULATE, reply)], [ack(0x62)])
    assert take(link, data(0x62, reply), at=0.489) == ([], [ack(0x62)])
    link.send(MANIPULATE, READ, 0.5)
    assert output(link) == [data(FIRST + 0x60, READ)]
    assert link.counters.resets == 1


def test_the_lost_reply_where_the_debugger_waits() -> None:
    """The link asks for it with a RESEND, upon which real targets repeat it at once."""
    link = in_step(0x60)
    link.send(MANIPULATE, READ, 0.0)
    take(link, ack(FIRST), at=0.001)
    assert expire(link) == ([], [RESEND])
    assert take(link, data(0x60, READ), at=0.502) == ([Packet(MANIPULATE, READ)], [ack(0x60)])
    assert link.deadline is None


# With a target's link


@dataclass
class Network:
    """One direction of a network that loses some datagrams and keeps the others in order; ``faults`` say which."""

    faults: deque[bool] = field(default_factory=deque)
    chunks: deque[tuple[float, bytes]] = field(default_factory=deque)
    carried: list[bytes] = field(default_factory=list)

    def write(self, payload: bytes, now: float) -> None:
        assert payload == BREAK_IN or len(payload) >= 16
        self.carried.append(payload)
        if not (self.faults and self.faults.popleft()):
            self.chunks.append((now + 0.0005, payload))


def pair(down: Sequence[bool], up: Sequence[bool], runs: list[int], plan: list[int]) -> LinkPair:
    debugger = Debugger(NetLink(), plan)  # type: ignore[arg-type]
    kernel = Kernel(
        NetTargetLink(want=frozenset({PacketType.STATE_MANIPULATE})),  # type: ignore[arg-type]
        runs,
        [56, 240, 1152],
    )
    return LinkPair(debugger, kernel, Network(deque(down)), Network(deque(up)))  # type: ignore[arg-type]


losses = st.lists(st.booleans(), max_size=40)
amounts = st.lists(st.integers(0, 3), min_size=1, max_size=4)


def once_and_in_order(taken: list[Packet], sent: list[Packet]) -> bool:
    rest = iter(sent)
    return all(packet in rest for packet in taken)


@settings(max_examples=300, deadline=None)
@given(losses, losses, amounts, amounts)
def test_every_packet_arrives_once_and_in_order_or_is_given_up(
    down: list[bool], up: list[bool], runs: list[int], plan: list[int]
) -> None:
    links = pair(down, up, runs, plan)
    debugger, kernel = links.debugger, links.kernel
    links.run(60.0)
    links.settle(10.0)
    assert once_and_in_order(kernel.taken, debugger.sent)
    assert set(debugger.acknowledged) <= set(kernel.taken)
    taken: list[Packet] = []
    fresh = False
    for event in debugger.log:
        if isinstance(event, ResetSeen):
            fresh = True
        elif isinstance(event, Packet):
            if not (fresh and taken and taken[-1] == event):
                taken.append(event)
            fresh = False
    assert once_and_in_order(taken, kernel.sent)
    prints = [packet for packet in kernel.acknowledged if packet.type == PacketType.DEBUG_IO]
    assert set(prints) <= set(taken)
    answered = {packet.payload[8:12] for packet in taken if packet.type == MANIPULATE}
    lost = {packet.payload[8:12] for packet in kernel.acknowledged if packet.type == MANIPULATE} - answered
    assert lost <= {request[4:8] for request in debugger.unanswered}


@settings(max_examples=100, deadline=None)
@given(losses, losses)
def test_once_in_step_nothing_is_lost_with_what_is_lost_on_the_way(down: list[bool], up: list[bool]) -> None:
    """As long as not so much is lost that a packet is given up."""
    links = pair([], [], [1, 2], [1])
    links.run(60.0)
    links.down.faults.extend(lost and at % 6 != 5 for at, lost in enumerate(down))
    links.up.faults.extend(lost and at % 6 != 5 for at, lost in enumerate(up))
    debugger, kernel = links.debugger, links.kernel
    taken, sent = len(kernel.taken), len(debugger.sent)
    debugger.plan += [8]
    debugger.go_on(links.now)
    links.down.write(debugger.link.take_output(), links.now)
    links.run(60.0)
    assert len(debugger.answered) == 9
    assert not debugger.unanswered
    assert not debugger.given_up
    assert kernel.taken[taken:] == debugger.sent[sent:]


def test_a_good_network_needs_no_repeats() -> None:
    links = pair([], [], runs=[3, 2, 0, 4], plan=[3, 0, 5, 2])
    links.run(60.0)
    host, target = links.debugger.link.counters, links.kernel.link.counters
    assert len(links.debugger.answered) == 10
    assert (host.damaged, host.duplicates, host.repeats_sent) == (0, 0, 0)
    the_print_that_the_first_reset_met = 1
    assert (target.damaged, target.duplicates, target.repeats_sent) == (0, 0, the_print_that_the_first_reset_met)
    assert links.debugger.taken == links.kernel.sent
    assert links.kernel.taken == links.debugger.sent
