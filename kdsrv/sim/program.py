"""The machine code in the simulated machine: what its processors run, and the places where the kernel stops."""

from __future__ import annotations

from collections.abc import Mapping
from struct import pack
from typing import Final

from kdsrv.sim.images import DATA, TEXT

__all__ = ["COUNTER", "KERNEL_ROUTINES", "LOOP", "WORK", "WORKER_ROUTINES", "kernel_text", "worker_text"]

_HALT_LOOP: Final = bytes.fromhex("F4 EBFD")
_BREAK: Final = bytes.fromhex("CC C3")
_TRAP: Final = bytes.fromhex("0F01F8 48CF")
_SYSTEM_CALL: Final = bytes.fromhex("0F01F8 0F01F8 480F07")

_KERNEL_CODE: Final[Mapping[str, bytes]] = {
    "DbgBreakPoint": _BREAK,
    "DbgBreakPointWithStatus": _BREAK,
    "KiIdleLoop": _HALT_LOOP,
    "KeBugCheckEx": _HALT_LOOP,
    "KiCallUserMode": _HALT_LOOP,
    "KiDivideErrorFault": _TRAP,
    "KiDebugTrapOrFault": _TRAP,
    "KiBreakpointTrap": _TRAP,
    "KiGeneralProtectionFault": _TRAP,
    "KiPageFault": _TRAP,
    "KiUnexpectedInterrupt": _TRAP,
    "KiSystemCall64": _SYSTEM_CALL,
    "DbgPrint": bytes.fromhex("31C0 C3"),
}
_SPACING: Final = 0x20

KERNEL_ROUTINES: Final[Mapping[str, int]] = {name: TEXT + index * _SPACING for index, name in enumerate(_KERNEL_CODE)}
"""Offsets from the kernel's base."""

_LOOP_CODE: Final = (
    "31C0"  # start: xor eax, eax
    "48FFC0"  # loop: inc rax
    "4801C3"  # add rbx, rax
    "4889C1"  # mov rcx, rax
    "E8 30000000"  # call work
    "483D E8030000"  # cmp rax, 1000
    "75 EA"  # jne loop
    "EB E6"  # jmp start
)
_WORK_CODE: Final = (
    "55"  # work: push rbp
    "4889E5"  # mov rbp, rsp
    "4889CA"  # mov rdx, rcx
    "4883C204"  # add rdx, 4
    "90"  # nop
)
_WORK_END: Final = "5D C3"  # pop rbp; ret

LOOP: Final = TEXT + 2
"""Offset of the loop's first instruction from the base of the worker driver."""
WORK: Final = TEXT + 0x40
"""Offset of the routine that the loop calls."""
COUNTER: Final = DATA
"""Offset of the u64 the routine stores into: four more than the loop's counter in rax."""

WORKER_ROUTINES: Final[Mapping[str, int]] = {
    "DriverEntry": TEXT,
    "WorkerLoop": LOOP,
    "WorkerStep": WORK,
    "WorkerCounter": COUNTER,
}


def kernel_text() -> bytes:
    """The code section of the kernel, its routines 32 bytes apart with int3 between them, as compilers leave it."""
    return b"".join(code.ljust(_SPACING, b"\xcc") for code in _KERNEL_CODE.values())


def worker_text() -> bytes:
    """The code section of the worker driver: a loop that counts, calls, compares and stores."""
    loop = bytes.fromhex(_LOOP_CODE).ljust(WORK - TEXT, b"\xcc")
    work = bytes.fromhex(_WORK_CODE)
    store = bytes.fromhex("488915")  # mov [rip + counter], rdx
    after = WORK + len(work) + len(store) + 4
    return loop + work + store + pack("<i", COUNTER - after) + bytes.fromhex(_WORK_END)
