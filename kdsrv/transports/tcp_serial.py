"""A serial port at the other end of a TCP connection: an emulator's, or that of a serial device server (raw mode)."""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectionAborted,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
    TimeoutError,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from kdsrv.errors import TargetError
from kdsrv.transports.descriptor import DescriptorTransport

__all__ = ["open_tcp_serial"]

_CONNECT_WITHIN: Final = 10.0
_PROBE_AFTER: Final = 30
_PROBE_EVERY: Final = 10
_PROBES: Final = 3
"""Seconds and counts of keep-alive: a host that lost its power is noticed within a minute."""


async def open_tcp_serial(reactor: Any, host: str, port: int) -> DescriptorTransport:
    """Connect to ``host`` (a name or an address of either family) within 10 s; errors are `TargetError` sentences.

    Twisted resolves and connects, a `DescriptorTransport` carries.
    """
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        endpoint = HostnameEndpoint(reactor, host, port, timeout=_CONNECT_WITHIN)
        connected = await endpoint.connect(_QuietFactory.forProtocol(Protocol))
    except (ConnectError, DNSLookupError, OSError, OverflowError, ValueError) as error:
        raise TargetError(target=target, why=_why(error, host)) from error
    return DescriptorTransport(reactor, f"TCP {target}", _take_over(connected))


class _QuietFactory(Factory):
    noisy = False


def _take_over(connected: Any) -> int:
    """Take the socket out of Twisted's transport, which then forgets it, and set it up for a request and its reply."""
    connection: socket.socket = connected.transport.getHandle().dup()
    # Twisted's abort closes its own descriptor and makes the last close of the connection a reset: undone below.
    connected.transport.connectionLost(Failure(ConnectionAborted()))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _PROBE_AFTER), ("TCP_KEEPINTVL", _PROBE_EVERY), ("TCP_KEEPCNT", _PROBES)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection.detach()


def _why(error: Exception, host: str) -> str:
    match error:
        case ConnectionRefusedError():
            return "nobody listens there; is the virtual machine or the device server running?"
        case DNSLookupError():
            return f"there is no host of the name {host}"
        case TimeoutError() | TCPTimedOutError():
            return f"no answer within {_CONNECT_WITHIN:.0f} seconds"
        case NoRouteError():
            return "there is no route to that host"
        case _:
            return f"cannot connect: {error}"
