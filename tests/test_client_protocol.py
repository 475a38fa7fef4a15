"""A client's connection, with the server's side played by hand."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure as TwistedFailure
from wire_talk import HALTED, READ, READ_REPLY

from kdsrv.client.connecting import ServerUnreachable, connect, connect_by_endpoint
from kdsrv.client.protocol import ClientProtocol, ServerGone, ServerRefused
from kdsrv.client.terms import PLAIN, Terms, Thread
from kdsrv.connection_strings import parse_kdsrv_string
from kdsrv.errors import KdsrvError, PeerError, SetupError
from kdsrv.kd.packets import Packet
from kdsrv.sessions.status import Quiet, Running, Status
from kdsrv.testing import MemoryLab
from kdsrv.wire import ledger as wire_ledger
from kdsrv.wire.connection import Connection, Event, Sendable, VersionError
from kdsrv.wire.frames import BreakIn, FrameKind, Resync, encode, encode_confirm, encode_packet
from kdsrv.wire.ledger import CONFIRM_FRAMES
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Bye,
    ClientHello,
    Dropped,
    Failure,
    Notice,
    Ping,
    Pong,
    Role,
    ServerHello,
    StatusReport,
)
from kdsrv.wire.window import DEFAULT_WINDOW, Window

CONTINUE = Packet(2, bytes.fromhex("3c310000") + bytes(52))
STOP = Packet(7, bytes(240))


class User:
    """A session user that keeps what it is told, and may act on it."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.on_packet: Any = None

    def packet_received(self, packet: Packet) -> None:
        self.told.append(packet)
        if self.on_packet is not None:
            self.on_packet()

    def resynced(self) -> None:
        self.told.append("resynced")

    def requests_lost(self, count: int) -> None:
        self.told.append(("lost", count))

    def status_changed(self, status: Status) -> None:
        self.told.append(status)

    def session_lost(self, reason: KdsrvError) -> None:
        self.told.append(reason)


class Talk:
    """A client's protocol on a transport of strings, and the server's end of its connection."""

    def __init__(self, terms: Terms = PLAIN) -> None:
        self.clock = Clock()
        self.notices: list[Notice] = []
        self.waited: list[float] = []
        self.transport = StringTransport()
        self.aborted = 0
        self.transport.abortConnection = self._abort  # type: ignore[method-assign]
        self.protocol = ClientProtocol(self.clock, "sim:", "kim@desk", terms=terms, noticed=self.notices.append)
        self.protocol.waits = lambda: self.waited.append(self.clock.seconds())
        self.outcome: list[Any] = []
        self.protocol.attached.addBoth(self.outcome.append)
        self.server = Connection(Role.SERVER)
        self.protocol.makeConnection(self.transport)

    def _abort(self) -> None:
        self.aborted += 1

    def heard(self) -> list[Event]:
        """What the client has said since the last time."""
        data = self.transport.value()
        self.transport.clear()
        return self.server.receive_data(data) if data else []

    def say(self, *events: Sendable) -> None:
        self.protocol.dataReceived(b"".join(self.server.send(event) for event in events))

    def lose(self, reason: Exception) -> None:
        self.protocol.connectionLost(TwistedFailure(reason))

    def attach(self, window: Window = DEFAULT_WINDOW) -> User:
        self.heard()
        self.say(ServerHello(1, "a server"))
        self.heard()
        user = User()
        self.protocol.attached.addCallback(lambda _: setattr(self.protocol, "user", user))
        self.say(Attached("sim:", "simulated", HALTED, window))
        return user


def reason(talk: Talk) -> Any:
    """Why attaching failed."""
    (failure,) = talk.outcome
    assert isinstance(failure, TwistedFailure)
    return failure.value


def idle(talk: Talk) -> bool:
    return talk.clock.getDelayedCalls() == []


# Attaching


def test_greeting_and_attaching() -> None:
    talk = Talk()
    (hello,) = talk.heard()
    assert isinstance(hello, ClientHello)
    talk.say(ServerHello(1, "a server"))
    assert talk.heard() == [Attach("sim:", "kim@desk")]
    talk.say(StatusReport(Quiet(1)), Ping(7))
    assert talk.heard() == [Pong(7)]
    assert talk.outcome == []
    talk.say(Attached("sim:", "simulated", HALTED))
    assert talk.outcome == [Attached("sim:", "simulated", HALTED)]


def test_what_comes_right_behind_attached_is_not_missed() -> None:
    talk = Talk()
    user = User()
    talk.protocol.attached.addCallback(lambda _: setattr(talk.protocol, "user", user))
    talk.heard()
    talk.say(ServerHello(1, "a server"))
    talk.heard()
    talk.say(Attached("sim:", "simulated", HALTED), STOP)
    assert user.told == [STOP]


def test_a_refusal_is_the_servers_sentence_and_code() -> None:
    talk = Talk()
    talk.heard()
    talk.say(ServerHello(1, "a server"))
    talk.heard()
    talk.say(Failure("held", "sim: is held by somebody else"))
    error = reason(talk)
    assert isinstance(error, ServerRefused)
    assert (str(error), error.code) == ("the server says: sim: is held by somebody else", "held")
    assert talk.transport.disconnecting
    talk.lose(ConnectionDone())
    assert idle(talk)


def test_versions_that_do_not_fit_are_both_named() -> None:
    talk = Talk()
    talk.heard()
    future = Connection(Role.SERVER, versions=(1, 9))
    future.receive_data(Connection(Role.CLIENT, versions=(9,)).send(ClientHello("x", (9,))))
    talk.protocol.dataReceived(future.send(ServerHello(9, "a later server")))
    assert isinstance(reason(talk), VersionError)
    assert "version 1 of the kdsrv protocol and the server version 9" in str(reason(talk))
    (bye,) = talk.heard()
    assert isinstance(bye, Bye)
    assert "bring both to one release" in bye.reason


def test_something_else_that_answers_is_named() -> None:
    talk = Talk()
    talk.protocol.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert isinstance(reason(talk), PeerError)
    assert "an HTTP response" in str(reason(talk))


def test_a_server_that_does_not_answer_is_given_up() -> None:
    talk = Talk()
    talk.clock.advance(1.9)
    assert talk.waited == []
    talk.clock.pump([0.1] * 280)
    assert talk.outcome == []
    assert talk.waited == pytest.approx([2.0]), "said once"
    talk.clock.advance(0.2)
    assert str(reason(talk)) == "the connection to the server has ended: it did not answer within 30 s"
    assert talk.transport.disconnecting


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ConnectionDone(),
            "it closed the connection before it said hello: is it a kdsrv server, and does it want tcp: or ssl:",
        ),
        (
            SSL.Error([("SSL routines", "", "wrong version number")]),
            r"speak TLS \(.*\); write tcp: if it has no TLS$",
        ),
        (SSL.Error([("SSL routines", "", "protocol version")]), r"it does not speak TLS 1.3 \(protocol version\)$"),
        (ConnectionLost("reset by peer"), "the connection to the server has ended: .*reset by peer"),
    ],
)
def test_a_connection_that_ends_early(error: Exception, sentence: str) -> None:
    talk = Talk()
    talk.lose(error)
    assert isinstance(reason(talk), ServerGone)
    with pytest.raises(ServerGone, match=sentence):
        raise reason(talk)
    assert talk.protocol.disconnected.called
    assert idle(talk)


def test_a_connection_that_ends_after_the_hello() -> None:
    talk = Talk()
    talk.heard()
    talk.say(ServerHello(1, "a server"))
    talk.lose(ConnectionDone())
    assert str(reason(talk)) == "the connection to the server has ended: it closed the connection"


def test_a_server_that_has_greeted_is_not_called_slow() -> None:
    talk = Talk()
    talk.heard()
    talk.say(ServerHello(1, "a server"))
    talk.clock.advance(29.9)
    assert (talk.waited, talk.outcome) == ([], [])
    talk.clock.advance(0.2)
    assert "did not answer within 30 s" in str(reason(talk))


# The session


def test_everything_goes_to_the_user_in_order() -> None:
    talk = Talk()
    user = talk.attach()
    talk.protocol.send_packet(*READ)
    talk.heard()
    talk.say(STOP, StatusReport(Running()), READ_REPLY, Packet(3, b"\x30\x32\0\0" + bytes(12)))
    assert user.told == [STOP, Running(), READ_REPLY, Packet(3, b"\x30\x32\0\0" + bytes(12))]


def test_requests_wait_for_the_window_and_break_ins_do_not() -> None:
    talk = Talk()
    user = talk.attach(Window(2, 10000))
    for _ in range(4):
        talk.protocol.send_packet(*READ)
    talk.protocol.send_packet(*CONTINUE)
    talk.protocol.break_in()
    assert talk.heard() == [READ, READ, BreakIn()]
    talk.say(READ_REPLY)
    assert talk.heard() == [READ]
    talk.say(READ_REPLY, READ_REPLY)
    assert talk.heard() == [READ, CONTINUE]
    assert user.told == [READ_REPLY] * 3


def test_lost_requests_make_room() -> None:
    talk = Talk()
    user = talk.attach(Window(2, 10000))
    for _ in range(3):
        talk.protocol.send_packet(*READ)
    talk.heard()
    talk.say(Dropped(requests=2))
    assert user.told == [("lost", 2)]
    assert talk.heard() == [READ]


def test_a_resync_forgets_what_waits_and_replies_to_what_was_before() -> None:
    talk = Talk()
    user = talk.attach(Window(1, 10000))
    talk.protocol.send_packet(*READ)
    talk.protocol.send_packet(*READ)
    talk.heard()
    late = talk.server.send(READ_REPLY)
    talk.protocol.resync()
    talk.protocol.send_packet(*READ)
    assert talk.heard() == [Resync(), READ]
    talk.protocol.dataReceived(late)
    talk.say(Resync(), STOP, READ_REPLY)
    assert user.told == ["resynced", STOP, READ_REPLY]


def test_losses_from_before_a_resync_are_not_told() -> None:
    talk = Talk()
    user = talk.attach()
    talk.protocol.send_packet(*READ)
    talk.heard()
    late = talk.server.send(Dropped(requests=1))
    talk.protocol.resync()
    talk.protocol.send_packet(*READ)
    talk.protocol.dataReceived(late)
    talk.heard()
    talk.say(Resync(), READ_REPLY)
    assert user.told == ["resynced", READ_REPLY]


def test_prints_that_were_dropped_are_printed_unless_somebody_takes_the_number() -> None:
    talk = Talk()
    user = talk.attach()
    talk.say(Dropped(prints=3))
    (packet,) = user.told
    assert packet.type == 3
    assert packet.payload[16:] == b"[kdsrv: 3 prints of the target were dropped on the way]\n"
    talk.protocol.prints_dropped = user.told.append
    talk.say(Dropped(prints=4))
    assert user.told == [packet, 4]


def test_a_server_that_falls_silent_is_given_up_and_one_that_pings_is_not() -> None:
    talk = Talk()
    user = talk.attach()
    talk.clock.pump([1.0] * 44)
    assert talk.heard() == [Ping(0), Ping(0)]
    talk.say(Pong(0))
    talk.clock.pump([1.0] * 44)
    assert user.told == []
    talk.clock.pump([1.0] * 20)
    assert [str(told) for told in user.told] == ["the connection to the server has ended: it has been silent for 45 s"]
    assert talk.transport.disconnecting


def test_a_server_that_breaks_a_rule_is_told_so() -> None:
    talk = Talk()
    user = talk.attach()
    talk.protocol.dataReceived(encode(FrameKind.RESYNC))
    (error,) = user.told
    assert isinstance(error, PeerError)
    (bye,) = talk.heard()
    assert isinstance(bye, Bye)
    assert "echoed a resync that was never sent" in bye.reason


@pytest.mark.parametrize(
    ("last_word", "code", "sentence"),
    [
        (Failure("link-lost", "the cable is out"), "link-lost", "the server says: the cable is out"),
        (Bye("good night"), "server-gone", "the connection to the server has ended: good night"),
    ],
)
def test_the_servers_last_word(last_word: Failure | Bye, code: str, sentence: str) -> None:
    talk = Talk()
    user = talk.attach()
    talk.say(last_word)
    (error,) = user.told
    assert (error.code, str(error)) == (code, sentence)
    talk.lose(ConnectionDone())
    assert len(user.told) == 1
    assert idle(talk)


def test_after_the_end_nothing_is_said() -> None:
    talk = Talk()
    talk.attach()
    talk.say(Bye("good night"))
    talk.heard()
    talk.protocol.send_packet(*READ)
    talk.protocol.break_in()
    talk.protocol.resync()
    talk.protocol.leave()
    assert talk.transport.value() == b""


def test_leaving_says_bye_and_ends() -> None:
    talk = Talk()
    user = talk.attach()
    talk.protocol.leave("enough")
    talk.protocol.leave("again")
    assert talk.heard() == [Bye("enough")]
    assert talk.transport.disconnecting
    talk.lose(ConnectionDone())
    assert (user.told, talk.aborted, talk.protocol.disconnected.called) == ([], 0, True)
    assert idle(talk)


def test_a_last_word_that_does_not_get_out_does_not_hold_us() -> None:
    talk = Talk()
    talk.attach()
    talk.protocol.leave()
    talk.clock.advance(4.9)
    assert talk.aborted == 0
    talk.clock.advance(0.1)
    assert talk.aborted == 1


def test_who_leaves_in_the_middle_of_what_comes_hears_no_more() -> None:
    talk = Talk()
    user = talk.attach(Window(1, 100))
    user.on_packet = talk.protocol.leave
    for _ in range(3):
        talk.protocol.send_packet(*READ)
    talk.heard()
    talk.say(READ_REPLY, STOP, Ping(1))
    assert user.told == [READ_REPLY]
    assert [type(event) for event in talk.heard()] == [Bye]


def test_leaving_before_attaching() -> None:
    talk = Talk()
    talk.protocol.leave()
    assert [type(event) for event in talk.heard()] == [ClientHello, Bye]
    talk.lose(ConnectionDone())
    assert talk.outcome == []
    assert idle(talk)


# What a session that may be resumed adds


def resumable(window: Window = DEFAULT_WINDOW) -> tuple[Talk, User]:
    talk = Talk(Terms(resumable=True))
    talk.heard()
    talk.say(ServerHello(1, "a server", instance="1" * 16))
    assert talk.heard() == [Attach("sim:", "kim@desk", resumable=True)]
    user = User()
    talk.protocol.attached.addCallback(lambda _: setattr(talk.protocol, "user", user))
    talk.say(Attached("sim:", "simulated", HALTED, window, "0" * 32, 60.0))
    return talk, user


def test_what_has_come_is_confirmed_now_and_then() -> None:
    talk, _ = resumable()
    ledger = talk.server.ledger
    for number in range(1, CONFIRM_FRAMES + 2):
        talk.say(STOP)
        assert talk.heard() == []
        kept = number if number < CONFIRM_FRAMES else number - CONFIRM_FRAMES
        assert ledger.kept_bytes == kept * len(encode_packet(*STOP))
    assert talk.protocol.instance == "1" * 16
    assert talk.protocol.thread == Thread("0" * 32, talk.protocol._connection.ledger)
    assert "0" * 32 not in repr(talk.protocol.thread)


def test_requests_wait_for_a_server_that_confirms_nothing_and_break_ins_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire_ledger, "MAX_KEPT_FRAMES", 9)
    talk, user = resumable()
    for _ in range(10):
        talk.protocol.send_packet(*READ)
        assert talk.heard() == [READ]
        talk.say(READ_REPLY)
    talk.protocol.send_packet(*READ)
    assert talk.heard() == []
    assert user.told == [READ_REPLY] * 10
    talk.protocol.break_in()
    assert talk.heard() == [BreakIn()]
    talk.protocol.dataReceived(encode_confirm(11))
    assert talk.heard() == [READ]
    for _ in range(18):
        talk.protocol.break_in()
    talk.say(STOP)
    (error,) = [told for told in user.told if isinstance(told, PeerError)]
    assert "it confirms nothing of what it is sent" in str(error)
    assert isinstance(talk.heard()[-1], Bye)


def test_what_comes_after_the_end_is_not_counted() -> None:
    """Another connection may be going on with the session by then."""
    talk, user = resumable()
    talk.clock.pump([1.0] * 46)
    assert (talk.aborted, [type(told) for told in user.told]) == (1, [ServerGone])
    assert [type(event) for event in talk.heard()] == [Ping, Ping], "and no goodbye"
    ledger = talk.protocol._connection.ledger
    talk.say(STOP)
    assert ledger.received == 0


def test_notices_are_for_whoever_wants_them() -> None:
    talk, user = resumable()
    talk.say(Notice("jo asks for sim:", asks=True))
    assert user.told == []
    assert talk.notices == [Notice("jo asks for sim:", asks=True)]


# Dialling


class Unreachable:
    """An endpoint that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def connect(self, factory: object) -> Deferred[Protocol]:
        failed: Deferred[Protocol] = Deferred()
        failed.errback(self.error)
        return failed


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionRefusedError(), "cannot connect to the server at lab:1: nobody listens there"),
        (DNSLookupError(), "cannot connect to the server at lab:1: there is no host of that name"),
        (TimeoutError(), "cannot connect to the server at lab:1: no answer within 15 s"),
        (OSError(101, "Network is unreachable"), "Network is unreachable"),
    ],
)
def test_a_server_that_cannot_be_reached(error: Exception, sentence: str) -> None:
    lab = MemoryLab()
    with pytest.raises(ServerUnreachable, match=sentence):
        lab.run(connect_by_endpoint(lab.clock, Unreachable(error), "lab:1", None))  # type: ignore[arg-type]


def test_dialling_that_is_cancelled() -> None:
    lab = MemoryLab()
    endpoint = Unreachable(ConnectingCancelledError("lab"))  # type: ignore[arg-type]
    with pytest.raises(CancelledError):
        lab.run(connect_by_endpoint(lab.clock, endpoint, "lab:1", None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "server",
    ["1394:channel=5,password=x", "hyperv:vmid=1,serviceid=2"],
)
def test_servers_that_cannot_be_dialled_yet(server: str) -> None:
    lab = MemoryLab()
    with pytest.raises(SetupError, match="not offered by this version"):
        lab.run(connect(lab.clock, parse_kdsrv_string(f"kdsrv:server=@{{{server}}},trans=@{{sim:}}")))


def test_cancelling_while_attaching_leaves() -> None:
    lab = MemoryLab(latency=1.0)
    connecting = connect_by_endpoint(lab.clock, lab.endpoint, "lab", "sim:")
    lab.advance(0.5)
    connecting.cancel()
    with pytest.raises(CancelledError):
        lab.run(connecting)
    lab.advance(10)
    assert list(lab.directory) == []
    lab.close()
    assert lab.clock.getDelayedCalls() == []
