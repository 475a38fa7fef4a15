"""What a simulated machine reports when it stops: its state changes (KD protocol, 2.1).

Making one has the side effect that it has in a kernel: breakpoints near the program counter are taken out.
"""

from __future__ import annotations

from kdsrv.kd.amd64 import ControlReport
from kdsrv.kd.state_change import StateChange
from kdsrv.sim.kernel import LoadedModule
from kdsrv.sim.machine import SimulatedMachine
from kdsrv.sim.processor import Trap

__all__ = ["exception_report", "module_report", "reboot_report"]


def exception_report(machine: SimulatedMachine, trap: Trap, *, first_chance: bool) -> StateChange:
    """An exception of the current processor."""
    report, place = _freeze(machine)
    return StateChange.exception(
        trap.code, trap.address, report=report, parameters=trap.parameters, first_chance=first_chance, **place
    )


def module_report(machine: SimulatedMachine, module: LoadedModule, *, unloaded: bool) -> StateChange:
    """A module was loaded or unloaded."""
    report, place = _freeze(machine)
    return StateChange.load_symbols(
        module.path.encode(),
        module.base,
        report=report,
        unload=unloaded,
        image_size=module.size,
        check_sum=module.checksum,
        **place,
    )


def reboot_report(machine: SimulatedMachine) -> StateChange:
    """The machine goes down."""
    report, place = _freeze(machine)
    return StateChange.reboot(report=report, **place)


def _freeze(machine: SimulatedMachine) -> tuple[ControlReport, dict[str, int]]:
    """The processors stand; what every state change says of the current one."""
    stream = machine.freeze()
    current = machine.current
    return current.control_report(stream), {
        "program_counter": current.pc,
        "processor": current.index,
        "processors": len(machine.processors),
        "thread": machine.kernel.current_thread(current.index),
    }
