"""Twisted endpoint strings as the server's options take them: what Twisted makes of one, and its fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from kdsrv.errors import SetupError

__all__ = ["Kind", "fields", "parsed"]

_FIELD: Final = re.compile(r"(?:\\.|[^:\\])+|(?<=:)(?=:|$)")
_NAMED: Final = re.compile(r"([A-Za-z]+)=(.*)", re.DOTALL)
_NUMBERS: Final = frozenset({"port", "backlog", "timeout", "lockfile"})


class Kind(NamedTuple):
    """The parts of a kind of endpoint: those it has to have, and all others that it may have.

    Without a name go the first ``places`` of them, in this order.
    """

    needed: tuple[str, ...]
    others: tuple[str, ...]
    places: int

    @property
    def parts(self) -> tuple[str, ...]:
        return self.needed + self.others


def parsed(
    parse: Callable[[Any, str], Any],
    reactor: Any,
    text: str,
    *,
    kinds: Mapping[str, Kind],
    first_port: int,
    example: str,
) -> Any:
    """What ``parse`` (serverFromString or clientFromString) makes of the string; its many ways to refuse one end in one
    SetupError, which shows ``example``. Of ``kinds``, by their names, it is known what is in them."""
    kind = kinds.get(text.partition(":")[0].lower())
    why = None if kind is None else _complaint(kind, *fields(text))
    if why is not None:
        raise SetupError(why=f"'{text}' is not a Twisted endpoint: {why}; {example}")
    try:
        endpoint = parse(reactor, text)
    except TypeError:
        raise SetupError(why=f"'{text}' is not a Twisted endpoint: its parts do not fit together; {example}") from None
    except (LookupError, ValueError, OSError) as error:
        raise SetupError(why=f"'{text}' is not a Twisted endpoint: {error}; {example}") from None
    port = getattr(endpoint, "_port", None)
    if isinstance(port, int) and not first_port <= port <= 65535:
        raise SetupError(why=f"'{text}': the port must be {first_port} to 65535")
    return endpoint


def _complaint(kind: Kind, places: list[str], names: dict[str, str]) -> str | None:
    """What is wrong with the fields of an endpoint, None if nothing is."""
    unknown = next((name for name in names if name not in kind.parts), None)
    if unknown is not None:
        return f"{unknown}= is no part of it; these are: {', '.join(kind.parts)}"
    if len(places) > kind.places:
        return f"'{places[kind.places]}' has no name before it (NAME=); its parts are {', '.join(kind.parts)}"
    unnamed = [part for part in kind.parts if part not in names]
    given = {**dict(zip(unnamed, places, strict=False)), **names}
    for part in kind.needed:
        if not given.get(part):
            return f"it names no {part}"
    for part, value in given.items():
        if part in _NUMBERS and not re.fullmatch("-?[0-9]+", value):
            return f"the {part} is a number, not '{value}'"
        if part == "mode" and not re.fullmatch("[0-7]{3,4}", value):
            return f"the mode is an octal number such as 600, not '{value}'"
    return None


def fields(text: str) -> tuple[list[str], dict[str, str]]:
    """The fields behind the kind, those with a name apart."""
    places, names = [], {}
    for field in _FIELD.findall(text.partition(":")[2]):
        named = _NAMED.fullmatch(field)
        value = re.sub(r"\\(.)", r"\1", named[2] if named else field)
        if named:
            names[named[1]] = value
        else:
            places.append(value)
    return places, names
