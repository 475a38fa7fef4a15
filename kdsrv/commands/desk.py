"""A target on a desk: a session, the bridges on which debuggers find it, and what is said about both."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred

from kdsrv.bridge.bridge import Bridge
from kdsrv.bridge.listeners import Listener, is_loopback, listen_on_pty, listen_on_tcp, listen_on_unix
from kdsrv.client.breaks import Broken, News, Renewed, Resumed
from kdsrv.client.connecting import route_of_spec
from kdsrv.client.lasting import Endurance, LastingSession
from kdsrv.client.listening import Listening, Notice, Said, TurnedAway
from kdsrv.client.terms import PLAIN, Terms
from kdsrv.commands.default_socket import default_socket
from kdsrv.commands.login_options import GivenLogin
from kdsrv.commands.screen import Screen
from kdsrv.connection_strings import KdsrvSpec
from kdsrv.errors import KdsrvError, SetupError
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.link_driver import HeldAcks
from kdsrv.sessions.decoded import printable
from kdsrv.sessions.status import Status
from kdsrv.sessions.tenant import TargetGiven
from kdsrv.tls.settings import ClientCertificates
from kdsrv.transports.transport import Transport
from kdsrv.wire.messages import Attached

__all__ = ["Desk"]

_LOOPBACK: Final = "127.0.0.1"
_DEFAULT: Final = "default"


class Desk:
    """One session, its bridges, and what is said about them. ``ended`` fires when the user has given the target
    away, and fails when the session is lost for good. ``release`` is the command by which they give it away.

    With ``reconnect`` the session outlives its connections, and one that the server has ended is opened again; the
    bridges stay, and a debugger on one notices nothing but silence.
    """

    def __init__(
        self,
        reactor: Any,
        spec: KdsrvSpec,
        screen: Screen,
        *,
        reconnect: bool,
        terms: Terms = PLAIN,
        login: GivenLogin | None = None,
        certificates: ClientCertificates | None = None,
        release: str = "kdsrv release",
    ) -> None:
        self.ended: Deferred[None] = Deferred()
        self._reactor = reactor
        self._spec = spec
        self._screen = screen
        self._release = release
        user, password = login or GivenLogin()
        route = route_of_spec(
            reactor, spec, user=user, password=password, certificates=certificates, tell=self._on_the_way
        )
        endurance = Endurance.EVERYTHING if reconnect else Endurance.NOTHING
        self._session = LastingSession(route, terms, endurance, tell=self._happened)
        self._bridge = self._session.user = Bridge(reactor, self._session, self, HeldAcks(reactor))
        self._listeners: list[Listener] = []
        screen.gone = lambda: self._end(SetupError(why="nobody reads what is said here any more"))

    async def open(self, tcp: list[tuple[str, int]], unix: list[str], pty: list[str]) -> None:
        """Open the bridges, attach to the target, and say how debuggers reach it.

        What is wrong with a bridge is told before anybody is asked for the target.
        """
        if not (tcp or unix or pty):
            tcp, unix = [(_LOOPBACK, 0)], [_DEFAULT]
        offers: list[tuple[str, str]] = []
        for host, port in tcp:
            offers.append(("tcp", self._listens(listen_on_tcp(self._reactor, host, port, self._debugger_comes))))
        for path in unix:
            place = default_socket(self._spec) if path == _DEFAULT else Path(path).absolute()
            offers.append(("unix", self._listens(listen_on_unix(self._reactor, place, self._debugger_comes))))
        for link in pty:
            made = Path(link).absolute() if link else None
            address = self._listens(listen_on_pty(self._reactor, self._debugger_comes, made))
            offers.append(("pty", str(made or address)))
        self._say_attached(await self._session.open())
        for kind, address in offers:
            self._say_bridge(kind, address)
        self._screen.report("ready", "Ctrl-C ends the session and leaves the target as it is")

    def close(self) -> None:
        """End the session and the bridges."""
        for listener in self._listeners:
            listener.close()
        self._bridge.close()
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
        self._end(reason)

    # What the session tells

    def _on_the_way(self, notice: Notice) -> None:
        """With clicon=: where the server has to connect to, and who else did. And what the server says of others."""
        if isinstance(notice, Listening):
            transport = self._spec.server.transport
            hint = f"started there with --connect {transport}:{socket.gethostname()}:{notice.port}"
            self._screen.report("listening", f"{notice} ({hint})", server=notice.server, port=notice.port)
        elif isinstance(notice, TurnedAway):
            self._screen.report("turned-away", str(notice), address=notice.peer, why=notice.why)
        elif not isinstance(notice, Said):
            self._screen.report("waiting", str(notice), server=notice.address)
        elif notice.asks:
            hint = "" if self._spec.server.password is None else "  (with your password=... in the string)"
            sentence = f"{printable(notice.text)}:\n  {self._release}{hint}"
            self._screen.report("notice", sentence, text=notice.text, command=self._release)
        else:
            self._screen.report("notice", printable(notice.text), text=notice.text)

    def _happened(self, news: News) -> None:
        if isinstance(news, Broken):
            reason = news.reason
            self._screen.report("lost", str(news), code=reason.code, message=str(reason))
            self._screen.know(news.status)
        elif isinstance(news, Resumed):
            self._screen.report("resumed", str(news), seconds=round(news.seconds, 3))
        elif isinstance(news, Renewed):
            self._bridge.use(self._session)
            self._screen.report("renewed", str(news), message=str(news))
            self._say_attached(news.attached)

    def _end(self, reason: KdsrvError) -> None:
        if self.ended.called:
            return
        if reason.code == TargetGiven.code:
            sentence = str(reason.facts.get("message", reason))
            self._screen.report("given", printable(sentence), message=sentence)
            self.ended.callback(None)
        else:
            self.ended.errback(reason)

    def _say_attached(self, attached: Attached) -> None:
        self._screen.report(
            "attached",
            f"holding {attached.description}",
            target=attached.target,
            description=attached.description,
            status=attached.status.to_json(),
        )

    # The bridges

    def _listens(self, listener: Listener) -> str:
        self._listeners.append(listener)
        return listener.address

    def _say_bridge(self, kind: str, address: str) -> None:
        commands = _COMMANDS[kind](address)
        lines = "\n".join(f"  {command}" for command in commands or [_SERIAL_PORT])
        where = f"a debugger finds the target on {_KINDS[kind]} {address}:\n{lines}"
        self._screen.report("bridge", where, kind=kind, address=address, commands=commands)
        if kind == "tcp" and not is_loopback(address.rpartition(":")[0]):
            warning = f"whoever reaches {address} has the target, for a debugger cannot log in"
            self._screen.report("warning", warning, message=warning)

    def _debugger_comes(self, line: Transport) -> bool:
        if self._bridge.attach(line):
            return True
        first = self._bridge.debugger
        there = "there already" if first == line.description else f"on {first} already"
        sentence = f"a second debugger on {line.description} was turned away: the target's debugger is {there}"
        self._screen.report("debugger", sentence, state="refused", line=line.description)
        return False


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
