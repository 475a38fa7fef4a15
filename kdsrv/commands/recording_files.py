"""The recordings that a command is given: files, or directories of them."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_recordings"]


def add_recordings(parser: argparse.ArgumentParser) -> None:
    """Let a command take recordings, one at the least, as ``file``; ``find_recordings`` says what they are."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="a recording (.pcapng), several in order, or a directory: all that are in it",
    )
