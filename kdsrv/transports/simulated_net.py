"""A simulated target on real UDP: of ``kdsrv sim --net``, and of tests that want one in their own process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import MessageLengthError
from twisted.internet.protocol import DatagramProtocol
from typing_extensions import override

from kdsrv.alarm import Alarm
from kdsrv.errors import SetupError
from kdsrv.kdnet.control import Address
from kdsrv.kdnet.target import NetTarget
from kdsrv.kdnet.target_faults import FaultyNet, NetFaultRates
from kdsrv.sim.target import SimulatedTarget

__all__ = ["LiveNetTarget"]

_ANYWHERE: Final = {False: "0.0.0.0", True: "::"}


class LiveNetTarget:
    """A target with a UDP port of its own and a clock: its timers ring whether a host answers or not.

    It sends from the address and port ``bind``; "" is any address, 0 any free port. A real target sends from the port
    that it sends to, which on one host is free only at another address, such as 127.0.0.2. ``line`` is the network in
    between, whose faults may be changed at any time. Raises `SetupError` where the port cannot be had.
    """

    def __init__(
        self,
        reactor: Any,
        net: NetTarget,
        *,
        bind: Address = ("", 0),
        rates: NetFaultRates | None = None,
        seed: int = 0,
    ) -> None:
        self.net = net
        self.line = FaultyNet(net, NetFaultRates() if rates is None else rates, Random(seed))
        self._reactor = reactor
        self._alarm = Alarm(reactor, self._expire)
        self._listen(bind)
        self.flush()

    @property
    def target(self) -> SimulatedTarget:
        """The machine; after its own methods (print, stop ...) `flush` is to be called."""
        return self.net.target

    @property
    def address(self) -> Address:
        """Where the target sends from."""
        bound = self._port.getHost()
        return bound.host, bound.port

    def flush(self) -> None:
        """Send what the target has to say."""
        self._expire()

    def rebind(self, bind: Address) -> None:
        """Go on from another address or port, as a machine that moved, or whose network translates addresses."""
        old = self._port
        self._listen(bind)
        old.stopListening()
        self.flush()

    def stop(self) -> Deferred[None]:
        """The end of the machine; no timer and no socket is left in the reactor."""
        self._alarm.stop()
        ended: Deferred[None] = maybeDeferred(self._port.stopListening)
        return ended

    def _listen(self, bind: Address) -> None:
        host = self.net.host
        interface = bind[0] or _ANYWHERE[host is not None and ":" in host[0]]
        family = _family(interface)
        with socket.socket(family, socket.SOCK_DGRAM) as bound:
            bound.setblocking(False)
            try:
                bound.bind((interface, bind[1]))
            except OSError as error:
                raise SetupError(why=f"cannot use UDP port {bind[1]} of {interface}: {error.strerror}") from error
            self._port = self._reactor.adoptDatagramPort(bound.fileno(), family, _Listener(self._receive))
        self.net.own = (bind[0] or _address_towards(host) or interface, self.address[1])

    def _receive(self, data: bytes, sender: Address) -> None:
        self.line.receive(data, sender, self._reactor.seconds())
        self._send()

    def _expire(self) -> None:
        self.line.expire(self._reactor.seconds())
        self._send()

    def _send(self) -> None:
        """What the system does not send is lost, like everything else on a network."""
        while (output := self.line.take_output()) is not None:
            with suppress(OSError, MessageLengthError):
                self._port.write(*output)
        self._alarm.set(self.line.deadline)


class _Listener(DatagramProtocol):
    def __init__(self, receive: Callable[[bytes, Address], None]) -> None:
        self._receive = receive

    @override
    def datagramReceived(self, datagram: bytes, addr: Address) -> None:
        self._receive(datagram, addr)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _address_towards(host: Address | None) -> str | None:
    """Which of this machine's addresses leads there; None where none does. Sends nothing."""
    if host is None:
        return None
    with socket.socket(_family(host[0]), socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(host)
        address: str = probe.getsockname()[0]
        return address
    return None
