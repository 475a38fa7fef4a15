"""The instructions of the simulated processor, against arithmetic done another way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.kd.amd64 import Context
from kdsrv.sim.decoder import RIP, RSP
from kdsrv.sim.machine import SimulatedMachine
from kdsrv.sim.processor import Processor, Trap

MACHINE = SimulatedMachine(cpus=1, build=17134, service_pack=0, pae_enabled=True)
CODE = MACHINE.kernel.worker_routines["DriverEntry"] + 0x200
DATA = MACHINE.kernel.worker_routines["WorkerCounter"] + 0x100
MASK = (1 << 64) - 1
CARRY, PARITY, ADJUST, ZERO, SIGN, OVERFLOW = 1, 4, 0x10, 0x40, 0x80, 0x800
U64 = st.integers(0, MASK) | st.sampled_from([0, 1, 1 << 63, (1 << 63) - 1, MASK, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])


def processor(code: str, **registers: int) -> Processor:
    """A processor about to run ``code``, given in hexadecimal."""
    cpu = MACHINE.processors[0]
    MACHINE.kernel.memory.write_virtual(CODE, bytes.fromhex(code) + b"\xcc" * 16)
    start = {"rsp": DATA + 0x100, "rip": CODE, "context_flags": 0x10000F, "cs": 0x10, "ss": 0x18, "eflags": 0x202}
    cpu.write_context(Context.build(**start | registers).raw)
    return cpu


def state(cpu: Processor) -> Context:
    return Context(cpu.read_context())


def test_the_register_file_is_the_context() -> None:
    cpu = processor("90", r15=15)
    assert (cpu.registers[RIP], cpu.registers[RSP], state(cpu)["r15"]) == (CODE, DATA + 0x100, 15)
    assert cpu.run(1) is None
    assert cpu.pc == CODE + 1


@given(left=U64, right=U64, wide=st.booleans(), which=st.sampled_from(["01", "29", "21", "09", "31", "39"]))
def test_arithmetic_and_its_flags(left: int, right: int, wide: bool, which: str) -> None:
    cpu = processor(("48" if wide else "") + which + "D8", rax=left, rbx=right)
    assert cpu.run(1) is None
    bits = 64 if wide else 32
    a, b = left & ((1 << bits) - 1), right & ((1 << bits) - 1)
    signed_a, signed_b = (value - (value >> (bits - 1) << bits) for value in (a, b))
    exact, signed, nibble = {
        "01": (a + b, signed_a + signed_b, (a & 15) + (b & 15)),
        "29": (a - b, signed_a - signed_b, (a & 15) - (b & 15)),
        "39": (a - b, signed_a - signed_b, (a & 15) - (b & 15)),
        "21": (a & b, 0, 0),
        "09": (a | b, 0, 0),
        "31": (a ^ b, 0, 0),
    }[which]
    result = exact % (1 << bits)
    flags = 0x202
    flags |= CARRY if exact != result else 0
    flags |= OVERFLOW if not -(1 << (bits - 1)) <= signed < 1 << (bits - 1) else 0
    flags |= ADJUST if nibble not in range(16) else 0
    flags |= ZERO if result == 0 else 0
    flags |= SIGN if result >> (bits - 1) else 0
    flags |= PARITY if bin(result & 0xFF).count("1") % 2 == 0 else 0
    assert state(cpu)["eflags"] == flags
    assert state(cpu)["rax"] == (left if which == "39" else result)


@given(value=U64, carry=st.sampled_from([0, CARRY]))
def test_increment_and_decrement_leave_the_carry(value: int, carry: int) -> None:
    cpu = processor("48FFC0 48FFC9", rax=value, rcx=value, eflags=0x202 | carry)
    assert cpu.run(1) is None
    assert (state(cpu)["rax"], state(cpu)["eflags"] & CARRY) == ((value + 1) & MASK, carry)
    assert cpu.run(1) is None
    assert (state(cpu)["rcx"], state(cpu)["eflags"] & CARRY) == ((value - 1) & MASK, carry)


@given(left=U64, right=U64)
def test_conditional_jumps(left: int, right: int) -> None:
    signed_left, signed_right = (value - (value >> 63 << 64) for value in (left, right))
    holds = {
        0x2: left < right,
        0x4: left == right,
        0x6: left <= right,
        0x8: bool((left - right) >> 63 & 1),
        0xC: signed_left < signed_right,
        0xE: signed_left <= signed_right,
    }
    for condition, truth in holds.items():
        for code, expected in ((condition, truth), (condition | 1, not truth)):
            for jump, length in ((f"7{code:X}10", 2), (f"0F8{code:X}10000000", 6)):
                cpu = processor("4839D8" + jump, rax=left, rbx=right)
                assert cpu.run(2) is None
                assert cpu.pc - CODE == 3 + length + 16 * expected


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("4D89C1", {"r8": MASK}, {"r9": MASK}),
        ("89D8", {"rax": MASK, "rbx": 1 << 40 | 5}, {"rax": 5}),
        ("48C7C0FFFFFFFF", {}, {"rax": MASK}),
        ("49BF8877665544332211", {}, {"r15": 0x1122334455667788}),
        ("B8FFFFFFFF", {"rax": MASK}, {"rax": 0xFFFFFFFF}),
        ("488D4B F0", {"rbx": 0x20}, {"rcx": 0x10}),
        ("488D0500010000", {}, {"rax": CODE + 7 + 0x100}),
        ("4883C0FF", {"rax": 5}, {"rax": 4}),
        ("4881E8 00010000", {"rax": 0x101}, {"rax": 1}),
        ("4825 0F000000", {"rax": 0xFF}, {"rax": 0xF}),
        ("4885C0", {"rax": 0}, {"rax": 0, "eflags": 0x246}),
        ("F390", {}, {}),
        ("FA", {}, {"eflags": 2}),
    ],
)
def test_single_instructions(code: str, before: dict[str, int], after: dict[str, int]) -> None:
    cpu = processor(code, **before)
    assert cpu.run(1) is None
    expected = {"rip": CODE + len(bytes.fromhex(code)), **before, **after}
    assert {name: state(cpu)[name] for name in expected} == expected


def test_memory_operands() -> None:
    cpu = processor("488903 488B4B00 48894424F8 483B4424F8 48FF03 488B13", rax=0x1234, rbx=DATA)
    assert cpu.run(6) is None
    after = state(cpu)
    assert (after["rcx"], after["rdx"]) == (0x1234, 0x1235)
    assert after["eflags"] & ZERO == 0
    assert MACHINE.kernel.memory.read_virtual(DATA + 0xF8, 8) == (0x1234).to_bytes(8, "little")


def test_calls_and_the_stack() -> None:
    cpu = processor("E805000000 90 90 4159 C3 4150 FFD0", r8=7, rax=CODE + 5)
    assert cpu.run(1) is None
    assert (cpu.pc, state(cpu)["rsp"]) == (CODE + 10, DATA + 0xF8)
    assert cpu.run(2) is None
    assert (cpu.pc, state(cpu)["rsp"]) == (CODE + 5, DATA + 0xE8)
    assert cpu.run(3) is None
    assert state(cpu)["r9"] == CODE + 14
    assert cpu.run(1) is None
    assert cpu.pc == 7


@pytest.mark.parametrize(
    ("code", "registers", "trap"),
    [
        ("CC", {}, Trap(0x80000003, CODE, (0,))),
        ("0F0B", {}, Trap(0xC000001D, CODE, ())),
        ("8D C0", {}, Trap(0xC000001D, CODE, ())),
        ("488B04CB", {}, Trap(0xC000001D, CODE, ())),
        ("488B00", {"rax": 0x10}, Trap(0xC0000005, CODE, (0, 0x10))),
        ("50", {"rsp": 8}, Trap(0xC0000005, CODE, (1, 0))),
        ("90", {"rip": 0x40}, Trap(0xC0000005, 0x40, (8, 0x40))),
    ],
)
def test_faults_change_nothing(code: str, registers: dict[str, int], trap: Trap) -> None:
    cpu = processor(code, **registers)
    before = state(cpu)
    assert cpu.run(10) == trap
    assert state(cpu) == before


def test_a_halted_processor_ends_its_slice() -> None:
    cpu = processor("F4 90 EBFD")
    assert cpu.run(10) is None
    assert cpu.pc == CODE + 1
    assert cpu.run(9) is None
    assert cpu.pc == CODE + 2


def test_a_step_over_a_halt_traps_behind_it() -> None:
    cpu = processor("F4 90", eflags=0x302)
    assert cpu.run(10) == Trap(0x80000004, CODE + 1)


@given(code=st.binary(min_size=1, max_size=15), start=U64)
def test_any_code_runs_or_traps(code: bytes, start: int) -> None:
    cpu = processor(code.hex(), rax=start, rbx=DATA, rcx=start)
    cpu.run(20)
    assert cpu.read_context()[0x38:0x3A] == b"\x10\0"
