"""Patterns of ``--allow``: which kd-strings a client may write (docs/policy.md).

A pattern is a kd-string in whose values ``*``, ``?`` and ``[...]`` stand for other text, slashes included. It matches
strings of its own kind only: ``com:port=*`` is about serial ports and neither about pipes (``com:pipe,port=*``) nor
about addresses (``com:ipport=*,port=*``). The order of parameters is free, what a pattern does not mention may be
anything, and ``,*`` at its end says that aloud. ``*`` alone matches every string.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Final

from kdsrv.connection_strings import KdSpec, TargetSpec, TcpSerialSpec
from kdsrv.connection_strings.grammar import Node, read_text
from kdsrv.connection_strings.kd import kind_of
from kdsrv.connection_strings.masking import SECRET_NAMES

__all__ = ["Pattern", "parse_pattern"]

_EXAMPLE: Final = "com:port=/dev/ttyUSB*,*"
_OF_ADDRESSES: Final = re.compile(r"[0-9.*?!\[\]-]*[0-9][0-9.*?!\[\]-]*")
"""A glob for hosts in which all that is no wildcard is of an address."""
_SET: Final = "yes"
"""The value of a flag that is given."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Kind of the strings it matches (None: every kind), and for each name a glob."""

    text: str
    kind: type[KdSpec] | None
    globs: tuple[tuple[str, str], ...] = ()

    def matches(self, spec: KdSpec) -> bool:
        """Whether a kd-string that is complete is one of those meant."""
        if self.kind is None:
            return True
        facts = _facts(spec)
        if type(spec) is not self.kind or not all(fnmatchcase(facts[name], glob) for name, glob in self.globs):
            return False
        return not isinstance(spec, TcpSerialSpec) or _is_meant(spec.host, dict(self.globs).get("port", "*"))


def parse_pattern(text: str) -> Pattern:
    """Raises ConnectionStringError, and nothing else whatever the text."""
    if text == "*":
        return Pattern(text, None)
    node = read_text(text.removesuffix(",*") if text.endswith(",*") else _without_star(text), _EXAMPLE)
    kind = kind_of(node)
    if kind is TargetSpec:
        raise node.problem(node.start, "a published target is open to clients without --allow")
    known = _names(kind)
    globs = []
    for parameter in node.parameters:
        if parameter.name in SECRET_NAMES:
            raise node.problem(parameter.start, f"a pattern cannot tell one {parameter.name} from another")
        if parameter.name in kind.words:
            continue
        if parameter.name not in known:
            raise _unknown(node, parameter.start, kind)
        glob = _SET if parameter.value is None else parameter.value
        globs.append((known[parameter.name], glob.lower() if kind is TcpSerialSpec else glob))
    return Pattern(text, kind, tuple(globs))


def _is_meant(host: str, glob: str) -> bool:
    """Whether a host that the glob matches may be meant: ``10.0.0.*`` means addresses, not ``10.0.0.evil.example``."""
    if host.lower() == glob or not _OF_ADDRESSES.fullmatch(glob):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _without_star(text: str) -> str:
    """``com:*`` is ``com:``."""
    return text[:-1] if text.endswith(":*") else text


def _unknown(node: Node, offset: int, kind: type[KdSpec]) -> Exception:
    names = tuple(name for name in (*kind.words, *dict.fromkeys(_names(kind).values())) if name not in SECRET_NAMES)
    return node.problem(offset, f"this is not a parameter of {node.transport}", names)


def _names(kind: type[KdSpec]) -> dict[str, str]:
    """Each name and alias of a kind to the name."""
    names = {}
    for field in fields(kind):
        name = field.metadata.get("name") or field.name
        names[name] = name
        if alias := field.metadata.get("alias"):
            names[alias] = name
    return names


def _facts(spec: KdSpec) -> dict[str, str]:
    """The values of a kd-string as text, by name; "" for what is not given."""
    facts = {}
    for field in fields(spec):
        value = getattr(spec, field.name)
        text = "" if value is None or value is False else _SET if value is True else str(value)
        facts[field.metadata.get("name") or field.name] = text.lower() if isinstance(spec, TcpSerialSpec) else text
    return facts
