"""A state change as a status: what a target that halted says of itself."""

from __future__ import annotations

from typing import Final

from kdsrv.errors import PeerError
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import COMMAND_STRING, LOAD_SYMBOLS, StateChange
from kdsrv.sessions.status import Halted, HaltReason

__all__ = ["describe_stop"]

_UNREADABLE: Final = Halted(0, HaltReason.COMMAND, text="of a kind that kdsrv cannot read")


def describe_stop(packet: Packet) -> Halted:
    """Why and where the target halted. One that cannot be read (an old or unknown form) is said to be so."""
    if packet.type != PacketType.STATE_CHANGE64:
        return _UNREADABLE
    try:
        change = StateChange.decode(packet.payload)
        processor, counter = change.processor, change.program_counter
        if change.is_reboot or change.is_hibernation:
            return Halted(processor, HaltReason.MODULE_UNLOAD, text="of everything: the target goes down")
        if change.kind == LOAD_SYMBOLS:
            reason = HaltReason.MODULE_UNLOAD if change["unload"] else HaltReason.MODULE_LOAD
            return Halted(processor, reason, address=change["base"], text=change.path.decode("latin-1"))
        if change.kind == COMMAND_STRING:
            return Halted(processor, HaltReason.COMMAND, address=counter, text=change.command[1].decode("latin-1"))
        code = change["exception_code"]
        return Halted(processor, HaltReason.of_exception(code), code, counter)
    except (PeerError, KeyError):
        return _UNREADABLE
