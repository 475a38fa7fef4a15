"""From a spec to an open transport: the table of media."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, fail

from kdsrv.connection_strings.kd import (
    FireWireSpec,
    KdSpec,
    ModemSpec,
    NetSpec,
    PipeSpec,
    SerialSpec,
    SimSpec,
    TcpSerialSpec,
    UsbSpec,
)
from kdsrv.errors import SetupError
from kdsrv.transports.devices import device_path
from kdsrv.transports.firewire import open_firewire
from kdsrv.transports.firewire_device import FireWireHost
from kdsrv.transports.net import net_target_key, open_net
from kdsrv.transports.pipe import open_pipe
from kdsrv.transports.reconnecting import ReconnectingTransport
from kdsrv.transports.serial import open_serial
from kdsrv.transports.tcp_serial import open_tcp_serial
from kdsrv.transports.transport import AbsentError, Transport

__all__ = ["Opener", "SimulatedSource", "target_key"]

_PORT: Final = "com1"
_BAUD: Final = 19200
"""What a string and an environment leave open (connection strings, 2.9)."""

_NOT_SUPPORTED: Final[dict[type[KdSpec], str]] = {
    ModemSpec: "modem",
    UsbSpec: "USB (usb:, usb2:)",
}


class SimulatedSource(Protocol):
    """Where simulated targets come from: they live in memory, outside the media."""

    def open(self, spec: SimSpec) -> Deferred[Transport]:
        """A transport to the simulated target that ``spec`` describes."""
        ...


class Opener:
    """Opens targets. ``reactor`` is a Twisted reactor with descriptors, time and TCP. ``firewire`` is the bus, if it is
    not that of the host."""

    def __init__(
        self, reactor: Any, simulated: SimulatedSource | None = None, firewire: FireWireHost | None = None
    ) -> None:
        self._reactor = reactor
        self._simulated = simulated
        self._firewire = FireWireHost(reactor) if firewire is None else firewire

    def open(self, spec: KdSpec) -> Deferred[Transport]:
        """Open the target; fails with the sentence of a `TargetError` or `SetupError`. Can be cancelled.

        A pipe with ``reconnect`` that is not there yet counts as open, and says itself that it waits; so does a
        FireWire channel.
        """
        if isinstance(spec, SimSpec) and self._simulated is not None:
            return self._simulated.open(spec)
        if type(spec) in _NOT_SUPPORTED:
            why = f"{_NOT_SUPPORTED[type(spec)]} targets are not supported by this version of kdsrv"
            return fail(SetupError(why=why))
        return Deferred.fromCoroutine(self._open(spec))

    async def _open(self, spec: KdSpec) -> Transport:
        match spec:
            case SerialSpec():
                return open_serial(self._reactor, spec.port or _PORT, spec.baud or _BAUD)
            case PipeSpec(reconnect=True):
                return await self._open_reconnecting(spec.path)
            case PipeSpec():
                return await open_pipe(self._reactor, spec.path)
            case TcpSerialSpec():
                return await open_tcp_serial(self._reactor, spec.host, spec.port)
            case NetSpec():
                return await open_net(self._reactor, spec)
            case FireWireSpec():
                return open_firewire(self._firewire, spec)
            case _:
                raise SetupError(why=f"this server does not offer {spec.transport}: targets")

    async def _open_reconnecting(self, path: str) -> Transport:
        first: Transport | None = None
        with suppress(AbsentError):
            first = await open_pipe(self._reactor, path)
        return ReconnectingTransport(self._reactor, f"pipe {path}", lambda: open_pipe(self._reactor, path), first)


def target_key(spec: KdSpec) -> str:
    """Names the device behind ``spec``: two strings for the same device give the same key, as far as can be told
    without asking for the addresses of names."""
    match spec:
        case SerialSpec():
            return f"serial:{os.path.realpath(device_path(spec.port or _PORT))}"
        case PipeSpec():
            return f"pipe:{os.path.realpath(spec.path)}"
        case TcpSerialSpec():
            return f"tcp:{_host_key(spec.host)}:{spec.port}"
        case NetSpec():
            return net_target_key(spec)
        case FireWireSpec():
            return f"1394:{spec.channel}"
        case SimSpec():
            return f"sim:{spec.name}"
        case _:
            return str(spec)


def _host_key(host: str) -> str:
    """One spelling for each address, and one for both loopbacks: what listens on one port of them is one device."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower()
    return "localhost" if str(address) in ("127.0.0.1", "::1") else str(address)
