"""Strings that hold other strings: ``kdsrv:server=@{...},trans=@{...}`` of a client (connection strings, 2.5) and
``listen=@{...},trans=@{...}`` of a bridge on the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from kdsrv.connection_strings.grammar import Node, Parameter, read_nested, read_parameters, read_text
from kdsrv.connection_strings.kd import KdSpec, read_kd_node
from kdsrv.connection_strings.remoting import ClientSpec, read_client_node
from kdsrv.connection_strings.spec import CLIENT_STRING, KD_STRING, Form, Spec, read_spec, reads, wrong_transport
from kdsrv.connection_strings.values import a_text

__all__ = ["BridgeSpec", "KdsrvSpec", "parse_bridge_string", "parse_kdsrv_string"]

_KDSRV_STRING: Final = Form(
    "kdsrv string", f"kdsrv:server=@{{{CLIENT_STRING.example}}},trans=@{{{KD_STRING.example}}}", ("kdsrv",)
)


@dataclass(frozen=True, slots=True)
class KdsrvSpec:
    """Which server to ask for which link; a ``trans`` of None is the server's default."""

    server: ClientSpec
    trans: KdSpec | None = None

    def __str__(self) -> str:
        return _kdsrv_text(str(self.server), None if self.trans is None else str(self.trans))

    def to_string(self) -> str:
        """The string with its secrets, to be parsed again."""
        return _kdsrv_text(self.server.to_string(), None if self.trans is None else self.trans.to_string())


@dataclass(frozen=True, slots=True)
class BridgeSpec:
    """A bridge that the server opens itself: a Twisted endpoint string to listen on, and the link it serves."""

    listen: str
    trans: KdSpec

    def __str__(self) -> str:
        return f"listen=@{{{self.listen}}},trans=@{{{self.trans}}}"

    def to_string(self) -> str:
        """The string with its secrets, to be parsed again."""
        return f"listen=@{{{self.listen}}},trans=@{{{self.trans.to_string()}}}"


@dataclass(frozen=True, slots=True)
class _KdsrvParts(Spec):
    transport: ClassVar[str] = "kdsrv"
    server: str = field(metadata=reads(a_text))
    trans: str | None = field(default=None, metadata=reads(a_text, empty=True))


@dataclass(frozen=True, slots=True)
class _BridgeParts(Spec):
    transport: ClassVar[str] = "bridge"
    listen: str = field(metadata=reads(a_text))
    trans: str = field(metadata=reads(a_text))


def parse_kdsrv_string(text: str) -> KdsrvSpec:
    """A ``kdsrv:`` string as a spec; raises ``ConnectionStringError``, and nothing else whatever the text."""
    node = read_text(text, _KDSRV_STRING.example)
    if node.transport != "kdsrv":
        raise wrong_transport(node, _KDSRV_STRING)
    _check_quoted(node)
    parts = read_spec(_KdsrvParts, node)
    server = read_client_node(read_nested(node, _found(node, "server"), CLIENT_STRING.example))
    if parts.trans is None:
        return KdsrvSpec(server)
    return KdsrvSpec(server, read_kd_node(read_nested(node, _found(node, "trans"), KD_STRING.example)))


def parse_bridge_string(text: str) -> BridgeSpec:
    """``listen=@{ENDPOINT},trans=@{KD-STRING}`` as a spec; raises ``ConnectionStringError``, and nothing else."""
    node = read_parameters(text, _BridgeParts.transport)
    _check_quoted(node)
    parts = read_spec(_BridgeParts, node)
    return BridgeSpec(parts.listen, read_kd_node(read_nested(node, _found(node, "trans"), KD_STRING.example)))


def _check_quoted(node: Node) -> None:
    for parameter in node.parameters:
        if parameter.name in ("server", "trans") and parameter.value and not parameter.is_quoted:
            why = f"a string within a string stands in braces: {parameter.name}=@{{...}}"
            raise node.problem(parameter.value_start, why)


def _found(node: Node, name: str) -> Parameter:
    return next(parameter for parameter in node.parameters if parameter.name == name)


def _kdsrv_text(server: str, trans: str | None) -> str:
    return f"kdsrv:server=@{{{server}}}" + ("" if trans is None else f",trans=@{{{trans}}}")
