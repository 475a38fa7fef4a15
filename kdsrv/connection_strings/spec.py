"""What every spec has: fields that know how they are written, so that one reader and one writer serve all kinds.

A field made with :func:`reads` says by which name it stands in the string and which reader takes its value. A ``bool``
is a flag. A field without a default must be given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from kdsrv.connection_strings.grammar import Node, Parameter, is_balanced, quoted
from kdsrv.connection_strings.masking import SECRET_NAMES
from kdsrv.connection_strings.values import UnfitValueError
from kdsrv.errors import ConnectionStringError

__all__ = [
    "CLIENT_STRING",
    "KD_STRING",
    "SERVER_STRING",
    "Form",
    "Spec",
    "check_form",
    "read_spec",
    "reads",
    "written",
    "wrong_form",
    "wrong_transport",
]

S = TypeVar("S", bound="Spec")


class Form(NamedTuple):
    """A kind of connection string: what it is called, an example, its transports."""

    called: str
    example: str
    transports: tuple[str, ...]


_REMOTE: Final = ("tcp", "ssl", "npipe", "spipe", "com", "1394", "hyperv")
SERVER_STRING: Final = Form("server string", "tcp:port=1234", _REMOTE)
CLIENT_STRING: Final = Form("client string", "tcp:server=HOST,port=1234", _REMOTE)
KD_STRING: Final = Form(
    "kd-string", "com:port=com1,baud=115200", ("com", "net", "1394", "usb", "usb2", "sim", "target")
)


class Spec:
    """A connection string as a frozen value; ``str()`` shows it without its secrets."""

    __slots__ = ()
    transport: ClassVar[str]
    words: ClassVar[tuple[str, ...]] = ()
    """Flags that make this kind, written first: ``pipe`` of ``com:pipe,port=...``."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Names that make other kinds of this transport, for the list of known names."""

    def __str__(self) -> str:
        return written(self.transport, self.words, self._values(secrets=False))

    def to_string(self) -> str:
        """The string with its secrets, to be parsed again.

        Raises ``ValueError`` for a value that no string can hold: one with a ``}`` or ``@{`` that has no partner.
        """
        values = self._values(secrets=True)
        if not all(value is None or is_balanced(value) for _, value in values):
            raise ValueError('a value with an unpaired "}" or "@{" cannot be written in a connection string')
        return written(self.transport, self.words, values)

    def _values(self, *, secrets: bool) -> list[tuple[str, str | None]]:
        values: list[tuple[str, str | None]] = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.default is not MISSING and value == field.default:
                continue
            name = _name(field)
            shown = "*" if name in SECRET_NAMES and not secrets else str(value)
            values.append((name, None if value is True else shown))
        return values


def written(transport: str, words: tuple[str, ...], values: list[tuple[str, str | None]]) -> str:
    """The text of these parts; a value of None is a flag."""
    parts = [*words, *(name if value is None else f"{name}={quoted(value)}" for name, value in values)]
    return f"{transport}:{','.join(parts)}"


def reads(
    reader: Callable[[str], object], *, name: str = "", alias: str = "", bare: bool = False, empty: bool = False
) -> Mapping[str, object]:
    """Metadata of a field: its reader, its name in the string, an alias; ``bare`` and ``empty`` say that a name without
    ``=`` or without a value after it stands for the default."""
    return {"reader": reader, "name": name, "alias": alias, "bare": bare, "empty": empty}


def read_spec(kind: type[S], node: Node) -> S:
    """The node as a spec of this kind; raises ``ConnectionStringError``."""
    known: dict[str, Field[Any]] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        known |= dict.fromkeys(filter(None, (_name(field), field.metadata.get("alias"))), field)
    names = (*kind.words, *map(_name, fields(kind)), *kind.beside)  # type: ignore[arg-type]
    given: dict[str, Parameter] = {}
    facts: dict[str, object] = {}
    previous = ""
    for parameter in node.parameters:
        owner = known.get(parameter.name)
        if owner is None and parameter.name not in kind.words:
            raise node.problem(parameter.start, _unknown(parameter, previous, node), names)
        slot = owner.name if owner else parameter.name
        if slot in given:
            first = given[slot].start + 1
            raise node.problem(parameter.start, f"{parameter.name} is already given at column {first}")
        given[slot] = parameter
        previous = parameter.name
        if owner is None:
            _check_flag(node, parameter)
        elif (value := _read_value(node, parameter, owner)) is not None:
            facts[slot] = value
    missing = [word for word in kind.words if word not in given]
    missing += [_name(f) for f in fields(kind) if f.default is MISSING and f.name not in facts]  # type: ignore[arg-type]
    if missing:
        raise node.problem(node.stop, f"{missing[0]} is missing from this {node.transport} string")
    return kind(**facts)


def check_form(node: Node, wanted: Form) -> None:
    """Refuse a transport that this kind of string does not have, and say which kind does."""
    if node.transport not in wanted.transports:
        raise wrong_transport(node, wanted)


def wrong_transport(node: Node, wanted: Form) -> ConnectionStringError:
    """The error about a transport that belongs to another kind of string, or to none."""
    if node.transport == "kdsrv":
        why = f'a kdsrv string holds a server= and a trans=; here only a {wanted.called} can stand: "{wanted.example}"'
    elif node.transport in KD_STRING.transports and node.transport not in _REMOTE:
        why = wrong_form(KD_STRING.called, wanted)
    elif node.transport in _REMOTE:
        called = "server or client string"
        why = wrong_form(f"{called} or a kd-string" if node.transport in KD_STRING.transports else called, wanted)
    else:
        return node.problem(node.start, f'unknown transport "{node.transport[:40]}"', wanted.transports)
    return node.problem(node.start, why)


def wrong_form(called: str, wanted: Form) -> str:
    """The sentence about a string of another kind than is wanted."""
    return f'this is a {called} where a {wanted.called} belongs; write for example "{wanted.example}"'


def _name(field: Field[Any]) -> str:
    return field.metadata.get("name") or field.name


def _unknown(parameter: Parameter, previous: str, node: Node) -> str:
    if previous in SECRET_NAMES:
        hint = f'write a {previous} with "," as @{{...}}'
        return f"what follows the {previous} is not a parameter of {node.transport}; {hint}"
    return f'"{parameter.name[:40]}" is not a parameter of {node.transport}'


def _check_flag(node: Node, parameter: Parameter) -> None:
    if parameter.value is not None:
        raise node.problem(parameter.start, f"{parameter.name} is a flag and takes no value")


def _read_value(node: Node, parameter: Parameter, field: Field[Any]) -> object:
    """The value of a field, None for its default."""
    if field.default is False:
        _check_flag(node, parameter)
        return True
    if (parameter.value is None and field.metadata["bare"]) or (parameter.value == "" and field.metadata["empty"]):
        return None
    if not parameter.value:
        raise node.problem(parameter.start, f"{parameter.name} needs a value: {parameter.name}=...")
    try:
        value: object = field.metadata["reader"](parameter.value)
    except UnfitValueError as unfit:
        raise node.problem(parameter.value_start, str(unfit)) from None
    return value
