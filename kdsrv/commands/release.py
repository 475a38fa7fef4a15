"""``kdsrv release``: give a target that one holds to who has asked for it."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from twisted.internet.defer import Deferred

from kdsrv.client.asking import ask
from kdsrv.commands.certificate_options import add_certificate_options, given_certificates
from kdsrv.commands.list import show, teller
from kdsrv.commands.login_options import add_login_options, given_login
from kdsrv.commands.string_option import add_string_option
from kdsrv.connection_strings import parse_kdsrv_string
from kdsrv.wire.messages import Release

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv release``."""
    parser.description = (
        "Give a target that you hold to who has asked for it with kdsrv connect --take ask. Their debugger finds the "
        "target as it is. You are known by your login, or by this host where nobody logs in."
    )
    add_string_option(parser, "the string of your kdsrv connect (in quotes)")
    add_login_options(parser)
    add_certificate_options(parser)
    parser.add_argument("--json", action="store_true", help="say it as one JSON object, an error as well")


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Give the target away; fires with the exit status, or fails with a KdsrvError."""
    return Deferred.fromCoroutine(_run(reactor, options))


async def _run(reactor: Any, options: argparse.Namespace) -> int:
    spec = parse_kdsrv_string(options.string)
    user, password = given_login(options, os.environ)
    released = await ask(
        reactor,
        spec.server,
        Release(None if spec.trans is None else spec.trans.to_string()),
        user=user,
        password=password,
        certificates=given_certificates(options),
        tell=teller(as_json=options.json),
    )
    if options.json:
        return show(json.dumps({"event": "released", "target": released.target, "to": released.to}) + "\n")
    return show(f"{released.to} has {released.target} now\n")
