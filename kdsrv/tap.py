"""Options of ``twist kdsrv`` and ``twistd kdsrv``, and the service they describe.

Everything is parsed before anything starts: a wrong string is a usage error that names the part at fault.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from twisted.application.app import ServerOptions as TwistdOptions
from twisted.application.service import IService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.usage import Options as TwistedOptions
from twisted.python.usage import UsageError
from typing_extensions import override

from kdsrv import __version__
from kdsrv.auth.users import UserBook
from kdsrv.connection_strings import BridgeSpec, parse_bridge_string, parse_server_string
from kdsrv.connection_strings.masking import masked
from kdsrv.connection_strings.remoting import NpipeServerSpec, ServerSpec, SpipeServerSpec
from kdsrv.errors import KdsrvError
from kdsrv.process_title import hide_secrets
from kdsrv.server.attachment import LINGER
from kdsrv.server.bridges import parse_listen, reaches_beyond
from kdsrv.server.dialling import Destination, destination_of_spec, destination_of_string, is_reverse
from kdsrv.server.entrances import Guarded, Keys, take_linger, take_password, transport_of
from kdsrv.server.listening import endpoint_of_spec, endpoint_of_string, is_private
from kdsrv.server.made_password import client_command, login_options, place_to_dial, show_password
from kdsrv.server.policy_options import PolicyOptions
from kdsrv.server.record_options import RecordOptions
from kdsrv.server.service import KdsrvService
from kdsrv.server.tls_options import TlsOptions
from kdsrv.tls.hangup import HangupService

__all__ = ["Options", "StartFailed", "makeService"]


class _Endpoint(NamedTuple):
    """A Twisted endpoint string without what is kdsrv's in it, and that."""

    text: str
    password: str | None
    linger: float

    @classmethod
    def read(cls, text: str) -> _Endpoint:
        return cls(*take_password(take_linger(text)[0]), take_linger(text)[1])


class Options(TlsOptions, PolicyOptions, RecordOptions, TwistedOptions):
    """What the command line says, parsed."""

    synopsis = "[--listen ENDPOINT]... [--connect ENDPOINT]... [-t STRING]... [--bridge STRING]... [options]"
    longdesc = (
        "A connection server for Windows kernel debugging: clients connect, name the target they want "
        "(trans=@{com:port=/dev/ttyUSB0,baud=115200}) and hold it until they leave. See kdsrv connect --help "
        "for the other end. Put strings in quotes. Clients log in: with the password= in the string, or as "
        "--password-file or --users says; without any of these a password is made up and shown. "
        "See docs/security.md."
    )
    optFlags: ClassVar = [
        ["no-password", None, "Let anybody who can reach the server use it, and all targets it has"],
        ["open-bridges", None, "Let --bridge listen beyond this host: whoever reaches one has its target"],
    ]

    def __init__(self) -> None:
        hide_secrets()
        self._is_wrong = False
        super().__init__()
        self.listens: list[_Endpoint] = []
        self.connects: list[_Endpoint] = []
        self.servers: list[ServerSpec] = []
        self.bridges: list[BridgeSpec] = []
        self.password_file: Path | None = None
        self.user_file: Path | None = None

    def opt_listen(self, text: str) -> None:
        """A Twisted endpoint to listen on, with a password if you like: tcp:1234, tcp:1234:password=x:interface=::1,
        unix:/path:mode=600; linger=60 is how many seconds a client is waited for whose connection broke (repeatable)"""
        with _usage("--listen"):
            self.listens.append(_Endpoint.read(text))

    def opt_connect(self, text: str) -> None:
        """A Twisted endpoint where a client waits, to be dialled: tcp:desk:5000, ssl:desk:5000 (repeatable)"""
        with _usage("--connect"):
            self.connects.append(_Endpoint.read(text))

    def opt_transport(self, text: str) -> None:
        """The same as kdsrv.exe takes it: tcp:port=1234,password=x, or to dial a client tcp:port=5000,clicon=desk
        (repeatable)"""
        with _usage("-t"):
            self.servers.append(parse_server_string(text))

    opt_t = opt_transport

    def opt_bridge(self, text: str) -> None:
        """A bridge at the server: listen=@{tcp:5001},trans=@{com:port=/dev/ttyUSB0,baud=115200} (repeatable)"""
        with _usage("--bridge"):
            bridge = parse_bridge_string(text)
            parse_listen(bridge.listen)
            self.bridges.append(bridge)

    def opt_password_file(self, text: str) -> None:
        """A file with the password of all that names none itself, in its first line; only its owner may read it"""
        self.password_file = Path(text)

    def opt_users(self, text: str) -> None:
        """A file of users with their passwords and rights, made by 'kdsrv password'; only its owner may read it"""
        self.user_file = Path(text)

    def opt_version(self) -> None:
        """Print the version and exit"""
        sys.stdout.write(f"kdsrv {__version__}\n")
        raise SystemExit(0)

    @override
    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except UsageError:
            self._is_wrong = True
            raise

    @override
    def getUsage(self, width: int | None = None) -> str:
        """All options; with a mistake, one line, for behind all of them nobody would find what is wrong."""
        if self._is_wrong:
            return f"see {'twistd' if isinstance(self.parent, TwistdOptions) else 'twist'} kdsrv --help"
        return super().getUsage(width)

    @override
    def parseArgs(self, *args: str) -> None:
        if args:
            raise UsageError(f"kdsrv: '{masked(args[0]).text}' belongs to no option; every part has one (see --help)")

    @override
    def postOptions(self) -> None:
        from twisted.internet import reactor

        self.check_watched()
        self.recorded = self.recording(reactor, self.policy().names(None))
        if not self.listens and not self.connects and not self.servers and not self.bridges:
            raise UsageError("kdsrv: say where to listen, for instance --listen tcp:1234")
        for bridge in self.bridges:
            if reaches_beyond(parse_listen(bridge.listen)) and not self["open-bridges"]:
                raise UsageError(
                    f"kdsrv: --bridge: '{bridge.listen}' reaches beyond this host, and a debugger cannot log in: "
                    "say --open-bridges to allow it"
                )
        with _usage("passwords"):
            self.entry_keys = Keys(
                open_to_all=bool(self["no-password"]),
                password_file=self.password_file,
                user_file=self.user_file,
                environ=os.environ,
                random=secrets.token_bytes,
            )
        with _usage("certificates"):
            self.certificates = certificates = self.server_certificates()
        self.endpoints: list[Guarded[IStreamServerEndpoint]] = []
        self.destinations: list[Guarded[Destination]] = []
        for text, password, linger in self.listens:
            with _usage("--listen"):
                endpoint = endpoint_of_string(reactor, text, certificates=certificates)
                book = self.entry_keys.book_for(password, private=is_private(text))
                self.endpoints.append(Guarded(endpoint, book, transport_of(text), linger=linger))
        for text, password, linger in self.connects:
            with _usage("--connect"):
                where = destination_of_string(reactor, text, certificates=certificates)
                book = self.entry_keys.book_for(password)
                self.destinations.append(Guarded(where, book, transport_of(text), linger=linger))
        for spec in self.servers:
            with _usage("-t"):
                linger = float(LINGER if (given := getattr(spec, "linger", None)) is None else given)
                if is_reverse(spec):
                    where = destination_of_spec(reactor, spec, certificates=certificates)
                    book = self.entry_keys.book_for(spec.password)
                    self.destinations.append(Guarded(where, book, spec.transport, spec.hidden, linger))
                else:
                    endpoint = endpoint_of_spec(reactor, spec, certificates=certificates, pipes=self.pipe_dir)
                    private = isinstance(spec, NpipeServerSpec | SpipeServerSpec)
                    book = self.entry_keys.book_for(spec.password, private=private)
                    self.endpoints.append(Guarded(endpoint, book, spec.transport, spec.hidden, linger))


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
    _is_ending = False

    def __init__(self, options: Options) -> None:
        from twisted.internet import reactor

        super().__init__(
            reactor,
            options.endpoints,
            initiators=options.destinations,
            bridges=options.bridges,
            policy=options.policy(),
            watch=options.watched,
            end=lambda: self._end(reactor),
        )
        self._options = options
        if options.certificates.fingerprints:
            HangupService(reactor, options.certificates.reload).setServiceParent(self)
        if options.recorded is not None:
            options.recorded.watch(self.directory)
            options.recorded.setServiceParent(self)

    def _end(self, reactor: Any) -> None:
        """Stop the process, once its client has been told."""
        if not self._is_ending:
            self._is_ending = True
            reactor.callLater(0, reactor.stop)

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
        for fingerprint in self._options.certificates.fingerprints:
            self._log.info("the TLS certificate has the fingerprint sha256:{fingerprint}", fingerprint=fingerprint)
        if self._options["no-password"]:
            self._log.warn("nobody has to log in (--no-password): who reaches this server can debug its targets")
        elif any(way.transport == "tcp" and way.book is not None for way in self._options.endpoints):
            self._log.info("over tcp: the password stays secret, but what is debugged can be read; ssl: encrypts it")
        if any(getattr(spec, "icfenable", False) for spec in self._options.servers):
            self._log.info("IcfEnable: opening this host's firewall for the ports above is left to whoever runs it")
        self._tell_clients(self._options.entry_keys.made)

    def _tell_clients(self, made: str | None) -> None:
        """Say what clients type: with the password that was made where the process was started from, else in the log,
        without any."""
        made_book = None if made is None else self._options.entry_keys.book_for(None)
        target = self._options.example()
        commands = []
        for book, server in self._client_strings():
            if made_book is not None and book is made_book:
                commands.append(client_command(f"{server},password={made}", target))
            else:
                command = client_command(server, target, options=login_options(book))
                self._log.info("clients come in with {command}", command=command)
        if made is not None:
            with _start():
                show_password(made, commands, os.environ)

    def _client_strings(self) -> Iterator[tuple[UserBook | None, str]]:
        """The client string for each way in that has one, and whom it is for."""
        for listener, guarded in zip(self._listeners, self._options.endpoints, strict=True):
            place = None if listener.port is None else place_to_dial(listener.port.getHost())
            if place is not None:
                yield guarded.book, f"{guarded.transport}:{place}"
        for dialled in self._options.destinations:
            _, _, port = dialled.way.address.rpartition(":")
            if port.isdecimal():
                yield dialled.book, f"{dialled.transport}:clicon={socket.gethostname()},port={port}"


@contextmanager
def _start() -> Iterator[None]:
    try:
        yield
    except KdsrvError as error:
        raise StartFailed(f"kdsrv: {error}") from None


def _shown(address: Any) -> str:
    host, name = getattr(address, "host", None), getattr(address, "name", None)
    if host is not None and hasattr(address, "port"):
        return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    return os.fsdecode(name) if name is not None else str(address)


def makeService(options: Options) -> IService:
    """The service for ``twist`` and ``twistd``."""
    service: IService = _ServerProcess(options)
    return service
