"""A target as programs see it. How to use it: docs/python-api.md."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from twisted.internet.defer import Deferred

from kdsrv.client.conversation import Conversation
from kdsrv.client.events import Event, EventStream, Stop
from kdsrv.client.failures import MemoryUnwritable, RequestFailed
from kdsrv.client.memory import MemoryRead, MemoryWrite, Way
from kdsrv.client.registers import Context, Registers, SpecialRegisters
from kdsrv.client.running import Breakpoint, Runner
from kdsrv.kd.api import NO_REPLY
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.machine import Machine
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.kd.version import Version
from kdsrv.sessions.net_status import NetRebooted
from kdsrv.sessions.status import Interrupted, Lost, Rebooting, RunState, Status

__all__ = ["Target"]

T = TypeVar("T")

_NOT_FOUND: Final = (NtStatus.NO_MORE_ENTRIES, NtStatus.NOT_FOUND)


class Target:
    """One session. Made by ``open_session`` and its like.

    Every method that waits takes ``timeout`` in seconds (TookTooLong), and whatever waits ends with SessionEnded when
    the session does. Requests need a target that is halted (TargetRunning); one that the target refuses is a
    RequestFailed with the status, one that goes unanswered since the target was reset a RequestLost. ``processor`` is
    by default the one that stopped.

    ``continue_modules`` and ``continue_reboots``: what a target that stops for a module, or before it goes down, is
    to be continued at once; the events come all the same.
    """

    def __init__(
        self,
        conversation: Conversation,
        name: str,
        description: str,
        leave: Callable[[], Deferred[None]],
        *,
        continue_modules: bool = False,
        continue_reboots: bool = False,
    ) -> None:
        self.name = name
        self.description = description
        self.continue_modules = continue_modules
        self.continue_reboots = continue_reboots
        self._conversation = conversation
        self._leave = leave
        self._registers = Registers(conversation, self._machine)
        self._runner = Runner(conversation, self._registers, self._machine)
        self._version: Version | None = None
        conversation.see_stop = self._see_stop
        conversation.take_stop = self._take_stop
        conversation.see_status = self._see_status

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    def __repr__(self) -> str:
        return f"<target {self.name}: {self.status.sentence()}>"

    async def leave(self) -> None:
        """End the session. The target stays as it is: halted or running, with its breakpoints."""
        self._conversation.end(None)
        await self._leave()

    # What is known

    @property
    def status(self) -> Status:
        """What there is to say about the target and the line to it; ``sentence()`` is for people."""
        return self._conversation.status

    @property
    def run_state(self) -> RunState:
        return self._conversation.run_state

    @property
    def stop(self) -> Stop | None:
        """The stop that the target is in, if it is halted."""
        return self._conversation.stop

    @property
    def breakpoints(self) -> tuple[Breakpoint, ...]:
        """Those that were set in this session and not cleared."""
        return tuple(self._runner.breakpoints.values())

    def events(self, limit: int = 10_000) -> EventStream:
        """What happens from now on, as an async iterator."""
        return self._conversation.events(limit)

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``listener`` with what happens from now on, until the function returned is called."""
        return self._conversation.listen(listener)

    def answer_files(self, opener: Callable[[FileIo], FileIo | None]) -> None:
        """Let ``opener`` answer what a booting target asks of this machine's files; None is refused, as by default."""
        self._conversation.answer_file = opener

    def answer_prompts(self, answerer: Callable[[str], str | None]) -> None:
        """Let ``answerer`` answer the target's prompts; None leaves the answer to whoever gets the event."""
        self._conversation.answer_prompt = answerer

    # Stopping and going

    async def break_in(self, *, timeout: float | None = None) -> Stop:
        """Make the target halt; one that is halted stays where it is."""
        return await self._within(timeout, self._runner.break_in(), "breaking in")

    async def wait_for_stop(self, *, timeout: float | None = None) -> Stop:
        """The stop that the target is in, or the next one."""
        if self._conversation.stop is not None:
            return self._conversation.stop
        return await self._limit(timeout, self._conversation.next_stop(), "waiting for a stop")

    async def continue_(self, status: int = NtStatus.DBG_CONTINUE, *, timeout: float | None = None) -> None:
        """Let the target run. ``status`` DBG_EXCEPTION_NOT_HANDLED passes the exception on to it."""
        await self._within(timeout, self._runner.go(status), "continuing")

    async def run_until_stop(self, status: int = NtStatus.DBG_CONTINUE, *, timeout: float | None = None) -> Stop:
        """Let the target run until it stops again."""
        return await self._within(timeout, self._runner.run(status), "running until the next stop")

    async def step(self, *, timeout: float | None = None) -> Stop:
        """Run one instruction of the processor that stopped."""
        return await self._within(timeout, self._runner.run(trace=True), "a single step")

    async def switch_processor(self, processor: int, *, timeout: float | None = None) -> Stop:
        """Look at another processor: it becomes the one that stopped."""
        return await self._within(
            timeout, self._runner.switch_processor(processor), f"switching to processor {processor}"
        )

    async def set_breakpoint(self, address: int, *, timeout: float | None = None) -> Breakpoint:
        """Set a breakpoint, or give the one of this session that is there already."""
        return await self._within(timeout, self._runner.set_breakpoint(address), "setting a breakpoint")

    async def clear_all_breakpoints(self, *, timeout: float | None = None) -> int:
        """Take out all software breakpoints, also those of earlier sessions; how many there were."""
        return await self._within(timeout, self._runner.clear_all(), "clearing all breakpoints")

    # Memory

    async def read_virtual(self, address: int, length: int, *, timeout: float | None = None) -> bytes:
        """Read memory of any length as the current process of the halted processor sees it. MemoryUnreadable tells the
        first address that cannot be read, and what lies before it."""
        read = MemoryRead(self._way(), address, length)
        return await self._limit(timeout, read.start(), f"reading {length} bytes")

    async def read_physical(
        self, address: int, length: int, *, caching: int = 0, timeout: float | None = None
    ) -> bytes:
        """Likewise for physical memory. ``caching``: 0 default, 1 cached, 2 uncached, 3 write-combined."""
        read = MemoryRead(self._way(), address, length, physical=True, caching=caching)
        return await self._limit(timeout, read.start(), f"reading {length} bytes")

    async def write_virtual(self, address: int, data: bytes, *, timeout: float | None = None) -> None:
        """Write memory of any length. MemoryUnwritable tells the first address that cannot be written."""
        write = MemoryWrite(self._way(), address, data)
        await self._limit(timeout, write.start(), f"writing {len(data)} bytes")

    async def write_physical(
        self, address: int, data: bytes, *, caching: int = 0, timeout: float | None = None
    ) -> None:
        """Likewise for physical memory."""
        write = MemoryWrite(self._way(), address, data, physical=True, caching=caching)
        await self._limit(timeout, write.start(), f"writing {len(data)} bytes")

    async def search_memory(
        self, address: int, length: int, pattern: bytes, *, timeout: float | None = None
    ) -> int | None:
        """Where the target finds ``pattern`` first, None if nowhere."""
        request = Manipulate.search_memory(address, length, pattern)
        reply = await self.request(request, check=False, timeout=timeout)
        if reply.status in _NOT_FOUND:
            return None
        return _checked(reply)["address"]

    async def fill(
        self, address: int, length: int, pattern: bytes, *, physical: bool = False, timeout: float | None = None
    ) -> None:
        """Let the target fill memory with repetitions of ``pattern``."""
        request = Manipulate.fill_memory(address, length, pattern, physical)
        reply = await self.request(request, check=False, timeout=timeout)
        done = reply["length"]
        if not reply.succeeded and 0 < done < length:
            raise MemoryUnwritable("physical" if physical else "virtual", address + done, done)
        _checked(reply)

    # Processors

    async def version(self, *, timeout: float | None = None) -> Version:
        """What the target says of itself; asked for once in each boot."""
        if self._version is None:
            self._version = (await self.request(Manipulate.get_version(), timeout=timeout)).version
        return self._version

    async def context(self, processor: int | None = None, *, timeout: float | None = None) -> Context:
        """The registers of a processor, of the class that fits the machine; ``context["rip"]`` is one."""
        return await self._within(timeout, self._registers.context(self._number(processor)), "reading registers")

    async def set_context(
        self, context: Context, processor: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Write those registers that ``context["context_flags"]`` stands for."""
        number = self._number(processor)
        await self._within(timeout, self._registers.set_context(context, number), "writing registers")
        if number == self._number(None):
            self._runner.noted_context(context)

    async def special_registers(
        self, processor: int | None = None, *, timeout: float | None = None
    ) -> SpecialRegisters:
        """Control and debug registers, descriptor tables and the like."""
        reading = self._registers.special(self._number(processor))
        return await self._within(timeout, reading, "reading special registers")

    async def set_special_registers(
        self, registers: SpecialRegisters, processor: int | None = None, *, timeout: float | None = None
    ) -> None:
        number = self._number(processor)
        await self._within(timeout, self._registers.set_special(registers, number), "writing special registers")
        if number == self._number(None):
            self._runner.noted_special(registers)

    async def read_control_space(
        self, index: int, length: int, processor: int | None = None, *, timeout: float | None = None
    ) -> bytes:
        """``index`` means what the machine makes of it (KD protocol, 2.6); at most ``length`` bytes come."""
        request = Manipulate.read_control_space(index, length, self._number(processor))
        return (await self.request(request, timeout=timeout)).data

    async def write_control_space(
        self, index: int, data: bytes, processor: int | None = None, *, timeout: float | None = None
    ) -> None:
        await self.request(Manipulate.write_control_space(index, data, self._number(processor)), timeout=timeout)

    async def read_msr(self, register: int, processor: int | None = None, *, timeout: float | None = None) -> int:
        """The 64 bits of a model-specific register."""
        return (await self.request(Manipulate.read_msr(register, self._number(processor)), timeout=timeout)).msr_value

    async def write_msr(
        self, register: int, value: int, processor: int | None = None, *, timeout: float | None = None
    ) -> None:
        await self.request(Manipulate.write_msr(register, value, self._number(processor)), timeout=timeout)

    # The machine

    async def read_io(self, port: int, size: int, *, timeout: float | None = None) -> int:
        """``size`` is 1, 2 or 4 bytes."""
        return (await self.request(Manipulate.read_io(port, size), timeout=timeout))["value"]

    async def write_io(self, port: int, size: int, value: int, *, timeout: float | None = None) -> None:
        await self.request(Manipulate.write_io(port, size, value), timeout=timeout)

    async def get_bus_data(
        self, bus_data_type: int, bus: int, slot: int, offset: int, length: int, *, timeout: float | None = None
    ) -> bytes:
        """At most ``length`` bytes of a device's configuration; type 4 is PCI."""
        request = Manipulate.get_bus_data(bus_data_type, bus, slot, offset, length)
        return (await self.request(request, timeout=timeout)).data

    async def set_bus_data(
        self, bus_data_type: int, bus: int, slot: int, offset: int, data: bytes, *, timeout: float | None = None
    ) -> None:
        await self.request(Manipulate.set_bus_data(bus_data_type, bus, slot, offset, data), timeout=timeout)

    def reboot(self) -> None:
        """Restart the halted machine; it says nothing before."""
        self._forget_boot()
        self._conversation.send(Manipulate.reboot())

    def crash(self, code: int = 0xE2) -> None:
        """Make the halted machine stop for good with this bugcheck."""
        self._conversation.send(Manipulate.cause_bug_check(code))

    # Anything else

    async def request(self, request: Manipulate, *, check: bool = True, timeout: float | None = None) -> Manipulate:
        """Send any request and get its reply. With ``check=False`` a refusal is a reply like any other."""
        if request.api in NO_REPLY:
            raise ValueError(f"{request.name} gets no reply: use send")
        return await self._limit(timeout, self._conversation.ask(request, check=check), request.name)

    def send(self, request: Manipulate) -> None:
        """Send a request that gets no reply: Continue and the like."""
        if request.api not in NO_REPLY:
            raise ValueError(f"{request.name} gets a reply: use request")
        self._conversation.send(request)

    # Inside

    def _way(self) -> Way:
        conversation = self._conversation
        conversation.require_halted()
        return Way(conversation.requests, conversation.pace, conversation.clock.seconds)

    def _number(self, processor: int | None) -> int:
        return self._conversation.require_halted().processor if processor is None else processor

    async def _machine(self) -> Machine | None:
        return (await self.version()).machine

    def _see_stop(self, stop: Stop) -> None:
        self._runner.stopped(stop)
        if stop.is_reboot:
            self._forget_boot()

    def _take_stop(self, stop: Stop) -> bool:
        if self._runner.is_breaking_in or not (
            (self.continue_modules and stop.is_module) or (self.continue_reboots and stop.is_reboot)
        ):
            return False
        self._conversation.emit_stop(stop)
        if self._conversation.stop is stop:
            self._runner.go_at_once()
        return True

    def _see_status(self, status: Status) -> None:
        if isinstance(status, Rebooting | Interrupted | Lost | NetRebooted):
            self._forget_boot()

    def _forget_boot(self) -> None:
        self._version = None
        self._runner.forget()

    async def _within(self, timeout: float | None, work: Coroutine[Any, Any, T], what: str) -> T:
        """``work`` within its time."""
        return await (work if timeout is None else self._limit(timeout, Deferred.fromCoroutine(work), what))

    async def _limit(self, timeout: float | None, waiting: Deferred[T], what: str) -> T:
        return await self._conversation.limit(waiting, timeout, what)


def _checked(reply: Manipulate) -> Manipulate:
    if not reply.succeeded:
        raise RequestFailed(reply.name, reply.status)
    return reply
