"""A small debugger on a simulated target: a host link, joined to the target under a clock of its own."""

from __future__ import annotations

from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.host_link import HostLink
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.sim.faults import Line
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget

__all__ = ["SimDebugger"]


class SimDebugger:
    """``packets`` is what the target said and nobody has asked for yet; time passes only in `wait`."""

    def __init__(self, options: SimOptions | None = None, line: Line | None = None) -> None:
        self.now = 100.0
        self.target = SimulatedTarget(options, self.now)
        self.line: Line = self.target if line is None else line
        self.link = HostLink()
        self.packets: list[Packet] = []
        self.pump()

    def pump(self) -> None:
        """Carry bytes both ways until both ends are silent."""
        while True:
            said = self.line.take_output()
            self.packets += [event for event in self.link.receive(said, self.now) if isinstance(event, Packet)]
            answer = self.link.take_output()
            if answer:
                self.line.receive(answer, self.now)
            elif not said:
                return

    def wait(self, seconds: float) -> None:
        """Let time pass, with every deadline of either end kept."""
        end = self.now + seconds
        while True:
            self.pump()
            deadlines = [time for time in (self.line.deadline, self.link.deadline) if time is not None]
            self.now = min([end, *(max(time, self.now) for time in deadlines)])
            if self.now >= end:
                return
            self.line.expire(self.now)
            self.packets += [event for event in self.link.expire(self.now) if isinstance(event, Packet)]

    def send(self, request: Manipulate) -> None:
        self.link.send(PacketType.STATE_MANIPULATE, request.encode(), self.now)
        self.pump()

    def ask(self, request: Manipulate) -> Manipulate:
        """The reply to a request; the target says nothing else meanwhile."""
        self.send(request)
        return Manipulate.decode(self.take(PacketType.STATE_MANIPULATE))

    def take(self, packet_type: int) -> bytes:
        """The oldest packet not taken yet, which has to be of this type."""
        packet = self.packets.pop(0)
        assert packet.type == packet_type
        return packet.payload

    def stop(self) -> StateChange:
        """The state change that the target has sent."""
        return StateChange.decode(self.take(PacketType.STATE_CHANGE64))

    def text(self) -> bytes:
        """What the target has printed."""
        return DebugIo.decode(self.take(PacketType.DEBUG_IO)).text

    def break_in(self) -> StateChange:
        self.link.break_in(self.now)
        self.pump()
        return self.stop()
