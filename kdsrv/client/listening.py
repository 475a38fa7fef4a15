"""A client that waits for its server to dial it (``clicon``; connection strings, 2.4).

The network's roles are turned round, nothing else is: the client speaks first here too. What comes from another address
than the server's is turned away unheard; what comes from there and is no kdsrv server is turned away once it shows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from typing_extensions import override
from zope.interface import implementer

from kdsrv.auth.scram import ServerUnproven
from kdsrv.client.protocol import ServerGone
from kdsrv.connection_strings import PortRange
from kdsrv.errors import PeerError, SetupError
from kdsrv.first_free_port import FirstFreePort
from kdsrv.tls.contexts import CertificateRefused
from kdsrv.wire.connection import VersionError

__all__ = ["AwaitedServer", "Listening", "Notice", "Said", "TurnedAway", "Waiting"]

T = TypeVar("T")
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NOT_THE_SERVER: Final = (ServerGone, ServerUnproven, CertificateRefused, PeerError)
"""What an attempt ends with if something else was at the other end."""


class Listening(NamedTuple):
    """The client waits on ``port`` for the server at ``server``."""

    server: str
    port: int

    def __str__(self) -> str:
        return f"listens on port {self.port} until the server at {self.server} connects to it"


class TurnedAway(NamedTuple):
    """A connection from ``peer`` was not used."""

    peer: str
    why: str

    def __str__(self) -> str:
        return f"a connection from {self.peer} was turned away: {self.why}"


class Said(NamedTuple):
    """The server says this of other users: somebody is being asked for the target, or ``asks`` for it."""

    text: str
    asks: bool = False

    def __str__(self) -> str:
        return self.text


class Waiting(NamedTuple):
    """The server at ``address`` takes connections, and has said nothing yet."""

    address: str

    def __str__(self) -> str:
        return f"waiting for the server at {self.address} to answer"


Notice: TypeAlias = Listening | TurnedAway | Said | Waiting


@implementer(IStreamClientEndpoint)
class AwaitedServer:
    """An endpoint that does not dial ``server``, a name or an address, but listens until it is dialled from there.

    It takes the first free port of ``ports``: of loopback if the server is on this host, else of all addresses. The
    first ``connect`` opens the port, and it stays open until ``close``, so that nobody else takes it in between. While
    a connection is in use, others wait in the port's queue.

    ``tell`` is called with what happens. ``resolve`` finds the addresses of a name; the default asks the reactor.
    ``secure`` puts the client's end of TLS around a factory.
    """

    def __init__(
        self,
        reactor: Any,
        server: str,
        ports: PortRange,
        *,
        tell: Callable[[Notice], None] | None = None,
        resolve: Callable[[str], Awaitable[Sequence[str]]] | None = None,
        secure: Callable[[IProtocolFactory], IProtocolFactory] | None = None,
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._ports = ports
        self._tell = tell or _unheard
        self._resolve = resolve or (lambda name: _resolved(reactor, name))
        self._secure = secure
        self._addresses: frozenset[_Address] = frozenset()
        self._port: Any = None
        self._factory: IProtocolFactory | None = None
        self._arrival: Deferred[IProtocol] | None = None
        self._arriving: tuple[IDelayedCall, Any] | None = None
        self._peer = ""
        self._turned_away: TurnedAway | None = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """The next connection from the server. Fails with a SetupError if there is no such name or no free port."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def first_of(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the first attempt whose connection proves to be a server's; then the port is closed.

        An attempt connects once over this endpoint. One that did not meet the server, as its end
        shows, is followed by another; every other error, such as the server's refusal, is the result.
        """
        try:
            while True:
                try:
                    result = await attempt()
                except _NOT_THE_SERVER as error:
                    if isinstance(error, VersionError):
                        raise
                    self._turn_away(self._peer, str(error))
                else:
                    # without a turn of the reactor: what the server says next needs its listener
                    self._stop_listening()
                    return result
        except Exception:
            await self.close()
            raise

    async def close(self) -> None:
        """Listen no longer; returns when the port is free."""
        closing = self._stop_listening()
        if closing is not None:
            await closing

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        if self._port is None:
            await self._listen()
        # what is in front of TLS sees the address before a handshake begins
        self._factory = factory if self._secure is None else self._secure(factory)
        self._arrival = Deferred(self._not_waited_for)
        # one connection, not all that wait: the others are for later attempts
        self._port.numberAccepts = 1
        self._port.startReading()
        try:
            return await self._arrival
        finally:
            self._arrival = self._arriving = None

    async def _listen(self) -> None:
        self._addresses = frozenset(map(_address, await self._found()))
        try:
            self._port = await FirstFreePort(self._reactor, self._ports, _interface(self._addresses)).listen(
                _Gate(self)
            )
        except CannotListenError as error:
            why = getattr(error.socketError, "strerror", None) or str(error.socketError)
            one = self._ports.low == self._ports.high
            where = f"port {self._ports}" if one else f"any of the ports {self._ports}"
            raise SetupError(why=f"cannot listen on {where} for the server: {why}") from None
        port = self._port.getHost().port
        # the server goes on dialling this one, also when the first of the range is free again
        self._ports = PortRange(port, port)
        self._tell(Listening(self._server, port))

    async def _found(self) -> Sequence[str]:
        try:
            ipaddress.ip_address(self._server)
        except ValueError:
            found = await self._resolve(self._server)
            if not found:
                raise SetupError(why=f"clicon={self._server}: there is no host of that name") from None
            return found
        return [self._server]

    def _stop_listening(self) -> Deferred[None] | None:
        port, self._port = self._port, None
        return None if port is None else port.stopListening()

    def arrived(self, address: Any) -> IProtocol | None:
        """Somebody has connected: a protocol for the server, None for anybody else."""
        if self._arrival is None or self._arriving is not None:
            return None
        if not self._is_expected(address.host):
            self._turn_away(address.host, f"the server is expected from {self._expected()}")
            return None
        assert self._factory is not None
        protocol = self._factory.buildProtocol(address)
        self._peer = address.host
        self._port.stopReading()
        user: Any = getattr(protocol, "wrappedProtocol", protocol)
        self._arriving = self._reactor.callLater(0, self._arrival.callback, user), user
        return protocol

    def _not_waited_for(self, _: object) -> None:
        """Cancelled while a connection is between two turns of the reactor."""
        if self._arriving is not None:
            call, protocol = self._arriving
            call.cancel()
            protocol.transport.loseConnection()

    def _is_expected(self, host: str) -> bool:
        address = _address(host)
        if address.is_loopback:
            return any(one.is_loopback for one in self._addresses)
        return address in self._addresses

    def _expected(self) -> str:
        found = ", ".join(sorted(map(str, self._addresses)))
        return found if found == self._server else f"{self._server} ({found})"

    def _turn_away(self, peer: str, why: str) -> None:
        """Tell it, unless it is what was told last."""
        notice = TurnedAway(peer, why)
        if notice != self._turned_away:
            self._turned_away = notice
            self._tell(notice)


class _Gate(Factory):
    """Lets in whom the endpoint expects."""

    noisy = False

    def __init__(self, endpoint: AwaitedServer) -> None:
        self._endpoint = endpoint

    @override
    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self._endpoint.arrived(addr)


def _interface(addresses: frozenset[_Address]) -> str:
    """Where to listen for a server with these addresses: no wider than it takes."""
    if all(address.is_loopback for address in addresses):
        return "127.0.0.1" if any(address.version == 4 for address in addresses) else "::1"
    return "::" if any(address.version == 6 for address in addresses) else ""


def _address(host: str) -> _Address:
    """The address without its zone; one of IPv4 also where a socket of IPv6 has accepted it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _resolved(reactor: Any, name: str) -> Deferred[Sequence[str]]:
    """The addresses of a name; none if there is no such name."""
    addresses = _Addresses()
    reactor.nameResolver.resolveHostName(addresses, name)
    return addresses.done


@implementer(IResolutionReceiver)
class _Addresses:
    """Collects what the resolver finds."""

    def __init__(self) -> None:
        self.done: Deferred[Sequence[str]] = Deferred()
        self._found: list[str] = []

    def resolutionBegan(self, resolution: IHostResolution) -> None:  # noqa: N802
        """Nothing is known yet."""

    def addressResolved(self, address: Any) -> None:  # noqa: N802
        self._found.append(address.host)

    def resolutionComplete(self) -> None:  # noqa: N802
        self.done.callback(self._found)


def _unheard(_: Notice) -> None:
    """Nobody wants to know."""
