"""kd-strings: which link of the server a session is wanted on, and what the server's environment fills in (connection
strings, 2.6 and 2.9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, TypeVar

from kdsrv.connection_strings.grammar import Node, read_text
from kdsrv.connection_strings.spec import KD_STRING, Spec, check_form, read_spec, reads, wrong_form
from kdsrv.connection_strings.values import (
    UnfitValueError,
    a_fraction,
    a_host,
    a_net_key,
    a_number,
    a_pipe_path,
    a_port,
    a_published_name,
    a_serial_port,
    a_target_name,
    a_text,
    one_of,
)
from kdsrv.errors import SetupError

__all__ = [
    "FireWireSpec",
    "KdSpec",
    "ModemSpec",
    "NetSpec",
    "PipeSpec",
    "SerialSpec",
    "SimSpec",
    "TargetSpec",
    "TcpSerialSpec",
    "UsbSpec",
    "fill_in",
    "kind_of",
    "parse_kd_string",
    "read_kd_node",
]

V = TypeVar("V")

_a_baud: Final = a_number("baud", 1, 12_000_000)
_a_channel: Final = a_number("channel", 0, 62)
_a_symlink: Final = one_of("instance", "channel")


@dataclass(frozen=True, slots=True)
class SerialSpec(Spec):
    """A serial port; None is not given and left to the server's environment."""

    transport: ClassVar[str] = "com"
    beside: ClassVar[tuple[str, ...]] = ("pipe", "ipport", "modem")
    port: str | None = field(default=None, metadata=reads(a_serial_port))
    baud: int | None = field(default=None, metadata=reads(_a_baud, alias="baudrate"))


@dataclass(frozen=True, slots=True)
class PipeSpec(Spec):
    """The serial port of a virtual machine as a pipe; ``resets=0`` sends reset packets without limit."""

    transport: ClassVar[str] = "com"
    words: ClassVar[tuple[str, ...]] = ("pipe",)
    path: str = field(metadata=reads(a_pipe_path, name="port"))
    resets: int | None = field(default=None, metadata=reads(a_number("resets", 0, 1_000_000)))
    reconnect: bool = field(default=False)
    baud: int | None = field(default=None, metadata=reads(_a_baud, alias="baudrate"))


@dataclass(frozen=True, slots=True)
class TcpSerialSpec(Spec):
    """A serial port behind TCP: the server connects to it."""

    transport: ClassVar[str] = "com"
    host: str = field(metadata=reads(a_host, name="port"))
    port: int = field(metadata=reads(a_port, name="ipport"))


@dataclass(frozen=True, slots=True)
class ModemSpec(Spec):
    """A modem."""

    transport: ClassVar[str] = "com"
    words: ClassVar[tuple[str, ...]] = ("modem",)


@dataclass(frozen=True, slots=True)
class FireWireSpec(Spec):
    """1394; a channel of None is left to the server's environment, a symlink of None is found by itself."""

    transport: ClassVar[str] = "1394"
    channel: int | None = field(default=None, metadata=reads(_a_channel))
    symlink: str | None = field(default=None, metadata=reads(_a_symlink))


@dataclass(frozen=True, slots=True)
class UsbSpec(Spec):
    """USB; ``usb:`` and ``usb2:`` are the same."""

    transport: ClassVar[str] = "usb2"
    targetname: str = field(metadata=reads(a_target_name))


@dataclass(frozen=True, slots=True)
class NetSpec(Spec):
    """KDNET: the UDP port to listen on, the key, and the address to call, if any."""

    transport: ClassVar[str] = "net"
    port: int = field(metadata=reads(a_port))
    key: str = field(repr=False, metadata=reads(a_net_key))
    target: str | None = field(default=None, metadata=reads(a_host, bare=True))


@dataclass(frozen=True, slots=True)
class SimSpec(Spec):
    """A simulated target within the server; loss, damage and duplicate are shares of packets, from 0 to 1."""

    transport: ClassVar[str] = "sim"
    name: str = field(default="sim", metadata=reads(a_text))
    state: str = field(default="halted", metadata=reads(one_of("halted", "running", "boot")))
    loss: float = field(default=0.0, metadata=reads(a_fraction))
    damage: float = field(default=0.0, metadata=reads(a_fraction))
    duplicate: float = field(default=0.0, metadata=reads(a_fraction))
    baud: int = field(default=0, metadata=reads(a_number("baud", 0, 12_000_000), alias="baudrate"))
    seed: int = field(default=0, metadata=reads(a_number("seed", 0, (1 << 63) - 1)))
    read_cap: int = field(default=3944, metadata=reads(a_number("readcap", 1, 3944), name="readcap"))
    cpus: int = field(default=2, metadata=reads(a_number("cpus", 1, 64)))


@dataclass(frozen=True, slots=True)
class TargetSpec(Spec):
    """A target that the server publishes under this name; what stands behind it only the server knows."""

    transport: ClassVar[str] = "target"
    name: str = field(metadata=reads(a_published_name))


KdSpec = SerialSpec | PipeSpec | TcpSerialSpec | ModemSpec | FireWireSpec | UsbSpec | NetSpec | SimSpec | TargetSpec

_KINDS: Final[dict[str, type[KdSpec]]] = {
    "com": SerialSpec,
    "1394": FireWireSpec,
    "usb": UsbSpec,
    "usb2": UsbSpec,
    "net": NetSpec,
    "sim": SimSpec,
    "target": TargetSpec,
}
_COM_KINDS: Final[dict[str, type[KdSpec]]] = {
    "pipe": PipeSpec,
    "ipport": TcpSerialSpec,
    "modem": ModemSpec,
    "resets": PipeSpec,
    "reconnect": PipeSpec,
}


def parse_kd_string(text: str) -> KdSpec:
    """A kd-string as a spec, with None for what was not given (see :func:`fill_in`).

    Raises :class:`~kdsrv.errors.ConnectionStringError`, and nothing else whatever the text.
    """
    return read_kd_node(read_text(text, KD_STRING.example))


def read_kd_node(node: Node) -> KdSpec:
    """The same for a string that stands within another."""
    return read_spec(kind_of(node), node)


def kind_of(node: Node) -> type[KdSpec]:
    """The kind of spec that this node is one of, told by its transport and the names in it."""
    check_form(node, KD_STRING)
    if node.transport != "com":
        return _KINDS[node.transport]
    if channel := node.find("channel"):
        raise node.problem(channel.start, wrong_form("server or client string (it has a channel)", KD_STRING))
    return next((found for name, found in _COM_KINDS.items() if node.find(name)), SerialSpec)


def fill_in(spec: KdSpec | None, environ: Mapping[str, str]) -> KdSpec:
    """The spec with what it leaves open taken from the environment of the server; None leaves everything open.

    Of the result ``SerialSpec.port`` and ``baud`` and ``FireWireSpec.channel`` are never None. Raises
    :class:`~kdsrv.errors.SetupError` if the environment says something that cannot be used.
    """
    if spec is None:
        bus = _from(environ, "_NT_DEBUG_BUS", one_of("1394", "com"))
        spec = FireWireSpec() if bus == "1394" else SerialSpec()
    if isinstance(spec, SerialSpec):
        port = spec.port or _from(environ, "_NT_DEBUG_PORT", a_serial_port) or "com1"
        baud = spec.baud or _from(environ, "_NT_DEBUG_BAUD_RATE", _a_baud) or 19200
        return replace(spec, port=port, baud=baud)
    if isinstance(spec, FireWireSpec):
        channel = _from(environ, "_NT_DEBUG_1394_CHANNEL", _a_channel) if spec.channel is None else spec.channel
        if channel is None:
            raise SetupError(why="a 1394 string without channel= needs _NT_DEBUG_1394_CHANNEL on the server")
        symlink = spec.symlink or _from(environ, "_NT_DEBUG_1394_SYMLINK", _a_symlink)
        return replace(spec, channel=channel, symlink=symlink)
    return spec


def _from(environ: Mapping[str, str], name: str, reader: Callable[[str], V]) -> V | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        return reader(text)
    except UnfitValueError as unfit:
        raise SetupError(why=f"the variable {name} of the server cannot be used: {unfit}") from None
