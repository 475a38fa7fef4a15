"""A small debugger at a simulated FireWire bus: transport and link, driven as a session does it, under a clock."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from firewire_bus import FireWireBus
from firewire_target import FireWireTarget
from twisted.internet.task import Clock

from kdsrv.connection_strings.kd import FireWireSpec
from kdsrv.errors import TargetError
from kdsrv.firewire.link import MailboxLink
from kdsrv.kd.amd64 import Context
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.link import Event, GaveUp
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.link_driver import LinkDriver
from kdsrv.sessions.status import Status
from kdsrv.transports.firewire import FireWireTransport, open_firewire

__all__ = ["Desk", "advance"]


def advance(clock: Clock, seconds: float) -> None:
    """Let time pass, all that is due in it happening in its order."""
    end = clock.seconds() + seconds
    while (due := min((call.getTime() for call in clock.getDelayedCalls()), default=None)) is not None and due <= end:
        clock.advance(max(0.0, due - clock.seconds()))
    clock.advance(max(0.0, end - clock.seconds()))


class Desk:
    """``packets`` is what the target said and nobody has asked for yet; ``events`` what the transport told besides, and
    ``gave_up`` what the link gave up. Time passes in `wait`, and as far as needed in whatever waits for something.

    ``clock`` and ``bus`` are those of another desk at the same host, if there is one.
    """

    def __init__(self, channel: int = 0, clock: Clock | None = None, bus: FireWireBus | None = None) -> None:
        self.clock = Clock() if clock is None else clock
        self.clock.advance(1000.0)
        self.folder = tempfile.mkdtemp() if bus is None else ""
        self.bus = FireWireBus(self.clock, Path(self.folder)) if bus is None else bus
        self.link = MailboxLink()
        self.packets: list[Packet] = []
        self.events: list[str] = []
        self.reasons: list[TargetError] = []
        self.gave_up: list[GaveUp] = []
        self.channel = channel
        self.driver = LinkDriver(self.clock, self.link, self._on_event, self._write)
        self.transport: FireWireTransport | None = None

    def attach(self, *, wait: float = 0.05) -> None:
        self.transport = open_firewire(self.bus.host, FireWireSpec(self.channel))
        self.transport.start(self)
        self.resync()
        self.wait(wait)

    def leave(self) -> None:
        """The debugger goes."""
        self.driver.stop()
        if self.transport is not None:
            self.transport.close()

    def close(self) -> None:
        """The end; nothing may be left in the clock, and no node open."""
        self.leave()
        self.wait(1.0)
        shutil.rmtree(self.folder)
        assert not self.clock.getDelayedCalls()
        assert self.bus.is_at_rest

    def wait(self, seconds: float) -> None:
        advance(self.clock, seconds)

    @property
    def now(self) -> float:
        return self.clock.seconds()

    def plug(self, target: FireWireTarget | None = None) -> FireWireTarget:
        target = FireWireTarget(self.channel, now=self.now) if target is None else target
        self.bus.plug(target)
        return target

    # What a session does

    def resync(self) -> None:
        self.driver.run(self.link.resync(self.now))

    def break_in(self) -> None:
        self.link.break_in(self.now)
        self.driver.flush()

    def send(self, request: Manipulate) -> None:
        self.link.send(PacketType.STATE_MANIPULATE, request.encode(), self.now)
        self.driver.flush()

    def ask(self, request: Manipulate, wait: float = 1.0) -> Manipulate:
        self.send(request)
        return Manipulate.decode(self.take(PacketType.STATE_MANIPULATE, wait))

    def go(self) -> None:
        """Let a target go on behind the breakpoint instruction at which a break-in has stopped it."""
        context = Context.from_bytes(self.ask(Manipulate.get_context()).data)
        assert self.ask(Manipulate.set_context(context.replace(rip=context["rip"] + 1))).succeeded
        self.send(Manipulate.continue_())

    def take(self, packet_type: int, wait: float = 1.0) -> bytes:
        """The oldest packet not taken yet, which has to be of this type."""
        end = self.now + wait
        while not self.packets and self.now < end:
            self.wait(0.001)
        packet = self.packets.pop(0)
        assert packet.type == packet_type
        return packet.payload

    def stop(self, wait: float = 1.0) -> StateChange:
        return StateChange.decode(self.take(PacketType.STATE_CHANGE64, wait))

    def text(self, wait: float = 1.0) -> bytes:
        return DebugIo.decode(self.take(PacketType.DEBUG_IO, wait)).text

    # What the transport and the link tell

    def bytes_received(self, data: bytes) -> int:
        return self.driver.bytes_received(data)

    def transport_interrupted(self, why: str | Status) -> None:
        assert isinstance(why, str)
        self.events.append(why)

    def transport_resumed(self) -> None:
        self.events.append("resumed")
        self.resync()

    def transport_lost(self, reason: TargetError) -> None:
        self.reasons.append(reason)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Packet):
            self.packets.append(event)
        elif isinstance(event, GaveUp):
            self.gave_up.append(event)

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)
