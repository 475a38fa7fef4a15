"""The processes of the simulated machine: EPROCESS and ETHREAD, and for user processes page tables of their own, PEB,
TEB, module list and address ranges, where a 17134 kernel has them (KD protocol, 4.6).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack
from typing import Final

from kdsrv.sim.debugger_data import OFFSETS
from kdsrv.sim.images import Image, build_image
from kdsrv.sim.kernel import Kernel, unicode_string
from kdsrv.sim.memory import PAGE_SIZE, AddressSpace

__all__ = ["Process", "Thread", "create_process", "create_system", "create_thread"]

RUNNING: Final = 2
WAITING: Final = 5

_PROCESS_OBJECT: Final = 3
_THREAD_OBJECT: Final = 6
_PROGRAM_BASE: Final = 0x7FF7_1C00_0000
_NTDLL_BASE: Final = 0x7FFE_2000_0000
_PEB: Final = 0x9A_0000_0000
_TEB: Final = _PEB + PAGE_SIZE
_HEAP: Final = 0x1F0_0000_0000
_HEAP_SIZE: Final = 0x4000
_LOADER_DATA: Final = _HEAP
_PARAMETERS: Final = _HEAP + 0x100
_ENTRIES: Final = _HEAP + 0x800
_STRINGS: Final = _HEAP + 0x2000
_LISTS: Final = (0x10, 0x20, 0x30)
_USER_TEXT: Final = bytes.fromhex("EBFE")


@dataclass(frozen=True, slots=True)
class Process:
    """``address`` is that of the EPROCESS, ``memory`` what its threads see."""

    name: str
    pid: int
    address: int
    memory: AddressSpace


@dataclass(frozen=True, slots=True)
class Thread:
    """``address`` is that of the ETHREAD, ``stack`` where its kernel stack starts (its highest address)."""

    tid: int
    address: int
    stack: int


def create_system(kernel: Kernel) -> Process:
    """The System process, whose address space is the kernel's own."""
    return _create(kernel, "System", 4, parent=0, memory=kernel.memory, peb=0)


def create_process(kernel: Kernel, name: str, pid: int, parent: int) -> Process:
    """A user process with one waiting thread. Its page tables share everything above the kernel's boundary."""
    space = AddressSpace(kernel.physical, kernel.physical.allocate())
    kernel.share_upper_half(space)
    program = build_image(name, _PROGRAM_BASE, text=_USER_TEXT, native=False)
    ntdll = build_image(
        "ntdll.dll", _NTDLL_BASE, text=b"\xcc\xc3", exports={"DbgBreakPoint": 0x1000}, size=0x8000, native=False
    )
    for image in (program, ntdll):
        kernel.load_image(image, space)
    kernel.map_fresh(space, _PEB, 2 * PAGE_SIZE, user=True)
    kernel.map_fresh(space, _HEAP, _HEAP_SIZE, user=True)
    _fill_user_memory(space, program, ntdll)
    process = _create(kernel, name, pid, parent=parent, memory=space, peb=_PEB)
    ranges = [(_PEB, 2 * PAGE_SIZE), (_HEAP, _HEAP_SIZE), (program.base, program.size), (ntdll.base, ntdll.size)]
    root = _address_ranges(kernel, sorted(ranges), parent=0)
    kernel.write_pointers(process.address + OFFSETS["EProcess.VadRoot"], root)
    create_thread(kernel, process, pid + 4, start=program.entry_point, state=WAITING, teb=_TEB)
    return process


def create_thread(kernel: Kernel, process: Process, tid: int, *, start: int, state: int, teb: int = 0) -> Thread:
    """A thread with a kernel stack, linked into its process."""
    thread = kernel.pool(OFFSETS["EThread.Size"])
    low, high = kernel.stack()
    put = kernel.memory.write_virtual
    put(thread, bytes((_THREAD_OBJECT,)))
    kernel.write_pointers(thread + OFFSETS["EThread.InitialStack"], high, low, high)
    kernel.write_pointers(thread + OFFSETS["EThread.KernelStack"], high - 0x200)
    kernel.write_pointers(thread + OFFSETS["EThread.ApcProcess"], process.address)
    kernel.write_pointers(thread + OFFSETS["EThread.Process"], process.address)
    kernel.write_pointers(thread + OFFSETS["EThread.Teb"], teb)
    put(thread + OFFSETS["EThread.State"], bytes((state,)))
    kernel.write_pointers(thread + OFFSETS["EThread.Cid"], process.pid, tid)
    kernel.write_pointers(thread + OFFSETS["EThread.Win32StartAddress"], start)
    kernel.link(process.address + OFFSETS["EProcess.ThreadListHead"], thread + OFFSETS["EThread.ThreadListEntry"])
    if teb:
        process.memory.write_virtual(teb + 0x40, pack("<QQ", process.pid, tid))
    return Thread(tid, thread, high)


def _create(kernel: Kernel, name: str, pid: int, *, parent: int, memory: AddressSpace, peb: int) -> Process:
    address = kernel.pool(OFFSETS["EProcess.Size"])
    kernel.memory.write_virtual(address, bytes((_PROCESS_OBJECT,)))
    for field, value in {
        "DirectoryTableBase": memory.root,
        "UniqueProcessId": pid,
        "ParentProcessId": parent,
        "Peb": peb,
    }.items():
        kernel.write_pointers(address + OFFSETS[f"EProcess.{field}"], value)
    kernel.memory.write_virtual(address + OFFSETS["EProcess.ImageFileName"], name.encode()[:14])
    threads = address + OFFSETS["EProcess.ThreadListHead"]
    kernel.write_pointers(threads, threads, threads)
    kernel.link(kernel.variables["PsActiveProcessHead"], address + OFFSETS["EProcess.ActiveProcessLinks"])
    return Process(name, pid, address, memory)


def _fill_user_memory(space: AddressSpace, program: Image, ntdll: Image) -> None:
    """PEB, TEB, process parameters, and the loader's three lists of program and ntdll."""
    put = space.write_virtual
    put(_PEB + 0x10, pack("<QQQ", program.base, _LOADER_DATA, _PARAMETERS))
    put(_TEB + 0x30, pack("<Q", _TEB))
    put(_TEB + 0x60, pack("<Q", _PEB))
    put(_LOADER_DATA, pack("<IIQ", 0x58, 1, 0))
    text = _STRINGS
    entries = []
    for index, image in enumerate((program, ntdll)):
        directory = "C:\\Windows\\System32\\"
        entry = _ENTRIES + index * 0x200
        put(text, (directory + image.name).encode("utf-16le"))
        put(entry + 0x30, pack("<QQQ", image.base, image.entry_point, image.size))
        put(entry + 0x48, unicode_string(text, directory + image.name))
        put(entry + 0x58, unicode_string(text + 2 * len(directory), image.name))
        put(entry + 0x80, pack("<I", image.timestamp))
        entries.append(entry)
        text += 0x200
    for number, head in enumerate(_LISTS):
        _chain(space, [_LOADER_DATA + head, *(entry + 0x10 * number for entry in entries)])
    path = "C:\\Windows\\System32\\" + program.name
    put(_PARAMETERS + 0x60, unicode_string(_STRINGS, path))
    put(_PARAMETERS + 0x70, unicode_string(_STRINGS, path))


def _chain(space: AddressSpace, places: list[int]) -> None:
    """Make one doubly linked list of the LIST_ENTRYs at ``places``."""
    for index, place in enumerate(places):
        after = places[(index + 1) % len(places)]
        space.write_virtual(place, pack("<QQ", after, places[index - 1]))


def _address_ranges(kernel: Kernel, ranges: list[tuple[int, int]], parent: int) -> int:
    """A balanced tree of MMVAD_SHORT for ``(address, size)`` ranges in order; the address of its root, 0 for none."""
    if not ranges:
        return 0
    middle = len(ranges) // 2
    address, size = ranges[middle]
    node = kernel.pool(0x40)
    left = _address_ranges(kernel, ranges[:middle], node)
    right = _address_ranges(kernel, ranges[middle + 1 :], node)
    first, last = address >> 12, (address + size - 1) >> 12
    numbers = pack("<IIBB", first & 0xFFFFFFFF, last & 0xFFFFFFFF, first >> 32, last >> 32)
    kernel.memory.write_virtual(node, pack("<QQQ", left, right, parent) + numbers)
    return node
