"""``kdsrv demo``: the whole path without hardware. A server, a simulated target and a client in one process, joined by
a real TCP connection on loopback."""

from __future__ import annotations

import argparse
import struct
import sys
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint

from kdsrv import client
from kdsrv.commands.desk import Desk
from kdsrv.commands.screen import Screen
from kdsrv.connection_strings import KdsrvSpec, PortRange, SimSpec, TcpClientSpec
from kdsrv.server.service import KdsrvService

__all__ = ["configure", "run"]

_LOOPBACK: Final = "127.0.0.1"
_TARGET: Final = SimSpec(name="demo")
_ENTRY_SIZE: Final = 0x68
_ENTRY: Final = struct.Struct("<Q40xQ8xI20xH6xQ")
"""Of LDR_DATA_TABLE_ENTRY on AMD64: InLoadOrderLinks.Flink, DllBase, SizeOfImage, BaseDllName."""
_MOST_MODULES: Final = 1000
_PRINT: Final = "Hello from the simulated kernel: a driver would print this with DbgPrint\n"
_PATIENCE: Final = 10.0
"""Seconds that the simulated target may take for anything."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv demo``."""
    parser.description = (
        "Start a server, a simulated target and a client in one process and show what a debugger sees of the target. "
        "Then keep bridges open to try a debugger on, until Ctrl-C."
    )
    parser.add_argument("--once", action="store_true", help="end after showing")


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Show the target; fires with the exit status. Fails with a KdsrvError."""
    return Deferred.fromCoroutine(_run(reactor, once=options.once))


async def _run(reactor: Any, *, once: bool) -> int:
    service = KdsrvService(reactor, [TCP4ServerEndpoint(reactor, 0, interface=_LOOPBACK)])
    service.startService()
    address: Any = service.ports[0].getHost()
    port = address.port
    spec = KdsrvSpec(TcpClientSpec(server=_LOOPBACK, ports=PortRange(port, port)), _TARGET)
    try:
        _say(f"In this one process a server listens on {_LOOPBACK}:{port}, and a client holds its target by the string")
        _say(f"  {spec}\n")
        async with client.open_session(reactor, spec) as target:
            await _show(reactor, service, target)
        if not once:
            await _keep_open(reactor, spec)
    finally:
        await service.stopService()
    return 0


async def _show(reactor: Any, service: KdsrvService, target: client.Target) -> None:
    """What a debugger asks first, then a breakpoint and a print."""
    stop = await target.wait_for_stop(timeout=_PATIENCE)
    _say(f"target      {target.description}: {stop}")
    version = await target.version()
    machine = "an unknown machine" if version.machine is None else version.machine.name
    _say(f"version     Windows kernel build {version.build_number} on {machine} at {_hex(version.kernel_base)}")
    context = await target.context()
    for names in ("rip rsp rbp", "rax rbx rcx", "rdx rsi rdi"):
        _say("registers   " + "  ".join(f"{name} {_hex(context[name])}" for name in names.split()))
    _say(f"            eflags {context['eflags']:08x}  cs {context['cs']:04x}  ss {context['ss']:04x}")
    modules = await _modules(target, version.loaded_module_list)
    for name, base, size in modules:
        _say(f"module      {_hex(base)} {size:#9x}  {name}")
    await _dump(target, version.kernel_base, 48)

    routine = service.simulated[_TARGET.name].target.machine.kernel.worker_routines["WorkerStep"]
    breakpoint_ = await target.set_breakpoint(routine)
    _say(f"breakpoint  set at {_hex(routine)} in {modules[-1][0]}; the target runs ...")
    stop = await target.run_until_stop(timeout=_PATIENCE)
    context = await target.context()
    _say(f"            {stop}; rax {_hex(context['rax'])}")
    stop = await target.step(timeout=_PATIENCE)
    _say(f"single step {stop}")
    await breakpoint_.clear()

    events = target.events()
    await target.continue_()
    simulated = service.simulated[_TARGET.name]
    simulated.target.print(_PRINT, reactor.seconds())
    simulated.flush()
    async for event in events:
        if isinstance(event, client.Printed):
            _say(f"DbgPrint    {event.text.rstrip()}")
            break
    _say(f"break in    {await target.break_in(timeout=_PATIENCE)}\n")


async def _modules(target: client.Target, head: int) -> list[tuple[str, int, int]]:
    """Name, base and size of each module, from the kernel's list of LDR_DATA_TABLE_ENTRY."""
    found: list[tuple[str, int, int]] = []
    entry = int.from_bytes(await target.read_virtual(head, 8), "little")
    while entry != head and len(found) < _MOST_MODULES:
        raw = await target.read_virtual(entry, _ENTRY_SIZE)
        following, base, size, length, text = _ENTRY.unpack_from(raw)
        name = await target.read_virtual(text, length)
        found.append((name.decode("utf-16-le"), base, size))
        entry = following
    return found


async def _dump(target: client.Target, address: int, length: int) -> None:
    data = await target.read_virtual(address, length)
    for offset in range(0, length, 16):
        line = data[offset : offset + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        _say(f"memory      {_hex(address + offset)}  {line.hex(' ')}  {shown}")


async def _keep_open(reactor: Any, spec: KdsrvSpec) -> None:
    """Hold the target as ``kdsrv connect`` does, until cancelled."""
    screen = Screen(as_json=False)
    desk = Desk(reactor, spec, screen, reconnect=False)
    try:
        await desk.open([], [], [])
        await desk.ended
    except CancelledError:
        pass
    finally:
        desk.close()
        screen.end()


def _hex(address: int) -> str:
    """An address as kernel debuggers show it."""
    return f"{address >> 32:08x}`{address & 0xFFFFFFFF:08x}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
