"""``kdsrv sim``: a simulated target alone, on a pty, a pair of FIFOs, a unix socket, a TCP port, or on KDNET."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, maybeDeferred

from kdsrv.commands.machine_place import add_places, kd_string, offer
from kdsrv.commands.net_end import add_net_options, net_address, offer_net, refuse_net_options
from kdsrv.commands.numbers import number, seconds, whole_number
from kdsrv.errors import SetupError, WrongOption
from kdsrv.sim.faults import FaultRates
from kdsrv.sim.options import STATES, SimOptions
from kdsrv.sim.target import SimulatedTarget
from kdsrv.transports.simulated import LiveTarget
from kdsrv.transports.simulated_net import LiveNetTarget

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv sim``."""
    parser.description = "Run a simulated Windows target until Ctrl-C, for a debugger or a kdsrv server to connect to."
    place = parser.add_mutually_exclusive_group(required=True)
    add_places(place)
    place.add_argument(
        "--net",
        metavar="ADDRESS:PORT",
        type=net_address,
        help="on the network (KDNET), for who listens on this UDP port",
    )
    target = parser.add_argument_group("the target")
    target.add_argument("--state", choices=STATES, default="halted", help="how it is found (default: halted)")
    target.add_argument(
        "--cpus", metavar="N", type=whole_number, default=2, help="its number of processors (default: 2)"
    )
    target.add_argument(
        "--read-cap",
        metavar="BYTES",
        type=whole_number,
        default=3944,
        help="the most data in one reply; radare2 needs 1992",
    )
    target.add_argument(
        "--print-every",
        metavar="SECONDS",
        type=seconds,
        default=0.0,
        help="print a line so often while it runs; if nobody acknowledges a line in 20 tries, no more until a break-in",
    )
    target.add_argument(
        "--stop-after", metavar="SECONDS", type=seconds, help="stop by itself once, so long after the start"
    )
    target.add_argument("--reboot-after", metavar="SECONDS", type=seconds, help="lose its power once, so long after it")
    add_net_options(parser)
    line = parser.add_argument_group("faults of the line")
    for name in ("loss", "damage", "duplicate"):
        line.add_argument(
            f"--{name}", metavar="SHARE", type=number, default=0.0, help=f"{name} of packets, from 0 to 1"
        )
    line.add_argument("--seed", metavar="N", type=whole_number, default=0, help="repeats the same faults (default: 0)")
    line.add_argument(
        "--baud", metavar="RATE", type=whole_number, default=0, help="as slow as a serial line of this rate"
    )


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Offer the target and say where; fires with 0 when the reactor is shut down. Raises `SetupError`."""
    try:
        sim_options = SimOptions(
            state=options.state, cpus=options.cpus, read_cap=options.read_cap, print_every=options.print_every
        )
        prepare = _offer_line if options.net is None else _offer_net
        live, where, trans, end = prepare(reactor, options, sim_options)
    except ValueError as error:
        raise WrongOption(why=str(error)) from None
    for delay, act in ((options.stop_after, live.target.stop), (options.reboot_after, live.target.power_cycle)):
        if delay is not None:
            reactor.callLater(delay, _act, reactor, live, act)
    sys.stdout.write(f"simulated target ({options.state}) at {where}; Ctrl-C ends it\n")
    server = "this host" if options.net is None else options.net[0]
    sys.stdout.write(f"a server on {server} reaches it as trans=@{{{trans}}}\n")
    sys.stdout.flush()
    done: Deferred[int] = Deferred()

    def shut_down() -> Deferred[None]:
        ended = maybeDeferred(end)
        ended.addBoth(lambda _: done.callback(0))
        return ended

    reactor.addSystemEventTrigger("before", "shutdown", shut_down)
    return done


class _Offered(NamedTuple):
    """The target, where it is, the kd-string by which a server opens it, and how to end it."""

    live: LiveTarget | LiveNetTarget
    where: str
    trans: str
    end: Callable[[], Any]


def _offer_net(reactor: Any, options: argparse.Namespace, sim_options: SimOptions) -> _Offered:
    if options.baud:
        raise WrongOption(why="--baud goes with a serial line, and --net is none")
    live, where, trans = offer_net(reactor, options, sim_options)
    return _Offered(live, where, trans, live.stop)


def _offer_line(reactor: Any, options: argparse.Namespace, sim_options: SimOptions) -> _Offered:
    refuse_net_options(options)
    rates = FaultRates(loss=options.loss, damage=options.damage, duplicate=options.duplicate, baud=options.baud)
    live = LiveTarget(reactor, SimulatedTarget(sim_options, reactor.seconds()), rates, options.seed)
    try:
        where, close = offer(reactor, live, options)
    except SetupError:
        live.stop()
        raise

    def end() -> Any:
        live.stop()
        return close()

    return _Offered(live, where, str(kd_string(where, options)), end)


def _act(reactor: Any, live: LiveTarget | LiveNetTarget, act: Callable[[float], None]) -> None:
    act(reactor.seconds())
    live.flush()
