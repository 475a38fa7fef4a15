"""The options that say where a command offers a machine's serial line, and what they come to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from kdsrv.commands.machine_end import offer_fifos, offer_pty, offer_tcp, offer_unix
from kdsrv.connection_strings import KdSpec, PipeSpec, SerialSpec, TcpSerialSpec
from kdsrv.transports.simulated import LiveLine

__all__ = ["add_places", "kd_string", "offer"]


def add_places(parser: argparse._MutuallyExclusiveGroup) -> None:
    """``--pty``, ``--unix``, ``--tcp`` and ``--fifo``."""
    parser.add_argument("--pty", action="store_true", help="on a new pseudo-terminal, whose path is printed")
    parser.add_argument("--unix", metavar="PATH", help="on a unix socket, as virtual machines offer their serial port")
    parser.add_argument(
        "--tcp", metavar="[HOST:]PORT", type=_address, help="on a TCP port, of 127.0.0.1 if no host is given"
    )
    parser.add_argument("--fifo", metavar="NAME", help="on the FIFOs NAME.in and NAME.out")


def offer(reactor: Any, live: LiveLine, options: argparse.Namespace) -> tuple[str, Callable[[], Any]]:
    """Let debuggers reach the machine there; where that is, for people, and how to end it. Raises `SetupError`."""
    if options.unix is not None:
        return offer_unix(reactor, live, os.path.abspath(options.unix))
    if options.tcp is not None:
        return offer_tcp(reactor, live, *options.tcp)
    if options.fifo is not None:
        return offer_fifos(reactor, live, os.path.abspath(options.fifo))
    return offer_pty(reactor, live)


def kd_string(where: str, options: argparse.Namespace) -> KdSpec:
    """How a server opens what was offered there."""
    place = where.rpartition(" ")[2]
    if options.tcp is not None:
        host, _, port = place.rpartition(":")
        return TcpSerialSpec(host, int(port))
    path = options.unix or options.fifo
    return SerialSpec(place, 115200) if path is None else PipeSpec(os.path.abspath(path))


def _address(text: str) -> tuple[str, int]:
    """``PORT`` or ``HOST:PORT``."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text} is not [HOST:]PORT")
    return host or "127.0.0.1", int(port)
