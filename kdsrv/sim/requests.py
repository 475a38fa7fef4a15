"""What a stopped target answers: each STATE_MANIPULATE request that has a reply (KD protocol, 2.3 to 2.6).

A reply is the request's own 56 bytes with status and results changed. A request with a number that is not in the table,
or with impossible arguments, fails as a kernel fails it; nothing here raises for what a debugger may send.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import error as struct_error
from typing import Final, TypeAlias

from kdsrv.kd.amd64 import Context
from kdsrv.kd.api import Api
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import MAX_PAYLOAD
from kdsrv.kd.statuses import Status
from kdsrv.sim.machine import SimulatedMachine
from kdsrv.sim.memory import PAGE_SIZE, AddressSpace
from kdsrv.sim.options import SimOptions
from kdsrv.sim.processor import Processor

__all__ = ["RequestHandler"]

_FAILED: Final = Status.UNSUCCESSFUL
_MAX_SEARCH: Final = 16 << 20
_MAX_FILL: Final = 1 << 20
_IO_SIZES: Final = (1, 2, 4)
_USER_END: Final = 1 << 47

_Handler: TypeAlias = Callable[["RequestHandler", Manipulate], Manipulate]


class RequestHandler:
    """Answers for one machine: memory, and a context in slices, in replies of at most ``max_reply`` bytes.

    `begin_stop` is to be called at each stop: some rules start afresh there.
    """

    def __init__(self, machine: SimulatedMachine, options: SimOptions, max_reply: int = MAX_PAYLOAD) -> None:
        self._machine = machine
        self._options = options
        self._room = max_reply - Manipulate.SIZE
        self._read_cap = min(options.read_cap, self._room)
        self._context_was_read = False
        self._new_context: dict[int, bytearray] = {}
        self._ports: dict[int, int] = {}

    def begin_stop(self) -> None:
        """A context may be set only after one was read in the same stop."""
        self._context_was_read = False
        self._new_context.clear()

    def handle(self, request: Manipulate) -> Manipulate:
        """The reply to any request, also an unknown one."""
        handler = _HANDLERS.get(request.kind)
        if handler is None:
            return request.reply_unknown()
        try:
            return handler(self, request)
        except (PayloadError, struct_error):
            return request.reply(_FAILED)

    @property
    def _memory(self) -> AddressSpace:
        """Virtual addresses mean what they mean to the processor that stopped."""
        return self._machine.current.memory

    def _processor(self, request: Manipulate) -> Processor | None:
        number = request.processor
        return self._machine.processors[number] if number < len(self._machine.processors) else None

    def _read_done(self, request: Manipulate, wanted: int, data: bytes) -> Manipulate:
        status = Status.SUCCESS if len(data) == wanted else _FAILED
        return request.reply(status, data, actual=len(data))

    def _write_done(self, request: Manipulate, written: int) -> Manipulate:
        self._machine.patched = True
        return request.reply(Status.SUCCESS if written == len(request.data) else _FAILED, actual=written)

    def _read_virtual(self, request: Manipulate) -> Manipulate:
        wanted = min(request["transfer_count"], self._read_cap)
        return self._read_done(request, wanted, self._memory.read_virtual(request["address"], wanted))

    def _write_virtual(self, request: Manipulate) -> Manipulate:
        return self._write_done(request, self._memory.write_virtual(request["address"], request.data))

    def _read_physical(self, request: Manipulate) -> Manipulate:
        wanted = min(request["transfer_count"], self._read_cap)
        return self._read_done(request, wanted, self._machine.kernel.physical.read(request["address"], wanted))

    def _write_physical(self, request: Manipulate) -> Manipulate:
        return self._write_done(request, self._machine.kernel.physical.write(request["address"], request.data))

    def _read_control_space(self, request: Manipulate) -> Manipulate:
        processor, kernel = self._processor(request), self._machine.kernel
        if processor is None:
            return request.reply(_FAILED, actual=0)
        match request["address"]:
            case 0:
                data = kernel.pcrs[processor.index].to_bytes(8, "little")
            case 1:
                data = kernel.prcb(processor.index).to_bytes(8, "little")
            case 2:
                data = processor.read_special()
            case 3:
                data = kernel.current_thread(processor.index).to_bytes(8, "little")
            case _:
                return request.reply(_FAILED, actual=0)
        data = data[: request["transfer_count"]]
        return request.reply(Status.SUCCESS, data, actual=len(data))

    def _write_control_space(self, request: Manipulate) -> Manipulate:
        processor = self._processor(request)
        if processor is None or request["address"] != 2:
            return request.reply(_FAILED, actual=0)
        processor.write_special(request.data)
        self._machine.save_processors()
        return request.reply(actual=len(request.data))

    def _get_context(self, request: Manipulate) -> Manipulate:
        processor = self._processor(request)
        if processor is None:
            return request.reply(_FAILED)
        self._context_was_read = True
        return request.reply(Status.SUCCESS, processor.read_context())

    def _set_context(self, request: Manipulate) -> Manipulate:
        processor = self._processor(request)
        if processor is None or not self._context_was_read:
            return request.reply(_FAILED)
        processor.write_context(request.data[: Context.SIZE])
        self._machine.save_processors()
        return request.reply()

    def _get_context_ex(self, request: Manipulate) -> Manipulate:
        processor = self._processor(request)
        start, count = request["offset"], request["byte_count"]
        if not self._options.context_ex or processor is None or start + count > Context.SIZE:
            return request.reply(_FAILED, bytes_copied=0)
        count = min(count, self._room)
        self._context_was_read = True
        return request.reply(Status.SUCCESS, processor.read_context()[start : start + count], bytes_copied=count)

    def _set_context_ex(self, request: Manipulate) -> Manipulate:
        """Slices are collected; the one that ends where the context ends puts them all into force."""
        processor = self._processor(request)
        start, count, total = request["offset"], request["byte_count"], request["bytes_copied"]
        usable = self._options.context_ex and self._context_was_read and count == len(request.data)
        if not usable or processor is None or start + count > total or total > Context.SIZE:
            return request.reply(_FAILED, bytes_copied=0)
        collected = self._new_context.setdefault(processor.index, bytearray(processor.read_context()))
        collected[start : start + count] = request.data
        if start + count == total:
            processor.write_context(bytes(self._new_context.pop(processor.index)))
            self._machine.save_processors()
        return request.reply(bytes_copied=count)

    def _write_breakpoint(self, request: Manipulate) -> Manipulate:
        handle = self._machine.breakpoints.write(self._memory, request["address"])
        return request.reply(Status.SUCCESS if handle else _FAILED, handle=handle)

    def _restore_breakpoint(self, request: Manipulate) -> Manipulate:
        restored = self._machine.breakpoints.restore(request["handle"])
        return request.reply(Status.SUCCESS if restored else _FAILED)

    def _write_breakpoints(self, request: Manipulate) -> Manipulate:
        """Where a breakpoint cannot be set its handle stays 0; entries that had a handle are replaced."""
        done = []
        status = Status.SUCCESS
        for address, old in request.breakpoints():
            self._machine.breakpoints.restore(old)
            handle = self._machine.breakpoints.write(self._memory, address)
            status = status if handle else _FAILED
            done.append((address, handle))
        answer = Manipulate.write_breakpoints([address for address, _ in done])
        data = b"".join(
            answer.data[16 * index : 16 * index + 8] + handle.to_bytes(8, "little")
            for index, (_, handle) in enumerate(done)
        )
        return request.reply(status, data)

    def _restore_breakpoints(self, request: Manipulate) -> Manipulate:
        restored = [self._machine.breakpoints.restore(handle) for handle in request.handles()]
        return request.reply(Status.SUCCESS if all(restored) else _FAILED)

    def _get_version(self, request: Manipulate) -> Manipulate:
        return Manipulate(request.reply().fixed[:0x10] + self._machine.version.raw)

    def _read_msr(self, request: Manipulate) -> Manipulate:
        processor = self._processor(request)
        value = None if processor is None else processor.read_msr(request["msr"])
        if value is None:
            return request.reply(Status.NO_SUCH_DEVICE)
        return request.reply(low=value & 0xFFFFFFFF, high=value >> 32)

    def _write_msr(self, request: Manipulate) -> Manipulate:
        processor = self._processor(request)
        done = processor is not None and processor.write_msr(request["msr"], request.msr_value)
        return request.reply(Status.SUCCESS if done else Status.NO_SUCH_DEVICE)

    def _io_status(self, request: Manipulate) -> Status:
        size = request["size"]
        if size not in _IO_SIZES:
            return Status.INVALID_PARAMETER
        return Status.MISALIGNED if request["address"] % size else Status.SUCCESS

    def _read_io(self, request: Manipulate) -> Manipulate:
        """A port that was never written reads as all ones, like one with no device."""
        status = self._io_status(request)
        if status:
            return request.reply(status)
        return request.reply(value=self._ports.get(request["address"] & 0xFFFF, (1 << 8 * request["size"]) - 1))

    def _write_io(self, request: Manipulate) -> Manipulate:
        status = self._io_status(request)
        if not status:
            self._ports[request["address"] & 0xFFFF] = request["value"] & ((1 << 8 * request["size"]) - 1)
        return request.reply(status)

    def _search_memory(self, request: Manipulate) -> Manipulate:
        """Page by page, over the edges of pages too; pages that are not mapped are passed over."""
        start, pattern = request["address"], request.data[: request["pattern_length"]]
        end = start + min(request["length"], _MAX_SEARCH)
        if not pattern:
            return request.reply(Status.INVALID_PARAMETER)
        memory, at = self._memory, start
        while at < end:
            page_end = min((at | PAGE_SIZE - 1) + 1, end)
            found = memory.read_virtual(at, min(page_end + len(pattern) - 1, end) - at).find(pattern)
            if found >= 0:
                return request.reply(address=at + found)
            at = page_end
        return request.reply(Status.NO_MORE_ENTRIES)

    def _fill_memory(self, request: Manipulate) -> Manipulate:
        pattern, length = request.data[: request["pattern_length"]], min(request["length"], _MAX_FILL)
        if not pattern or request["flags"] & 3 not in (1, 2):
            return request.reply(Status.INVALID_PARAMETER, length=0)
        filling = (pattern * (length // len(pattern) + 1))[:length]
        if request["flags"] & 1:
            done = self._memory.write_virtual(request["address"], filling)
        else:
            done = self._machine.kernel.physical.write(request["address"], filling)
        self._machine.patched = True
        return request.reply(Status.SUCCESS if done == request["length"] else _FAILED, length=done)

    def _query_memory(self, request: Manipulate) -> Manipulate:
        if request["address_space"]:
            return request.reply(Status.INVALID_PARAMETER)
        entry = self._memory.walk(request["address"])
        if entry is None:
            return request.reply(_FAILED)
        readable_and_executable = 1 | 4
        return request.reply(
            address_space=0 if request["address"] < _USER_END else 2, flags=readable_and_executable | entry & 2
        )

    def _no_special_calls(self, request: Manipulate) -> Manipulate:
        return request.reply(count=0)

    def _all_is_well(self, request: Manipulate) -> Manipulate:
        return request.reply()


_HANDLERS: Final[dict[int, _Handler]] = {
    Api.READ_VIRTUAL_MEMORY: RequestHandler._read_virtual,
    Api.WRITE_VIRTUAL_MEMORY: RequestHandler._write_virtual,
    Api.GET_CONTEXT: RequestHandler._get_context,
    Api.SET_CONTEXT: RequestHandler._set_context,
    Api.WRITE_BREAKPOINT: RequestHandler._write_breakpoint,
    Api.RESTORE_BREAKPOINT: RequestHandler._restore_breakpoint,
    Api.READ_CONTROL_SPACE: RequestHandler._read_control_space,
    Api.WRITE_CONTROL_SPACE: RequestHandler._write_control_space,
    Api.READ_IO_SPACE: RequestHandler._read_io,
    Api.WRITE_IO_SPACE: RequestHandler._write_io,
    Api.READ_PHYSICAL_MEMORY: RequestHandler._read_physical,
    Api.WRITE_PHYSICAL_MEMORY: RequestHandler._write_physical,
    Api.QUERY_SPECIAL_CALLS: RequestHandler._no_special_calls,
    Api.READ_IO_SPACE_EXTENDED: RequestHandler._read_io,
    Api.WRITE_IO_SPACE_EXTENDED: RequestHandler._write_io,
    Api.GET_VERSION: RequestHandler._get_version,
    Api.WRITE_BREAKPOINT_EX: RequestHandler._write_breakpoints,
    Api.RESTORE_BREAKPOINT_EX: RequestHandler._restore_breakpoints,
    Api.READ_MACHINE_SPECIFIC_REGISTER: RequestHandler._read_msr,
    Api.WRITE_MACHINE_SPECIFIC_REGISTER: RequestHandler._write_msr,
    Api.SEARCH_MEMORY: RequestHandler._search_memory,
    Api.CHECK_LOW_MEMORY: RequestHandler._all_is_well,
    Api.FILL_MEMORY: RequestHandler._fill_memory,
    Api.QUERY_MEMORY: RequestHandler._query_memory,
    Api.GET_CONTEXT_EX: RequestHandler._get_context_ex,
    Api.SET_CONTEXT_EX: RequestHandler._set_context_ex,
}
