"""``kdsrv end``: end a server, as ``.endpsrv`` does. Its clients are told, its targets are left as they are."""

from __future__ import annotations

import argparse
import json
from typing import Any

from twisted.internet.defer import Deferred

from kdsrv.commands.list import add_question_options, ask_server, show
from kdsrv.wire.messages import EndServer

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv end``."""
    parser.description = (
        "End a server, for everybody who uses it. Its targets are left as they are. "
        "For users with the role full who are bound to no targets."
    )
    add_question_options(parser)


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """End the server; fires with the exit status, or fails with a KdsrvError."""
    return Deferred.fromCoroutine(_run(reactor, options))


async def _run(reactor: Any, options: argparse.Namespace) -> int:
    await ask_server(reactor, options, EndServer())
    return show(json.dumps({"event": "ended"}) + "\n" if options.json else "the server ends\n")
