"""The kernel's table of 32 software breakpoints (KD protocol, 2.5). A breakpoint really lies in memory, as an int3."""

from __future__ import annotations

from typing import Final, NamedTuple

from kdsrv.sim.memory import AddressSpace, PhysicalMemory

__all__ = ["BREAKPOINT_SLOTS", "BreakpointTable"]

BREAKPOINT_SLOTS: Final = 32

_INT3: Final = b"\xcc"


class _Breakpoint(NamedTuple):
    address: int
    physical: int
    original: bytes


class BreakpointTable:
    """Handles are 1 to 32."""

    def __init__(self, physical: PhysicalMemory) -> None:
        self._physical = physical
        self._slots: dict[int, _Breakpoint] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def write(self, memory: AddressSpace, address: int) -> int:
        """The new breakpoint's handle; 0 if the table is full, ``address`` has one already or is not mapped."""
        place = memory.translate(address)
        taken = any(breakpoint_.address == address for breakpoint_ in self._slots.values())
        if place is None or taken or len(self._slots) == BREAKPOINT_SLOTS:
            return 0
        original = self._physical.read(place, 1)
        if not self._physical.write(place, _INT3):
            return 0
        handle = next(handle for handle in range(1, BREAKPOINT_SLOTS + 1) if handle not in self._slots)
        self._slots[handle] = _Breakpoint(address, place, original)
        return handle

    def restore(self, handle: int) -> bool:
        """Take a breakpoint out; False if there is none with this handle."""
        found = self._slots.pop(handle, None)
        if found is None:
            return False
        self._physical.write(found.physical, found.original)
        return True

    def restore_range(self, address: int, size: int) -> None:
        """Take out all breakpoints in a range of addresses, as the kernel does around the place of a stop."""
        inside = [handle for handle, slot in self._slots.items() if address <= slot.address < address + size]
        for handle in inside:
            self.restore(handle)
