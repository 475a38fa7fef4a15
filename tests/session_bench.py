"""A session on a bench. Its user keeps what it is told, the line is a buffer or a simulated target, time a clock."""

from __future__ import annotations

from twisted.internet.task import Clock

from kdsrv.errors import KdsrvError
from kdsrv.kd.framing import HostFramer, HostPacket
from kdsrv.kd.host_link import HostLink
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import INITIAL_ID, MAX_PAYLOAD, Packet, PacketType, encode_control, encode_data
from kdsrv.kd.state_change import StateChange
from kdsrv.kd.target_link import TargetLink
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.session import Session
from kdsrv.sessions.status import Status
from kdsrv.sim.decoder import RIP
from kdsrv.sim.faults import FaultRates
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget
from kdsrv.transports.simulated import LiveTarget, SimulatedTransport
from kdsrv.transports.transport import Receiver

__all__ = ["RESET", "LineBench", "Observer", "QuietLine", "SimBench", "User", "pass_time", "stop_payload"]

RESET = encode_control(PacketType.RESET)


def pass_time(clock: Clock, seconds: float) -> None:
    """Let time pass, each timer ringing at its own time."""
    end = clock.seconds() + seconds
    while (calls := clock.getDelayedCalls()) and (due := min(call.getTime() for call in calls)) <= end:
        clock.advance(max(0.0, due - clock.seconds()) + 1e-9)
    clock.advance(max(0.0, end - clock.seconds()))


def host_link(room: int, byte_time: float = 0.0, resets: int = 3) -> HostLink:
    """A link on a medium that carries payloads of ``room`` bytes."""
    link = HostLink(byte_time=byte_time, resets=resets)
    link.max_request = link.max_reply = room
    return link


def stop_payload(address: int, code: int = 0x80000003) -> bytes:
    return StateChange.exception(code, address, report=bytes(48)).encode()


class User:
    """Uses a session and keeps what it brings, in order: packets, words, statuses, numbers of lost requests."""

    def __init__(self) -> None:
        self.events: list[Packet | str | int | Status | KdsrvError] = []

    def packet_received(self, packet: Packet) -> None:
        self.events.append(packet)

    def resynced(self) -> None:
        self.events.append("resynced")

    def requests_lost(self, count: int) -> None:
        self.events.append(count)

    def status_changed(self, status: Status) -> None:
        self.events.append(status)

    def session_lost(self, reason: KdsrvError) -> None:
        self.events.append(reason)

    @property
    def packets(self) -> list[Packet]:
        return [event for event in self.events if isinstance(event, Packet)]

    @property
    def replies(self) -> list[Manipulate]:
        return [Manipulate.decode(p.payload) for p in self.packets if p.type == PacketType.STATE_MANIPULATE]

    @property
    def stops(self) -> list[StateChange]:
        return [StateChange.decode(p.payload) for p in self.packets if p.type == PacketType.STATE_CHANGE64]

    @property
    def sentences(self) -> list[str]:
        return [event.sentence() for event in self.events if isinstance(event, Status)]

    @property
    def lost(self) -> int:
        return sum(event for event in self.events if isinstance(event, int))


class Observer:
    """Looks on and keeps what it is told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def packet_from_target(self, packet: Packet) -> None:
        self.events.append(("from", packet))

    def packet_to_target(self, packet: Packet) -> None:
        self.events.append(("to", packet))

    def break_in_sent(self) -> None:
        self.events.append(("break in", None))

    def status_changed(self, status: Status) -> None:
        self.events.append(("status", status))

    def holder_changed(self, lease: Lease) -> None:
        self.events.append(("holder", lease))

    def session_ended(self) -> None:
        self.events.append(("end", None))


class QuietLine:
    """A transport on which nothing happens by itself."""

    description = "a line of a test"
    byte_time = 0.0

    def __init__(self) -> None:
        self.written = bytearray()
        self.receiver: Receiver | None = None
        self.closed = False

    def start(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        """What has been written since the last time."""
        data = bytes(self.written)
        self.written.clear()
        return data


class LineBench:
    """A session whose target is played by the test, byte by byte."""

    def __init__(self, *, max_resets: int = 3, room: int = MAX_PAYLOAD) -> None:
        self.clock = Clock()
        self.line = QuietLine()
        self.user = User()
        lease = Lease("line", "a test", "here", 0.0)
        self.session = Session(self.clock, "line", self.line, host_link(room, resets=max_resets), lease)
        self.session.start(self.user)

    def hear(self, *frames: bytes) -> None:
        self.session.bytes_received(b"".join(frames))

    def halt(self, address: int = 0x1000) -> None:
        """Answer the opening RESET and announce a stop."""
        self.hear(RESET, encode_data(PacketType.STATE_CHANGE64, INITIAL_ID, stop_payload(address)))
        self.forget()

    def forget(self) -> None:
        self.line.take()
        self.user.events.clear()

    def ask(self, request: Manipulate) -> None:
        self.session.send_packet(PacketType.STATE_MANIPULATE, request.encode())

    def said(self) -> list[HostPacket]:
        """The packets written since the last time."""
        framer = HostFramer()
        framer.feed(self.line.take())
        packets = []
        while (packet := framer.next_packet()) is not None:
            packets.append(packet)
        return packets

    def asked(self) -> list[int]:
        """The addresses of the reads written since the last time."""
        return [Manipulate.decode(p.payload)["address"] for p in self.said() if p.type == PacketType.STATE_MANIPULATE]

    def wait(self, seconds: float) -> None:
        pass_time(self.clock, seconds)


class SimBench:
    """A session on a simulated target. ``room`` is the largest payload, in bytes, that the medium carries."""

    def __init__(
        self,
        options: SimOptions | None = None,
        rates: FaultRates | None = None,
        seed: int = 0,
        room: int = MAX_PAYLOAD,
    ) -> None:
        self.clock = Clock()
        self.room = room
        target_link = TargetLink()
        target_link.max_reply = room
        self.target = SimulatedTarget(options, 0.0, None if room == MAX_PAYLOAD else target_link)
        self.live = LiveTarget(self.clock, self.target, rates or FaultRates(), seed)
        self.wait(2.5)
        self.open()

    def open(self) -> None:
        """Another session, of another user, who finds the target as it is."""
        self.user = User()
        transport = SimulatedTransport(self.clock, self.live, "simulated", 0.0)
        link = host_link(self.room, byte_time=transport.byte_time)
        self.session = Session(self.clock, "sim", transport, link, Lease("sim", "a test", "here", 0.0))
        self.session.start(self.user)

    def ask(self, request: Manipulate) -> None:
        self.session.send_packet(PacketType.STATE_MANIPULATE, request.encode())

    def step_over_break(self) -> None:
        """Move the program counter past the int3 of a break-in, as debuggers do before they continue."""
        processor = self.target.machine.current
        if self.target.memory.read_virtual(processor.pc, 1) == b"\xcc":
            processor.registers[RIP] += 1

    def wait(self, seconds: float) -> None:
        pass_time(self.clock, seconds)

    def close(self) -> None:
        """End; nothing may be left in the clock."""
        self.session.close()
        self.live.stop()
        assert self.clock.getDelayedCalls() == []
