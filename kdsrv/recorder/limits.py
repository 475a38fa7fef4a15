"""How large and how old a recording becomes, and how much room all of them take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kdsrv.errors import SetupError

__all__ = ["RecordLimits", "parse_age", "parse_size"]

_KILO: Final = 1024
_SIZES: Final = {"": 1, "K": _KILO, "M": _KILO**2, "G": _KILO**3, "T": _KILO**4}
_AGES: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LEAST_SIZE: Final = _KILO**2


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """``size`` and ``space`` in bytes, ``age`` in seconds.

    A recording that would become larger than ``size``, or is as old as ``age``, is closed and the next one begun. When
    those in a directory would take more than ``space``, the oldest go. SetupError for limits that do not fit.
    """

    size: int = 64 * _KILO**2
    age: int = 86400
    space: int = _KILO**3

    def __post_init__(self) -> None:
        if self.size < _LEAST_SIZE:
            raise SetupError(why=f"a recording of {self.size} bytes is too small: 1M or more")
        if self.age < 1:
            raise SetupError(why="a recording has to last a second at the least")
        if self.space < 2 * self.size:
            raise SetupError(
                why=f"all recordings together may take {self.space} bytes and one of them {self.size}: "
                "there has to be room for two"
            )


def parse_size(text: str) -> int:
    """``64M`` in bytes; units K, M, G and T of 1024. Raises SetupError."""
    return _parse(text, _SIZES, text.upper(), "a size: 64M, 1G")


def parse_age(text: str) -> int:
    """``12h`` in seconds; units s, m, h and d. Raises SetupError."""
    return _parse(text, _AGES, text.lower(), "a time: 90m, 12h, 7d")


def _parse(text: str, units: dict[str, int], spelled: str, what: str) -> int:
    found = re.fullmatch(r"([0-9]{1,12})([A-Za-z]?)", spelled)
    if found is None or found[2] not in units:
        raise SetupError(why=f"'{text}' is not {what}")
    return int(found[1]) * units[found[2]]
