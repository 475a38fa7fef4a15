"""A client's connection as the server sees it, in memory: greetings, refusals, leases, limits, and how it ends."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from typing import Any, ClassVar

from server_callers import NETWORK_BUFFER, Caller, ServerInMemory, SlowOpener
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.test.iosim import connectedServerAndClient
from twisted.trial.unittest import SynchronousTestCase
from wire_talk import READ

from kdsrv.auth.door import MOST_WAITING, MOST_WAITING_PER_PLACE
from kdsrv.client.protocol import ClientProtocol, ServerGone, ServerRefused
from kdsrv.errors import TargetError
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.server.delivery import MAX_UNREAD, MAX_UNREAD_PACKETS
from kdsrv.server.factory import MAX_WAITING
from kdsrv.server.protocol import GREETING_LIMIT, PING_INTERVAL, SILENCE_LIMIT
from kdsrv.sessions.status import Halted, Running
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.wire.frames import BreakIn, FrameKind, Resync, encode, encode_packet
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Bye,
    ClientHello,
    Dropped,
    Failure,
    Ping,
    Pong,
    ServerHello,
    StatusReport,
)
from kdsrv.wire.messages import encode as encode_message

LEAVING = 1.2
"""Seconds in which a session that ends has let go of its target."""
RUNNING = "sim:state=running"
CONTINUE = Packet(PacketType.STATE_MANIPULATE, Manipulate.continue_().encode())
READ_KERNEL = Packet(PacketType.STATE_MANIPULATE, Manipulate.read_virtual(KERNEL_BASE, 64).encode())


def control(text: bytes) -> bytes:
    return encode(FrameKind.CONTROL, text)


class ServerCase(SynchronousTestCase):
    """A server that must have nothing left in its clock when all have gone. A logged error fails the test."""

    def setUp(self) -> None:
        self.start(ServerInMemory())

    def start(self, server: ServerInMemory) -> None:
        self.server = server
        self.addCleanup(self.check_rest)

    def check_rest(self) -> None:
        for protocol in tuple(self.server.factory._connected):
            protocol.connectionLost()
        self.server.wait(LEAVING)
        assert self.server.end() == []
        assert list(self.server.directory) == []

    def refused(self, caller: Caller) -> Failure:
        """The server's last word, after which it has closed the connection."""
        said = caller.hear()
        assert [type(event) for event in said if not isinstance(event, StatusReport)][-1:] == [Failure], said
        assert not caller.is_connected
        failure = said[-1]
        assert isinstance(failure, Failure)
        assert "\n" not in failure.message
        return failure


class GreetingTests(ServerCase):
    def test_a_peer_that_says_nothing_is_told_and_closed(self) -> None:
        caller = self.server.call()
        self.server.wait(GREETING_LIMIT - 0.1)
        assert caller.is_connected
        self.server.wait(0.2)
        failure = self.refused(caller)
        assert "10 s" in failure.message
        assert not caller.is_aborted

    def test_one_that_greets_and_asks_for_nothing_too(self) -> None:
        caller = self.server.call()
        caller.say(ClientHello("a test"))
        assert caller.hear(ServerHello)
        for _ in range(int(GREETING_LIMIT)):
            self.server.wait(1.0)
            caller.say(Ping(1))
        assert "10 s" in self.refused(caller).message

    def test_one_that_does_not_take_the_last_word_is_cut_off(self) -> None:
        caller = self.server.call()
        self.server.wait(GREETING_LIMIT + 0.1)
        assert not caller.is_aborted
        self.server.wait(5.1)
        assert caller.is_aborted

    def test_so_many_may_wait_from_one_place_then_the_oldest_goes(self) -> None:
        waiting = [self.server.call(port=port) for port in range(MOST_WAITING_PER_PLACE)]
        assert all(caller.is_connected for caller in waiting)
        newcomer = self.server.call()
        assert "one of the oldest" in self.refused(waiting[0]).message
        assert newcomer.is_connected
        assert all(caller.is_connected for caller in waiting[1:])

    def test_a_newcomer_from_elsewhere_gets_in_whatever_waits(self) -> None:
        crowd = [self.server.call(f"192.0.2.{number % 40}", number) for number in range(2 * MOST_WAITING)]
        assert sum(caller.is_connected for caller in crowd) == MOST_WAITING
        assert self.server.attach(host="198.51.100.1").hear(Attached)

    def test_one_that_goes_for_others_and_does_not_take_the_last_word_is_cut_off_soon(self) -> None:
        waiting = [self.server.call(port=port) for port in range(MOST_WAITING_PER_PLACE + 1)]
        self.server.wait(0.6)
        assert waiting[0].is_aborted
        assert waiting[1].is_connected

    def test_clients_that_were_served_do_not_count_as_waiting(self) -> None:
        for number in range(3):
            assert self.server.attach(f"sim:name=t{number}").hear(Attached)
        for port in range(MOST_WAITING):
            self.server.call(f"192.0.2.{port % 40}", port)
        assert len(self.server.factory._attached) == 3
        assert len(self.server.factory.door.crowd) == MOST_WAITING

    def test_so_many_may_open_targets_at_once_and_no_more(self) -> None:
        self.start(ServerInMemory(SlowOpener()))
        callers = [self.server.attach(f"sim:name=t{number}") for number in range(MAX_WAITING + 1)]
        assert str(MAX_WAITING) in self.refused(callers[-1]).message
        assert all(caller.is_connected for caller in callers[:-1])


class GarbageTests(ServerCase):
    looks: ClassVar[dict[bytes, str]] = {
        b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n": "HTTP",
        bytes.fromhex("16030100c8010000c40303") + bytes(200): "TLS",
        b"SSH-2.0-OpenSSH_9.2\r\n": "SSH",
        b"\x69\x69\x69\x69\x06\x00\x00\x00": "bridge",
        b"\xff\xfb\x18\xff\xfb\x20": "telnet",
        b"\xff\xff\xff\xff\x01": "4294967295",
        b"\x00\x00\x00\x00\x01": "0 bytes",
        b"\x00\x00\x00\x05\x63abcd": "99",
        b"\x00\x01\x00\x02\x01": "65538",
        b"\x00\x00\x20\x04\x02": "packet frame of 8196",
        control(b"\xff\xfe"): "JSON",
        control(b"[" * 60000): "JSON",
        control(b"{}"): "type",
        control(b'{"type":"dance"}'): "dance",
        control(b'{"type":"hello","protocol":"kdsrv","versions":[1],"software":5}'): "software",
        control(b'{"type":"attach","trans":"sim:","client":"kim"}'): "attach",
        encode_packet(2, bytes(56)): "packet",
        encode(FrameKind.BREAK_IN): "break-in",
        encode(FrameKind.RESYNC): "resync",
    }

    def test_each_kind_is_named(self) -> None:
        for data, word in self.looks.items():
            with self.subTest(data=data[:20]):
                caller = self.server.call()
                caller.send(data)
                failure = self.refused(caller)
                assert word in failure.message, failure.message
                assert failure.code == "protocol"
                caller.leave()

    def test_byte_by_byte_gives_the_same(self) -> None:
        for data, word in self.looks.items():
            if len(data) > 300:
                continue
            with self.subTest(data=data[:20]):
                caller = self.server.call()
                for place in range(len(data)):
                    caller.send(data[place : place + 1])
                assert word in self.refused(caller).message
                caller.leave()

    def test_random_bytes_never_hurt(self) -> None:
        dice = random.Random(20240517)
        for _ in range(300):
            caller = self.server.call()
            caller.send(dice.randbytes(dice.choice([5, 40, 3000])))
            self.server.wait(GREETING_LIMIT + 1)
            self.refused(caller)
            caller.leave()

    def test_the_log_grows_with_the_logarithm_of_their_number(self) -> None:
        logged: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        for _ in range(100):
            caller = self.server.call()
            caller.send(b"GET / HTTP/1.1\r\n\r\n")
            self.refused(caller)
            caller.leave()
        assert [event["count"] for event in logged if "HTTP" in event.get("error", "")] == [1, 2, 4, 8, 16, 32, 64]

    def test_what_comes_after_the_last_word_is_not_looked_at(self) -> None:
        caller = self.server.call()
        caller.send(b"GET / HTTP/1.1\r\n\r\n")
        self.refused(caller)
        for _ in range(100):
            caller.protocol.dataReceived(bytes(65536))
        assert caller.hear() == []

    def test_the_end_in_the_middle_of_a_frame(self) -> None:
        for data in (
            b"",
            b"\0",
            b"\0\0\0\x09\x01abc",
        ):
            caller = self.server.call()
            caller.send(data)
            caller.leave()
        caller = self.server.attach()
        self.server.wait()
        caller.send(encode_packet(2, READ_KERNEL.payload)[:30])
        caller.leave()
        self.server.wait(LEAVING)
        assert list(self.server.directory) == []

    def test_an_attached_client_may_not_forget_itself_either(self) -> None:
        caller = self.server.attach()
        self.server.wait()
        caller.hear()
        caller.send(b"\x00\x00\x20\x04\x02")
        assert "8196" in self.refused(caller).message
        self.server.wait(LEAVING)
        assert list(self.server.directory) == []


class RefusalTests(ServerCase):
    def test_another_version_of_the_protocol(self) -> None:
        caller = self.server.call()
        caller.send(control(encode_message(ClientHello("kdsrv 9.9", (7, 9)))))
        failure = self.refused(caller)
        assert failure.code == "version"
        assert "7, 9" in failure.message
        assert "version 1" in failure.message

    def test_a_bad_kd_string(self) -> None:
        for text, words in {
            "com:prt=1": ('"prt"', "port, baud, pipe"),
            "foo:x=1": ("column 1", "com"),
            "": ("column 1", "com:port="),
            "com:port=com1,baud=fast": ("column 20", "number"),
            "kdsrv:server=@{tcp:server=a,port=1},trans=@{sim:}": ("kdsrv",),
        }.items():
            with self.subTest(text=text):
                caller = self.server.attach(text)
                failure = self.refused(caller)
                assert failure.code == "bad-string"
                assert all(word in failure.message for word in words), failure.message
                caller.leave()

    def test_what_this_version_does_not_offer_is_named(self) -> None:
        for text, word in {
            "usb:targetname=lab": "USB",
            "com:modem": "modem",
        }.items():
            with self.subTest(text=text):
                caller = self.server.attach(text)
                failure = self.refused(caller)
                assert f"{word} " in f"{failure.message} "
                assert "not supported by this version" in failure.message
                caller.leave()

    def test_what_the_environment_should_have_said(self) -> None:
        caller = self.server.attach("1394:")
        failure = self.refused(caller)
        assert "_NT_DEBUG_1394_CHANNEL" in failure.message
        assert failure.code == "setup"

    def test_a_held_target(self) -> None:
        first = self.server.attach(client="kim@desk")
        self.server.wait(3)
        second = self.server.attach(client="lee@lap")
        failure = self.refused(second)
        assert failure.code == "held"
        for word in ("sim:", "kim@desk", "192.0.2.7:4000", "since 2023-11-1"):
            assert word in failure.message, failure.message
        assert first.is_connected
        first.hear()
        first.say(READ_KERNEL)
        self.server.wait()
        assert [packet.type for packet in first.hear(Packet)] == [2]

    def test_two_strings_for_one_target(self) -> None:
        assert self.server.attach("sim:name=x").hear(Attached)
        assert self.refused(self.server.attach("sim:state=running,name=x")).code == "held"

    def test_a_target_is_free_when_its_holder_has_gone(self) -> None:
        for goodbye in (lambda c: c.leave(ConnectionLost()), lambda c: c.say(Bye("lunch")), lambda c: c.send(b"SSH-2")):
            holder = self.server.attach()
            self.server.wait(LEAVING)
            assert holder.hear(Attached)
            goodbye(holder)
            holder.leave()

    def test_an_error_inside_is_told_and_logged(self) -> None:
        self.server.end()
        opener = SlowOpener()
        server = ServerInMemory(opener)
        caller = server.attach()
        assert opener.opening is not None
        opener.opening.errback(ZeroDivisionError("a bug"))
        assert "log" in self.refused(caller).message
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        caller.leave()
        assert server.end() == []


class OpeningTests(SynchronousTestCase):
    """A target that takes its time to open."""

    def begin(self, canceller: Any = None) -> tuple[ServerInMemory, SlowOpener, Caller]:
        opener = SlowOpener(canceller)
        server = ServerInMemory(opener)
        return server, opener, server.attach("com:port=/dev/ttyS7,baud=9600")

    def test_a_client_may_leave_meanwhile(self) -> None:
        def as_twisted_does(opening: Deferred[Any]) -> None:
            opening.errback(ConnectingCancelledError(None))

        for canceller in (None, as_twisted_does):
            for goodbye in (
                lambda caller: None,
                lambda caller: caller.say(Bye("changed my mind")),
                lambda caller: caller.send(b"\xff\xff\xff\xff\xff"),
                lambda caller: caller.protocol.shut_down(),
            ):
                server, opener, caller = self.begin(canceller)
                goodbye(caller)
                caller.leave()
                assert opener.cancelled
                assert server.end() == []
                again = server.attach("com:port=/dev/ttyS7,baud=9600")
                assert again.hear() == [], "nobody holds it, so it is being opened"
                again.leave()

    def test_it_may_take_longer_than_a_greeting(self) -> None:
        server, opener, caller = self.begin()
        server.wait(GREETING_LIMIT * 2)
        assert caller.is_connected
        assert len(caller.hear(Ping)) == 1
        assert opener.opening is not None
        opener.opening.errback(TargetError(target="/dev/ttyS7", why="it is on fire"))
        assert caller.hear() == [Failure("target", "/dev/ttyS7: it is on fire")]
        assert not caller.is_connected
        caller.leave()
        assert server.end() == []


class SilenceTests(ServerCase):
    def test_a_silent_client_is_pinged_and_then_cut_off(self) -> None:
        caller = self.server.attach()
        self.server.wait(PING_INTERVAL + 0.1)
        assert len(caller.hear(Ping)) == 1
        self.server.wait(SILENCE_LIMIT - PING_INTERVAL - 0.2)
        assert len(caller.hear(Ping)) == 1
        assert not caller.is_aborted
        self.server.wait(0.2)
        assert caller.is_aborted

    def test_one_that_answers_stays(self) -> None:
        caller = self.server.attach()
        for _ in range(20):
            self.server.wait(PING_INTERVAL)
            for ping in caller.hear(Ping):
                caller.say(Pong(ping.id))
        assert not caller.is_aborted

    def test_a_ping_is_answered_in_any_step(self) -> None:
        caller = self.server.call()
        caller.say(ClientHello("a test"))
        caller.hear()
        caller.say(Ping(7))
        assert caller.hear(Pong) == [Pong(7)]
        caller.say(Attach("sim:", "kim"))
        caller.hear()
        caller.say(Ping(8))
        assert caller.hear(Pong) == [Pong(8)]


class SessionTests(ServerCase):
    def test_a_halted_target_is_known_at_once(self) -> None:
        first = self.server.attach()
        self.server.wait()
        assert [type(event) for event in first.hear()] == [Attached, StatusReport, Packet]
        first.leave()
        second = self.server.attach()
        self.server.wait(LEAVING)
        said = second.hear()
        assert [event.status.kind for event in said if isinstance(event, StatusReport)] == ["halted"]
        assert [event.type for event in said if type(event) is Packet] == [PacketType.STATE_CHANGE64]

    def test_a_last_word_in_the_same_segment(self) -> None:
        for words in (
            [ClientHello("x"), Bye("no")],
            [Ping(1), Bye("no")],
            [Attach("sim:", "kim"), Bye("no")],
            [Resync(), Bye("no")],
            [BreakIn(), READ_KERNEL, Resync(), Bye("no")],
            [CONTINUE, READ_KERNEL, Bye("no")],
        ):
            with self.subTest(words=words):
                caller = self.server.call()
                if type(words[0]) is not ClientHello:
                    caller.say(ClientHello("x"))
                    caller.hear()
                if type(words[0]) not in (ClientHello, Attach, Ping):
                    caller.say(Attach("sim:", "kim"))
                    self.server.wait(LEAVING)
                    assert caller.hear(Attached)
                caller.say(*words)
                self.server.wait(LEAVING)
                assert not caller.is_connected
                assert not caller.hear(Failure)
                caller.leave()
        assert list(self.server.directory) == []

    def test_a_break_in_halts_a_running_target(self) -> None:
        caller = self.server.attach(RUNNING)
        self.server.wait()
        caller.hear()
        caller.say(BreakIn())
        self.server.wait()
        said = caller.hear()
        assert [event.status.kind for event in said if isinstance(event, StatusReport)] == ["halted"]
        assert [event.type for event in said if type(event) is Packet] == [PacketType.STATE_CHANGE64]

    def test_a_resync_is_echoed_before_the_stop(self) -> None:
        caller = self.server.attach()
        self.server.wait()
        caller.hear()
        caller.say(READ_KERNEL, Resync())
        self.server.wait(1)
        said = [event for event in caller.hear() if not isinstance(event, StatusReport)]
        place = said.index(Resync())
        assert [event.type for event in said[place + 1 :]] == [PacketType.STATE_CHANGE64]

    def test_shutdown_tells_every_client(self) -> None:
        idle, waiting, attached = self.server.call(), self.server.call(), self.server.attach()
        waiting.say(ClientHello("x"))
        self.server.factory.stopFactory()
        for caller in (idle, waiting, attached):
            assert "shutting down" in self.refused(caller).message
        self.server.wait(LEAVING)
        assert list(self.server.directory) == []
        self.server.factory.stopFactory()
        for caller in (idle, waiting, attached):
            assert caller.hear() == []

    def test_both_ends_together(self) -> None:
        """The client of this project, through a pipe."""
        self.talk(lambda server: server.factory.stopFactory(), ServerRefused)
        self.talk(lambda server: [each.transport.loseConnection() for each in server.factory._attached], ServerGone)

    def talk(self, end: Callable[[ServerInMemory], object], error: type[Exception]) -> None:
        server, user = ServerInMemory(), _User()

        def attach() -> ClientProtocol:
            client = ClientProtocol(server.clock, "sim:", "kim")
            client.user = user
            return client

        client, _, pump = connectedServerAndClient(lambda: server.factory.buildProtocol(None), attach, clock=Clock())
        for _ in range(5):
            pump.flush()
            server.wait()
        pump.flush()
        assert isinstance(self.successResultOf(client.attached), Attached)
        assert [packet.type for packet in user.packets] == [PacketType.STATE_CHANGE64]
        end(server)
        pump.flush()
        assert [type(reason) for reason in user.lost] == [error]
        server.wait(LEAVING)
        assert server.end() == []


class _User:
    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.lost: list[Exception] = []

    def packet_received(self, packet: Packet) -> None:
        self.packets.append(packet)

    def status_changed(self, status: object) -> None:
        pass

    def session_lost(self, reason: Exception) -> None:
        self.lost.append(reason)


class SlowClientTests(ServerCase):
    """A client that does not read."""

    def attach_running(self) -> Caller:
        caller = self.server.attach(RUNNING)
        self.server.wait()
        caller.hear()
        return caller

    def flood(self, caller: Caller, prints: int, first: int = 0) -> float:
        """The target prints as fast as it is let; the longest time that it was made to wait."""
        clock, link, longest = self.server.clock, self.server.live().target.link, 0.0
        for number in range(first, first + prints):
            self.server.print(f"line {number:06d} ".ljust(200, "."))
            clock.advance(0)
            began = clock.seconds()
            while link.backlog:
                clock.advance(0.003)
            longest = max(longest, clock.seconds() - began)
            if not number % 20:
                caller.say(Ping(number))
        return longest

    def texts(self, events: list[Any]) -> list[int | Dropped]:
        """The numbers of the prints that came, and what is said of those that did not."""
        found: list[int | Dropped] = []
        for event in events:
            if isinstance(event, Dropped):
                found.append(event)
            elif type(event) is Packet and event.type == PacketType.DEBUG_IO:
                found.append(int(DebugIo.decode(event.payload).text[5:11]))
        return found

    def test_prints_are_dropped_and_counted_in_their_place(self) -> None:
        caller = self.attach_running()
        tracemalloc.start()
        waited = self.flood(caller, 2000)
        assert 0.25 <= waited < 0.3, "first it is slowed down, well below the second after which it repeats a print"
        before = tracemalloc.get_traced_memory()[0]
        waited = self.flood(caller, 1500, first=2000)
        assert waited < 0.01, "and when that is of no use, it is not held up"
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 50_000, "what it does not read takes no more room"
        assert len(caller.transport.value()) < NETWORK_BUFFER * 2
        said = self.texts(caller.hear())
        numbers = [each for each in said if isinstance(each, int)]
        gaps = [each for each in said if isinstance(each, Dropped)]
        assert len(gaps) == 1
        assert gaps[0].prints + len(numbers) == 3500
        place = said.index(gaps[0])
        assert said[place - 1] == place - 1
        assert said[place + 1 :] == list(range(3500 - len(said[place + 1 :]), 3500))
        assert len(numbers) < 1400

    def test_a_stop_is_never_lost(self) -> None:
        caller = self.attach_running()
        self.flood(caller, 1500)
        caller.say(BreakIn())
        self.server.wait(1)
        said = caller.hear()
        packets = [event for event in said if type(event) is Packet]
        assert packets[-1].type == PacketType.STATE_CHANGE64
        assert [type(event.status) for event in said if isinstance(event, StatusReport)][-1] is Halted
        caller.say(READ_KERNEL)
        self.server.wait()
        assert [packet.type for packet in caller.hear(Packet)] == [2], "and all goes on as before"
        caller.say(CONTINUE)
        self.server.wait()
        assert caller.hear(StatusReport)[0].status == Running()

    def test_one_that_asks_and_asks_and_never_reads_is_cut_off(self) -> None:
        floods: dict[str, tuple[str, list[Any]]] = {
            "pings": (RUNNING, [Ping(number) for number in range(100)]),
            "break-ins": ("sim:", [BreakIn()] * 100),
            "resyncs": ("sim:", [Resync()] * 100),
        }
        for name, (trans, flood) in floods.items():
            with self.subTest(name=name):
                caller = self.server.attach(trans)
                self.server.wait()
                caller.hear()
                caller.transport.full = True
                caller.transport.producer.pauseProducing()
                most = 0
                for _ in range(2000):
                    caller.say(*flood)
                    self.server.clock.advance(0.001)
                    most = max(most, len(caller.transport.value()))
                    if caller.is_aborted:
                        break
                assert caller.is_aborted
                assert most < MAX_UNREAD + 20_000
                caller.leave()

    def test_the_replies_to_a_full_window_are_kept(self) -> None:
        caller = self.server.attach()
        self.server.wait()
        caller.hear()
        caller.transport.full = True
        caller.transport.producer.pauseProducing()
        asked = 0
        while caller.connection.has_room(READ_KERNEL.payload):
            caller.say(READ_KERNEL)
            asked += 1
        assert 500 < asked < MAX_UNREAD_PACKETS
        self.server.wait(asked * 0.02)
        assert not caller.is_aborted
        assert len(caller.hear(Packet)) == asked

    def test_requests_without_a_reply_are_bounded_too(self) -> None:
        caller = self.attach_running()
        for _ in range(2000):
            caller.say(CONTINUE)
        assert caller.is_connected
        caller.say(CONTINUE)
        assert "without end" in self.refused(caller).message

    def test_more_than_the_window_is_refused(self) -> None:
        caller = self.server.attach()
        caller.hear()
        for _ in range(600):
            caller.send(encode_packet(READ.type, READ.payload))
        assert "window" in self.refused(caller).message
