"""A debugger on a bridge, a server and its simulated target in memory, and a network between them that can be cut.

What the debugger of ``run_script`` sees, and what the target is asked, must be the same however often the network is
cut at whatever byte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from bridge_bench import Debugger, Watcher
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from typing_extensions import override

from kdsrv.bridge.bridge import Bridge
from kdsrv.client.breaks import News, Renewed
from kdsrv.client.connecting import Route
from kdsrv.client.lasting import Endurance, LastingSession
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.sim.decoder import RIP
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.testing import MemoryEndpoint, MemoryLab

__all__ = ["Cut", "Seen", "Visit", "run_script"]

_PATIENCE = 1000.0
_STEP = 0.01


class Cut(NamedTuple):
    """A connection fails when so many bytes have come to the client, or to the server."""

    to_client: bool
    after: int


class CuttingEndpoint(MemoryEndpoint):
    """Each connection but the first is cut as the next of ``cuts`` says, until there are no more."""

    cuts: Iterator[Cut] = iter(())
    connected = 0

    @override
    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting = super().connect(protocolFactory)
        self.connected += 1
        if self.connected > 1:
            self.cut_next()
        return connecting

    def cut_next(self) -> None:
        """Prepare the next cut, of the latest connection."""
        cut = next(self.cuts, None)
        if cut is not None:
            client = self.connections[-1]
            end = client if cut.to_client else client.other
            assert end is not None
            end.cut_after(cut.after)


class Seen(NamedTuple):
    """What came of a script: the packets that the debugger got, and what the target was asked and answered."""

    packets: list[Packet]
    requests: list[bytes]
    answers: list[Packet]


class Visit:
    """A debugger's visit. ``pump`` lets time pass until something is so."""

    def __init__(self, cuts: Iterable[Cut] = (), latency: float = 0.01) -> None:
        self.lab = MemoryLab(latency=latency)
        self.endpoint = CuttingEndpoint(self.lab.clock, self.lab.server, latency)
        self.lab.endpoint = self.endpoint
        self.news: list[News] = []
        route = Route(self.lab.clock, self.endpoint, "the lab", "sim:", "a test")
        self.session = LastingSession(route, endurance=Endurance.EVERYTHING, tell=self.news.append, random=lambda: 0.0)
        self.bridge = self.session.user = Bridge(self.lab.clock, self.session, Watcher())
        self.lab.run(self.session.open())
        self.endpoint.cuts = iter(cuts)
        self.endpoint.cut_next()
        self.debugger = Debugger(self.lab.clock, self.bridge)
        self.pool: int = self.target.machine.kernel.pool(4096)
        self.packets: list[Packet] = []
        self._waiting: dict[int, list[Packet]] = {}

    @property
    def target(self) -> Any:
        return self.lab.simulated()

    def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until it is so."""
        end = self.lab.clock.seconds() + _PATIENCE
        while not condition():
            assert self.lab.clock.seconds() < end, f"it does not happen; {[str(news) for news in self.news]}"
            self.lab.advance(_STEP)
            for packet in self.debugger.take():
                self.packets.append(packet)
                self._waiting.setdefault(packet.type, []).append(packet)

    def next(self, packet_type: int, count: int = 1) -> list[Packet]:
        """The packets of a type that are next in turn, when they have come."""
        waiting = self._waiting.setdefault(packet_type, [])
        self.until(lambda: len(waiting) >= count)
        taken, waiting[:count] = waiting[:count], []
        return taken

    def go(self, request: Manipulate) -> None:
        """Let the target go, over the breakpoint instruction of a break-in if it stands at one."""
        processor = self.target.machine.current
        if self.target.memory.read_virtual(processor.pc, 1) == b"\xcc":
            processor.registers[RIP] += 1
        self.debugger.ask(request)

    def ask(self, *requests: Manipulate) -> list[Manipulate]:
        """The replies to requests that are asked without waiting in between."""
        for request in requests:
            self.debugger.ask(request)
        replies = [Manipulate.decode(p.payload) for p in self.next(PacketType.STATE_MANIPULATE, len(requests))]
        assert [reply.api for reply in replies] == [request.api for request in requests]
        return replies

    def fall_silent(self) -> None:
        """The latest connection dies without a sign: neither end is told, and nothing arrives any more."""
        client = self.endpoint.connections[-1]
        for end in (client, client.other):
            assert end is not None
            end._arriving.clear()
            end._arrive = lambda data: None  # type: ignore[method-assign]

    def act(self, action: Callable[[Any, float], object]) -> None:
        """Let the target do something by itself."""
        live = self.lab.targets["sim"]
        action(live.target, self.lab.clock.seconds())
        live.flush()

    def close(self) -> Seen:
        """Leave, still in the first session; nothing may be left in the clock."""
        assert not any(isinstance(news, Renewed) for news in self.news)
        self.session.leave()
        self.bridge.close()
        seen = Seen(self.packets, [each.encode() for each in self.target.log], list(self.target.answers))
        self.lab.advance(10)
        self.lab.close()
        self.lab.advance(1)
        assert self.lab.clock.getDelayedCalls() == []
        return seen


def reads(base: int, count: int, size: int) -> list[Manipulate]:
    return [Manipulate.read_virtual(base + number * 16, size) for number in range(count)]


def run_script(visit: Visit) -> None:
    """Attach, read, write, run, hear prints, answer a prompt, break in, read."""
    debugger, target = visit.debugger, visit.target
    debugger.reset()
    visit.next(PacketType.STATE_CHANGE64)
    kernel, pool = target.machine.kernel, visit.pool
    # many requests under way in one direction, and many replies in the other
    visit.ask(Manipulate.get_version(), *reads(KERNEL_BASE, 20, 600), Manipulate.get_context())
    visit.ask(*(Manipulate.write_virtual(pool + at * 8, struct.pack("<Q", at * 3)) for at in range(12)))
    (reply,) = visit.ask(Manipulate.read_virtual(pool, 96))
    assert reply.data == b"".join(struct.pack("<Q", at * 3) for at in range(12))
    (breakpoint_,) = visit.ask(Manipulate.write_breakpoint(kernel.worker_routines["WorkerStep"]))
    visit.go(Manipulate.continue_())
    visit.next(PacketType.STATE_CHANGE64)
    for _ in range(2):
        visit.go(Manipulate.continue2(trace=True))
        visit.next(PacketType.STATE_CHANGE64)
    visit.ask(Manipulate.restore_breakpoint(breakpoint_["handle"]))
    # the program is not to run on by itself: how far it comes is a matter of time
    target.machine.patched = False
    visit.go(Manipulate.continue_())
    for number in range(15):
        visit.act(lambda target, now, number=number: target.print(f"line {number}\n", now))
    visit.next(PacketType.DEBUG_IO, 15)
    answered = len(target.answers)
    visit.act(lambda target, now: target.prompt("how?", now))
    (question,) = visit.next(PacketType.DEBUG_IO)
    debugger.say(PacketType.DEBUG_IO, DebugIo.decode(question.payload).answer(b"so").encode())
    visit.until(lambda: len(target.answers) == answered + 1)
    debugger.break_in()
    visit.next(PacketType.STATE_CHANGE64)
    visit.ask(*reads(KERNEL_BASE + 4096, 10, 1000))
