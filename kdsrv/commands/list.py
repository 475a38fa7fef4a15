"""``kdsrv list``: what a server has, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from twisted.internet.defer import Deferred

from kdsrv.client.asking import ask
from kdsrv.client.listening import Notice, Waiting
from kdsrv.commands.certificate_options import add_certificate_options, given_certificates
from kdsrv.commands.login_options import add_login_options, given_login
from kdsrv.commands.string_option import add_string_option
from kdsrv.connection_strings import ClientSpec, parse_client_string, parse_kdsrv_string
from kdsrv.errors import ConnectionStringError, SetupError
from kdsrv.wire.members import Members
from kdsrv.wire.messages import EndServer, ListEverything, Listing

__all__ = [
    "QR_PORT",
    "add_question_options",
    "as_json",
    "as_table",
    "ask_server",
    "configure",
    "qr_string",
    "run",
    "show",
    "teller",
]

QR_PORT: Final = 1234
"""The TCP port that ``kdsrv -QR HOST`` asks: that of all examples."""

_TRANSPORT: Final = r"(?:tcp|ssl|com|npipe|spipe|hyperv|1394):"
_HOST_AND_PORT: Final = re.compile(rf"(?!{_TRANSPORT})([\w.-]+|\[[0-9A-Fa-f:.]+\]):(\d{{1,5}})")
_EXAMPLE: Final = "'tcp:server=HOST,port=1234,password=PASSWORD' (in quotes)"
_COUNTERS: Final = ("packets_received", "packets_sent", "repeats_sent", "damaged")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv list``."""
    parser.description = (
        "Show the targets that a server has published, and who holds which. "
        f"kdsrv -QR HOST is the same for tcp:server=HOST,port={QR_PORT}."
    )
    add_question_options(parser)


def add_question_options(parser: argparse.ArgumentParser) -> None:
    """Say which server is asked, and how to log in to it."""
    add_string_option(parser, _EXAMPLE)
    add_login_options(parser)
    add_certificate_options(parser)
    parser.add_argument("--json", action="store_true", help="say it as one JSON object, an error as well")


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Show the listing; fires with the exit status, or fails with a KdsrvError."""
    return Deferred.fromCoroutine(_run(reactor, options))


async def _run(reactor: Any, options: argparse.Namespace) -> int:
    listing = await ask_server(reactor, options, ListEverything())
    assert listing is not None
    text = as_json(listing) if options.json else as_table(listing)
    return show(text)


def ask_server(
    reactor: Any, options: argparse.Namespace, question: ListEverything | EndServer
) -> Deferred[Listing | None]:
    """The answer to a question, as the command line says whom to ask."""
    user, password = given_login(options, os.environ)
    return ask(
        reactor,
        _server(options.string),
        question,
        user=user,
        password=password,
        certificates=given_certificates(options),
        tell=teller(as_json=options.json),
    )


def _server(text: str) -> ClientSpec:
    """The server of a client string, or of a kdsrv string as ``kdsrv connect`` takes it."""
    if text.lstrip().lower().startswith("kdsrv:"):
        return parse_kdsrv_string(text).server
    try:
        return parse_client_string(text)
    except ConnectionStringError:
        if (found := _HOST_AND_PORT.fullmatch(text)) is None:
            raise
        write = f"tcp:server={found[1].strip('[]')},port={found[2]}"
        raise SetupError(why=f"a connection string begins with a transport: write {write}") from None


def show(text: str) -> int:
    """Write a text to standard output; the exit status is 0 also if nobody reads it."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return 0


def teller(*, as_json: bool) -> Callable[[Notice], None]:
    """Says what happens on the way: that the server is slow to answer, unless a program reads the answer; with
    ``clicon=`` where this waits, and who is turned away."""

    def tell(notice: Notice) -> None:
        if as_json and isinstance(notice, Waiting):
            return
        with suppress(OSError):
            sys.stderr.write(f"{notice}\n")
            sys.stderr.flush()

    return tell


def qr_string(host: str) -> str:
    """The client string that ``-QR HOST`` stands for; one that is written out is taken as it is."""
    return host if "=" in host else f"tcp:server={host},port={QR_PORT}"


def as_json(listing: Listing) -> str:
    """The listing on one line."""
    return json.dumps(listing.members()) + "\n"


def as_table(listing: Listing) -> str:
    """The listing for people. PeerError if it is not what a listing is."""
    server = Members("listing", listing.server)
    user, role = server.text("user"), server.text("role")
    who = f"you are {user}, role {role}" if user else f"there are no users here: everybody has the role {role}"
    lines = [f"{server.text('software')}; {who}", ""]
    if listing.targets:
        lines += _columns(("PUBLISHED TARGET", "STATE"), [_target(entry) for entry in listing.targets])
    else:
        lines.append("no published targets")
    lines.append("")
    if listing.sessions:
        heads = ("TARGET", "HOLDER", "STATUS", "FROM", "SINCE", "RECEIVED", "SENT", "REPEATED", "DAMAGED")
        lines += _columns(heads, [_session(entry) for entry in listing.sessions])
    else:
        lines.append("no sessions")
    if left_out := server.integer("left_out"):
        lines += ["", f"and {left_out} more, for which the message has no room"]
    return "\n".join(lines) + "\n"


def _target(entry: dict[str, object]) -> Sequence[str]:
    target = Members("target", entry)
    return f"target:name={target.text('name')}", target.text("state")


def _session(entry: dict[str, object]) -> Sequence[str]:
    session = Members("session", entry)
    counters = Members("counters", session.value("counters"))
    status = session.text("status") + (" (read-only)" if session.value("read_only") is True else "")
    if entry.get("absence") is not None:
        status += f" ({session.text('absence')})"
    return (
        _called(session, entry),
        session.text("holder"),
        status,
        session.text("address"),
        _local(session.text("since")),
        *(str(counters.integer(name)) for name in _COUNTERS),
    )


def _called(session: Members, entry: dict[str, object]) -> str:
    """The target. On the network that is a key that is not shown: its line tells where it calls from."""
    target = session.text("target")
    if not target.startswith("net:") or entry.get("description") is None:
        return target
    return f"{target} ({session.text('description')})"


def _local(since: str) -> str:
    """A time as the clock on the wall here has it."""
    try:
        return datetime.fromisoformat(since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return since


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows under their heads, each column as wide as it needs."""
    table = [heads, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
