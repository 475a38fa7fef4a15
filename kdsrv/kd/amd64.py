"""Registers of AMD64 targets (KD protocol, 2.1, 4.1 and 4.3), read and changed by name as `kdsrv.kd.layout` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from kdsrv.kd.layout import Record, row
from kdsrv.kd.state_change import ControlReport as AnyControlReport

__all__ = [
    "CONTEXT_CONTROL",
    "CONTEXT_DEBUG_REGISTERS",
    "CONTEXT_FLOATING_POINT",
    "CONTEXT_INTEGER",
    "CONTEXT_SEGMENTS",
    "Context",
    "ControlReport",
    "SpecialRegisters",
]

CONTEXT_CONTROL: Final = 0x100001
CONTEXT_INTEGER: Final = 0x100002
CONTEXT_SEGMENTS: Final = 0x100004
CONTEXT_FLOATING_POINT: Final = 0x100008
CONTEXT_DEBUG_REGISTERS: Final = 0x100010


@dataclass(frozen=True, slots=True)
class Context(Record):
    """CONTEXT: the registers of one processor. ``mxcsr`` is kept twice, ``fx_mxcsr`` is the one of the FXSAVE area."""

    NAME: ClassVar = "AMD64 context"
    SIZE: ClassVar = 0x4D0
    FIELDS: ClassVar = {
        **row(0x00, 8, "p1_home p2_home p3_home p4_home p5_home p6_home"),
        **row(0x30, 4, "context_flags mxcsr"),
        **row(0x38, 2, "cs ds es fs gs ss"),
        **row(0x44, 4, "eflags"),
        **row(0x48, 8, "dr0 dr1 dr2 dr3 dr6 dr7"),
        **row(0x78, 8, "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 rip"),
        **row(0x100, 2, "fx_control fx_status"),
        **row(0x104, 1, "fx_tag"),
        **row(0x106, 2, "fx_opcode"),
        **row(0x108, 4, "fx_error_offset"),
        **row(0x10C, 2, "fx_error_selector"),
        **row(0x110, 4, "fx_data_offset"),
        **row(0x114, 2, "fx_data_selector"),
        **row(0x118, 4, "fx_mxcsr fx_mxcsr_mask"),
        **row(0x120, 16, "st0 st1 st2 st3 st4 st5 st6 st7"),
        **row(0x1A0, 16, " ".join(f"xmm{number}" for number in range(16))),
        **row(0x300, 16, " ".join(f"vector{number}" for number in range(26))),
        **row(0x4A0, 8, "vector_control debug_control last_branch_to last_branch_from"),
        **row(0x4C0, 8, "last_exception_to last_exception_from"),
    }


@dataclass(frozen=True, slots=True)
class SpecialRegisters(Record):
    """KSPECIAL_REGISTERS: index 2 of the control space. Newer kernels may append to it, which is kept."""

    NAME: ClassVar = "AMD64 special registers"
    SIZE: ClassVar = 0xE0
    FIELDS: ClassVar = {
        **row(0x00, 8, "cr0 cr2 cr3 cr4 dr0 dr1 dr2 dr3 dr6 dr7"),
        **row(0x56, 2, "gdtr_limit"),
        **row(0x58, 8, "gdtr_base"),
        **row(0x66, 2, "idtr_limit"),
        **row(0x68, 8, "idtr_base"),
        **row(0x70, 2, "tr ldtr"),
        **row(0x74, 4, "mxcsr"),
        **row(0x78, 8, "debug_control last_branch_to last_branch_from last_exception_to last_exception_from"),
        **row(0xA0, 8, "cr8 gs_base gs_swap star lstar cstar syscall_mask xcr0"),
    }


@dataclass(frozen=True, slots=True)
class ControlReport(AnyControlReport):
    """The control report of a state change."""

    FIELDS: ClassVar = {
        **row(0x00, 8, "dr6 dr7"),
        **row(0x10, 4, "eflags"),
        **row(0x14, 2, "instruction_count report_flags"),
        **row(0x18, 16, "instruction_stream"),
        **row(0x28, 2, "cs ds es fs"),
    }
