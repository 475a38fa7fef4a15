"""From what the command line says to the endpoints a server listens on, and how far those may reach.

A listener without a login must not reach beyond this host unless the operator says so: TCP listeners are bound to
loopback, a unix socket is for its owner alone, and what cannot be judged here is refused.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from kdsrv.com_channel.endpoints import ComServerEndpoint
from kdsrv.com_channel.ports import Cables
from kdsrv.connection_strings import PortRange, SslServerSpec, TcpServerSpec
from kdsrv.connection_strings.remoting import ComServerSpec, NpipeServerSpec, ServerSpec, SpipeServerSpec
from kdsrv.errors import SetupError
from kdsrv.local_pipes import LocalPipe, pipe_directory
from kdsrv.tls.endpoint_strings import refuse_other_tls, split_ssl_string
from kdsrv.tls.endpoints import tls_server_endpoint
from kdsrv.tls.settings import ServerCertificates

__all__ = ["LOOPBACK", "FirstFreePort", "endpoint_of_spec", "endpoint_of_string", "is_confined", "is_private"]

LOOPBACK: Final = "127.0.0.1"
_EXAMPLE: Final = "write for instance tcp:1234 or unix:/run/kdsrv.sock"
_OPEN: Final = "and nobody has to log in: say --no-password to allow it"
_BOUND_BY_INTERFACE: Final = ("tcp", "tcp4", "tcp6", "ssl")
_MODE: Final = re.compile(r"(?:^|:)mode=([0-7]+)")
_INTERFACE: Final = re.compile(r"(?:^|:)interface=((?:\\.|[^:\\])*)")


def endpoint_of_string(
    reactor: Any, text: str, *, open_to_all: bool, certificates: ServerCertificates | None = None
) -> IStreamServerEndpoint:
    """The endpoint that a Twisted server string describes; SetupError, a sentence, if there is none or it is too open.

    Without ``open_to_all`` a TCP endpoint that names no interface is bound to loopback. A unix socket gets mode 600.
    ``ssl:`` is ``tcp:`` with kdsrv's TLS; what it shows where the string names no files is in ``certificates``.
    """
    ssl = split_ssl_string(text)
    if ssl is not None:
        inner = endpoint_of_string(reactor, ssl.tcp, open_to_all=open_to_all)
        return tls_server_endpoint(reactor, inner, ssl.server_tls(certificates or ServerCertificates()))
    refuse_other_tls(text)
    _parse(reactor, text)
    confined = _confine(text, open_to_all=open_to_all)
    try:
        return _parse(reactor, confined)
    except SetupError:
        raise SetupError(why=f"'{text}': write the address as interface={LOOPBACK}") from None


def endpoint_of_spec(
    reactor: Any,
    spec: ServerSpec,
    *,
    open_to_all: bool,
    certificates: ServerCertificates | None = None,
    pipes: Path | None = None,
) -> IStreamServerEndpoint:
    """The endpoint for a server string of kdsrv.exe's kind; SetupError if this version does not offer it.

    ``certificates`` have what is shown over TLS, ``pipes`` is the directory of pipes; the defaults are the user's own.
    """
    endpoint: IStreamServerEndpoint
    if isinstance(spec, TcpServerSpec | SslServerSpec):
        if spec.clicon is not None:
            raise SetupError(why="with clicon= the server dials the client, and has no endpoint to listen on")
        endpoint = FirstFreePort(reactor, spec.ports, "" if open_to_all else LOOPBACK)
    elif isinstance(spec, NpipeServerSpec | SpipeServerSpec):
        endpoint = LocalPipe(reactor, spec.pipe, pipes or pipe_directory(os.environ, os.geteuid()))
    elif isinstance(spec, ComServerSpec):
        endpoint = ComServerEndpoint(Cables.of(reactor), spec.port, spec.baud, spec.channel)
    else:
        raise SetupError(why=f"{spec.transport}: is not offered by this version of kdsrv; write tcp:port=1234")
    if isinstance(spec, SslServerSpec | SpipeServerSpec):
        tls = (certificates or ServerCertificates()).server_tls_of_spec(spec)
        return tls_server_endpoint(reactor, endpoint, tls)
    return endpoint


def is_private(text: str) -> bool:
    """Whether ``text`` is a unix socket that others on this host cannot connect to."""
    mode = _MODE.search(text)
    return text.lower().startswith("unix:") and (mode is None or int(mode.group(1), 8) & 0o007 == 0)


def is_confined(text: str) -> bool:
    """Whether ``endpoint_of_string`` bound this string to loopback by itself."""
    return text.partition(":")[0].lower() in _BOUND_BY_INTERFACE and not _INTERFACE.search(text)


def _parse(reactor: Any, text: str) -> IStreamServerEndpoint:
    """What Twisted makes of the string; its many ways to refuse one end in one sentence."""
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, text)
    except TypeError as error:
        why = re.sub(r"^\S*\(\) ", "", str(error)) or "its parts do not fit together"
        raise SetupError(why=f"'{text}' is not a Twisted endpoint: {why}; {_EXAMPLE}") from None
    except (LookupError, ValueError, OSError) as error:
        raise SetupError(why=f"'{text}' is not a Twisted endpoint: {error}; {_EXAMPLE}") from None
    port = getattr(endpoint, "_port", None)
    if isinstance(port, int) and not 0 <= port <= 65535:
        raise SetupError(why=f"'{text}': the port must be 0 to 65535")
    return endpoint


def _confine(text: str, *, open_to_all: bool) -> str:
    """The string, made to reach no further than it may. SetupError if it says that it does."""
    kind, _, rest = text.partition(":")
    kind = kind.lower()
    if kind == "unix":
        if not rest.removeprefix("address=").partition(":")[0]:
            raise SetupError(why=f"'{text}' names no path; {_EXAMPLE}")
        return text if _MODE.search(text) else f"{text}:mode=600"
    if open_to_all:
        return text
    if kind not in _BOUND_BY_INTERFACE:
        raise SetupError(why=f"'{kind}:' may reach beyond this host, {_OPEN}")
    interface = _INTERFACE.search(text)
    if interface is None:
        return f"{text}:interface={LOOPBACK}"
    address = interface.group(1).replace("\\", "")
    try:
        if ipaddress.ip_address(address).is_loopback:
            return text
    except ValueError:
        raise SetupError(why=f"interface='{address}' is not an address; write for instance {LOOPBACK}") from None
    raise SetupError(why=f"'{address}' reaches beyond this host, {_OPEN}")


@implementer(IStreamServerEndpoint)
class FirstFreePort:
    """Listens on the first port of a range that is free."""

    def __init__(self, reactor: Any, ports: PortRange, interface: str) -> None:
        self._reactor = reactor
        self._ports = ports
        self._interface = interface

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        error: CannotListenError | None = None
        for port in range(self._ports.low, self._ports.high + 1):
            try:
                listening: IListeningPort = self._reactor.listenTCP(port, protocolFactory, interface=self._interface)
            except CannotListenError as refused:
                error = refused
            else:
                found: Deferred[IListeningPort] = Deferred()
                found.callback(listening)
                return found
        return fail(error or ValueError("no port to listen on"))
