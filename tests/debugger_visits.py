"""What a real debugger does with the simulated target in one visit, over whatever link leads to it.

Each visit attaches, reads memory and registers, runs to a breakpoint, steps, changes something, breaks in and leaves.
What it sees is compared with a machine of the same make that nobody has touched.
"""

from __future__ import annotations

from pathlib import Path

from real_debuggers import (
    RADARE2_NET_READ_LIMIT,
    RADARE2_READ_LIMIT,
    NetPlace,
    Transcript,
    ntoseye_bytes,
    ntoseye_registers,
    radare2_bytes,
    radare2_registers,
    run_ntoseye,
    run_radare2,
)

from kdsrv.sim.kernel import KERNEL_BASE, Kernel

__all__ = ["visit_with_ntoseye", "visit_with_radare2"]

_HEADERS = 0x1000
_CODE = 0x80
_NOTE = "6b6473727600"


class _Script:
    """The commands of a visit, each with the name by which its answer is asked for afterwards."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.break_ins: list[int] = []
        self._places: dict[str, int] = {}

    def say(self, command: str, name: str = "", *, break_in: bool = False) -> None:
        if break_in:
            self.break_ins.append(len(self.commands))
        if name:
            self._places[name] = len(self.commands)
        self.commands.append(command)

    def answer(self, transcript: Transcript, name: str) -> str:
        return transcript.answers[self._places[name]]


def visit_with_ntoseye(place: Path | NetPlace, kernel: Kernel) -> None:
    """Visit with ntoseye, which lets the target run when it leaves."""
    step, note = kernel.worker_routines["WorkerStep"], kernel.worker_routines["WorkerCounter"] + 8
    script = _Script()
    script.say("r", "registers on attaching")
    script.say(f"db {KERNEL_BASE:x} L{_HEADERS:x}", "headers")
    script.say(f"db {step:x} L{_CODE:x}", "code")
    script.say(f"bp {step:x}")
    script.say("g", "hit")
    script.say("r", "registers at the breakpoint")
    script.say("t")
    script.say("r rip", "after a step")
    script.say("p")
    script.say("r rip", "after two steps")
    script.say("bc 0")
    script.say("r rdx=1234")
    script.say("r rdx", "a register written")
    script.say(f"eb {note:x} {' '.join(_NOTE[at : at + 2] for at in range(0, len(_NOTE), 2))}")
    script.say(f"db {note:x} L{len(_NOTE) // 2:x}", "memory written")
    script.say("g", "broken in", break_in=True)
    script.say("r rip", "after the break-in")
    told = run_ntoseye(place, script.commands, break_in_at=script.break_ins)
    assert "error" not in told.complaints, str(told)
    assert told.status == 0, str(told)

    def registers(name: str) -> dict[str, int]:
        return ntoseye_registers(script.answer(told, name))

    _check_registers(kernel, registers("registers on attaching"))
    assert ntoseye_bytes(script.answer(told, "headers")) == kernel.memory.read_virtual(KERNEL_BASE, _HEADERS)
    assert ntoseye_bytes(script.answer(told, "code")) == kernel.memory.read_virtual(step, _CODE)
    assert registers("registers at the breakpoint")["rip"] == step
    assert f"kernel at {step:#x}" in script.answer(told, "hit")
    assert registers("after a step") == {"rip": step + 1}
    assert registers("after two steps") == {"rip": step + 4}
    assert registers("a register written") == {"rdx": 0x1234}
    assert ntoseye_bytes(script.answer(told, "memory written")).hex() == _NOTE
    assert "BREAK" in script.answer(told, "broken in")
    assert registers("after the break-in") == {"rip": kernel.routines["DbgBreakPointWithStatus"]}


def visit_with_radare2(place: Path | NetPlace, kernel: Kernel) -> None:
    """Visit with radare2, which leaves the target stopped. It cannot write memory, and steps by a breakpoint."""
    step, stop = kernel.worker_routines["WorkerStep"], kernel.routines["DbgBreakPointWithStatus"]
    script = _Script()
    script.say("dr", "registers on attaching")
    most = RADARE2_READ_LIMIT if isinstance(place, Path) else RADARE2_NET_READ_LIMIT
    pieces = range(0, _HEADERS, most)
    for at in pieces:
        script.say(f"p8 {min(most, _HEADERS - at)} @ {KERNEL_BASE + at:#x}", f"headers at {at}")
    script.say(f"p8 {_CODE} @ {step:#x}", "code")
    script.say(f"db {step:#x}")
    # Twice, since a target that stood still has noted the break-in that radare2 begins with, and stops for it once
    # more. One that ran comes to the breakpoint both times: from there too the return after the int3 leads to the loop.
    for _ in range(2):
        script.say(f"dr rip={stop + 1:#x}")
        script.say("dc")
    script.say("dr", "registers at the breakpoint")
    script.say(f"db-{step:#x}")
    script.say("ds")
    script.say("dr", "after a step")
    script.say("dr rdx=0x1234")
    script.say("dr", "a register written")
    script.say("dc", break_in=True)
    script.say("dr", "after the break-in")
    script.say("dp", "processes")
    told = run_radare2(place, script.commands, break_in_at=script.break_ins)

    def registers(name: str) -> dict[str, int]:
        return radare2_registers(script.answer(told, name))

    _check_registers(kernel, registers("registers on attaching"))
    headers = b"".join(radare2_bytes(script.answer(told, f"headers at {at}")) for at in pieces)
    assert headers == kernel.memory.read_virtual(KERNEL_BASE, _HEADERS)
    assert radare2_bytes(script.answer(told, "code")) == kernel.memory.read_virtual(step, _CODE)
    assert registers("registers at the breakpoint")["rip"] == step, str(told)
    assert registers("after a step")["rip"] == step + 1, str(told)
    assert registers("a register written")["rdx"] == 0x1234
    assert registers("after the break-in")["rip"] == stop, str(told)
    for name in ("System", "smss.exe", "notepad.exe"):
        assert name in script.answer(told, "processes")


def _check_registers(kernel: Kernel, registers: dict[str, int]) -> None:
    """Those that a stop by break-in leaves no choice about."""
    assert registers["rip"] == kernel.routines["DbgBreakPointWithStatus"]
    assert registers.get("cs", 0x10) == 0x10
    assert registers.get("cr3", kernel.memory.root) == kernel.memory.root
    low, high = kernel.memory.translate(registers["rsp"]), kernel.memory.translate(registers["rsp"] + 8)
    assert low is not None
    assert high is not None
