"""What becomes of a target when its session ends.

A target that is to go on is first freed of the breakpoints that its user has set, for each of them would halt it with
nobody there. Where it stands at an int3 of its own, as after a break-in, it is put behind that, else it would halt
there again at once. It is continued with its hardware breakpoints off, if its machine is one whose registers are known
here; an exception that is no breakpoint or step is passed on to its system, as without a debugger.

Only a halted target can be changed: one that runs is left running, with its breakpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from enum import StrEnum
from typing import Final, TypeAlias

from kdsrv.errors import KdsrvError
from kdsrv.kd import amd64, x86
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.machine import Machine, to_32_bit
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import MANIPULATE, Packet, PacketType
from kdsrv.kd.state_change import EXCEPTION, StateChange
from kdsrv.kd.statuses import Status as NtStatus
from kdsrv.sessions.status import Status

__all__ = ["Departure", "OnLeave"]

_Steps: TypeAlias = Generator[Manipulate, Manipulate, None]

_INT3: Final = b"\xcc"
_HANDLED: Final = frozenset({NtStatus.BREAKPOINT, NtStatus.SINGLE_STEP, NtStatus.WAKE_DEBUGGER})


class OnLeave(StrEnum):
    """STAY: the target stays as it is, halted or running, with its breakpoints. CONTINUE: breakpoints that its user has
    set are removed, as far as the target lets them, and it runs."""

    STAY = "stay"
    CONTINUE = "continue"


class Departure:
    """The last user of a session: it makes the target run, one request after the other, and is ``done`` then.

    ``ask`` puts a request to the target. ``handles`` are the breakpoints. ``last`` is how the user before had the
    target go on, a Continue or a Reboot, if it has not been sent yet; then nothing but the breakpoints is changed.
    """

    def __init__(self, ask: Callable[[bytes], None], handles: Iterable[int], last: bytes) -> None:
        self.done = False
        self._ask = ask
        self._handles = tuple(handles)
        self._last = last
        self._steps: _Steps | None = None

    def packet_received(self, packet: Packet) -> None:
        """The stop at which the target stands, or a reply."""
        if packet.type == MANIPULATE and self._steps is not None:
            self._go_on(self._steps, Manipulate.decode(packet.payload.ljust(Manipulate.SIZE, b"\0")))
        elif packet.type in (PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32) and self._steps is None:
            self._steps = self._leave(_read_stop(packet))
            self._go_on(self._steps, None)

    def resynced(self) -> None:
        """Nobody asks for that."""

    def requests_lost(self, count: int) -> None:
        """The target does not listen: let it be."""
        self.done = True

    def status_changed(self, status: Status) -> None:
        """Nobody is there to read it."""

    def session_lost(self, reason: KdsrvError) -> None:
        """So be it."""

    def _go_on(self, steps: _Steps, reply: Manipulate | None) -> None:
        try:
            request = next(steps) if reply is None else steps.send(reply)
        except StopIteration:
            self.done = True
            self._ask(self._last)
        else:
            self._ask(request.encode())

    def _leave(self, stop: StateChange | None) -> _Steps:
        """All requests but the last."""
        processor = 0 if stop is None else stop.processor
        for handle in self._handles:
            yield Manipulate.restore_breakpoint(handle, processor)
        if self._last:
            return
        reply = yield Manipulate.get_context(processor)
        status = NtStatus.DBG_CONTINUE if stop is None else _continue_status(stop)
        machine = _MACHINES.get(len(reply.data))
        if not reply.succeeded or machine is None:
            self._last = Manipulate.continue_(status, processor).encode()
            return
        if stop is not None and _is_breakpoint(stop):
            yield from _step_over(machine, reply.data, stop)
        self._last = Manipulate.continue2(status, machine=machine, processor=processor).encode()


_MACHINES: Final = {amd64.Context.SIZE: Machine.AMD64, x86.Context.SIZE: Machine.X86}


def _step_over(machine: Machine, raw: bytes, stop: StateChange) -> _Steps:
    """Put the target behind the int3 that it stands at, if it does."""
    context: amd64.Context | x86.Context
    if machine is Machine.AMD64:
        context, counter, here = amd64.Context(raw), "rip", stop.program_counter
    else:
        context, counter, here = x86.Context(raw), "eip", to_32_bit(stop.program_counter)
    if context[counter] == here:
        reply = yield Manipulate.read_virtual(stop.program_counter, 1, stop.processor)
        if reply.succeeded and reply.data == _INT3:
            behind = context.replace(**{counter: here + 1})
            yield Manipulate.set_context(behind, stop.processor)


def _read_stop(packet: Packet) -> StateChange | None:
    """None for one that cannot be read."""
    try:
        return StateChange.decode(packet.payload) if packet.type == PacketType.STATE_CHANGE64 else None
    except PayloadError:
        return None


def _is_breakpoint(stop: StateChange) -> bool:
    return stop.kind == EXCEPTION and stop["exception_code"] == NtStatus.BREAKPOINT


def _continue_status(stop: StateChange) -> int:
    if stop.kind != EXCEPTION or stop["exception_code"] in _HANDLED:
        return NtStatus.DBG_CONTINUE
    return NtStatus.DBG_EXCEPTION_NOT_HANDLED
