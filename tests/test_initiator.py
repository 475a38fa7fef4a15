"""A server that dials its clients, without a network: the waits, the one idle connection, the log, and the end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from server_callers import Caller, ServerInMemory
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from kdsrv.backoff import Backoff
from kdsrv.server.initiator import Initiator
from kdsrv.server.protocol import GREETING_LIMIT
from kdsrv.wire.messages import Attach, Attached, Bye, ClientHello, Ping, ServerHello
from kdsrv.wire.messages import Failure as WireFailure

PEER = IPv4Address("TCP", "192.0.2.7", 5000)


class Desk:
    """The endpoint that is dialled: each try is answered by the test."""

    def __init__(self, server: ServerInMemory) -> None:
        self.server = server
        self.tries: list[tuple[Deferred[Any], Any]] = []
        self.cancelled = 0
        self.at: list[float] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        trying: Deferred[Any] = Deferred(self._cancel)
        self.tries.append((trying, factory))
        self.at.append(self.server.clock.seconds())
        return trying

    def refuse(self, error: Exception | None = None) -> None:
        trying, _ = self.tries.pop(0)
        trying.errback(error or ConnectionRefusedError())

    def answer(self, line: socket.socket | None = None) -> Client:
        """``line`` is the socket of the connection, where one is wanted."""
        trying, factory = self.tries.pop(0)
        client = Client(self.server, factory)
        client.transport.socket = line
        trying.callback(client.protocol)
        return client

    def _cancel(self, trying: Deferred[Any]) -> None:
        self.cancelled += 1
        self.tries = [one for one in self.tries if one[0] is not trying]
        trying.errback(ConnectingCancelledError("desk"))


class Client(Caller):
    """The client of a connection that the server opened."""

    def __init__(self, server: ServerInMemory, factory: Any) -> None:
        self._factory = factory
        original = server.factory
        server.factory = factory
        super().__init__(server, PEER.host, PEER.port)
        server.factory = original

    def greet(self) -> None:
        self.say(ClientHello("a test"))
        assert [type(said) for said in self.hear()] == [ServerHello]

    def attach(self, trans: str = "sim:") -> None:
        self.greet()
        self.say(Attach(trans, "kim@desk"))
        assert self.hear(Attached)


class Rig:
    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.server = ServerInMemory()
        self.desk = Desk(self.server)
        self.initiator = Initiator(
            self.server.clock,
            self.desk,
            "desk:5000",
            self.server.factory,
            random=lambda: 0.0,  # type: ignore[arg-type]
        )
        self.initiator.startService()

    def wait(self, seconds: float) -> None:
        self.server.clock.advance(seconds)

    def told(self) -> list[str]:
        """What the log has got since the last call."""
        lines, self.log[:] = list(self.log), []
        return lines


@pytest.fixture
def rig() -> Iterator[Rig]:
    lines: list[str] = []

    def keep(event: LogEvent) -> None:
        if str(event.get("log_namespace", "")).startswith("kdsrv.server.initiator"):
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(keep)
    rig = Rig(lines)
    yield rig
    globalLogPublisher.removeObserver(keep)
    if rig.initiator.running:
        rig.initiator.stopService()
    rig.server.wait(1.5)
    assert [call for call in rig.server.end() if call.active()] == []


def gone(client: Client) -> None:
    client.leave(ConnectionLost())


def test_the_waits_grow_to_half_a_minute_and_begin_again_after_a_success() -> None:
    backoff = Backoff(lambda: 0.0)
    assert [backoff.next() for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]
    backoff.reset()
    assert backoff.next() == 1


def test_the_waits_are_shorter_by_up_to_a_quarter() -> None:
    chances = iter([0.0, 0.5, 0.999])
    backoff = Backoff(lambda: next(chances))
    assert [backoff.next() for _ in range(3)] == pytest.approx([1, 2 * 0.875, 4 * 0.75], rel=0.01)


def test_it_dials_again_and_again(rig: Rig) -> None:
    for wait in (1, 2, 4, 8, 16, 30, 30, 30):
        rig.desk.refuse()
        rig.wait(wait - 0.01)
        assert not rig.desk.tries
        rig.wait(0.01)
        assert len(rig.desk.tries) == 1


def test_the_log_has_a_line_for_each_new_reason_and_none_for_each_try(rig: Rig) -> None:
    assert rig.told() == ["dials desk:5000, again and again until a client waits there"]
    for error in [*[ConnectionRefusedError()] * 5, DNSLookupError(), *[TimeoutError(), ConnectionRefusedError()] * 4]:
        rig.desk.refuse(error)
        rig.wait(30)
    reasons = [line.partition("; ")[0] for line in rig.told()]
    assert reasons == [
        "desk:5000: no client waits there",
        "desk:5000: there is no host of that name",
        "desk:5000: no answer",
    ]
    client = rig.desk.answer()
    assert rig.told() == ["connected to desk:5000; the connection waits for a client to use it"]
    client.attach()
    assert rig.told() == ["dials desk:5000 for the next client"]
    rig.desk.refuse()
    assert [line.partition("; ")[0] for line in rig.told()] == ["desk:5000: no client waits there"]
    client.leave()


def test_a_peer_that_takes_and_closes_is_not_dialled_without_pause_and_fills_no_log(rig: Rig) -> None:
    rig.told()
    for wait in (1, 2, 4, 8, 16, 30, 30, 30):
        rig.desk.answer().leave(ConnectionDone())
        assert not rig.desk.tries
        rig.wait(wait - 0.01)
        assert not rig.desk.tries
        rig.wait(0.01)
    assert [line.partition("; ")[0] for line in rig.told()] == [
        "connected to desk:5000",
        "desk:5000: the connection ended before a client spoke: Connection was closed cleanly",
    ]


def test_a_connection_may_be_idle_for_a_day(rig: Rig) -> None:
    client = rig.desk.answer()
    rig.server.clock.pump([600] * 144)
    assert client.is_connected
    assert not rig.desk.tries, "it keeps one idle connection, not more"
    client.attach()
    assert len(rig.desk.tries) == 1
    client.leave()


def test_a_client_that_has_begun_to_speak_must_hurry(rig: Rig) -> None:
    client = rig.desk.answer()
    rig.wait(100)
    client.greet()
    rig.wait(GREETING_LIMIT - 0.1)
    assert client.is_connected
    rig.wait(0.2)
    assert not client.is_connected
    client.leave()
    rig.wait(1)
    assert len(rig.desk.tries) == 1


def test_half_a_frame_is_speaking(rig: Rig) -> None:
    client = rig.desk.answer()
    client.send(client.connection.send(ClientHello("a test"))[:3])
    rig.wait(GREETING_LIMIT + 0.1)
    assert not client.is_connected
    client.leave()


def test_the_path_of_an_idle_connection_is_watched(rig: Rig) -> None:
    with closing(socket.socket()) as line:
        rig.desk.answer(line).leave()
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, count = (line.getsockopt(socket.IPPROTO_TCP, option) for option in options)
    assert idle + interval * count <= 60


def test_a_silent_attached_client_is_noticed_as_any_other(rig: Rig) -> None:
    client = rig.desk.answer()
    client.attach()
    rig.server.clock.pump([5] * 10)
    assert client.is_aborted
    gone(client)


def test_the_next_is_dialled_as_soon_as_one_is_taken_any_number_at_once(rig: Rig) -> None:
    clients = []
    for number in range(5):
        assert len(rig.desk.tries) == 1
        client = rig.desk.answer()
        client.greet()
        assert not rig.desk.tries, "a greeting does not take a connection"
        client.say(Attach(f"sim:name=m{number}", "kim@desk"))
        assert client.hear(Attached)
        clients.append(client)
    assert len({session.name for session in rig.server.directory}) == 5
    for client in clients:
        client.leave()
        assert len(rig.desk.tries) == 1, "the end of a session changes nothing"
    rig.server.wait(1.1)
    assert not list(rig.server.directory)


def test_twenty_one_after_the_other(rig: Rig) -> None:
    for _ in range(20):
        client = rig.desk.answer()
        client.attach()
        client.say(Bye("done"))
        client.leave()
        rig.server.wait(1.1)
    assert len(rig.desk.tries) == 1
    assert rig.desk.at[1:] == pytest.approx([n * 1.1 for n in range(20)], abs=0.2), "no success is followed by a wait"


def test_a_refused_client_does_not_stop_it(rig: Rig) -> None:
    first = rig.desk.answer()
    first.attach()
    second = rig.desk.answer()
    second.greet()
    second.say(Attach("sim:", "lee@desk"))
    assert not second.is_connected
    second.leave()
    assert not rig.desk.tries
    rig.wait(1)
    assert len(rig.desk.tries) == 1
    first.leave()


def test_a_client_that_only_asked_something_is_a_success(rig: Rig) -> None:
    for _ in range(6):
        client = rig.desk.answer()
        client.greet()
        client.say(Bye("that was all"))
        client.leave(ConnectionDone())
        rig.wait(1)
    assert len(rig.desk.tries) == 1


def test_the_end_of_a_session_makes_it_dial_soon(rig: Rig) -> None:
    client = rig.desk.answer()
    client.attach()
    for _ in range(10):
        rig.desk.refuse()
        rig.server.clock.pump([1] * 31)
        client.say(Ping(1))
        client.hear()
    rig.desk.refuse()
    client.leave()
    rig.wait(0.9)
    assert not rig.desk.tries
    rig.wait(0.1)
    assert len(rig.desk.tries) == 1


def test_an_idle_connection_that_ends_after_a_while_is_opened_again_at_once(rig: Rig) -> None:
    for _ in range(4):
        rig.desk.refuse()
        rig.wait(30)
    rig.told()
    gone_client = rig.desk.answer()
    rig.wait(100)
    gone(gone_client)
    rig.wait(1)
    assert len(rig.desk.tries) == 1
    assert [line.partition("; ")[0] for line in rig.told()][1:] == [
        "desk:5000: Connection to the other side was lost in a non-clean fashion"
    ]


def stopped(rig: Rig) -> bool:
    """Stop it; whether that is done at once."""
    stopping = rig.initiator.stopService()
    if stopping is None:
        return True
    done: list[object] = []
    stopping.addBoth(done.append)
    return bool(done)


def test_stop_while_dialling(rig: Rig) -> None:
    assert stopped(rig)
    assert rig.desk.cancelled == 1


def test_stop_while_waiting(rig: Rig) -> None:
    rig.desk.refuse()
    assert stopped(rig)
    rig.wait(60)
    assert not rig.desk.tries


def test_stop_while_idle_closes_the_connection(rig: Rig) -> None:
    client = rig.desk.answer()
    stopping = rig.initiator.stopService()
    assert stopping is not None
    assert not stopping.called
    assert not client.is_connected
    client.leave()
    assert stopping.called
    rig.wait(60)
    assert not rig.desk.tries


def test_stop_while_a_client_logs_in(rig: Rig) -> None:
    client = rig.desk.answer()
    client.greet()
    stopping = rig.initiator.stopService()
    assert not client.is_connected
    assert [said.message for said in client.hear(WireFailure)] == ["the server is shutting down"]
    client.leave()
    assert stopping is not None
    assert stopping.called


def test_stop_while_attached_leaves_the_session_to_the_server(rig: Rig) -> None:
    client = rig.desk.answer()
    client.attach()
    rig.desk.refuse()
    assert stopped(rig)
    assert client.is_connected
    client.say(Bye("done"))
    client.leave()
    assert not rig.desk.tries


def test_it_can_be_started_again(rig: Rig) -> None:
    stopped(rig)
    rig.initiator.startService()
    rig.desk.answer().leave(Failure(ConnectionDone()).value)
    rig.wait(1)
    assert len(rig.desk.tries) == 1
