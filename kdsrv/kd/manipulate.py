"""STATE_MANIPULATE, packet type 2: what a debugger asks of a stopped target, and the replies (KD protocol, 2.3 to 2.5).

A target answers with the request's own 56 bytes, in which status and results are changed, so `Manipulate.reply` starts
from the request. Which fields there are is told by the tables in `kdsrv.kd.api`; ``request["address"]`` reads one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from kdsrv.kd.api import FIELDS, HEADER, Api, api_name
from kdsrv.kd.layout import Fields, Payload, PayloadError, Record
from kdsrv.kd.machine import Machine
from kdsrv.kd.statuses import Status, is_success
from kdsrv.kd.version import Version

__all__ = ["MAX_TRANSFER", "Manipulate"]

MAX_TRANSFER: Final = 4000 - 56
"""The most data one manipulate packet carries."""


@dataclass(frozen=True, slots=True)
class Manipulate(Payload):
    """One request or reply. The class methods build the requests of a debugger."""

    NAME: ClassVar = "manipulate"
    SIZE: ClassVar = 56
    HEADER: ClassVar[Fields] = HEADER
    KINDS: ClassVar = FIELDS

    @property
    def name(self) -> str:
        return api_name(self.kind)

    @property
    def api(self) -> int:
        return self.kind

    @property
    def processor(self) -> int:
        return self["processor"]

    @property
    def status(self) -> int:
        return self["status"]

    @property
    def succeeded(self) -> bool:
        return is_success(self.status)

    @property
    def version(self) -> Version:
        """What a GetVersion reply says."""
        return Version.from_bytes(self.fixed[0x10:])

    def reply(self, status: int = Status.SUCCESS, data: bytes = b"", **results: int | bytes) -> Self:
        """The answer to this request: its own fixed part with status and results changed, then ``data``."""
        return type(self)(self.replace(status=status, **results).fixed, data)

    def reply_version(self, version: Version) -> Self:
        """The answer to this GetVersion."""
        return self.replace(**version.values()).reply()

    def reply_unknown(self) -> Self:
        """The answer of a target that does not know this request."""
        return self.reply(Status.UNSUCCESSFUL)

    def breakpoints(self) -> list[tuple[int, int]]:
        """The (address, handle) pairs of a WriteBreakPointEx; raises `PayloadError` when fewer came than it counts."""
        return [(entry[0], entry[1]) for entry in self._entries(_BREAKPOINT_ENTRY)]

    def handles(self) -> list[int]:
        """The handles of a RestoreBreakPointEx; raises `PayloadError` when fewer came than it counts."""
        return [entry[0] for entry in self._entries(_HANDLE_ENTRY)]

    def _entries(self, entry: struct.Struct) -> list[tuple[int, ...]]:
        wanted = self["count"] * entry.size
        if len(self.data) < wanted:
            raise PayloadError(message=f"{self.name} list", wanted=wanted, given=len(self.data))
        return list(entry.iter_unpack(self.data[:wanted]))

    @classmethod
    def request(cls, api: int, processor: int = 0, data: bytes = b"", **values: int | bytes) -> Self:
        """Any request; the methods below name the fields of each."""
        return cls.build(api, data, processor=processor, status=Status.PENDING, **values)

    @classmethod
    def read_virtual(cls, address: int, count: int, processor: int = 0) -> Self:
        return cls.request(Api.READ_VIRTUAL_MEMORY, processor, address=address, transfer_count=count)

    @classmethod
    def write_virtual(cls, address: int, data: bytes, processor: int = 0) -> Self:
        return cls.request(Api.WRITE_VIRTUAL_MEMORY, processor, data, address=address, transfer_count=len(data))

    @classmethod
    def read_physical(cls, address: int, count: int, caching: int = 0, processor: int = 0) -> Self:
        """``caching``: 0 default, 1 cached, 2 uncached, 3 write-combined."""
        return cls.request(Api.READ_PHYSICAL_MEMORY, processor, address=address, transfer_count=count, actual=caching)

    @classmethod
    def write_physical(cls, address: int, data: bytes, caching: int = 0, processor: int = 0) -> Self:
        return cls.request(
            Api.WRITE_PHYSICAL_MEMORY, processor, data, address=address, transfer_count=len(data), actual=caching
        )

    @classmethod
    def read_control_space(cls, index: int, count: int, processor: int = 0) -> Self:
        """``index`` is one of 2.6 on AMD64, a byte offset into KPROCESSOR_STATE on x86."""
        return cls.request(Api.READ_CONTROL_SPACE, processor, address=index, transfer_count=count)

    @classmethod
    def write_control_space(cls, index: int, data: bytes | Record, processor: int = 0) -> Self:
        data = bytes(data)
        return cls.request(Api.WRITE_CONTROL_SPACE, processor, data, address=index, transfer_count=len(data))

    @classmethod
    def get_context(cls, processor: int = 0, flags: int = 0) -> Self:
        return cls.request(Api.GET_CONTEXT, processor, context_flags=flags)

    @classmethod
    def set_context(cls, context: bytes | Record, processor: int = 0, flags: int = 0) -> Self:
        """Targets obey the ContextFlags inside the record, not ``flags``."""
        return cls.request(Api.SET_CONTEXT, processor, bytes(context), context_flags=flags)

    @classmethod
    def get_context_ex(cls, offset: int, count: int, processor: int = 0) -> Self:
        return cls.request(Api.GET_CONTEXT_EX, processor, offset=offset, byte_count=count)

    @classmethod
    def set_context_ex(cls, offset: int, part: bytes, total: int, processor: int = 0) -> Self:
        """A slice of a context of ``total`` bytes; the slice that ends there makes the target take them all."""
        return cls.request(Api.SET_CONTEXT_EX, processor, part, offset=offset, byte_count=len(part), bytes_copied=total)

    @classmethod
    def read_msr(cls, register: int, processor: int = 0) -> Self:
        return cls.request(Api.READ_MACHINE_SPECIFIC_REGISTER, processor, msr=register)

    @classmethod
    def write_msr(cls, register: int, value: int, processor: int = 0) -> Self:
        """``value`` is 64 bits."""
        return cls.request(
            Api.WRITE_MACHINE_SPECIFIC_REGISTER, processor, msr=register, low=value & 0xFFFFFFFF, high=value >> 32
        )

    @property
    def msr_value(self) -> int:
        """The 64 bits of an MSR request or reply."""
        return self["high"] << 32 | self["low"]

    @classmethod
    def write_breakpoint(cls, address: int, processor: int = 0) -> Self:
        return cls.request(Api.WRITE_BREAKPOINT, processor, address=address)

    @classmethod
    def restore_breakpoint(cls, handle: int, processor: int = 0) -> Self:
        return cls.request(Api.RESTORE_BREAKPOINT, processor, handle=handle)

    @classmethod
    def write_breakpoints(cls, addresses: Iterable[int], status: int = Status.DBG_CONTINUE, processor: int = 0) -> Self:
        """WriteBreakPointEx; ``status`` says how to continue afterwards."""
        entries = [_BREAKPOINT_ENTRY.pack(address, 0, 0) for address in addresses]
        return cls.request(
            Api.WRITE_BREAKPOINT_EX, processor, b"".join(entries), count=len(entries), continue_status=status
        )

    @classmethod
    def restore_breakpoints(cls, handles: Iterable[int], status: int = Status.DBG_CONTINUE, processor: int = 0) -> Self:
        """RestoreBreakPointEx."""
        entries = [_HANDLE_ENTRY.pack(handle) for handle in handles]
        return cls.request(
            Api.RESTORE_BREAKPOINT_EX, processor, b"".join(entries), count=len(entries), continue_status=status
        )

    @classmethod
    def write_custom_breakpoint(
        cls, address: int, instruction: int, size: int, alignment: int, processor: int = 0
    ) -> Self:
        return cls.request(
            Api.WRITE_CUSTOM_BREAKPOINT,
            processor,
            address=address,
            instruction=instruction,
            size=size,
            alignment=alignment,
        )

    @classmethod
    def set_internal_breakpoint(cls, address: int, flags: int = 0, processor: int = 0) -> Self:
        """``flags``: 1 count only, 2 invalid, 4 suspended, 8 dying."""
        return cls.request(Api.SET_INTERNAL_BREAKPOINT, processor, address=address, flags=flags)

    @classmethod
    def get_internal_breakpoint(cls, address: int, processor: int = 0) -> Self:
        return cls.request(Api.GET_INTERNAL_BREAKPOINT, processor, address=address)

    @classmethod
    def clear_all_internal_breakpoints(cls, processor: int = 0) -> Self:
        return cls.request(Api.CLEAR_ALL_INTERNAL_BREAKPOINTS, processor)

    @classmethod
    def continue_(cls, status: int = Status.DBG_CONTINUE, processor: int = 0) -> Self:
        return cls.request(Api.CONTINUE, processor, continue_status=status)

    @classmethod
    def continue2(
        cls,
        status: int = Status.DBG_CONTINUE,
        trace: bool = False,
        dr7: int = 0x400,
        symbols: tuple[int, int] = (1, 0),
        *,
        machine: Machine = Machine.AMD64,
        processor: int = 0,
    ) -> Self:
        """``trace``: stop again after one instruction. ``symbols``: range to step over; (1, 0) leaves it alone."""
        suffix = "_x86" if machine is Machine.X86 else ""
        control = {f"dr7{suffix}": dr7, f"symbol_start{suffix}": symbols[0], f"symbol_end{suffix}": symbols[1]}
        request = cls.request(Api.CONTINUE2, processor, continue_status=status, trace_flag=int(trace))
        return request.replace(**control)

    @classmethod
    def get_version(cls, processor: int = 0) -> Self:
        return cls.request(Api.GET_VERSION, processor)

    @classmethod
    def reboot(cls, processor: int = 0) -> Self:
        return cls.request(Api.REBOOT, processor)

    @classmethod
    def cause_bug_check(cls, code: int, processor: int = 0) -> Self:
        return cls.request(Api.CAUSE_BUG_CHECK, processor, code=code)

    @classmethod
    def switch_processor(cls, processor: int) -> Self:
        """Answered by a state change of that processor, not by a reply."""
        return cls.request(Api.SWITCH_PROCESSOR, processor)

    @classmethod
    def switch_partition(cls, partition: int, processor: int = 0) -> Self:
        return cls.request(Api.SWITCH_PARTITION, processor, partition=partition)

    @classmethod
    def search_memory(cls, address: int, length: int, pattern: bytes, processor: int = 0) -> Self:
        """The reply's ``address`` is where the pattern was found."""
        return cls.request(
            Api.SEARCH_MEMORY, processor, pattern, address=address, length=length, pattern_length=len(pattern)
        )

    @classmethod
    def fill_memory(cls, address: int, length: int, pattern: bytes, physical: bool = False, processor: int = 0) -> Self:
        """The reply's ``length`` is how much was filled."""
        return cls.request(
            Api.FILL_MEMORY,
            processor,
            pattern,
            address=address,
            length=length,
            flags=2 if physical else 1,
            pattern_length=len(pattern),
        )

    @classmethod
    def query_memory(cls, address: int, processor: int = 0) -> Self:
        """The reply's ``address_space``: 0 process, 1 session, 2 kernel; ``flags``: 1 read, 2 write, 4 run, 8 fixed."""
        return cls.request(Api.QUERY_MEMORY, processor, address=address)

    @classmethod
    def check_low_memory(cls, processor: int = 0) -> Self:
        return cls.request(Api.CHECK_LOW_MEMORY, processor)

    @classmethod
    def read_io(cls, port: int, size: int, processor: int = 0) -> Self:
        """``size`` is 1, 2 or 4."""
        return cls.request(Api.READ_IO_SPACE, processor, address=port, size=size)

    @classmethod
    def write_io(cls, port: int, size: int, value: int, processor: int = 0) -> Self:
        return cls.request(Api.WRITE_IO_SPACE, processor, address=port, size=size, value=value)

    @classmethod
    def read_io_extended(
        cls, address: int, size: int, interface_type: int = 1, bus: int = 0, address_space: int = 1, processor: int = 0
    ) -> Self:
        """The defaults mean an ISA port."""
        return cls.request(
            Api.READ_IO_SPACE_EXTENDED,
            processor,
            address=address,
            size=size,
            interface_type=interface_type,
            bus=bus,
            address_space=address_space,
        )

    @classmethod
    def write_io_extended(
        cls,
        address: int,
        size: int,
        value: int,
        interface_type: int = 1,
        bus: int = 0,
        address_space: int = 1,
        processor: int = 0,
    ) -> Self:
        read = cls.read_io_extended(address, size, interface_type, bus, address_space, processor)
        return read.replace(api=Api.WRITE_IO_SPACE_EXTENDED, value=value)

    @classmethod
    def get_bus_data(
        cls, bus_data_type: int, bus: int, slot: int, offset: int, length: int, processor: int = 0
    ) -> Self:
        return cls.request(
            Api.GET_BUS_DATA, processor, bus_data_type=bus_data_type, bus=bus, slot=slot, offset=offset, length=length
        )

    @classmethod
    def set_bus_data(
        cls, bus_data_type: int, bus: int, slot: int, offset: int, data: bytes, processor: int = 0
    ) -> Self:
        get = cls.get_bus_data(bus_data_type, bus, slot, offset, len(data), processor)
        return cls(get.replace(api=Api.SET_BUS_DATA).fixed, data)

    @classmethod
    def query_special_calls(cls, processor: int = 0) -> Self:
        return cls.request(Api.QUERY_SPECIAL_CALLS, processor)

    @classmethod
    def set_special_call(cls, address: int, processor: int = 0) -> Self:
        return cls.request(Api.SET_SPECIAL_CALL, processor, address=address)

    @classmethod
    def clear_special_calls(cls, processor: int = 0) -> Self:
        return cls.request(Api.CLEAR_SPECIAL_CALLS, processor)


_BREAKPOINT_ENTRY: Final = struct.Struct("<QII")
_HANDLE_ENTRY: Final = struct.Struct("<I")
