"""A server on a real socket, a program's session on it, and the examples of the documentation."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import module_from_spec, spec_from_file_location
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from kdsrv.client import (
    MemoryUnreadable,
    ModuleLoaded,
    Printed,
    Prompted,
    ServerRefused,
    ServerUnreachable,
    SessionEnded,
    Target,
    open_session,
    open_session_in_process,
    open_session_over,
)
from kdsrv.server.service import KdsrvService
from kdsrv.sessions.status import HaltReason, RunState
from kdsrv.sim.target import SimulatedTarget
from kdsrv.transports.simulated import SimulatedTargets

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLES = DOCS / "examples"
MEGABYTE = 1 << 20


def example(name: str) -> Any:
    """An example as a module."""
    spec = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pause(seconds: float = 0.01) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


async def until(condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            return
        await pause()
    raise AssertionError("it did not happen")


class RealSockets(TestCase):
    """A KdsrvService on the loopback interface."""

    timeout = 60

    def setUp(self) -> None:
        self.service = KdsrvService(reactor, [TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")], environ={})
        self.service.startService()
        self.addCleanup(self.service.stopService)
        self.port = self.service.ports[0].getHost().port

    @property
    def targets(self) -> SimulatedTargets:
        return self.service.simulated

    def string(self, trans: str = "sim:") -> str:
        return f"kdsrv:server=@{{tcp:server=127.0.0.1,port={self.port}}},trans=@{{{trans}}}"

    def act(self, action: Callable[[SimulatedTarget, float], object]) -> None:
        live = self.targets["sim"]
        action(live.target, reactor.seconds())
        live.flush()

    async def halted(self, **options: Any) -> Target:
        target = await open_session(reactor, self.string(), **options)
        await target.break_in(timeout=10)
        return target

    async def test_a_whole_visit(self) -> None:
        async with open_session(reactor, self.string(), client="kim@desk") as target:
            stop = await target.break_in(timeout=10)
            assert stop.reason == HaltReason.BREAKPOINT
            machine = self.targets["sim"].target.machine
            memory = machine.kernel.memory
            version = await target.version()
            image = memory.read_virtual(version.kernel_base, 0x3000)
            assert await target.read_virtual(version.kernel_base, 0x3000) == image
            assert (await target.context()).raw == machine.processors[0].read_context()
            place = machine.kernel.pool(10000)
            await target.write_virtual(place, bytes(range(250)) * 40)
            assert memory.read_virtual(place, 10000) == bytes(range(250)) * 40

            step = machine.kernel.worker_routines["WorkerStep"]
            breakpoint_ = await target.set_breakpoint(step)
            for _ in range(3):
                assert (await target.run_until_stop(timeout=10)).program_counter == step
            assert (await target.step(timeout=10)).program_counter == step + 1
            await breakpoint_.clear()

            with pytest.raises(ServerRefused, match=r"sim: is held by kim@desk from 127.0.0.1:.* since"):
                await open_session(reactor, self.string())
            await target.continue_()
            await until(lambda: target.status.sentence() == "running")
            assert (await target.break_in(timeout=10)).reason == HaltReason.BREAKPOINT

        again = await open_session(reactor, self.string())
        found = await again.wait_for_stop(timeout=10)
        assert found.reason == HaltReason.BREAKPOINT
        await again.leave()

    async def test_what_the_target_says(self) -> None:
        target = await self.halted()
        stream = target.events()

        async def next_of(kind: type) -> Any:
            async for event in stream:
                if isinstance(event, kind):
                    return event
            raise AssertionError("the session ended")

        await target.continue_()
        await until(lambda: target.status.run_state is RunState.RUNNING)
        self.act(lambda machine, now: machine.print("hello\n", now))
        assert (await next_of(Printed)).text == "hello\n"
        self.act(lambda machine, now: machine.prompt("yes or no? ", now))
        prompt = await next_of(Prompted)
        prompt.answer("yes")
        await until(lambda: self.targets["sim"].target.answers)
        assert self.targets["sim"].target.answers[0].payload.endswith(b"yes")
        self.act(lambda machine, now: machine.load_module("new.sys", 0xFFFFF802_55000000, 0x3000, now))
        assert (await next_of(ModuleLoaded)).base == 18446735287632527360
        await target.leave()

    async def test_a_megabyte(self) -> None:
        target = await self.halted()
        kernel = self.targets["sim"].target.machine.kernel
        place = kernel.pool(MEGABYTE)
        kernel.memory.write_virtual(place, os.urandom(MEGABYTE))
        before = reactor.seconds()
        data = await target.read_virtual(place, MEGABYTE, timeout=30)
        assert data == kernel.memory.read_virtual(place, MEGABYTE)
        assert reactor.seconds() - before < 5
        with pytest.raises(MemoryUnreadable):
            await target.read_virtual(0xFFFFF880_00000000, MEGABYTE)
        await target.leave()

    async def test_the_connection_is_cut_in_the_middle_of_a_read(self) -> None:
        target = await self.halted()
        place = self.targets["sim"].target.machine.kernel.pool(MEGABYTE)
        reading = Deferred.fromCoroutine(target.read_virtual(place, MEGABYTE))
        await pause(0)
        (protocol,) = self.service.factory._attached
        protocol.transport.abortConnection()  # type: ignore[union-attr]
        memory = self.targets["sim"].target.memory
        assert await reading == memory.read_virtual(place, MEGABYTE)
        assert await target.break_in() is target.stop
        await target.leave()

    async def test_the_server_stops(self) -> None:
        target = await self.halted()
        near = await open_session_in_process(reactor, self.service.directory, "sim:name=near")
        waiting = [Deferred.fromCoroutine(each.wait_for_stop()) for each in (near,)]
        await target.continue_()
        waiting.append(Deferred.fromCoroutine(target.wait_for_stop()))
        await near.break_in()
        await waiting.pop(0)
        await near.continue_()
        waiting.append(Deferred.fromCoroutine(near.wait_for_stop()))
        await self.service.stopService()
        for each in waiting:
            with pytest.raises(SessionEnded, match="the server is shutting down"):
                await each
        with pytest.raises(ServerUnreachable):
            await open_session(reactor, self.string())

    async def test_an_endpoint_of_ones_own(self) -> None:
        endpoint = HostnameEndpoint(reactor, b"127.0.0.1", self.port)
        async with open_session_over(reactor, endpoint, "sim:") as target:
            assert target.name == "sim:"

    async def test_nobody_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            with pytest.raises(ServerUnreachable, match=f"127.0.0.1:{port}: nobody listens there"):
                await open_session(reactor, f"kdsrv:server=@{{tcp:server=127.0.0.1,port={port}}},trans=@{{sim:}}")

    # The examples

    async def shown(self, work: Any) -> str:
        shown = StringIO()
        with redirect_stdout(shown):
            await work
        return shown.getvalue()

    async def test_look_around(self) -> None:
        shown = await self.shown(example("look_around").look_around(reactor, self.string()))
        assert "halted: breakpoint at " in shown
        assert "build 17134, kernel at 0x" in shown
        assert "the kernel's image begins with b'MZ'\nrunning again\n" in shown

    async def test_count_calls(self) -> None:
        async with open_session(reactor, self.string()):
            pass
        step = self.targets["sim"].target.machine.kernel.worker_routines["WorkerStep"]
        shown = await self.shown(example("count_calls").count_calls(reactor, self.string(), step, 3))
        assert [line[:2] for line in shown.splitlines()] == ["1:", "2:", "3:"]

    async def test_under_asyncio(self) -> None:
        command = [sys.executable, "-W", "error", str(EXAMPLES / "under_asyncio.py"), self.string()]
        environ = {**os.environ, "PYTHONPATH": str(DOCS.parent)}
        ran = await deferToThread(subprocess.run, command, capture_output=True, text=True, timeout=50, env=environ)
        assert (ran.stdout, ran.stderr, ran.returncode) == ("b'MZ'\n", "", 0)

    async def test_a_lab_of_ones_own(self) -> None:
        module = example("lab_service")
        lab, server, watch = module.make_lab(reactor, "tcp:0:interface=127.0.0.1")
        lab.startService()
        self.addCleanup(lab.stopService)
        port = server.ports[0].getHost().port
        string = f"kdsrv:server=@{{tcp:server=127.0.0.1,port={port}}},trans=@{{sim:name=other}}"
        async with open_session(reactor, string, client="kim@desk") as target:
            await target.break_in()
            watch._look()
            assert "sim:name=other is held by kim@desk: halted: breakpoint" in watch.lines[-1]
            with pytest.raises(Exception, match="is held by kim@desk"):
                await module.nightly_check(reactor, server, "sim:name=other")
        assert await module.nightly_check(reactor, server, "sim:") == "sim: runs build 17134"

    async def test_the_lab_as_a_program(self) -> None:
        assert "sim: runs build 17134" in await self.shown(example("lab_service").main(reactor))


def test_the_example_of_a_test() -> None:
    module = example("test_my_script")
    tests = [member for name, member in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_what_the_documents_show_of_an_example_is_in_it(path: Path) -> None:
    """A block of Python that names its file on the line before it is a piece of that file."""
    text = path.read_text(encoding="utf-8")
    for name, block in re.findall(r"\[examples/(\w+\.py)\][^\n]*\n+```python\n(.*?)```", text, re.DOTALL):
        source = (EXAMPLES / name).read_text(encoding="utf-8")
        assert block in source, f"{path.name} shows what is not in {name}"
