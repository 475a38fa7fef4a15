"""A session of somebody who may only look at a target (docs/policy.md, "Looking only").

It sits at the places where something passes: a request whose turn it is, a break-in, an answer, what the target brings.
What is refused, and what the user gets instead, is for ``kdsrv.sessions.read_only``.

A target that stops only to tell of a module would go on without a debugger, so it is let go. That is not done to a stop
that was there before: somebody may have left the target so. A stop is new if the target was running, or silent for
longer than one that is halted leaves a RESET without answer, or if it is another one than that at which it stood.
"""

from __future__ import annotations

from typing import Final

from typing_extensions import override

from kdsrv.kd.packets import Packet, PacketType
from kdsrv.sessions.read_only import file_refusal, pass_module, refusal
from kdsrv.sessions.session import Session
from kdsrv.sessions.status import Quiet, Refused, RunState, Status

__all__ = ["ReadOnlySession"]

_SILENT: Final = 4.0


class ReadOnlySession(Session):
    """Like ``Session``, but nothing that its user says changes the target."""

    read_only = True
    _was_running = False
    _is_new_stop = False
    _stood_at: Packet | None = None
    _told: Status | None = None

    @property
    @override
    def description(self) -> str:
        return f"{super().description}, read-only"

    # What the user asks for

    @override
    def send_packet(self, packet_type: int, payload: bytes) -> None:
        if packet_type == PacketType.STATE_MANIPULATE:
            super().send_packet(packet_type, payload)
        else:
            self._tell(Refused("an answer", self.run_state))

    @override
    def break_in(self) -> None:
        if self.run_state is not RunState.HALTED:
            self._tell(Refused("the break-in", self.run_state))
        elif self._requests.api is None:
            if self.stop is not None:
                self._give(self.stop)
        elif self._requests.is_replied and self._is_overdue:
            self._lose_requests()
            self._reset()

    @override
    def resync(self) -> None:
        self._was_running = self._was_running or self._requests.runs_target
        super().resync()

    @override
    def _answers(self, payload: bytes) -> bool:
        refused = refusal(payload)
        if refused is None:
            return False
        if refused.told is not None:
            self._tell(Refused(refused.told, self.run_state))
        if refused.reply is not None:
            self._give(refused.reply)
        elif refused.stop_again and self.stop is not None:
            self._give(self.stop)
        return True

    # What the target brings

    @override
    def _on_stop(self, packet: Packet) -> None:
        went_on = self._was_running or self._requests.runs_target
        self._is_new_stop = went_on or (self._stood_at is not None and packet != self._stood_at)
        super()._on_stop(packet)
        self._was_running = False
        self._stood_at = packet

    @override
    def _give(self, packet: Packet) -> None:
        is_new, self._is_new_stop = self._is_new_stop, False
        if packet.type == PacketType.FILE_IO:
            self._refuse_file(packet)
        elif not (is_new and self._pass(packet)):
            super()._give(packet)

    @override
    def _lose_requests(self, *, in_flight_only: bool = False) -> None:
        # perhaps only the ACK of the Continue got lost, and the stop that comes next is another
        self._was_running = self._was_running or self._requests.runs_target
        super()._lose_requests(in_flight_only=in_flight_only)

    @override
    def _set_status(self, status: Status) -> None:
        silent = isinstance(status, Quiet) and status.seconds >= _SILENT
        if silent or status.run_state is RunState.RUNNING:
            self._was_running = True
        if status != self.status:
            self._told = None
        super()._set_status(status)

    # In the user's place

    def _refuse_file(self, request: Packet) -> None:
        answer = file_refusal(request.payload)
        if answer is not None:
            self._answer(answer)

    def _pass(self, stop: Packet) -> bool:
        """Let the target go on, if it stopped only to tell of a module."""
        go_on = pass_module(stop)
        if go_on is None or self._requests.api is not None:
            return False
        self._ask(go_on)
        return True

    def _tell(self, status: Status) -> None:
        """Say something in passing, once; how the target stands is not changed by it."""
        if status != self._told and self.user is not None:
            self._told = status
            self.user.status_changed(status)
