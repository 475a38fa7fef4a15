"""The memory of a simulated machine: sparse physical pages, and virtual addresses translated through the page tables
that lie in them, as an AMD64 processor does it.

A debugger that walks the tables with physical reads finds exactly what a virtual read finds. Nothing is cached: a
debugger may write into the tables, and a translation is four look-ups.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

__all__ = ["LARGE_PAGE", "PAGE_SIZE", "AddressSpace", "PhysicalMemory"]

PAGE_SIZE: Final = 0x1000
LARGE_PAGE: Final = 0x200000
PRESENT: Final = 0x01
WRITABLE: Final = 0x02
USER: Final = 0x04
LARGE: Final = 0x80

_FRAME: Final = 0x000F_FFFF_FFFF_F000
_ENTRY: Final = Struct("<Q")
_LEVELS: Final = (39, 30, 21, 12)
_LARGE_LEVELS: Final = (30, 21)
_ADDRESS_MASK: Final = (1 << 64) - 1


class PhysicalMemory:
    """``size`` bytes of RAM from address 0. Pages never written read as zeros and cost nothing."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pages: dict[int, bytearray] = {}
        self._next_free = PAGE_SIZE

    def allocate(self, pages: int = 1, *, align: int = PAGE_SIZE) -> int:
        """The address of ``pages`` fresh pages in a row. Raises MemoryError when the machine has no more."""
        address = -(-self._next_free // align) * align
        if address + pages * PAGE_SIZE > self.size:
            raise MemoryError("the simulated machine is out of physical memory")
        self._next_free = address + pages * PAGE_SIZE
        return address

    def read(self, address: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``address``; shorter, or empty, where the RAM ends."""
        count = min(count, self.size - address)
        pieces = []
        while count > 0:
            offset = address & 0xFFF
            take = min(count, PAGE_SIZE - offset)
            page = self._pages.get(address >> 12)
            pieces.append(bytes(take) if page is None else page[offset : offset + take])
            address += take
            count -= take
        return b"".join(pieces)

    def write(self, address: int, data: bytes) -> int:
        """Put ``data`` at ``address``; the number of bytes that lie in the RAM and so were written."""
        done = 0
        end = min(len(data), self.size - address)
        while done < end:
            offset = (address + done) & 0xFFF
            take = min(end - done, PAGE_SIZE - offset)
            number = (address + done) >> 12
            page = self._pages.get(number)
            if page is None:
                page = self._pages[number] = bytearray(PAGE_SIZE)
            page[offset : offset + take] = data[done : done + take]
            done += take
        return done

    def entry(self, address: int) -> int:
        """The 8-byte table entry at ``address``, 0 where there is no RAM."""
        page = self._pages.get(address >> 12)
        value: int = 0 if page is None else _ENTRY.unpack_from(page, address & 0xFF8)[0]
        return value


class AddressSpace:
    """Virtual memory as seen through the 4-level tables whose root is at physical address ``root`` (CR3)."""

    def __init__(self, physical: PhysicalMemory, root: int) -> None:
        self.physical = physical
        self.root = root & _FRAME

    def walk(self, address: int) -> int | None:
        """The last table entry for ``address`` (a large page's own, if one maps it); None if it is not mapped."""
        if not -(1 << 47) <= _signed(address) < (1 << 47):
            return None
        table = self.root
        for shift in _LEVELS:
            entry = self.physical.entry(table + ((address >> shift) & 0x1FF) * 8)
            if not entry & PRESENT:
                return None
            if entry & LARGE and shift in _LARGE_LEVELS:
                mask = (1 << shift) - 1
                return (entry & ~mask & _FRAME) | (address & mask & _FRAME) | (entry & 0xFFF)
            table = entry & _FRAME
        return entry

    def translate(self, address: int) -> int | None:
        """The physical address behind virtual ``address``, or None if it is not mapped."""
        entry = self.walk(address)
        return None if entry is None else (entry & _FRAME) | (address & 0xFFF)

    def read_virtual(self, address: int, count: int) -> bytes:
        """Up to ``count`` bytes; shorter, or empty, from the first byte on that is not mapped."""
        pieces = []
        while count > 0:
            physical = self.translate(address)
            if physical is None:
                break
            piece = self.physical.read(physical, min(count, PAGE_SIZE - (address & 0xFFF)))
            pieces.append(piece)
            count -= len(piece)
            address = (address + len(piece)) & _ADDRESS_MASK
            if not piece:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write_virtual(self, address: int, data: bytes) -> int:
        """Put ``data`` at ``address``, whatever the page's protection; the number of bytes written."""
        done = 0
        while done < len(data):
            physical = self.translate((address + done) & _ADDRESS_MASK)
            if physical is None:
                break
            end = done + min(len(data) - done, PAGE_SIZE - (physical & 0xFFF))
            wrote = self.physical.write(physical, data[done:end])
            done += wrote
            if not wrote:
                break
        return done

    def map(self, address: int, physical: int, pages: int = 1, *, flags: int = PRESENT | WRITABLE) -> None:
        """Map ``pages`` pages of 4 KB; tables that are missing are made."""
        for _ in range(pages):
            self._set(address, physical | flags, 12)
            address += PAGE_SIZE
            physical += PAGE_SIZE

    def unmap(self, address: int, pages: int) -> None:
        """Take ``pages`` pages of 4 KB out of the tables; the RAM behind them stays as it is."""
        for page in range(pages):
            self._set(address + page * PAGE_SIZE, 0, 12)

    def map_large(self, address: int, physical: int, *, flags: int = PRESENT | WRITABLE) -> None:
        """Map one page of 2 MB; both addresses are multiples of that."""
        self._set(address, physical | flags | LARGE, 21)

    def _set(self, address: int, entry: int, last: int) -> None:
        table = self.root
        for shift in _LEVELS:
            place = table + ((address >> shift) & 0x1FF) * 8
            if shift == last:
                self.physical.write(place, _ENTRY.pack(entry))
                return
            there = self.physical.entry(place)
            if not there & PRESENT:
                there = self.physical.allocate() | PRESENT | WRITABLE | USER
                self.physical.write(place, _ENTRY.pack(there))
            table = there & _FRAME


def _signed(address: int) -> int:
    return address - (1 << 64) if address >> 63 else address
