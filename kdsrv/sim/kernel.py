"""The kernel of the simulated machine as it lies in memory: page tables, modules, processor blocks, descriptor tables,
the variables that debuggers look for, and KUSER_SHARED_DATA.

`Kernel` builds it once and keeps the few things that change later: the list of loaded modules, and the state of a
stopped processor in its KPRCB. Everything else that happens to this memory is done by the program or the debugger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct, pack
from typing import Final

from kdsrv.sim.debugger_data import KPCR_SIZE, KPRCB, OFFSETS, VARIABLES, encode_debugger_data
from kdsrv.sim.images import DATA, Image, build_image
from kdsrv.sim.memory import LARGE_PAGE, PAGE_SIZE, AddressSpace, PhysicalMemory
from kdsrv.sim.program import KERNEL_ROUTINES, WORKER_ROUTINES, kernel_text, worker_text

__all__ = ["Kernel", "LoadedModule", "ModuleList", "unicode_string"]

RAM_SIZE: Final = 64 << 20
KERNEL_BASE: Final = 0xFFFF_F802_1000_0000
HAL_BASE: Final = 0xFFFF_F802_10A0_0000
KDCOM_BASE: Final = 0xFFFF_F802_1120_0000
WORKER_BASE: Final = 0xFFFF_F802_1234_0000

_KPCR_BASE: Final = 0xFFFF_F802_0F00_0000
_POOL: Final = 0xFFFF_8A00_0000_0000
_STACKS: Final = 0xFFFF_FA80_0000_0000
_STACK_SIZE: Final = 0x6000
_STACK_SPACING: Final = 0x10000
_SHARED_DATA: Final = 0xFFFF_F780_0000_0000
_PTE_BASE: Final = 0xFFFF_F680_0000_0000
_SELF_MAP: Final = 0x1ED

_POINTER: Final = Struct("<Q")

_ROOM: Final[Mapping[str, int]] = {
    "KdDebuggerDataBlock": 0x400,
    "KdPrintCircularBuffer": 0x100,
    "KiProcessorBlock": 0x200,
    "NtBuildLab": 0x40,
    "KiBugcheckData": 0x30,
}
"""Variables that take more than 16 bytes."""

_LISTS: Final = frozenset(name for name in VARIABLES if name.endswith(("ListHead", "List", "ActiveProcessHead"))) | {
    "KdpDebuggerDataListHead"
}


def _place_variables() -> tuple[dict[str, int], int]:
    """Where each variable of the kernel is, from its base, and where they end."""
    names = ("KdDebuggerDataBlock", "KdpDebuggerDataListHead", "KdVersionBlock", *VARIABLES)
    places, at = {}, DATA
    for name in names:
        places[name] = at
        at += max(16, _ROOM.get(name, 0))
    return places, at


_PLACES, _DATA_END = _place_variables()


def unicode_string(address: int, text: str) -> bytes:
    """UNICODE_STRING whose characters are at ``address``."""
    return pack("<HHIQ", 2 * len(text), 2 * len(text) + 2, 0, address)


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """One entry of PsLoadedModuleList; ``entry`` is the address of its KLDR_DATA_TABLE_ENTRY."""

    name: str
    path: str
    base: int
    size: int
    checksum: int
    entry: int


class ModuleList:
    """A doubly linked list of loader entries, as the kernel keeps one and every process another."""

    def __init__(self, kernel: Kernel, head: int) -> None:
        self._kernel = kernel
        self._head = head
        self.modules: dict[str, LoadedModule] = {}

    def add(self, image: Image, directory: str) -> LoadedModule:
        """Append an entry; the image itself is in memory already."""
        path = directory + image.name
        kernel, space = self._kernel, self._kernel.memory
        entry = kernel.pool(0xA0)
        names = kernel.pool(2 * len(path) + 2)
        space.write_virtual(names, path.encode("utf-16le"))
        space.write_virtual(entry + 0x30, pack("<QQQ", image.base, image.entry_point, image.size))
        space.write_virtual(entry + 0x48, unicode_string(names, path))
        space.write_virtual(entry + 0x58, unicode_string(names + 2 * len(directory), image.name))
        space.write_virtual(entry + 0x68, pack("<IHHQII", 0x09004000, 1, 0, 0, image.checksum, 0))
        space.write_virtual(entry + 0x9C, pack("<I", image.timestamp))
        kernel.link(self._head, entry)
        module = LoadedModule(image.name, path, image.base, image.size, image.checksum, entry)
        self.modules[image.name] = module
        return module

    def remove(self, name: str) -> LoadedModule:
        """Unlink an entry. Raises KeyError if there is no such module."""
        module = self.modules.pop(name)
        self._kernel.unlink(module.entry)
        return module


class Kernel:
    """The memory of a machine that has just booted with ``cpus`` processors."""

    def __init__(self, *, cpus: int, build: int, service_pack: int, pae_enabled: bool) -> None:
        self.physical = PhysicalMemory(RAM_SIZE)
        self.memory = AddressSpace(self.physical, self.physical.allocate())
        self.cpus = cpus
        self.build = build
        self._pool_at = _POOL
        self._stacks = 0
        self._map_regions()
        # ntoseye does not attach to a kernel that names a PDB which nobody has.
        self.kernel_image = build_image(
            "ntoskrnl.exe",
            KERNEL_BASE,
            has_pdb=False,
            text=kernel_text(),
            exports=dict(KERNEL_ROUTINES) | {name: _PLACES[name] for name in ("NtBuildLab", "KdDebuggerDataBlock")},
            size=_DATA_END,
        )
        self.routines = {name: KERNEL_BASE + at for name, at in KERNEL_ROUTINES.items()}
        self.variables = {name: KERNEL_BASE + at for name, at in _PLACES.items()}
        self.load_image(self.kernel_image)
        for name in _LISTS:
            self.write_pointers(self.variables[name], self.variables[name], self.variables[name])
        self.modules = ModuleList(self, self.variables["PsLoadedModuleList"])
        self._load_boot_modules()
        self.pcrs = [_KPCR_BASE + index * 0x10000 for index in range(cpus)]
        self.gdt, self.idt, self.tss = self._make_descriptor_tables()
        for index, pcr in enumerate(self.pcrs):
            self._make_processor_block(index, pcr)
        self._fill_variables(service_pack, pae_enabled)
        self._fill_shared_data()

    def pool(self, size: int) -> int:
        """The address of ``size`` zeroed bytes in the kernel's pool, 16 bytes aligned."""
        address = self._pool_at
        self._pool_at += -(-size // 16) * 16
        if self._pool_at > _POOL + LARGE_PAGE:
            raise MemoryError("the simulated machine is out of pool")
        return address

    def stack(self) -> tuple[int, int]:
        """A new kernel stack, with nothing mapped on either side: its lowest address and the one where it starts."""
        low = _STACKS + self._stacks * _STACK_SPACING
        self._stacks += 1
        self.map_fresh(self.memory, low, _STACK_SIZE)
        return low, low + _STACK_SIZE

    def map_fresh(self, space: AddressSpace, address: int, size: int, *, user: bool = False) -> None:
        """Map ``size`` bytes of unused RAM at ``address``."""
        pages = -(-size // PAGE_SIZE)
        space.map(address, self.physical.allocate(pages), pages, flags=7 if user else 3)

    def load_image(self, image: Image, space: AddressSpace | None = None) -> None:
        """Map an image and copy it in; pages that are mapped already are only written."""
        space = self.memory if space is None else space
        if space.translate(image.base) is None:
            self.map_fresh(space, image.base, image.size, user=image.base < 1 << 47)
        space.write_virtual(image.base, image.content)

    def share_upper_half(self, space: AddressSpace) -> None:
        """Give another root page the kernel's half of the address space, and its own view of its tables."""
        upper = self.physical.read(self.memory.root + PAGE_SIZE // 2, PAGE_SIZE // 2)
        self.physical.write(space.root + PAGE_SIZE // 2, upper)
        self.physical.write(space.root + _SELF_MAP * 8, _POINTER.pack(space.root | 3))

    def link(self, head: int, entry: int) -> None:
        """Insert a LIST_ENTRY at the end of the list at ``head``."""
        last = self.read_pointer(head + 8)
        self.write_pointers(entry, head, last)
        self.write_pointers(last, entry)
        self.write_pointers(head + 8, entry)

    def unlink(self, entry: int) -> None:
        """Take a LIST_ENTRY out of its list."""
        after, before = self.read_pointer(entry), self.read_pointer(entry + 8)
        self.write_pointers(before, after)
        self.write_pointers(after + 8, before)

    def read_pointer(self, address: int) -> int:
        """What is read where a debugger took the page away counts as 0."""
        return int.from_bytes(self.memory.read_virtual(address, 8), "little")

    def write_pointers(self, address: int, *values: int) -> None:
        self.memory.write_virtual(address, b"".join(map(_POINTER.pack, values)))

    def prcb(self, index: int) -> int:
        """The address of a processor's KPRCB."""
        return self.pcrs[index] + KPRCB

    def current_thread(self, index: int) -> int:
        """The address of the thread that a processor runs."""
        return self.read_pointer(self.prcb(index) + OFFSETS["Prcb.CurrentThread"])

    def set_current_thread(self, index: int, thread: int) -> None:
        self.write_pointers(self.prcb(index) + OFFSETS["Prcb.CurrentThread"], thread, 0, thread)

    def save_processor(self, index: int, special_registers: bytes, context: bytes) -> None:
        """Put a stopped processor's registers where the kernel keeps them."""
        self.memory.write_virtual(self.prcb(index) + OFFSETS["Prcb.SpecialRegisters"], special_registers)
        self.memory.write_virtual(self.prcb(index) + OFFSETS["Prcb.Context"], context)

    def _map_regions(self) -> None:
        """All tables of the second level are made now, so that what is mapped later is seen by every process."""
        for slot in range(256, 512):
            self.physical.write(self.memory.root + slot * 8, _POINTER.pack(self.physical.allocate() | 3))
        self.physical.write(self.memory.root + _SELF_MAP * 8, _POINTER.pack(self.memory.root | 3))
        self.memory.map_large(_POOL, self.physical.allocate(LARGE_PAGE // PAGE_SIZE, align=LARGE_PAGE))
        self.map_fresh(self.memory, _SHARED_DATA, PAGE_SIZE)

    def _load_boot_modules(self) -> None:
        worker = build_image(
            "simwork.sys", WORKER_BASE, text=worker_text(), data=bytes(16), exports=dict(WORKER_ROUTINES), size=0x5000
        )
        halt = b"\xf4\xeb\xfd"
        hal = build_image("hal.dll", HAL_BASE, text=halt, exports={"HalReturnToFirmware": 0x1000}, size=0x8000)
        kdcom = build_image("kdcom.dll", KDCOM_BASE, text=halt, exports={"KdSendPacket": 0x1000})
        for image in (hal, kdcom, worker):
            self.load_image(image)
        system = "\\SystemRoot\\system32\\"
        for image in (self.kernel_image, hal, kdcom):
            self.modules.add(image, system)
        self.modules.add(worker, system + "drivers\\")
        self.worker_routines = dict(worker.exports)

    def _make_descriptor_tables(self) -> tuple[int, int, int]:
        """GDT, IDT and TSS, shared by all processors: selectors as on Windows, gates that lead into the kernel."""
        gdt, idt, tss = self.pool(0x60), self.pool(0x1000), self.pool(0x68)
        for selector, descriptor in (
            (0x10, 0x00209B00_00000000),
            (0x18, 0x00CF9300_0000FFFF),
            (0x20, 0x00CFFB00_0000FFFF),
            (0x28, 0x00CFF300_0000FFFF),
            (0x30, 0x0020FB00_00000000),
            (0x50, 0x0040F300_00003C00),
        ):
            self.write_pointers(gdt + selector, descriptor)
        low = (tss & 0xFFFFFF) << 16 | (tss >> 24 & 0xFF) << 56 | 0x8B00 << 32 | 0x67
        self.write_pointers(gdt + 0x40, low, tss >> 32)
        named = {0: "KiDivideErrorFault", 1: "KiDebugTrapOrFault", 3: "KiBreakpointTrap"}
        named |= {13: "KiGeneralProtectionFault", 14: "KiPageFault"}
        gates = [self.routines[named.get(vector, "KiUnexpectedInterrupt")] for vector in range(256)]
        self.memory.write_virtual(idt, b"".join(map(_gate, gates)))
        return gdt, idt, tss

    def _make_processor_block(self, index: int, pcr: int) -> None:
        self.map_fresh(self.memory, pcr, KPCR_SIZE)
        prcb = pcr + KPRCB
        self.write_pointers(pcr, self.gdt, self.tss, 0, pcr, prcb)
        self.write_pointers(pcr + 0x38, self.idt)
        self.memory.write_virtual(pcr + 0x60, pack("<HH", 1, 1))
        self.write_pointers(pcr + 0x108, self.variables["KdVersionBlock"])
        self.memory.write_virtual(prcb, pack("<IB", 0x1F80, index))
        self.memory.write_virtual(prcb + OFFSETS["Prcb.Number"], pack("<I", index))
        self.memory.write_virtual(prcb + OFFSETS["Prcb.CpuType"], b"\x06")
        self.memory.write_virtual(prcb + OFFSETS["Prcb.Mhz"], pack("<I", 2400))
        self.memory.write_virtual(prcb + OFFSETS["Prcb.VendorString"], b"GenuineIntel\0")
        self.write_pointers(prcb + OFFSETS["Prcb.ContextPointer"], prcb + OFFSETS["Prcb.Context"])
        self.write_pointers(self.variables["KiProcessorBlock"] + 8 * index, prcb)

    def _fill_variables(self, service_pack: int, pae_enabled: bool) -> None:
        at = self.variables
        pages = RAM_SIZE // PAGE_SIZE
        for name, value in {
            "CmNtCSDVersion": service_pack << 8,
            "KeTimeIncrement": 156250,
            "MmHighestPhysicalPage": pages - 1,
            "MmLowestPhysicalPage": 1,
            "MmNumberOfPhysicalPages": pages,
            "MmNonPagedPoolStart": _POOL,
            "MmNonPagedPoolEnd": _POOL + LARGE_PAGE,
            "MmHighestUserAddress": 0x7FFF_FFFE_FFFF,
            "MmSystemRangeStart": 0xFFFF_8000_0000_0000,
            "MmUserProbeAddress": 0x7FFF_FFFF_0000,
        }.items():
            self.write_pointers(at[name], value)
        self.memory.write_virtual(at["NtBuildLab"], f"{self.build}.1.amd64fre.kdsrv_simulated\0".encode())
        fields = {name: at[name] for name in VARIABLES} | {
            "BreakpointWithStatus": self.routines["DbgBreakPointWithStatus"],
            "KiCallUserMode": self.routines["KiCallUserMode"],
            "KiNormalSystemCall": self.routines["KiSystemCall64"],
            "KeUserCallbackDispatcher": 0,
            "MmPageSize": PAGE_SIZE,
            "MmVirtualTranslationBase": _PTE_BASE,
            "PteBase": _PTE_BASE,
        }
        head = at["KdpDebuggerDataListHead"]
        block = encode_debugger_data(head, KERNEL_BASE, fields, pae_enabled=pae_enabled)
        self.memory.write_virtual(at["KdDebuggerDataBlock"], block)
        self.write_pointers(head, at["KdDebuggerDataBlock"], at["KdDebuggerDataBlock"])

    def _fill_shared_data(self) -> None:
        """KUSER_SHARED_DATA: version, "a debugger is enabled", and the processor features that WinDbg asks for."""
        put = self.memory.write_virtual
        put(_SHARED_DATA + 0x30, "C:\\Windows".encode("utf-16le"))
        put(_SHARED_DATA + 0x260, pack("<IIB", self.build, 1, 1))
        put(_SHARED_DATA + 0x26C, pack("<II", 10, 0))
        put(_SHARED_DATA + 0x2D4, b"\x03")
        put(_SHARED_DATA + 0x2E8, pack("<I", RAM_SIZE // PAGE_SIZE))
        put(_SHARED_DATA + 0x3D8, pack("<QQI", 3, 3, 0x240))


def _gate(handler: int) -> bytes:
    """An interrupt gate of the IDT."""
    return pack("<HHHHII", handler & 0xFFFF, 0x10, 0x8E00, handler >> 16 & 0xFFFF, handler >> 32, 0)
