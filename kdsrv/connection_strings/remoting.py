"""Server strings and client strings: how a server is reached, told from its side and from the client's (connection
strings, 2.3 and 2.4).

With ``clicon`` the roles of the network turn round: the server dials the client, which listens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, TypeVar

from kdsrv.connection_strings.grammar import Node, read_text
from kdsrv.connection_strings.spec import (
    CLIENT_STRING,
    KD_STRING,
    SERVER_STRING,
    Form,
    Spec,
    check_form,
    read_spec,
    reads,
    wrong_form,
)
from kdsrv.connection_strings.values import (
    PortRange,
    a_host,
    a_number,
    a_password,
    a_pipe_name,
    a_port_range,
    a_protocol,
    a_serial_port,
    a_text,
    one_of,
)

__all__ = [
    "ClientSpec",
    "ComClientSpec",
    "ComServerSpec",
    "FireWireClientSpec",
    "FireWireServerSpec",
    "HypervClientSpec",
    "HypervServerSpec",
    "NpipeClientSpec",
    "NpipeServerSpec",
    "ServerSpec",
    "SpipeClientSpec",
    "SpipeServerSpec",
    "SslClientSpec",
    "SslServerSpec",
    "TcpClientSpec",
    "TcpServerSpec",
    "parse_client_string",
    "parse_server_string",
    "read_client_node",
]

S = TypeVar("S", bound=Spec)

_a_baud: Final = a_number("baud", 1, 12_000_000)
_a_com_channel: Final = a_number("channel", 0, 254)
_a_1394_channel: Final = a_number("channel", 0, 62)
_PORTS: Final = reads(a_port_range, name="port")
_HOST: Final = reads(a_host)
_PIPE: Final = reads(a_pipe_name)
_PASSWORD: Final = reads(a_password)
_TEXT: Final = reads(a_text)
_PROTO: Final = reads(a_protocol)
_IP_VERSION: Final = reads(one_of("6"))
_LINGER: Final = reads(a_number("linger", 0, 86400))
"""Seconds that the server waits for a client whose connection broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpServerSpec(Spec):
    """Listen on the first free of these ports, or with ``clicon`` dial that client on the one port."""

    transport: ClassVar[str] = "tcp"
    ports: PortRange = field(metadata=_PORTS)
    clicon: str | None = field(default=None, metadata=_HOST)
    hidden: bool = False
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)
    ipversion: str | None = field(default=None, metadata=_IP_VERSION)
    icfenable: bool = False
    linger: int | None = field(default=None, metadata=_LINGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpClientSpec(Spec):
    """Dial ``server``, or listen for the server named by ``clicon``: one of the two is given."""

    transport: ClassVar[str] = "tcp"
    server: str | None = field(default=None, metadata=_HOST)
    clicon: str | None = field(default=None, metadata=_HOST)
    ports: PortRange = field(metadata=_PORTS)
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)
    ipversion: str | None = field(default=None, metadata=_IP_VERSION)


@dataclass(frozen=True, slots=True, kw_only=True)
class SslServerSpec(Spec):
    """The same as tcp over TLS, with the certificate to show."""

    transport: ClassVar[str] = "ssl"
    ports: PortRange = field(metadata=_PORTS)
    clicon: str | None = field(default=None, metadata=_HOST)
    proto: str | None = field(default=None, metadata=_PROTO)
    certuser: str | None = field(default=None, metadata=_TEXT)
    machuser: str | None = field(default=None, metadata=_TEXT)
    hidden: bool = False
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)
    linger: int | None = field(default=None, metadata=_LINGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class SslClientSpec(Spec):
    """The same as tcp over TLS, with the certificate to expect."""

    transport: ClassVar[str] = "ssl"
    server: str | None = field(default=None, metadata=_HOST)
    clicon: str | None = field(default=None, metadata=_HOST)
    ports: PortRange = field(metadata=_PORTS)
    proto: str | None = field(default=None, metadata=_PROTO)
    certuser: str | None = field(default=None, metadata=_TEXT)
    machuser: str | None = field(default=None, metadata=_TEXT)
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class NpipeServerSpec(Spec):
    """A named pipe; ``%x`` or ``%d`` in the name stand for the process id, the second time for the thread id."""

    transport: ClassVar[str] = "npipe"
    pipe: str = field(metadata=_PIPE)
    hidden: bool = False
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)
    icfenable: bool = False
    linger: int | None = field(default=None, metadata=_LINGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class NpipeClientSpec(Spec):
    """A named pipe of another machine."""

    transport: ClassVar[str] = "npipe"
    server: str = field(metadata=_HOST)
    pipe: str = field(metadata=_PIPE)
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpipeServerSpec(Spec):
    """TLS over a named pipe."""

    transport: ClassVar[str] = "spipe"
    pipe: str = field(metadata=_PIPE)
    proto: str | None = field(default=None, metadata=_PROTO)
    certuser: str | None = field(default=None, metadata=_TEXT)
    machuser: str | None = field(default=None, metadata=_TEXT)
    hidden: bool = False
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)
    linger: int | None = field(default=None, metadata=_LINGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpipeClientSpec(Spec):
    """TLS over a named pipe of another machine."""

    transport: ClassVar[str] = "spipe"
    server: str = field(metadata=_HOST)
    pipe: str = field(metadata=_PIPE)
    proto: str | None = field(default=None, metadata=_PROTO)
    certuser: str | None = field(default=None, metadata=_TEXT)
    machuser: str | None = field(default=None, metadata=_TEXT)
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComServerSpec(Spec):
    """A serial line between client and server, which up to 255 channels share."""

    transport: ClassVar[str] = "com"
    port: str = field(metadata=reads(a_serial_port))
    baud: int = field(metadata=reads(_a_baud, alias="baudrate"))
    channel: int = field(metadata=reads(_a_com_channel))
    hidden: bool = False
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)
    linger: int | None = field(default=None, metadata=_LINGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComClientSpec(Spec):
    """The other end of that line."""

    transport: ClassVar[str] = "com"
    port: str = field(metadata=reads(a_serial_port))
    baud: int = field(metadata=reads(_a_baud, alias="baudrate"))
    channel: int = field(metadata=reads(_a_com_channel))
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class FireWireServerSpec(Spec):
    """1394 between client and server."""

    transport: ClassVar[str] = "1394"
    channel: int = field(metadata=reads(_a_1394_channel))
    hidden: bool = False
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class FireWireClientSpec(Spec):
    """The other end of that."""

    transport: ClassVar[str] = "1394"
    channel: int = field(metadata=reads(_a_1394_channel))
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervServerSpec(Spec):
    """A Hyper-V socket."""

    transport: ClassVar[str] = "hyperv"
    vmid: str = field(metadata=_TEXT)
    serviceid: str = field(metadata=_TEXT)
    hidden: bool = False
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervClientSpec(Spec):
    """The other end of that."""

    transport: ClassVar[str] = "hyperv"
    vmid: str = field(metadata=_TEXT)
    serviceid: str = field(metadata=_TEXT)
    password: str | None = field(default=None, repr=False, metadata=_PASSWORD)


ServerSpec = (
    TcpServerSpec
    | SslServerSpec
    | NpipeServerSpec
    | SpipeServerSpec
    | ComServerSpec
    | FireWireServerSpec
    | HypervServerSpec
)
ClientSpec = (
    TcpClientSpec
    | SslClientSpec
    | NpipeClientSpec
    | SpipeClientSpec
    | ComClientSpec
    | FireWireClientSpec
    | HypervClientSpec
)

_SERVER_KINDS: Final[dict[str, type[ServerSpec]]] = {
    "tcp": TcpServerSpec,
    "ssl": SslServerSpec,
    "npipe": NpipeServerSpec,
    "spipe": SpipeServerSpec,
    "com": ComServerSpec,
    "1394": FireWireServerSpec,
    "hyperv": HypervServerSpec,
}
_CLIENT_KINDS: Final[dict[str, type[ClientSpec]]] = {
    "tcp": TcpClientSpec,
    "ssl": SslClientSpec,
    "npipe": NpipeClientSpec,
    "spipe": SpipeClientSpec,
    "com": ComClientSpec,
    "1394": FireWireClientSpec,
    "hyperv": HypervClientSpec,
}
_NAMES_A_HOST: Final = ("tcp", "ssl", "npipe", "spipe")


def parse_server_string(text: str) -> ServerSpec:
    """A server string (``-t``) as a spec; raises ``ConnectionStringError``, and nothing else whatever the text."""
    node = read_text(text, SERVER_STRING.example)
    _check_remote(node, SERVER_STRING)
    if node.transport in _NAMES_A_HOST and (server := node.find("server")):
        raise node.problem(server.start, wrong_form("client string (it names a server)", SERVER_STRING))
    spec = read_spec(_SERVER_KINDS[node.transport], node)
    if isinstance(spec, TcpServerSpec | SslServerSpec) and spec.clicon:
        _check_one_port(node, spec.ports, "with clicon the server dials one port; write the one the client listens on")
    return spec


def parse_client_string(text: str) -> ClientSpec:
    """A client string as a spec; raises ``ConnectionStringError``, and nothing else whatever the text."""
    return read_client_node(read_text(text, CLIENT_STRING.example))


def read_client_node(node: Node) -> ClientSpec:
    """The same for a string that stands within another."""
    _check_remote(node, CLIENT_STRING)
    if node.transport in _NAMES_A_HOST:
        _check_host(node)
    spec = read_spec(_CLIENT_KINDS[node.transport], node)
    if isinstance(spec, TcpClientSpec | SslClientSpec) and spec.server:
        _check_one_port(node, spec.ports, "a client dials one port; write the one the server listens on")
    return spec


def _check_remote(node: Node, wanted: Form) -> None:
    check_form(node, wanted)
    if node.transport == "com" and not node.find("channel"):
        raise node.problem(node.start, wrong_form("kd-string (it has no channel)", wanted))
    if node.transport == "1394" and (symlink := node.find("symlink")):
        raise node.problem(symlink.start, wrong_form(KD_STRING.called, wanted))
    certuser, machuser = node.find("certuser"), node.find("machuser")
    if certuser and machuser:
        later = max(certuser.start, machuser.start)
        raise node.problem(later, "certuser and machuser exclude each other: there is one certificate")


def _check_host(node: Node) -> None:
    server, clicon = node.find("server"), node.find("clicon")
    if server and clicon:
        later = max(server.start, clicon.start)
        raise node.problem(later, "server and clicon exclude each other: with clicon the server dials this client")
    only_for_servers = node.find("hidden") or node.find("icfenable")
    if only_for_servers:
        why = wrong_form(f"server string ({only_for_servers.name} is for the server alone)", CLIENT_STRING)
        raise node.problem(only_for_servers.start, why)
    names = {parameter.name for parameter in node.parameters}
    if not server and not clicon and names & {"port", "pipe"}:
        raise node.problem(node.start, wrong_form("server string (it names no server)", CLIENT_STRING))
    if not server and not clicon:
        raise node.problem(node.stop, f"server is missing from this {node.transport} string")


def _check_one_port(node: Node, ports: PortRange, why: str) -> None:
    port = node.find("port")
    if port and ports.low != ports.high:
        raise node.problem(port.value_start, why)
