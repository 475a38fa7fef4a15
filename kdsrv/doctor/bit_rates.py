"""Which baud rate a serial line runs at, told by what its bytes look like at another (8N1; KD protocol, 1.1).

A receiver waits for the line to fall, looks at it in the middle of ten of its own bit times, and takes what it sees for
a byte. So bytes sent at one rate and read at another come out as other bytes, but always as the same ones: the leader
of a KD packet, which is sent after a pause, has one look for each pair of rates.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Final

from kdsrv.kd.packets import CONTROL_LEADER, DATA_LEADER, INITIAL_ID, SYNC, PacketType

__all__ = ["RATES", "as_read", "likely_rates"]

RATES: Final = (1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600)
"""Baud; those that bcdedit offers, and the faster ones that virtual machines and their like are given."""

_BITS: Final = 10
_LEAST: Final = 3
"""Bytes that a look must have to tell anything,"""
_MOST: Final = 64
"""and so many are enough."""
_MOST_NOISE: Final = 4096
_USUAL_STOP: Final = 240
"""Bytes in the payload of a stop on AMD64 (KD protocol, 2.1)."""


def _beginning(leader: bytes, packet_type: int, rest: bytes = b"") -> bytes:
    return leader + packet_type.to_bytes(2, "little") + rest


def _stop(packet_id: int) -> bytes:
    rest = _USUAL_STOP.to_bytes(2, "little") + packet_id.to_bytes(4, "little")
    return _beginning(DATA_LEADER, PacketType.STATE_CHANGE64, rest)


_BEGINNINGS: Final = (
    _beginning(DATA_LEADER, PacketType.STATE_CHANGE64),
    _stop(INITIAL_ID | SYNC),
    _stop(INITIAL_ID),
    _beginning(DATA_LEADER, PacketType.DEBUG_IO),
    _beginning(CONTROL_LEADER, PacketType.RESET, bytes(10)),
    _beginning(CONTROL_LEADER, PacketType.ACKNOWLEDGE, bytes(2)),
)
"""What a target says unasked, as far as it is always the same."""


def as_read(data: bytes, sent_at: int, read_at: int) -> bytes:
    """What a receiver at ``read_at`` baud makes of bytes sent without a pause at ``sent_at`` baud, after a pause."""
    return bytes(_read(data, sent_at, read_at))


def likely_rates(noise: bytes, read_at: int) -> list[int]:
    """The rates at which the target may send what was read at ``read_at`` baud as ``noise``, the likeliest first. None
    of them may be: then the noise does not tell. Looks at the first 4096 bytes."""
    noise = noise[:_MOST_NOISE]
    scores = {rate: _score(noise, rate, read_at) for rate in RATES if rate != read_at}
    return sorted((rate for rate, score in scores.items() if score), key=lambda rate: -scores[rate])


def _score(noise: bytes, sent_at: int, read_at: int) -> int:
    """How many bytes of the noise look like beginnings of packets sent at this rate."""
    return sum(noise.count(look) * len(look) for look in _looks(sent_at, read_at))


@cache
def _looks(sent_at: int, read_at: int) -> tuple[bytes, ...]:
    # the last byte read may reach into what is not known
    looks = (bytes(islice(_read(data, sent_at, read_at), _MOST + 1))[:-1] for data in _BEGINNINGS)
    return tuple(look for look in looks if len(look) >= _LEAST and len(set(look)) > 1)


def _read(data: bytes, sent_at: int, read_at: int) -> Iterator[int]:
    # time in units in which both a bit of the sender and half a bit of the receiver are whole numbers
    sender, half = 2 * read_at, sent_at
    levels = [level for byte in data for level in (0, *(byte >> bit & 1 for bit in range(8)), 1)]
    end = len(levels)
    at = 0
    while (first := at // sender) < end:
        if levels[first]:
            at = next((bit for bit in range(first, end) if not levels[bit]), end) * sender
            continue
        looked = [(at + (2 * number + 1) * half) // sender for number in range(_BITS)]
        seen = [levels[bit] if bit < end else 1 for bit in looked]
        if seen[0]:
            at += half
            continue
        yield sum(level << bit for bit, level in enumerate(seen[1:9]))
        at += (2 * _BITS - 1) * half
