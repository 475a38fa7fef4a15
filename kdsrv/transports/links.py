"""Which kind of link goes on which medium."""

from __future__ import annotations

from typing import Final

from kdsrv.connection_strings import FireWireSpec, KdSpec, NetSpec, PipeSpec
from kdsrv.firewire.link import MailboxLink
from kdsrv.kd.host_link import HostLink
from kdsrv.kd.link import HostRole
from kdsrv.kdnet.link import NetLink
from kdsrv.transports.transport import Transport

__all__ = ["link_for"]

_RESETS: Final = 3
"""How often in a row a RESET goes out without an answer, where the string says nothing."""


def link_for(spec: KdSpec, transport: Transport) -> HostRole:
    """The link for a transport that was opened for ``spec``."""
    if isinstance(spec, NetSpec):
        return NetLink()
    if isinstance(spec, FireWireSpec):
        return MailboxLink()
    resets = spec.resets if isinstance(spec, PipeSpec) and spec.resets is not None else _RESETS
    return HostLink(byte_time=transport.byte_time, resets=resets)
