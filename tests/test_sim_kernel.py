"""The image of the simulated kernel, walked as debuggers walk it: from GetVersion on, by reads alone."""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack, unpack_from

import pytest

from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.machine import SimulatedMachine
from kdsrv.sim.memory import AddressSpace


@pytest.fixture(scope="module")
def machine() -> SimulatedMachine:
    return SimulatedMachine(cpus=2, build=17134, service_pack=1, pae_enabled=True)


def pointer(memory: AddressSpace, address: int) -> int:
    value: int = unpack("<Q", memory.read_virtual(address, 8))[0]
    return value


def walk(memory: AddressSpace, head: int) -> Iterator[int]:
    """The entries of a doubly linked list, which has to be whole in both directions."""
    before, at = head, pointer(memory, head)
    while at != head:
        assert pointer(memory, at + 8) == before
        yield at
        before, at = at, pointer(memory, at)
    assert pointer(memory, head + 8) == before


def unicode_string(memory: AddressSpace, address: int) -> str:
    length, room, text = unpack("<HH4xQ", memory.read_virtual(address, 16))
    assert room >= length
    return memory.read_virtual(text, length).decode("utf-16le")


@pytest.fixture(scope="module")
def block(machine: SimulatedMachine) -> bytes:
    """KDDEBUGGER_DATA64."""
    head = machine.version["debugger_data_list"]
    place = pointer(machine.kernel.memory, head)
    data = machine.kernel.memory.read_virtual(place, 0x368)
    assert unpack_from("<QQ4sIQ", data) == (head, head, b"KDBG", 0x368, KERNEL_BASE)
    return data


def field(block: bytes, offset: int) -> int:
    value: int = unpack_from("<Q", block, offset)[0]
    return value


def test_the_debugger_block(machine: SimulatedMachine, block: bytes) -> None:
    memory = machine.kernel.memory
    assert block[0x36] & 1 == 1
    assert field(block, 0x48) == machine.version["loaded_module_list"]
    assert field(block, 0x138) == 0x1000
    assert pointer(memory, field(block, 0x268)) == 0x100
    assert memory.read_virtual(field(block, 0x208), 64).startswith(b"17134.1.amd64fre")
    assert memory.read_virtual(field(block, 0x20), 1) == b"\xcc"
    for index, pcr in enumerate(machine.kernel.pcrs):
        assert pointer(memory, field(block, 0x218) + 8 * index) == pcr + 0x180
    assert pointer(memory, field(block, 0x218) + 16) == 0
    for offset in range(0x48, 0x298, 8):
        if offset not in (0x138, 0x290):
            assert memory.translate(field(block, offset)) is not None, f"{offset:#x}"


def test_published_offsets_fit_the_structures(machine: SimulatedMachine, block: bytes) -> None:
    memory = machine.kernel.memory
    small = {offset: unpack_from("<H", block, offset)[0] for offset in range(0x298, 0x308, 2)}
    prcb = machine.kernel.prcb(1)
    thread = pointer(memory, prcb + small[0x2B4])
    assert memory.read_virtual(thread, 1) == b"\x06"
    process = pointer(memory, thread + small[0x2A0])
    assert memory.read_virtual(process, 1) == b"\x03"
    assert pointer(memory, process + small[0x2AE]) == memory.root
    assert unpack("<I", memory.read_virtual(prcb + small[0x2BE], 4)) == (1,)
    machine.freeze()
    special = memory.read_virtual(prcb + small[0x2F2], 0xE0)
    assert special == machine.processors[1].read_special()
    assert memory.read_virtual(prcb + small[0x2BC], 0x4D0) == machine.processors[1].read_context()


def test_processor_blocks_point_at_themselves_and_their_tables(machine: SimulatedMachine) -> None:
    memory = machine.kernel.memory
    for pcr in machine.kernel.pcrs:
        gdt, tss, _, me, prcb = unpack("<5Q", memory.read_virtual(pcr, 40))
        assert (me, prcb) == (pcr, pcr + 0x180)
        assert memory.read_virtual(gdt + 0x10, 8)[5] == 0x9B
        low, high = unpack("<QQ", memory.read_virtual(gdt + 0x40, 16))
        assert (low >> 16 & 0xFFFFFF | low >> 56 << 24 | high << 32) == tss
        gate = memory.read_virtual(pointer(memory, pcr + 0x38) + 3 * 16, 16)
        low, middle, high = unpack("<H4xHI", gate[:12])
        assert low | middle << 16 | high << 32 == machine.kernel.routines["KiBreakpointTrap"]


def test_modules_and_their_headers(machine: SimulatedMachine) -> None:
    memory = machine.kernel.memory
    names = []
    for entry in walk(memory, machine.version["loaded_module_list"]):
        base, entry_point, size = unpack("<QQQ", memory.read_virtual(entry + 0x30, 24))
        names.append(unicode_string(memory, entry + 0x58))
        assert unicode_string(memory, entry + 0x48).endswith("\\" + names[-1])
        assert memory.read_virtual(base, 2) == b"MZ"
        headers = memory.read_virtual(base, 0x400)
        pe = unpack_from("<I", headers, 0x3C)[0]
        machine_type, sections = unpack_from("<4xHH", headers, pe)
        assert (headers[pe : pe + 4], machine_type, sections) == (b"PE\0\0", 0x8664, 3)
        assert unpack_from("<Q", headers, pe + 24 + 24)[0] == base
        assert unpack_from("<I", headers, pe + 24 + 56)[0] == size
        assert base <= entry_point < base + size
        assert len(memory.read_virtual(base, size)) == size
    assert names == ["ntoskrnl.exe", "hal.dll", "kdcom.dll", "simwork.sys"]


def test_the_module_list_stays_whole() -> None:
    machine = SimulatedMachine(cpus=1, build=17134, service_pack=0, pae_enabled=True)
    head = machine.version["loaded_module_list"]
    for number in range(3):
        machine.load_module(f"m{number}.sys", 0xFFFF_F802_2000_0000 + number * 0x10000, 0x4000)
    before = list(walk(machine.kernel.memory, head))
    machine.unload_module("m1.sys")
    assert list(walk(machine.kernel.memory, head)) == before[:5] + before[6:]


def test_exports_and_symbol_records(machine: SimulatedMachine) -> None:
    for module, routines in (
        ("ntoskrnl.exe", machine.kernel.routines),
        ("simwork.sys", machine.kernel.worker_routines),
    ):
        base = machine.kernel.modules.modules[module].base
        image = machine.kernel.memory.read_virtual(base, machine.kernel.modules.modules[module].size)
        optional = unpack_from("<I", image, 0x3C)[0] + 24
        at, _ = unpack_from("<II", image, optional + 112)
        count, functions, names, ordinals = unpack_from("<4xIIII", image, at + 20)
        found = {}
        for index in range(count):
            name = unpack_from("<I", image, names + 4 * index)[0]
            ordinal = unpack_from("<H", image, ordinals + 2 * index)[0]
            text = image[name : image.index(b"\0", name)].decode()
            found[text] = base + unpack_from("<I", image, functions + 4 * ordinal)[0]
        assert list(found) == sorted(found)
        assert routines.items() <= found.items()
    debug, size = unpack_from("<II", image, optional + 112 + 6 * 8)
    kind, length, record = unpack_from("<12xIII", image, debug)
    assert (size, kind, image[record : record + 4]) == (28, 2, b"RSDS")
    assert image[record + 24 : record + length] == b"simwork.pdb\0"


def test_processes_threads_and_their_own_memory(machine: SimulatedMachine, block: bytes) -> None:
    memory = machine.kernel.memory
    seen = {}
    for links in walk(memory, field(block, 0x50)):
        process = links - 0x2E8
        name = memory.read_virtual(process + 0x450, 15).rstrip(b"\0").decode()
        seen[name] = pointer(memory, process + 0x2E0)
        threads = [entry - 0x6A8 for entry in walk(memory, process + 0x488)]
        assert threads
        for thread in threads:
            assert memory.read_virtual(thread, 1) == b"\x06"
            assert pointer(memory, thread + 0x638) == seen[name]
        peb = pointer(memory, process + 0x3F8)
        space = AddressSpace(machine.kernel.physical, pointer(memory, process + 0x28))
        assert space.read_virtual(KERNEL_BASE, 64) == memory.read_virtual(KERNEL_BASE, 64)
        if peb:
            assert memory.translate(peb) is None
            image, loader = unpack("<QQ", space.read_virtual(peb + 0x10, 16))
            assert space.read_virtual(image, 2) == b"MZ"
            for head, shift in ((0x10, 0), (0x20, 0x10), (0x30, 0x20)):
                entries = [entry - shift for entry in walk(space, loader + head)]
                assert [unicode_string(space, entry + 0x58) for entry in entries] == [name, "ntdll.dll"]
                assert pointer(space, entries[0] + 0x30) == image
    assert seen == {"System": 4, "smss.exe": 0x150, "notepad.exe": 0x9C4}


def test_address_ranges_are_a_tree_in_order(machine: SimulatedMachine) -> None:
    memory = machine.kernel.memory
    notepad = machine.processes[2]

    def in_order(node: int, parent: int) -> list[tuple[int, int]]:
        if not node:
            return []
        left, right, above, first, last, first_high, last_high = unpack("<QQQIIBB", memory.read_virtual(node, 34))
        assert above == parent
        here = ((first | first_high << 32) << 12, (last | last_high << 32) << 12)
        return [*in_order(left, node), here, *in_order(right, node)]

    ranges = in_order(pointer(memory, notepad.address + 0x628), 0)
    assert ranges == sorted(ranges)
    assert len(ranges) == 4
    for first, last in ranges:
        assert notepad.memory.translate(first) is not None
        assert notepad.memory.translate(last + 0xFFF) is not None


def test_shared_user_data(machine: SimulatedMachine) -> None:
    shared = machine.kernel.memory.read_virtual(0xFFFF_F780_0000_0000, 0x400)
    assert unpack_from("<I", shared, 0x260) == (17134,)
    assert unpack_from("<II", shared, 0x26C) == (10, 0)
    assert shared[0x2D4] & 1


def test_page_tables_map_themselves(machine: SimulatedMachine) -> None:
    for process in machine.processes:
        pte = 0xFFFF_F680_0000_0000 + ((KERNEL_BASE & 0xFFFF_FFFF_FFFF) >> 12) * 8
        assert pointer(process.memory, pte) == process.memory.walk(KERNEL_BASE)
