"""The client: sessions for programs, and what ``kdsrv connect`` is made of."""

from __future__ import annotations

from kdsrv.client.api import Opening, open_session, open_session_in_process, open_session_over
from kdsrv.client.breaks import ServerAway
from kdsrv.client.connecting import ServerUnreachable
from kdsrv.client.events import (
    Event,
    EventsDropped,
    EventStream,
    FileAsked,
    ModuleLoaded,
    ModuleUnloaded,
    OtherPacket,
    Printed,
    Prompted,
    Rebooting,
    SessionLost,
    StatusChanged,
    Stop,
    Stopped,
)
from kdsrv.client.failures import (
    MemoryUnreadable,
    MemoryUnwritable,
    RequestFailed,
    RequestLost,
    ServerGone,
    ServerRefused,
    SessionEnded,
    TargetRunning,
    TookTooLong,
    TooManyRequests,
)
from kdsrv.client.registers import Context, SpecialRegisters
from kdsrv.client.running import Breakpoint
from kdsrv.client.target import Target
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.tenant import Take

__all__ = [
    "Breakpoint",
    "Context",
    "Event",
    "EventStream",
    "EventsDropped",
    "FileAsked",
    "MemoryUnreadable",
    "MemoryUnwritable",
    "ModuleLoaded",
    "ModuleUnloaded",
    "OnLeave",
    "Opening",
    "OtherPacket",
    "Printed",
    "Prompted",
    "Rebooting",
    "RequestFailed",
    "RequestLost",
    "ServerAway",
    "ServerGone",
    "ServerRefused",
    "ServerUnreachable",
    "SessionEnded",
    "SessionLost",
    "SpecialRegisters",
    "StatusChanged",
    "Stop",
    "Stopped",
    "Take",
    "Target",
    "TargetRunning",
    "TooManyRequests",
    "TookTooLong",
    "open_session",
    "open_session_in_process",
    "open_session_over",
]
