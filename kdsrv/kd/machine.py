"""Processor architectures, and addresses of 32-bit ones in the 64-bit fields of KD (KD protocol, 2.1 and 2.5)."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Machine", "sign_extend", "to_32_bit"]


class Machine(IntEnum):
    """MachineType of GetVersion."""

    X86 = 0x014C
    ARM = 0x01C0
    ARM_THUMB = 0x01C4
    IA64 = 0x0200
    AMD64 = 0x8664
    ARM64 = 0xAA64

    @property
    def pointer_size(self) -> int:
        return 8 if self in (Machine.AMD64, Machine.ARM64, Machine.IA64) else 4


def sign_extend(address: int) -> int:
    """A 32-bit address as it travels: 0x8052F4C4 -> 0xFFFFFFFF8052F4C4."""
    low = address & 0xFFFFFFFF
    return low | 0xFFFFFFFF00000000 if low & 0x80000000 else low


def to_32_bit(address: int) -> int:
    """The address that a 32-bit target means by a 64-bit field."""
    return address & 0xFFFFFFFF
