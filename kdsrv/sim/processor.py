"""One processor of the simulated machine: its registers, kept as the CONTEXT and KSPECIAL_REGISTERS that a debugger
reads (KD protocol, 4.1 and 4.3), and the running of its program, one instruction at a time.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from kdsrv.kd.amd64 import Context, ControlReport, SpecialRegisters
from kdsrv.kd.statuses import Status
from kdsrv.sim.decoder import RIP, RSP, Fault
from kdsrv.sim.instructions import execute
from kdsrv.sim.memory import AddressSpace, PhysicalMemory

__all__ = ["Processor", "Trap"]

_ALL_GROUPS: Final = 0x10001F
_TRACE: Final = 0x100
_STEPPED: Final = 0x4000
_FRESH_DR6: Final = 0xFFFF0FF0
_REPORT_VALID: Final = 3
_DEBUG_REGISTERS: Final = 0x10

_U16: Final = Struct("<H")
_U32: Final = Struct("<I")

_FLAGS_AT: Final = Context.FIELDS["context_flags"][0]
_EFLAGS_AT: Final = Context.FIELDS["eflags"][0]
_CONTEXT_DR: Final = slice(0x48, 0x78)
_SPECIAL_DR: Final = slice(0x20, 0x50)
_CR2, _CR3, _DR0, _DR6, _DR7 = (SpecialRegisters.FIELDS[name][0] // 8 for name in ("cr2", "cr3", "dr0", "dr6", "dr7"))

_GROUPS: Final = (
    (0x01, (slice(0x38, 0x3A), slice(0x42, 0x48), slice(0x98, 0xA0), slice(0xF8, 0x100))),
    (0x02, (slice(0x78, 0x98), slice(0xA0, 0xF8))),
    (0x04, (slice(0x3A, 0x42),)),
    (0x08, (slice(0x34, 0x38), slice(0x100, 0x300))),
)
"""The parts of a CONTEXT by the bit of ContextFlags that stands for them; debug registers go another way."""

_MSRS: Final = {
    0xC0000081: "star",
    0xC0000082: "lstar",
    0xC0000083: "cstar",
    0xC0000084: "syscall_mask",
    0xC0000101: "gs_base",
    0xC0000102: "gs_swap",
}
"""Model-specific registers that are in KSPECIAL_REGISTERS too."""

_WATCH_SIZES: Final = (1, 2, 8, 4)


class Trap(NamedTuple):
    """Why a processor stopped: an exception code, the address of the instruction, and its parameters."""

    code: int
    address: int
    parameters: tuple[int, ...] = ()


class Processor:
    """Starts with all registers zero but those that every kernel has set; see `Kernel` for the rest."""

    def __init__(self, index: int, physical: PhysicalMemory, special_registers: SpecialRegisters) -> None:
        self.index = index
        self.halted = False
        self._physical = physical
        self._context = bytearray(Context.build(context_flags=_ALL_GROUPS, mxcsr=0x1F80, fx_mxcsr=0x1F80).raw)
        self._context[0x38:0x44] = b"".join(map(_U16.pack, (0x10, 0x2B, 0x2B, 0x53, 0x2B, 0x18)))
        self._special = bytearray(special_registers.raw)
        self._specials = memoryview(self._special).cast("Q")
        self.registers = memoryview(self._context).cast("Q")
        self.eflags = 0x246
        self._other_msrs = {0xC0000080: 0xD01, 0x1B: 0xFEE00900, 0x10: 0, 0xC0000100: 0, 0x174: 0, 0x175: 0, 0x176: 0}
        self._stored: tuple[int, int] | None = None
        self._passing_breakpoint = False

    @property
    def eflags(self) -> int:
        value: int = _U32.unpack_from(self._context, _EFLAGS_AT)[0]
        return value

    @eflags.setter
    def eflags(self, value: int) -> None:
        _U32.pack_into(self._context, _EFLAGS_AT, value)

    @property
    def pc(self) -> int:
        value: int = self.registers[RIP]
        return value

    @property
    def memory(self) -> AddressSpace:
        """Virtual memory through the page tables that CR3 names now."""
        return AddressSpace(self._physical, self._specials[_CR3])

    @property
    def watches(self) -> bool:
        """Whether a debug register is armed."""
        return bool(self._specials[_DR7] & 0xFF)

    def read_context(self) -> bytes:
        """The whole CONTEXT."""
        self._context[_CONTEXT_DR] = self._special[_SPECIAL_DR]
        _U32.pack_into(self._context, _FLAGS_AT, _ALL_GROUPS)
        return bytes(self._context)

    def write_context(self, data: bytes) -> None:
        """Take over what ``data``, a CONTEXT or the first bytes of one, says by its own ContextFlags."""
        record = data + self.read_context()[len(data) :]
        flags = _U32.unpack_from(record, _FLAGS_AT)[0]
        for bit, places in _GROUPS:
            if flags & bit:
                for place in places:
                    self._context[place] = record[place]
        if flags & _DEBUG_REGISTERS:
            self._special[_SPECIAL_DR] = record[_CONTEXT_DR]

    def read_special(self) -> bytes:
        """KSPECIAL_REGISTERS."""
        return bytes(self._special)

    def write_special(self, data: bytes) -> None:
        """Overlay KSPECIAL_REGISTERS from its start; what is too long is cut off."""
        data = data[: len(self._special)]
        self._special[: len(data)] = data

    def read_msr(self, number: int) -> int | None:
        """The value of a model-specific register, None if there is no such one."""
        if number in _MSRS:
            value: int = self._specials[SpecialRegisters.FIELDS[_MSRS[number]][0] // 8]
            return value
        return self._other_msrs.get(number)

    def write_msr(self, number: int, value: int) -> bool:
        """False if there is no such register."""
        if number in _MSRS:
            self._specials[SpecialRegisters.FIELDS[_MSRS[number]][0] // 8] = value
            return True
        if number not in self._other_msrs:
            return False
        self._other_msrs[number] = value
        return True

    def control_report(self, stream: bytes) -> ControlReport:
        """The end of a state change; ``stream`` is the up to 16 bytes at the program counter."""
        segments = {"cs": 0x38, "ds": 0x3A, "es": 0x3C, "fs": 0x3E}
        return ControlReport.build(
            dr6=self._specials[_DR6],
            dr7=self._specials[_DR7],
            eflags=self.eflags,
            instruction_count=len(stream),
            report_flags=_REPORT_VALID,
            instruction_stream=stream.ljust(16, b"\0"),
            **{name: _U16.unpack_from(self._context, at)[0] for name, at in segments.items()},
        )

    def prepare_continue(self, *, trace: bool | None = None, dr7: int | None = None) -> None:
        """Leave a stop. A hardware breakpoint on the very next instruction does not stop it again, as with RF set.

        ``trace`` and ``dr7`` are those of Continue2; None leaves the register as it is.
        """
        self._passing_breakpoint = True
        if trace is not None:
            self.eflags = self.eflags | _TRACE if trace else self.eflags & ~_TRACE
        if dr7 is not None:
            self._specials[_DR7] = dr7
            self._specials[_DR6] = 0

    def call(self, address: int) -> None:
        """Go to ``address`` as if the current instruction had called it; nothing happens where it already is."""
        if self.pc == address:
            return
        top = (self.registers[RSP] - 8) & ((1 << 64) - 1)
        self.memory.write_virtual(top, self.pc.to_bytes(8, "little"))
        self.registers[RSP] = top
        self.registers[RIP] = address

    def run(self, steps: int) -> Trap | None:
        """Carry out up to ``steps`` instructions; fewer if one traps or halts."""
        self.halted = False
        for _ in range(steps):
            trap = self._step()
            if trap is not None or self.halted:
                return trap
        return None

    def _step(self) -> Trap | None:
        passing, self._passing_breakpoint = self._passing_breakpoint, False
        watching = self._specials[_DR7] & 0xFF
        if watching and not passing and (hit := self._hits(0, self.pc, 1)):
            self._specials[_DR6] = _FRESH_DR6 | hit
            return Trap(Status.SINGLE_STEP, self.pc)
        self._stored = None
        address = self.pc
        tracing = self.eflags & _TRACE
        try:
            execute(self)
        except Fault as fault:
            self.eflags &= ~_TRACE
            return Trap(fault.code, address, fault.parameters)
        if tracing:
            self.eflags &= ~_TRACE
            self._specials[_DR6] = _FRESH_DR6 | _STEPPED
            return Trap(Status.SINGLE_STEP, self.pc)
        if watching and self._stored and (hit := self._hits(1, *self._stored)):
            self._specials[_DR6] = _FRESH_DR6 | hit
            return Trap(Status.SINGLE_STEP, self.pc)
        return None

    def _hits(self, kind: int, address: int, size: int) -> int:
        """The bits in DR6 of the armed debug registers that match: ``kind`` 0 execution, 1 a write."""
        control = self._specials[_DR7]
        hit = 0
        for number in range(4):
            if not control >> 2 * number & 3:
                continue
            rule = control >> (16 + 4 * number) & 0xF
            wanted = self._specials[_DR0 + number]
            length = _WATCH_SIZES[rule >> 2]
            if (rule & 1) == kind and wanted < address + size and address < wanted + length:
                hit |= 1 << number
        return hit

    def fetch(self, address: int) -> bytes:
        """The bytes of the instruction at ``address``. Raises `Fault`."""
        code = self.memory.read_virtual(address, 15)
        if not code:
            raise self._page_fault(address, 8)
        return code

    def load(self, address: int, size: int) -> int:
        data = self.memory.read_virtual(address, size)
        if len(data) < size:
            raise self._page_fault(address, 0)
        return int.from_bytes(data, "little")

    def store(self, address: int, value: int, size: int) -> None:
        memory = self.memory
        if memory.translate(address) is None or memory.translate(address + size - 1) is None:
            raise self._page_fault(address, 1)
        memory.write_virtual(address, value.to_bytes(size, "little"))
        self._stored = (address, size)

    def _page_fault(self, address: int, kind: int) -> Fault:
        """``kind``: 0 read, 1 write, 8 execute."""
        self._specials[_CR2] = address
        return Fault(Status.ACCESS_VIOLATION, (kind, address))
