"""``kdsrv password``: make the line of a user in a user file, or see whether a password fits one."""

from __future__ import annotations

import argparse
import getpass
import secrets
import sys
from pathlib import Path
from typing import Any, Final

from kdsrv.auth.passwords import SALT_SIZE, Verifier
from kdsrv.auth.secret_files import read_user_table
from kdsrv.auth.users import Role, User, check_name, user_line
from kdsrv.errors import SetupError

__all__ = ["configure", "run"]

_MOST: Final = 4096


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv password``."""
    parser.description = (
        "Print the line of a user for the file that 'twist kdsrv --users FILE' reads. The password is asked for on the "
        "terminal, twice, or is the first line of standard input. The line holds no password, but guard it like one: "
        "chmod 600 FILE."
    )
    parser.add_argument("name", metavar="NAME", help="up to 64 letters, digits and any of . _ @ -")
    parser.add_argument(
        "--role",
        choices=[str(role) for role in Role],
        default=str(Role.FULL),
        help="what the user may do; full if left out",
    )
    parser.add_argument(
        "--target",
        metavar="NAME",
        action="append",
        help="a published target that the user may open, or several: 'rack*'; all if left out",
    )
    parser.add_argument(
        "--check", metavar="FILE", type=Path, help="make nothing: see whether the password is that of NAME in FILE"
    )


def run(reactor: Any, options: argparse.Namespace) -> int:
    """Print the line, or with ``--check`` say whether the password fits: status 0 if it does, 1 if not."""
    name = check_name(options.name)
    if options.check is not None:
        return _check(name, options.check)
    targets = None if options.target is None else tuple(options.target)
    user = User(name, Role(options.role), targets)
    verifier = Verifier.of(_ask(twice=True), secrets.token_bytes(SALT_SIZE))
    sys.stdout.write(f"{user_line(user, verifier)}\n")
    return 0


def _check(name: str, path: Path) -> int:
    user, verifier = read_user_table(path).find(name)
    if user is None:
        raise SetupError(why=f"there is no user {name} in {path}")
    fits = verifier.fits(_ask(twice=False))
    sys.stdout.write(f"that is {'' if fits else 'not '}the password of {name}\n")
    return 0 if fits else 1


def _ask(*, twice: bool) -> str:
    """The password, from the terminal without showing it, or from standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline(_MOST).rstrip("\r\n")
    password = getpass.getpass("password: ")
    if twice and getpass.getpass("the same again: ") != password:
        raise SetupError(why="these were two different passwords")
    return password
