"""A session that outlives its connections, on a bench: the servers that it meets are played by hand."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure as TwistedFailure
from wire_talk import HALTED

from kdsrv.client.breaks import News
from kdsrv.client.connecting import Route
from kdsrv.client.lasting import Endurance, LastingSession
from kdsrv.client.listening import Notice
from kdsrv.client.protocol import ClientProtocol
from kdsrv.client.terms import Terms
from kdsrv.errors import KdsrvError
from kdsrv.kd.packets import Packet
from kdsrv.sessions.status import Status
from kdsrv.wire.connection import Connection, Event, Sendable
from kdsrv.wire.ledger import Ledger
from kdsrv.wire.messages import (
    Attach,
    Attached,
    ClientHello,
    Failure,
    Role,
    ServerHello,
)
from kdsrv.wire.window import DEFAULT_WINDOW, Window

__all__ = ["TOKEN", "Bench", "Server", "User"]

TOKEN = "0" * 31 + "7"


class User:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def packet_received(self, packet: Packet) -> None:
        self.told.append(packet)

    def resynced(self) -> None:
        self.told.append("resynced")

    def requests_lost(self, count: int) -> None:
        self.told.append(("lost", count))

    def status_changed(self, status: Status) -> None:
        self.told.append(status)

    def session_lost(self, reason: KdsrvError) -> None:
        self.told.append(reason)

    def take(self) -> list[Any]:
        told, self.told = self.told, []
        return told


class Server:
    """The server's end of one connection, by hand."""

    def __init__(self, client: ClientProtocol, ledger: Ledger, instance: str) -> None:
        self.client = client
        self.transport = StringTransport()
        self.aborted = False
        self.transport.abortConnection = self._abort  # type: ignore[method-assign]
        self.connection = Connection(Role.SERVER, ledger=ledger)
        self._instance = instance
        client.makeConnection(self.transport)

    def _abort(self) -> None:
        self.aborted = True

    def heard(self) -> list[Event]:
        data = self.transport.value()
        self.transport.clear()
        return self.connection.receive_data(data) if data else []

    def say(self, *events: Sendable) -> None:
        self.client.dataReceived(b"".join(self.connection.send(event) for event in events))

    def greet(self) -> Attach:
        """What the client asks for, once it has been greeted."""
        (hello,) = self.heard()
        assert isinstance(hello, ClientHello)
        self.say(ServerHello(1, "a server", instance=self._instance))
        (attach,) = self.heard()
        assert isinstance(attach, Attach)
        return attach

    def attach(self, status: Status = HALTED, window: Window = DEFAULT_WINDOW, linger: float = 60.0) -> Attach:
        """Give the client its target, or its session again."""
        asked = self.greet()
        resume = asked.resume
        token = TOKEN if asked.resumable else None
        ledger = self.connection.ledger
        again = b"" if resume is None else ledger.kept_after(resume.received)
        self.say(Attached("sim:", "sim", status, window, token, linger, ledger.received, resume is not None))
        if again:
            self.client.dataReceived(again)
        return asked

    def lose(self) -> None:
        """The network fails."""
        from twisted.internet.error import ConnectionDone

        self.client.connectionLost(TwistedFailure(ConnectionDone()))


class Bench:
    """A session, and the servers that it meets: one for each connection, until ``error`` says that there is none."""

    def __init__(self, endurance: Endurance = Endurance.EVERYTHING, terms: Terms = Terms()) -> None:  # noqa: B008
        self.clock = Clock()
        self.user = User()
        self.news: list[News] = []
        self.notices: list[Notice] = []
        self.servers: list[Server] = []
        self.times: list[float] = []
        self.error: KdsrvError | None = None
        self.ledger = Ledger()
        self.instance = "1" * 16
        route = Route(self.clock, self, "the lab", "sim:", "kim@desk", tell=self.notices.append)  # type: ignore[arg-type]
        self.session = LastingSession(route, terms, endurance, tell=self.news.append, random=lambda: 0.0)
        self.session.user = self.user
        self.outcome: list[Any] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        """As an endpoint does."""
        self.times.append(self.clock.seconds())
        if self.error is not None:
            return fail(self.error)
        client = factory.buildProtocol(None)
        self.servers.append(Server(client, self.ledger, self.instance))
        done: Deferred[Any] = Deferred()
        done.callback(client)
        return done

    @property
    def server(self) -> Server:
        return self.servers[-1]

    def open(self, status: Status = HALTED, window: Window = DEFAULT_WINDOW, stands: float = 1.0) -> Server:
        """A session, whose connection stands for so many seconds."""
        self.session.open().addBoth(self.outcome.append)
        self.server.attach(status, window)
        self.wait(stands)
        return self.server

    def wait(self, seconds: float) -> None:
        end = self.clock.seconds() + seconds
        while (calls := self.clock.getDelayedCalls()) and (due := min(call.getTime() for call in calls)) <= end:
            self.clock.advance(max(0.0, due - self.clock.seconds()) + 1e-9)
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    def refuse(self, code: str, message: str = "no") -> None:
        """The server does not give what it is asked for."""
        self.server.greet()
        self.server.say(Failure(code, message))
        self.server.lose()
