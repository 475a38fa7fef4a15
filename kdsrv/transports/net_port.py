"""A UDP port on which targets call (KDNET): one socket, however many sessions wait there or have a target.

Whose a datagram is, is told by what authenticates. Who has been heard is known by address, and what comes from there
goes to its session straight away. All else is from strangers, and looked at as far as the ``StrangerBudget`` allows:

    no KDNET datagram       counted
    control channel         tried with the key of each session; an OFFER goes to the session whose key opens it
    data channel            for the sessions that know the host it comes from, since a target may change its port; of
                            nobody's host, for those without a target, which ask for an OFFER

Nothing is kept of a stranger but counts and the last address, nothing is answered, and nothing logged per datagram. At
each wake-up a few datagrams are read, so that a flood leaves the other lines of the process their turn.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeAlias

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kdsrv.errors import LinkLost, TargetError
from kdsrv.kdnet.control import Address
from kdsrv.kdnet.datagrams import MAX_DATAGRAM, Channel, channel_of
from kdsrv.transports.descriptor import Reactor
from kdsrv.transports.holders import udp_holders
from kdsrv.transports.net_budget import StrangerBudget
from kdsrv.transports.switchboard import watcher_of

__all__ = ["Caller", "Heard", "NetPort", "place"]

Sender: TypeAlias = tuple[Any, ...]
"""An address as the system has it."""

_BATCH: Final = 32
"""Datagrams read at a wake-up."""
_READ_SIZE: Final = MAX_DATAGRAM + 1
"""A longer datagram is cut to a length that no datagram of KDNET has."""
_RECEIVE_BUFFER: Final = 1 << 20
"""Bytes asked of the system, which gives less as a rule. What comes while the process is busy waits there."""
_MAPPED: Final = "::ffff:"
_FIRST_TOLD: Final = 1024
"""Datagrams dropped unseen before the log says a word; then it does each time that their number has doubled."""


class Caller(Protocol):
    """A session as its port sees it: something that a target may call."""

    @property
    def peer(self) -> Address | None:
        """Where its target sends from, if it has one."""
        ...

    def is_mine(self, source: Address) -> bool:
        """Whether its target may send from there."""
        ...

    def recognises(self, data: bytes) -> bool:
        """Whether a datagram is an OFFER under its key."""
        ...

    def datagram_received(self, data: bytes, source: Address) -> bool:
        """Take a datagram; whether it was not one of another key."""
        ...

    def evidence_changed(self) -> None:
        """An OFFER came that is nobody's."""
        ...

    def port_lost(self, reason: TargetError) -> None:
        """The port is closed."""
        ...


@dataclass(slots=True)
class Heard:
    """How many datagrams of strangers came that are nobody's, and from where last: ``foreign`` are not KDNET's,
    ``offers`` are of the control channel, ``data`` of the data channel. ``unseen`` were more than can be looked at.
    """

    foreign: int = 0
    offers: int = 0
    data: int = 0
    unseen: int = 0
    foreign_from: Address = ("", 0)
    offers_from: Address = ("", 0)
    data_from: Address = ("", 0)


@implementer(IReadDescriptor)
class NetPort:
    """``port`` of ``interface``, an address of this host or "" for all of them. Made by `open`, closed by the last
    `release`; callers come with `join` and go with `leave`."""

    _open: ClassVar[dict[tuple[Any, str, int], NetPort]] = {}
    _log: ClassVar[Logger] = Logger()

    def __init__(self, reactor: Reactor, interface: str, port: int) -> None:
        self.port = port
        self.heard = Heard()
        self._reactor = reactor
        self._key = (reactor, interface, port)
        self._socket = _bound(interface, port)
        self._is_mapped = self._socket.family == socket.AF_INET6
        self._watcher = watcher_of(reactor)
        self._budget = StrangerBudget()
        self._callers: tuple[Caller, ...] = ()
        self._known: dict[Sender, tuple[Caller, Address]] = {}
        self._users = 0

    @classmethod
    def open(cls, reactor: Reactor, interface: str, port: int) -> NetPort:
        """The port, opened now or by somebody else of this process before. Raises `TargetError`, a sentence."""
        key = (reactor, interface, port)
        found = cls._open.get(key)
        if found is None:
            found = cls._open[key] = cls(reactor, interface, port)
        found._users += 1
        return found

    def release(self) -> None:
        """Who opened it does not need it any more; to be called once for each `open`."""
        self._users -= 1
        if not self._users:
            del self._open[self._key]
            self._socket.close()

    def join(self, caller: Caller) -> None:
        """Tell ``caller`` from now on what comes for it."""
        if not self._callers:
            self._watcher.addReader(self)
        self._callers += (caller,)

    def leave(self, caller: Caller) -> None:
        """Tell it nothing more; does nothing if it has not joined."""
        if caller not in self._callers:
            return
        self._callers = tuple(other for other in self._callers if other is not caller)
        self._known = {sender: known for sender, known in self._known.items() if known[0] is not caller}
        if not self._callers:
            self._watcher.removeReader(self)

    def send(self, data: bytes, destination: Address) -> None:
        """Send a datagram now. What the system does not take is lost, as anywhere else on the way."""
        host, port = destination
        if self._is_mapped and ":" not in host:
            host = _MAPPED + host
        with suppress(OSError):
            self._socket.sendto(data, (host, port))

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return f"UDP port {self.port}"

    def doRead(self) -> None:
        for _ in range(_BATCH):
            try:
                data, sender = self._socket.recvfrom(_READ_SIZE)
            except OSError:  # there is none, or the last caller has gone
                return
            known = self._known.get(sender)
            if known is None or not known[0].datagram_received(data, known[1]):
                self._on_stranger(data, sender)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends, or the system has taken the port away."""
        for caller in self._callers:
            self.leave(caller)
            caller.port_lost(LinkLost(target=self.logPrefix(), why="the system has closed it"))

    def _on_stranger(self, data: bytes, sender: Sender) -> None:
        channel = channel_of(data)
        if channel is None:
            self.heard.foreign += 1
            self.heard.foreign_from = _address(sender)
            return
        source = _address(sender)
        if not self._budget.allows(*source, len(self._callers), self._reactor.seconds()):
            self._drop()
        elif channel == Channel.CONTROL:
            self._on_control(data, sender, source)
        else:
            self._on_data(data, sender, source)

    def _on_control(self, data: bytes, sender: Sender, source: Address) -> None:
        for caller in self._callers:
            if caller.recognises(data):
                self._learn(sender, source, caller)
                caller.datagram_received(data, source)
                return
        self.heard.offers += 1
        self.heard.offers_from = source
        for caller in self._callers:
            caller.evidence_changed()

    def _on_data(self, data: bytes, sender: Sender, source: Address) -> None:
        owners = [caller for caller in self._callers if caller.is_mine(source)]
        for caller in owners or [caller for caller in self._callers if caller.peer is None]:
            caller.datagram_received(data, source)
            if caller.peer == source:
                self._learn(sender, source, caller)
                return
        self.heard.data += 1
        self.heard.data_from = source

    def _learn(self, sender: Sender, source: Address, caller: Caller) -> None:
        """Know a sender as the target of ``caller``, besides the one that it has."""
        old = [other for other, (who, where) in self._known.items() if who is caller and where != caller.peer]
        for other in old:
            del self._known[other]
        self._known[sender] = (caller, source)

    def _drop(self) -> None:
        count = self.heard.unseen = self.heard.unseen + 1
        if count >= _FIRST_TOLD and count & (count - 1) == 0:
            self._log.info("{port}: {count} datagrams of strangers dropped", port=self.logPrefix(), count=count)


def place(address: Address) -> str:
    """For people: ``192.0.2.7:50000``, ``[2001:db8::7]:50000``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(sender: Sender) -> Address:
    return str(sender[0]).removeprefix(_MAPPED), sender[1]


def _bound(interface: str, port: int) -> socket.socket:
    """A socket on this port, of both families if that is not said; nobody else may have the port."""
    failed = OSError()
    for host in (interface,) if interface else ("::", "0.0.0.0"):
        try:
            return _socket(host, port)
        except OSError as error:
            failed = error
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                break
    raise TargetError(target=f"UDP port {port}", why=_why(failed, interface, port)) from failed


def _socket(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


def _why(error: OSError, interface: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"it is held by {udp_holders(port)}"
        case errno.EACCES:
            return "no permission to listen there; Windows uses ports 49152 to 65535, which everybody may have"
        case errno.EADDRNOTAVAIL:
            return f"{interface} is not an address of this host"
        case _:
            return f"cannot listen there: {error.strerror}"
