"""Looking on at a target that others debug: what happens there, as lines that the server makes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv.auth.passwords import Credentials
from kdsrv.client.connecting import credentials_for, endpoint_of_client_spec, own_name, reach
from kdsrv.client.listening import AwaitedServer, Notice, Waiting
from kdsrv.client.protocol import ClientProtocol
from kdsrv.connection_strings import KdsrvSpec
from kdsrv.errors import KdsrvError, PeerError
from kdsrv.sessions.status import Status
from kdsrv.tls.settings import ClientCertificates
from kdsrv.wire.connection import Event
from kdsrv.wire.members import Members
from kdsrv.wire.messages import Attached, Message, Seen, ServerHello, StatusReport, Watch, Watching

__all__ = ["SeenLine", "ServerTooOld", "Viewer", "WatchingProtocol", "watch"]

_LATEST: Final = 253_402_300_799.0
"""The end of the year 9999."""


class ServerTooOld(KdsrvError):
    """this server is of an older release of kdsrv, which lets nobody look on"""

    code = "too-old"


class SeenLine(NamedTuple):
    """One thing that happened, at ``time`` in seconds since 1970 by the server's clock. ``text`` may hold anything;
    ``data`` are the other members, for programs."""

    time: float
    kind: str
    text: str
    data: dict[str, object]

    @classmethod
    def read(cls, line: dict[str, object]) -> SeenLine:
        """PeerError if it is no such line."""
        members = Members("line of what was seen", line)
        time, text = members.seconds("time"), line.get("text")
        if not isinstance(text, str) or time > _LATEST:
            raise PeerError(why="a line of what was seen has no text, or no time")
        data = {name: value for name, value in line.items() if name not in ("time", "kind", "text")}
        return cls(time, members.text("kind"), text, data)


class Viewer(Protocol):
    """Is told what is seen. All calls come from the reactor."""

    def seen(self, missed: int, lines: list[SeenLine]) -> None:
        """These things happened; ``missed`` more did before them or in between."""
        ...

    def status_changed(self, status: Status) -> None:
        """There is something new to say of the target."""
        ...

    def lost(self, reason: KdsrvError) -> None:
        """The connection has ended. Nothing else comes."""
        ...


class WatchingProtocol(ClientProtocol):
    """Looks on at ``trans`` (None: the server's default). ``watching`` fires when that begins, or fails with a
    KdsrvError; from then on the ``viewer`` is told."""

    def __init__(
        self, clock: IReactorTime, trans: str | None, viewer: Viewer, credentials: Credentials | None = None
    ) -> None:
        super().__init__(clock, trans, own_name(), credentials)
        self.watching: Deferred[Watching] = Deferred()
        self._viewer: Viewer | None = viewer
        self.attached.addErrback(self._refused)

    @override
    def leave(self, reason: str = "the client has seen enough") -> None:
        self._viewer = None
        super().leave(reason)

    @override
    def _request(self) -> Message:
        return Watch(self._trans, self._client)

    @override
    def _on_event(self, event: Event) -> None:
        viewer = self._viewer
        if isinstance(event, Seen):
            lines = [SeenLine.read(line) for line in event.lines]
            if viewer is not None:
                viewer.seen(event.missed, lines)
        elif isinstance(event, StatusReport):
            if viewer is not None:
                viewer.status_changed(event.status)
        elif isinstance(event, Watching):
            self._begin(Attached(event.target, event.description, event.status))
            self.watching.callback(event)
        elif isinstance(event, ServerHello) and not event.instance:
            self._fail(ServerTooOld())
        else:
            super()._on_event(event)

    @override
    def _tell_end(self) -> None:
        begun = self.attached.called
        super()._tell_end()
        viewer, self._viewer = self._viewer, None
        if viewer is not None and begun and self._error is not None:
            viewer.lost(self._error)

    def _refused(self, failure: Failure) -> None:
        self.watching.errback(failure)


def watch(
    reactor: Any,
    spec: KdsrvSpec,
    viewer: Viewer,
    *,
    user: str = "",
    password: str | None = None,
    certificates: ClientCertificates | None = None,
    tell: Callable[[Notice], None] | None = None,
) -> Deferred[tuple[WatchingProtocol, Watching]]:
    """Look on at the target that ``spec`` names, until the protocol's ``leave``.

    Arguments and errors are those of ``kdsrv.client.connecting.connect``, and ServerTooOld.
    """
    credentials = credentials_for(spec.server, user, password)
    return Deferred.fromCoroutine(_watch(reactor, spec, viewer, credentials, certificates, tell))


async def _watch(
    reactor: Any,
    spec: KdsrvSpec,
    viewer: Viewer,
    credentials: Credentials | None,
    certificates: ClientCertificates | None,
    tell: Callable[[Notice], None] | None,
) -> tuple[WatchingProtocol, Watching]:
    endpoint, address = endpoint_of_client_spec(reactor, spec.server, certificates or ClientCertificates(), tell)
    trans = None if spec.trans is None else spec.trans.to_string()

    def make() -> WatchingProtocol:
        protocol = WatchingProtocol(reactor, trans, viewer, credentials)
        if tell is not None:
            protocol.waits = lambda: tell(Waiting(address))
        return protocol

    async def attempt() -> tuple[WatchingProtocol, Watching]:
        protocol = await reach(endpoint, address, make)
        try:
            return protocol, await protocol.watching
        except BaseException:
            protocol.leave()
            raise

    attempting: Coroutine[Any, Any, tuple[WatchingProtocol, Watching]] = (
        endpoint.first_of(attempt) if isinstance(endpoint, AwaitedServer) else attempt()
    )
    return await attempting
