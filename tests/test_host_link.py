"""The debugger's end of a link against the conformance cases C39 to C56 of the KD protocol, section 6.3.

Of cases that are decided above the link, the link's part is here: what it takes, acknowledges, hands up and sends.
"""

from __future__ import annotations

import json
import random
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.kd.host_link import HostLink
from kdsrv.kd.link import Acknowledged, Event, GaveUp, Phase, ResetSeen
from kdsrv.kd.packets import BREAK_IN, INITIAL_ID, SYNC, Packet, PacketType, encode_control, encode_data

CAPTURES = Path(__file__).resolve().parents[2] / "shared" / "spec" / "captures"
needs_captures = pytest.mark.skipif(not CAPTURES.is_dir(), reason="the captures are not beside this checkout")

I0, I1, BOOT = INITIAL_ID, INITIAL_ID | 1, INITIAL_ID | SYNC
STOP = b"\x30\x30\x00\x00" + b"s" * 236
PRINT = b"\x30\x32\x00\x00" + b"p" * 20
REQUEST = b"\x46\x31\x00\x00" + b"\x01" * 52
REPLY = b"\x46\x31\x00\x00" + b"r" * 52
CONTINUE = b"\x3c\x31\x00\x00" + b"\x02" * 52

RESET, RESEND = encode_control(PacketType.RESET), encode_control(PacketType.RESEND)
STOPPED, REPLIED, PRINTED = Packet(7, STOP), Packet(2, REPLY), Packet(3, PRINT)


def ack(packet_id: int) -> bytes:
    return encode_control(PacketType.ACKNOWLEDGE, packet_id)


def stop(packet_id: int, payload: bytes = STOP) -> bytes:
    return encode_data(PacketType.STATE_CHANGE64, packet_id, payload)


def req(packet_id: int, payload: bytes = REQUEST) -> bytes:
    return encode_data(PacketType.STATE_MANIPULATE, packet_id, payload)


def reply(packet_id: int, payload: bytes = REPLY) -> bytes:
    return encode_data(PacketType.STATE_MANIPULATE, packet_id, payload)


def printed(packet_id: int) -> bytes:
    return encode_data(PacketType.DEBUG_IO, packet_id, PRINT)


class Host:
    """A host link and the clock of its owner, who does nothing by himself."""

    def __init__(self, **options: object) -> None:
        self.link = HostLink(**options)  # type: ignore[arg-type]
        self.now = 50.0
        self.events: list[Event] = []

    def hears(self, data: bytes) -> bytes:
        """What goes out upon these bytes."""
        self.events += self.link.receive(data, self.now)
        return self.link.take_output()

    def takes(self, data: bytes) -> list[Event]:
        """What these bytes mean to the owner."""
        self.events.clear()
        self.hears(data)
        return self.events

    def sends(self, payload: bytes, packet_type: int = PacketType.STATE_MANIPULATE) -> bytes:
        self.link.send(packet_type, payload, self.now)
        return self.link.take_output()

    def waits(self, seconds: float) -> list[tuple[float, bytes]]:
        """What goes out in silence, with the seconds since its beginning."""
        began, written = self.now, []
        while self.link.deadline is not None and self.link.deadline <= began + seconds:
            self.now = max(self.now, self.link.deadline)
            self.events += self.link.expire(self.now)
            if output := self.link.take_output():
                written.append((self.now - began, output))
        self.now = began + seconds
        return written

    def resyncs(self) -> bytes:
        self.events += self.link.resync(self.now)
        return self.link.take_output()


def attached(**options: object) -> Host:
    """In step with a stopped target: next packet out I0, in I1."""
    host = Host(**options)
    assert host.resyncs() == RESET
    assert host.hears(RESET) == b""
    assert host.hears(stop(I0)) == ack(I0)
    assert host.events == [ResetSeen(), STOPPED]
    host.events.clear()
    return host


def booted() -> Host:
    """In step with a target that has just announced itself, without any RESET."""
    host = Host()
    assert host.hears(stop(BOOT)) == ack(I0)
    assert host.events == [ResetSeen(), STOPPED]
    host.events.clear()
    return host


def test_c39_a_target_that_boots_sets_the_ids() -> None:
    host = Host()
    assert host.hears(stop(BOOT)) == ack(I0)
    assert host.sends(REQUEST) == req(I0)
    assert host.hears(ack(I0) + reply(I1)) == ack(I1)
    assert host.events == [ResetSeen(), STOPPED, Acknowledged(2), REPLIED]


def test_c39_ids_start_again_when_the_target_boots_in_the_middle() -> None:
    host = attached()
    host.sends(REQUEST)
    host.hears(ack(I0) + reply(I1))
    assert host.sends(CONTINUE) == req(I1, CONTINUE)
    host.events.clear()
    assert host.hears(stop(BOOT)) == ack(I0)
    assert host.events == [GaveUp(2, "the target has started anew"), ResetSeen(), STOPPED]
    assert host.sends(REQUEST) == req(I0)
    assert host.hears(ack(I0) + reply(I1)) == ack(I1)


@pytest.mark.parametrize("first", [BOOT, I1])
def test_c40_a_packet_twice_is_acknowledged_twice_and_delivered_once(first: int) -> None:
    host = Host() if first == BOOT else attached()
    masked = first & ~SYNC
    assert host.hears(stop(first) * 2) == ack(masked) * 2
    host.events = [event for event in host.events if event != ResetSeen()]
    assert host.hears(stop(first)) == ack(masked)
    assert host.events == [STOPPED]
    assert host.hears(stop(masked ^ 1)) == ack(masked ^ 1)
    assert host.events == [STOPPED, STOPPED]


def test_c40_another_packet_with_the_same_id_is_not_a_repeat() -> None:
    """The target has taken our request for the ACK of a packet that never came; that must not cost the next one too."""
    host = attached()
    assert host.sends(CONTINUE) == req(I0, CONTINUE)
    assert host.hears(RESEND + ack(I0)) == req(I0, CONTINUE)
    assert host.hears(printed(I0)) == ack(I0)
    assert host.hears(printed(I0)) == ack(I0)
    assert host.events == [Acknowledged(2), PRINTED]


@pytest.mark.parametrize("at", [12, 16, 100, -2, -1])
def test_c41_a_damaged_packet_is_refused(at: int) -> None:
    host = attached()
    damaged = bytearray(stop(I1))
    damaged[at] ^= 0x40
    assert host.hears(bytes(damaged)) == RESEND
    assert host.events == []
    assert host.hears(stop(I1)) == ack(I1)


def test_c42_resend_repeats_byte_for_byte() -> None:
    host = attached()
    sent = host.sends(REQUEST)
    assert host.hears(RESEND) == sent
    assert host.hears(RESEND) == sent
    assert host.hears(ack(I0)) == b""
    assert host.hears(RESEND) == b""


def test_c43_a_reset_unasked_is_answered_once() -> None:
    host = attached()
    host.waits(10.0)
    host.sends(REQUEST)
    assert host.hears(RESET) == RESET
    assert host.events == [GaveUp(2, "the target has reset the link"), ResetSeen()]
    assert host.hears(RESET) == b""
    assert host.hears(stop(I0)) == ack(I0)
    assert host.sends(REQUEST) == req(I0)


def test_c43_the_answer_to_our_reset_is_not_answered() -> None:
    host = Host()
    assert host.resyncs() == RESET
    assert host.hears(RESET) == b""
    assert host.events == [ResetSeen()]
    assert host.hears(RESET) == b""
    assert host.events == [ResetSeen()]


def test_c43_late_answers_to_several_resets_do_not_bounce() -> None:
    host = Host()
    assert host.resyncs() == RESET
    assert [output for _, output in host.waits(2.0)] == [RESET] * 2
    assert host.hears((RESET + stop(I0)) * 3) == ack(I0) * 3
    assert host.link.phase is Phase.SYNCED
    assert host.sends(REQUEST) == req(I0)
    assert host.hears(ack(I0) + reply(I1)) == ack(I1)


def test_c44_attach_to_an_idle_target() -> None:
    host = Host()
    host.link.break_in(host.now)
    assert host.resyncs() == BREAK_IN + RESET
    assert host.hears(RESET + stop(I0)) == ack(I0)
    for out, back in ((I0, I1), (I1, I0), (I0, I1)):
        assert host.sends(REQUEST) == req(out)
        assert host.hears(ack(out) + reply(back)) == ack(back)
    assert not host.link.breaking_in
    assert host.events == [ResetSeen(), STOPPED] + [Acknowledged(2), REPLIED] * 3


def test_c44_a_pending_state_change_before_the_reset() -> None:
    host = Host()
    host.link.break_in(host.now)
    assert host.resyncs() == BREAK_IN + RESET
    assert host.hears(stop(BOOT)) == ack(I0)
    assert host.hears(RESET + stop(I0)) == ack(I0)
    assert host.sends(REQUEST) == req(I0)
    assert host.hears(ack(I0) + reply(I1)) == ack(I1)
    assert host.events == [ResetSeen(), STOPPED, Acknowledged(2), REPLIED]


def test_c44_a_state_change_without_sync_before_the_reset_is_left_to_be_repeated() -> None:
    host = Host()
    assert host.resyncs() == RESET
    assert host.hears(stop(I1)) == b""
    assert host.hears(RESET + stop(I0)) == ack(I0)
    assert host.events == [ResetSeen(), STOPPED]


def test_a_target_that_boots_while_resets_go_unheard_is_taken_at_once() -> None:
    host = Host(resets=0)
    host.resyncs()
    host.waits(100.0)
    assert host.hears(stop(BOOT)) == ack(I0)
    assert host.sends(REQUEST) == req(I0)
    assert host.waits(0.4) == []


def test_c45_an_old_reply_after_the_reset_is_dropped_and_the_stop_asked_for() -> None:
    host = Host()
    host.resyncs()
    assert host.hears(RESET + reply(I0)) == ack(I0) + RESET
    assert host.events == [ResetSeen()]
    assert host.hears(RESET + stop(I0)) == ack(I0)
    assert host.events == [ResetSeen(), ResetSeen(), STOPPED]


def test_c45_the_second_reset_has_all_its_tries() -> None:
    host = Host(resets=3)
    host.resyncs()
    host.waits(2.0)
    assert host.hears(RESET + reply(I0)) == ack(I0) + RESET
    assert [output for _, output in host.waits(60.0)] == [RESET] * 2


def test_c46_a_request_without_ack_is_repeated_and_answered_once() -> None:
    host = attached(ack_timeout=0.5)
    sent = host.sends(REQUEST)
    assert host.waits(0.5) == [(0.5, sent)]
    assert host.hears(ack(I0)) == b""
    assert host.hears(reply(I1) * 2) == ack(I1) * 2
    assert host.events == [Acknowledged(2), REPLIED]
    assert host.waits(60.0) == []


def test_c46_a_reply_is_an_ack_as_well() -> None:
    host = attached()
    host.sends(REQUEST)
    assert host.hears(reply(I1)) == ack(I1)
    assert host.events == [Acknowledged(2), REPLIED]
    assert host.sends(REQUEST) == req(I1)


def test_c46_an_ack_goes_out_before_the_next_request() -> None:
    host = attached()
    assert host.sends(REQUEST) == req(I0)
    assert host.sends(CONTINUE) == b""
    assert host.hears(reply(I1)) == ack(I1) + req(I1, CONTINUE)


def test_c47_a_target_that_keeps_to_no_ids() -> None:
    """As Xen kdd was seen to behave: no SYNC, another RESET id, prints anywhere, ids of its own."""
    host = Host()
    assert host.hears(stop(I0)) == RESET
    answer = encode_control(PacketType.RESET, 0xDEADBEEF)
    assert host.hears(answer + printed(I0) + stop(I1)) == ack(I0) + ack(I1)
    assert host.sends(REQUEST) == req(I0)
    assert host.hears(ack(I0) + printed(I0) + reply(I1)) == ack(I0) + ack(I1)
    assert host.sends(REQUEST) == req(I1)
    written = b"\x46\x31\x00\x00" + b"w" * 52 + b"data of the request"
    assert host.hears(ack(I1) + reply(I0, written)) == ack(I0)
    assert host.events == [
        *(ResetSeen(), PRINTED, STOPPED, Acknowledged(2), PRINTED, REPLIED, Acknowledged(2)),
        Packet(2, written),
    ]


def test_c47_after_a_reset_either_id_is_taken() -> None:
    host = Host()
    host.resyncs()
    assert host.hears(RESET + stop(I1)) == ack(I1)
    assert host.hears(stop(I0)) == ack(I0)
    assert host.events == [ResetSeen(), STOPPED, STOPPED]


@pytest.mark.parametrize(
    ("packet_type", "asked"), [(PacketType.FILE_IO, b"\x30\x34\x00\x00"), (PacketType.DEBUG_IO, b"\x31\x32\x00\x00")]
)
def test_c48_an_answer_to_file_io_and_get_string_goes_out(packet_type: int, asked: bytes) -> None:
    host = attached()
    asked, answer = asked + bytes(60), asked + b"a" * 60
    assert host.hears(encode_data(packet_type, I1, asked)) == ack(I1)
    assert host.events == [Packet(packet_type, asked)]
    assert host.sends(answer, packet_type) == encode_data(packet_type, I0, answer)
    assert host.hears(ack(I0)) == b""
    assert host.events[1:] == [Acknowledged(packet_type)]


def test_c49_the_link_does_not_look_into_a_print() -> None:
    host = attached()
    wrong = b"\x30\x32\x00\x00" + bytes(4) + b"\xff\xff\xff\xff" + bytes(4) + b"short"
    assert host.takes(encode_data(PacketType.DEBUG_IO, I1, wrong)) == [Packet(3, wrong)]


def test_c50_a_target_that_reboots_comes_back_with_sync() -> None:
    host = attached()
    gone = b"\x31\x30\x00\x00" + b"\xff" * 236
    assert host.hears(stop(I1, gone)) == ack(I1)
    assert host.sends(CONTINUE) == req(I0, CONTINUE)
    assert host.hears(ack(I0)) == b""
    assert host.hears(b"\x00\xfc\x80rubbish of a booting machine") == b""
    assert host.hears(stop(BOOT)) == ack(I0)
    assert host.sends(REQUEST) == req(I0)
    assert host.events == [Packet(7, gone), Acknowledged(2), ResetSeen(), STOPPED]


def test_c51_one_more_stop_after_a_continue() -> None:
    host = Host()
    host.link.break_in(host.now)
    host.resyncs()
    host.hears(RESET + stop(I0))
    assert host.sends(CONTINUE) == req(I0, CONTINUE)
    assert host.takes(ack(I0) + stop(I1)) == [Acknowledged(2), STOPPED]
    assert host.sends(REQUEST) == req(I1)
    assert host.takes(ack(I1) + reply(I0)) == [Acknowledged(2), REPLIED]


@needs_captures
@pytest.mark.parametrize("missing", [1, 0])
def test_c52_a_real_boot(missing: int) -> None:
    """What a real XP sent while five RESETs of its debugger were waiting to be read; once without the first byte."""
    frames = json.loads((CAPTURES / "winxp-sp3-x86-serial-boot.json").read_text())["frames"]
    sent = b"".join(bytes.fromhex(frame["hex"]) for frame in frames if frame["dir"] == "host>target")
    came = b"".join(bytes.fromhex(frame["hex"]) for frame in frames if frame["dir"] == "target>host")[missing:]
    host = Host(resets=0, reset_timeout=1.0)
    output = host.resyncs()
    while len(output) < len(sent):
        output += b"".join(out for _, out in host.waits(1.0))
    assert output == sent
    written = b""
    for at in range(0, len(came), 7):
        written += host.hears(came[at : at + 7])
    assert written == (ack(I0) if missing else ack(I0) * 2)
    assert host.events == [ResetSeen(), Packet(7, came[-272:-1])]
    assert host.link.noise == (287 if missing else 0)
    assert host.sends(REQUEST) == req(I0)


@needs_captures
def test_a_real_announcement_needs_no_reset() -> None:
    [frame] = json.loads((CAPTURES / "win10-x64-exception-syzkaller.json").read_text())["frames"]
    host = Host()
    assert host.hears(bytes.fromhex(frame["hex"])) == ack(I0)
    assert [event.type for event in host.events if isinstance(event, Packet)] == [7]


def test_c53_no_bytes_mean_nothing() -> None:
    host = attached()
    deadline = host.link.deadline
    assert host.hears(b"") == b""
    assert (host.events, host.link.deadline) == ([], deadline)


def test_c54_a_reset_with_junk_behind_it() -> None:
    host = Host()
    host.resyncs()
    junk = b"iiii\x06\x00\x10\x00\x00\x08\x80\x80\x00\x00\x00\x00" + b"\xcd" * 16 + b"\xaa"
    assert host.hears(junk + stop(BOOT)) == ack(I0)
    assert host.events == [ResetSeen(), ResetSeen(), STOPPED]


@pytest.mark.parametrize("size", [240, 244, 247])
def test_c55_state_changes_of_other_sizes(size: int) -> None:
    host = attached()
    payload = (STOP + b"trace..")[:size]
    assert host.takes(stop(I1, payload)) == [Packet(7, payload)]


@pytest.mark.parametrize("seed", range(20))
def test_c56_a_good_packet_is_found_after_2_kb_of_rubbish(seed: int) -> None:
    rubbish = random.Random(seed).randbytes(2048)
    if seed % 2:
        rubbish = rubbish[:1000] + b"0000\x02\x00\xa0\x0f" + rubbish[1000:]
    host = attached()
    host.hears(rubbish)
    for _ in range(3):
        host.hears(stop(I1))
        host.waits(1.0)
    assert host.events == [STOPPED]


def test_the_first_packet_of_a_target_in_the_middle_leads_to_a_reset() -> None:
    host = Host()
    assert host.hears(stop(I1)) == RESET
    assert host.hears(stop(I1)) == b""
    assert host.hears(RESET + stop(I0)) == ack(I0)
    assert host.events == [ResetSeen(), STOPPED]


def test_a_break_in_that_makes_the_target_talk_shows_that_a_running_one_ate_the_reset() -> None:
    """Whenever between two RESETs the break-in comes, the ids are agreed on at once."""
    for passed in (0.0, 0.3, 0.7, 2.0):
        host = Host()
        host.resyncs()
        host.waits(passed)
        host.link.break_in(host.now)
        assert host.link.take_output() == BREAK_IN
        assert host.hears(stop(I1)) == RESET
        assert host.hears(RESET + stop(I0)) == ack(I0)
        assert host.events[-2:] == [ResetSeen(), STOPPED]


def test_a_target_that_talks_and_does_not_answer_is_sent_the_next_reset_soon() -> None:
    """However long the RESETs before it went unanswered: 0.5 s after the last, or as soon as its packet is over."""
    host = Host(reset_timeout=0.5)
    host.resyncs()
    assert host.waits(1.6) == [(0.5, RESET), (1.5, RESET)]
    assert host.hears(stop(I1)) == b""
    assert host.waits(0.4) == [(pytest.approx(0.4), RESET)]
    assert host.waits(1.4) == [(pytest.approx(0.5), RESET)]
    assert host.hears(stop(I1)) == b""
    assert host.waits(0.2) == [(pytest.approx(0.1), RESET)]
    assert host.events == []


def test_a_packet_sent_before_the_ids_are_agreed_waits() -> None:
    host = Host()
    assert host.sends(REQUEST) == b""
    assert host.link.backlog == 1
    assert host.hears(stop(BOOT)) == ack(I0) + req(I0)


def test_resets_are_given_up_after_some_and_the_time_between_them_grows() -> None:
    host = Host(reset_timeout=0.5, resets=3)
    host.resyncs()
    assert host.waits(60.0) == [(0.5, RESET), (1.5, RESET)]
    assert host.events == [GaveUp(PacketType.RESET, "no answer to 3 RESETs")]
    assert host.link.deadline is None
    assert host.link.phase is Phase.UNKNOWN


def test_resets_without_a_limit_go_on() -> None:
    host = Host(resets=0)
    host.resyncs()
    assert len(host.waits(1000.0)) > 100
    assert host.events == []


def test_a_target_that_acknowledges_nothing_is_given_up_with_all_that_waits() -> None:
    host = attached(tries=3)
    host.sends(REQUEST)
    host.sends(CONTINUE)
    assert [output for _, output in host.waits(60.0)] == [req(I0)] * 2
    why = "the target does not acknowledge it, sent 3 times"
    assert host.events == [GaveUp(2, why), GaveUp(2, why)]
    assert (host.link.phase, host.link.backlog, host.link.deadline) == (Phase.UNKNOWN, 0, None)


def test_what_an_owner_sends_when_told_of_a_loss_goes_out_under_the_new_ids() -> None:
    """The owner asks again at once, as long as it is told of losses."""
    for cause in (RESET, stop(BOOT)):
        host = attached()
        host.sends(REQUEST)
        host.hears(ack(I0) + reply(I1))
        host.waits(10.0)
        host.sends(REQUEST)
        for event in host.link.receive(cause, host.now):
            if isinstance(event, GaveUp):
                host.link.send(2, CONTINUE, host.now)
        assert host.link.take_output().replace(RESET, b"").replace(ack(I0), b"") == req(I0, CONTINUE)


def test_an_owner_that_asks_again_upon_every_loss_does_not_hang_the_link() -> None:
    host = attached(tries=2)
    host.sends(REQUEST)
    while host.link.deadline is not None:
        host.now = host.link.deadline
        for event in host.link.expire(host.now):
            if isinstance(event, GaveUp):
                host.link.send(2, REQUEST, host.now)
    assert host.link.backlog == 1


def test_a_byte_timeout_within_a_packet_asks_for_it_again() -> None:
    host = attached(byte_timeout=0.25)
    assert host.hears(stop(I1)[:100]) == b""
    assert host.link.missing == 157
    assert host.waits(60.0) == [(0.25, RESEND)]
    assert host.link.missing == 0
    assert host.hears(stop(I1)) == ack(I1)


def test_a_byte_timeout_within_a_header_says_nothing() -> None:
    host = attached(byte_timeout=0.25)
    assert host.hears(stop(I1)[:10]) == b""
    assert host.waits(60.0) == []
    assert host.hears(stop(I1)) == ack(I1)


def test_a_slow_line_gives_a_packet_more_time() -> None:
    host = attached(byte_time=0.01, ack_timeout=0.5)
    sent = host.sends(REQUEST)
    assert host.waits(0.5 + 0.01 * len(sent) - 0.001) == []
    assert [output for _, output in host.waits(0.002)] == [sent]


def test_break_in_is_repeated_until_the_target_stops() -> None:
    host = attached(break_in_interval=2.0)
    host.link.break_in(host.now)
    assert host.link.take_output() == BREAK_IN
    assert host.waits(6.0) == [(2.0, BREAK_IN), (4.0, BREAK_IN), (6.0, BREAK_IN)]
    assert host.hears(printed(I1)) == ack(I1)
    assert host.link.breaking_in
    assert host.hears(stop(I0)) == ack(I0)
    assert host.waits(60.0) == []


def test_break_in_can_be_called_off() -> None:
    host = attached()
    host.link.break_in(host.now)
    host.link.take_output()
    host.link.cancel_break_in(host.now)
    assert host.waits(60.0) == []


def test_a_break_in_comes_seldom_enough_for_a_stopped_target_to_answer() -> None:
    """It tells of the ``b`` that it has read after a second of silence, so the next must not come sooner."""
    host = attached()
    host.link.break_in(host.now)
    host.link.take_output()
    assert host.waits(1.4) == []


def test_a_request_is_repeated_seldom_enough_for_a_target_that_reads_on() -> None:
    """A target that believes in a longer packet takes our repeats for its rest, until a second passes without any."""
    host = attached()
    host.sends(REQUEST)
    times = [at for at, _ in host.waits(20.0)]
    assert times[0] == 0.5
    assert all(later - earlier > 1.2 for earlier, later in pairwise(times))
    assert len(times) >= 4


@given(st.lists(st.one_of(st.binary(max_size=3000), st.sampled_from([b"0000\x02\x00\xff\x1f", stop(BOOT), RESET]))))
def test_any_bytes_do_no_harm_and_a_resync_ends_it(chunks: list[bytes]) -> None:
    host = attached()
    host.sends(REQUEST)
    for chunk in chunks:
        host.hears(chunk)
        assert len(host.link._framer._buffer) <= 16 + 8192 + 1
        host.waits(0.2)
    host.waits(20.0)
    host.resyncs()
    assert host.takes(RESET + stop(I0)) == [ResetSeen(), STOPPED]
    assert host.sends(REQUEST) == req(I0)
    assert host.takes(ack(I0) + reply(I1)) == [Acknowledged(2), REPLIED]


def test_a_reply_byte_by_byte_costs_the_same_for_each_byte() -> None:
    def seconds(size: int) -> float:
        best = 9.9
        for _ in range(3):
            host = attached()
            raw = reply(I1, REPLY.ljust(size, b"\xcc"))
            began = time.perf_counter()
            for at in range(len(raw)):
                host.hears(raw[at : at + 1])
            best = min(best, time.perf_counter() - began)
            assert len(host.events) == 1
        return best

    assert seconds(4000) < 30 * seconds(400)
