"""From what the command line says to the endpoints a server listens on.

They reach as far as the strings say: who may come in is a matter of passwords (``kdsrv.server.entrances``). A unix
socket is for its owner alone, unless the string gives it another mode.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from kdsrv.com_channel.endpoints import ComServerEndpoint
from kdsrv.com_channel.ports import Cables
from kdsrv.connection_strings import SslServerSpec, TcpServerSpec
from kdsrv.connection_strings.remoting import ComServerSpec, NpipeServerSpec, ServerSpec, SpipeServerSpec
from kdsrv.errors import SetupError
from kdsrv.first_free_port import FirstFreePort
from kdsrv.local_pipes import LocalPipe, pipe_directory
from kdsrv.server.endpoint_strings import Kind, fields, parsed
from kdsrv.tls.endpoint_strings import refuse_other_tls, split_ssl_string
from kdsrv.tls.endpoints import tls_server_endpoint
from kdsrv.tls.settings import ServerCertificates

__all__ = ["endpoint_of_spec", "endpoint_of_string", "is_private"]

_OWNER_ALONE: Final = "600"
_EXAMPLE: Final = "write for instance tcp:1234 or unix:/run/kdsrv.sock"
_KINDS: Final = {
    "tcp": Kind(("port",), ("interface", "backlog", "linger", "password"), 3),
    "unix": Kind(("address",), ("mode", "backlog", "lockfile", "linger", "password"), 4),
}
"""With what kdsrv adds to Twisted's."""


def endpoint_of_string(
    reactor: Any, text: str, *, certificates: ServerCertificates | None = None
) -> IStreamServerEndpoint:
    """The endpoint that a Twisted server string describes; SetupError, a sentence, if there is none.

    A unix socket without a mode gets 600. ``ssl:`` is ``tcp:`` with kdsrv's TLS; what it shows where the string names
    no files is in ``certificates``.
    """
    ssl = split_ssl_string(text)
    if ssl is not None:
        inner = endpoint_of_string(reactor, ssl.tcp)
        return tls_server_endpoint(reactor, inner, ssl.server_tls(certificates or ServerCertificates()))
    refuse_other_tls(text)
    endpoint = _parsed(reactor, text)
    return _parsed(reactor, _with_mode(text)) if text.lower().startswith("unix:") else endpoint


def endpoint_of_spec(
    reactor: Any,
    spec: ServerSpec,
    *,
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
        endpoint = FirstFreePort(reactor, spec.ports, "::" if getattr(spec, "ipversion", None) == "6" else "")
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
    if not text.lower().startswith("unix:"):
        return False
    return int(fields(text)[1].get("mode", _OWNER_ALONE), 8) & 0o007 == 0


def _parsed(reactor: Any, text: str) -> IStreamServerEndpoint:
    endpoint: IStreamServerEndpoint = parsed(
        serverFromString, reactor, text, kinds=_KINDS, first_port=0, example=_EXAMPLE
    )
    return endpoint


def _with_mode(text: str) -> str:
    """A unix socket's string with its mode."""
    return text if "mode" in fields(text)[1] else f"{text}:mode={_OWNER_ALONE}"
