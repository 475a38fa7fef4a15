"""The options by which commands log in to a server, and what they come to.

The password is the one in the connection string (``password=``), else that in ``--password-file``, else that in the
environment (``KDSRV_PASSWORD``), which no child process inherits.
"""

from __future__ import annotations

import argparse
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final, NamedTuple

from kdsrv.auth.secret_files import read_password

__all__ = ["VARIABLE", "GivenLogin", "add_login_options", "given_login"]

VARIABLE: Final = "KDSRV_PASSWORD"


class GivenLogin(NamedTuple):
    """A user's name, empty if none was given, and a password for servers whose string holds none."""

    user: str = ""
    password: str | None = None

    def __repr__(self) -> str:
        return f"GivenLogin(user={self.user!r})"


def add_login_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--user`` and ``--password-file``."""
    parser.add_argument(
        "--user", metavar="NAME", default="", help="log in by this name; needed only where the server has several users"
    )
    parser.add_argument(
        "--password-file",
        metavar="FILE",
        type=Path,
        help=f"log in with the first line of FILE if the string has no password=; else with ${VARIABLE}",
    )


def given_login(options: argparse.Namespace, environ: MutableMapping[str, str]) -> GivenLogin:
    """What the options and the environment say; SetupError, a sentence, if the file cannot be used."""
    password = environ.pop(VARIABLE, None)
    if options.password_file is not None:
        password = read_password(options.password_file)
    return GivenLogin(options.user, password or None)
