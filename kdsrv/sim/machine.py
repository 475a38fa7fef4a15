"""The simulated machine without its debugger: memory, processors, processes and breakpoints put together."""

from __future__ import annotations

from typing import Final

from kdsrv.kd.amd64 import SpecialRegisters
from kdsrv.kd.machine import Machine as MachineType
from kdsrv.kd.packets import PacketType
from kdsrv.kd.statuses import Status
from kdsrv.kd.version import Version
from kdsrv.sim.breakpoints import BreakpointTable
from kdsrv.sim.decoder import RIP, RSP
from kdsrv.sim.images import build_image
from kdsrv.sim.kernel import KERNEL_BASE, Kernel, LoadedModule
from kdsrv.sim.processes import RUNNING, create_process, create_system, create_thread
from kdsrv.sim.processor import Processor, Trap

__all__ = ["SimulatedMachine"]

_STREAM: Final = 16
_FLAGS_MP_DATA_PTR64: Final = 7
_FIRST_API: Final = 0x3130
_API_END: Final = 0x3161
_BUG_CHECK_PARAMETERS: Final = 4


class SimulatedMachine:
    """A machine that has booted. ``current`` is the processor that the debugger looks at."""

    def __init__(self, *, cpus: int, build: int, service_pack: int, pae_enabled: bool) -> None:
        self.kernel = Kernel(cpus=cpus, build=build, service_pack=service_pack, pae_enabled=pae_enabled)
        self.breakpoints = BreakpointTable(self.kernel.physical)
        self.patched = False
        self.version = self._make_version(build)
        self.kernel.memory.write_virtual(self.kernel.variables["KdVersionBlock"], self.version.raw)
        system = create_system(self.kernel)
        self.processors = [self._make_processor(index) for index in range(cpus)]
        for processor in self.processors:
            loop = self.kernel.routines["KiIdleLoop"] if processor.index else self.kernel.worker_routines["WorkerLoop"]
            thread = create_thread(self.kernel, system, 8 + 4 * processor.index, start=loop, state=RUNNING)
            self.kernel.set_current_thread(processor.index, thread.address)
            processor.registers[RIP] = loop
            processor.registers[RSP] = thread.stack - 0x100
        self.processes = [
            system,
            create_process(self.kernel, "smss.exe", 0x150, parent=4),
            create_process(self.kernel, "notepad.exe", 0x9C4, parent=0x150),
        ]
        self.current = self.processors[0]

    @property
    def armed(self) -> bool:
        """Whether the program, left running, may come to a place where it stops."""
        return bool(self.breakpoints) or self.patched or any(processor.watches for processor in self.processors)

    def run(self, steps: int) -> Trap | None:
        """Let every processor carry out up to ``steps`` instructions; the one that traps becomes current."""
        for processor in self.processors:
            trap = processor.run(steps)
            if trap is not None:
                self.current = processor
                return trap
        return None

    def break_in(self) -> Trap:
        """Stop as the kernel does when the debugger asks: processor 0 calls a routine that is an int3."""
        self.current = self.processors[0]
        address = self.kernel.routines["DbgBreakPointWithStatus"]
        self.current.call(address)
        return Trap(Status.BREAKPOINT, address, (0,))

    def bug_check(self, code: int, parameters: tuple[int, ...]) -> str:
        """Note a bugcheck where debuggers look for it; what the kernel prints about it."""
        full = (parameters + (0,) * _BUG_CHECK_PARAMETERS)[:_BUG_CHECK_PARAMETERS]
        self.kernel.write_pointers(self.kernel.variables["KiBugcheckData"], code, *full)
        shown = ",".join(f"0x{value:016X}" for value in full)
        return f"\n*** Fatal System Error: 0x{code:08x}\n                       ({shown})\n\n"

    def freeze(self) -> bytes:
        """The processors have stopped: save their registers, take out breakpoints near the current program counter.

        Returns the instruction stream found there, up to 16 bytes.
        """
        self.save_processors()
        self.breakpoints.restore_range(self.current.pc, _STREAM)
        return self.current.memory.read_virtual(self.current.pc, _STREAM)

    def save_processors(self) -> None:
        for processor in self.processors:
            self.kernel.save_processor(processor.index, processor.read_special(), processor.read_context())

    def load_module(self, name: str, base: int, size: int) -> LoadedModule:
        """Map a driver that does nothing. Raises ValueError where it cannot be."""
        if base & 0xFFF or not 0xFFFF_8000_0000_0000 <= base < (1 << 64) - size:
            raise ValueError(f"{base:#x} is no kernel address at the start of a page")
        image = build_image(name, base, text=b"\xc3", exports={"DriverEntry": 0x1000}, size=size)
        space = self.kernel.memory
        if name in self.kernel.modules.modules:
            raise ValueError(f"{name} is loaded already")
        if any(space.translate(base + offset) is not None for offset in range(0, image.size, 0x1000)):
            raise ValueError(f"there is something at {base:#x} already")
        self.kernel.load_image(image)
        return self.kernel.modules.add(image, "\\SystemRoot\\system32\\drivers\\")

    def unload_module(self, name: str) -> LoadedModule:
        """Unmap a module and unlink it. Raises ValueError if there is none of this name."""
        if name not in self.kernel.modules.modules:
            raise ValueError(f"{name} is not loaded")
        module = self.kernel.modules.remove(name)
        self.kernel.memory.unmap(module.base, module.size // 0x1000)
        return module

    def _make_version(self, build: int) -> Version:
        variables = self.kernel.variables
        return Version.build(
            major_version=0x0F,
            minor_version=build,
            protocol_version=6,
            secondary_version=2,
            flags=_FLAGS_MP_DATA_PTR64,
            machine_type=MachineType.AMD64,
            max_packet_type=PacketType.FILE_IO + 1,
            max_state_change=3,
            max_manipulate=_API_END - _FIRST_API,
            kernel_base=KERNEL_BASE,
            loaded_module_list=variables["PsLoadedModuleList"],
            debugger_data_list=variables["KdpDebuggerDataListHead"],
        )

    def _make_processor(self, index: int) -> Processor:
        kernel = self.kernel
        special = SpecialRegisters.build(
            cr0=0x80050033,
            cr3=kernel.memory.root,
            cr4=0x1506F8,
            dr6=0xFFFF0FF0,
            dr7=0x400,
            gdtr_limit=0x57,
            gdtr_base=kernel.gdt,
            idtr_limit=0xFFF,
            idtr_base=kernel.idt,
            tr=0x40,
            mxcsr=0x1F80,
            gs_base=kernel.pcrs[index],
            star=0x0023_0010_0000_0000,
            lstar=kernel.routines["KiSystemCall64"],
            syscall_mask=0x4700,
            xcr0=3,
        )
        return Processor(index, kernel.physical, special)
