"""The debugger's end of a link by mailboxes, alone: what it takes, gives and gives up, and when."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.firewire.link import MailboxLink
from kdsrv.kd.link import Acknowledged, Event, GaveUp, Phase
from kdsrv.kd.packets import BREAK_IN, Packet, PacketType, checksum, encode_control

STOP = b"\x30\x30\0\0" + b"s" * 236
REQUEST = b"\x46\x31\0\0" + b"\x01" * 52
REPLY = b"\x46\x31\0\0" + b"r" * 52
RESEND = encode_control(PacketType.RESEND)
STOPPED, REPLIED = Packet(7, STOP), Packet(2, REPLY)


def packet(packet_type: int, payload: bytes, packet_id: int = 0, wanted_sum: int | None = None) -> bytes:
    wanted_sum = checksum(payload) if wanted_sum is None else wanted_sum
    return struct.pack("<4sHHII", b"0000", packet_type, len(payload), packet_id, wanted_sum) + payload


def id_of(data: bytes) -> int:
    return int.from_bytes(data[8:12], "little")


class Host:
    """A link and the clock of its owner, who does nothing by himself."""

    def __init__(self) -> None:
        self.link = MailboxLink()
        self.now = 50.0

    def hears(self, data: bytes) -> list[Event]:
        return list(self.link.receive(data, self.now))

    def said(self) -> list[bytes]:
        said = []
        while data := self.link.take_output():
            said.append(data)
        return said

    def sends(self, payload: bytes = REQUEST) -> bytes:
        self.link.send(PacketType.STATE_MANIPULATE, payload, self.now)
        (said,) = self.said()
        return said

    def takes(self, sent: bytes) -> list[Event]:
        return self.hears(encode_control(PacketType.ACKNOWLEDGE, id_of(sent)))

    def waits(self, seconds: float) -> list[Event]:
        end, events = self.now + seconds, []
        while self.link.deadline is not None and self.link.deadline <= end:
            self.now = max(self.now, self.link.deadline)
            events += self.link.expire(self.now)
        self.now = end
        return events


@pytest.fixture
def host() -> Host:
    """In step with a target that stands still."""
    host = Host()
    assert host.link.resync(host.now) == []
    assert host.said() == [RESEND]
    assert host.link.phase is Phase.RESETTING
    assert host.hears(packet(7, STOP)) == [STOPPED]
    assert host.link.phase is Phase.SYNCED
    return host


def test_a_packet_is_header_and_body_and_nothing_more(host: Host) -> None:
    sent = host.sends()
    assert sent == packet(2, REQUEST, id_of(sent))
    assert host.link.backlog == 1
    assert host.takes(sent) == [Acknowledged(2)]
    assert host.link.backlog == 0
    assert host.hears(packet(2, REPLY)) == [REPLIED]
    assert host.link.counters.packets_sent == 1
    assert host.link.counters.packets_received == 2
    assert host.link.counters.bytes_sent == 16 + len(sent)


def test_nothing_is_acknowledged(host: Host) -> None:
    for payload in (STOP, STOP, REPLY):
        host.hears(packet(7, payload))
    assert host.said() == []


def test_packets_go_one_after_another(host: Host) -> None:
    first = host.sends()
    host.link.send(PacketType.STATE_MANIPULATE, REPLY, host.now)
    host.link.send(PacketType.STATE_MANIPULATE, STOP, host.now)
    assert host.said() == []
    assert host.takes(first) == [Acknowledged(2)]
    (second,) = host.said()
    assert second[16:] == REPLY
    assert host.hears(encode_control(PacketType.ACKNOWLEDGE, id_of(first))) == [], "of the one before"
    assert host.takes(second) == [Acknowledged(2)]
    (third,) = host.said()
    assert len({id_of(first), id_of(second), id_of(third)}) == 3


def test_nothing_goes_before_the_target_was_heard() -> None:
    host = Host()
    host.link.send(PacketType.STATE_MANIPULATE, REQUEST, host.now)
    assert host.said() == []
    assert host.hears(packet(3, b"\x30\x32\0\0printed")) != []
    (sent,) = host.said()
    assert sent[16:] == REQUEST


def test_limits(host: Host) -> None:
    assert (host.link.max_request, host.link.max_reply, host.link.noise, host.link.missing) == (3984, 4000, 0, 0)
    assert len(host.sends(bytes(3984))) == 4000
    with pytest.raises(ValueError, match="a mailbox takes a payload of 3984 bytes, this one is 3985"):
        host.sends(bytes(3985))


def test_what_is_not_taken_is_given_again_and_then_given_up(host: Host) -> None:
    sent = host.sends()
    assert host.waits(3.9) == []
    assert host.said() == [sent] * 3
    assert host.waits(0.2) == [GaveUp(2, "the target does not take it in 4 s")]
    assert host.link.phase is Phase.UNKNOWN
    assert host.link.backlog == 0
    assert host.takes(sent) == []
    assert (host.waits(100.0), host.said()) == ([], [])


def test_resend_repeats_the_last_packet_whether_it_was_taken_or_not(host: Host) -> None:
    sent = host.sends()
    host.takes(sent)
    assert host.hears(RESEND) == []
    assert host.said() == [sent]
    assert host.link.backlog == 1
    assert host.takes(sent) == [Acknowledged(2)]
    assert host.hears(packet(2, REPLY)) == [REPLIED]
    assert host.link.counters.repeats_sent == 1


def test_resend_without_end_is_given_up(host: Host) -> None:
    sent = host.sends()
    events: list[Event] = []
    for _ in range(6):
        host.takes(sent)
        events += host.hears(RESEND)
    assert events == [GaveUp(2, "the target asks for it again and again")]
    assert host.said() == [sent] * 3
    assert host.link.phase is Phase.UNKNOWN


def test_resend_is_not_answered_by_resend(host: Host) -> None:
    host.takes(host.sends())
    host.link.resync(host.now)
    host.said()
    assert host.hears(RESEND) == []
    assert host.said() == []


def test_a_break_in_is_repeated_until_the_target_stops(host: Host) -> None:
    host.link.break_in(host.now)
    assert host.link.breaking_in
    host.waits(4.5)
    assert host.said() == [BREAK_IN] * 3
    host.hears(packet(3, b"\x30\x32\0\0printed"))
    assert host.link.breaking_in
    host.hears(packet(7, STOP))
    assert not host.link.breaking_in
    host.waits(100)
    assert host.said() == []
    assert host.link.deadline is None


def test_what_was_not_taken_before_a_break_in_has_stopped_the_target_is_given_up(host: Host) -> None:
    """A Continue that comes again now would let it run on."""
    sent = host.sends()
    host.link.break_in(host.now)
    assert host.hears(packet(7, STOP)) == [GaveUp(2, "the target has stopped before it was taken"), STOPPED]
    host.said()
    assert (host.waits(10), host.said()) == ([], [])
    assert host.takes(sent) == []
    sent = host.sends()
    assert host.hears(packet(7, STOP)) == [STOPPED], "told again for another reason"
    assert host.takes(sent) == [Acknowledged(2)]


def test_a_target_that_runs_does_not_answer_a_resync(host: Host) -> None:
    host.sends()
    host.link.send(PacketType.STATE_MANIPULATE, REPLY, host.now)
    lost = host.link.resync(host.now)
    assert [event.type for event in lost] == [2, 2]
    assert host.said() == [RESEND]
    assert host.hears(encode_control(PacketType.ACKNOWLEDGE)) == []
    assert host.waits(2.9) == []
    assert host.waits(0.2) == [GaveUp(PacketType.RESET, "the target does not tell of a stop")]
    assert host.link.phase is Phase.UNKNOWN
    assert (host.waits(100), host.said()) == ([], [])


def test_a_damaged_packet_has_the_stop_repeated_a_few_times(host: Host) -> None:
    for _ in range(10):
        assert host.hears(packet(2, REPLY, wanted_sum=1)) == []
    assert host.said() == [RESEND] * 3
    assert host.link.counters.damaged == 10
    host.hears(packet(7, STOP))
    host.hears(packet(2, REPLY, wanted_sum=1))
    assert host.said() == [RESEND]


@given(st.lists(st.binary(max_size=80) | st.binary(max_size=60).map(lambda body: b"iiii" + body), max_size=20))
def test_whatever_comes_is_taken_or_counted(said: list[bytes]) -> None:
    host = Host()
    host.link.resync(host.now)
    for data in said:
        for event in host.hears(data):
            assert isinstance(event, Packet)
    host.waits(10.0)
    assert len(host.said()) <= 25


@given(
    st.lists(
        st.sampled_from(["send", "take", "reply", "resend", "wait", "resync", "break", "stop", "damage"]), max_size=40
    )
)
def test_one_packet_at_a_time_and_each_has_one_end(steps: list[str]) -> None:
    """Every packet that was sent is acknowledged, given up, or still there; at most one is with the target."""
    host = Host()
    link = host.link
    host.link.resync(host.now)
    on_line: list[bytes] = []
    sent = ended = again = 0

    def count(events: list[Event]) -> None:
        nonlocal ended
        for event in events:
            if isinstance(event, Acknowledged | GaveUp) and event.type == 2:
                ended += 1

    for step in steps:
        if step == "send":
            link.send(PacketType.STATE_MANIPULATE, REQUEST, host.now)
            sent += 1
        elif step == "take" and on_line:
            count(host.takes(on_line[-1]))
        elif step == "reply":
            count(host.hears(packet(2, REPLY)))
        elif step == "resend":
            before = link.backlog
            count(host.hears(RESEND))
            again += link.backlog > before
        elif step == "wait":
            count(host.waits(1.5))
        elif step == "resync":
            count(list(link.resync(host.now)))
        elif step == "break":
            link.break_in(host.now)
        elif step == "stop":
            count(host.hears(packet(7, STOP)))
        elif step == "damage":
            count(host.hears(packet(2, REPLY, wanted_sum=1)))
        on_line += [data for data in host.said() if data[:4] == b"0000"]
        assert all(len(data) <= 4000 for data in on_line)
        if link.backlog:
            assert link.deadline is not None or link.phase is not Phase.SYNCED
    assert ended + link.backlog >= sent
    assert ended + link.backlog <= sent + again + steps.count("resend")
