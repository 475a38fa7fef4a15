"""Twisted endpoint strings as the server's options take them: what Twisted makes of one, and its fields."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from kdsrv.errors import SetupError

__all__ = ["fields", "parsed"]

_FIELD: Final = re.compile(r"(?:\\.|[^:\\])+|(?<=:)(?=:|$)")
_NAMED: Final = re.compile(r"([A-Za-z]+)=(.*)", re.DOTALL)


def parsed(parse: Callable[[Any, str], Any], reactor: Any, text: str, *, first_port: int, example: str) -> Any:
    """What ``parse`` (serverFromString or clientFromString) makes of the string; its many ways to refuse one end in one
    SetupError, which shows ``example``."""
    try:
        endpoint = parse(reactor, text)
    except TypeError as error:
        why = re.sub(r"^\S*\(\) ", "", str(error)) or "its parts do not fit together"
        raise SetupError(why=f"'{text}' is not a Twisted endpoint: {why}; {example}") from None
    except (LookupError, ValueError, OSError) as error:
        raise SetupError(why=f"'{text}' is not a Twisted endpoint: {error}; {example}") from None
    port = getattr(endpoint, "_port", None)
    if isinstance(port, int) and not first_port <= port <= 65535:
        raise SetupError(why=f"'{text}': the port must be {first_port} to 65535")
    return endpoint


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
