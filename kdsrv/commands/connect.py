"""``kdsrv connect``: hold a target of a server, and open bridges on which a local debugger finds it."""

from __future__ import annotations

import argparse
import os
import re
import socket
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv.auth.scram import LoginRefused
from kdsrv.bridge.bridge import Bridge
from kdsrv.bridge.listeners import Listener, is_loopback, listen_on_pty, listen_on_tcp, listen_on_unix
from kdsrv.client.connecting import connect
from kdsrv.client.listening import Listening, Notice
from kdsrv.client.protocol import ClientProtocol, ServerRefused
from kdsrv.commands.certificate_options import add_certificate_options, given_certificates
from kdsrv.commands.login_options import GivenLogin, add_login_options, given_login
from kdsrv.commands.screen import Screen
from kdsrv.commands.string_option import add_string_option
from kdsrv.connection_strings import KdsrvSpec, PortRange, SslClientSpec, TcpClientSpec, parse_kdsrv_string
from kdsrv.errors import KdsrvError, SetupError
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.link_driver import HeldAcks
from kdsrv.sessions.status import Interrupted, Status
from kdsrv.tls.contexts import CertificateRefused
from kdsrv.tls.settings import ClientCertificates
from kdsrv.transports.transport import Transport
from kdsrv.wire.members import one_line
from kdsrv.wire.messages import Attached

__all__ = ["configure", "run"]

_LOOPBACK: Final = "127.0.0.1"
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 15.0
_LONG_SESSION: Final = 10.0
"""Seconds after which a session has been one: the next wait is a short one again."""
_DEFAULT: Final = "default"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv connect``."""
    parser.description = (
        "Hold a target of a kdsrv server and let a debugger on this machine at it, as if the cable ended here. "
        "Without --tcp, --unix or --pty it opens a TCP port on loopback and a unix socket. "
        "Ctrl-C ends the session and leaves the target as it is."
    )
    add_string_option(
        parser, "'kdsrv:server=@{tcp:server=HOST,port=1234},trans=@{com:port=/dev/ttyUSB0,baud=115200}' (in quotes)"
    )
    parser.add_argument(
        "--tcp", metavar="[HOST:]PORT", action="append", help="a bridge on a TCP port, of 127.0.0.1; 0: any free one"
    )
    parser.add_argument("--unix", metavar="PATH", action="append", help="a bridge on a unix socket")
    parser.add_argument(
        "--pty", metavar="LINK", action="append", nargs="?", const="", help="a bridge on a new pty, and a link to it"
    )
    add_login_options(parser)
    add_certificate_options(parser)
    parser.add_argument("--json", action="store_true", help="say what happens as JSON, one object a line, on stdout")
    parser.add_argument(
        "--no-reconnect", action="store_true", help="end with status 1 when the session is lost, do not connect again"
    )


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Hold the session until cancelled; fires with the exit status, or fails with a KdsrvError."""
    return Deferred.fromCoroutine(_run(reactor, options, Screen(as_json=options.json)))


async def _run(reactor: Any, options: argparse.Namespace, screen: Screen) -> int:
    try:
        spec = parse_kdsrv_string(options.string)
        tcp = [_tcp_address(text) for text in options.tcp or []]
        login = given_login(options, os.environ)
        certificates = given_certificates(options)
        desk = Desk(reactor, spec, screen, reconnect=not options.no_reconnect, login=login, certificates=certificates)
        await _hold(desk, tcp, options)
    except CancelledError:
        return 0
    finally:
        screen.end()
    return 0


async def _hold(desk: Desk, tcp: list[tuple[str, int]], options: argparse.Namespace) -> None:
    try:
        await desk.open(tcp, options.unix or [], options.pty or [])
        await desk.ended
    finally:
        desk.close()


class Desk:
    """One session, its bridges, and what is said about them. ``ended`` fails when the session is lost for good.

    With ``reconnect`` a session that is lost is opened again, with growing waits; the bridges stay, and a debugger on
    one notices nothing but silence.
    """

    def __init__(
        self,
        reactor: Any,
        spec: KdsrvSpec,
        screen: Screen,
        *,
        reconnect: bool,
        login: GivenLogin | None = None,
        certificates: ClientCertificates | None = None,
    ) -> None:
        self.ended: Deferred[None] = Deferred()
        self._reactor = reactor
        self._spec = spec
        self._login = login or GivenLogin()
        self._certificates = certificates
        self._screen = screen
        self._reconnect = reconnect
        self._session: ClientProtocol | None = None
        self._bridge: Bridge | None = None
        self._listeners: list[Listener] = []
        self._again: Deferred[None] | None = None
        self._wait = _FIRST_WAIT
        self._attached_at = 0.0
        screen.gone = lambda: self._end(SetupError(why="nobody reads what is said here any more"))

    async def open(self, tcp: list[tuple[str, int]], unix: list[str], pty: list[str]) -> None:
        """Attach to the target, then open the bridges and say how debuggers reach them."""
        session, attached = await self._connect()
        self._session = session
        self._bridge = session.user = Bridge(self._reactor, session, self, HeldAcks(self._reactor))
        self._say_attached(attached)
        if not (tcp or unix or pty):
            tcp, unix = [(_LOOPBACK, 0)], [_DEFAULT]
        for host, port in tcp:
            self._offer(listen_on_tcp(self._reactor, host, port, self._debugger_comes), "tcp")
        for path in unix:
            place = _default_socket(self._spec) if path == _DEFAULT else Path(path).absolute()
            self._offer(listen_on_unix(self._reactor, place, self._debugger_comes), "unix")
        for link in pty:
            made = Path(link).absolute() if link else None
            self._offer(listen_on_pty(self._reactor, self._debugger_comes, made), "pty", made)
        self._screen.report("ready", "Ctrl-C ends the session and leaves the target as it is")

    def close(self) -> None:
        """End the session and the bridges."""
        if self._again is not None:
            self._again.cancel()
        for listener in self._listeners:
            listener.close()
        if self._bridge is not None:
            self._bridge.close()
        if self._session is not None:
            self._session.leave()

    # What the bridge tells

    def debugger_came(self, line: str) -> None:
        self._screen.report("debugger", f"a debugger came on {line}", state="came", line=line)

    def debugger_left(self, line: str) -> None:
        self._screen.report("debugger", f"the debugger on {line} has left", state="left", line=line)

    def printed_unseen(self, packet: Packet) -> None:
        if packet.type != PacketType.DEBUG_IO:
            return
        try:
            text = DebugIo.decode(packet.payload).text.decode("latin-1")
        except PayloadError:
            return
        self._screen.report("print", f"target: {printable(text)}", text=text)

    def status_changed(self, status: Status) -> None:
        self._screen.live(status)

    def session_lost(self, reason: KdsrvError) -> None:
        self._session = None
        if not self._reconnect:
            self._end(reason)
            return
        if self._reactor.seconds() - self._attached_at > _LONG_SESSION:
            self._wait = _FIRST_WAIT
        self._screen.report("lost", f"the session is lost: {reason}", code=reason.code, message=str(reason))
        self._again = Deferred.fromCoroutine(self._connect_again())
        self._again.addErrback(self._not_again)

    # How it works

    def _end(self, reason: KdsrvError | Failure) -> None:
        if not self.ended.called:
            self.ended.errback(reason)

    def _not_again(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._end(failure)

    async def _connect_again(self) -> None:
        assert self._bridge is not None
        while True:
            await deferLater(self._reactor, self._wait)
            self._wait = min(self._wait * 2, _LONGEST_WAIT)
            try:
                session, attached = await self._connect()
            except KdsrvError as error:
                if error.code in (LoginRefused.code, CertificateRefused.code):
                    raise
                self._screen.live(_absence(error))
                continue
            self._again = None
            self._session = session
            session.user = self._bridge
            self._bridge.use(session)
            self._say_attached(attached)
            return

    def _connect(self) -> Deferred[tuple[ClientProtocol, Attached]]:
        user, password = self._login
        return connect(
            self._reactor,
            self._spec,
            user=user,
            password=password,
            certificates=self._certificates,
            tell=self._waits,
        )

    def _waits(self, notice: Notice) -> None:
        """With clicon=: where the server has to connect to, and who else did."""
        if not isinstance(notice, Listening):
            self._screen.report("turned-away", str(notice), address=notice.peer, why=notice.why)
            return
        server = self._spec.server
        if isinstance(server, TcpClientSpec | SslClientSpec):
            # the server goes on dialling this port, also when the first of the range is free again
            here = replace(server, ports=PortRange(notice.port, notice.port))
            self._spec = replace(self._spec, server=here)
        hint = f"started there with --connect {server.transport}:{socket.gethostname()}:{notice.port}"
        self._screen.report("listening", f"{notice} ({hint})", server=notice.server, port=notice.port)

    def _say_attached(self, attached: Attached) -> None:
        self._attached_at = self._reactor.seconds()
        self._screen.report(
            "attached",
            f"holding {attached.description}",
            target=attached.target,
            description=attached.description,
            status=attached.status.to_json(),
        )

    def _offer(self, listener: Listener, kind: str, link: Path | None = None) -> None:
        self._listeners.append(listener)
        address = str(link or listener.address)
        commands = _COMMANDS[kind](address)
        lines = "\n".join(f"  {command}" for command in commands or [_SERIAL_PORT])
        where = f"a debugger finds the target on {_KINDS[kind]} {address}:\n{lines}"
        self._screen.report("bridge", where, kind=kind, address=address, commands=commands)
        if kind == "tcp" and not is_loopback(listener.address.rpartition(":")[0]):
            warning = f"whoever reaches {listener.address} has the target, for a debugger cannot log in"
            self._screen.report("warning", warning, message=warning)

    def _debugger_comes(self, line: Transport) -> bool:
        assert self._bridge is not None
        if self._bridge.attach(line):
            return True
        first = self._bridge.debugger
        there = "there already" if first == line.description else f"on {first} already"
        sentence = f"a second debugger on {line.description} was turned away: the target's debugger is {there}"
        self._screen.report("debugger", sentence, state="refused", line=line.description)
        return False


@dataclass(frozen=True, slots=True)
class _ServerAway(Interrupted):
    """To programs it is the same: nothing comes, and it will again."""

    @override
    def sentence(self) -> str:
        return f"waiting for the server: {one_line(self.why)}"


def _absence(error: KdsrvError) -> Interrupted:
    """Why there is no session, the point of it first: a status line is cut where the terminal ends."""
    if isinstance(error, ServerRefused):
        return Interrupted(str(error.facts["message"]))
    return _ServerAway(str(error.facts.get("why", error)))


_SERIAL_PORT: Final = "give it as a serial port to a program or to the debugger's virtual machine; any baud rate does"
_KINDS: Final = {"tcp": "TCP port", "unix": "unix socket", "pty": "pty"}


def _windbg(address: str) -> list[str]:
    host, _, port = address.rpartition(":")
    return [f"windbg -k com:ipport={port},port={host}", f"kd -k com:ipport={port},port={host}"]


def _unix_debuggers(path: str) -> list[str]:
    return [
        f"r2 -a x86 -b 64 -D winkd winkd://{path}",
        f"ntoseye --backend kd --memory-source kd --connect {path}",
    ]


_COMMANDS: Final = {
    "tcp": _windbg,
    "unix": _unix_debuggers,
    "pty": lambda path: [],
}


def printable(text: str) -> str:
    """Text of a target on one line of a terminal: what could steer the terminal is shown as an escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.rstrip("\r\n\0"))


def _tcp_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise SetupError(why=f"--tcp: '{text}' is not [HOST:]PORT")
    return host.strip("[]") or _LOOPBACK, int(port)


def _default_socket(spec: KdsrvSpec) -> Path:
    """A socket named after the target, in a directory that is this user's alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    directory = Path(runtime, "kdsrv") if runtime else Path(f"/tmp/kdsrv-{os.getuid()}")
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise SetupError(why=f"cannot make {directory} for the unix socket: {error.strerror}; use --unix") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise SetupError(why=f"{directory} is not a directory of yours alone (mode 700); use --unix PATH")
    words = re.findall(r"[A-Za-z0-9]+", str(spec.trans or "default"))
    return directory / f"{'-'.join(words)[:60]}-{os.getpid()}.sock"
