"""Sessions of a real server for a long time, with all that can go wrong at once: ``python soak.py SECONDS [SEED]``.

A server runs as a program of its own. Half of its targets are behind unix sockets, which this program closes at random;
half are within the server; all lines lose, damage and double packets, and the targets print. Each client works through
a relay that is cut at random: for a moment, after which the session goes on, or for longer than the server waits, as
when a client is killed. Each read is compared with what the target has there, each write read back, and the numbers in
the printed lines never go back. In the end the server's memory and descriptors are those of the beginning.

Prints one JSON object with what was done and seen; the exit status is 1 if anything of it is wrong.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from typing_extensions import override

from kdsrv import client
from kdsrv.client.watching import SeenLine, watch
from kdsrv.connection_strings import parse_kdsrv_string
from kdsrv.errors import KdsrvError
from kdsrv.sessions.status import Status
from kdsrv.sim.faults import FaultRates
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget
from kdsrv.transports.simulated import LiveTarget

SESSIONS = 64
SPECTATORS = 12
LINGER = 3
READABLE = 0x1000
"""Bytes from the kernel's base on that nobody changes."""
SCRATCH = KERNEL_BASE + 0x3000
BAD_LINE = {"loss": 0.01, "damage": 0.01, "duplicate": 0.01}
LINE = re.compile(r"simulated target: line ([0-9]+)\n")


class Machine:
    """A target behind a unix socket whose connections do not last."""

    def __init__(self, reactor: Any, path: Path, seed: int) -> None:
        target = SimulatedTarget(SimOptions(state="running", print_every=0.5), reactor.seconds())
        self.live = LiveTarget(reactor, target, FaultRates(**BAD_LINE), seed)
        self.connection: Any = None
        factory = Factory()
        factory.buildProtocol = lambda addr: _MachineEnd(self)  # type: ignore[method-assign]
        self.port = reactor.listenUNIX(str(path), factory)

    def unplug(self) -> None:
        if self.connection is not None:
            self.connection.transport.abortConnection()

    def stop(self) -> Any:
        self.unplug()
        self.live.stop()
        return self.port.stopListening()


class _MachineEnd(Protocol):
    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @override
    def connectionMade(self) -> None:
        if self.machine.connection is not None:
            self.machine.connection.transport.abortConnection()
        self.machine.connection = self
        self.machine.live.listen(self.transport.write)  # type: ignore[union-attr]

    @override
    def dataReceived(self, data: bytes) -> None:
        if self.machine.connection is self:
            self.machine.live.feed(data)

    @override
    def connectionLost(self, reason: Any = None) -> None:
        if self.machine.connection is self:
            self.machine.connection = None
            self.machine.live.listen(None)


class Relay(Factory):
    """A TCP relay to the server that can be cut, and kept from coming back."""

    noisy = False

    def __init__(self, reactor: Any, server: int) -> None:
        self.reactor = reactor
        self.server = server
        self.ends: set[_RelayEnd] = set()
        self.is_blocked = False
        self.port = reactor.listenTCP(0, self, interface="127.0.0.1")

    @property
    def number(self) -> int:
        return int(self.port.getHost().port)

    @override
    def buildProtocol(self, addr: Any) -> Any:
        return None if self.is_blocked else _RelayEnd(self)

    def cut(self) -> None:
        for end in tuple(self.ends):
            end.transport.abortConnection()


class _RelayEnd(Protocol):
    """One of the two ends of a relayed connection; ``other`` is given to that towards the server."""

    transport: Any

    def __init__(self, relay: Relay, other: _RelayEnd | None = None) -> None:
        self.relay = relay
        self.other = other
        self.early = b""

    @override
    def connectionMade(self) -> None:
        self.relay.ends.add(self)
        self.transport.setTcpNoDelay(True)
        if self.other is None:
            factory = ClientFactory()
            factory.noisy = False
            factory.buildProtocol = lambda addr: _RelayEnd(self.relay, self)  # type: ignore[method-assign]
            self.relay.reactor.connectTCP("127.0.0.1", self.relay.server, factory)
        else:
            self.other.other = self
            self.transport.write(self.other.early)

    @override
    def dataReceived(self, data: bytes) -> None:
        if self.other is None:
            self.early += data
        else:
            self.other.transport.write(data)

    @override
    def connectionLost(self, reason: Any = None) -> None:
        self.relay.ends.discard(self)
        if self.other is not None:
            self.other.transport.loseConnection()


class Onlooker:
    """A Viewer that comes and goes."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        self.gone: Deferred[None] = Deferred()

    def seen(self, missed: int, lines: list[SeenLine]) -> None:
        self.counts["lines seen"] += len(lines)
        self.counts["lines missed"] += missed

    def status_changed(self, status: Status) -> None:
        self.counts["statuses seen"] += 1

    def lost(self, reason: KdsrvError) -> None:
        self.gone.callback(None)


class Soak:
    def __init__(self, reactor: Any, server: subprocess.Popen[str], port: int, room: Path, seconds: float, seed: int):
        self.reactor = reactor
        self.server = server
        self.room = room
        self.end = reactor.seconds() + seconds
        self.random = Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        truth = SimulatedTarget(SimOptions(state="running"), 0.0)
        self.truth = truth.memory.read_virtual(KERNEL_BASE, READABLE)
        self.machines = [Machine(reactor, room / f"m{number}", seed + number) for number in range(SESSIONS // 2)]
        self.relays = [Relay(reactor, port) for _ in range(SESSIONS)]
        self.rss: list[int] = []

    @property
    def is_over(self) -> bool:
        return bool(self.reactor.seconds() >= self.end)

    def trans(self, number: int) -> str:
        if number < len(self.machines):
            return f"com:pipe,port={self.room}/m{number},reconnect"
        rates = ",".join(f"{name}={rate}" for name, rate in BAD_LINE.items())
        return f"sim:name=soak{number},state=running,{rates},seed={number}"

    async def sleep(self, seconds: float) -> None:
        await task.deferLater(self.reactor, seconds)

    async def run(self) -> None:
        await self.sleep(1)
        before = self.descriptors()
        working = [ensureDeferred(self.work(number)) for number in range(SESSIONS)]
        looking = [ensureDeferred(self.look_on(number)) for number in range(SPECTATORS)]
        mischief = ensureDeferred(self.mischief())
        for success, result in await DeferredList([*working, *looking, mischief], consumeErrors=True):
            if not success:
                self.wrong.append(f"a client failed: {result.getErrorMessage()} {result.getBriefTraceback()}")
        await self.sleep(LINGER + 4)
        after = self.descriptors()
        if after > before:
            self.wrong.append(f"the server has {after} descriptors open, and had {before}")
        half = len(self.rss) // 2
        self.counts["rss_mib_early"] = max(self.rss[half // 2 : half], default=0) >> 20
        self.counts["rss_mib_late"] = max(self.rss[-half // 2 :], default=0) >> 20
        self.counts["descriptors_before"], self.counts["descriptors_after"] = before, after
        for machine in self.machines:
            await machine.stop()
        for relay in self.relays:
            await relay.port.stopListening()

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.server.pid}/fd"))

    async def mischief(self) -> None:
        """Cut, block and unplug at random, and look at the server's memory."""
        while not self.is_over:
            await self.sleep(0.05)
            dice = self.random.random()
            if dice < 0.2:
                self.counts["cuts"] += 1
                self.random.choice(self.relays).cut()
            elif dice < 0.22:
                self.counts["kills"] += 1
                relay = self.random.choice(self.relays)
                relay.is_blocked = True
                relay.cut()
                self.reactor.callLater(LINGER + 2, setattr, relay, "is_blocked", False)
            elif dice < 0.26:
                self.counts["unplugged"] += 1
                self.random.choice(self.machines).unplug()
            pages = int(Path(f"/proc/{self.server.pid}/statm").read_text().split()[1])
            self.rss.append(pages * os.sysconf("SC_PAGE_SIZE"))
        for relay in self.relays:
            relay.is_blocked = False

    async def work(self, number: int) -> None:
        random = Random(number)
        await self.sleep(number * 0.05)  # not all at the door at once
        server = f"tcp:server=127.0.0.1,port={self.relays[number].number}"
        string = f"kdsrv:server=@{{{server}}},trans=@{{{self.trans(number)}}}"
        last_line = 0

        def see(event: client.Event) -> None:
            nonlocal last_line
            if isinstance(event, client.Printed) and (found := LINE.fullmatch(event.text)):
                self.counts["prints"] += 1
                # one whose ACK got lost with the line is said again on the next
                self.counts["prints said again"] += int(found[1]) == last_line
                if int(found[1]) < last_line:
                    self.wrong.append(f"target {number} printed line {found[1]} after line {last_line}")
                last_line = int(found[1])

        while not self.is_over:
            try:
                target = await client.open_session(self.reactor, string, client=f"soak{number}")
            except KdsrvError as error:
                self.counts[f"not opened: {error.code}"] += 1
                await self.sleep(random.uniform(0.1, 0.5))
                continue
            self.counts["sessions"] += 1
            listening = target.listen(see)
            try:
                while not self.is_over and random.random() < 0.95:
                    await self.visit(target, number, random)
            except KdsrvError as error:
                self.counts[f"ended: {error.code}"] += 1
            finally:
                listening()
                await self.leave(target)

    async def look_on(self, number: int) -> None:
        """Look on at one target after the other, and leave or be cut off."""
        random = Random(1000 + number)
        await self.sleep(4)
        while not self.is_over:
            chosen = random.randrange(SESSIONS)
            server = f"tcp:server=127.0.0.1,port={self.relays[chosen].number}"
            spec = parse_kdsrv_string(f"kdsrv:server=@{{{server}}},trans=@{{{self.trans(chosen)}}}")
            onlooker = Onlooker(self.counts)
            try:
                connection, _ = await watch(self.reactor, spec, onlooker)
            except KdsrvError as error:
                self.counts[f"not looked on: {error.code}"] += 1
                await self.sleep(0.5)
                continue
            self.counts["spectators"] += 1
            await self.sleep(random.uniform(0.2, 3))
            connection.leave()

    async def leave(self, target: client.Target) -> None:
        try:
            leaving: Deferred[None] = ensureDeferred(target.leave())
            await leaving.addTimeout(10, self.reactor)
        except Exception as error:
            self.wrong.append(f"leaving failed: {error!r}")

    async def visit(self, target: client.Target, number: int, random: Random) -> None:
        """Halt the target, look at it, change something, let it go."""
        try:
            await target.break_in(timeout=60)
            for _ in range(random.randrange(1, 12)):
                if random.random() < 0.8:
                    offset = random.randrange(READABLE - 1)
                    size = random.randrange(1, READABLE - offset)
                    data = await target.read_virtual(KERNEL_BASE + offset, size, timeout=60)
                    self.counts["reads"] += 1
                    if data != self.truth[offset : offset + size]:
                        self.wrong.append(f"target {number}: {size} bytes at {offset:#x} are wrong")
                else:
                    written = random.randbytes(random.randrange(1, 512))
                    await target.write_virtual(SCRATCH, written, timeout=60)
                    data = await target.read_virtual(SCRATCH, len(written), timeout=60)
                    self.counts["writes"] += 1
                    if data != written:
                        self.wrong.append(f"target {number}: what was written is not what is there")
            await target.continue_(timeout=60)
            await self.sleep(random.uniform(0, 0.5))
        except (client.RequestLost, client.TargetRunning, client.TookTooLong) as error:
            # the line went away in the middle, or the target was let go by a repeated Continue
            self.counts[error.code] += 1


def main(seconds: float, seed: int) -> int:
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        room = Path(name)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        words = [sys.executable, "-m", "twisted", "--log-file", str(room / "log"), "kdsrv", "--no-password"]
        words += ["--listen", f"tcp:{port}:interface=127.0.0.1:linger={LINGER}"]
        with subprocess.Popen(words, text=True) as server:
            try:
                deadline = time.monotonic() + 20
                while not _answers(port) and time.monotonic() < deadline:
                    time.sleep(0.1)
                soak: list[Soak] = []

                async def run(reactor: Any) -> None:
                    soak.append(Soak(reactor, server, port, room, seconds, seed))
                    await soak[0].run()

                try:
                    task.react(lambda reactor: ensureDeferred(run(reactor)))
                except SystemExit as end:
                    if end.code:
                        soak[0].wrong.append("the run failed")
            finally:
                server.send_signal(signal.SIGTERM)
        log = (room / "log").read_text(errors="replace")
        wrong = soak[0].wrong
        if "Traceback" in log:
            wrong.append(f"the server's log has a traceback: {log[log.index('Traceback') :][:3000]}")
        if server.returncode not in (0, -signal.SIGTERM):
            wrong.append(f"the server ended with status {server.returncode}")
    sys.stdout.write(json.dumps({**dict(sorted(soak[0].counts.items())), "wrong": wrong[:20]}) + "\n")
    return 1 if wrong else 0


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
