"""A recording played back: a target that does again what the recorded one did, for a debugger to look at.

It goes from scene to scene (timeline.py). When the debugger lets it run, it says what was said after that stop, and
stops where the recorded target stopped next. If that was because somebody had broken in, it waits until the debugger
does so too. Behind the last scene it runs in silence, and a break-in leads back to the last stop.

    running    says what there is to say, then halts; of the debugger it wants nothing but a break-in
    asking     said a prompt, or asked for a file: any answer will do
    halted     answers as it was answered then; what was never asked fails, with status C0000001

Nothing is said before somebody is heard. It has the face of a link: receive, expire, deadline, take_output.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from kdsrv.errors import PeerError
from kdsrv.kd.api import Api
from kdsrv.kd.link import Acknowledged, BreakIn, Event, GaveUp, ResendAsked, ResetSeen
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.kd.target_link import TargetLink
from kdsrv.recorder.timeline import Timeline, runs_target
from kdsrv.sessions.outbox import is_print

__all__ = ["ReplayedTarget"]


class _State(Enum):
    RUNNING = auto()
    ASKING = auto()
    HALTED = auto()


class ReplayedTarget:
    """Plays ``timeline`` on a serial line. ``asked`` and ``refused`` count requests."""

    def __init__(self, timeline: Timeline) -> None:
        self.asked = 0
        self.refused = 0
        self._link = TargetLink()
        self._link.running = True
        self._timeline = timeline
        self._at = 0
        self._to_say: deque[Packet] = deque(timeline.scenes[0].said)
        self._state = _State.RUNNING
        self._is_heard = self._is_wanted = False
        self._announcement = Packet(PacketType.STATE_CHANGE64, b"")
        self._position = 0

    @property
    def deadline(self) -> float | None:
        """When `expire` is wanted next."""
        return self._link.deadline

    def receive(self, data: bytes, now: float) -> None:
        """Bytes came from the debugger."""
        self._is_heard = True
        for event in self._link.receive(data, now):
            self._handle(event, now)
        self._advance(now)

    def expire(self, now: float) -> None:
        """``deadline`` has come."""
        for event in self._link.expire(now):
            self._handle(event, now)
        self._advance(now)

    def take_output(self) -> bytes:
        """Bytes for the debugger."""
        return self._link.take_output()

    def _advance(self, now: float) -> None:
        """Go on as far as the debugger lets us."""
        link = self._link
        while self._is_heard and self._state is _State.RUNNING and not link.backlog:
            if link.break_pending:
                link.break_pending, self._is_wanted = False, True
            scene = self._timeline.scenes[self._at]
            if self._to_say:
                self._say(self._to_say.popleft(), now)
            elif scene.stop is not None and (self._is_wanted or not scene.awaited):
                self._halt(now)
            elif scene.stop is None and self._is_wanted and self._at:
                self._at -= 1
                self._halt(now)
            else:
                link.running = True
                return

    def _say(self, packet: Packet, now: float) -> None:
        if is_print(packet):
            self._link.send(packet.type, packet.payload, now)
        else:
            self._stand(_State.ASKING, packet, now)

    def _halt(self, now: float) -> None:
        """Stop as the scene has it."""
        scene = self._timeline.scenes[self._at]
        assert scene.stop is not None
        self._is_wanted = False
        self._position = scene.span.begin
        self._stand(_State.HALTED, scene.stop, now)

    def _stand(self, state: _State, announcement: Packet, now: float) -> None:
        """Stand still: say why, and want only what fits."""
        self._state = state
        self._link.running = False
        asked = announcement.type if state is _State.ASKING else PacketType.STATE_MANIPULATE
        self._link.want = frozenset({asked})
        self._announcement = announcement
        self._announce(now)

    def _announce(self, now: float) -> None:
        self._link.send(self._announcement.type, self._announcement.payload, now)

    def _run(self) -> None:
        self._state = _State.RUNNING
        self._link.running = True

    def _go_on(self) -> None:
        """Leave the stop for what came after it."""
        if _goes_down(self._announcement):
            self._link.restart()
        self._at += 1
        self._to_say = deque(self._timeline.scenes[self._at].said)
        self._run()

    def _handle(self, event: Event, now: float) -> None:
        match event:
            case Packet(PacketType.STATE_MANIPULATE):
                self._handle_request(Manipulate.decode(event.payload), now)
            case Packet():
                if self._state is _State.ASKING:
                    self._run()
            case BreakIn():
                self._is_wanted = True
            case ResetSeen() | ResendAsked():
                if self._state is not _State.RUNNING:
                    self._announce(now)
            case GaveUp(PacketType.STATE_CHANGE64):
                self._go_on()
            case GaveUp(PacketType.FILE_IO):
                self._run()
            case Acknowledged() | GaveUp():
                pass

    def _handle_request(self, request: Manipulate, now: float) -> None:
        match request.kind:
            case Api.CONTINUE | Api.CONTINUE2 | Api.CAUSE_BUG_CHECK:
                self._go_on()
            case Api.REBOOT:
                self._link.restart()
                self._go_on()
            case Api.SWITCH_PROCESSOR:
                following = self._timeline.scenes[self._at + 1]
                if following.switched and _processor(following.stop) == request.processor:
                    self._at += 1
                self._halt(now)
            case Api.CLEAR_ALL_INTERNAL_BREAKPOINTS:
                pass
            case _:
                self._link.send(PacketType.STATE_MANIPULATE, self._reply(request), now)
                if runs_target(request):
                    self._go_on()

    def _reply(self, request: Manipulate) -> bytes:
        self.asked += 1
        answer = self._timeline.answer(request, self._timeline.scenes[self._at], self._position)
        if answer is None:
            self.refused += 1
            return request.reply_unknown().encode()
        self._position, payload = answer
        return payload


def _change(stop: Packet | None) -> StateChange | None:
    if stop is None or stop.type != PacketType.STATE_CHANGE64:
        return None
    try:
        return StateChange.decode(stop.payload)
    except PeerError:
        return None


def _processor(stop: Packet | None) -> int | None:
    change = _change(stop)
    return None if change is None else change.processor


def _goes_down(stop: Packet) -> bool:
    """Whether the machine reboots behind this stop; numbering starts again then."""
    change = _change(stop)
    return change is not None and (change.is_reboot or change.is_hibernation)
