"""From what the command line says to the endpoints that a server dials.

A client that is dialled has to log in like one that dials. A password in a string is for that login, and is no business
of this module: it has been taken out of an endpoint string before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.endpoints import HostnameEndpoint, clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint

from kdsrv.connection_strings import SslServerSpec, TcpServerSpec
from kdsrv.connection_strings.remoting import ServerSpec
from kdsrv.errors import SetupError
from kdsrv.tls.endpoint_strings import refuse_other_tls, split_ssl_string
from kdsrv.tls.endpoints import tls_client_endpoint
from kdsrv.tls.settings import ServerCertificates

__all__ = ["Destination", "destination_of_spec", "destination_of_string", "is_reverse"]

_DIAL_LIMIT: Final = 15
_EXAMPLE: Final = "write for instance tcp:desk:5000"
_FIELD: Final = re.compile(r"(?:\\.|[^:\\])+|(?<=:)(?=:|$)")
_NAMED: Final = re.compile(r"([A-Za-z]+)=(.*)", re.DOTALL)


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
    places, names = _fields(inner.partition(":")[2])
    endpoint = _parse(reactor, inner)
    if ssl is not None:
        endpoint = tls_client_endpoint(reactor, endpoint, ssl.server_tls(certificates))
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


def _parse(reactor: Any, text: str) -> IStreamClientEndpoint:
    """What Twisted makes of the string; its many ways to refuse one end in one sentence."""
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
    except TypeError as error:
        why = re.sub(r"^\S*\(\) ", "", str(error)) or "its parts do not fit together"
        raise SetupError(why=f"'{text}' is not a Twisted endpoint: {why}; {_EXAMPLE}") from None
    except (LookupError, ValueError, OSError) as error:
        raise SetupError(why=f"'{text}' is not a Twisted endpoint: {error}; {_EXAMPLE}") from None
    port = getattr(endpoint, "_port", None)
    if isinstance(port, int) and not 1 <= port <= 65535:
        raise SetupError(why=f"'{text}': the port must be 1 to 65535")
    return endpoint


def _fields(text: str) -> tuple[list[str], dict[str, str]]:
    """The fields of a Twisted string, those with a name apart."""
    places, names = [], {}
    for field in _FIELD.findall(text):
        named = _NAMED.fullmatch(field)
        value = re.sub(r"\\(.)", r"\1", named[2] if named else field)
        if named:
            names[named[1]] = value
        else:
            places.append(value)
    return places, names


def _shown(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
