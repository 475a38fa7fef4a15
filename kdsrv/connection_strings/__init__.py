"""Connection strings and specs, both ways: text -> frozen values, and back without or with the secrets."""

from __future__ import annotations

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
    fill_in,
    parse_kd_string,
)
from kdsrv.connection_strings.values import PortRange

__all__ = [
    "FireWireSpec",
    "KdSpec",
    "ModemSpec",
    "NetSpec",
    "PipeSpec",
    "PortRange",
    "SerialSpec",
    "SimSpec",
    "TcpSerialSpec",
    "UsbSpec",
    "fill_in",
    "parse_kd_string",
]
