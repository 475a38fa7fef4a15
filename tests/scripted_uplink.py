"""An uplink that a test answers by hand, and the packets of a target for it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from kdsrv.client import Target
from kdsrv.client.conversation import Conversation
from kdsrv.kd import amd64
from kdsrv.kd.layout import Record
from kdsrv.kd.machine import Machine
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.kd.statuses import Status
from kdsrv.kd.version import Version
from kdsrv.sessions.status import Quiet

__all__ = ["ScriptedUplink", "result_of", "stop_at"]

Answerer = Callable[[Manipulate], Manipulate | None]


def stop_at(pc: int, code: int = Status.BREAKPOINT, *, report: Record | None = None, processors: int = 2) -> Packet:
    """A state change."""
    if report is None:
        report = amd64.ControlReport.build(instruction_count=16, dr7=0x400)
    change = StateChange.exception(code, pc, report=report, processors=processors)
    return Packet(PacketType.STATE_CHANGE64, change.encode())


def result_of(work: Deferred[object]) -> object:
    """What is there already, or the exception."""
    found: list[object] = []
    work.addBoth(found.append)
    assert found, "nothing has come yet"
    failure = found[0]
    if hasattr(failure, "raiseException"):
        failure.raiseException()
    return failure


class ScriptedUplink:
    """Keeps what a program asks for. ``answer_all`` answers with what ``answerer`` makes of each request, in order;
    GetVersion is answered by itself with that of ``machine``."""

    def __init__(self, machine: Machine = Machine.AMD64) -> None:
        self.clock = Clock()
        self.asked: list[Manipulate] = []
        self.sent: list[Packet] = []
        self.break_ins = 0
        self.resyncs = 0
        self.conversation = Conversation(self.clock, self, Quiet(0.0))
        self.target = Target(self.conversation, "scripted", "a scripted target", lambda: succeed(None))
        self._version = Version.build(machine_type=machine, flags=4 if machine.pointer_size == 8 else 0)

    def send_packet(self, packet_type: int, payload: bytes) -> None:
        if packet_type == PacketType.STATE_MANIPULATE:
            self.asked.append(Manipulate.decode(payload))
        else:
            self.sent.append(Packet(packet_type, payload))

    def break_in(self) -> None:
        self.break_ins += 1

    def resync(self) -> None:
        self.resyncs += 1
        self.asked.clear()

    def stop(self, pc: int, code: int = Status.BREAKPOINT, *, report: Record | None = None) -> None:
        self.conversation.packet_received(stop_at(pc, code, report=report))

    def reply(self, reply: Manipulate) -> None:
        self.conversation.packet_received(Packet(PacketType.STATE_MANIPULATE, reply.encode()))

    def answer_all(self, answerer: Answerer) -> list[Manipulate]:
        """Answer until nothing more is asked; all that was asked. None from ``answerer`` gives no reply."""
        answered = []
        while self.asked:
            request = self.asked.pop(0)
            answered.append(request)
            known = request.reply_version(self._version) if request.name == "GetVersion" else answerer(request)
            if known is not None:
                self.reply(known)
        return answered
