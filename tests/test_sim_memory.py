"""Physical memory and page tables of the simulated machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.sim.memory import LARGE_PAGE, PAGE_SIZE, AddressSpace, PhysicalMemory

BASE = 0xFFFF_F800_1234_5000
SIZE = 4 * PAGE_SIZE


def make_space() -> AddressSpace:
    physical = PhysicalMemory(1 << 22)
    space = AddressSpace(physical, physical.allocate())
    for page in (2, 0, 3, 1):
        space.map(BASE + page * PAGE_SIZE, physical.allocate())
    return space


@given(
    writes=st.lists(st.tuples(st.integers(-100, SIZE + 100), st.binary(max_size=3 * PAGE_SIZE)), max_size=5),
    at=st.integers(-100, SIZE + 100),
    count=st.integers(0, SIZE + 200),
)
def test_virtual_memory_is_like_a_plain_buffer(writes: list[tuple[int, bytes]], at: int, count: int) -> None:
    space = make_space()
    plain = bytearray(SIZE)
    for place, data in writes:
        fits = data[: max(0, SIZE - place)] if place >= 0 else b""
        assert space.write_virtual(BASE + place, data) == len(fits)
        plain[place : place + len(fits)] = fits
    expected = bytes(plain[at : at + count]) if at >= 0 else b""
    assert space.read_virtual(BASE + at, count) == expected


def test_a_walk_by_physical_reads_finds_the_same_page() -> None:
    space = make_space()
    table = space.root
    for shift in (39, 30, 21, 12):
        entry = space.physical.read(table + (BASE >> shift & 0x1FF) * 8, 8)
        assert entry[0] & 1
        table = int.from_bytes(entry, "little") & 0x000F_FFFF_FFFF_F000
    assert space.translate(BASE + 5) == table + 5


def test_tables_may_be_written_by_a_debugger() -> None:
    space = make_space()
    space.write_virtual(BASE, b"before")
    table = space.root
    for shift in (39, 30, 21):
        table = space.physical.entry(table + (BASE >> shift & 0x1FF) * 8) & ~0xFFF
    space.physical.write(table + (BASE >> 12 & 0x1FF) * 8, bytes(8))
    assert space.translate(BASE) is None
    assert space.read_virtual(BASE, 6) == b""


def test_large_pages() -> None:
    physical = PhysicalMemory(4 * LARGE_PAGE)
    space = AddressSpace(physical, physical.allocate())
    space.map_large(0xFFFF_8000_0020_0000, physical.allocate(LARGE_PAGE // PAGE_SIZE, align=LARGE_PAGE))
    assert space.translate(0xFFFF_8000_0020_0000) == LARGE_PAGE
    assert space.translate(0xFFFF_8000_003F_FFFF) == 2 * LARGE_PAGE - 1
    assert space.translate(0xFFFF_8000_0040_0000) is None


@pytest.mark.parametrize("address", [0, 0x0000_8000_0000_0000, 0x0000_F800_1234_5000, 0xFFFF_7FFF_FFFF_FFFF])
def test_what_is_not_canonical_or_not_mapped_is_not_there(address: int) -> None:
    assert make_space().translate(address) is None


def test_physical_memory_ends() -> None:
    physical = PhysicalMemory(2 * PAGE_SIZE)
    assert physical.read(2 * PAGE_SIZE - 3, 10) == bytes(3)
    assert physical.read(2 * PAGE_SIZE, 10) == b""
    assert physical.read(1 << 63, 10) == b""
    assert physical.write(2 * PAGE_SIZE - 3, b"abcdef") == 3
    assert physical.write(1 << 63, b"abcdef") == 0
    assert physical.read(PAGE_SIZE, 2 * PAGE_SIZE) == bytes(PAGE_SIZE - 3) + b"abc"
    physical.allocate()
    with pytest.raises(MemoryError):
        physical.allocate()


def test_what_is_unmapped_is_gone_and_its_neighbours_stay() -> None:
    space = make_space()
    space.unmap(BASE + PAGE_SIZE, 2)
    mapped = [space.translate(BASE + page * PAGE_SIZE) is not None for page in range(4)]
    assert mapped == [True, False, False, True]
