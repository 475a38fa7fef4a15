"""The AMD64 instructions that a simulated processor understands: moves, arithmetic, jumps, calls and the stack, on 32
and 64 bits. That is what the machine's own program needs, with room for what somebody may patch into it. Any other
instruction is an illegal one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from kdsrv.kd.statuses import Status
from kdsrv.sim.decoder import ILLEGAL_INSTRUCTION, RAX, RIP, Fault, Instruction, Place, RegisterFile

__all__ = ["execute"]

_CARRY: Final = 0x001
_PARITY: Final = 0x004
_ADJUST: Final = 0x010
_ZERO: Final = 0x040
_SIGN: Final = 0x080
_INTERRUPT: Final = 0x200
_OVERFLOW: Final = 0x800
_ARITHMETIC: Final = _CARRY | _PARITY | _ADJUST | _ZERO | _SIGN | _OVERFLOW
_MASK: Final = (1 << 64) - 1


def execute(cpu: RegisterFile) -> None:
    """Carry out the instruction at RIP. Raises `Fault`."""
    instruction = Instruction(cpu)
    handler = _HANDLERS.get(instruction.opcode)
    if handler is None:
        raise Fault(ILLEGAL_INSTRUCTION)
    handler(instruction)
    cpu.registers[RIP] = (instruction.rip + instruction.at) & _MASK


_Handler: TypeAlias = Callable[[Instruction], None]


def _flags(op: Instruction, result: int, left: int, right: int, *, subtract: bool = False, logic: bool = False) -> int:
    """Set the arithmetic flags for ``left`` op ``right``, and cut ``result`` to the operand size."""
    bits = 8 * op.size
    cut = result & ((1 << bits) - 1)
    flags = 0 if cut else _ZERO
    flags |= _SIGN if cut >> (bits - 1) else 0
    flags |= 0 if (cut & 0xFF).bit_count() & 1 else _PARITY
    if not logic:
        flags |= _CARRY if result != cut else 0
        flags |= (left ^ right ^ cut) & _ADJUST
        signs = (left ^ right) & (left ^ cut) if subtract else ~(left ^ right) & (left ^ cut)
        flags |= _OVERFLOW if signs >> (bits - 1) & 1 else 0
    op.cpu.eflags = (op.cpu.eflags & ~_ARITHMETIC) | flags
    return cut


def _arithmetic(op: Instruction, operation: int, left: int, right: int) -> int | None:
    """Operation 0 add, 1 or, 4 and, 5 sub, 6 xor, 7 cmp, as the processor numbers them; None: only the flags count."""
    match operation:
        case 0:
            return _flags(op, left + right, left, right)
        case 1:
            return _flags(op, left | right, left, right, logic=True)
        case 4:
            return _flags(op, left & right, left, right, logic=True)
        case 5:
            return _flags(op, left - right, left, right, subtract=True)
        case 6:
            return _flags(op, left ^ right, left, right, logic=True)
        case 7:
            _flags(op, left - right, left, right, subtract=True)
            return None
        case _:
            raise Fault(ILLEGAL_INSTRUCTION)


def _combine(op: Instruction, operation: int, place: Place, right: int) -> None:
    result = _arithmetic(op, operation, op.get(place), right & ((1 << 8 * op.size) - 1))
    if result is not None:
        op.put(place, result)


def _to_operand(op: Instruction) -> None:
    register, place = op.operands()
    _combine(op, op.opcode >> 3, place, op.get(Place(False, register)))


def _to_register(op: Instruction) -> None:
    register, place = op.operands()
    _combine(op, op.opcode >> 3, Place(False, register), op.get(place))


def _to_rax(op: Instruction) -> None:
    _combine(op, op.opcode >> 3, Place(False, 0), op.signed(4))


def _immediate_group(op: Instruction) -> None:
    size = 1 if op.opcode == 0x83 else 4
    operation, place = op.operands(size)
    _combine(op, operation & 7, place, op.signed(size))


def _test(op: Instruction) -> None:
    register, place = op.operands()
    _arithmetic(op, 4, op.get(place), op.get(Place(False, register)))


def _increment_group(op: Instruction) -> None:
    operation, place = op.operands()
    match operation & 7:
        case 0 | 1 as down:
            carry = op.cpu.eflags & _CARRY
            left = op.get(place)
            op.put(place, _flags(op, left - 1 if down else left + 1, left, 1, subtract=bool(down)))
            op.cpu.eflags = (op.cpu.eflags & ~_CARRY) | carry
        case 2 | 4 as kind:
            op.size = 8
            target = op.get(place)
            if kind == 2:
                op.push(op.rip + op.at)
            op.jump(target - op.rip - op.at)
        case 6:
            op.size = 8
            op.push(op.get(place))
        case _:
            raise Fault(ILLEGAL_INSTRUCTION)


def _store_register(op: Instruction) -> None:
    register, place = op.operands()
    op.put(place, op.get(Place(False, register)))


def _load_register(op: Instruction) -> None:
    register, place = op.operands()
    op.put(Place(False, register), op.get(place))


def _load_address(op: Instruction) -> None:
    register, place = op.operands()
    if not place.memory:
        raise Fault(ILLEGAL_INSTRUCTION)
    op.put(Place(False, register), place.where)


def _store_immediate(op: Instruction) -> None:
    _, place = op.operands(4)
    op.put(place, op.signed(4))


def _load_immediate(op: Instruction) -> None:
    op.put(Place(False, op.opcode & 7 | (op.rex & 1) << 3), op.unsigned(op.size))


def _push_register(op: Instruction) -> None:
    op.push(op.cpu.registers[RAX + (op.opcode & 7 | (op.rex & 1) << 3)])


def _pop_register(op: Instruction) -> None:
    op.cpu.registers[RAX + (op.opcode & 7 | (op.rex & 1) << 3)] = op.pop()


def _push_flags(op: Instruction) -> None:
    op.push(op.cpu.eflags & 0xFCFFFF)


def _call(op: Instruction) -> None:
    distance = op.signed(4)
    op.push(op.rip + op.at)
    op.jump(distance)


def _return(op: Instruction) -> None:
    op.jump(op.pop() - op.rip - op.at)


def _jump_short(op: Instruction) -> None:
    op.jump(op.signed(1))


def _jump_near(op: Instruction) -> None:
    op.jump(op.signed(4))


def _jump_if(op: Instruction) -> None:
    distance = op.signed(4 if op.opcode > 0xFF else 1)
    if _holds(op.cpu.eflags, op.opcode & 0xF):
        op.jump(distance)


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


def _nothing(op: Instruction) -> None:
    pass


def _halt(op: Instruction) -> None:
    op.cpu.halted = True


def _clear_interrupts(op: Instruction) -> None:
    op.cpu.eflags &= ~_INTERRUPT


def _set_interrupts(op: Instruction) -> None:
    op.cpu.eflags |= _INTERRUPT


def _breakpoint(op: Instruction) -> None:
    raise Fault(Status.BREAKPOINT, (0,))


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
