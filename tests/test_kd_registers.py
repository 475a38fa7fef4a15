"""Registers and KDDEBUGGER_DATA: offsets as the protocol document has them, and changes that touch nothing else."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.kd import amd64, x86
from kdsrv.kd.debugger_data import BLOCK_SIZES, FIELDS, TAG
from kdsrv.kd.layout import PayloadError, Record, read_field, write_fields
from kdsrv.kd.manipulate import Manipulate

RECORDS: list[type[Record]] = [
    amd64.Context,
    amd64.SpecialRegisters,
    amd64.ControlReport,
    x86.Context,
    x86.SpecialRegisters,
    x86.ControlReport,
]

OFFSETS: dict[type[Record], str] = {
    amd64.Context: """
        p1_home 0 8, p6_home 28 8, context_flags 30 4, mxcsr 34 4, cs 38 2, ds 3a 2, es 3c 2, fs 3e 2, gs 40 2, ss 42 2,
        eflags 44 4, dr0 48 8, dr1 50 8, dr2 58 8, dr3 60 8, dr6 68 8, dr7 70 8, rax 78 8, rcx 80 8, rdx 88 8, rbx 90 8,
        rsp 98 8, rbp a0 8, rsi a8 8, rdi b0 8, r8 b8 8, r9 c0 8, r10 c8 8, r11 d0 8, r12 d8 8, r13 e0 8, r14 e8 8,
        r15 f0 8, rip f8 8, fx_control 100 2, fx_status 102 2, fx_tag 104 1, fx_opcode 106 2, fx_error_offset 108 4,
        fx_error_selector 10c 2, fx_data_offset 110 4, fx_data_selector 114 2, fx_mxcsr 118 4, fx_mxcsr_mask 11c 4,
        st0 120 10, st7 190 10, xmm0 1a0 10, xmm15 290 10, vector0 300 10, vector25 490 10, vector_control 4a0 8,
        debug_control 4a8 8, last_branch_to 4b0 8, last_branch_from 4b8 8, last_exception_to 4c0 8,
        last_exception_from 4c8 8""",
    amd64.SpecialRegisters: """
        cr0 0 8, cr2 8 8, cr3 10 8, cr4 18 8, dr0 20 8, dr1 28 8, dr2 30 8, dr3 38 8, dr6 40 8, dr7 48 8,
        gdtr_limit 56 2, gdtr_base 58 8, idtr_limit 66 2, idtr_base 68 8, tr 70 2, ldtr 72 2, mxcsr 74 4,
        debug_control 78 8, last_branch_to 80 8, last_branch_from 88 8, last_exception_to 90 8,
        last_exception_from 98 8, cr8 a0 8, gs_base a8 8, gs_swap b0 8, star b8 8, lstar c0 8, cstar c8 8,
        syscall_mask d0 8, xcr0 d8 8""",
    amd64.ControlReport: """
        dr6 0 8, dr7 8 8, eflags 10 4, instruction_count 14 2, report_flags 16 2, instruction_stream 18 10,
        cs 28 2, ds 2a 2, es 2c 2, fs 2e 2""",
    x86.Context: """
        context_flags 0 4, dr0 4 4, dr1 8 4, dr2 c 4, dr3 10 4, dr6 14 4, dr7 18 4, float_control 1c 4,
        float_status 20 4, float_tag 24 4, float_error_offset 28 4, float_error_selector 2c 4, float_data_offset 30 4,
        float_data_selector 34 4, float_registers 38 50, cr0_npx_state 88 4, gs 8c 4, fs 90 4, es 94 4, ds 98 4,
        edi 9c 4, esi a0 4, ebx a4 4, edx a8 4, ecx ac 4, eax b0 4, ebp b4 4, eip b8 4, cs bc 4, eflags c0 4, esp c4 4,
        ss c8 4, extended_registers cc 200, mxcsr e4 4, xmm0 16c 10, xmm7 1dc 10""",
    x86.SpecialRegisters: """
        cr0 0 4, cr2 4 4, cr3 8 4, cr4 c 4, dr0 10 4, dr1 14 4, dr2 18 4, dr3 1c 4, dr6 20 4, dr7 24 4, gdtr_limit 2a 2,
        gdtr_base 2c 4, idtr_limit 32 2, idtr_base 34 4, tr 38 2, ldtr 3a 2""",
    x86.ControlReport: """
        dr6 0 4, dr7 4 4, instruction_count 8 2, report_flags a 2, instruction_stream c 10, cs 1c 2, ds 1e 2, es 20 2,
        fs 22 2, eflags 24 4""",
}


@pytest.mark.parametrize("record", RECORDS)
def test_fields_are_where_the_document_has_them(record: type[Record]) -> None:
    for entry in OFFSETS[record].split(","):
        name, offset, size = entry.split()
        assert record.FIELDS[name] == (int(offset, 16), int(size, 16)), name


@pytest.mark.parametrize("record", RECORDS)
def test_every_field_is_inside(record: type[Record]) -> None:
    assert all(offset + size <= record.SIZE for offset, size in record.FIELDS.values())


def test_sizes() -> None:
    assert [record.SIZE for record in RECORDS] == [1232, 0xE0, 48, 716, 84, 48]


@given(st.sampled_from(RECORDS), st.data())
def test_a_changed_register_changes_no_other_byte(record: type[Record], data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=record.SIZE, max_size=record.SIZE))
    name = data.draw(st.sampled_from(sorted(record.FIELDS)))
    offset, size = record.FIELDS[name]
    number = data.draw(st.integers(0, 256**size - 1))
    before = record.from_bytes(raw)
    after = before.replace(**{name: number})
    assert after[name] == number
    assert bytes(before) == raw
    assert bytes(after)[:offset] + bytes(after)[offset + size :] == raw[:offset] + raw[offset + size :]
    assert len(bytes(after)) == record.SIZE


def test_registers_are_little_endian() -> None:
    context = amd64.Context.build(rip=0x1122334455667788, context_flags=0x10001B)
    assert bytes(context)[0xF8:0x100] == bytes.fromhex("8877665544332211")
    assert bytes(context)[0x30:0x34] == bytes.fromhex("1b001000")
    assert context.values()["rip"] == context["rip"]
    assert "rip" in context
    assert "eip" not in context
    with pytest.raises(KeyError):
        context["eip"]
    with pytest.raises(ValueError, match="eflags"):
        context.replace(eflags=1 << 32)


@pytest.mark.parametrize("record", RECORDS)
def test_a_short_structure_is_refused(record: type[Record]) -> None:
    with pytest.raises(PayloadError, match=rf"has {record.SIZE - 1} bytes where {record.SIZE} are needed"):
        record.from_bytes(bytes(record.SIZE - 1))


def test_what_newer_kernels_append_is_kept() -> None:
    raw = bytes(0xE0) + b"newer"
    assert bytes(amd64.SpecialRegisters.from_bytes(raw).replace(cr3=1))[0xE0:] == b"newer"


@pytest.mark.parametrize(("record", "length"), [(amd64.Context, 1232), (x86.Context, 716)])
def test_a_prefix_is_laid_over_a_context(record: type[Record], length: int) -> None:
    before = record.from_bytes(b"\xaa" * length)
    assert bytes(before.overlay(b"\xbb" * 0x100)) == b"\xbb" * 0x100 + b"\xaa" * (length - 0x100)
    assert before.overlay(b"") == before


def test_a_slice_is_laid_over_a_context_and_never_makes_it_longer() -> None:
    before = amd64.Context.from_bytes(b"\xaa" * 1232)
    assert bytes(before.overlay(b"\xbb" * 0x88, 0x448)) == b"\xaa" * 0x448 + b"\xbb" * 0x88
    assert bytes(before.overlay(b"\xbb" * 8, 0x4CC)) == b"\xaa" * 0x4CC + b"\xbb" * 4
    assert bytes(before.overlay(b"\xbb" * 8, 0x4D8)) == bytes(before)
    assert bytes(before.overlay(b"\xbb" * 2000)) == b"\xbb" * 1232


def test_a_context_goes_into_a_request_as_it_is() -> None:
    context = amd64.Context.build(rip=0x1000)
    assert Manipulate.set_context(context).data == bytes(context)
    special = amd64.SpecialRegisters.build(cr3=0x1000)
    assert Manipulate.write_control_space(2, special)["transfer_count"] == 0xE0


def test_instructions_of_a_report_are_no_more_than_counted_and_kept() -> None:
    for report in (amd64.ControlReport, x86.ControlReport):
        stream = bytes(range(16))
        assert report.build(instruction_stream=stream, instruction_count=5).instructions == stream[:5]
        assert report.build(instruction_stream=stream, instruction_count=0xFFFF).instructions == stream


def test_context_flags() -> None:
    parts = ("CONTROL", "INTEGER", "SEGMENTS", "FLOATING_POINT", "DEBUG_REGISTERS")
    assert [getattr(amd64, f"CONTEXT_{part}") for part in parts] == [0x100000 | 1 << bit for bit in range(5)]
    assert [getattr(x86, f"CONTEXT_{part}") for part in parts] == [0x10000 | 1 << bit for bit in range(5)]
    assert x86.CONTEXT_EXTENDED_REGISTERS == 0x10020
    assert x86.SPECIAL_REGISTERS_AT == x86.Context.SIZE


DEBUGGER_DATA = """
    Flink 0 8, Blink 8 8, Tag 10 4, Size 14 4, KernBase 18 8, BreakpointWithStatus 20 8, SavedContext 28 8,
    ThCallbackStack 30 2, NextCallback 32 2, FramePointer 34 2, PaeEnabled 36 2, KiCallUserMode 38 8,
    PsLoadedModuleList 48 8, PsActiveProcessHead 50 8, PspCidTable 58 8, KeTimeIncrement 78 8,
    IopErrorLogListHead 90 8, MmSystemCacheStart a8 8, MmPfnDatabase c0 8, MmHighestPhysicalPage f0 8,
    MmPagedPoolInformation 130 8, MmPageSize 138 8, MmSharedCommit 158 8, MmZeroedPageListHead 180 8,
    MmAvailablePages 1a8 8, PoolTrackTable 1b8 8, MmHighestUserAddress 1c8 8, KdPrintCircularBuffer 1e0 8,
    NtBuildLab 208 8, KiProcessorBlock 218 8, KernelVerifier 240 8, CmNtCSDVersion 268 8,
    MmPhysicalMemoryBlock 270 8, MmVirtualTranslationBase 290 8, OffsetKThreadNextProcessor 298 2,
    OffsetKThreadTeb 29a 2, OffsetKThreadApcProcess 2a0 2, OffsetKThreadState 2a2 2, SizeEProcess 2a8 2,
    OffsetEprocessPeb 2aa 2, OffsetEprocessParentCID 2ac 2, OffsetEprocessDirectoryTableBase 2ae 2, SizePrcb 2b0 2,
    OffsetPrcbCurrentThread 2b4 2, OffsetPrcbProcStateContext 2bc 2, OffsetPrcbNumber 2be 2, SizeEThread 2c0 2,
    KdPrintCircularBufferPtr 2c8 8, KeLoaderBlock 2d8 8, SizePcr 2e0 2, OffsetPcrSelfPcr 2e2 2,
    OffsetPcrCurrentPrcb 2e4 2, OffsetPcrContainedPrcb 2e6 2, OffsetPrcbPcrPage 2f0 2,
    OffsetPrcbProcStateSpecialReg 2f2 2, GdtR0Code 2f4 2, GdtR0Data 2f6 2, GdtR3Code 2fa 2, GdtR3Data 2fc 2,
    GdtTss 302 2, Gdt64R3CmCode 304 2, Gdt64R3CmTeb 306 2, IopNumTriageDumpDataBlocks 308 8, VfCrashDataBlock 318 8,
    MmBadPagesDetected 320 8, EtwpDebuggerData 330 8, OffsetPrcbContext 338 2, OffsetKThreadStackLimit 340 4,
    OffsetKThreadStackBase 344 4, OffsetKThreadQueueListEntry 348 4, OffsetEThreadIrpList 34c 4,
    OffsetPrcbIdleThread 350 2, OffsetPrcbIsrStack 356 2, SizeKdpcStackFrame 358 2, PteBase 360 8,
    RetpolineStubFunctionTable 368 8
"""


def test_debugger_data_is_where_the_document_has_it() -> None:
    for entry in DEBUGGER_DATA.split(","):
        name, offset, size = entry.split()
        assert FIELDS[name] == (int(offset, 16), int(size, 16)), name


def test_debugger_data_fields_do_not_overlap() -> None:
    places = sorted(FIELDS.values())
    assert all(offset + size <= following for (offset, size), (following, _) in pairwise(places))
    assert places[-1][0] < BLOCK_SIZES["10 RS5"]


def test_a_debugger_data_block_is_written_and_read_by_name() -> None:
    block = write_fields(bytes(BLOCK_SIZES["8.1"]), FIELDS, {"Tag": TAG, "Size": 0x360, "KernBase": 0xFFFFF80012345000})
    assert block[0x10:0x20] == b"KDBG" + bytes.fromhex("60030000 0050341200f8ffff")
    assert read_field(block, FIELDS["KernBase"]) == 0xFFFFF80012345000
