"""Clients whose connection breaks and who come back, and targets that change hands, on a server in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from server_callers import Caller, ServerInMemory
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from kdsrv.auth.users import ANYBODY, User
from kdsrv.auth.users import Role as UserRole
from kdsrv.connection_strings import TargetSpec
from kdsrv.connection_strings.kd import SimSpec
from kdsrv.errors import LinkLost
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.policy.places import HostPlaces
from kdsrv.policy.policy import NotAllowed, Policy
from kdsrv.server.attachment import LINGER, UnknownSession
from kdsrv.server.factory import KdsrvServerFactory
from kdsrv.sessions.applications import ASK_LIMIT
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.status import Halted
from kdsrv.sessions.tenant import Applicant, Take
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.transports.opener import Opener
from kdsrv.wire.connection import Connection
from kdsrv.wire.ledger import Ledger
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Bye,
    ClientHello,
    Failure,
    Notice,
    Ping,
    Release,
    Released,
    Resume,
    Role,
    StatusReport,
)

LEAVING = 1.2
RUNNING = "sim:state=running"


@contextmanager
def log() -> Iterator[list[str]]:
    """What is in the server's log when this ends."""
    lines: list[str] = []
    with capturedLogs() as events:
        yield lines
    lines += [formatEvent(event) for event in events]


def read(offset: int) -> Packet:
    return Packet(PacketType.STATE_MANIPULATE, Manipulate.read_virtual(KERNEL_BASE + offset, 16).encode())


def prints(events: list[Any]) -> list[str]:
    return [
        DebugIo.decode(event.payload).text.decode()
        for event in events
        if type(event) is Packet and event.type == PacketType.DEBUG_IO
    ]


def replies(events: list[Any]) -> list[int]:
    """The offsets that were read."""
    return [
        Manipulate.decode(event.payload)["address"] - KERNEL_BASE
        for event in events
        if type(event) is Packet and event.type == PacketType.STATE_MANIPULATE
    ]


class Lasting:
    """A client that comes back: a ledger and a token over its connections."""

    def __init__(self, server: ServerInMemory, trans: str = "sim:", client: str = "kim@desk", **options: Any) -> None:
        self.server = server
        self.host = options.pop("host", "192.0.2.7")
        self.ledger = Ledger()
        self.caller = self._greet()
        self.trans = trans
        self.client = client
        self.caller.say(Attach(trans, client, resumable=True, **options))
        server.wait()
        heard = self.caller.hear()
        attached = [event for event in heard if isinstance(event, Attached)]
        self.token = attached[0].token if attached else None
        self.heard = heard

    def _greet(self) -> Caller:
        caller = self.server.call(self.host)
        caller.connection = Connection(Role.CLIENT, ledger=self.ledger)
        caller.say(ClientHello("a test"))
        caller.hear()
        return caller

    def come_back(self, received: int | None = None) -> list[Any]:
        """All that is heard over a new connection, from Attached on."""
        self.caller = self._greet()
        count = self.ledger.received if received is None else received
        assert self.token is not None
        self.caller.say(Attach(self.trans, self.client, resumable=True, resume=Resume(self.token, count)))
        heard = self.caller.hear()
        if heard and isinstance(heard[0], Attached):
            again = self.caller.connection.resume(heard[0].received)
            if again:
                self.caller.send(again)
        self.server.wait()
        return heard + self.caller.hear()


class AttachmentCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = ServerInMemory()
        self.addCleanup(self.check_rest)

    def check_rest(self) -> None:
        for protocol in tuple(self.server.factory._connected):
            protocol.connectionLost()
        self.server.wait(LINGER + LEAVING)
        self.server.factory.attachments.discard()
        assert self.server.end() == []
        assert list(self.server.directory) == []
        assert len(self.server.factory.attachments) == 0

    def failure(self, caller: Caller) -> Failure:
        (failure,) = caller.hear(Failure)
        assert isinstance(failure, Failure)
        return failure


GIVEN_UP = Notice("lee@sofa from 192.0.2.8:4000 has given up asking for sim:: it stays with you")


class LogTests(AttachmentCase):
    """How each wait ends is in the server's log."""

    def test_that_nobody_came_back(self) -> None:
        with log() as lines:
            Lasting(self.server).caller.leave()
            self.server.wait(LINGER + 1)
        assert lines[-1] == "sim: is free again: its client did not come back in 60 s"

    def test_that_somebody_else_has_the_target(self) -> None:
        Lasting(self.server).caller.leave()
        with log() as lines:
            Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.ASK)
        assert "kim@desk is not waited for any more: sim: was taken over by lee@sofa from 192.0.2.8:4000" in lines

    def test_that_a_target_was_given_away(self) -> None:
        Lasting(self.server)
        Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.ASK)
        releasing = self.server.call()
        releasing.say(ClientHello("a test"))
        releasing.hear()
        with log() as lines:
            releasing.say(Release("sim:"))
        assert "192.0.2.7:4000 has given sim: to lee@sofa" in lines
        assert "192.0.2.7:4000: sim: was given to lee@sofa from 192.0.2.8:4000" in lines


class ComingBackTests(AttachmentCase):
    def test_what_was_said_while_nobody_was_there_comes_once_and_in_order(self) -> None:
        client = Lasting(self.server, RUNNING)
        self.server.print("one\n")
        self.server.wait()
        assert prints(client.caller.hear()) == ["one\n"]
        client.caller.leave()
        self.server.print("two\n")
        self.server.wait(30)
        self.server.print("three\n")
        self.server.wait()
        heard = client.come_back()
        assert isinstance(heard[0], Attached)
        assert heard[0].resumed
        assert prints(heard) == ["two\n", "three\n"]

    def test_what_was_lost_on_the_way_comes_again(self) -> None:
        client = Lasting(self.server, RUNNING)
        self.server.print("one\n")
        self.server.print("two\n")
        self.server.wait()
        client.caller.leave()  # with both on the way
        assert prints(client.come_back()) == ["one\n", "two\n"]

    def test_requests_that_did_not_arrive_are_asked_again_and_the_others_are_not(self) -> None:
        client = Lasting(self.server)
        client.caller.say(read(0), read(16))
        client.caller.connection.send(read(32))  # lost on the way
        client.caller.leave()
        self.server.wait()
        assert replies(client.come_back()) == [0, 16, 32]
        asked = [request["address"] - KERNEL_BASE for request in self.server.live().target.log]
        assert asked == [0, 16, 32]

    def test_a_client_that_says_goodbye_is_not_waited_for(self) -> None:
        client = Lasting(self.server)
        client.caller.say(Bye("done"))
        self.server.wait(LEAVING)
        assert list(self.server.directory) == []
        client.come_back()
        assert client.caller.said[-1].code == "unknown-session"

    def test_nor_is_one_that_breaks_a_rule(self) -> None:
        client = Lasting(self.server)
        client.caller.send(b"\xff\xff\xff\xff\xff")
        assert self.failure(client.caller).code == "protocol"
        self.server.wait(LEAVING)
        assert list(self.server.directory) == []

    def test_nor_is_one_that_did_not_ask_for_it(self) -> None:
        caller = self.server.attach()
        (attached,) = caller.hear(Attached)
        assert attached.token is None
        caller.leave()
        self.server.wait(LEAVING)
        assert list(self.server.directory) == []

    def test_the_wait_ends_and_who_is_late_is_told(self) -> None:
        client = Lasting(self.server)
        client.caller.leave()
        self.server.wait(LINGER - 1)
        assert len(list(self.server.directory)) == 1
        self.server.wait(1 + LEAVING)
        assert list(self.server.directory) == []
        heard = client.come_back()
        assert [event.code for event in heard] == ["unknown-session"]

    def test_who_comes_back_before_the_break_is_noticed_goes_on(self) -> None:
        client = Lasting(self.server, RUNNING)
        old = client.caller
        self.server.print("one\n")
        self.server.wait()
        assert prints(client.come_back()) == ["one\n"]
        assert old.is_aborted
        old.leave()
        self.server.wait(LEAVING)
        self.server.print("two\n")
        self.server.wait()
        assert prints(client.caller.hear()) == ["two\n"]

    def test_a_count_that_cannot_be_is_refused_and_the_session_still_waits(self) -> None:
        client = Lasting(self.server)
        client.caller.leave()
        (failure,) = client.come_back(received=4711)
        assert failure.code == "protocol"
        assert "4711" in failure.message
        assert isinstance(client.come_back()[0], Attached)

    def test_a_session_that_was_lost_meanwhile_says_why(self) -> None:
        client = Lasting(self.server)
        client.caller.leave()
        for session in self.server.directory:
            session.transport_lost(LinkLost(target="sim", why="unplugged"))
        (failure,) = client.come_back()
        assert "unplugged" in failure.message

    def test_so_many_prints_are_kept_and_the_number_of_the_others_is_told(self) -> None:
        client = Lasting(self.server, RUNNING)
        client.caller.leave()
        for number in range(1200):
            self.server.print(f"{number}\n")
            self.server.wait(0.005)
        heard = client.come_back()
        assert [event.prints for event in heard if hasattr(event, "prints")] == [200]
        assert prints(heard) == [f"{number}\n" for number in range(200, 1200)]

    def test_the_target_goes_on_for_somebody_who_is_away(self) -> None:
        client = Lasting(self.server)
        client.caller.leave()
        status = client.come_back()[0].status
        assert isinstance(status, Halted)


class HandingOverTests(AttachmentCase):
    def test_the_same_client_anew_has_its_target_at_once(self) -> None:
        old = Lasting(self.server)
        old.caller.leave()
        new = Lasting(self.server)
        assert [type(event) for event in new.heard[:2]] == [Attached, StatusReport]
        assert PacketType.STATE_CHANGE64 in [event.type for event in new.heard if type(event) is Packet]
        (failure,) = old.come_back()
        assert failure.code == "taken"

    def test_others_are_told_how_long_it_is_waited_for_and_may_have_it_if_they_ask(self) -> None:
        old = Lasting(self.server)
        old.caller.leave()
        self.server.wait(12)
        other = Lasting(self.server, client="lee@sofa", host="192.0.2.8")
        failure = other.heard[-1]
        assert failure.code == "held"
        assert "broke 12 s ago" in failure.message
        assert "48 s" in failure.message
        other = Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.ASK)
        assert other.token is not None
        assert next(iter(self.server.directory)).lease.holder == "lee@sofa"

    def test_a_holder_is_asked_and_gives_its_target_away(self) -> None:
        holder = Lasting(self.server)
        other = Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.ASK)
        (told,) = [event for event in other.heard if isinstance(event, Notice)]
        assert "kim@desk has been asked" in told.text
        (asked,) = holder.caller.hear(Notice)
        assert "lee@sofa from 192.0.2.8:4000 asks for sim:" in asked.text
        assert "kdsrv release" in asked.text
        assert "after 60 s it stays with you" in asked.text
        assert asked.asks
        assert not told.asks
        releasing = self.server.call()
        releasing.say(ClientHello("a test"))
        releasing.hear()
        releasing.say(Release("sim:"))
        (released,) = releasing.hear(Released)
        assert (released.target, released.to) == ("sim:", "lee@sofa")
        failure = self.failure(holder.caller)
        assert failure.code == "given"
        assert failure.message == "sim: was given to lee@sofa from 192.0.2.8:4000"
        assert not holder.caller.is_connected
        self.server.wait()
        heard = other.caller.hear()
        assert isinstance(heard[0], Attached)
        assert PacketType.STATE_CHANGE64 in [event.type for event in heard if type(event) is Packet]

    def test_who_does_not_hold_it_cannot_give_it_away(self) -> None:
        Lasting(self.server)
        Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.ASK)
        stranger = self.server.call("192.0.2.66")
        stranger.say(ClientHello("a test"))
        stranger.hear()
        stranger.say(Release("sim:"))
        assert self.failure(stranger).code == "not-allowed"

    def test_what_nobody_asks_for_stays(self) -> None:
        Lasting(self.server)
        releasing = self.server.call()
        releasing.say(ClientHello("a test"))
        releasing.hear()
        releasing.say(Release("sim:"))
        assert "nobody asks for sim:" in self.failure(releasing).message

    def test_a_holder_that_says_nothing_keeps_its_target(self) -> None:
        holder = Lasting(self.server)
        other = Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.ASK)
        self.server.wait(ASK_LIMIT / 2)
        other.caller.say(Ping(1))
        holder.caller.say(Ping(1))
        self.server.wait(ASK_LIMIT / 2)
        failure = self.failure(other.caller)
        assert failure.code == "held"
        assert "has not given it away within 60 s" in failure.message
        assert holder.caller.hear(Notice)[1:] == [GIVEN_UP]
        assert holder.caller.is_connected

    def test_a_holder_that_leaves_leaves_it_to_who_asked(self) -> None:
        holder = Lasting(self.server)
        other = Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.ASK)
        holder.caller.say(Bye("done"))
        self.server.wait(LEAVING)
        assert other.caller.hear(Attached)

    def test_who_asks_and_goes_is_forgotten(self) -> None:
        holder = Lasting(self.server)
        other = Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.ASK)
        other.caller.leave()
        assert holder.caller.hear(Notice)[1:] == [GIVEN_UP]
        releasing = self.server.call()
        releasing.say(ClientHello("a test"))
        releasing.hear()
        releasing.say(Release("sim:"))
        assert "nobody asks" in self.failure(releasing).message
        assert holder.caller.is_connected

    def test_force_takes_it(self) -> None:
        holder = Lasting(self.server)
        other = Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.FORCE)
        assert other.token is not None
        assert self.failure(holder.caller).code == "taken"
        other.caller.say(read(0))
        self.server.wait()
        assert replies(other.caller.hear()) == [0]


class RightsTests(AttachmentCase):
    def test_force_is_not_for_who_may_only_look_or_is_bound_to_targets(self) -> None:
        """Not even where the holder is there and could be asked."""
        policy = Policy(HostPlaces(), {"lab": SimSpec(name="lab")})
        server = self.server
        opener = Opener(server.clock, server.targets)
        server.directory = directory = Directory(server.clock, opener, {}, server.clock.seconds, policy)
        server.factory = KdsrvServerFactory(server.clock, directory)
        holder = Lasting(server, "target:name=lab")
        for user in (User("lee", UserRole.READ_ONLY), User("lee", UserRole.FULL, ("lab",))):
            taking = directory.open(TargetSpec("lab"), "lee@sofa", "192.0.2.8", user, host="192.0.2.8", take=Take.FORCE)
            refusal = self.failureResultOf(taking, NotAllowed)
            assert "to take it by force a user needs the role full, and all targets" in str(refusal.value)
            assert next(iter(directory)).lease.holder == "kim@desk"
            assert holder.caller.is_connected

    def test_a_token_is_of_no_use_to_another_user(self) -> None:
        """Also to one whose name is the same and whose rights are others."""
        holder = Lasting(self.server)
        holder.caller.leave()
        attachments = self.server.factory.attachments
        assert holder.token is not None
        for user in (User("lee"), User("", UserRole.READ_ONLY), User("", UserRole.FULL, ("lab",))):
            with pytest.raises(UnknownSession):
                attachments.find(holder.token, Applicant("kim@desk", "192.0.2.7:4000", "192.0.2.7", user))
        assert attachments.find(holder.token, Applicant("kim@desk", "192.0.2.7:4001", "192.0.2.7", ANYBODY))
        assert isinstance(holder.come_back()[0], Attached)
