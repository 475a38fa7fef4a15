"""The server as a Twisted service: what ``twist kdsrv`` runs, and what a lab's own services embed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv.auth.door import Door
from kdsrv.auth.users import UserBook
from kdsrv.connection_strings import BridgeSpec
from kdsrv.errors import SetupError
from kdsrv.listen_failures import why_not
from kdsrv.policy.policy import Policy
from kdsrv.server.answers import Answers
from kdsrv.server.bridges import BridgeService
from kdsrv.server.dialling import Destination
from kdsrv.server.entrances import Guarded
from kdsrv.server.factory import KdsrvServerFactory
from kdsrv.server.initiator import Initiator
from kdsrv.server.keeper import Keeper, StopPolicy
from kdsrv.sessions.directory import Directory
from kdsrv.transports.opener import Opener
from kdsrv.transports.simulated import SimulatedTargets

__all__ = ["KdsrvService"]

Way = TypeVar("Way")


class KdsrvService(MultiService):
    """A KD connection server.

    ``reactor`` is a Twisted reactor. ``endpoints`` are the stream server endpoints that clients connect to,
    ``initiators`` the waiting clients that the server dials, ``bridges`` the bridges that the server opens itself.
    ``environ`` supplies what a client's kd-string leaves out (``_NT_DEBUG_PORT`` and its like); the default is the
    process's environment. ``bridge_host`` is where a bridge without ``interface=`` listens.

    ``book`` says who may come in by these; None: anybody who can reach them. An endpoint or a destination that is
    ``Guarded`` has its own.

    ``policy`` says which targets clients may open; None: what is open by default. ``watch`` are the published targets
    that the server holds itself while no client does, and what becomes of their stops. ``end`` is called when a client
    who may ask for it wants the server to end; None: nobody may.

    Starting raises SetupError, a sentence, if one of them cannot listen. ``directory`` has the sessions that are open,
    ``simulated`` the targets that clients asked for with ``sim:``. Nothing is opened towards a target before somebody
    asks for it, but those that are watched.
    """

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[IStreamServerEndpoint | Guarded[IStreamServerEndpoint]] = (),
        *,
        book: UserBook | None = None,
        initiators: Sequence[Destination | Guarded[Destination]] = (),
        bridges: Sequence[BridgeSpec] = (),
        environ: Mapping[str, str] | None = None,
        bridge_host: str = "127.0.0.1",
        policy: Policy | None = None,
        watch: Mapping[str, StopPolicy] | None = None,
        end: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.simulated = SimulatedTargets(reactor)
        opener = Opener(reactor, self.simulated)
        self.directory = Directory(reactor, opener, os.environ if environ is None else environ, policy=policy)
        self._answers = Answers(self.directory, end)
        self._hidden_answers = Answers(self.directory, end, hidden=True)
        self.factory = KdsrvServerFactory(reactor, self.directory, Door(book), questions=self._answers)
        self._factories = [self.factory]
        self._listeners = [_ListenerService(*self._guard(endpoint)) for endpoint in endpoints]
        self._initiators = [
            Initiator(reactor, where.endpoint, where.address, factory)
            for where, factory in map(self._guard, initiators)
        ]
        self._bridges = [BridgeService(reactor, self.directory, bridge, bridge_host) for bridge in bridges]
        self._keepers = [Keeper(reactor, self.directory, name, stops) for name, stops in (watch or {}).items()]
        for service in (*self._listeners, *self._initiators, *self._bridges, *self._keepers):
            service.setServiceParent(self)

    def _guard(self, way: Way | Guarded[Way]) -> tuple[Way, KdsrvServerFactory]:
        """A way in, and the factory for those who come by it: one for each book, each time that clients are waited for,
        and those that are hidden."""
        if not isinstance(way, Guarded):
            return way, self.factory
        answers = self._hidden_answers if way.hidden else self._answers
        for factory in self._factories:
            if (factory.door.book, factory.questions, factory.linger) == (way.book, answers, way.linger):
                return way.way, factory
        self._factories.append(self.factory.beside(way.book, answers, way.linger))
        return way.way, self._factories[-1]

    @property
    def ports(self) -> list[IListeningPort]:
        """The listening ports, in the order of the endpoints, once the service has started."""
        return [listener.port for listener in self._listeners if listener.port is not None]

    @property
    def bridge_addresses(self) -> list[str]:
        """Where debuggers find the bridges, once the service has started."""
        return [bridge.address for bridge in self._bridges if bridge.address is not None]

    @override
    def stopService(self) -> Deferred[Any]:
        """Stop listening, tell the clients, and let go of the targets; fires a second later at the most."""
        listening = super().stopService()
        for factory in self._factories:
            factory.stopFactory()
        stopped: Deferred[Any] = DeferredList([listening, self.directory.close_all()])
        return stopped.addCallback(lambda _: self._stopped())

    def _stopped(self) -> None:
        self.factory.attachments.discard()
        self.simulated.stop()


class _ListenerService(Service):
    """Listens on one endpoint. Unlike Twisted's own, it does not live on when it cannot."""

    _log = Logger()

    def __init__(self, endpoint: IStreamServerEndpoint, factory: KdsrvServerFactory) -> None:
        self.port: IListeningPort | None = None
        self._endpoint = endpoint
        self._factory = factory
        self._failure: Failure | None = None

    @override
    def privilegedStartService(self) -> None:
        self._listen()

    @override
    def startService(self) -> None:
        super().startService()
        self._listen()

    @override
    def stopService(self) -> Any:
        super().stopService()
        port, self.port = self.port, None
        return None if port is None else port.stopListening()

    def _listen(self) -> None:
        """Every endpoint that can listen without waiting has done so when this returns; one that fails raises here."""
        if self.port is not None:
            return
        self._failure = None
        listening = self._endpoint.listen(self._factory)
        listening.addCallbacks(self._listening, self._not_listening)
        if self._failure is not None:
            raise SetupError(why=f"the server cannot listen: {_reason(self._failure.value)}") from None

    def _listening(self, port: IListeningPort) -> None:
        self.port = port

    def _not_listening(self, failure: Failure) -> None:
        self._failure = failure


def _reason(error: BaseException | None) -> str:
    """Where it failed and why, for people."""
    if isinstance(error, CannotListenError):
        where = error.port if error.interface in ("", None) else f"{error.interface}:{error.port}"
        return f"{_text(where)}: {why_not(error)}"
    if isinstance(error, OSError) and error.strerror:
        where = error.filename2 or error.filename
        return f"{_text(where).removesuffix('.lock')}: {error.strerror}" if where else error.strerror
    return str(error)


def _text(where: object) -> str:
    """A port, or the path of a unix socket, which Twisted holds as bytes."""
    return os.fsdecode(where) if isinstance(where, bytes) else str(where)
