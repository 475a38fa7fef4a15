"""What a host does on a 1394 bus: reads and writes of another node's memory, one after another.

A script is a generator that yields one operation at a time, and gets what was read or has `TransactionFailed` raised
at the yield. So what has to happen in order reads in order, and whoever runs the script owns bus and clock. A script
that yields None wants to be gone on with later.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias, TypeVar

__all__ = ["TRANSIENT", "Operation", "Read", "ResponseCode", "Script", "TransactionFailed", "Write", "read", "write"]

T = TypeVar("T")

_QUADLET: Final = 4


class ResponseCode(IntEnum):
    """How a transaction ended (KD over 1394, 2.2)."""

    COMPLETE = 0
    CONFLICT_ERROR = 4
    DATA_ERROR = 5
    TYPE_ERROR = 6
    ADDRESS_ERROR = 7
    SEND_ERROR = 0x10
    CANCELLED = 0x11
    BUSY = 0x12
    STALE_GENERATION = 0x13
    NO_ACKNOWLEDGEMENT = 0x14


TRANSIENT: Final = frozenset(range(ResponseCode.SEND_ERROR, ResponseCode.NO_ACKNOWLEDGEMENT + 1))
"""What a bus reset or a busy target causes; the same again may succeed."""


class Read(NamedTuple):
    """``length`` bytes from ``address`` of the node."""

    address: int
    length: int


class Write(NamedTuple):
    """``data`` to ``address`` of the node."""

    address: int
    data: bytes


Operation: TypeAlias = Read | Write
Script: TypeAlias = Generator[Operation | None, bytes, T]


class TransactionFailed(Exception):
    """Raised within a script: the node, or the bus, answered with ``code`` in place of doing what was asked."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        """Half a sentence for people."""
        if self.code in ResponseCode.__members__.values():
            return ResponseCode(self.code).name.lower().replace("_", " ")
        return f"response code {self.code:#x}"


def read(address: int, length: int, limit: int) -> Script[bytes]:
    """``length`` bytes in transactions of at most ``limit``, each of whole quadlets."""
    parts = []
    for offset in range(0, length, limit):
        wanted = min(limit, length - offset)
        parts.append((yield Read(address + offset, wanted + -wanted % _QUADLET)))
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    return data if len(data) == length else data[:length]


def write(address: int, data: bytes, limit: int) -> Script[None]:
    """All of ``data``, filled up to a whole quadlet, in transactions of at most ``limit``."""
    data += bytes(-len(data) % _QUADLET)
    for offset in range(0, len(data), limit):
        yield Write(address + offset, data[offset : offset + limit])
