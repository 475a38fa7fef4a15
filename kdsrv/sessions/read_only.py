"""What a user who may only look at a target is answered in the target's place (docs/policy.md, "Looking only").

A debugger must not hang over what it may not do, so everything gets the answer that moves it on:

    what it sends                         what it gets
    a request that has a reply            the request's own 56 bytes, status 0xC0000022 (access denied), in its turn
    Continue, Reboot, SwitchProcessor     the stop that the target stands at, once more
    a request that has no reply           nothing
    a break-in, an answer to a prompt     a line of status

What the target asks of its debugger and would wait for is answered by the server, as a debugger answers that has
nothing to say: a file that is asked for is not there, and a load of a module is passed on.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kdsrv.kd.api import NO_REPLY, RUNS_TARGET, Api, api_name, api_number, changes_target
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import LOAD_SYMBOLS, StateChange
from kdsrv.kd.statuses import Status

__all__ = ["Refusal", "file_refusal", "pass_module", "refusal"]

_STOP_AGAIN: Final = RUNS_TARGET | {Api.SWITCH_PROCESSOR}


class Refusal(NamedTuple):
    """What the user gets in place of the target's answer: a reply, the stop once more, or neither. ``told`` is what
    was refused, for people, where no reply tells the debugger."""

    reply: Packet | None = None
    stop_again: bool = False
    told: str | None = None


def refusal(payload: bytes) -> Refusal | None:
    """How this request (of at least four bytes) is refused; None if it is mere looking, and goes to the target."""
    api = api_number(payload)
    if not changes_target(api):
        return None
    if api in NO_REPLY:
        return Refusal(stop_again=api in _STOP_AGAIN, told=api_name(api))
    request = Manipulate.decode(payload.ljust(Manipulate.SIZE, b"\0"))
    return Refusal(reply=Packet(PacketType.STATE_MANIPULATE, request.reply(Status.ACCESS_DENIED).encode()))


def file_refusal(payload: bytes) -> bytes | None:
    """The answer "no such file" to a file request of the target; None if it is too short to be one."""
    try:
        return FileIo.decode(payload).refusal().encode()
    except PayloadError:
        return None


def pass_module(stop: Packet) -> bytes | None:
    """The Continue after a module was loaded or unloaded, or before the target goes down; None for any other stop."""
    if stop.type != PacketType.STATE_CHANGE64:
        return None
    try:
        change = StateChange.decode(stop.payload)
    except PayloadError:
        return None
    return Manipulate.continue_(processor=change.processor).encode() if change.kind == LOAD_SYMBOLS else None
