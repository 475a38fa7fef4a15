"""The simulated target: a machine at the end of a KD link, with the main loop of a kernel debugger (KD protocol, 1.8).

A target is in one of four states:

    RUNNING     the program runs in slices, but only while something is armed that could stop it; what the machine has
                to tell (its agenda: prints, modules that come and go, stops, prompts) goes out one by one, each after
                the last was acknowledged, as a kernel stands still in each;
    STOPPED     a state change was sent, requests are answered until a Continue comes;
    ASKING      a prompt or a file request was sent, and only its answer is wanted;
    OFF         the machine reboots and hears nothing.

The target owns no line and no clock: it has the face of a link (receive, expire, deadline, take_output).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Final

from kdsrv.kd.api import Api
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.link import Acknowledged, BreakIn, Event, GaveUp, ResendAsked, ResetSeen, TargetRole
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.kd.statuses import Status, is_success
from kdsrv.kd.target_link import TargetLink
from kdsrv.sim.kernel import LoadedModule
from kdsrv.sim.machine import SimulatedMachine
from kdsrv.sim.memory import AddressSpace
from kdsrv.sim.options import SimOptions
from kdsrv.sim.processor import Trap
from kdsrv.sim.reports import exception_report, module_report, reboot_report
from kdsrv.sim.requests import RequestHandler

__all__ = ["SimulatedTarget", "TargetState"]

_SLICE_TIME: Final = 0.02
_SLICE_STEPS: Final = 64
_IDLE_STEPS: Final = 16
_MAX_AGENDA: Final = 10_000
_MAX_LOG: Final = 1_000
_PRINT_HEADER: Final = 16
_UNHANDLED_EXCEPTION: Final = 0x1E
_MANUAL_CRASH: Final = 0xE2


class TargetState(Enum):
    RUNNING = auto()
    STOPPED = auto()
    ASKING = auto()
    OFF = auto()


class SimulatedTarget:
    """Made at ``now``, at the end of ``link``; without one on a serial line, as ``options`` describe it.

    ``log`` holds the latest requests that were handled, ``answers`` what came back to prompts and file requests.
    """

    def __init__(self, options: SimOptions | None = None, now: float = 0.0, link: TargetRole | None = None) -> None:
        self.options = options = SimOptions() if options is None else options
        self.link: TargetRole = _serial_link(options) if link is None else link
        self.log: deque[Manipulate] = deque(maxlen=_MAX_LOG)
        self.answers: deque[Packet] = deque(maxlen=_MAX_LOG)
        self.state = TargetState.RUNNING
        self._agenda: deque[Callable[[float], None]] = deque()
        self._held = options.hold_state_change_until_reset
        self._trap: Trap | None = None
        self._last_chance = False
        self._then: Callable[[float], None] | None = None
        self._announcement = Packet(PacketType.STATE_CHANGE64, b"")
        self._slice_at: float | None = None
        self._power_on_at: float | None = None
        self._lines = 0
        self._print_at = now + options.print_every
        self._build_machine()
        self._run_link()
        if options.state == "halted":
            self._break_in(now)
        elif options.state == "boot":
            self._boot(now)

    @property
    def memory(self) -> AddressSpace:
        """Virtual memory as the current processor sees it."""
        return self.machine.current.memory

    @property
    def deadline(self) -> float | None:
        """When `expire` is wanted next."""
        times = [self.link.deadline, self._power_on_at, self._slice_at]
        if self._prints and self.state is TargetState.RUNNING:
            times.append(self._print_at)
        return min((time for time in times if time is not None), default=None)

    def receive(self, data: bytes, now: float) -> None:
        """Bytes came from the debugger."""
        if self.state is TargetState.OFF:
            return
        for event in self.link.receive(data, now):
            self._handle(event, now)
        self._advance(now)

    def expire(self, now: float) -> None:
        """``deadline`` has come."""
        if self._power_on_at is not None and now >= self._power_on_at:
            self._power_on_at = None
            self._build_machine()
            self._run_link()
            self._boot(now)
        for event in self.link.expire(now):
            self._handle(event, now)
        if self._prints and self.state is TargetState.RUNNING and now >= self._print_at:
            self._print_at = now + self.options.print_every
            self._lines += 1
            if not self.link.backlog and not self._agenda:
                self.print(f"simulated target: line {self._lines}\n", now)
        if self._slice_at is not None and now >= self._slice_at:
            self._slice_at = None
            if self.state is TargetState.RUNNING and not self.link.backlog:
                self._stop_at(self.machine.run(_SLICE_STEPS), now)
        self._advance(now)

    def take_output(self) -> bytes:
        """Bytes for the debugger."""
        return self.link.take_output()

    def print(self, text: str, now: float) -> None:
        """Print from the kernel once it runs, a long text in parts; unheard when there is no debugger."""
        data = text.encode("cp1252", "replace")
        most = self.link.max_reply - _PRINT_HEADER
        for at in range(0, len(data), most):
            self._plan(partial(self._print, data[at : at + most]), now)

    def stop(self, now: float) -> None:
        """Stop as if the debugger had broken in; a target that stands still already stops after its next Continue."""
        self._plan(self._break_in, now)

    def prompt(self, text: str, now: float, most: int = 512) -> None:
        """Ask the debugger for a string, as DbgPrompt does; it comes into ``answers``."""
        self._plan(
            partial(self._ask, Packet(PacketType.DEBUG_IO, DebugIo.get_string(text.encode(), most).encode())), now
        )

    def request_file(self, path: str, now: float) -> None:
        """Ask the debugger for a file, as boot loaders do for each driver; the answer comes into ``answers``."""
        self._plan(partial(self._ask, Packet(PacketType.FILE_IO, FileIo.create(path).encode())), now)

    def load_module(self, name: str, base: int, size: int, now: float) -> LoadedModule:
        """A driver is loaded, and the debugger told. Raises ValueError where it cannot be."""
        module = self.machine.load_module(name, base, size)
        self._plan(partial(self._tell_module, module, False), now)
        return module

    def unload_module(self, name: str, now: float) -> None:
        """A driver is unloaded, and the debugger told. Raises ValueError if there is none of this name."""
        self._plan(partial(self._tell_module, self.machine.unload_module(name), True), now)

    def bugcheck(self, code: int, now: float, *parameters: int) -> None:
        """The machine crashes: text, a stop, and when that is continued a reboot."""
        self.print(self.machine.bug_check(code, parameters), now)
        self._plan(partial(self._break_in, then=self._power_off), now)

    def reboot(self, now: float) -> None:
        """Shut down in an orderly way: the debugger is told, and after its Continue the machine starts again."""
        self._plan(self._tell_reboot, now)

    def power_cycle(self, now: float) -> None:
        """Cut the power for a moment: the machine starts again, and the debugger is told nothing."""
        self._power_off(now)

    @property
    def _prints(self) -> bool:
        return self.options.print_every > 0

    def _build_machine(self) -> None:
        options = self.options
        self.machine = SimulatedMachine(
            cpus=options.cpus, build=options.build, service_pack=options.service_pack, pae_enabled=options.pae_bit
        )
        self._requests = RequestHandler(self.machine, options, self.link.max_reply)

    def _boot(self, now: float) -> None:
        self.print(f"simulated target: Windows build {self.options.build}, {self.options.cpus} processors\n", now)
        for module in self.machine.kernel.modules.modules.values():
            self._plan(partial(self._tell_module, module, False), now)
        if self.options.state == "halted":
            self.stop(now)

    def _plan(self, step: Callable[[float], None], now: float) -> None:
        """Put a step on the agenda; beyond 10000 of them it is dropped, as a full print buffer drops text."""
        if len(self._agenda) < _MAX_AGENDA:
            self._agenda.append(step)
        self._advance(now)

    def _advance(self, now: float) -> None:
        """Go on with the agenda as far as the debugger lets us, and see that an armed program is run."""
        while self.state is TargetState.RUNNING and not self.link.backlog:
            if self.link.break_pending:
                self.link.break_pending = False
                self._break_in(now)
            elif self._agenda:
                self._agenda.popleft()(now)
            else:
                if self._slice_at is None and self.machine.armed:
                    self._slice_at = now + _SLICE_TIME
                return

    def _handle(self, event: Event, now: float) -> None:
        match event:
            case Packet(PacketType.STATE_MANIPULATE):
                self._handle_request(Manipulate.decode(event.payload), now)
            case Packet():
                if self.state is TargetState.ASKING:
                    self.answers.append(event)
                    self._run_link()
            case BreakIn():
                self._break_in(now)
            case ResetSeen() | ResendAsked():
                self._held = False
                if self.state in (TargetState.STOPPED, TargetState.ASKING):
                    self._announce(now)
            case GaveUp(PacketType.STATE_CHANGE64):
                self._resume(now)
            case GaveUp(PacketType.FILE_IO):
                self._run_link()
            case Acknowledged() | GaveUp():
                pass

    def _handle_request(self, request: Manipulate, now: float) -> None:
        self.log.append(request)
        match request.kind:
            case Api.CONTINUE:
                self._continue(request["continue_status"], now)
            case Api.CONTINUE2:
                self._continue(request["continue_status"], now, trace=bool(request["trace_flag"]), dr7=request["dr7"])
            case Api.REBOOT:
                self._power_off(now)
            case Api.CAUSE_BUG_CHECK:
                self._crash(now, request["code"] or _MANUAL_CRASH)
            case Api.SWITCH_PROCESSOR if request.processor < len(self.machine.processors):
                self.machine.current = self.machine.processors[request.processor]
                self._stop_at(Trap(Status.WAKE_DEBUGGER, self.machine.current.pc), now)
            case Api.CLEAR_ALL_INTERNAL_BREAKPOINTS:
                pass
            case kind:
                self.link.send(PacketType.STATE_MANIPULATE, self._requests.handle(request).encode(), now)
                if kind in (Api.WRITE_BREAKPOINT_EX, Api.RESTORE_BREAKPOINT_EX):
                    status = request["continue_status"]
                    if status in (Status.DBG_CONTINUE, Status.DBG_EXCEPTION_HANDLED):
                        self._continue(status, now)

    def _continue(self, status: int, now: float, *, trace: bool | None = None, dr7: int | None = None) -> None:
        """Leave the stop. An exception that the debugger does not handle gets a last chance, then it is a bugcheck."""
        trap = self._trap
        if not is_success(status) and trap is not None:
            if self._last_chance:
                self._crash(now, _UNHANDLED_EXCEPTION, trap.code, trap.address)
            else:
                self._stop_at(trap, now, last_chance=True)
            return
        for processor in self.machine.processors:
            processor.prepare_continue(trace=trace if processor is self.machine.current else None, dr7=dr7)
        self._resume(now, trace=bool(trace))

    def _resume(self, now: float, *, trace: bool = False) -> None:
        """Run. The program takes its first steps at once, unless a noted break-in comes first."""
        self._trap = None
        then, self._then = self._then, None
        if then is not None:
            then(now)
            return
        self._run_link()
        if trace or not self.link.break_pending:
            self._stop_at(self.machine.run(_SLICE_STEPS if self.machine.armed else _IDLE_STEPS), now)

    def _crash(self, now: float, code: int, *parameters: int) -> None:
        """Leave the stop for a bugcheck; the program does not run any more."""
        self._trap = None
        self._run_link()
        self.bugcheck(code, now, *parameters)

    def _run_link(self) -> None:
        self.state = TargetState.RUNNING
        self.link.running = True

    def _power_off(self, now: float) -> None:
        self.link.restart()
        self.link.debugger_absent = False
        self._agenda.clear()
        self._then = self._slice_at = None
        self.state = TargetState.OFF
        self._power_on_at = now + self.options.boot_time

    def _break_in(self, now: float, then: Callable[[float], None] | None = None) -> None:
        self._stop_at(self.machine.break_in(), now, then=then)

    def _stop_at(
        self,
        trap: Trap | None,
        now: float,
        *,
        last_chance: bool = False,
        then: Callable[[float], None] | None = None,
    ) -> None:
        """Report an exception, if ``trap`` is one; ``then`` is done in place of running on after it."""
        if trap is None:
            return
        self._trap, self._last_chance, self._then = trap, last_chance, then or self._then
        self._stop_for(exception_report(self.machine, trap, first_chance=not last_chance), now)

    def _tell_module(self, module: LoadedModule, unloaded: bool, now: float) -> None:
        if not self.link.debugger_absent:
            self._trap = None
            self._stop_for(module_report(self.machine, module, unloaded=unloaded), now)

    def _tell_reboot(self, now: float) -> None:
        if self.link.debugger_absent:
            self._power_off(now)
        else:
            self._trap, self._then = None, self._power_off
            self._stop_for(reboot_report(self.machine), now)

    def _stop_for(self, change: StateChange, now: float) -> None:
        self._stand(TargetState.STOPPED, Packet(PacketType.STATE_CHANGE64, change.encode()), now)

    def _stand(self, state: TargetState, announcement: Packet, now: float) -> None:
        """The kernel stands still: say why, and want only what fits."""
        self.state = state
        self.link.running = False
        asked = announcement.type if state is TargetState.ASKING else PacketType.STATE_MANIPULATE
        self.link.want = frozenset({asked})
        self._slice_at = None
        self._requests.begin_stop()
        self._announcement = announcement
        if not self._held:
            self._announce(now)

    def _announce(self, now: float) -> None:
        self.link.send(self._announcement.type, self._announcement.payload, now)

    def _ask(self, question: Packet, now: float) -> None:
        if not self.link.debugger_absent:
            self._stand(TargetState.ASKING, question, now)

    def _print(self, text: bytes, now: float) -> None:
        if not self.link.debugger_absent:
            self.link.send(PacketType.DEBUG_IO, DebugIo.print_string(text).encode(), now)


def _serial_link(options: SimOptions) -> TargetLink:
    return TargetLink(
        byte_timeout=options.byte_timeout,
        retries=options.retries,
        reset_reply_id=options.reset_reply_id,
        first_id_after_reset=options.first_id_after_reset,
        sync=options.sync_on_boot,
        drain_on_reset=options.drain_input_on_reset,
    )
