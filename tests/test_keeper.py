"""A server that holds a published target itself while no client does: in memory, on a simulated target."""

from __future__ import annotations

from typing import Any

from server_callers import Caller, ServerInMemory
from test_attachment import prints, read, replies
from twisted.trial.unittest import SynchronousTestCase

from kdsrv.connection_strings.kd import SimSpec
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
