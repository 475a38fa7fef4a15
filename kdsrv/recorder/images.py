"""What was read of a target's memory and registers, to be read again in other cuts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

__all__ = ["Images", "Span"]

_PAGE: Final = 4096

Space: TypeAlias = tuple[str, int]
"""What addresses count in: a name, and the number of a processor where each has its own."""


class Span(NamedTuple):
    """The part of a recording that belongs to one stop: from a position to before another."""

    begin: int
    end: int


class _Part(NamedTuple):
    """These bytes stood there at this position of the recording."""

    position: int
    address: int
    data: bytes


class Images:
    """Everything that is known of all spaces at all times. It is filled in the order of the recording."""

    def __init__(self) -> None:
        self._pages: dict[tuple[Space, int], list[_Part]] = {}

    def add(self, space: Space, address: int, data: bytes, position: int) -> None:
        """These bytes were read there, or written."""
        if data:
            part = _Part(position, address, data)
            for page in range(address // _PAGE, (address + len(data) - 1) // _PAGE + 1):
                self._pages.setdefault((space, page), []).append(part)

    def read(self, space: Space, address: int, length: int, stop: Span, position: int) -> bytes:
        """The bytes from ``address`` on, up to the first that nobody knows, as they were at ``position`` in this stop.

        What was not read during the stop is taken from the next one at which it was, else from the last one.
        """
        found = bytearray(length)
        for page in range(address // _PAGE, (address + length - 1) // _PAGE + 1):
            missing = [(max(address, page * _PAGE), min(address + length, (page + 1) * _PAGE))]
            for part in _by_preference(self._pages.get((space, page), []), stop, position):
                missing = [rest for begin, end in missing for rest in _fill(found, address, begin, end, part)]
                if not missing:
                    break
            if missing:
                return bytes(found[: missing[0][0] - address])
        return bytes(found)


def _by_preference(parts: list[_Part], stop: Span, position: int) -> Iterator[_Part]:
    """During the stop the last one before the position, then those after it; then later stops, then earlier ones."""
    begin, now = bisect_left(parts, (stop.begin,)), bisect_left(parts, (position + 1,))
    yield from reversed(parts[begin:now])
    yield from parts[max(begin, now) :]
    yield from reversed(parts[:begin])


def _fill(found: bytearray, base: int, begin: int, end: int, part: _Part) -> Iterator[tuple[int, int]]:
    """Take from ``part`` what it has from ``begin`` to ``end``; gives what is missing of that then."""
    first, last = max(begin, part.address), min(end, part.address + len(part.data))
    if first >= last:
        yield begin, end
        return
    found[first - base : last - base] = part.data[first - part.address : last - part.address]
    if begin < first:
        yield begin, first
    if last < end:
        yield last, end
