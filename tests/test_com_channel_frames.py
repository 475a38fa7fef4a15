"""Frames on a serial cable: stuffing, CRC, and finding the next frame after whatever came before."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.com_channel.frames import MAX_PAYLOAD, OVERHEAD, Frame, FrameKind, FrameReader, encode, stuff, unstuff

frames = st.builds(
    Frame,
    kind=st.sampled_from(list(FrameKind)).map(int),
    tag=st.integers(0, 0xFFFFFFFF),
    sequence=st.integers(0, 0xFFFF),
    acknowledge=st.integers(0, 0xFFFF),
    body=st.binary(max_size=MAX_PAYLOAD + 1) | st.integers(0, MAX_PAYLOAD + 1).map(bytes),
    gap=st.booleans(),
    ping=st.booleans(),
)


@pytest.mark.parametrize(
    ("data", "stuffed"),
    [
        (b"", b"\1"),
        (b"\0", b"\1\1"),
        (b"\0\0", b"\1\1\1"),
        (b"\x11\x22\0\x33", b"\3\x11\x22\2\x33"),
        (b"\x11\0\0\0", b"\2\x11\1\1\1"),
        (b"a" * 254, b"\xff" + b"a" * 254 + b"\1"),
        (b"a" * 255, b"\xff" + b"a" * 254 + b"\2a"),
        (b"a" * 254 + b"\0", b"\xff" + b"a" * 254 + b"\1\1"),
    ],
)
def test_stuffing(data: bytes, stuffed: bytes) -> None:
    assert stuff(data) == stuffed
    assert unstuff(stuffed) == data


@given(st.binary(max_size=1200))
def test_stuffing_leaves_no_zero_and_costs_little(data: bytes) -> None:
    stuffed = stuff(data)
    assert 0 not in stuffed
    assert len(stuffed) <= len(data) + 1 + len(data) // 254
    assert unstuff(stuffed) == data


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\0", b"\1")))
def test_unstuffing_takes_anything(block: bytes) -> None:
    data = unstuff(block)
    assert data is None or 0 not in stuff(data)


@given(st.lists(frames, max_size=4), st.data())
def test_frames_come_back_however_they_are_cut(sent: list[Frame], data: st.DataObject) -> None:
    line = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(line)), max_size=6)))
    reader = FrameReader()
    got = []
    for begin, end in zip([0, *cuts], [*cuts, len(line)], strict=True):
        got += reader.read(line[begin:end])
    assert got == sent
    assert reader.damaged == 0


def test_what_a_frame_costs() -> None:
    for body in (bytes(MAX_PAYLOAD + 1), b"\xff" * (MAX_PAYLOAD + 1)):
        assert len(encode(Frame(FrameKind.DATA, 1, 2, 3, body))) <= MAX_PAYLOAD + OVERHEAD


@given(frames, st.binary(max_size=2000), st.integers(1, 700))
def test_after_noise_the_frame_after_the_next_zero_is_found(frame: Frame, noise: bytes, piece: int) -> None:
    reader = FrameReader()
    line = noise + b"\0" + encode(frame)
    got = []
    for at in range(0, len(line), piece):
        got += reader.read(line[at : at + piece])
    assert got[-1] == frame


@given(frames, st.data())
def test_a_damaged_byte_is_noticed(frame: Frame, data: st.DataObject) -> None:
    line = bytearray(encode(frame))
    line[data.draw(st.integers(0, len(line) - 2))] ^= data.draw(st.integers(1, 255))
    reader = FrameReader()
    assert frame not in reader.read(bytes(line))
    assert reader.damaged >= 1 or line[0] == 0


def test_endless_noise_is_not_kept() -> None:
    reader = FrameReader()
    for _ in range(1000):
        assert reader.read(b"U" * 1000) == []
    frame = Frame(FrameKind.STATE, 5)
    assert reader.read(b"\0" + encode(frame)) == [frame]
    assert reader.damaged == 1


def test_the_format_is_the_documented_one() -> None:
    frame = Frame(FrameKind.DATA, 0x04030201, 0x0605, 0x0807, b"\x09data", gap=True)
    raw = bytes([0x48, 1, 2, 3, 4, 5, 6, 7, 8, 9]) + b"data"
    assert encode(frame) == stuff(raw + zlib.crc32(raw).to_bytes(4, "little")) + b"\0"
