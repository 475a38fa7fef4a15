"""Decoding of one AMD64 instruction: prefixes, opcode, operands, and access to what they name."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from kdsrv.kd.amd64 import Context

__all__ = ["ILLEGAL_INSTRUCTION", "RAX", "RIP", "RSP", "Fault", "Instruction", "Place", "RegisterFile"]

ILLEGAL_INSTRUCTION: Final = 0xC000001D

RAX: Final = Context.FIELDS["rax"][0] // 8
"""Index of a register in the context seen as 64-bit words; the others follow in the order of their numbers."""
RSP: Final = Context.FIELDS["rsp"][0] // 8
RIP: Final = Context.FIELDS["rip"][0] // 8

_MASK: Final = (1 << 64) - 1


class Fault(Exception):
    """The instruction raised an exception of the machine; nothing was changed."""

    def __init__(self, code: int, parameters: tuple[int, ...] = ()) -> None:
        super().__init__(code, parameters)
        self.code = code
        self.parameters = parameters


class RegisterFile(Protocol):
    """What an instruction acts on."""

    registers: memoryview
    eflags: int
    halted: bool

    def fetch(self, address: int) -> bytes: ...

    def load(self, address: int, size: int) -> int: ...

    def store(self, address: int, value: int, size: int) -> None: ...


class Place(NamedTuple):
    """An operand: a general register by its number, or memory at an address."""

    memory: bool
    where: int


class Instruction:
    """One instruction being decoded; ``size`` is its operand size in bytes."""

    __slots__ = ("at", "code", "cpu", "opcode", "rex", "rip", "size")

    def __init__(self, cpu: RegisterFile) -> None:
        self.cpu = cpu
        self.rip: int = cpu.registers[RIP]
        self.code = cpu.fetch(self.rip)
        self.at = 0
        self.rex = 0
        first = self.unsigned(1)
        if first == 0xF3 and self.code[1:2] == b"\x90":
            first = self.unsigned(1)
        if first & 0xF0 == 0x40:
            self.rex = first
            first = self.unsigned(1)
        self.size = 8 if self.rex & 8 else 4
        self.opcode = first if first != 0x0F else 0x0F00 | self.unsigned(1)

    def unsigned(self, count: int) -> int:
        self.at += count
        if self.at > len(self.code):
            raise Fault(ILLEGAL_INSTRUCTION)
        return int.from_bytes(self.code[self.at - count : self.at], "little")

    def signed(self, count: int) -> int:
        value = self.unsigned(count)
        return value - (1 << 8 * count) if value >> (8 * count - 1) else value

    def operands(self, immediate: int = 0) -> tuple[int, Place]:
        """ModRM: the register number (or opcode extension) and the other operand. ``immediate`` bytes follow it."""
        modrm = self.unsigned(1)
        mode, register, base = modrm >> 6, (modrm >> 3 & 7) | (self.rex & 4) << 1, modrm & 7
        if mode == 3:
            return register, Place(False, base | (self.rex & 1) << 3)
        if base == 4:
            if self.unsigned(1) & 0x3F != 0x24:
                raise Fault(ILLEGAL_INSTRUCTION)
        elif base == 5 and mode == 0:
            offset = self.signed(4)
            return register, Place(True, (self.rip + self.at + immediate + offset) & _MASK)
        start = self.cpu.registers[RAX + (base | (self.rex & 1) << 3)]
        offset = self.signed(1) if mode == 1 else self.signed(4) if mode == 2 else 0
        return register, Place(True, (start + offset) & _MASK)

    def get(self, place: Place) -> int:
        if place.memory:
            return self.cpu.load(place.where, self.size)
        value: int = self.cpu.registers[RAX + place.where]
        return value & ((1 << 8 * self.size) - 1)

    def put(self, place: Place, value: int) -> None:
        """Writing the low half of a register clears its high half."""
        value &= (1 << 8 * self.size) - 1
        if place.memory:
            self.cpu.store(place.where, value, self.size)
        else:
            self.cpu.registers[RAX + place.where] = value

    def push(self, value: int) -> None:
        top = (self.cpu.registers[RSP] - 8) & _MASK
        self.cpu.store(top, value & _MASK, 8)
        self.cpu.registers[RSP] = top

    def pop(self) -> int:
        top = self.cpu.registers[RSP]
        value = self.cpu.load(top, 8)
        self.cpu.registers[RSP] = (top + 8) & _MASK
        return value

    def jump(self, distance: int) -> None:
        self.at += distance
