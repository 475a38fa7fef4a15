"""``kdsrv key``: make a key for a KDNET target and show where it goes, or see whether a key is easily guessed."""

from __future__ import annotations

import argparse
import getpass
import secrets
import sys
from ipaddress import IPv4Address
from typing import Any, Final

from kdsrv.connection_strings import NetSpec
from kdsrv.errors import SetupError
from kdsrv.kdnet.keys import NetKey, make_key

__all__ = ["configure", "run"]

_FIRST_PORT: Final = 49152
_LAST_PORT: Final = 65535
"""What Windows takes; of these, 50000 to 50039 are recommended (KDNET, 9)."""
_MOST: Final = 4096

_SHOWN: Final = """\
on the target, as administrator; kdnet.exe picks the network card, the last line sets this key; then reboot:
  kdnet.exe {host} {port}
  bcdedit /debug on
  bcdedit /dbgsettings net hostip:{host} port:{port} key:{key}
for clients of the server there:
  trans=@{{{spec}}}
"""
_ANY_HOST: Final = "ADDRESS"
_HINT: Final = "ADDRESS is the IPv4 address at which the target reaches the server; --host 192.0.2.10 puts it in\n"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv key``."""
    parser.description = (
        "Make a key that nobody can guess for a target that is debugged over the network (KDNET), and show what to "
        "type on the target and what clients write. With --check, see whether a key is easily guessed: it is asked for "
        "on the terminal, or is the first line of standard input, and never part of the command line."
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        type=_address,
        help="the IPv4 address at which the target reaches the server; shown as ADDRESS if not given",
    )
    parser.add_argument(
        "--port", metavar="PORT", type=_port, default=50000, help="UDP port, 49152 to 65535 (default: 50000)"
    )
    parser.add_argument("--only-key", action="store_true", help="print the key and nothing else, for scripts")
    parser.add_argument("--check", action="store_true", help="make no key, but judge one")
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)


def run(reactor: Any, options: argparse.Namespace) -> int:
    """Show a new key, or with ``--check`` judge one: status 0 if it is a good one, 1 if it is weak or none."""
    if options.words:
        raise SetupError(why="a key in a command line is seen by others; write kdsrv key --check, which asks for it")
    if options.check:
        return _check()
    key = make_key(secrets.token_bytes)
    if options.only_key:
        sys.stdout.write(f"{key}\n")
        return 0
    spec = NetSpec(options.port, key).to_string()
    sys.stdout.write(_SHOWN.format(host=options.host or _ANY_HOST, port=options.port, key=key, spec=spec))
    if options.host is None:
        sys.stdout.write(_HINT)
    return 0


def _check() -> int:
    text = getpass.getpass("key: ") if sys.stdin.isatty() else sys.stdin.readline(_MOST)
    try:
        weakness = NetKey.parse(text.strip()).weakness
    except ValueError as error:
        raise SetupError(why=str(error)) from None
    if weakness is None:
        sys.stdout.write("this is a good key\n")
        return 0
    sys.stdout.write(f"this key is easily guessed: {weakness}; make another one: kdsrv key\n")
    return 1


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise argparse.ArgumentTypeError("a target is told an IPv4 address, such as 192.0.2.10") from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and _FIRST_PORT <= int(text) <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"Windows takes ports {_FIRST_PORT} to {_LAST_PORT}, best 50000 to 50039")
    return int(text)
