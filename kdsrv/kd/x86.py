"""Registers of x86 targets (KD protocol, 2.1, 4.2 and 4.3), read and changed by name as `kdsrv.kd.layout` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from kdsrv.kd.layout import Record, row
from kdsrv.kd.state_change import ControlReport as AnyControlReport

__all__ = [
    "CONTEXT_CONTROL",
    "CONTEXT_DEBUG_REGISTERS",
    "CONTEXT_EXTENDED_REGISTERS",
    "CONTEXT_FLOATING_POINT",
    "CONTEXT_INTEGER",
    "CONTEXT_SEGMENTS",
    "SPECIAL_REGISTERS_AT",
    "Context",
    "ControlReport",
    "SpecialRegisters",
]

CONTEXT_CONTROL: Final = 0x10001
CONTEXT_INTEGER: Final = 0x10002
CONTEXT_SEGMENTS: Final = 0x10004
CONTEXT_FLOATING_POINT: Final = 0x10008
CONTEXT_DEBUG_REGISTERS: Final = 0x10010
CONTEXT_EXTENDED_REGISTERS: Final = 0x10020

SPECIAL_REGISTERS_AT: Final = 0x2CC
"""Where the special registers are in the control space (KD protocol, 2.6)."""


@dataclass(frozen=True, slots=True)
class Context(Record):
    """CONTEXT: the registers of one processor. The 512 bytes from 0xCC on are an FXSAVE area."""

    NAME: ClassVar = "x86 context"
    SIZE: ClassVar = 0x2CC
    FIELDS: ClassVar = {
        **row(0x00, 4, "context_flags dr0 dr1 dr2 dr3 dr6 dr7"),
        **row(0x1C, 4, "float_control float_status float_tag float_error_offset float_error_selector"),
        **row(0x30, 4, "float_data_offset float_data_selector"),
        **row(0x38, 80, "float_registers"),
        **row(0x88, 4, "cr0_npx_state"),
        **row(0x8C, 4, "gs fs es ds edi esi ebx edx ecx eax ebp eip cs eflags esp ss"),
        **row(0xCC, 512, "extended_registers"),
        **row(0xCC + 0x18, 4, "mxcsr"),
        **row(0xCC + 0xA0, 16, "xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7"),
    }


@dataclass(frozen=True, slots=True)
class SpecialRegisters(Record):
    """KSPECIAL_REGISTERS, in the control space behind the context."""

    NAME: ClassVar = "x86 special registers"
    SIZE: ClassVar = 84
    FIELDS: ClassVar = {
        **row(0x00, 4, "cr0 cr2 cr3 cr4 dr0 dr1 dr2 dr3 dr6 dr7"),
        **row(0x2A, 2, "gdtr_limit"),
        **row(0x2C, 4, "gdtr_base"),
        **row(0x32, 2, "idtr_limit"),
        **row(0x34, 4, "idtr_base"),
        **row(0x38, 2, "tr ldtr"),
    }


@dataclass(frozen=True, slots=True)
class ControlReport(AnyControlReport):
    """The control report of a state change."""

    FIELDS: ClassVar = {
        **row(0x00, 4, "dr6 dr7"),
        **row(0x08, 2, "instruction_count report_flags"),
        **row(0x0C, 16, "instruction_stream"),
        **row(0x1C, 2, "cs ds es fs"),
        **row(0x24, 4, "eflags"),
    }
