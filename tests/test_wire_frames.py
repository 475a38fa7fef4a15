from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_talk import chunks

from kdsrv.errors import PeerError
from kdsrv.kd.packets import Packet
from kdsrv.wire.frames import (
    MAX_CONTROL,
    MAX_PACKET_PAYLOAD,
    BreakIn,
    Confirm,
    Control,
    Frame,
    FrameKind,
    FrameReader,
    LocalProtocolError,
    Resync,
    encode,
    encode_confirm,
    encode_packet,
)

frames = st.lists(
    st.one_of(
        st.builds(Packet, st.integers(0, 0xFFFF), st.binary(max_size=40)),
        st.builds(Control, st.binary(max_size=40)),
        st.just(BreakIn()),
        st.just(Resync()),
        st.builds(Confirm, st.integers(0, 2**64 - 1)),
    ),
    max_size=8,
)


def as_bytes(frame: Frame) -> bytes:
    match frame:
        case Packet(packet_type, payload):
            return encode_packet(packet_type, payload)
        case Control(body):
            return encode(FrameKind.CONTROL, body)
        case BreakIn():
            return encode(FrameKind.BREAK_IN)
        case Resync():
            return encode(FrameKind.RESYNC)
        case Confirm(received):
            return encode_confirm(received)


def test_bytes_of_each_kind() -> None:
    assert encode(FrameKind.CONTROL, b"{}") == bytes.fromhex("00000003 01 7b7d")
    assert encode_packet(0x0102, b"\xab\xcd") == bytes.fromhex("00000005 02 0201 abcd")
    assert encode(FrameKind.BREAK_IN) == bytes.fromhex("00000001 03")
    assert encode(FrameKind.RESYNC) == bytes.fromhex("00000001 04")
    assert encode_confirm(0x0102) == bytes.fromhex("00000009 05 00000000 00000102")


@given(frames, st.lists(st.integers(0, 500)))
@settings(deadline=None)
def test_any_split_gives_the_same_frames(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(map(as_bytes, sent))
    reader = FrameReader()
    came = [frame for piece in chunks(data, cuts) for frame in reader.receive(piece)]
    assert came == sent
    assert [type(frame) for frame in came] == [type(frame) for frame in sent]
    assert not reader.partial


@given(frames)
@settings(deadline=None)
def test_byte_at_a_time(sent: list[Frame]) -> None:
    reader = FrameReader()
    came = [frame for byte in b"".join(map(as_bytes, sent)) for frame in reader.receive(bytes([byte]))]
    assert came == sent


def test_a_frame_comes_out_with_its_last_byte() -> None:
    data = encode_packet(2, b"abc")
    reader = FrameReader()
    assert reader.receive(data[:-1]) == []
    assert reader.partial
    assert reader.receive(data[-1:] + data[:2]) == [Packet(2, b"abc")]
    assert reader.partial


def test_the_longest_bodies_pass() -> None:
    reader = FrameReader()
    data = encode_packet(7, bytes(MAX_PACKET_PAYLOAD)) + encode(FrameKind.CONTROL, bytes(MAX_CONTROL))
    assert reader.receive(data) == [Packet(7, bytes(MAX_PACKET_PAYLOAD)), Control(bytes(MAX_CONTROL))]


def test_we_send_nothing_longer() -> None:
    with pytest.raises(LocalProtocolError):
        encode_packet(2, bytes(MAX_PACKET_PAYLOAD + 1))
    with pytest.raises(LocalProtocolError):
        encode(FrameKind.CONTROL, bytes(MAX_CONTROL + 1))
    with pytest.raises(LocalProtocolError):
        encode(FrameKind.BREAK_IN, b"x")


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("00010002", "a frame of 65538 bytes, where 1 to 65537 can be"),
        ("00000000", "a frame of 0 bytes"),
        ("ffffffff", "a frame of 4294967295 bytes"),
        ("00002004 02", "a packet frame of 8196 bytes, where 3 to 8195 can be"),
        ("00000002 02", "a packet frame of 2 bytes, where 3 to 8195 can be"),
        ("00000002 03", "a break-in frame of 2 bytes, where 1 to 1 can be"),
        ("00000002 04", "a resync frame of 2 bytes"),
        ("00000001 00", "a frame of kind 0, which does not exist"),
        ("00000008 05", "a confirm frame of 8 bytes"),
        ("0000000a 05", "a confirm frame of 10 bytes"),
        ("00000001 05", "a confirm frame of 1 bytes, where 9 to 9 can be"),
        ("00000001 06", "a frame of kind 6, which does not exist"),
    ],
)
@pytest.mark.parametrize("size", [1, 100])
def test_a_bad_head_is_refused_with_its_last_byte(head: str, says: str, size: int) -> None:
    data = bytes.fromhex(head)
    reader = FrameReader()
    assert reader.receive(data[:-1]) == []
    with pytest.raises(PeerError, match=says):
        reader.receive(data[-1:])
    reader = FrameReader()
    with pytest.raises(PeerError, match=says):
        reader.receive(encode_packet(2, b"abc") + data + bytes(size))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GET / HTTP/1.1\r\n", "an HTTP request"),
        (b"HTTP/1.1 400 Bad Request\r\n", "an HTTP response"),
        (bytes.fromhex("1603010200010001fc0303"), "a TLS hello: use ssl: on both ends or on neither"),
        (bytes.fromhex("15030300020246"), "a TLS alert"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "an SSH greeting"),
        (b"iiii\x06\x00\x00\x00", "point the debugger at a bridge"),
        (b"bbbb", "point the debugger at a bridge"),
        (b"\xff\xfd\x01\xff", "telnet"),
        (b'{"type":"hello"}', "JSON without a frame"),
    ],
)
def test_what_strangers_send_is_named(data: bytes, says: str) -> None:
    with pytest.raises(PeerError, match=says):
        FrameReader().receive(data)
    reader = FrameReader()
    assert reader.receive(data[:3]) == []
    with pytest.raises(PeerError, match=says):
        reader.receive(data[3:4])


@given(st.lists(st.binary(max_size=30)))
@settings(deadline=None)
def test_garbage_gives_frames_or_a_peer_error(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            reader.receive(piece)
    except PeerError:
        pass
