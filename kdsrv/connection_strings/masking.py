"""What of a connection string may be shown: everything but the values of passwords, keys and names nobody knows.

It works on text that may be broken in any way, so it does not parse: it cuts the text at ``,`` and ``@{`` and shows a
piece only if it is a known flag or a known name with its value. After a hidden value everything stays hidden up to the
next known piece, because a password with a ``,`` in it continues there.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final, NamedTuple

__all__ = ["FLAG_NAMES", "SECRET_NAMES", "VALUE_NAMES", "Masked", "masked"]

SECRET_NAMES: Final = frozenset({"key", "password"})
FLAG_NAMES: Final = frozenset({"hidden", "icfenable", "modem", "pipe", "reconnect", "target"})
# fmt: off
VALUE_NAMES: Final = frozenset({
    "baud", "baudrate", "certuser", "channel", "clicon", "cpus", "damage", "duplicate", "ipport", "ipversion",
    "linger", "listen", "loss", "machuser", "name", "pipe", "port", "proto", "readcap", "resets", "seed", "server",
    "serviceid", "state", "symlink", "target", "targetname", "trans", "vmid",
})
# fmt: on

_MARK: Final = "*"
_CUT: Final = re.compile(r",|@\{")
_BRACES: Final = re.compile(r"@\{|\}")
_PIECE: Final = re.compile(r"(?P<transport>[A-Za-z0-9]*:)?(?P<name>[A-Za-z]*)(?P<equals>=?)(?P<rest>.*)", re.DOTALL)
_SECRET: Final = re.compile(rf"(?:{'|'.join(sorted(SECRET_NAMES))})\s*[=:]", re.IGNORECASE)


class Masked(NamedTuple):
    """A text fit for showing, and the stretches of the original (start, stop) that became one ``*`` each."""

    text: str
    hidden: tuple[tuple[int, int], ...]

    def offset(self, original: int) -> int:
        """Where the character at this offset of the original stands in the shown text."""
        before = self.hidden[: bisect_right(self.hidden, (original, original))]
        if before and original < before[-1][1]:
            original = before[-1][0]
            before = before[:-1]
        return original - sum(stop - start - len(_MARK) for start, stop in before)


def masked(text: str) -> Masked:
    """The text with ``*`` for each value that must not be shown, ``?`` for each character that cannot be."""
    hidden = _hidden(text)
    shown: list[str] = []
    at = 0
    for start, stop in hidden:
        shown += text[at:start], _MARK
        at = stop
    shown.append(text[at:])
    return Masked("".join(char if char.isprintable() else "?" for char in "".join(shown)), tuple(hidden))


def _hidden(text: str) -> list[tuple[int, int]]:
    stretches: list[tuple[int, int]] = []
    at = 0
    hiding = False
    while at < len(text):
        cut = _CUT.search(text, at)
        stop = cut.start() if cut else len(text)
        after = cut.end() if cut else stop
        if text[at:stop].strip("}"):
            start = _first_secret(text, at, stop, hiding)
            if start is not None:
                end = start + len(text[start:stop].rstrip("}"))
                if text.startswith("=@{", stop - 1):
                    end = after = _closing(text, stop)
                stretches.append((stretches.pop()[0] if hiding else start, end))
            hiding = start is not None
        at = after
    return stretches


def _first_secret(text: str, start: int, stop: int, hiding: bool) -> int | None:
    """The offset from which this piece must be hidden, None if all of it may be shown."""
    piece = _PIECE.fullmatch(text, start, stop)
    if piece is None:
        return start
    name = piece["name"].lower()
    known = name in VALUE_NAMES if piece["equals"] else name in FLAG_NAMES and not piece["rest"].strip("}")
    if hiding and not known:
        return start
    if found := _SECRET.search(text, start, stop):
        return found.end()
    word = (piece["name"] + piece["rest"]).strip("}")
    bare_word = not piece["equals"] and (not word or word.isalnum())
    return None if known or bare_word else piece.start("rest")


def _closing(text: str, start: int) -> int:
    """The offset behind the ``}`` that belongs to the ``@{`` at ``start``, or the end of the text."""
    depth = 0
    for brace in _BRACES.finditer(text, start):
        depth += 1 if brace[0] == "@{" else -1
        if depth == 0:
            return brace.end()
    return len(text)
