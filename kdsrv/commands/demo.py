"""``kdsrv demo``: a server, a simulated target and a client in one process."""

from __future__ import annotations

import argparse
from typing import Any

from twisted.internet.defer import Deferred, succeed

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv demo``."""
    parser.add_argument("--once", action="store_true", help="end after showing")


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Placeholder until the client API is there."""
    return succeed(0)
