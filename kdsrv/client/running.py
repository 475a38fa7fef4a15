"""Letting a halted target go, and what stops it again: breakpoints, steps, break-ins.

Three things a debugger has to know about a kernel that stops (KD protocol, 2.1 and 2.5): it takes out the breakpoints
that lie in the 16 bytes from the program counter on, so they are put in again before it goes; it does not move the
program counter over a breakpoint instruction that is part of its code, so that is done here; and an instruction whose
own breakpoint is to be put in again has to be stepped over first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from twisted.internet.defer import gatherResults

from kdsrv.client.conversation import Conversation
from kdsrv.client.events import Stop
from kdsrv.client.failures import TookTooLong
from kdsrv.client.registers import FORMS, Context, Registers, SpecialRegisters
from kdsrv.errors import SetupError
from kdsrv.kd.machine import Machine, sign_extend
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.state_change import ControlReport
from kdsrv.kd.statuses import Status, is_success
from kdsrv.sessions.status import HaltReason, RunState

__all__ = ["Breakpoint", "Runner"]

_STREAM: Final = 16
_INT3: Final = b"\xcc"
_PLAIN_DR7: Final = 0x400
_HANDLES: Final = range(1, 33)
_SETTLING: Final = 1.0
"""Seconds in which a target that was halted before we came has said so."""


class Breakpoint:
    """A breakpoint of this session. ``is_set`` until it is cleared, refused by the target, or gone with a reboot."""

    def __init__(self, runner: Runner, address: int, handle: int) -> None:
        self.address = address
        self.handle: int | None = handle
        self.is_set = True
        self._runner = runner

    def __repr__(self) -> str:
        return f"<breakpoint at {self.address:#x}{'' if self.is_set else ', not set'}>"

    async def clear(self) -> None:
        """Take it out, if it is in."""
        await self._runner.clear_breakpoint(self)


class Runner:
    """Steps and continues. ``machine`` tells what the target is."""

    def __init__(
        self, conversation: Conversation, registers: Registers, machine: Callable[[], Awaitable[Machine | None]]
    ) -> None:
        self.breakpoints: dict[int, Breakpoint] = {}
        self._conversation = conversation
        self._registers = registers
        self._machine = machine
        self._known_machine: Machine | None = None
        self._pc: int | None = None
        self._dr7: int | None = None
        self._breaking_in = 0
        self._settled_at = conversation.clock.seconds() + _SETTLING

    # Breakpoints

    async def set_breakpoint(self, address: int) -> Breakpoint:
        """Set one, or give the one that is there. RequestFailed if the target cannot."""
        address = await self._normal(address)
        known = self.breakpoints.get(address)
        if known is not None:
            return known
        reply = await self._conversation.ask(Manipulate.write_breakpoint(address))
        found = self.breakpoints[address] = Breakpoint(self, address, reply["handle"])
        return found

    async def clear_breakpoint(self, breakpoint_: Breakpoint) -> None:
        if not breakpoint_.is_set:
            return
        if breakpoint_.handle is not None:
            await self._conversation.ask(Manipulate.restore_breakpoint(breakpoint_.handle))
        self._drop(breakpoint_)

    async def clear_all(self) -> int:
        """Take out all that the kernel has, whoever set them; how many there were."""
        for breakpoint_ in tuple(self.breakpoints.values()):
            await self.clear_breakpoint(breakpoint_)
        asked = [self._conversation.ask(Manipulate.restore_breakpoint(handle), check=False) for handle in _HANDLES]
        return sum(reply.succeeded for reply in await gatherResults(asked, consumeErrors=True))

    def forget(self) -> None:
        """The system that had the breakpoints is no more."""
        for breakpoint_ in tuple(self.breakpoints.values()):
            self._drop(breakpoint_)
        self._known_machine = None

    def _drop(self, breakpoint_: Breakpoint) -> None:
        breakpoint_.is_set = False
        breakpoint_.handle = None
        self.breakpoints.pop(breakpoint_.address, None)

    async def _normal(self, address: int) -> int:
        self._known_machine = await self._machine()
        return sign_extend(address) if self._known_machine is Machine.X86 else address

    # What is known of the stop

    def stopped(self, stop: Stop) -> None:
        """A new stop: some breakpoints are out now, and registers are as the target says."""
        self._pc = stop.program_counter
        self._dr7 = None
        for breakpoint_ in self.breakpoints.values():
            if 0 <= breakpoint_.address - self._pc < self._seen_bytes(stop):
                breakpoint_.handle = None

    def noted_context(self, context: Context) -> None:
        """The current processor was given these registers."""
        form = FORMS[Machine.AMD64 if context.SIZE == FORMS[Machine.AMD64].context.SIZE else Machine.X86]
        flags = context["context_flags"]
        if flags & form.control_flags == form.control_flags:
            self._pc = context[form.pc] if form.pc == "rip" else sign_extend(context[form.pc])
        if flags & form.debug_flags == form.debug_flags:
            self._dr7 = context["dr7"]

    def noted_special(self, registers: SpecialRegisters) -> None:
        """The current processor was given these special registers."""
        self._dr7 = registers["dr7"]

    def _report(self, stop: Stop) -> ControlReport | None:
        if stop.change is None or self._known_machine not in FORMS:
            return None
        return FORMS[self._known_machine].report(stop.change.report)

    def _seen_bytes(self, stop: Stop) -> int:
        report = self._report(stop)
        return _STREAM if report is None else min(_STREAM, report["instruction_count"])

    # Stopping

    @property
    def is_breaking_in(self) -> bool:
        return self._breaking_in > 0

    async def break_in(self) -> Stop:
        """Make the target halt. One that was halted before we came is given the time to say so, for a break-in that it
        does not need it keeps for when it runs."""
        conversation = self._conversation
        self._breaking_in += 1
        try:
            left = self._settled_at - conversation.clock.seconds()
            if conversation.run_state is RunState.UNKNOWN and left > 0:
                with suppress(TookTooLong):
                    return await conversation.limit(conversation.next_stop(), left, "what it has to say")
            if conversation.stop is not None:
                return conversation.stop
            stopping = conversation.next_stop()
            conversation.break_in()
            return await stopping
        finally:
            self._breaking_in -= 1

    async def switch_processor(self, processor: int) -> Stop:
        """Look at another one. ValueError if there is no such one."""
        change = self._conversation.require_halted().change
        if processor < 0 or (change is not None and processor >= change["processors"]):
            raise ValueError(f"the target has no processor {processor}")
        self._conversation.send(Manipulate.switch_processor(processor))
        return await self._conversation.next_stop()

    # Going

    async def run(self, status: int = Status.DBG_CONTINUE, *, trace: bool = False) -> Stop:
        """Let the target go until it stops, or for one instruction."""
        return await self.go(status, trace=trace) or await self._conversation.next_stop()

    async def go(self, status: int = Status.DBG_CONTINUE, *, trace: bool = False) -> Stop | None:
        """Let the target go, for one instruction if ``trace``. If it stops again on the way, that stop is returned."""
        stop = self._conversation.require_halted()
        self._known_machine = await self._machine()
        if is_success(status):
            await self._pass_own_int3(stop)
            if not trace and self._is_lifted(self._pc):
                stepped = self._conversation.private_stop()
                self._conversation.send(self._continue2(stop, Status.DBG_CONTINUE, trace=True))
                stop = await stepped
                if stop.reason is not HaltReason.SINGLE_STEP:
                    self._conversation.tell(stop)
                    return stop
        if not trace:
            await self._put_in_again()
        self._conversation.send(self._continue2(stop, status, trace=trace))
        return None

    def go_at_once(self) -> None:
        """Leave a stop in which nobody changed anything."""
        for breakpoint_ in self._lifted():
            request = Manipulate.write_breakpoint(breakpoint_.address)
            asked = self._conversation.ask(request, check=False)
            asked.addCallbacks(partial(self._is_in, breakpoint_), lambda _: None)
        self._conversation.send(Manipulate.continue_())

    def _continue2(self, stop: Stop, status: int, *, trace: bool) -> Manipulate:
        report = self._report(stop)
        if report is None or self._known_machine is None:
            if trace:
                raise SetupError(why="single steps on this kind of machine are not supported by this version of kdsrv")
            return Manipulate.continue_(status, stop.processor)
        dr7 = self._dr7
        if dr7 is None:
            dr7 = report["dr7"] or _PLAIN_DR7
        return Manipulate.continue2(status, trace, dr7, machine=self._known_machine, processor=stop.processor)

    async def _pass_own_int3(self, stop: Stop) -> None:
        """Move over a breakpoint instruction of the target's own, unless somebody has moved already."""
        report = self._report(stop)
        if report is None or stop.reason is not HaltReason.BREAKPOINT or report.instructions[:1] != _INT3:
            return
        if self._pc != stop.program_counter:
            return
        form = await self._registers.form()
        context = await self._registers.context(stop.processor)
        moved = context.replace(context_flags=form.control_flags, **{form.pc: context[form.pc] + len(_INT3)})
        await self._registers.set_context(moved, stop.processor)
        self.noted_context(moved)

    def _lifted(self) -> list[Breakpoint]:
        return [breakpoint_ for breakpoint_ in self.breakpoints.values() if breakpoint_.handle is None]

    def _is_lifted(self, address: int | None) -> bool:
        return any(breakpoint_.address == address for breakpoint_ in self._lifted())

    async def _put_in_again(self) -> None:
        lifted = self._lifted()
        asked = [
            self._conversation.ask(Manipulate.write_breakpoint(breakpoint_.address), check=False)
            for breakpoint_ in lifted
        ]
        for breakpoint_, reply in zip(lifted, await gatherResults(asked, consumeErrors=True), strict=True):
            self._is_in(breakpoint_, reply)

    def _is_in(self, breakpoint_: Breakpoint, reply: Manipulate) -> None:
        if reply.succeeded:
            breakpoint_.handle = reply["handle"]
        else:
            self._drop(breakpoint_)
