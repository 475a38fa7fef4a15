"""Members of JSON objects that come from outside, each taken out as what it has to be or refused in one sentence."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final, TypeVar

from kdsrv.errors import PeerError

__all__ = ["MAX_BASE64", "MAX_INTEGER", "MAX_TEXT", "Members", "base64_text", "one_line"]

MAX_TEXT: Final = 2048
"""Most characters in a text, so that the longest message stays far below the longest frame."""

MAX_BASE64: Final = 4096
"""Most characters in bytes written as base64."""

MAX_INTEGER: Final = 2**53 - 1
"""The greatest integer that every JSON reader keeps exactly."""

_Choice = TypeVar("_Choice", bound=StrEnum)

_MAX_ITEMS: Final = 64
_HEX: Final = re.compile("0x[0-9a-f]{1,16}")
_DIGITS: Final = re.compile("[0-9a-f]*")
_NOT_ONE_LINE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: str) -> str:
    """``text`` as it may be sent and shown: cut to MAX_TEXT, ``?`` for control, direction and surrogate characters.

    Such texts end up in other people's terminals and logs.
    """
    return _NOT_ONE_LINE.sub("?", text[:MAX_TEXT])


def base64_text(data: bytes) -> str:
    """Bytes as a text."""
    return b64encode(data).decode()


class Members:
    """The members of one JSON object. Every getter raises PeerError if the member is missing or is something else.

    ``what`` names the object in these errors: "message 'attach'".
    """

    __slots__ = ("_values", "_what")

    def __init__(self, what: str, values: object) -> None:
        if not isinstance(values, dict):
            raise PeerError(why=f"its {what} is not a JSON object")
        self._what = what
        self._values: dict[str, object] = values

    def text(self, name: str) -> str:
        """A text of one line."""
        return self._line(name, self._values.get(name))

    def text_or_none(self, name: str) -> str | None:
        """A text of one line, or null."""
        if name in self._values and self._values[name] is None:
            return None
        return self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple([self._line(name, item) for item in self._items(name)])

    def choice(self, name: str, choices: type[_Choice]) -> _Choice:
        """A text that is one of ``choices``."""
        try:
            return choices(self.text(name))
        except ValueError:
            raise self._refusal(name, "one of " + ", ".join(choices)) from None

    def choice_or_none(self, name: str, choices: type[_Choice]) -> _Choice | None:
        """A text that is one of ``choices``, or null, or absent."""
        return None if self._values.get(name) is None else self.choice(name, choices)

    def flag(self, name: str) -> bool:
        """True, false, or absent, which is false."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise self._refusal(name, "true or false")
        return value

    def integer(self, name: str, least: int = 0, most: int = MAX_INTEGER) -> int:
        """A whole number from ``least`` to ``most``."""
        return self._whole(name, self._values.get(name), least, most)

    def integers(self, name: str, least: int = 0, most: int = MAX_INTEGER) -> tuple[int, ...]:
        """A list of whole numbers."""
        return tuple([self._whole(name, item, least, most) for item in self._items(name)])

    def hexadecimal(self, name: str) -> int:
        """A number of up to 64 bits, written as a text like ``0xc0000005``."""
        text = self.text(name)
        if not _HEX.fullmatch(text):
            raise self._refusal(name, "a hexadecimal number like 0xc0000005")
        return int(text, 16)

    def digits(self, name: str, number: int) -> str:
        """So many hexadecimal digits, in lower case. The error does not show them: they may be a secret."""
        value = self._values.get(name)
        if not isinstance(value, str) or len(value) != number or not _DIGITS.fullmatch(value):
            raise self._refusal(name, f"{number} hexadecimal digits")
        return value

    def digits_or_none(self, name: str, number: int) -> str | None:
        """The same, or null, or absent."""
        return None if self._values.get(name) is None else self.digits(name, number)

    def seconds(self, name: str) -> float:
        """A time span."""
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_INTEGER:
            raise self._refusal(name, "a number of seconds")
        return float(value)

    def base64(self, name: str) -> bytes:
        """Bytes, written as base64 with its padding."""
        text = self._values.get(name)
        if isinstance(text, str) and len(text) <= MAX_BASE64:
            with suppress(ValueError):
                return b64decode(text, validate=True)
        raise self._refusal(name, f"base64 of up to {MAX_BASE64} characters")

    def json_object(self, name: str) -> dict[str, Any]:
        """A JSON object, whatever is in it."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise self._refusal(name, "a JSON object")
        return value

    def json_objects(self, name: str) -> list[dict[str, Any]]:
        """A list of JSON objects, as long as it fits into a message."""
        items = self._values.get(name)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise self._refusal(name, "a list of JSON objects")
        return items

    def has(self, name: str) -> bool:
        """Whether there is such a member."""
        return name in self._values

    def value(self, name: str) -> object:
        """Whatever the member is, None if there is none: for something else to read."""
        return self._values.get(name)

    def _items(self, name: str) -> list[object]:
        items = self._values.get(name)
        if not isinstance(items, list) or len(items) > _MAX_ITEMS:
            raise self._refusal(name, f"a list of up to {_MAX_ITEMS}")
        return items

    def _line(self, name: str, value: object) -> str:
        if not isinstance(value, str) or len(value) > MAX_TEXT or _NOT_ONE_LINE.search(value):
            raise self._refusal(name, f"a line of text of up to {MAX_TEXT} characters")
        return value

    def _whole(self, name: str, value: object, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._refusal(name, f"a whole number from {least} to {most}")
        return value

    def _refusal(self, name: str, wanted: str) -> PeerError:
        problem = "is not" if name in self._values else "is missing: it has to be"
        return PeerError(why=f"'{name}' in its {self._what} {problem} {wanted}")
