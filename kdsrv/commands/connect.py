"""``kdsrv connect``: hold a target of a server, and open bridges on which a local debugger finds it."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred

from kdsrv.client.terms import Terms
from kdsrv.commands.certificate_options import add_certificate_options, given_certificates
from kdsrv.commands.desk import Desk
from kdsrv.commands.login_options import add_login_options, given_login
from kdsrv.commands.screen import Screen
from kdsrv.commands.string_option import add_string_option
from kdsrv.connection_strings import KdsrvSpec, parse_kdsrv_string
from kdsrv.errors import SetupError
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.tenant import Take

__all__ = ["configure", "run"]

_LOOPBACK: Final = "127.0.0.1"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv connect``."""
    parser.description = (
        "Hold a target of a kdsrv server and let a debugger on this machine at it, as if the cable ended here. "
        "Without --tcp, --unix or --pty it opens a TCP port on loopback and a unix socket. "
        "Ctrl-C ends the session and leaves the target as it is. Status 0: you have ended it, or given the target away."
    )
    add_string_option(
        parser, "'kdsrv:server=@{tcp:server=HOST,port=1234},trans=@{com:port=/dev/ttyUSB0,baud=115200}' (in quotes)"
    )
    parser.add_argument(
        "--tcp", metavar="[HOST:]PORT", action="append", help="a bridge on a TCP port, of 127.0.0.1; 0: any free one"
    )
    parser.add_argument("--unix", metavar="PATH", action="append", help="a bridge on a unix socket")
    parser.add_argument(
        "--pty", metavar="LINK", action="append", nargs="?", const="", help="a bridge on a new pty, and a link to it"
    )
    parser.add_argument(
        "--take",
        choices=[take.value for take in Take],
        help="if somebody else has the target: ask them for it and wait, or take it by force (role full only)",
    )
    parser.add_argument(
        "--on-leave",
        choices=[on_leave.value for on_leave in OnLeave],
        help="what becomes of the target when the session ends: it stays as it is, or continues without breakpoints",
    )
    add_login_options(parser)
    add_certificate_options(parser)
    parser.add_argument("--json", action="store_true", help="say what happens as JSON, one object a line, on stdout")
    parser.add_argument(
        "--no-reconnect", action="store_true", help="end with status 1 when the session is lost, do not connect again"
    )


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Hold the session until cancelled; fires with the exit status, or fails with a KdsrvError."""
    return Deferred.fromCoroutine(_run(reactor, options, Screen(as_json=options.json)))


async def _run(reactor: Any, options: argparse.Namespace, screen: Screen) -> int:
    try:
        spec = parse_kdsrv_string(options.string)
        tcp = [_tcp_address(text) for text in options.tcp or []]
        desk = Desk(
            reactor,
            spec,
            screen,
            reconnect=not options.no_reconnect,
            terms=Terms(
                take=options.take and Take(options.take), on_leave=options.on_leave and OnLeave(options.on_leave)
            ),
            login=given_login(options, os.environ),
            certificates=given_certificates(options),
            release=_release_command(spec, options),
        )
        await _hold(desk, tcp, options)
    except CancelledError:
        return 0
    finally:
        screen.end()
    return 0


async def _hold(desk: Desk, tcp: list[tuple[str, int]], options: argparse.Namespace) -> None:
    try:
        await desk.open(tcp, options.unix or [], options.pty or [])
        await desk.ended
    finally:
        desk.close()


def _release_command(spec: KdsrvSpec, options: argparse.Namespace) -> str:
    """What the user of this session types to give its target away. A password in the string is not shown."""
    words = ["kdsrv", "release", str(replace(spec, server=replace(spec.server, password=None)))]
    files = {"--password-file": options.password_file, "--certificate": options.certificate, "--key": options.key}
    given = [("--user", options.user), *(("--ca", path) for path in options.ca), *files.items()]
    for name, value in given:
        words += [name, str(value)] if value else []
    return shlex.join(words)


def _tcp_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise SetupError(why=f"--tcp: '{text}' is not [HOST:]PORT")
    return host.strip("[]") or _LOOPBACK, int(port)
