"""From what the command line says to the endpoints that a server dials.

A client that is dialled has to log in like one that dials. A password in a string is for that login, and is no business
of this module: it has been taken out of an endpoint string before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.endpoints import HostnameEndpoint, clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint

from kdsrv.connection_strings import SslServerSpec, TcpServerSpec
from kdsrv.connection_strings.remoting import ServerSpec
from kdsrv.server.endpoint_strings import Kind, fields, parsed
from kdsrv.tls.endpoint_strings import refuse_other_tls, split_ssl_string
from kdsrv.tls.endpoints import tls_client_endpoint
from kdsrv.tls.settings import ServerCertificates

__all__ = ["Destination", "destination_of_spec", "destination_of_string", "is_reverse"]

_DIAL_LIMIT: Final = 15
_EXAMPLE: Final = "write for instance tcp:desk:5000"
_KINDS: Final = {
    "tcp": Kind(("host", "port"), ("timeout", "bindAddress", "linger", "password"), 2),
    "unix": Kind(("path",), ("timeout", "lockfile", "linger", "password"), 1),
}
"""With what kdsrv adds to Twisted's."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a client is dialled; people call it ``address``."""

    endpoint: IStreamClientEndpoint
    address: str


def is_reverse(spec: ServerSpec) -> bool:
    """Whether a server string says that the server dials."""
    return isinstance(spec, TcpServerSpec | SslServerSpec) and spec.clicon is not None


def destination_of_string(reactor: Any, text: str, *, certificates: ServerCertificates) -> Destination:
    """What a Twisted client string describes; SetupError, a sentence, if that is nothing.

    ``ssl:`` is the same as ``tcp:`` with the server's end of TLS around it: who dials changes no role.
    """
    ssl = split_ssl_string(text)
    if ssl is None:
        refuse_other_tls(text)
    inner = text if ssl is None else ssl.tcp
    endpoint = parsed(clientFromString, reactor, inner, kinds=_KINDS, first_port=1, example=_EXAMPLE)
    if ssl is not None:
        endpoint = tls_client_endpoint(reactor, endpoint, ssl.server_tls(certificates))
    places, names = fields(inner)
    kind = inner.partition(":")[0].lower()
    if kind == "unix":
        return Destination(endpoint, names.get("path") or places[0])
    if kind != "tcp":
        return Destination(endpoint, f"{kind}:")
    host = names.get("host") or places.pop(0)
    port = names.get("port") or places[0]
    return Destination(endpoint, _shown(host, port))


def destination_of_spec(reactor: Any, spec: ServerSpec, *, certificates: ServerCertificates) -> Destination:
    """What a server string with ``clicon=`` describes; SetupError if its certificate cannot be used."""
    assert isinstance(spec, TcpServerSpec | SslServerSpec)
    assert spec.clicon is not None, "ask is_reverse first"
    port = spec.ports.low
    endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, spec.clicon, port, timeout=_DIAL_LIMIT)
    if isinstance(spec, SslServerSpec):
        endpoint = tls_client_endpoint(reactor, endpoint, certificates.server_tls_of_spec(spec))
    return Destination(endpoint, _shown(spec.clicon, str(port)))


def _shown(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
