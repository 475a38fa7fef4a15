"""Which baud rate a serial line runs at, told by what its bytes look like at another (8N1; KD protocol, 1.1).

A receiver waits for the line to fall, looks at it in the middle of ten of its own bit times, and takes what it sees for
a byte. So bytes sent at one rate and read at another come out as other bytes, but always as the same ones: the leader
of a KD packet, which is sent after a pause, has one look for each pair of rates and each kind of receiver. Kinds differ
in what they do when the line is low where a byte should end, which at a wrong rate it often is.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache
from itertools import islice
from typing import Final

from kdsrv.kd.packets import CONTROL_LEADER, DATA_LEADER, INITIAL_ID, SYNC, PacketType

__all__ = ["RATES", "Receiver", "as_read", "likely_rates"]

RATES: Final = (1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600)
"""Baud; those that bcdedit offers, and the faster ones that virtual machines and their like are given."""

_BITS: Final = 10
_LEAST: Final = 3
"""Bytes that a look must have to tell anything."""
_ENOUGH: Final = 64
_ENOUGH_RUNS: Final = 8
"""Bytes, and runs of equal ones among them, that are enough. A bit sent at a much lower rate comes out as a run, whose
length is what tells the rate."""
_MOST_NOISE: Final = 4096
_FARTHEST: Final = 1000
"""Times slower than it is read: beyond that the noise does not hold a whole look."""
_USUAL_STOP: Final = 240
"""Bytes in the payload of a stop on AMD64 (KD protocol, 2.1)."""


class Receiver(Enum):
    """When a receiver takes a low line for the next start bit, after one where the end of a byte should be."""

    AT_ONCE = auto()
    AFTER_BREAK = auto()
    """At once, but after a byte that was low all over it waits for the line to rise first: the 16550 and its like."""
    AFTER_RISE = auto()


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


def as_read(
    data: bytes, sent_at: int, read_at: int, most: int | None = None, receiver: Receiver = Receiver.AFTER_BREAK
) -> bytes:
    """What ``receiver`` at ``read_at`` baud makes of bytes sent without a pause at ``sent_at`` baud, after a pause; no
    more than ``most`` bytes of it."""
    return bytes(islice(_read(data, sent_at, read_at, receiver), most))


def likely_rates(noise: bytes, read_at: int) -> list[int]:
    """The rates at which the target may send what was read at ``read_at`` baud as ``noise``, the likeliest first. None
    of them may be: then the noise does not tell. Looks at the first 4096 bytes."""
    noise = noise[:_MOST_NOISE]
    rates = [rate for rate in RATES if rate != read_at < rate * _FARTHEST]
    scores = {rate: _score(noise, rate, read_at) for rate in rates}
    return sorted((rate for rate, score in scores.items() if score), key=lambda rate: -scores[rate])


def _score(noise: bytes, sent_at: int, read_at: int) -> int:
    """How many bytes of the noise look just like beginnings of packets sent at this rate."""
    return max(sum(noise.count(look) * _worth(look) for look in _looks(sent_at, read_at, kind)) for kind in Receiver)


@lru_cache(maxsize=1024)
def _looks(sent_at: int, read_at: int, receiver: Receiver) -> tuple[bytes, ...]:
    looks = (_look(_read(data, sent_at, read_at, receiver)) for data in _BEGINNINGS)
    return tuple(look for look in looks if len(look) >= _LEAST)


def _worth(look: bytes) -> int:
    """Bytes between the first and the last run, which may be parts of longer ones."""
    return len(look.lstrip(look[:1]).rstrip(look[-1:]))


def _look(read: Iterator[int]) -> bytes:
    look = bytearray()
    runs = 0
    for byte in read:
        runs += look[-1:] != bytes((byte,))
        look.append(byte)
        if len(look) > _ENOUGH and runs > _ENOUGH_RUNS:
            break
    return bytes(look[:-1])  # the last byte read may reach into what is not known


def _read(data: bytes, sent_at: int, read_at: int, receiver: Receiver) -> Iterator[int]:
    # time in units in which both a bit of the sender and half a bit of the receiver are whole numbers
    sender, half = 2 * read_at, sent_at
    levels = [level for byte in data for level in (0, *(byte >> bit & 1 for bit in range(8)), 1)]
    end = len(levels)
    at = 0
    waits = False
    while (first := at // sender) < end:
        if waits or levels[first]:
            high = next((bit for bit in range(first, end) if levels[bit]), end)
            at = next((bit for bit in range(high, end) if not levels[bit]), end) * sender
            waits = False
            continue
        looked = [(at + (2 * number + 1) * half) // sender for number in range(_BITS)]
        seen = [levels[bit] if bit < end else 1 for bit in looked]
        if seen[0]:
            at += half
            continue
        yield sum(level << bit for bit, level in enumerate(seen[1:9]))
        at += (2 * _BITS - 1) * half
        if not seen[9]:
            waits = receiver is Receiver.AFTER_RISE or (receiver is Receiver.AFTER_BREAK and not any(seen))
