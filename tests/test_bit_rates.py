"""Baud rates told by noise: the receiver's model against bit patterns worked out by hand, and every pair of rates."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.doctor.bit_rates import RATES, Receiver, as_read, likely_rates
from kdsrv.kd.packets import PacketType, encode_control
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget

TARGET = SimulatedTarget(SimOptions(state="halted"))
STOP_FRAME = TARGET.take_output()
RESET_FRAME = encode_control(PacketType.RESET)


@given(st.binary(max_size=64), st.sampled_from(RATES))
def test_at_its_own_rate_everything_is_as_it_was_sent(data: bytes, rate: int) -> None:
    assert as_read(data, rate, rate) == data


# The line as a receiver at a higher rate has it, one character for each of its bits; a byte is read as start bit, eight
# bits from the lowest up, stop bit. Where it is low in place of the stop bit, what comes next begins half a bit early,
# so that it is the end of each bit that is looked at: the next character.
@pytest.mark.parametrize(
    ("data", "sent_at", "read_at", "receiver", "read"),
    [
        # 00 11111111111111111111
        (b"\xff", 9600, 19200, Receiver.AT_ONCE, b"\xfe"),
        # 00 11 00 11 00 11 00 11 00 11 -> 0 01100110 0, rise, fall, 0 01100111 1
        (b"\x55", 9600, 19200, Receiver.AFTER_RISE, b"\x66\xe6"),
        # 00 00 11 11 00 00 11 11 00 11 -> 0 00111100 0 | 0 11110011
        (b"\x66", 4800, 9600, Receiver.AT_ONCE, b"\x78\x9e"),
        # the same -> 0 00111100 0, rise, fall, 0 01111111 1
        (b"\x66", 4800, 9600, Receiver.AFTER_RISE, b"\x78\xfe"),
        # 00000000000000000000 11111111 00000000 1111 -> 0 00000000 0 | 0 00000000 0 | 0 11111111 0 | 0 00000011 1
        (b"0", 1200, 4800, Receiver.AT_ONCE, b"\0\0\xff\xc0"),
        # the same -> 0 00000000 0, rise, fall, 0 00000001 1
        (b"0", 1200, 4800, Receiver.AFTER_BREAK, b"\0\x80"),
    ],
)
def test_slow_bits_are_read_several_times(
    data: bytes, sent_at: int, read_at: int, receiver: Receiver, read: bytes
) -> None:
    assert as_read(data, sent_at, read_at, receiver=receiver) == read


def test_at_half_the_rate_two_bits_are_seen_as_one() -> None:
    assert as_read(b"\xff\xff", 19200, 9600) == b""  # a start bit that is over in the middle of it is none
    assert as_read(b"\x00", 19200, 9600) == b"\xf8"  # the bits 1, 3, 5, 7, 9 of the ten are looked at: 0 000 1


def test_no_more_is_read_than_asked_for() -> None:
    assert as_read(b"0", 1200, 4800, 1) == b"\0"


MOST = 4096
FASTER = 3
"""How many times faster than it is read something may be sent. Beyond that too little of it is seen to be sure of."""
SLOWER = {Receiver.AT_ONCE: 768, Receiver.AFTER_BREAK: 10, Receiver.AFTER_RISE: 10}
"""And how many times slower: from ten times on all bits are breaks, which some receivers do not measure."""


@pytest.mark.parametrize("frame", [STOP_FRAME, RESET_FRAME], ids=["stop", "reset"])
@pytest.mark.parametrize("receiver", Receiver)
def test_every_rate_that_can_be_told_is_and_never_a_wrong_one_first(receiver: Receiver, frame: bytes) -> None:
    for sent_at, read_at in permutations(RATES, 2):
        found = likely_rates(as_read(frame, sent_at, read_at, MOST, receiver) * 3, read_at)
        is_told = sent_at <= FASTER * read_at and read_at <= SLOWER[receiver] * sent_at
        assert found[:1] == [sent_at] or (not is_told and not found), (sent_at, read_at, found)


@given(st.binary(max_size=4096), st.sampled_from(RATES))
def test_any_noise_is_judged_and_never_as_what_it_was_read_at(noise: bytes, read_at: int) -> None:
    assert read_at not in likely_rates(noise, read_at)


def test_what_kd_is_when_read_rightly_and_what_is_no_kd_names_no_rate() -> None:
    assert likely_rates(b"Booting from hard disk...\r\n" * 20, 115200) == []
    assert likely_rates(bytes(4096), 115200) == []
    assert likely_rates(b"\xff\xfe" * 1000, 115200) == []
