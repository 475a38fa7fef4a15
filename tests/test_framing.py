"""Framers: what they find does not depend on how the bytes come, and no bytes can hurt them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.kd.framing import HEADER_SIZE, MAX_ACCEPTED, HostFramer, HostPacket, TargetFramer, TargetHeader
from kdsrv.kd.packets import HEADER, INITIAL_ID, PacketType, encode_control, encode_data

I0, I1 = INITIAL_ID, INITIAL_ID | 1

packets = st.one_of(
    st.builds(encode_control, st.sampled_from([4, 5, 6, 9]), st.sampled_from([0, I0, I1, 0x30303030])),
    st.builds(encode_data, st.sampled_from([0, 2, 3, 7, 11, 12]), st.sampled_from([I0, I1]), st.binary(max_size=90)),
)
noise = st.one_of(st.binary(max_size=40), st.text("0ib\x00", max_size=30).map(str.encode))
lines = st.lists(st.one_of(packets, noise), max_size=12).map(b"".join)
cuts = st.lists(st.integers(1, 40), max_size=40)


def pieces(line: bytes, sizes: list[int]) -> list[bytes]:
    """The line as reads of these sizes bring it, and the rest at once."""
    found, at = [], 0
    for size in sizes:
        found.append(line[at : at + size])
        at += size
    return [*found, line[at:]]


def host_finds(chunks: list[bytes]) -> list[HostPacket]:
    framer, found = HostFramer(), []
    for chunk in chunks:
        framer.feed(chunk)
        while (packet := framer.next_packet()) is not None:
            found.append(packet)
    return found


def target_finds(chunks: list[bytes]) -> list[TargetHeader | tuple[TargetHeader, bytes, bool]]:
    """As a target reads that wants every body of a length it takes."""
    framer = TargetFramer()
    found: list[TargetHeader | tuple[TargetHeader, bytes, bool]] = []
    for chunk in chunks:
        framer.feed(chunk)
        while (thing := framer.next_body() if framer.in_body else framer.next_header()) is not None:
            found.append(thing)
            if isinstance(thing, TargetHeader) and not thing.control and thing.length <= 4000:
                framer.expect_body(thing)
    return found


@given(lines, cuts)
def test_a_host_finds_the_same_however_the_reads_are_cut(line: bytes, sizes: list[int]) -> None:
    assert host_finds(pieces(line, sizes)) == host_finds([line])


@given(lines, cuts)
def test_a_target_finds_the_same_however_the_reads_are_cut(line: bytes, sizes: list[int]) -> None:
    assert target_finds(pieces(line, sizes)) == target_finds([line])


@given(lines, cuts)
def test_the_break_flag_does_not_depend_on_the_reads_either(line: bytes, sizes: list[int]) -> None:
    flags = []
    for chunks in ([line], pieces(line, sizes)):
        framer = TargetFramer()
        for chunk in chunks:
            framer.feed(chunk)
            while framer.next_header() is not None:
                pass
        flags.append(framer.break_seen)
    assert flags[0] == flags[1]


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b"b", True),
        (b"bbbbb", True),
        (b"xb", True),
        (b"bx", False),
        (b"b00", True),
        (b"b0b", True),
        (b"b0x", False),
        (b"\x00", False),
    ],
)
def test_only_a_b_that_is_the_last_noise_counts(line: bytes, seen: bool) -> None:
    framer = TargetFramer()
    framer.feed(line)
    assert framer.next_header() is None
    assert framer.break_seen is seen


@given(st.lists(packets, max_size=6), noise.filter(lambda text: not set(text) & set(b"0i")))
def test_a_host_counts_what_belongs_to_no_packet_as_noise(found: list[bytes], stray: bytes) -> None:
    framer = HostFramer()
    framer.feed(stray + encode_control(PacketType.ACKNOWLEDGE, I0))
    while framer.next_packet() is not None:
        pass
    assert framer.noise == len(stray)


@given(lines)
def test_missing_is_what_completes_the_next_packet(line: bytes) -> None:
    """Feeding fewer bytes than a host says are missing never gives a packet."""
    framer = HostFramer()
    for at in range(len(line)):
        lacking = framer.missing
        framer.feed(line[at : at + 1])
        found = framer.next_packet()
        assert found is None or lacking <= 1
        while framer.next_packet() is not None:
            pass


def test_missing_counts_down_within_a_packet() -> None:
    packet = encode_data(2, I0, b"q" * 100)
    host, target = HostFramer(), TargetFramer()
    for framer in (host, target):
        framer.feed(packet[:10])
    assert (host.next_packet(), target.next_header()) == (None, None)
    assert (host.missing, target.missing) == (6, 6)
    host.feed(packet[10:50])
    target.feed(packet[10:50])
    header = target.next_header()
    assert header is not None
    target.expect_body(header)
    assert (host.next_packet(), target.next_body()) == (None, None)
    assert (host.missing, target.missing) == (67, 67)


@pytest.mark.parametrize("stray", [b"0", b"000", b"i", b"iii", b"0i0i", b"b00ii0"])
@pytest.mark.parametrize("packet", [encode_control(6, 0x5F863), encode_data(7, I0, b"stop" * 60)])
def test_a_host_loses_no_packet_to_stray_leader_bytes(stray: bytes, packet: bytes) -> None:
    assert [found.type for found in host_finds([stray + packet])] == [HEADER.unpack_from(packet)[1]]


def test_a_host_takes_more_than_4000_bytes_but_not_any_length() -> None:
    assert [found.good for found in host_finds([encode_data(2, I0, b"q" * MAX_ACCEPTED)])] == [True]
    too_long = HEADER.pack(b"0000", 2, MAX_ACCEPTED + 1, I0, 0)
    assert [found.type for found in host_finds([too_long + encode_control(4, I0)])] == [4]


def test_a_target_reads_a_resend_as_soon_as_its_type_is_there() -> None:
    framer = TargetFramer()
    framer.feed(b"iiii\x05\x00")
    assert framer.next_header() == TargetHeader(True, 5, 0, 0, 0)


@given(st.lists(st.one_of(st.binary(max_size=5000), lines), max_size=12))
def test_no_bytes_fill_a_framer(chunks: list[bytes]) -> None:
    host, target = HostFramer(), TargetFramer()
    for chunk in chunks:
        host.feed(chunk)
        target.feed(chunk)
        while host.next_packet() is not None:
            pass
        while (thing := target.next_body() if target.in_body else target.next_header()) is not None:
            if isinstance(thing, TargetHeader) and not thing.control and thing.length <= 4000:
                target.expect_body(thing)
        assert len(host._buffer) <= HEADER_SIZE + MAX_ACCEPTED + 1
        assert len(target._buffer) <= 4001


@pytest.mark.parametrize("filler", [b"q", b"0", b"i", b"iiii\x07"])
def test_bytes_that_come_one_by_one_cost_the_same_each(filler: bytes) -> None:
    """Ten times the bytes take about ten times as long, not a hundred times."""

    def seconds(size: int) -> float:
        packet = encode_data(2, I0, (filler * size)[:size])
        best = 9.9
        for _ in range(3):
            framer, target = HostFramer(), TargetFramer()
            began = time.process_time()
            for at in range(len(packet)):
                framer.feed(packet[at : at + 1])
                framer.next_packet()
                target.feed(packet[at : at + 1])
                if not target.in_body and (header := target.next_header()) is not None and not header.control:
                    target.expect_body(header)
                target.next_body()
            best = min(best, time.process_time() - began)
        return best

    assert seconds(4000) < 30 * seconds(400)
