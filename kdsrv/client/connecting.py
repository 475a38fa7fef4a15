"""From a kdsrv string to a session: dial the server, greet it, attach to the target."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from typing_extensions import override

from kdsrv.auth.passwords import Credentials
from kdsrv.client.backlog import Backlog
from kdsrv.client.listening import AwaitedServer, Notice, Said, Waiting
from kdsrv.client.protocol import ClientProtocol
from kdsrv.client.terms import CALM, PLAIN, Rhythm, Terms, Thread
from kdsrv.com_channel.endpoints import ComClientEndpoint
from kdsrv.com_channel.ports import Cables
from kdsrv.connection_strings import KdsrvSpec, SslClientSpec, TcpClientSpec
from kdsrv.connection_strings.remoting import ClientSpec, ComClientSpec, NpipeClientSpec, SpipeClientSpec
from kdsrv.errors import KdsrvError, SetupError
from kdsrv.local_pipes import local_pipe_client, pipe_directory
from kdsrv.tls.contexts import ClientTls
from kdsrv.tls.endpoints import tls_client_endpoint
from kdsrv.tls.settings import ClientCertificates
from kdsrv.wire.messages import Attached
from kdsrv.wire.messages import Notice as NoticeMessage

__all__ = [
    "Route",
    "ServerUnreachable",
    "connect",
    "connect_by_endpoint",
    "credentials_for",
    "endpoint_of_client_spec",
    "own_name",
    "reach",
    "route_of_spec",
]

P = TypeVar("P", bound=ClientProtocol)

_CONNECT_LIMIT: Final = 15


class ServerUnreachable(KdsrvError):
    """cannot connect to the server at {address}: {why}"""

    code = "unreachable"


def own_name() -> str:
    """Who we are, for whoever else wants the target: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


class Route:
    """The way to a target: to a server, through its door, to what is asked for there. It can be gone again and again.

    ``endpoint`` leads to the server, which people call ``address``. ``trans`` is the kd-string of the target, None for
    the server's default; ``client`` says who we are; ``tell`` is called with what happens on the way. ``instance`` is
    that of the server that was met last.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamClientEndpoint,
        address: str,
        trans: str | None,
        client: str | None = None,
        credentials: Credentials | None = None,
        tell: Callable[[Notice], None] | None = None,
    ) -> None:
        self.clock = reactor
        self.instance = ""
        self._endpoint = endpoint
        self._address = address
        self._trans = trans
        self._client = client or own_name()
        self._credentials = credentials
        self._tell = tell
        self._is_known = False

    def attach(
        self,
        terms: Terms = PLAIN,
        *,
        thread: Thread | None = None,
        backlog: Backlog | None = None,
        rhythm: Rhythm = CALM,
    ) -> Deferred[tuple[ClientProtocol, Attached]]:
        """A session on the target, or with ``thread`` the one that this is of; the protocol's ``user`` must be set when
        this fires. See ``ClientProtocol`` for what it is given.

        Fails with a KdsrvError whose text is a sentence: ServerUnreachable, ServerRefused (login, held, no such device,
        ...), ServerGone, CertificateRefused, LoginNeeded, LoginNotOffered, ServerUnproven, PeerError.
        """

        def make() -> ClientProtocol:
            protocol = ClientProtocol(
                self.clock,
                self._trans,
                self._client,
                self._credentials,
                terms=terms,
                thread=thread,
                backlog=backlog,
                rhythm=rhythm,
                noticed=self._noticed,
                is_greeted=self._is_known,
            )
            protocol.waits = self._waits
            return protocol

        endpoint = self._endpoint
        if isinstance(endpoint, AwaitedServer):
            return Deferred.fromCoroutine(endpoint.first_of(lambda: self._attach(make)))
        return Deferred.fromCoroutine(self._attach(make))

    async def _attach(self, make: Callable[[], ClientProtocol]) -> tuple[ClientProtocol, Attached]:
        protocol = await reach(self._endpoint, self._address, make)
        try:
            attached = await protocol.attached
        except Exception:  # cancelled or refused
            protocol.leave()
            raise
        finally:
            self.instance = protocol.instance
            self._is_known = protocol.is_greeted
        return protocol, attached

    def _noticed(self, notice: NoticeMessage) -> None:
        if self._tell is not None:
            self._tell(Said(notice.text, notice.asks))

    def _waits(self) -> None:
        if self._tell is not None:
            self._tell(Waiting(self._address))


def route_of_spec(
    reactor: Any,
    spec: KdsrvSpec,
    client: str | None = None,
    *,
    user: str = "",
    password: str | None = None,
    certificates: ClientCertificates | None = None,
    tell: Callable[[Notice], None] | None = None,
) -> Route:
    """The way to the target that ``spec`` names.

    ``user`` is the name to log in by; it may be empty where the server has one password. ``password`` is used if there
    is none in the string. ``certificates`` say which servers are taken over TLS, and what is shown to them.

    With ``clicon=`` going it is to listen until the server dials, however long that takes; ``tell`` is called with
    where that is and with whoever is turned away. SetupError for a server that this version cannot reach.
    """
    trans = None if spec.trans is None else spec.trans.to_string()
    endpoint, address = endpoint_of_client_spec(reactor, spec.server, certificates or ClientCertificates(), tell)
    credentials = credentials_for(spec.server, user, password)
    return Route(reactor, endpoint, address, trans, client, credentials, tell)


def connect(
    reactor: Any,
    spec: KdsrvSpec,
    client: str | None = None,
    *,
    user: str = "",
    password: str | None = None,
    certificates: ClientCertificates | None = None,
    tell: Callable[[Notice], None] | None = None,
) -> Deferred[tuple[ClientProtocol, Attached]]:
    """One session on the target that ``spec`` names, which ends with its connection. See ``route_of_spec`` for the
    arguments and ``Route.attach`` for what comes of it."""
    try:
        route = route_of_spec(reactor, spec, client, user=user, password=password, certificates=certificates, tell=tell)
    except SetupError as error:
        failed: Deferred[tuple[ClientProtocol, Attached]] = Deferred()
        failed.errback(error)
        return failed
    return route.attach()


def connect_by_endpoint(
    reactor: Any,
    endpoint: IStreamClientEndpoint,
    address: str,
    trans: str | None,
    client: str | None = None,
    credentials: Credentials | None = None,
) -> Deferred[tuple[ClientProtocol, Attached]]:
    """The same over any Twisted client endpoint."""
    return Route(reactor, endpoint, address, trans, client, credentials).attach()


def credentials_for(spec: ClientSpec, user: str = "", password: str | None = None) -> Credentials | None:
    """What to log in with at the server of a client string: its password, else ``password``; None without any."""
    found = password if spec.password is None else spec.password
    return None if found is None else Credentials(found, user)


async def reach(endpoint: IStreamClientEndpoint, address: str, make: Callable[[], P]) -> P:
    """The protocol of a new connection to a server; ServerUnreachable says why there is none."""
    try:
        protocol: Any = await endpoint.connect(_Maker(make))
    except ConnectingCancelledError:
        raise CancelledError from None
    except ConnectionRefusedError:
        raise ServerUnreachable(address=address, why="nobody listens there; is the server running?") from None
    except DNSLookupError:
        raise ServerUnreachable(address=address, why="there is no host of that name") from None
    except TimeoutError:
        raise ServerUnreachable(address=address, why=f"no answer within {_CONNECT_LIMIT} s") from None
    except (ConnectError, OSError) as error:
        why = getattr(error, "osError", None) or error
        raise ServerUnreachable(address=address, why=str(why)) from None
    made: P = protocol
    return made


def endpoint_of_client_spec(
    reactor: Any, spec: ClientSpec, certificates: ClientCertificates, tell: Callable[[Notice], None] | None
) -> tuple[IStreamClientEndpoint, str]:
    """Where a client string leads, and what people call it."""
    tls = certificates.client_tls_of_spec(spec) if isinstance(spec, SslClientSpec | SpipeClientSpec) else None
    endpoint: IStreamClientEndpoint
    if isinstance(spec, TcpClientSpec | SslClientSpec):
        if spec.clicon is not None:
            secure = None if tls is None else _client_end(reactor, tls)
            return AwaitedServer(reactor, spec.clicon, spec.ports, tell=tell, secure=secure), spec.clicon
        assert spec.server is not None
        port = spec.ports.low
        endpoint, address = (
            HostnameEndpoint(reactor, spec.server, port, timeout=_CONNECT_LIMIT),
            f"{spec.server}:{port}",
        )
    elif isinstance(spec, NpipeClientSpec | SpipeClientSpec):
        pipes = pipe_directory(os.environ, os.geteuid())
        endpoint = local_pipe_client(reactor, spec.server, spec.pipe, pipes, socket.gethostname())
        address = f"pipe {spec.pipe}"
    elif isinstance(spec, ComClientSpec):
        endpoint = ComClientEndpoint(Cables.of(reactor), spec.port, spec.baud, spec.channel)
        address = f"channel {spec.channel} of {spec.port}"
    else:
        raise SetupError(why=f"{spec.transport}: is not offered by this version of kdsrv; write tcp:server=HOST,port=N")
    return endpoint if tls is None else tls_client_endpoint(reactor, endpoint, tls), address


def _client_end(reactor: Any, tls: ClientTls) -> Callable[[IProtocolFactory], IProtocolFactory]:
    """The client's end of TLS around a factory: the client has it also where it is the one that listens."""
    return lambda factory: TLSMemoryBIOFactory(tls, True, factory, clock=reactor)


class _Maker(Factory):
    """Makes a protocol for each connection: where a name has several addresses, more than one may come about."""

    noisy = False

    def __init__(self, make: Callable[[], ClientProtocol]) -> None:
        self._make = make

    @override
    def buildProtocol(self, addr: IAddress | None) -> ClientProtocol:
        return self._make()
