"""KDDEBUGGER_DATA64, the kernel's list of addresses for debuggers: where each field is (KD protocol, 4.4).

The names are the kernel's own; those that begin with "Offset" or "Size" describe its structures. Pointers have 64 bits
on every machine. ``read_field`` and ``write_fields`` of `kdsrv.kd.layout` work on a block with this table.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from kdsrv.kd.layout import Fields, row

__all__ = ["BLOCK_SIZES", "FIELDS", "TAG"]

TAG: Final = b"KDBG"
"""What the field ``Tag`` holds."""

BLOCK_SIZES: Final = MappingProxyType(
    {
        "2003": 0x318,
        "Vista": 0x330,
        "7": 0x340,
        "8": 0x360,
        "8.1": 0x360,
        "10 RS1": 0x368,
        "10 RS5": 0x380,
    }
)
"""How long the block is, by the Windows that first had that length."""

_POINTERS: Final = """
    KiCallUserMode KeUserCallbackDispatcher PsLoadedModuleList PsActiveProcessHead PspCidTable ExpSystemResourcesList
    ExpPagedPoolDescriptor ExpNumberOfPagedPools KeTimeIncrement KeBugCheckCallbackListHead KiBugcheckData
    IopErrorLogListHead ObpRootDirectoryObject ObpTypeObjectType MmSystemCacheStart MmSystemCacheEnd MmSystemCacheWs
    MmPfnDatabase MmSystemPtesStart MmSystemPtesEnd MmSubsectionBase MmNumberOfPagingFiles MmLowestPhysicalPage
    MmHighestPhysicalPage MmNumberOfPhysicalPages MmMaximumNonPagedPoolInBytes MmNonPagedSystemStart
    MmNonPagedPoolStart MmNonPagedPoolEnd MmPagedPoolStart MmPagedPoolEnd MmPagedPoolInformation MmPageSize
    MmSizeOfPagedPoolInBytes MmTotalCommitLimit MmTotalCommittedPages MmSharedCommit MmDriverCommit MmProcessCommit
    MmPagedPoolCommit MmExtendedCommit MmZeroedPageListHead MmFreePageListHead MmStandbyPageListHead
    MmModifiedPageListHead MmModifiedNoWritePageListHead MmAvailablePages MmResidentAvailablePages PoolTrackTable
    NonPagedPoolDescriptor MmHighestUserAddress MmSystemRangeStart MmUserProbeAddress KdPrintCircularBuffer
    KdPrintCircularBufferEnd KdPrintWritePointer KdPrintRolloverCount MmLoadedUserImageList NtBuildLab
    KiNormalSystemCall KiProcessorBlock MmUnloadedDrivers MmLastUnloadedDriver MmTriageActionTaken MmSpecialPoolTag
    KernelVerifier MmVerifierData MmAllocatedNonPagedPool MmPeakCommitment MmTotalCommitLimitMaximum CmNtCSDVersion
    MmPhysicalMemoryBlock MmSessionBase MmSessionSize MmSystemParentTablePage MmVirtualTranslationBase
"""
_THREAD_PROCESS_PRCB: Final = """
    OffsetKThreadNextProcessor OffsetKThreadTeb OffsetKThreadKernelStack OffsetKThreadInitialStack
    OffsetKThreadApcProcess OffsetKThreadState OffsetKThreadBStore OffsetKThreadBStoreLimit
    SizeEProcess OffsetEprocessPeb OffsetEprocessParentCID OffsetEprocessDirectoryTableBase
    SizePrcb OffsetPrcbDpcRoutine OffsetPrcbCurrentThread OffsetPrcbMhz OffsetPrcbCpuType OffsetPrcbVendorString
    OffsetPrcbProcStateContext OffsetPrcbNumber SizeEThread
"""
_PCR_GDT: Final = """
    SizePcr OffsetPcrSelfPcr OffsetPcrCurrentPrcb OffsetPcrContainedPrcb OffsetPcrInitialBStore OffsetPcrBStoreLimit
    OffsetPcrInitialStack OffsetPcrStackLimit OffsetPrcbPcrPage OffsetPrcbProcStateSpecialReg
    GdtR0Code GdtR0Data GdtR0Pcr GdtR3Code GdtR3Data GdtR3Teb GdtLdt GdtTss Gdt64R3CmCode Gdt64R3CmTeb
"""

FIELDS: Final[Fields] = {
    **row(0x00, 8, "Flink Blink"),
    **row(0x10, 4, "Tag Size"),
    **row(0x18, 8, "KernBase BreakpointWithStatus SavedContext"),
    **row(0x30, 2, "ThCallbackStack NextCallback FramePointer PaeEnabled"),
    **row(0x38, 8, _POINTERS),
    **row(0x298, 2, _THREAD_PROCESS_PRCB),
    **row(0x2C8, 8, "KdPrintCircularBufferPtr KdPrintBufferSize KeLoaderBlock"),
    **row(0x2E0, 2, _PCR_GDT),
    **row(0x308, 8, "IopNumTriageDumpDataBlocks IopTriageDumpDataBlocks"),
    **row(0x318, 8, "VfCrashDataBlock MmBadPagesDetected MmZeroedPageSingleBitErrorsDetected EtwpDebuggerData"),
    **row(0x338, 2, "OffsetPrcbContext"),
    **row(0x340, 4, "OffsetKThreadStackLimit OffsetKThreadStackBase OffsetKThreadQueueListEntry OffsetEThreadIrpList"),
    **row(0x350, 2, "OffsetPrcbIdleThread OffsetPrcbNormalDpcState OffsetPrcbDpcStack OffsetPrcbIsrStack"),
    **row(0x358, 2, "SizeKdpcStackFrame"),
    **row(0x360, 8, "PteBase RetpolineStubFunctionTable"),
}
"""Every named field: name -> (offset, size)."""
