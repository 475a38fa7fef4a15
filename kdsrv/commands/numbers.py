"""Numbers on a command line: what is none is told in a sentence, and not in Python's words."""

from __future__ import annotations

import argparse
from math import inf, nan

__all__ = ["number", "seconds", "whole_number"]


def number(text: str) -> float:
    """Any finite number. ArgumentTypeError, a sentence, for anything else; so below."""
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not -inf < value < inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no number")
    return value


def whole_number(text: str) -> int:
    """A number without a fraction."""
    value = number(text)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number")
    return int(value)


def seconds(text: str) -> float:
    """0 or more."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds")
    return value
