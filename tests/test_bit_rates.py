"""Baud rates told by noise: the receiver's model against bit patterns worked out by hand, and every pair of rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.doctor.bit_rates import RATES, as_read, likely_rates
from kdsrv.kd.packets import PacketType, encode_control
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget

TARGET = SimulatedTarget(SimOptions(state="halted"))
STOP_FRAME = TARGET.take_output()
RESET_FRAME = encode_control(PacketType.RESET)


@given(st.binary(max_size=64), st.sampled_from(RATES))
def test_at_its_own_rate_everything_is_as_it_was_sent(data: bytes, rate: int) -> None:
    assert as_read(data, rate, rate) == data


def test_at_twice_the_rate_each_bit_is_seen_twice() -> None:
    # 0x30 at half the rate: start 0, then 0 0 0 0 1 1 0 0, stop 1. At double the rate the first byte read has a start
    # and eight bits of 0 (9 of the 10 low halves, the tenth where the stop bit should be), the next begins there.
    assert as_read(b"0", 9600, 19200)[0] == 0x00
    assert as_read(b"\xff", 9600, 19200) == b"\xfe"  # a start of two bit times, the rest high
    assert as_read(b"\x55", 9600, 19200)[:1] == b"\x66"  # 00 11 00 11 00 11 ..: start 0, data 0 11 00 11 0


def test_at_half_the_rate_two_bits_are_seen_as_one() -> None:
    assert as_read(b"\xff\xff", 19200, 9600) == b""  # a start bit that is over in the middle of it is none
    assert as_read(b"\x00", 19200, 9600)[0] & 0x0F == 0


@pytest.mark.parametrize("frame", [STOP_FRAME, RESET_FRAME], ids=["stop", "reset"])
@pytest.mark.parametrize("read_at", RATES)
@pytest.mark.parametrize("sent_at", RATES)
def test_every_pair_of_rates_that_can_be_told_is(sent_at: int, read_at: int, frame: bytes) -> None:
    if sent_at == read_at:
        return
    noise = b"".join(as_read(frame, sent_at, read_at) for _ in range(3))
    found = likely_rates(noise, read_at)
    if sent_at <= read_at or (sent_at <= 1.5 * read_at and frame is RESET_FRAME):
        assert found[:1] == [sent_at], found
    else:
        assert sent_at in found or not found[:1] or read_at < sent_at


@given(st.binary(max_size=4096), st.sampled_from(RATES))
def test_any_noise_is_judged_and_never_as_what_it_was_read_at(noise: bytes, read_at: int) -> None:
    assert read_at not in likely_rates(noise, read_at)


def test_what_kd_is_when_read_rightly_and_what_is_no_kd_names_no_rate() -> None:
    assert likely_rates(b"Booting from hard disk...\r\n" * 20, 115200) == []
    assert likely_rates(bytes(4096), 115200) == []
    assert likely_rates(b"\xff\xfe" * 1000, 115200) == []
