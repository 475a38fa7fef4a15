"""What clients type; and a password that was made up, shown to those who started the server, and to no log."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kdsrv.auth.users import UserBook, UserTable
from kdsrv.errors import SetupError

__all__ = ["client_command", "login_options", "place_to_dial", "show_password"]


def place_to_dial(address: Any) -> str | None:
    """How a client string names where a listener with this address is; None if no client string can."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None or port is None:
        return None
    name = socket.gethostname() if ipaddress.ip_address(host).is_unspecified else host
    return f"server={name},port={port}"


def client_command(server: str, target: str, *, options: str = "") -> str:
    """What a client types, ready to paste: a client string, a kd-string, and how to log in if it is not in there."""
    return f"kdsrv connect {options}-k 'kdsrv:server=@{{{server}}},trans=@{{{target}}}'"


def login_options(book: UserBook | None) -> str:
    """With what options those of a book log in; empty if nobody has to. A space is behind them."""
    if book is None:
        return ""
    return f"{'--user NAME ' if isinstance(book, UserTable) else ''}--password-file FILE "


def show_password(password: str, commands: Sequence[str], environ: Mapping[str, str]) -> None:
    """Write it to where the process was started from: a terminal, or a pipe or socket, at whose other end is a program
    that reads it. SetupError, a sentence, if nobody would see it there, or if it would stay: a file is a log, and
    systemd's journal, of which ``environ`` tells, keeps what it gets and shows it to others.

    Python's own stderr, as Twisted's replacement leads to the log.
    """
    text = "\n    ".join([f"kdsrv: no password was given, so one was made for this run: {password}", *commands])
    text += "\nkdsrv: at each start it is another one; --password-file keeps one"
    try:
        stream = sys.__stderr__
        if stream is None or os.path.samestat(found := os.fstat(stream.fileno()), os.stat(os.devnull)):
            raise _refusal("be seen by nobody")
        if environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}":
            raise _refusal("stay in the journal")
        if stat.S_ISREG(found.st_mode):
            raise _refusal("stay in a log file")
        stream.write(f"{text}\n")
        stream.flush()
    except (OSError, ValueError) as error:
        raise SetupError(why=f"the password that was made cannot be shown: {error}") from None


def _refusal(fate: str) -> SetupError:
    return SetupError(
        why=f"no password was given, and one that is made would {fate}; say --password-file, --users or --no-password, "
        "or start the server at a terminal"
    )
