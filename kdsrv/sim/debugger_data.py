"""KDDEBUGGER_DATA64, the block by which debuggers find the kernel's variables (KD protocol, 4.4), and the structure
offsets that it publishes. The layouts are those of a 17134 kernel as far as debuggers rely on them (KD protocol, 4.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import pack, pack_into
from typing import Final

from kdsrv.kd.amd64 import SpecialRegisters

__all__ = [
    "BLOCK_SIZE",
    "KPCR_SIZE",
    "KPRCB",
    "OFFSETS",
    "VARIABLES",
    "encode_debugger_data",
]

BLOCK_SIZE: Final = 0x368
KPRCB: Final = 0x180
"""Offset of the KPRCB in the KPCR."""
KPCR_SIZE: Final = 0x7000

_SPECIAL_REGISTERS: Final = 0x40

OFFSETS: Final[Mapping[str, int]] = {
    "EProcess.DirectoryTableBase": 0x28,
    "EProcess.UniqueProcessId": 0x2E0,
    "EProcess.ActiveProcessLinks": 0x2E8,
    "EProcess.ParentProcessId": 0x3E0,
    "EProcess.Peb": 0x3F8,
    "EProcess.ImageFileName": 0x450,
    "EProcess.ThreadListHead": 0x488,
    "EProcess.VadRoot": 0x628,
    "EProcess.Size": 0x850,
    "EThread.InitialStack": 0x28,
    "EThread.StackLimit": 0x30,
    "EThread.StackBase": 0x38,
    "EThread.KernelStack": 0x58,
    "EThread.ApcProcess": 0xB8,
    "EThread.Teb": 0xF0,
    "EThread.State": 0x184,
    "EThread.Process": 0x220,
    "EThread.NextProcessor": 0x218,
    "EThread.QueueListEntry": 0x208,
    "EThread.Cid": 0x638,
    "EThread.IrpList": 0x680,
    "EThread.Win32StartAddress": 0x690,
    "EThread.ThreadListEntry": 0x6A8,
    "EThread.Size": 0x7F0,
    "Prcb.CurrentThread": 0x08,
    "Prcb.IdleThread": 0x18,
    "Prcb.Number": 0x24,
    "Prcb.SpecialRegisters": _SPECIAL_REGISTERS,
    "Prcb.Context": _SPECIAL_REGISTERS + SpecialRegisters.SIZE,
    "Prcb.CpuType": 0x5F0,
    "Prcb.Mhz": 0x5F4,
    "Prcb.DpcRoutine": 0x5F8,
    "Prcb.ContextPointer": 0x600,
    "Prcb.VendorString": 0x610,
    "Prcb.NormalDpcState": 0x624,
    "Prcb.DpcStack": 0x628,
    "Prcb.IsrStack": 0x630,
}
"""Where things are in the kernel's structures."""

_VARIABLE_NAMES: Final = (
    "BreakpointWithStatus SavedContext - KiCallUserMode KeUserCallbackDispatcher PsLoadedModuleList "
    "PsActiveProcessHead PspCidTable ExpSystemResourcesList ExpPagedPoolDescriptor ExpNumberOfPagedPools "
    "KeTimeIncrement KeBugCheckCallbackListHead KiBugcheckData IopErrorLogListHead ObpRootDirectoryObject "
    "ObpTypeObjectType MmSystemCacheStart MmSystemCacheEnd MmSystemCacheWs MmPfnDatabase MmSystemPtesStart "
    "MmSystemPtesEnd MmSubsectionBase MmNumberOfPagingFiles MmLowestPhysicalPage MmHighestPhysicalPage "
    "MmNumberOfPhysicalPages MmMaximumNonPagedPoolInBytes MmNonPagedSystemStart MmNonPagedPoolStart "
    "MmNonPagedPoolEnd MmPagedPoolStart MmPagedPoolEnd MmPagedPoolInformation MmPageSize MmSizeOfPagedPoolInBytes "
    "MmTotalCommitLimit MmTotalCommittedPages MmSharedCommit MmDriverCommit MmProcessCommit MmPagedPoolCommit "
    "MmExtendedCommit MmZeroedPageListHead MmFreePageListHead MmStandbyPageListHead MmModifiedPageListHead "
    "MmModifiedNoWritePageListHead MmAvailablePages MmResidentAvailablePages PoolTrackTable NonPagedPoolDescriptor "
    "MmHighestUserAddress MmSystemRangeStart MmUserProbeAddress KdPrintCircularBuffer KdPrintCircularBufferEnd "
    "KdPrintWritePointer KdPrintRolloverCount MmLoadedUserImageList NtBuildLab KiNormalSystemCall KiProcessorBlock "
    "MmUnloadedDrivers MmLastUnloadedDriver MmTriageActionTaken MmSpecialPoolTag KernelVerifier MmVerifierData "
    "MmAllocatedNonPagedPool MmPeakCommitment MmTotalCommitLimitMaximum CmNtCSDVersion MmPhysicalMemoryBlock "
    "MmSessionBase MmSessionSize MmSystemParentTablePage MmVirtualTranslationBase"
)

VARIABLES: Final = tuple(_VARIABLE_NAMES.split())
"""The 8-byte fields from 0x20 to 0x297, in order; ``-`` stands for the four small ones at 0x30."""

_LATER_POINTERS: Final[Mapping[int, str]] = {
    0x2C8: "KdPrintCircularBufferPtr",
    0x2D0: "KdPrintBufferSize",
    0x2D8: "KeLoaderBlock",
    0x308: "IopNumTriageDumpDataBlocks",
    0x310: "IopTriageDumpDataBlocks",
    0x318: "VfCrashDataBlock",
    0x320: "MmBadPagesDetected",
    0x328: "MmZeroedPageSingleBitErrorsDetected",
    0x330: "EtwpDebuggerData",
    0x360: "PteBase",
}

_NUMBERS: Final[Mapping[int, int | str]] = {
    0x298: "EThread.NextProcessor",
    0x29A: "EThread.Teb",
    0x29C: "EThread.KernelStack",
    0x29E: "EThread.InitialStack",
    0x2A0: "EThread.ApcProcess",
    0x2A2: "EThread.State",
    0x2A8: "EProcess.Size",
    0x2AA: "EProcess.Peb",
    0x2AC: "EProcess.ParentProcessId",
    0x2AE: "EProcess.DirectoryTableBase",
    0x2B0: KPCR_SIZE - KPRCB,
    0x2B2: "Prcb.DpcRoutine",
    0x2B4: "Prcb.CurrentThread",
    0x2B6: "Prcb.Mhz",
    0x2B8: "Prcb.CpuType",
    0x2BA: "Prcb.VendorString",
    0x2BC: "Prcb.Context",
    0x2BE: "Prcb.Number",
    0x2C0: "EThread.Size",
    0x2E0: KPCR_SIZE,
    0x2E2: 0x18,
    0x2E4: 0x20,
    0x2E6: KPRCB,
    0x2F2: "Prcb.SpecialRegisters",
    0x2F4: 0x10,
    0x2F6: 0x18,
    0x2FA: 0x30,
    0x2FC: 0x28,
    0x302: 0x40,
    0x304: 0x20,
    0x306: 0x50,
    0x338: "Prcb.ContextPointer",
    0x350: "Prcb.IdleThread",
    0x352: "Prcb.NormalDpcState",
    0x354: "Prcb.DpcStack",
    0x356: "Prcb.IsrStack",
}

_LONG_NUMBERS: Final[Mapping[int, str]] = {
    0x340: "EThread.StackLimit",
    0x344: "EThread.StackBase",
    0x348: "EThread.QueueListEntry",
    0x34C: "EThread.IrpList",
}


def encode_debugger_data(list_head: int, kernel_base: int, variables: Mapping[str, int], *, pae_enabled: bool) -> bytes:
    """The block, linked into the list at ``list_head``.

    ``variables`` gives the value of each 8-byte field by its name: mostly addresses, 0 for what is missing.
    """
    block = bytearray(BLOCK_SIZE)
    pack_into("<QQ4sIQ", block, 0, list_head, list_head, b"KDBG", BLOCK_SIZE, kernel_base)
    for index, name in enumerate(VARIABLES):
        pack_into("<Q", block, 0x20 + 8 * index, variables.get(name, 0))
    block[0x30:0x38] = pack("<HHHH", 0x28, 0, 0, pae_enabled)
    for offset, name in _LATER_POINTERS.items():
        pack_into("<Q", block, offset, variables.get(name, 0))
    for offset, value in _NUMBERS.items():
        pack_into("<H", block, offset, OFFSETS[value] if isinstance(value, str) else value)
    for offset, name in _LONG_NUMBERS.items():
        pack_into("<I", block, offset, OFFSETS[name])
    return bytes(block)
