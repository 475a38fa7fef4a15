"""A bridge on a bench: a debugger's link on one side, on the other a session that the test plays or a real one."""

from __future__ import annotations

from session_bench import QuietLine, SimBench, pass_time
from twisted.internet.task import Clock

from kdsrv.bridge.bridge import Bridge
from kdsrv.errors import KdsrvError, LinkLost
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.host_link import HostLink
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.sessions.status import Status
from kdsrv.sessions.uplink import Uplink

__all__ = ["BridgeBench", "Debugger", "FarSession", "Watcher", "printed", "session_and_bridge"]


def printed(text: bytes) -> Packet:
    return Packet(PacketType.DEBUG_IO, DebugIo.print_string(text).encode())


class FarSession:
    """An uplink that keeps what it is asked. With ``stop`` it answers a resync at once, as a session here does."""

    def __init__(self) -> None:
        self.bridge: Bridge | None = None
        self.stop: Packet | None = None
        self.answers_at_once = True
        self.asked: list[Packet] = []
        self.break_ins = 0
        self.resyncs = 0

    def send_packet(self, packet_type: int, payload: bytes) -> None:
        self.asked.append(Packet(packet_type, payload))

    def break_in(self) -> None:
        self.break_ins += 1

    def resync(self) -> None:
        self.resyncs += 1
        if self.answers_at_once:
            self.echo()

    def echo(self) -> None:
        """What comes after a resync."""
        assert self.bridge is not None
        self.bridge.resynced()
        if self.stop is not None:
            self.bridge.packet_received(self.stop)


class Watcher:
    """Who watches a bridge."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.unseen: list[Packet] = []
        self.statuses: list[Status] = []

    def debugger_came(self, line: str) -> None:
        self.said.append("came")

    def debugger_left(self, line: str) -> None:
        self.said.append("left")

    def printed_unseen(self, packet: Packet) -> None:
        self.unseen.append(packet)

    def status_changed(self, status: Status) -> None:
        self.statuses.append(status)

    def session_lost(self, reason: KdsrvError) -> None:
        self.said.append("lost")


class Debugger:
    """A debugger's link on a line to a bridge. ``got`` is what it was sent and has not looked at."""

    def __init__(self, clock: Clock, bridge: Bridge) -> None:
        self.line = QuietLine()
        self.link = HostLink()
        self.got: list[Packet] = []
        self._clock = clock
        self._bridge = bridge
        self.let_in = bridge.attach(self.line)

    def pump(self) -> None:
        """Carry bytes both ways until both ends are silent."""
        while True:
            said = self.line.take()
            if said:
                events = self.link.receive(said, self._clock.seconds())
                self.got += [event for event in events if isinstance(event, Packet)]
            answer = self.link.take_output()
            if answer:
                self._bridge.bytes_received(answer)
            elif not said:
                return

    def reset(self) -> None:
        self.link.resync(self._clock.seconds())
        self.pump()

    def break_in(self) -> None:
        self.link.break_in(self._clock.seconds())
        self.pump()

    def ask(self, request: Manipulate) -> None:
        self.say(PacketType.STATE_MANIPULATE, request.encode())

    def say(self, packet_type: int, payload: bytes) -> None:
        self.link.send(packet_type, payload, self._clock.seconds())
        self.pump()

    def take(self) -> list[Packet]:
        """What has come since the last time."""
        self.pump()
        got, self.got = self.got, []
        return got

    def leave(self) -> None:
        self._bridge.transport_lost(LinkLost(target="a debugger's line", why="its other end closed"))


class BridgeBench:
    """A bridge whose session is the test's."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.session = FarSession()
        self.watcher = Watcher()
        self.bridge = self.session.bridge = Bridge(self.clock, self.session, self.watcher)

    def come(self) -> Debugger:
        return Debugger(self.clock, self.bridge)

    def give(self, *packets: Packet) -> None:
        for packet in packets:
            self.bridge.packet_received(packet)

    def use(self, uplink: Uplink) -> None:
        self.bridge.use(uplink)

    def wait(self, seconds: float) -> None:
        pass_time(self.clock, seconds)


def session_and_bridge() -> tuple[SimBench, Bridge, Watcher]:
    """A bridge of a session on a simulated target that is halted."""
    bench = SimBench()
    watcher = Watcher()
    bridge = Bridge(bench.clock, bench.session, watcher)
    bench.session.user = bridge
    bench.wait(1)
    return bench, bridge, watcher
