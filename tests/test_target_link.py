"""The target's end of a link against the conformance cases C01 to C26 of the KD protocol, section 6.1.

A small kernel owns the link, as section 1.8 describes it. Its byte timeout is 0.25 s, as when the cases were recorded.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.kd.link import Acknowledged, BreakIn, Event, GaveUp, ResendAsked, ResetSeen
from kdsrv.kd.packets import INITIAL_ID, SYNC, Packet, PacketType, encode_control, encode_data
from kdsrv.kd.target_link import TargetLink

TO = 0.25
I0, I1, BOOT = INITIAL_ID, INITIAL_ID | 1, INITIAL_ID | SYNC

STOP = b"\x30\x30\x00\x00" + b"s" * 236
PRINT = b"\x30\x32\x00\x00" + b"p" * 20
GET_VERSION = b"\x46\x31\x00\x00" + b"\x01" * 52
CONTINUE = b"\x3c\x31\x00\x00" + b"\x02" * 52
REPLY = b"\x46\x31\x00\x00" + b"r" * 52

RESET, RESEND = encode_control(PacketType.RESET), encode_control(PacketType.RESEND)


def ack(packet_id: int) -> bytes:
    return encode_control(PacketType.ACKNOWLEDGE, packet_id)


def req(packet_id: int, payload: bytes = GET_VERSION) -> bytes:
    return encode_data(PacketType.STATE_MANIPULATE, packet_id, payload)


def stop(packet_id: int) -> bytes:
    return encode_data(PacketType.STATE_CHANGE64, packet_id, STOP)


def reply(packet_id: int) -> bytes:
    return encode_data(PacketType.STATE_MANIPULATE, packet_id, REPLY)


def printed(packet_id: int) -> bytes:
    return encode_data(PacketType.DEBUG_IO, packet_id, PRINT)


def changed(packet: bytes, at: int, value: int) -> bytes:
    """The packet with one byte changed; ``at`` may count from the end."""
    raw = bytearray(packet)
    raw[at] = value
    return bytes(raw)


class Kernel:
    """The main loop of KD protocol, 1.8, around a link; what it does with the line is to be read here."""

    def __init__(self, link: TargetLink) -> None:
        self.link = link
        self.now = 100.0
        self.events: list[Event] = []
        self.requests: list[bytes] = []

    def announce(self) -> None:
        if not self.link.backlog:
            self.link.send(PacketType.STATE_CHANGE64, STOP, self.now)

    def handle(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, ResetSeen | ResendAsked | BreakIn):
            self.announce()
        elif isinstance(event, Packet):
            self.requests.append(event.payload)
            if event.payload != CONTINUE:
                self.link.send(PacketType.STATE_MANIPULATE, REPLY, self.now)
            else:
                self.run()
        elif isinstance(event, Acknowledged | GaveUp) and event.type == PacketType.DEBUG_IO:
            self.run()

    def run(self) -> None:
        """The pending break is looked at before the line is polled."""
        if self.link.break_pending:
            self.link.break_pending = False
            self.announce()
        else:
            self.link.running = True

    def hears(self, data: bytes) -> bytes:
        """What it writes upon these bytes."""
        for event in self.link.receive(data, self.now):
            self.handle(event)
        return self.link.take_output()

    def waits(self, seconds: float) -> list[tuple[float, bytes]]:
        """What it writes in silence, with the seconds since its beginning."""
        began, written = self.now, []
        while self.link.deadline is not None and self.link.deadline <= began + seconds:
            self.now = max(self.now, self.link.deadline)
            for event in self.link.expire(self.now):
                self.handle(event)
            if output := self.link.take_output():
                written.append((self.now - began, output))
        self.now = began + seconds
        return written


def boot(**options: object) -> Kernel:
    """Its first state change is sent and not acknowledged."""
    kernel = Kernel(TargetLink(byte_timeout=TO, want=frozenset({PacketType.STATE_MANIPULATE}), **options))  # type: ignore[arg-type]
    kernel.announce()
    assert kernel.link.take_output() == stop(BOOT)
    return kernel


def synced(**options: object) -> Kernel:
    """Stopped, its first state change acknowledged."""
    kernel = boot(**options)
    assert kernel.hears(ack(I0)) == b""
    kernel.events.clear()
    return kernel


def running() -> Kernel:
    kernel = synced()
    assert kernel.hears(req(I0, CONTINUE)) == ack(I0)
    assert kernel.link.running
    kernel.events.clear()
    kernel.requests.clear()
    return kernel


def printing() -> Kernel:
    """Its first packet, a print, is being sent."""
    kernel = Kernel(TargetLink(byte_timeout=TO, want=frozenset({PacketType.STATE_MANIPULATE})))
    kernel.link.send(PacketType.DEBUG_IO, PRINT, kernel.now)
    assert kernel.link.take_output() == printed(BOOT)
    return kernel


def test_c01_the_first_state_change_is_repeated_for_ever() -> None:
    assert boot().waits(50 * TO) == [(TO * count, stop(BOOT)) for count in range(1, 51)]


def test_c02_only_the_masked_id_acknowledges_it() -> None:
    kernel = boot()
    assert kernel.hears(ack(BOOT)) == b""
    assert kernel.waits(TO) == [(TO, stop(BOOT))]
    assert kernel.hears(ack(I0)) == b""
    assert kernel.waits(60.0) == []
    assert kernel.events == [Acknowledged(PacketType.STATE_CHANGE64)]


def test_c03_resend_repeats_at_once() -> None:
    assert boot().hears(RESEND) == stop(BOOT)


@pytest.mark.parametrize("start", [boot, synced])
@pytest.mark.parametrize("reset_id", [0, 0xDEADBEEF])
def test_c04_reset_is_answered_and_ids_start_again(start: Callable[[], Kernel], reset_id: int) -> None:
    kernel = start()
    assert kernel.hears(encode_control(PacketType.RESET, reset_id)) == RESET + stop(I0)
    assert kernel.hears(ack(I0) + req(I0)) == ack(I0) + reply(I1)


def test_c05_each_of_three_resets_is_answered() -> None:
    assert synced().hears(RESET * 3) == (RESET + stop(I0)) * 3


def test_c05_a_link_that_drains_its_input_answers_one() -> None:
    kernel = synced(drain_on_reset=True)
    assert kernel.hears(RESET * 3) == RESET + stop(I0)
    assert kernel.hears(RESET) == RESET + stop(I0)


def test_c06_a_request_is_acknowledged_and_answered() -> None:
    kernel = synced()
    assert kernel.hears(req(I0)) == ack(I0) + reply(I1)
    assert kernel.hears(ack(I1)) == b""
    assert kernel.waits(60.0) == []
    assert kernel.requests == [GET_VERSION]
    assert kernel.hears(req(I1)) == ack(I1) + reply(I0)


def test_c07_a_reply_is_repeated_until_acknowledged() -> None:
    kernel = synced()
    kernel.hears(req(I0))
    assert kernel.waits(40 * TO) == [(TO * count, reply(I1)) for count in range(1, 41)]


def test_c08_a_wrong_checksum_is_refused() -> None:
    kernel = synced()
    right = req(I0)
    assert kernel.hears(changed(right, 12, right[12] + 1)) == RESEND
    assert kernel.requests == []
    assert kernel.hears(right) == ack(I0) + reply(I1)


def test_c09_a_wrong_trailer_is_refused() -> None:
    kernel = synced()
    assert kernel.hears(changed(req(I0), -1, 0x55)) == RESEND
    assert kernel.hears(req(I0)) == ack(I0) + reply(I1)


def test_c09_a_missing_trailer_is_refused_after_the_timeout() -> None:
    kernel = synced()
    assert kernel.hears(req(I0)[:-1]) == b""
    assert kernel.waits(60.0) == [(TO, RESEND)]
    assert kernel.hears(req(I0)) == ack(I0) + reply(I1)


@pytest.mark.parametrize(
    ("length", "taken"), [(0, False), (55, False), (56, True), (4000, True), (4001, False), (65535, False)]
)
def test_c10_lengths_have_bounds(length: int, taken: bool) -> None:
    payload = (GET_VERSION + bytes(65535))[:length]
    kernel = synced()
    assert kernel.hears(req(I0, payload)) == (ack(I0) + reply(I1) if taken else RESEND)
    assert kernel.requests == ([payload] if taken else [])


def test_c10_too_long_a_packet_is_refused_at_once() -> None:
    assert synced().hears(req(I0, bytes(4001))[:16]) == RESEND


def test_c11_a_cut_payload_is_refused_after_the_timeout() -> None:
    kernel = synced()
    assert kernel.hears(req(I0)[: 16 + 40]) == b""
    assert kernel.waits(60.0) == [(TO, RESEND)]
    assert kernel.hears(req(I0)) == ack(I0) + reply(I1)


def test_c11_a_cut_header_says_nothing_at_all() -> None:
    kernel = synced()
    assert kernel.hears(req(I0)[:6]) == b""
    assert kernel.waits(60.0) == []
    assert kernel.hears(req(I0)) == ack(I0) + reply(I1)


def test_c12_another_type_than_the_wanted_is_acknowledged_and_dropped() -> None:
    kernel = synced()
    assert kernel.hears(encode_data(PacketType.DEBUG_IO, I0, bytes(60))) == ack(I0)
    assert kernel.hears(req(I0)) == ack(I0) + reply(I1)
    assert kernel.requests == [GET_VERSION]


def test_c13_a_request_again_after_its_reply_is_a_duplicate() -> None:
    kernel = synced()
    kernel.hears(req(I0))
    kernel.hears(ack(I1))
    assert kernel.hears(req(I0)) == ack(I0)
    assert kernel.waits(60.0) == []
    assert kernel.requests == [GET_VERSION]


@pytest.mark.parametrize("foreign", [0x12345678, BOOT])
def test_c14_a_foreign_id_is_refused(foreign: int) -> None:
    kernel = synced()
    assert kernel.hears(req(foreign)) == RESEND
    assert kernel.hears(req(I0)) == ack(I0) + reply(I1)


def test_c15_the_other_id_is_a_duplicate() -> None:
    kernel = synced()
    assert kernel.hears(req(I1)) == ack(I1)
    assert kernel.hears(req(I0)) == ack(I0) + reply(I1)
    assert kernel.requests == [GET_VERSION]


@pytest.mark.parametrize("noise", [b"\x00\xff\x12zz", b"00ii"])
def test_c16_noise_is_skipped(noise: bytes) -> None:
    kernel = synced()
    assert kernel.hears(noise + req(I0)) == ack(I0) + reply(I1)


def test_c16_one_more_leader_byte_costs_a_resend() -> None:
    kernel = synced()
    assert kernel.hears(b"0" + req(I0)) == RESEND
    assert kernel.hears(req(I0)) == ack(I0) + reply(I1)


@pytest.mark.parametrize("count", [1, 5])
def test_c17_a_break_in_to_a_stopped_target_repeats_the_stop_once(count: int) -> None:
    kernel = synced()
    assert kernel.hears(b"b" * count) == b""
    assert kernel.waits(3 * TO) == [(TO * times, stop(I1)) for times in (1, 2, 3)]
    assert kernel.hears(ack(I1)) == b""
    assert kernel.waits(60.0) == []
    assert kernel.link.break_pending


def test_c18_a_break_in_before_a_packet_is_noted() -> None:
    kernel = synced()
    assert kernel.hears(b"b" + req(I0)) == ack(I0) + reply(I1)
    assert kernel.link.break_pending
    kernel.hears(ack(I1))
    assert kernel.hears(req(I1, CONTINUE)) == ack(I1) + stop(I0)


def test_c18_a_break_in_that_noise_follows_is_not_noted() -> None:
    kernel = synced()
    assert kernel.hears(b"bx" + req(I0)) == ack(I0) + reply(I1)
    assert not kernel.link.break_pending


def test_c19_a_new_request_in_place_of_the_ack_is_refused_once() -> None:
    kernel = synced()
    kernel.hears(req(I0))
    assert kernel.hears(req(I1)) == RESEND
    assert kernel.waits(60.0) == []
    assert kernel.hears(req(I1)) == ack(I1) + reply(I0)


def test_c20_the_old_request_in_place_of_the_ack_is_a_duplicate() -> None:
    kernel = synced()
    kernel.hears(req(I0))
    assert kernel.hears(req(I0)) == ack(I0)
    assert kernel.waits(TO) == [(TO, reply(I1))]
    assert kernel.hears(ack(I1)) == b""
    assert kernel.requests == [GET_VERSION]


@pytest.mark.parametrize("control", [encode_control(9), ack(I0), ack(I1)])
def test_c21_other_control_packets_are_ignored_when_idle(control: bytes) -> None:
    kernel = synced()
    assert kernel.hears(control) == b""
    assert kernel.waits(60.0) == []
    assert kernel.hears(req(I0)) == ack(I0) + reply(I1)


def test_c21_resend_when_idle_repeats_the_stop() -> None:
    kernel = synced()
    assert kernel.hears(RESEND) == stop(I1)
    assert kernel.events == [ResendAsked()]


def test_c22_reset_repeats_the_reply_that_is_not_acknowledged() -> None:
    kernel = synced()
    kernel.hears(req(I0))
    kernel.events.clear()
    assert kernel.hears(RESET) == RESET + reply(I0)
    assert kernel.events == []
    assert kernel.hears(ack(I0) + req(I0)) == ack(I0) + reply(I1)


def test_c23_a_break_in_stops_a_running_target_at_once() -> None:
    assert running().hears(b"b") == stop(I1)


def test_c23_a_running_target_answers_nothing_else() -> None:
    kernel = running()
    assert kernel.hears(RESET) == b""
    assert kernel.waits(60.0) == []


def test_c23_what_comes_before_the_break_in_is_lost() -> None:
    kernel = running()
    assert kernel.hears(RESET + b"b") == stop(I1)
    assert kernel.hears(ack(I1)) == b""
    assert kernel.waits(60.0) == []


def test_c23_what_comes_after_the_break_in_is_read() -> None:
    assert running().hears(b"b" + RESET) == stop(I1) + RESET + stop(I0)


@pytest.mark.parametrize("cuts", [(3, 30), (8, 16), (15, 72), (1, 2)])
def test_c24_a_packet_may_come_in_pieces(cuts: tuple[int, int]) -> None:
    kernel = synced()
    raw = req(I0)
    for piece in (raw[: cuts[0]], raw[cuts[0] : cuts[1]]):
        assert kernel.hears(piece) == b""
        assert kernel.waits(0.9 * TO) == []
    assert kernel.hears(raw[cuts[1] :]) == ack(I0) + reply(I1)


def test_c25_a_print_that_nobody_wants_is_given_up() -> None:
    kernel = printing()
    assert kernel.waits(60.0) == [(TO * count, printed(BOOT)) for count in range(1, 20)]
    assert kernel.events == [GaveUp(PacketType.DEBUG_IO, "the debugger does not acknowledge it, sent 20 times")]
    assert kernel.link.debugger_absent
    assert kernel.hears(b"b") == stop(BOOT)
    assert kernel.hears(ack(I0) + req(I0)) == ack(I0) + reply(I1)
    assert not kernel.link.debugger_absent


def test_c26_resend_of_a_print() -> None:
    kernel = printing()
    assert kernel.hears(RESEND) == printed(BOOT)
    assert kernel.hears(ack(I0)) == b""
    assert kernel.events == [Acknowledged(PacketType.DEBUG_IO)]
    assert kernel.waits(60.0) == []
    assert kernel.link.running


def test_only_the_three_packets_of_1_5_are_given_up() -> None:
    for packet_type, payload, times in (
        (PacketType.DEBUG_IO, b"\x30\x32\x00\x00", 3),
        (PacketType.STATE_CHANGE64, b"\x31\x30\x00\x00", 3),
        (PacketType.FILE_IO, b"\x30\x34\x00\x00", 3),
        (PacketType.DEBUG_IO, b"\x31\x32\x00\x00", 100),
        (PacketType.STATE_CHANGE64, b"\x30\x30\x00\x00", 100),
        (PacketType.FILE_IO, b"\x31\x34\x00\x00", 100),
        (PacketType.STATE_MANIPULATE, b"\x30\x31\x00\x00", 100),
    ):
        kernel = Kernel(TargetLink(byte_timeout=TO, retries=3))
        kernel.link.send(packet_type, payload, kernel.now)
        assert 1 + len(kernel.waits(99.5 * TO)) == times


def test_a_leader_on_the_line_refills_the_tries() -> None:
    kernel = printing()
    kernel.waits(18.5 * TO)
    assert kernel.hears(encode_control(9)) == b""
    assert len(kernel.waits(60.0)) == 19


def test_without_retries_nothing_is_given_up() -> None:
    kernel = Kernel(TargetLink(byte_timeout=TO, retries=None))
    kernel.link.send(PacketType.DEBUG_IO, PRINT, kernel.now)
    assert len(kernel.waits(500 * TO)) == 500


def test_a_link_that_forgets_on_reset_announces_in_place_of_the_reply() -> None:
    kernel = synced(forget_on_reset=True)
    kernel.hears(req(I0))
    kernel.events.clear()
    assert kernel.hears(RESET) == RESET + stop(I0)
    assert [type(event) for event in kernel.events] == [GaveUp, ResetSeen]


def test_ids_after_a_reset_are_as_asked_for() -> None:
    kernel = synced(first_id_after_reset=I1, reset_reply_id=7)
    assert kernel.hears(RESET) == encode_control(PacketType.RESET, 7) + stop(I1)
    assert kernel.hears(ack(I1) + req(I0)) == ack(I0) + reply(I0)


def test_a_bridge_hears_of_a_break_in_at_once() -> None:
    link = TargetLink(byte_timeout=TO, sync=False, break_at_once=True)
    assert list(link.receive(b"b", 0.0)) == [BreakIn()]
    assert list(link.receive(b"b" + req(I0), 0.0)) == [BreakIn(), Packet(2, GET_VERSION)]
    assert link.take_output() == ack(I0)
    assert link.deadline is None
    assert not link.break_pending


def test_packets_wait_in_line_behind_each_other() -> None:
    link = TargetLink(byte_timeout=TO, sync=False)
    for packet_type, payload in ((3, PRINT), (7, STOP), (3, PRINT)):
        link.send(packet_type, payload, 0.0)
    assert link.backlog == 3
    assert link.take_output() == printed(I0)
    assert list(link.receive(ack(I0), 0.0)) == [Acknowledged(3)]
    assert link.take_output() == stop(I1)
    assert list(link.receive(ack(I1), 0.0)) == [Acknowledged(7)]
    assert link.take_output() == printed(I0)
    assert link.backlog == 1


def test_a_target_that_starts_to_run_within_a_packet_gives_it_up() -> None:
    kernel = synced()
    kernel.hears(req(I0)[:40])
    kernel.link.running = True
    assert kernel.hears(req(I0)[40:]) == b""
    assert kernel.hears(b"b") == stop(I1)
    assert kernel.hears(ack(I1) + req(I0)) == ack(I0) + reply(I0)


def test_a_restart_forgets_everything() -> None:
    kernel = synced()
    kernel.hears(b"b" + req(I0) + req(I0)[:30])
    kernel.link.restart()
    assert (kernel.link.backlog, kernel.link.missing, kernel.link.deadline) == (0, 0, None)
    assert not kernel.link.break_pending
    kernel.announce()
    assert kernel.link.take_output() == stop(BOOT)
    assert kernel.hears(ack(I0) + req(I0)) == ack(I0) + reply(I1)


def test_too_long_a_payload_is_the_owners_mistake() -> None:
    with pytest.raises(ValueError, match="at most 4000"):
        TargetLink().send(2, bytes(4001), 0.0)


frames = st.one_of(
    st.sampled_from([RESET, RESEND, ack(I0), ack(I1), req(I0), req(I1), b"b", req(I0)[:30], req(I1, CONTINUE)]),
    st.binary(max_size=64),
    st.binary(max_size=6).map(lambda head: b"0000" + head),
)


starts = st.sampled_from([boot, synced, running, printing])


@given(starts, st.lists(st.tuples(frames, st.floats(0.0, 0.6)), max_size=25))
def test_after_any_bytes_a_reset_brings_the_target_back(
    start: Callable[[], Kernel], line: list[tuple[bytes, float]]
) -> None:
    """Whatever came: `b`, a silence longer than the timeout and RESET, twice, lead to a stop and a request served."""
    kernel = start()
    for data, pause in line:
        kernel.hears(data)
        kernel.waits(pause)
    for _ in range(2):
        kernel.hears(b"b")
        kernel.waits(2.1 * TO)
        kernel.hears(RESET)
        kernel.hears(ack(I0))
    assert kernel.hears(RESET).endswith(stop(I0))
    kernel.requests.clear()
    assert kernel.hears(ack(I0) + req(I0)) == ack(I0) + reply(I1)
    assert kernel.requests == [GET_VERSION]
