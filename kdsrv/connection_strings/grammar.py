"""The common shape of every connection string: ``transport:name=value,flag,name=@{value, with commas}`` (connection
strings, 2.1 and 2.2).

Text becomes a :class:`Node` whose parameters remember their columns; what the names mean is not known here. ``@{`` and
``}`` are paired over the whole text first and without recursion, so that no text can be too deep.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from kdsrv.connection_strings.masking import SECRET_NAMES, masked
from kdsrv.errors import ConnectionStringError

__all__ = [
    "MAX_LENGTH",
    "Node",
    "Parameter",
    "is_balanced",
    "problem",
    "quoted",
    "read_nested",
    "read_parameters",
    "read_text",
]

MAX_LENGTH: Final = 4096
"""Characters in the longest connection string that is looked at."""

_TRANSPORT: Final = re.compile(r"1394|[A-Za-z][A-Za-z0-9]*")
_NAME: Final = re.compile(r"[A-Za-z]+")
_BRACES: Final = re.compile(r"@\{|\}")
_SHOWN: Final = 160
"""Characters of a long text that an error shows around its place."""


class Parameter(NamedTuple):
    """One parameter: its name in lower case, offsets into the text, and its value (None: a bare flag)."""

    name: str
    start: int
    value: str | None
    value_start: int
    value_stop: int
    is_quoted: bool


@dataclass(frozen=True, slots=True)
class Node:
    """One ``transport:parameters``; the transport is in lower case."""

    text: str
    start: int
    stop: int
    transport: str
    parameters: tuple[Parameter, ...]

    def find(self, name: str) -> Parameter | None:
        """The first parameter of this name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)

    def problem(self, offset: int, why: str, expected: tuple[str, ...] = ()) -> ConnectionStringError:
        """The error to raise about what stands at this offset."""
        return problem(self.text, offset, why, expected)


def problem(text: str, offset: int, why: str, expected: tuple[str, ...] = ()) -> ConnectionStringError:
    """The error about the character at this offset, showing the text without its secrets."""
    if expected:
        why = f"{why}; known: {', '.join(expected)}"
    shown = masked(text)
    caret = shown.offset(offset)
    first = max(0, caret - _SHOWN // 2)
    line = shown.text[first : first + _SHOWN]
    before = "..." if first else ""
    after = "..." if first + _SHOWN < len(shown.text) else ""
    return ConnectionStringError(
        column=offset + 1, why=why, text=before + line + after, caret=len(before) + caret - first, expected=expected
    )


def read_text(text: str, wanted: str) -> Node:
    """The text as a tree; ``wanted`` is an example of the right form, for the error.

    Raises :class:`ConnectionStringError` for text of another shape, and no other exception whatever the text.
    """
    return _read_node(text, 0, len(text), _pairs(text), wanted)


def read_nested(node: Node, parameter: Parameter, wanted: str) -> Node:
    """The connection string that is the value of this parameter, with its place in the whole text."""
    return _read_node(node.text, parameter.value_start, parameter.value_stop, _pairs(node.text), wanted)


def read_parameters(text: str, called: str) -> Node:
    """A list of parameters that no transport stands before, as a node of this name."""
    return Node(text, 0, len(text), called, _read_list(text, 0, len(text), _pairs(text)))


def quoted(value: str) -> str:
    """The value as it is written in a string: within ``@{}`` if it would end early or be misread without."""
    return f"@{{{value}}}" if not value or "," in value or "}" in value or "@{" in value else value


def is_balanced(value: str) -> bool:
    """Whether each ``@{`` has its ``}``: no other value can be written in a connection string."""
    depth = 0
    for brace in _BRACES.finditer(value):
        depth += 1 if brace[0] == "@{" else -1
        if depth < 0:
            return False
    return depth == 0


def _pairs(text: str) -> dict[int, int]:
    """Offset of each ``@{`` to the offset of its ``}``."""
    if len(text) > MAX_LENGTH:
        raise problem(text[: MAX_LENGTH + 1], MAX_LENGTH, f"a connection string has at most {MAX_LENGTH} characters")
    for offset, char in enumerate(text):
        if not char.isprintable():
            raise problem(text, offset, f"the character U+{ord(char):04X} cannot be part of a connection string")
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACES.finditer(text):
        if brace[0] == "@{":
            opened.append(brace.start())
        elif opened:
            pairs[opened.pop()] = brace.start()
        else:
            raise problem(text, brace.start(), 'this "}" has no "@{" before it')
    if opened:
        raise problem(text, opened[-1], f'"@{{" at column {opened[-1] + 1} has no "}}"')
    return pairs


def _read_node(text: str, start: int, stop: int, pairs: dict[int, int], wanted: str) -> Node:
    if start == stop:
        raise problem(text, start, f'the string is empty; write for example "{wanted}"')
    transport = _TRANSPORT.match(text, start, stop)
    if transport is None or not text.startswith(":", transport.end(), stop):
        raise problem(text, start, f'a connection string begins with a transport and ":", for example "{wanted}"')
    parameters = _read_list(text, transport.end() + 1, stop, pairs)
    return Node(text, start, stop, transport[0].lower(), parameters)


def _read_list(text: str, start: int, stop: int, pairs: dict[int, int]) -> tuple[Parameter, ...]:
    parameters: list[Parameter] = []
    while start < stop or parameters:
        after_secret = bool(parameters) and parameters[-1].name in SECRET_NAMES
        parameter = _read_parameter(text, start, stop, pairs, after_secret)
        parameters.append(parameter)
        end = parameter.value_stop + parameter.is_quoted
        if end == stop:
            break
        start = end + 1
    return tuple(parameters)


def _read_parameter(text: str, start: int, stop: int, pairs: dict[int, int], after_secret: bool) -> Parameter:
    word = _NAME.match(text, start, stop)
    if word is None:
        raise problem(text, start, _no_name(text[start:stop], after_secret))
    name, end = word[0].lower(), word.end()
    if end == stop or text[end] == ",":
        return Parameter(name, start, None, end, end, is_quoted=False)
    if text[end] != "=":
        raise problem(text, end, 'after a name comes "=" or ","; write a value that holds "," as @{...}')
    if text.startswith("@{", end + 1, stop):
        close = pairs[end + 1]
        if close + 1 != stop and text[close + 1] != ",":
            raise problem(text, close + 1, 'after this "}" only "," and the next parameter can follow')
        return Parameter(name, start, text[end + 3 : close], end + 3, close, is_quoted=True)
    comma = text.find(",", end + 1, stop)
    value_stop = stop if comma < 0 else comma
    brace = text.find("@{", end + 1, value_stop)
    if brace >= 0:
        raise problem(text, brace, '"@{" can only stand directly after "="; write the whole value as @{...}')
    return Parameter(name, start, text[end + 1 : value_stop], end + 1, value_stop, is_quoted=False)


def _no_name(rest: str, after_secret: bool) -> str:
    if not rest or rest[0] == ",":
        return 'a parameter is missing here; "," stands between two parameters only'
    if rest[0] == " ":
        return "no space can stand before the name of a parameter"
    hint = 'write a password that holds "," as' if after_secret else 'write a value that holds "," as'
    return f"the name of a parameter is expected here; {hint} @{{...}}"
