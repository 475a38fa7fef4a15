"""Registers of the processors of a halted target, in the form that its machine has them (KD protocol, 2.5 and 2.6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeAlias

from kdsrv.client.conversation import Conversation
from kdsrv.errors import SetupError
from kdsrv.kd import amd64, x86
from kdsrv.kd.machine import Machine
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.state_change import ControlReport

__all__ = ["FORMS", "Context", "RegisterForm", "Registers", "SpecialRegisters"]

Context: TypeAlias = amd64.Context | x86.Context
SpecialRegisters: TypeAlias = amd64.SpecialRegisters | x86.SpecialRegisters


class RegisterForm(NamedTuple):
    """The registers of one kind of machine. ``special_at`` is where the control space has the special ones."""

    context: type[Context]
    special: type[SpecialRegisters]
    report: type[ControlReport]
    special_at: int
    pc: str
    control_flags: int
    debug_flags: int


FORMS: Final = {
    Machine.AMD64: RegisterForm(
        amd64.Context,
        amd64.SpecialRegisters,
        amd64.ControlReport,
        2,
        "rip",
        amd64.CONTEXT_CONTROL,
        amd64.CONTEXT_DEBUG_REGISTERS,
    ),
    Machine.X86: RegisterForm(
        x86.Context,
        x86.SpecialRegisters,
        x86.ControlReport,
        x86.SPECIAL_REGISTERS_AT,
        "eip",
        x86.CONTEXT_CONTROL,
        x86.CONTEXT_DEBUG_REGISTERS,
    ),
}


class Registers:
    """Reads and writes them. GetContextEx is tried first, as WinDbg does, and GetContext used where that fails."""

    def __init__(self, conversation: Conversation, machine: Callable[[], Awaitable[Machine | None]]) -> None:
        self._conversation = conversation
        self._machine = machine
        self._has_context_ex = True

    async def form(self) -> RegisterForm:
        """SetupError for a machine whose registers are not known here."""
        machine = await self._machine()
        if machine not in FORMS:
            name = "unknown" if machine is None else machine.name
            raise SetupError(why=f"the registers of {name} machines are not supported by this version of kdsrv")
        return FORMS[machine]

    async def context(self, processor: int) -> Context:
        form = await self.form()
        ask = self._conversation.ask
        if self._has_context_ex:
            reply = await ask(Manipulate.get_context_ex(0, form.context.SIZE, processor), check=False)
            if reply.succeeded and len(reply.data) >= form.context.SIZE:
                return form.context.from_bytes(reply.data)
            self._has_context_ex = False
        reply = await ask(Manipulate.get_context(processor))
        return form.context.from_bytes(reply.data)

    async def set_context(self, context: Context, processor: int) -> None:
        """A target takes a context only after it was asked for one in the same stop, so that is done first."""
        form = await self.form()
        _check(context, form.context)
        ask = self._conversation.ask
        ask(Manipulate.get_context(processor), check=False).addErrback(lambda _: None)
        if self._has_context_ex:
            size = len(context.raw)
            reply = await ask(Manipulate.set_context_ex(0, context.raw, size, processor), check=False)
            if reply.succeeded:
                return
            self._has_context_ex = False
        await ask(Manipulate.set_context(context, processor))

    async def special(self, processor: int) -> SpecialRegisters:
        form = await self.form()
        request = Manipulate.read_control_space(form.special_at, form.special.SIZE, processor)
        reply = await self._conversation.ask(request)
        return form.special.from_bytes(reply.data)

    async def set_special(self, registers: SpecialRegisters, processor: int) -> None:
        form = await self.form()
        _check(registers, form.special)
        await self._conversation.ask(Manipulate.write_control_space(form.special_at, registers, processor))


def _check(registers: Context | SpecialRegisters, form: type[Context] | type[SpecialRegisters]) -> None:
    if not isinstance(registers, form):
        raise TypeError(f"the target's registers are a {form.NAME}, not a {registers.NAME}")
