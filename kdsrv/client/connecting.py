"""From a kdsrv string to a session: dial the server, greet it, attach to the target."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from typing_extensions import override

from kdsrv.client.protocol import ClientProtocol
from kdsrv.connection_strings import KdsrvSpec, TcpClientSpec
from kdsrv.connection_strings.remoting import ClientSpec
from kdsrv.errors import KdsrvError, SetupError
from kdsrv.wire.messages import Attached

__all__ = ["ServerUnreachable", "connect", "connect_by_endpoint", "own_name"]

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


def connect(reactor: Any, spec: KdsrvSpec, client: str | None = None) -> Deferred[tuple[ClientProtocol, Attached]]:
    """A session on the target that ``spec`` names; the protocol's ``user`` must be set when this fires.

    Fails with a KdsrvError whose text is a sentence: ServerUnreachable, ServerRefused (held, no such device, ...),
    ServerGone, PeerError.
    """
    trans = None if spec.trans is None else spec.trans.to_string()
    try:
        endpoint, address = _endpoint(reactor, spec.server)
    except SetupError as error:
        failed: Deferred[tuple[ClientProtocol, Attached]] = Deferred()
        failed.errback(error)
        return failed
    return connect_by_endpoint(reactor, endpoint, address, trans, client)


def connect_by_endpoint(
    reactor: Any, endpoint: IStreamClientEndpoint, address: str, trans: str | None, client: str | None = None
) -> Deferred[tuple[ClientProtocol, Attached]]:
    """The same over any Twisted client endpoint; ``address`` is what people call it."""
    return Deferred.fromCoroutine(_connect(reactor, endpoint, address, trans, client or own_name()))


async def _connect(
    reactor: Any, endpoint: IStreamClientEndpoint, address: str, trans: str | None, client: str
) -> tuple[ClientProtocol, Attached]:
    try:
        protocol = await endpoint.connect(_OneSession(reactor, trans, client))
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
    assert isinstance(protocol, ClientProtocol)
    try:
        return protocol, await protocol.attached
    except BaseException:
        protocol.leave()
        raise


def _endpoint(reactor: Any, spec: ClientSpec) -> tuple[IStreamClientEndpoint, str]:
    if not isinstance(spec, TcpClientSpec):
        raise SetupError(why=f"{spec.transport}: is not offered by this version of kdsrv; write tcp:server=HOST,port=N")
    if spec.server is None:
        raise SetupError(why="clicon= (the server dials the client) is not offered by this version of kdsrv")
    if spec.password is not None:
        raise SetupError(why="password= is not offered by this version of kdsrv; leave it out")
    port = spec.ports.low
    return HostnameEndpoint(reactor, spec.server, port, timeout=_CONNECT_LIMIT), f"{spec.server}:{port}"


class _OneSession(Factory):
    """Makes the protocol of one session."""

    noisy = False

    def __init__(self, reactor: Any, trans: str | None, client: str) -> None:
        self._make = lambda: ClientProtocol(reactor, trans, client)

    @override
    def buildProtocol(self, addr: IAddress | None) -> ClientProtocol:
        return self._make()
