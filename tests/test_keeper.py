"""A server that holds a published target itself while no client does: in memory, on a simulated target."""

from __future__ import annotations

from typing import Any

from server_callers import Caller, ServerInMemory, SlowOpener
from session_bench import QuietLine
from session_bench import User as SessionBenchUser
from test_attachment import prints, read, replies
from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from kdsrv.auth.users import Role, User
from kdsrv.connection_strings import TargetSpec
from kdsrv.connection_strings.kd import SimSpec
from kdsrv.errors import LinkLost, TargetError
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.policy.places import HostPlaces
from kdsrv.policy.policy import Policy
from kdsrv.server.keeper import Keeper, StopPolicy
from kdsrv.sessions.directory import Directory
from kdsrv.sim.target import TargetState
from kdsrv.transports.opener import Opener
from kdsrv.wire.messages import Attached, Bye

LAB = "target:name=lab"


class KeeperTests(SynchronousTestCase):
    def start(self, stops: StopPolicy = StopPolicy.HOLD, state: str = "running") -> None:
        self.server = server = ServerInMemory()
        policy = Policy(HostPlaces(), {"lab": SimSpec(name="lab", state=state)})
        opener = Opener(server.clock, server.targets)
        server.directory = Directory(server.clock, opener, {}, server.clock.seconds, policy)
        server.factory = type(server.factory)(server.clock, server.directory)
        self.keeper = Keeper(server.clock, server.directory, "lab", stops)
        self.keeper.startService()
        self.addCleanup(self.check_rest)
        server.wait(1)

    def check_rest(self) -> None:
        for protocol in tuple(self.server.factory._connected):
            protocol.connectionLost()
        self.keeper.stopService()
        self.server.wait(1.5)
        assert list(self.server.directory) == []
        assert self.server.end() == []

    def holder(self) -> str:
        return next(iter(self.server.directory)).lease.holder

    def come(self) -> tuple[Caller, list[Any]]:
        caller = self.server.attach(LAB)
        self.server.wait()
        heard = caller.hear()
        assert [event for event in heard if isinstance(event, Attached)], heard
        return caller, heard

    def test_what_is_printed_while_nobody_is_there_is_for_the_first_who_comes(self) -> None:
        self.start()
        assert self.holder() == "the server itself (--watch lab)"
        self.server.print("one\n", "lab")
        self.server.print("two\n", "lab")
        self.server.wait()
        caller, heard = self.come()
        assert prints(heard) == ["one\n", "two\n"]
        assert self.holder() == "kim@desk"
        self.server.print("three\n", "lab")
        self.server.wait()
        assert prints(caller.hear()) == ["three\n"]

    def test_it_takes_the_target_again_when_the_client_has_gone(self) -> None:
        self.start()
        for text in ("one\n", "two\n"):
            caller, _ = self.come()
            caller.say(Bye("done"))
            self.server.wait(2.5)
            assert self.holder().startswith("the server itself")
            self.server.print(text, "lab")
            self.server.wait(2.5)  # the target may have to say it twice to a link that begins
            caller, heard = self.come()
            assert prints(heard) == [text]
            caller.say(Bye("done"))
            self.server.wait(2.5)

    def test_a_boot_goes_through_and_its_modules_are_kept(self) -> None:
        self.start(state="boot")
        self.server.wait(2)
        assert self.server.live("lab").target.state is TargetState.RUNNING
        _, heard = self.come()
        said = prints(heard)
        assert said[0].startswith("simulated target: Windows build")
        assert any(line.startswith("[kdsrv: loaded ") and "ntoskrnl" in line for line in said), said

    def test_a_stop_is_held_for_a_client(self) -> None:
        self.start()
        live = self.server.live("lab")
        live.target.stop(self.server.clock.seconds())
        live.flush()
        self.server.wait(5)
        assert live.target.state is TargetState.STOPPED
        caller, heard = self.come()
        assert PacketType.STATE_CHANGE64 in [event.type for event in heard if type(event) is Packet]
        caller.say(read(0))
        self.server.wait()
        assert replies(caller.hear()) == [0]

    def test_or_continued_if_the_operator_wants_that(self) -> None:
        self.start(StopPolicy.CONTINUE)
        live = self.server.live("lab")
        live.target.stop(self.server.clock.seconds())
        live.flush()
        self.server.wait(5)
        assert live.target.state is TargetState.RUNNING
        assert len(live.target.log) > 1

    def test_one_that_stops_again_and_again_is_held_in_the_end(self) -> None:
        self.start(StopPolicy.CONTINUE)
        live = self.server.live("lab")
        for _ in range(30):
            live.target.stop(self.server.clock.seconds())
            live.flush()
            self.server.wait(0.2)
        assert live.target.state is TargetState.STOPPED

    def test_who_waits_for_the_target_has_it_before_the_server(self) -> None:
        self.start()
        first, _ = self.come()
        first.say(Bye("done"))
        second, _ = self.come()
        self.server.wait(3)
        assert self.holder() == "kim@desk"
        assert second.is_connected

    def test_what_was_kept_is_also_for_who_may_only_look(self) -> None:
        self.start()
        self.server.print("one\n", "lab")
        self.server.wait()
        looker = User("pat", Role.READ_ONLY)
        opening = self.server.directory.open(TargetSpec("lab"), "pat", "192.0.2.9", looker)
        self.server.wait(1.5)
        session = self.successResultOf(opening)
        user = SessionBenchUser()
        self.server.directory.start(session, self.keeper, user)
        self.server.wait()
        assert prints(user.events) == ["one\n"]
        self.server.directory.close(session)
        self.server.wait(1.5)


class _Line(QuietLine):
    """Is lost as soon as somebody listens."""

    def start(self, receiver: Any) -> None:
        super().start(receiver)
        receiver.transport_lost(LinkLost(target="lab", why="nobody is there"))


class OpeningTests(SynchronousTestCase):
    """The line to the target is not simply there."""

    def start(self, opener: Any) -> None:
        self.server = server = ServerInMemory()
        policy = Policy(HostPlaces(), {"lab": SimSpec(name="lab")})
        server.directory = Directory(server.clock, opener, {}, server.clock.seconds, policy)
        server.factory = type(server.factory)(server.clock, server.directory)
        self.keeper = Keeper(server.clock, server.directory, "lab")
        self.keeper.startService()

    def check_rest(self) -> None:
        self.keeper.stopService()
        self.server.wait(1.5)
        assert list(self.server.directory) == []
        assert self.server.end() == []

    def test_a_line_that_is_lost_at_once_is_not_opened_without_end(self) -> None:
        opened: list[float] = []

        class Opener:
            def open(self, spec: object) -> Any:
                opened.append(0)
                return succeed(_Line())

        self.start(Opener())
        self.server.wait(20)
        assert 3 <= len(opened) <= 6
        self.check_rest()

    def test_a_client_does_not_wait_for_the_server_to_open_it(self) -> None:
        opener = SlowOpener(lambda opening: opening.errback(OSError("it was cancelled")))
        self.start(opener)
        caller = self.server.attach(LAB)
        assert opener.cancelled
        assert opener.opening is not None
        opener.opening.callback(QuietLine())
        assert caller.hear(Attached)
        caller.say(Bye("done"))
        self.server.wait(1.5)
        assert opener.opening.called is False  # the server's turn
        caller.leave()
        self.check_rest()

    def test_if_the_client_cannot_open_it_the_server_goes_on_trying(self) -> None:
        opener = SlowOpener()
        self.start(opener)
        caller = self.server.attach(LAB)
        assert opener.opening is not None
        opener.opening.errback(TargetError(target="lab", why="it is on fire"))
        assert caller.hear()[-1].code == "target"
        self.server.wait(0.1)
        assert not opener.opening.called
        opener.opening.callback(QuietLine())
        assert next(iter(self.server.directory)).lease.holder.startswith("the server itself")
        caller.leave()
        self.check_rest()
