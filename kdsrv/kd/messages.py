"""All payloads of KD data packets in one place, and the family that each packet type carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kdsrv.errors import PeerError
from kdsrv.kd.api import CHANGES_TARGET, NO_REPLY, RUNS_TARGET, Api, api_name, api_number, changes_target
from kdsrv.kd.debug_io import ControlRequest, DebugIo, TraceIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.layout import Payload, PayloadError
from kdsrv.kd.machine import Machine
from kdsrv.kd.manipulate import MAX_TRANSFER, Manipulate
from kdsrv.kd.packets import PacketType
from kdsrv.kd.state_change import ControlReport, StateChange, is_stop
from kdsrv.kd.statuses import Status, is_success, status_text
from kdsrv.kd.version import Version

__all__ = [
    "CHANGES_TARGET",
    "MAX_TRANSFER",
    "NO_REPLY",
    "PAYLOADS",
    "RUNS_TARGET",
    "Api",
    "ControlReport",
    "ControlRequest",
    "DebugIo",
    "FileIo",
    "Machine",
    "Manipulate",
    "PacketTypeError",
    "Payload",
    "PayloadError",
    "StateChange",
    "Status",
    "TraceIo",
    "Version",
    "api_name",
    "api_number",
    "changes_target",
    "decode",
    "is_stop",
    "is_success",
    "status_text",
]


class PacketTypeError(PeerError):
    """KD packets of type {type} carry nothing that is known here."""

    code = "bad-packet-type"


PAYLOADS: Final[Mapping[int, type[Payload]]] = {
    PacketType.STATE_MANIPULATE: Manipulate,
    PacketType.DEBUG_IO: DebugIo,
    PacketType.STATE_CHANGE64: StateChange,
    PacketType.TRACE_IO: TraceIo,
    PacketType.CONTROL_REQUEST: ControlRequest,
    PacketType.FILE_IO: FileIo,
}


def decode(packet_type: int, payload: bytes) -> Payload:
    """The payload of a packet as a value; ``decode(t, p).encode() == p``.

    Raises `PayloadError` when it is too short for its type and `PacketTypeError` for control packets and for the
    state change of NT4 and 2000.
    """
    family = PAYLOADS.get(packet_type)
    if family is None:
        raise PacketTypeError(type=packet_type)
    return family.decode(payload)
