"""The connection string on a command line: after ``-k``, as Microsoft's debuggers have it, or as a word of its own.

A shell takes a string without quotes apart, at blanks or by brace expansion. Its pieces may be parts of a password, so
nothing of them is shown.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Final

__all__ = ["TAKEN_APART", "add_string_option", "complaint"]

TAKEN_APART: Final = "your shell took the connection string apart; put it in single quotes"

_PIECE: Final = re.compile(r"[={}]|@|^\w+:(?!\d+$)")


def add_string_option(parser: argparse.ArgumentParser, example: str) -> None:
    """Take one string; `complaint` says whether it is one, and puts it into ``string``."""
    parser.add_argument("strings", metavar="STRING", nargs="*", action="extend", help=example)
    parser.add_argument("-k", dest="strings", metavar="STRING", action="append", help="the same, as debuggers spell it")


def complaint(options: argparse.Namespace, unknown: Sequence[str]) -> str | None:
    """What is wrong with the words that argparse has found, None if nothing is. ``unknown`` belong to no option."""
    strings: list[str] = getattr(options, "strings", [""]) or []
    if any(not word.startswith("-") and _PIECE.search(word) for word in unknown):
        return TAKEN_APART
    if unknown:
        return f"unrecognized arguments: {' '.join(word.partition('=')[0] for word in unknown)}"
    if len(strings) > 1:
        return TAKEN_APART
    if not strings:
        return "the following arguments are required: STRING, or -k STRING"
    options.string = strings[0]
    return None
