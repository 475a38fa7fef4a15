"""The target's end of a link on datagrams, and the loss in a real session that WinDbg had with a version 4 target."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from net_debugger import control, request

from kdsrv.kd.link import Acknowledged, BreakIn, Event, GaveUp, ResendAsked, ResetSeen
from kdsrv.kd.packets import BREAK_IN, DATA_LEADER, HEADER, Packet, PacketType, encode_data
from kdsrv.kdnet.target_link import NetTargetLink

STOP = b"\x30\x30\x00\x00" + b"s" * 236
PRINT = b"\x30\x32\x00\x00" + b"p" * 20
GET_VERSION = b"\x46\x31\x00\x00" + b"\x01" * 52
REPLY = b"\x46\x31\x00\x00" + b"r" * 52
FIRST = 0x80000000

RESEND = control(PacketType.RESEND)


def ack(packet_id: int) -> bytes:
    return control(PacketType.ACKNOWLEDGE, packet_id)


def reset(packet_id: int) -> bytes:
    return control(PacketType.RESET, packet_id)


def stop(packet_id: int) -> bytes:
    return encode_data(PacketType.STATE_CHANGE64, packet_id, STOP, trailer=b"")


def reply(packet_id: int) -> bytes:
    return encode_data(PacketType.STATE_MANIPULATE, packet_id, REPLY, trailer=b"")


class Rig:
    """A link and what it said."""

    def __init__(self, **settings: int) -> None:
        self.link = NetTargetLink(want=frozenset({PacketType.STATE_MANIPULATE}), **settings)
        self.now = 100.0

    def send(self, packet_type: int, payload: bytes) -> list[bytes]:
        self.link.send(packet_type, payload, self.now)
        return self.said()

    def stop(self) -> list[bytes]:
        return self.send(PacketType.STATE_CHANGE64, STOP)

    def hear(self, data: bytes) -> tuple[list[Event], list[bytes]]:
        return list(self.link.receive(data, self.now)), self.said()

    def pass_time(self, seconds: float) -> tuple[list[Event], list[bytes]]:
        self.now += seconds
        return list(self.link.expire(self.now)), self.said()

    def said(self) -> list[bytes]:
        return list(iter(self.link.take_output, b""))


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def stopped(rig: Rig) -> Rig:
    """A target that has announced its stop, and been heard."""
    rig.stop()
    rig.hear(ack(0))
    return rig


def test_packets_have_no_trailer_and_ids_that_count_by_two(rig: Rig) -> None:
    for packet_id in range(0, 0x1004, 2):
        assert rig.stop() == [stop(packet_id)]
        assert rig.hear(ack(packet_id)) == ([Acknowledged(PacketType.STATE_CHANGE64)], [])


@pytest.mark.parametrize("wrong", [0, 2, 0x80000802, 0x804])
def test_an_ack_names_the_whole_id(rig: Rig, wrong: int) -> None:
    """On a serial line bit 0x800 is no part of it."""
    for packet_id in range(0, 0x802, 2):
        rig.stop()
        rig.hear(ack(packet_id))
    rig.stop()
    assert rig.hear(ack(wrong)) == ([], [])
    assert rig.link.backlog == 1
    assert rig.hear(ack(0x802)) == ([Acknowledged(PacketType.STATE_CHANGE64)], [])


def test_each_datagram_is_put_out_by_itself(stopped: Rig) -> None:
    stopped.link.send(PacketType.STATE_MANIPULATE, REPLY, 0)
    assert list(stopped.link.receive(reset(FIRST), 0)) == []
    assert stopped.link.take_output() == reply(2)
    assert stopped.link.take_output() == reset(2)
    assert stopped.link.take_output() == reply(2)
    assert stopped.link.take_output() == b""


def test_what_is_not_acknowledged_is_sent_again_each_second(rig: Rig) -> None:
    rig.stop()
    assert rig.pass_time(0.9) == ([], [])
    for _ in range(50):
        assert rig.pass_time(1.0) == ([], [stop(0)])
    assert rig.link.deadline == rig.now + 1.0
    rig.hear(ack(0))
    assert rig.link.deadline is None


def test_prints_are_given_up_and_their_id_is_not_used_again() -> None:
    rig = Rig(retries=3)
    rig.send(PacketType.DEBUG_IO, PRINT)
    rig.pass_time(1.0)
    rig.pass_time(1.0)
    events, said = rig.pass_time(1.0)
    assert [type(event) for event in events] == [GaveUp]
    assert said == []
    assert rig.link.debugger_absent
    assert rig.stop() == [stop(2)]
    rig.hear(ack(2))
    assert not rig.link.debugger_absent


def test_resend_brings_what_is_not_acknowledged_again(rig: Rig) -> None:
    rig.stop()
    assert rig.hear(RESEND) == ([], [stop(0)])
    rig.hear(ack(0))
    assert rig.hear(RESEND) == ([ResendAsked()], [])


def test_reset_is_answered_with_the_id_that_waits(rig: Rig) -> None:
    """As by a Windows 8.1 target: RESET 80000000, then RESET 926 and the state change 926 again."""
    for packet_id in range(0, 0x926, 2):
        rig.stop()
        rig.hear(ack(packet_id))
    rig.stop()
    assert rig.hear(reset(FIRST)) == ([], [reset(0x926), stop(0x926)])


def test_reset_is_answered_with_the_next_id_where_none_waits(stopped: Rig) -> None:
    assert stopped.hear(reset(FIRST)) == ([ResetSeen()], [reset(2)])
    assert stopped.stop() == [stop(2)]


def test_after_a_reset_any_id_is_new(stopped: Rig) -> None:
    stopped.hear(request(FIRST, GET_VERSION))
    stopped.hear(reset(FIRST))
    events, said = stopped.hear(request(FIRST, GET_VERSION))
    assert events == [Packet(PacketType.STATE_MANIPULATE, GET_VERSION)]
    assert said == [ack(FIRST)]


def test_on_a_new_data_channel_any_id_is_new(stopped: Rig) -> None:
    """For the debugger may be another."""
    stopped.hear(request(FIRST, GET_VERSION))
    stopped.link.connected(stopped.now)
    assert stopped.said() == []
    assert len(stopped.hear(request(FIRST, GET_VERSION))[0]) == 1
    stopped.send(PacketType.STATE_MANIPULATE, REPLY)
    stopped.link.connected(stopped.now)
    assert stopped.said() == [reply(2)]


def test_a_repeated_request_is_acknowledged_and_dropped(stopped: Rig) -> None:
    data = request(FIRST, GET_VERSION)
    assert stopped.hear(data) == ([Packet(PacketType.STATE_MANIPULATE, GET_VERSION)], [ack(FIRST)])
    assert stopped.hear(data) == ([], [ack(FIRST)])
    stopped.send(PacketType.STATE_MANIPULATE, REPLY)
    assert stopped.hear(data) == ([], [ack(FIRST)])
    assert stopped.link.backlog == 1
    assert stopped.link.counters.duplicates == 2


@pytest.mark.parametrize("following", [FIRST + 2, FIRST + 20, FIRST - 2, 0x80800001])
def test_ids_may_be_skipped(stopped: Rig, following: int) -> None:
    """A debugger gives requests up, and some count in a way of their own."""
    stopped.hear(request(FIRST, GET_VERSION))
    assert len(stopped.hear(request(following, GET_VERSION))[0]) == 1


def test_a_request_in_place_of_an_ack_counts_for_it(stopped: Rig) -> None:
    stopped.hear(request(FIRST, GET_VERSION))
    stopped.send(PacketType.STATE_MANIPULATE, REPLY)
    data = request(FIRST + 2, GET_VERSION)
    assert stopped.hear(data) == ([Acknowledged(PacketType.STATE_MANIPULATE)], [RESEND])
    assert stopped.hear(data) == ([Packet(PacketType.STATE_MANIPULATE, GET_VERSION)], [ack(FIRST + 2)])
    assert stopped.send(PacketType.STATE_MANIPULATE, REPLY) == [reply(4)]


def test_packets_of_types_nobody_waits_for_are_acknowledged_and_dropped(stopped: Rig) -> None:
    data = encode_data(PacketType.FILE_IO, FIRST, bytes(64), trailer=b"")
    assert stopped.hear(data) == ([], [ack(FIRST)])


def test_requests_that_cannot_be_read_are_refused(stopped: Rig) -> None:
    assert stopped.hear(request(FIRST, b"short")) == ([], [RESEND])
    damaged = request(FIRST, GET_VERSION)[:-1] + b"\xff"
    assert stopped.hear(damaged) == ([], [RESEND])
    assert stopped.link.counters.damaged == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"bb",
        bytes(12),
        request(FIRST, GET_VERSION)[:-1],
        request(FIRST, GET_VERSION) + b"\xaa",
        b"\x01" + request(FIRST, GET_VERSION)[1:],
    ],
)
def test_what_is_no_packet_is_ignored(stopped: Rig, data: bytes) -> None:
    assert stopped.hear(data) == ([], [])
    assert stopped.link.counters.damaged == 1


def test_a_running_target_hears_a_break_in_alone(stopped: Rig) -> None:
    stopped.link.running = True
    for data in (RESEND, reset(FIRST), ack(0), request(FIRST, GET_VERSION), b"x"):
        assert stopped.hear(data) == ([], [])
    assert stopped.hear(BREAK_IN) == ([BreakIn()], [])
    assert not stopped.link.running
    assert not stopped.link.break_pending


def test_a_break_in_to_a_stopped_target_is_noted_and_has_it_announce_its_stop(rig: Rig) -> None:
    rig.stop()
    assert rig.hear(BREAK_IN) == ([], [])
    rig.hear(ack(0))
    assert rig.link.break_pending
    assert rig.hear(BREAK_IN) == ([ResendAsked()], [])
    assert rig.link.break_pending


def test_a_break_in_while_a_print_is_not_acknowledged_is_noted(rig: Rig) -> None:
    rig.link.running = True
    rig.send(PacketType.DEBUG_IO, PRINT)
    assert rig.hear(BREAK_IN) == ([], [])
    assert rig.link.break_pending


def test_a_boot_starts_the_ids_again(stopped: Rig) -> None:
    stopped.hear(request(FIRST, GET_VERSION))
    stopped.hear(BREAK_IN)
    stopped.stop()
    stopped.link.restart()
    link = stopped.link
    assert (link.backlog, link.deadline, link.break_pending, link.running, link.boots) == (0, None, False, False, 1)
    assert stopped.stop() == [stop(0)]
    stopped.hear(ack(0))
    assert len(stopped.hear(request(FIRST, GET_VERSION))[0]) == 1


def test_a_loss_in_a_real_session() -> None:
    """WinDbg and a version 4 target, datagrams 194 to 205: the reply 60 got lost on its way."""
    rig = Rig()
    for packet_id in range(0, 0x60, 2):
        rig.stop()
        rig.hear(ack(packet_id))
    assert rig.hear(request(0x8000005C, GET_VERSION))[1] == [ack(0x8000005C)]
    assert rig.send(PacketType.STATE_MANIPULATE, REPLY) == [reply(0x60)]
    assert rig.pass_time(0.485) == ([], [])
    again = request(0x8000005E, GET_VERSION)
    assert rig.hear(again) == ([Acknowledged(PacketType.STATE_MANIPULATE)], [RESEND])
    assert rig.hear(again) == ([Packet(PacketType.STATE_MANIPULATE, GET_VERSION)], [ack(0x8000005E)])
    assert rig.send(PacketType.STATE_MANIPULATE, REPLY) == [reply(0x62)]
    assert rig.hear(reset(0x80000060)) == ([], [reset(0x62), reply(0x62)])
    assert rig.hear(ack(0x62)) == ([Acknowledged(PacketType.STATE_MANIPULATE)], [])
    assert len(rig.hear(request(0x80000060, GET_VERSION))[0]) == 1


ids = st.sampled_from([0, 2, 4, FIRST, FIRST + 2, FIRST + 4])
controls = st.builds(control, st.sampled_from([PacketType.ACKNOWLEDGE, PacketType.RESEND, PacketType.RESET]), ids)
requests = st.builds(request, ids, st.sampled_from([GET_VERSION, b"short"]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("hear"), st.one_of(controls, requests, st.just(BREAK_IN), st.binary(max_size=80))),
        st.tuples(st.sampled_from(["stop", "print", "reply", "run", "wait", "boot"]), st.just(b"")),
    ),
    max_size=60,
)


@given(steps)
def test_whatever_is_heard_packets_go_out_in_order_and_well_formed(taken: list[tuple[str, bytes]]) -> None:
    rig = Rig(retries=2)
    last_id = -2
    done = 0
    sent = 0
    for step, data in taken:
        events: list[Event] = []
        said: list[bytes] = []
        match step:
            case "hear":
                events, said = rig.hear(data)
            case "wait":
                events, said = rig.pass_time(1.0)
            case "run":
                rig.link.running = True
            case "boot":
                rig.link.restart()
                last_id, sent, done = -2, 0, 0
            case "stop" | "print" | "reply":
                packet_type, payload = {
                    "stop": (PacketType.STATE_CHANGE64, STOP),
                    "print": (PacketType.DEBUG_IO, PRINT),
                    "reply": (PacketType.STATE_MANIPULATE, REPLY),
                }[step]
                rig.link.running = False
                sent += 1
                said = rig.send(packet_type, payload)
        done += sum(isinstance(event, Acknowledged | GaveUp) for event in events)
        assert rig.link.backlog == sent - done
        assert (rig.link.deadline is not None) == bool(rig.link.backlog)
        for payload in said:
            leader, _, length, packet_id, _ = HEADER.unpack_from(payload)
            assert len(payload) == HEADER.size + length
            if leader == DATA_LEADER:
                assert packet_id - last_id in (0, 2)
                assert packet_id <= 2 * done
                last_id = packet_id
