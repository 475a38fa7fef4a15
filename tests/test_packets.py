"""Checksums and packets as bytes, against sums made the naive way and bytes of real kernels."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdsrv.kd.packets import INITIAL_ID, MAX_PAYLOAD, SYNC, PacketType, checksum, encode_control, encode_data

CAPTURES = Path(__file__).resolve().parents[2] / "shared" / "spec" / "captures"

payloads = st.one_of(
    st.binary(max_size=600),
    st.builds(lambda byte, length: bytes([byte]) * length, st.integers(0, 255), st.integers(0, 65535)),
)


@given(payloads)
@example(b"")
@example(b"\xff" * 256)
@example(b"\xff" * 257)
@example(b"\xff" * MAX_PAYLOAD)
@example(b"\xff" * 65535)
def test_checksum_is_the_plain_sum_of_all_bytes(payload: bytes) -> None:
    assert checksum(payload) == sum(payload)


@given(st.integers(0, 11), st.integers(0, 0xFFFFFFFF), payloads)
def test_a_data_packet_is_header_payload_and_trailer(packet_type: int, packet_id: int, payload: bytes) -> None:
    header = b"0000" + struct.pack("<HHII", packet_type, len(payload), packet_id, sum(payload))
    assert encode_data(packet_type, packet_id, payload) == header + payload + b"\xaa"


def test_a_control_packet_is_a_header_alone() -> None:
    assert encode_control(PacketType.RESET) == bytes.fromhex("69696969060000000000000000000000")
    assert encode_control(PacketType.ACKNOWLEDGE, 0x80800001) == bytes.fromhex("69696969040000000100808000000000")


def test_an_empty_data_packet_has_a_trailer_too() -> None:
    assert encode_data(2, INITIAL_ID, b"") == bytes.fromhex("30303030020000000000808000000000aa")


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="the captures are not beside this checkout")
@pytest.mark.parametrize("name", ["winxp-sp3-x86-serial-boot.json", "win10-x64-exception-syzkaller.json"])
def test_real_packets_are_encoded_byte_for_byte(name: str) -> None:
    for frame in json.loads((CAPTURES / name).read_text())["frames"]:
        raw = bytes.fromhex(frame["hex"])
        leader, packet_type, length, packet_id = struct.unpack_from("<4sHHI", raw)
        if leader == b"iiii":
            assert encode_control(packet_type, packet_id) == raw
        else:
            assert packet_id in (INITIAL_ID, INITIAL_ID | SYNC)
            assert encode_data(packet_type, packet_id, raw[16 : 16 + length]) == raw
