"""KDNET datagrams: sealed and opened as known ones are, and refused when anything in them is not right."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from hypothesis import given
from hypothesis import strategies as st
from kdnet_vectors import CONTROL_KEY, DATA_KEY, MAC_KEY, VECTORS, Vector

from kdsrv.kdnet.control import Offer
from kdsrv.kdnet.datagrams import MAX_DATAGRAM, MIN_DATAGRAM, Channel, Datagram, Seal, channel_of
from kdsrv.kdnet.keys import NetKey

CAPTURES = Path(__file__).resolve().parents[2] / "shared" / "spec" / "captures"

payloads = st.one_of(st.binary(max_size=80), st.binary(min_size=1100, max_size=1200), st.binary(max_size=4016))
datagrams = st.builds(
    Datagram, st.integers(0, 255), st.sampled_from([0, 1]), st.integers(0, (1 << 56) - 1), st.booleans(), payloads
)


def seal_of(channel: int) -> Seal:
    return Seal(DATA_KEY if channel == Channel.DATA else CONTROL_KEY, MAC_KEY)


def sealed_plainly(key: bytes, header: bytes, plain: bytes) -> bytes:
    """The datagram as the ciphers' own way is: a new cipher for each, with the tag as its IV."""
    mac = HMAC(MAC_KEY, SHA256())
    mac.update(header + plain)
    tag = mac.finalize()[:16]
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(tag)).encryptor()
    return header + encryptor.update(plain) + encryptor.finalize() + tag


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_a_known_datagram(vector: Vector) -> None:
    opened = seal_of(vector.channel).open(vector.datagram)
    assert opened == Datagram(vector.version, vector.channel, vector.sequence, vector.from_host, vector.payload)
    assert seal_of(vector.channel).seal(*opened) == vector.datagram
    assert channel_of(vector.datagram) == vector.channel


@given(st.lists(datagrams, max_size=8))
def test_what_is_sealed_opens_whatever_went_before(sent: list[Datagram]) -> None:
    sender, receiver = seal_of(0), seal_of(0)
    sealed = [sender.seal(*datagram) for datagram in sent]
    assert [receiver.open(data) for data in sealed] == sent
    assert [receiver.open(data) for data in reversed(sealed)] == sent[::-1]


@given(st.lists(datagrams, min_size=1, max_size=4))
def test_a_seal_in_long_use_gives_the_bytes_of_a_new_cipher(sent: list[Datagram]) -> None:
    seal = seal_of(0)
    for version, channel, sequence, from_host, payload in sent:
        padding = -(8 + len(payload)) % 16
        meta = struct.pack(">Q", sequence << 8 | from_host << 7 | padding)
        plain = meta + payload + bytes(padding)
        expected = sealed_plainly(DATA_KEY, b"MDBG" + bytes((version, channel)), plain)
        assert seal.seal(version, channel, sequence, from_host, payload) == expected
        assert len(expected) == 22 + 16 * ((8 + len(payload) + 15) // 16)


@given(datagrams, st.data())
def test_one_changed_byte_is_refused(datagram: Datagram, data: st.DataObject) -> None:
    sealed = bytearray(seal_of(0).seal(*datagram))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    seal = seal_of(0)
    assert seal.open(bytes(sealed)) is None
    good = seal_of(0).seal(*datagram)
    assert seal.open(good) == datagram, "what was refused leaves no trace"


def test_every_single_byte_of_a_datagram_is_protected() -> None:
    sealed = VECTORS["GETVERSION_REQ"].datagram
    seal = seal_of(0)
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        assert seal.open(changed) is None


@given(datagrams, st.integers(1, 64))
def test_a_datagram_cut_short_or_made_longer_is_refused(datagram: Datagram, count: int) -> None:
    sealed = seal_of(0).seal(*datagram)
    assert seal_of(0).open(sealed[:-count]) is None
    assert seal_of(0).open(sealed + bytes(count)) is None


@given(st.binary(max_size=200))
def test_anything_at_all_is_refused(data: bytes) -> None:
    assert seal_of(0).open(data) is None
    assert seal_of(0).open(b"MDBG\x05\x00" + data) is None


def test_another_key_refuses() -> None:
    sealed = seal_of(0).seal(5, 0, 1, True, b"b")
    assert Seal(CONTROL_KEY, MAC_KEY).open(sealed) is None
    assert Seal(DATA_KEY, CONTROL_KEY).open(sealed) is None


def test_an_authentic_datagram_that_is_all_padding_is_refused() -> None:
    """The metadata's 8 bytes leave 8 in the smallest datagram; a padding of 9 would eat into them."""
    header = b"MDBG\x05\x00"
    assert seal_of(0).open(sealed_plainly(DATA_KEY, header, struct.pack(">Q8x", 1 << 8 | 8))) is not None
    assert seal_of(0).open(sealed_plainly(DATA_KEY, header, struct.pack(">Q8x", 1 << 8 | 9))) is None


@pytest.mark.parametrize(
    ("size", "channel"),
    [
        *((size, 0) for size in (MIN_DATAGRAM, MIN_DATAGRAM + 16, 1206, MAX_DATAGRAM)),
        *((size, None) for size in (0, 5, 22, MIN_DATAGRAM - 16, MIN_DATAGRAM + 1, MAX_DATAGRAM + 16, 65494)),
    ],
)
def test_sizes_are_told_without_a_key(size: int, channel: int | None) -> None:
    assert channel_of(b"MDBG\x05\x00".ljust(size, b"x")[:size]) == channel


@pytest.mark.parametrize("start", [b"MDBG\x05\x02", b"MDBH\x05\x00", b"mdbg\x05\x00", b"\0\0\0\0\x05\x00"])
def test_other_headers_are_told_without_a_key(start: bytes) -> None:
    assert channel_of(start.ljust(54, b"x")) is None
    assert channel_of(b"MDBG\xff\x01".ljust(54, b"x")) == Channel.CONTROL


def frames_of(capture: Path) -> Iterator[bytes]:
    """The UDP payloads of a classic pcap file of IPv4 on Ethernet."""
    raw = capture.read_bytes()
    at = 24
    while at < len(raw):
        size = struct.unpack_from("<I", raw, at + 8)[0]
        frame = raw[at + 16 : at + 16 + size]
        at += 16 + size
        length = struct.unpack_from(">H", frame, 16)[0]
        yield frame[14 + 4 * (frame[14] & 15) + 8 : 14 + length]


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="the captures are not beside this checkout")
def test_the_offers_of_a_real_windows() -> None:
    key = NetKey.parse("1.2.3.4")
    seal = Seal(key.control, key.mac)
    frames = list(frames_of(CAPTURES / "newmeta-kek.pcap"))
    control = [frame for frame in frames if channel_of(frame) == Channel.CONTROL]
    data = [frame for frame in frames if channel_of(frame) == Channel.DATA]
    assert (len(control), len(control) + len(data), len(frames)) == (10, 704, 704)
    for frame in control:
        opened = seal.open(frame)
        assert opened is not None
        assert seal.seal(*opened) == frame
        offer = Offer.decode(opened.payload)
        assert offer is not None
        assert offer.encode() == opened.payload
        assert offer.is_bound
    assert not any(seal.open(frame) for frame in data)
