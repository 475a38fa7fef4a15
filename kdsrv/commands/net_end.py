"""The machine's end of a network: offers a simulated target by KDNET to a debugger host.

One difference to a real target cannot be helped: that sends from the port that it sends to, which on the host itself is
the host's, so a target there takes another port, or another address (``--from 127.0.0.2:PORT``).
"""

from __future__ import annotations

import argparse
import secrets
from ipaddress import IPv6Address, ip_address
from random import Random
from typing import Any, Final

from kdsrv.commands.numbers import number
from kdsrv.connection_strings import NetSpec
from kdsrv.errors import WrongOption
from kdsrv.kdnet.control import Address
from kdsrv.kdnet.keys import NetKey, make_key
from kdsrv.kdnet.target import NetTarget
from kdsrv.kdnet.target_faults import NetFaultRates
from kdsrv.sim.options import SimOptions
from kdsrv.transports.simulated_net import LiveNetTarget

__all__ = ["add_net_options", "net_address", "offer_net", "refuse_net_options"]

_VERSIONS: Final = ("2", "4", "5")
_OF_HOST: Final = "ADDRESS:PORT of the host that debugs"
_ONLY_NET: Final = {"key": "--key", "net_version": "--net-version", "sender": "--from", "offer_every": "--offer-every"}


def add_net_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options that go with ``--net``."""
    parser.allow_abbrev = False  # an abbreviated --key would not be taken off the command line that ps shows
    net = parser.add_argument_group("with --net")
    net.add_argument("--key", metavar="W.X.Y.Z", type=_key, help="the key of the network debugging; made if not given")
    net.add_argument(
        "--net-version",
        metavar="N",
        type=_version,
        help="of KDNET: 5, as Windows 10 and 11 have it (the default), 4 or 2; since 5 replies are smaller",
    )
    net.add_argument(
        "--from",
        dest="sender",
        metavar="[ADDRESS:]PORT",
        type=_sender,
        help="what to send from; a real target sends from the port that it sends to (default: any)",
    )
    net.add_argument("--offer-every", metavar="SECONDS", type=number, help="how often to offer itself (default: 3)")
    net.add_argument(
        "--reorder", metavar="SHARE", type=number, default=0.0, help="reorder of datagrams, from 0 to 1; they come late"
    )


def refuse_net_options(options: argparse.Namespace) -> None:
    """Raises `WrongOption` if one of the options is there without ``--net``."""
    given = [name for place, name in _ONLY_NET.items() if getattr(options, place) is not None]
    if options.reorder:
        given.append("--reorder")
    if given:
        raise WrongOption(why=f"{given[0]} goes with --net only")


def offer_net(reactor: Any, options: argparse.Namespace, sim_options: SimOptions) -> tuple[LiveNetTarget, str, str]:
    """The target on its UDP port: itself, where it is, and by which kd-string its host reaches it.

    The kd-string shows the key only if it was made here. Raises `SetupError`, and ValueError for a number that is none.
    """
    period = 3.0 if options.offer_every is None else options.offer_every
    if period <= 0:
        raise ValueError(f"a target offers itself every so many seconds, not every {period:g}")
    key = options.key or NetKey.parse(make_key(secrets.token_bytes))
    rates = NetFaultRates(
        loss=options.loss, damage=options.damage, duplicate=options.duplicate, reorder=options.reorder
    )
    net = NetTarget(
        key,
        options.net,
        version=5 if options.net_version is None else options.net_version,
        options=sim_options,
        random=Random(secrets.randbits(64)),
        offer_period=period,
        now=reactor.seconds(),
    )
    live = LiveNetTarget(reactor, net, bind=options.sender or ("", 0), rates=rates, seed=options.seed)
    spec = NetSpec(options.net[1], key.text)
    return (
        live,
        f"udp {_shown(live.address)}, for {_shown(options.net)}",
        str(spec) if options.key else spec.to_string(),
    )


def net_address(text: str) -> Address:
    """``ADDRESS:PORT`` or ``[ADDRESS]:PORT``, an IP address and a port above 0."""
    host, port = _sender(text, _OF_HOST)
    if not host or not port:
        raise argparse.ArgumentTypeError(f"{text} is not {_OF_HOST}")
    return host, port


def _version(text: str) -> int:
    if text not in _VERSIONS:
        raise argparse.ArgumentTypeError(f"targets have version {', '.join(_VERSIONS[:-1])} or {_VERSIONS[-1]}")
    return int(text)


def _sender(text: str, shape: str = "[ADDRESS:]PORT") -> Address:
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text} is not {shape}")
    if not host:
        return "", int(port)
    try:
        address = ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{host} is no IP address") from None
    return str(address), int(port)


def _key(text: str) -> NetKey:
    try:
        return NetKey.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if isinstance(ip_address(host), IPv6Address) else f"{host}:{port}"
