"""Bridges that the server opens itself, for debuggers on its own network.

The target is opened when a debugger comes and let go when it leaves, as for any client; in between nothing is open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv.bridge.bridge import Bridge
from kdsrv.bridge.listeners import SocketListener, is_loopback, listen_on_tcp, listen_on_unix
from kdsrv.connection_strings import BridgeSpec
from kdsrv.errors import KdsrvError, SetupError
from kdsrv.kd.packets import Packet
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.session import Session
from kdsrv.sessions.status import Status
from kdsrv.transports.transport import Transport

__all__ = ["BridgeService", "ListenAddress", "parse_listen", "reaches_beyond"]

_FORMS: Final = "tcp:PORT, tcp:PORT:interface=ADDRESS or unix:PATH"

ListenAddress = tuple[str, int] | Path


def parse_listen(text: str, default_host: str = "127.0.0.1") -> ListenAddress:
    """Where a bridge listens: (host, port) or the path of a unix socket. SetupError if it is neither."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Path(rest)
    port, _, interface = rest.partition(":interface=")
    if kind != "tcp" or not port.isdecimal() or int(port) > 65535:
        raise SetupError(why=f"a bridge cannot listen on '{text}'; write {_FORMS}")
    return interface.replace("\\:", ":") or default_host, int(port)


def reaches_beyond(listen: ListenAddress) -> bool:
    """Whether debuggers on other hosts can connect there. KD has no login: whoever can has the target."""
    return not isinstance(listen, Path) and not is_loopback(listen[0])


class BridgeService(Service):
    """Lets debuggers in on one address and gives each the same target, one debugger at a time."""

    _log = Logger()

    def __init__(self, reactor: Any, directory: Directory, spec: BridgeSpec, default_host: str = "127.0.0.1") -> None:
        self._reactor = reactor
        self._directory = directory
        self._spec = spec
        self._listen = parse_listen(spec.listen, default_host)
        self._listener: SocketListener | None = None
        self._line: Transport | None = None
        self._opening: Deferred[Session] | None = None
        self._session: Session | None = None
        self._bridge: Bridge | None = None

    @override
    def startService(self) -> None:
        super().startService()
        if isinstance(self._listen, Path):
            self._listener = listen_on_unix(self._reactor, self._listen, self._came)
        else:
            self._listener = listen_on_tcp(self._reactor, *self._listen, self._came)
        self._log.info(
            "a debugger finds {target} on {address}", target=self._spec.trans, address=self._listener.address
        )

    @override
    def stopService(self) -> None:
        super().stopService()
        if self._listener is not None:
            self._listener.close()
        self._let_go()

    @property
    def address(self) -> str | None:
        """Where debuggers connect, once the service has started."""
        return None if self._listener is None else self._listener.address

    def _came(self, line: Transport) -> bool:
        if self._line is not None:
            self._log.info("a second debugger ({peer}) was turned away", peer=line.description)
            return False
        self._line = line
        holder = "a debugger on the server's bridge"
        self._opening = self._directory.open(self._spec.trans, holder, line.description, user=None)
        self._opening.addCallbacks(self._opened, self._not_opened)
        return True

    def _opened(self, session: Session) -> None:
        assert self._line is not None
        self._opening = None
        self._session = session
        self._bridge = Bridge(self._reactor, session, self, self._directory.acks)
        session.start(self._bridge)
        self._bridge.attach(self._line)

    def _not_opened(self, failure: Failure) -> None:
        self._opening = None
        if isinstance(failure.value, KdsrvError):
            self._log.warn("{error}", error=str(failure.value))
        elif self._line is not None:
            self._log.failure("opening {target}", failure, target=self._spec.trans)
        self._let_go()

    def _let_go(self) -> None:
        """Close the debugger's line and leave the target as it is."""
        line, self._line = self._line, None
        session, self._session = self._session, None
        bridge, self._bridge = self._bridge, None
        if self._opening is not None:
            self._opening.cancel()
        if bridge is not None:
            bridge.close()
        if line is not None:
            line.close()
        if session is not None:
            self._directory.close(session)

    def debugger_came(self, line: str) -> None:
        self._log.info("a debugger came on {line}", line=line)

    def debugger_left(self, line: str) -> None:
        self._log.info("the debugger on {line} has left", line=line)
        self._let_go()

    def printed_unseen(self, packet: Packet) -> None:
        """Nobody is here to print for."""

    def status_changed(self, status: Status) -> None:
        """The session has it logged."""

    def session_lost(self, reason: KdsrvError) -> None:
        self._log.warn("{error}", error=str(reason))
        self._let_go()
