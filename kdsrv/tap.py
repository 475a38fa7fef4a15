"""Options of ``twist kdsrv`` and ``twistd kdsrv``, and the service they describe.

Everything is parsed before anything starts: a wrong string is a usage error that names the part at fault.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.usage import Options as TwistedOptions
from twisted.python.usage import UsageError
from typing_extensions import override

from kdsrv import __version__
from kdsrv.connection_strings import BridgeSpec, parse_bridge_string, parse_server_string
from kdsrv.connection_strings.remoting import ServerSpec
from kdsrv.errors import KdsrvError
from kdsrv.server.bridges import parse_listen
from kdsrv.server.dialling import Destination, destination_of_spec, destination_of_string, is_reverse
from kdsrv.server.listening import LOOPBACK, endpoint_of_spec, endpoint_of_string, is_confined
from kdsrv.server.service import KdsrvService
from kdsrv.tls.settings import ServerCertificates

__all__ = ["Options", "StartFailed", "makeService"]


class Options(TwistedOptions):
    """What the command line says, parsed."""

    synopsis = "[--listen ENDPOINT]... [--connect ENDPOINT]... [-t STRING]... [--bridge STRING]... [--no-password]"
    longdesc = (
        "A connection server for Windows kernel debugging: clients connect, name the target they want "
        "(trans=@{com:port=/dev/ttyUSB0,baud=115200}) and hold it until they leave. See kdsrv connect --help "
        "for the other end. Put strings in quotes."
    )
    optFlags: ClassVar = [
        ["no-password", None, "Let anybody who can reach the server use it; without this it listens on loopback only"]
    ]

    def __init__(self) -> None:
        super().__init__()
        self.listens: list[str] = []
        self.connects: list[str] = []
        self.servers: list[ServerSpec] = []
        self.bridges: list[BridgeSpec] = []

    def opt_listen(self, text: str) -> None:
        """A Twisted endpoint to listen on: tcp:1234, tcp:1234:interface=::1, unix:/path:mode=600 (repeatable)"""
        self.listens.append(text)

    def opt_connect(self, text: str) -> None:
        """A Twisted endpoint where a client waits, to be dialled: tcp:desk:5000, ssl:desk:5000 (repeatable)"""
        self.connects.append(text)

    def opt_transport(self, text: str) -> None:
        """The same as kdsrv.exe takes it: tcp:port=1234, or to dial a client tcp:port=5000,clicon=desk (repeatable)"""
        with _usage("-t"):
            self.servers.append(parse_server_string(text))

    opt_t = opt_transport

    def opt_bridge(self, text: str) -> None:
        """A bridge at the server: listen=@{tcp:5001},trans=@{com:port=/dev/ttyUSB0,baud=115200} (repeatable)"""
        with _usage("--bridge"):
            bridge = parse_bridge_string(text)
            parse_listen(bridge.listen)
            self.bridges.append(bridge)

    def opt_version(self) -> None:
        """Print the version and exit"""
        sys.stdout.write(f"kdsrv {__version__}\n")
        raise SystemExit(0)

    @override
    def parseArgs(self, *args: str) -> None:
        if args:
            raise UsageError(f"kdsrv: '{args[0]}' belongs to no option; every part has one (see --help)")

    @override
    def postOptions(self) -> None:
        from twisted.internet import reactor

        if not self.listens and not self.connects and not self.servers and not self.bridges:
            raise UsageError("kdsrv: say where to listen, for instance --listen tcp:1234")
        certificates = ServerCertificates()
        open_to_all = bool(self["no-password"])
        self.endpoints: list[IStreamServerEndpoint] = []
        self.destinations: list[Destination] = []
        for text in self.listens:
            with _usage("--listen"):
                self.endpoints.append(endpoint_of_string(reactor, text, open_to_all=open_to_all))
        for text in self.connects:
            with _usage("--connect"):
                self.destinations.append(
                    destination_of_string(reactor, text, open_to_all=open_to_all, certificates=certificates)
                )
        for spec in self.servers:
            with _usage("-t"):
                if is_reverse(spec):
                    self.destinations.append(
                        destination_of_spec(reactor, spec, open_to_all=open_to_all, certificates=certificates)
                    )
                    continue
                self.endpoints.append(endpoint_of_spec(reactor, spec, open_to_all=open_to_all))


@contextmanager
def _usage(option: str) -> Iterator[None]:
    """What is wrong with an option's value is an error of usage."""
    try:
        yield
    except KdsrvError as error:
        raise UsageError(f"kdsrv: {option}: {error}") from None


class StartFailed(SystemExit, Exception):
    """The server cannot start, for the reason given; ends a foreground process with that sentence and status 1.

    An Exception as well, since ``twistd`` reports only those to the process that waits for the daemon.
    """


class _ServerProcess(KdsrvService):
    """The service as a process of its own: it greets in the log, and a failure to start is a sentence."""

    _log = Logger()

    def __init__(self, options: Options) -> None:
        from twisted.internet import reactor

        super().__init__(reactor, options.endpoints, initiators=options.destinations, bridges=options.bridges)
        self._options = options

    @override
    def privilegedStartService(self) -> None:
        with _start():
            super().privilegedStartService()

    @override
    def startService(self) -> None:
        with _start():
            super().startService()
        for port in self.ports:
            self._log.info("kdsrv {version} listens on {address}", version=__version__, address=_shown(port.getHost()))
        if self._options["no-password"]:
            self._log.warn("nobody has to log in (--no-password): who reaches this server can debug its targets")
        elif not all(map(is_reverse, self._options.servers)) or any(map(is_confined, self._options.listens)):
            self._log.info(
                "there is no login yet, so TCP listens on {host} only; --no-password opens it to the network",
                host=LOOPBACK,
            )


@contextmanager
def _start() -> Iterator[None]:
    try:
        yield
    except KdsrvError as error:
        raise StartFailed(f"kdsrv: {error}") from None


def _shown(address: Any) -> str:
    host, name = getattr(address, "host", None), getattr(address, "name", None)
    if host is not None:
        return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    return os.fsdecode(name) if name is not None else str(address)


def makeService(options: Options) -> IService:
    """The service for ``twist`` and ``twistd``."""
    service: IService = _ServerProcess(options)
    return service
