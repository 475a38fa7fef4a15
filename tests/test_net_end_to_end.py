"""KDNET on real UDP: a server as its own process, targets in this one, the Python API and ``kdsrv connect`` between."""

from __future__ import annotations

import random
import sys
import time
from typing import Any

from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, Client, Debugger, Server
from transport_rigs import KEY, OTHER_KEY, free_udp_port, pause, until
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase
from two_networks import TwoNetworks

from kdsrv.client import open_session
from kdsrv.client.events import Event, Printed, StatusChanged
from kdsrv.client.target import Target
from kdsrv.kdnet.keys import NetKey
from kdsrv.kdnet.target import NetTarget
from kdsrv.kdnet.target_faults import NetFaultRates
from kdsrv.sessions.status import HaltReason
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.options import SimOptions
from kdsrv.transports.simulated_net import LiveNetTarget

OFFERS = 0.3
"""Seconds from one OFFER to the next, a tenth of what is real, where nothing depends on it."""


class Machine(LiveNetTarget):
    """A target for a UDP port of the server, by default at an address of its own."""

    def __init__(self, port: int, key: str = KEY, *, state: str = "running", **more: Any) -> None:
        rates = more.pop("rates", None)
        bind = more.pop("bind", ("127.0.0.2", 0))
        more.setdefault("offer_period", OFFERS)
        net = NetTarget(
            NetKey.parse(key),
            ("127.0.0.1", port),
            options=SimOptions(state=state),
            random=random.Random(f"{key}{port}"),
            now=reactor.seconds(),
            **more,
        )
        super().__init__(reactor, net, bind=bind, rates=rates, seed=port)

    def memory(self, address: int, count: int) -> bytes:
        data = self.target.machine.kernel.memory.read_virtual(address, count)
        assert len(data) == count
        return data


class NetCase(TestCase):
    """One server for all tests of a class."""

    timeout = 60
    server: Server

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server().__enter__()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.server.stop()
        assert "Traceback" not in cls.server.text, cls.server.text

    def setUp(self) -> None:
        self.port = free_udp_port()
        self.machines: list[Machine] = []
        self.targets: list[Target] = []
        self.seen: list[Event] = []

    async def tearDown(self) -> None:
        for target in self.targets:
            await target.leave()
        for machine in self.machines:
            await machine.stop()

    def machine(self, **options: Any) -> Machine:
        self.machines.append(Machine(options.pop("port", self.port), **options))
        return self.machines[-1]

    async def attach(self, key: str = KEY, port: int | None = None) -> Target:
        target = await open_session(reactor, self.server.string(f"net:port={port or self.port},key={key}"))
        target.listen(self.seen.append)
        self.targets.append(target)
        return target

    def kinds(self) -> list[str]:
        """Of the statuses so far."""
        return [event.status.kind for event in self.seen if isinstance(event, StatusChanged)]


class SessionTests(NetCase):
    async def test_a_halted_target(self) -> None:
        machine = self.machine(state="halted")
        target = await self.attach()
        stop = await target.wait_for_stop(timeout=10)
        assert stop.reason is HaltReason.BREAKPOINT
        assert await target.read_virtual(KERNEL_BASE, 2) == b"MZ"
        assert machine.net.counters.responses == 1

    async def test_a_running_target(self) -> None:
        machine = self.machine(state="running")
        target = await self.attach()
        await until(lambda: "connected" in self.kinds(), 10)
        assert target.status.sentence() == "the target is connected and has said nothing yet"
        await target.break_in(timeout=10)
        assert await target.read_virtual(KERNEL_BASE, 4096) == machine.memory(KERNEL_BASE, 4096)
        await target.continue_()
        machine.target.print("hello from here\n", reactor.seconds())
        machine.flush()
        await until(lambda: any(isinstance(event, Printed) and "hello" in event.text for event in self.seen))
        await target.break_in(timeout=10)

    async def test_a_booting_target(self) -> None:
        self.machine(state="boot")
        target = await self.attach()
        stop = await target.wait_for_stop(timeout=10)
        assert stop.reason is HaltReason.MODULE_LOAD
        await target.continue_()
        await until(lambda: any(isinstance(event, Printed) for event in self.seen))

    async def test_a_megabyte_is_right(self) -> None:
        machine = self.machine(state="halted")
        target = await self.attach()
        await target.wait_for_stop(timeout=10)
        size = 1 << 20
        memory = machine.target.machine.kernel.physical
        assert memory.size >= size
        memory.write(size // 2, random.Random(1).randbytes(size // 4))
        assert await target.read_physical(0, size) == memory.read(0, size)

    async def test_writes_longer_than_a_datagram(self) -> None:
        machine = self.machine(state="halted")
        target = await self.attach()
        await target.wait_for_stop(timeout=10)
        data = random.Random(5).randbytes(5000)
        await target.write_virtual(KERNEL_BASE + 0x2000, data)
        assert machine.memory(KERNEL_BASE + 0x2000, 5000) == data

    async def test_offers_of_a_connected_target_change_nothing(self) -> None:
        machine = self.machine(state="halted")
        target = await self.attach()
        await target.wait_for_stop(timeout=10)
        while machine.net.counters.offers < 8:
            assert await target.read_virtual(KERNEL_BASE, 2) == b"MZ"
            await pause(0.02)
        assert machine.net.counters.responses == 1

    async def test_a_reboot_in_mid_session(self) -> None:
        machine = self.machine(state="halted")
        target = await self.attach()
        await target.wait_for_stop(timeout=10)
        reads = [target.read_virtual(KERNEL_BASE, 2) for _ in range(3)]
        machine.target.power_cycle(reactor.seconds())
        machine.flush()
        for read in reads:
            Deferred.fromCoroutine(read).addErrback(lambda _: None)
        await until(lambda: "net-rebooted" in self.kinds(), 10)
        await target.break_in(timeout=10)
        assert await target.read_virtual(KERNEL_BASE, 2) == b"MZ"
        assert machine.net.counters.responses >= 1

    async def test_an_answer_that_gets_lost(self) -> None:
        machine = self.machine(state="halted")
        machine.line.drop_next(to_target=1)
        target = await self.attach()
        await target.wait_for_stop(timeout=10)
        assert machine.net.counters.responses == 1

    async def test_another_address(self) -> None:
        """As after a boot with another lease; the server takes it for the same once the old address is silent."""
        machine = self.machine(state="halted")
        target = await self.attach()
        await target.wait_for_stop(timeout=10)
        machine.target.power_cycle(reactor.seconds())
        machine.rebind(("127.0.0.3", 0))
        await until(lambda: "net-rebooted" in self.kinds(), 15)
        await target.break_in(timeout=10)
        assert await target.read_virtual(KERNEL_BASE, 2) == b"MZ"

    async def test_another_port(self) -> None:
        machine = self.machine(state="halted")
        target = await self.attach()
        await target.wait_for_stop(timeout=10)
        machine.rebind(("127.0.0.2", 0))
        machine.net.offer()
        machine.flush()
        assert await target.read_virtual(KERNEL_BASE, 2) == b"MZ"
        assert machine.net.counters.responses == 1

    async def test_leaving_and_attaching_again(self) -> None:
        machine = self.machine(state="halted")
        for round_ in range(1, 4):
            target = await self.attach()
            await target.wait_for_stop(timeout=10)
            assert await target.read_virtual(KERNEL_BASE, 2) == b"MZ"
            assert machine.net.counters.responses == round_
            await self.targets.pop().leave()

    async def test_two_machines_on_one_port(self) -> None:
        machines = [self.machine(key=key, state="halted") for key in (KEY, OTHER_KEY)]
        for number, machine in enumerate(machines):
            machine.target.machine.kernel.memory.write_virtual(KERNEL_BASE + 0x2000, b"this is %d" % number)
        targets = [await self.attach(key) for key in (KEY, OTHER_KEY)]
        for number, target in enumerate(targets):
            await target.wait_for_stop(timeout=10)
            assert await target.read_virtual(KERNEL_BASE + 0x2000, 9) == b"this is %d" % number

    async def test_a_wrong_key_is_told_within_four_seconds(self) -> None:
        """With OFFERs as rare as they are."""
        machine = self.machine(key=OTHER_KEY, offer_period=3.0)
        await pause(0.5)
        begin = time.monotonic()
        target = await self.attach()
        await until(lambda: "net-wrong-key" in self.kinds(), 10)
        assert time.monotonic() - begin < 4.0
        host, port = machine.address
        assert target.status.sentence().startswith("wrong key? an OFFER on UDP port ")
        assert f"did not authenticate, the last from {host}:{port}: compare key=" in target.status.sentence()

    async def test_over_ipv6(self) -> None:
        machine = Machine.__new__(Machine)
        net = NetTarget(
            NetKey.parse(KEY), ("::1", self.port), random=random.Random(6), now=reactor.seconds(), offer_period=OFFERS
        )
        LiveNetTarget.__init__(machine, reactor, net, bind=("::1", 0))
        self.machines.append(machine)
        target = await self.attach()
        await target.wait_for_stop(timeout=10)
        assert await target.read_virtual(KERNEL_BASE, 3000) == machine.memory(KERNEL_BASE, 3000)


class BadNetworkTests(NetCase):
    """Datagrams lost, doubled and late, a twentieth of each, in both directions."""

    targets_at_once = 12
    reads = 40

    async def test_every_reply_is_right(self) -> None:
        rates = NetFaultRates(loss=0.05, duplicate=0.05, reorder=0.05)
        ports = [free_udp_port() for _ in range(self.targets_at_once)]
        await gatherResults([Deferred.fromCoroutine(self.visit(port, rates)) for port in ports], consumeErrors=True)

    async def visit(self, port: int, rates: NetFaultRates) -> None:
        machine = self.machine(port=port, state="halted", rates=rates)
        target = await self.attach(port=port)
        await target.wait_for_stop(timeout=30)
        dice = random.Random(port)
        for _ in range(self.reads):
            address, count = KERNEL_BASE + dice.randrange(4096), dice.randrange(1, 1096)
            assert await target.read_virtual(address, count) == machine.memory(address, count)


def test_kdsrv_connect_and_a_bridge() -> None:
    port = free_udp_port()
    sim = [*KDSRV, "sim", "--net", f"127.0.0.1:{port}", "--key", KEY, "--offer-every", "0.3"]
    with Server() as server, Client(server.string(f"net:port={port},key={KEY}")) as client:
        client.wait_event("status", kind="net-waiting")
        with BackgroundProgram(sim, cwd=ROOT):
            client.wait_event("status", kind="halted")
            with Debugger(client.bridge) as debugger:
                debugger.halt()
                assert debugger.read(KERNEL_BASE, 2) == b"MZ"
                assert len(debugger.read(KERNEL_BASE, 3000)) == 3000
        with BackgroundProgram([*sim, "--state", "running"], cwd=ROOT), Debugger(client.bridge) as debugger:
            client.wait_event("status", kind="net-rebooted")
            debugger.halt()
            assert debugger.read(KERNEL_BASE, 2) == b"MZ"
        assert "Traceback" not in server.text


class FloodTests(NetCase):
    """20,000 datagrams a second from strangers."""

    rate = 20_000
    seconds = 3.0

    async def reads_in(self, target: Target, seconds: float) -> int:
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            assert await target.read_virtual(KERNEL_BASE, 2, timeout=10) == b"MZ"
            count += 1
        return count

    async def test_a_session_works_on_and_a_new_target_gets_in(self) -> None:
        self.machine(state="halted")
        target = await self.attach()
        await target.wait_for_stop(timeout=10)
        before = await self.reads_in(target, 1.0)
        resident, log = self.server.resident, len(self.server.text)
        words = [sys.executable, ROOT / "tests" / "net_flood.py", str(self.port), str(self.rate), str(self.seconds)]
        with BackgroundProgram(words, cwd=ROOT) as program:
            await pause(0.5)
            during = await self.reads_in(target, 1.0)
            self.machine(key=OTHER_KEY, state="halted", bind=("127.0.0.9", 0))
            other = await self.attach(OTHER_KEY)
            begin = time.monotonic()
            await other.wait_for_stop(timeout=10)
            came_in = time.monotonic() - begin
            await until(lambda: "sent" in program.text, self.seconds + 5)
            sent = int(program.text.split()[1])
        assert sent > 0.8 * self.rate * self.seconds
        assert during > 0.3 * before, (before, during)
        assert came_in < 3.0
        assert self.server.resident < resident + 3_000_000
        assert self.server.text[log:].count("\n") < 30


def test_two_machines_on_a_cable() -> None:
    """Both at the port that a real target has too. This one is set to another host, so the server calls it."""
    with TwoNetworks() as networks:
        sim = [*networks.in_target, *KDSRV, "sim", "--net", "10.0.0.99:50000", "--from", "50000", "--key", KEY]
        trans = f"net:port=50000,key={KEY},target={networks.target}"
        with BackgroundProgram(sim, cwd=ROOT), Server("--allow", "net:*", before=networks.in_host) as server:
            words = [*networks.in_host, *KDSRV, "connect", "-k", server.string(trans), "--json", "--tcp", "0"]
            with BackgroundProgram(words, cwd=ROOT) as client:
                client.wait_for('"kind": "halted"')
            assert f"the target at {networks.target}:50000 is connected" in server.text
