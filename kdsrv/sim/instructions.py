"""The AMD64 instructions that a simulated processor understands: moves, arithmetic, jumps, calls and the stack, on 32
and 64 bits. That is what the machine's own program needs, with room for what somebody may patch into it. Any other
instruction is an illegal one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, TypeAlias

from kdsrv.kd.amd64 import Context

__all__ = ["ILLEGAL_INSTRUCTION", "RAX", "RIP", "RSP", "Fault", "RegisterFile", "execute"]

ILLEGAL_INSTRUCTION: Final = 0xC000001D
BREAKPOINT: Final = 0x80000003

RAX: Final = Context.FIELDS["rax"][0] // 8
"""Index of a register in the context seen as 64-bit words; the others follow in the order of their numbers."""
RSP: Final = Context.FIELDS["rsp"][0] // 8
RIP: Final = Context.FIELDS["rip"][0] // 8

_CARRY: Final = 0x001
_PARITY: Final = 0x004
_ADJUST: Final = 0x010
_ZERO: Final = 0x040
_SIGN: Final = 0x080
_INTERRUPT: Final = 0x200
_OVERFLOW: Final = 0x800
_ARITHMETIC: Final = _CARRY | _PARITY | _ADJUST | _ZERO | _SIGN | _OVERFLOW
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


class _Place(NamedTuple):
    """An operand: a general register by its number, or memory at an address."""

    memory: bool
    where: int


class _Reader:
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

    def operands(self, immediate: int = 0) -> tuple[int, _Place]:
        """ModRM: the register number (or opcode extension) and the other operand. ``immediate`` bytes follow it."""
        modrm = self.unsigned(1)
        mode, register, base = modrm >> 6, (modrm >> 3 & 7) | (self.rex & 4) << 1, modrm & 7
        if mode == 3:
            return register, _Place(False, base | (self.rex & 1) << 3)
        if base == 4:
            if self.unsigned(1) & 0x3F != 0x24:
                raise Fault(ILLEGAL_INSTRUCTION)
        elif base == 5 and mode == 0:
            offset = self.signed(4)
            return register, _Place(True, (self.rip + self.at + immediate + offset) & _MASK)
        start = self.cpu.registers[RAX + (base | (self.rex & 1) << 3)]
        offset = self.signed(1) if mode == 1 else self.signed(4) if mode == 2 else 0
        return register, _Place(True, (start + offset) & _MASK)

    def get(self, place: _Place) -> int:
        if place.memory:
            return self.cpu.load(place.where, self.size)
        value: int = self.cpu.registers[RAX + place.where]
        return value & ((1 << 8 * self.size) - 1)

    def put(self, place: _Place, value: int) -> None:
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


def execute(cpu: RegisterFile) -> None:
    """Carry out the instruction at RIP. Raises `Fault`."""
    reader = _Reader(cpu)
    handler = _HANDLERS.get(reader.opcode)
    if handler is None:
        raise Fault(ILLEGAL_INSTRUCTION)
    handler(reader)
    cpu.registers[RIP] = (reader.rip + reader.at) & _MASK


_Handler: TypeAlias = Callable[[_Reader], None]


def _flags(r: _Reader, result: int, left: int, right: int, *, subtract: bool = False, logic: bool = False) -> int:
    """Set the arithmetic flags for ``left`` op ``right``, and cut ``result`` to the operand size."""
    bits = 8 * r.size
    cut = result & ((1 << bits) - 1)
    flags = 0 if cut else _ZERO
    flags |= _SIGN if cut >> (bits - 1) else 0
    flags |= 0 if (cut & 0xFF).bit_count() & 1 else _PARITY
    if not logic:
        flags |= _CARRY if result != cut else 0
        flags |= (left ^ right ^ cut) & _ADJUST
        signs = (left ^ right) & (left ^ cut) if subtract else ~(left ^ right) & (left ^ cut)
        flags |= _OVERFLOW if signs >> (bits - 1) & 1 else 0
    r.cpu.eflags = (r.cpu.eflags & ~_ARITHMETIC) | flags
    return cut


def _arithmetic(r: _Reader, operation: int, left: int, right: int) -> int | None:
    """Operation 0 add, 1 or, 4 and, 5 sub, 6 xor, 7 cmp, as the processor numbers them; None: only the flags count."""
    match operation:
        case 0:
            return _flags(r, left + right, left, right)
        case 1:
            return _flags(r, left | right, left, right, logic=True)
        case 4:
            return _flags(r, left & right, left, right, logic=True)
        case 5:
            return _flags(r, left - right, left, right, subtract=True)
        case 6:
            return _flags(r, left ^ right, left, right, logic=True)
        case 7:
            _flags(r, left - right, left, right, subtract=True)
            return None
        case _:
            raise Fault(ILLEGAL_INSTRUCTION)


def _combine(r: _Reader, operation: int, place: _Place, right: int) -> None:
    result = _arithmetic(r, operation, r.get(place), right & ((1 << 8 * r.size) - 1))
    if result is not None:
        r.put(place, result)


def _to_operand(r: _Reader) -> None:
    register, place = r.operands()
    _combine(r, r.opcode >> 3, place, r.get(_Place(False, register)))


def _to_register(r: _Reader) -> None:
    register, place = r.operands()
    _combine(r, r.opcode >> 3, _Place(False, register), r.get(place))


def _to_rax(r: _Reader) -> None:
    _combine(r, r.opcode >> 3, _Place(False, 0), r.signed(4))


def _immediate_group(r: _Reader) -> None:
    size = 1 if r.opcode == 0x83 else 4
    operation, place = r.operands(size)
    _combine(r, operation & 7, place, r.signed(size))


def _test(r: _Reader) -> None:
    register, place = r.operands()
    _arithmetic(r, 4, r.get(place), r.get(_Place(False, register)))


def _increment_group(r: _Reader) -> None:
    operation, place = r.operands()
    match operation & 7:
        case 0 | 1 as down:
            carry = r.cpu.eflags & _CARRY
            left = r.get(place)
            r.put(place, _flags(r, left - 1 if down else left + 1, left, 1, subtract=bool(down)))
            r.cpu.eflags = (r.cpu.eflags & ~_CARRY) | carry
        case 2 | 4 as kind:
            r.size = 8
            target = r.get(place)
            if kind == 2:
                r.push(r.rip + r.at)
            r.jump(target - r.rip - r.at)
        case 6:
            r.size = 8
            r.push(r.get(place))
        case _:
            raise Fault(ILLEGAL_INSTRUCTION)


def _store_register(r: _Reader) -> None:
    register, place = r.operands()
    r.put(place, r.get(_Place(False, register)))


def _load_register(r: _Reader) -> None:
    register, place = r.operands()
    r.put(_Place(False, register), r.get(place))


def _load_address(r: _Reader) -> None:
    register, place = r.operands()
    if not place.memory:
        raise Fault(ILLEGAL_INSTRUCTION)
    r.put(_Place(False, register), place.where)


def _store_immediate(r: _Reader) -> None:
    _, place = r.operands(4)
    r.put(place, r.signed(4))


def _load_immediate(r: _Reader) -> None:
    r.put(_Place(False, r.opcode & 7 | (r.rex & 1) << 3), r.unsigned(r.size))


def _push_register(r: _Reader) -> None:
    r.push(r.cpu.registers[RAX + (r.opcode & 7 | (r.rex & 1) << 3)])


def _pop_register(r: _Reader) -> None:
    r.cpu.registers[RAX + (r.opcode & 7 | (r.rex & 1) << 3)] = r.pop()


def _push_flags(r: _Reader) -> None:
    r.push(r.cpu.eflags & 0xFCFFFF)


def _call(r: _Reader) -> None:
    distance = r.signed(4)
    r.push(r.rip + r.at)
    r.jump(distance)


def _return(r: _Reader) -> None:
    r.jump(r.pop() - r.rip - r.at)


def _jump_short(r: _Reader) -> None:
    r.jump(r.signed(1))


def _jump_near(r: _Reader) -> None:
    r.jump(r.signed(4))


def _jump_if(r: _Reader) -> None:
    distance = r.signed(4 if r.opcode > 0xFF else 1)
    if _holds(r.cpu.eflags, r.opcode & 0xF):
        r.jump(distance)


def _holds(flags: int, condition: int) -> bool:
    """The sixteen conditions of the processor; each odd one is the contrary of the even one before it."""
    less = bool(flags & _SIGN) != bool(flags & _OVERFLOW)
    truth = (
        bool(flags & _OVERFLOW),
        bool(flags & _CARRY),
        bool(flags & _ZERO),
        bool(flags & (_CARRY | _ZERO)),
        bool(flags & _SIGN),
        bool(flags & _PARITY),
        less,
        less or bool(flags & _ZERO),
    )[condition >> 1]
    return truth != bool(condition & 1)


def _nothing(r: _Reader) -> None:
    pass


def _halt(r: _Reader) -> None:
    r.cpu.halted = True


def _clear_interrupts(r: _Reader) -> None:
    r.cpu.eflags &= ~_INTERRUPT


def _set_interrupts(r: _Reader) -> None:
    r.cpu.eflags |= _INTERRUPT


def _breakpoint(r: _Reader) -> None:
    raise Fault(BREAKPOINT, (0,))


_HANDLERS: Final[dict[int, _Handler]] = {
    **{operation << 3 | 1: _to_operand for operation in range(8)},
    **{operation << 3 | 3: _to_register for operation in range(8)},
    **{operation << 3 | 5: _to_rax for operation in range(8)},
    **dict.fromkeys(range(0x50, 0x58), _push_register),
    **dict.fromkeys(range(0x58, 0x60), _pop_register),
    **dict.fromkeys(range(0x70, 0x80), _jump_if),
    **dict.fromkeys(range(0xB8, 0xC0), _load_immediate),
    **dict.fromkeys(range(0x0F80, 0x0F90), _jump_if),
    0x81: _immediate_group,
    0x83: _immediate_group,
    0x85: _test,
    0x89: _store_register,
    0x8B: _load_register,
    0x8D: _load_address,
    0x90: _nothing,
    0x9C: _push_flags,
    0xC3: _return,
    0xC7: _store_immediate,
    0xCC: _breakpoint,
    0xE8: _call,
    0xE9: _jump_near,
    0xEB: _jump_short,
    0xF4: _halt,
    0xFA: _clear_interrupts,
    0xFB: _set_interrupts,
    0xFF: _increment_group,
}
