"""Sessions that go from hand to hand, in whatever order things happen: one has the target, and nothing is left."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from server_callers import ServerInMemory, SlowOpener

from kdsrv.auth.users import Role, User
from kdsrv.connection_strings import SimSpec
from kdsrv.errors import KdsrvError, LinkLost, TargetError
from kdsrv.policy.places import HostPlaces
from kdsrv.policy.policy import Policy
from kdsrv.server.attachment import LINGER, Attachment
from kdsrv.server.errands import Errands
from kdsrv.server.keeper import Keeper
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.tenant import Take
from kdsrv.transports.opener import Opener
from kdsrv.wire.ledger import Ledger
from kdsrv.wire.messages import Attach, Message, Release, Resume

LAB = "target:name=lab"
USERS = [User("kim"), User("lee", Role.FULL, ("lab",)), User("pat", Role.READ_ONLY)]


class Delivery:
    """Where nothing arrives."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class Connection:
    """One connection of a client: a presence without a network."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.delivery: Any = Delivery()
        self.hold: Attachment | None = None
        self.is_open = True
        self.errands = Errands(
            client.server.factory,
            "peer",
            client.user.name,
            say=client.said.append,
            settle=self._settle,
            refuse=self._refuse,
        )

    def _settle(self, hold: Attachment, resume: Resume | None) -> None:
        assert self.is_open
        if resume is not None:
            hold.ledger.kept_after(resume.received)
        self.hold = self.client.hold = hold
        self.client.token = hold.token
        hold.arrive(self)

    def _refuse(self, error: KdsrvError) -> None:
        assert self.is_open
        self.client.refusals.append(error)
        self.close()

    def superseded(self) -> None:
        self.hold = None
        self.close()

    def lost(self, reason: KdsrvError) -> None:
        assert self.hold is not None
        self.hold = None
        self.client.refusals.append(reason)
        self.close()

    def close(self) -> None:
        """The end of it, without leaving what it holds."""
        self.is_open = False
        self.errands.cancel()


class Client:
    """A user with one connection at a time."""

    def __init__(self, server: ServerInMemory, user: User) -> None:
        self.server = server
        self.user = user
        self.said: list[Message] = []
        self.refusals: list[KdsrvError] = []
        self.token: str | None = None
        self.hold: Attachment | None = None
        self.connection: Connection | None = None

    def attach(self, request: Attach) -> None:
        connection = self.connection = Connection(self)
        try:
            connection.errands.attach(request, self.user, self.user.name, Ledger())
        except KdsrvError as error:
            self.refusals.append(error)
            connection.close()

    def come(self, take: Take | None, on_leave: OnLeave) -> None:
        if self.connection is None or not self.connection.is_open:
            self.attach(Attach(LAB, self.user.name, resumable=True, take=take, on_leave=on_leave))

    def come_back(self) -> None:
        """Perhaps before the old connection is gone."""
        if self.token is not None and (self.connection is None or not self.connection.errands.is_opening):
            self.attach(Attach(LAB, self.user.name, resumable=True, resume=Resume(self.token, 0)))

    def break_off(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None and connection.is_open:
            if connection.hold is not None:
                connection.hold.depart(connection)
            connection.close()

    def leave(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None and connection.is_open:
            hold, connection.hold = connection.hold, None
            connection.close()
            if hold is not None:
                hold.leave(connection)

    def release(self) -> None:
        try:
            Errands(
                self.server.factory, "peer", self.user.name, say=self.said.append, settle=print, refuse=print
            ).release(Release(LAB), self.user)
        except KdsrvError as error:
            self.refusals.append(error)


class World:
    """A server with one target, which may take its time to open and be lost, and its users."""

    def __init__(self, watched: bool) -> None:
        self.server = server = ServerInMemory()
        self.slow: SlowOpener | None = None
        self.opener = Opener(server.clock, server.targets)
        server.directory = Directory(
            server.clock, self, {}, server.clock.seconds, Policy(HostPlaces(), {"lab": SimSpec(name="lab")})
        )
        server.factory = type(server.factory)(server.clock, server.directory)
        self.clients = [Client(server, user) for user in USERS]
        self.keeper = Keeper(server.clock, server.directory, "lab") if watched else None
        if self.keeper is not None:
            self.keeper.startService()

    def open(self, spec: Any) -> Any:
        return self.opener.open(spec) if self.slow is None else self.slow.open(spec)

    def hesitate(self, slow: bool) -> None:
        """From now on the target takes its time to open, or no longer."""
        if slow and self.slow is None:
            self.slow = SlowOpener()
        elif not slow:
            slow_opener, self.slow = self.slow, None
            if slow_opener is not None and slow_opener.opening is not None and not slow_opener.opening.called:
                self.opener.open(SimSpec(name="lab")).chainDeferred(slow_opener.opening)

    def fail(self) -> None:
        slow = self.slow
        if slow is not None and slow.opening is not None and not slow.opening.called:
            slow.opening.errback(TargetError(target="lab", why="it is on fire"))
        else:
            for session in self.server.directory:
                session.transport_lost(LinkLost(target="lab", why="unplugged"))

    def check(self) -> None:
        """At most one has the target, and who has it knows."""
        holders = [client for client in self.clients if client.connection is not None and client.connection.hold]
        assert len(holders) <= 1, holders
        for client in holders:
            assert client.hold is not None
            session = client.hold.session
            assert list(self.server.directory) == [session]
            assert self.server.directory.tenant_of(session) is client.hold
            assert session.user is client.hold
            assert session.read_only is (client.user.role is Role.READ_ONLY)
            assert session.lease.holder.startswith(client.user.name)

    def end(self) -> None:
        directory: Any = self.server.directory
        self.hesitate(False)
        if self.keeper is not None:
            # whoever is there, leaves: then the server has it again
            for client in self.clients:
                client.leave()
            self.server.clock.pump([0.25] * int(4 * (LINGER + 120)))
            assert [session.lease.holder for session in directory] == ["the server itself (--watch lab)"]
            self.keeper.stopService()
        for client in self.clients:
            client.break_off()
        directory.close_all()
        self.server.clock.pump([0.25] * 60)
        self.server.factory.attachments.discard()
        assert list(directory) == []
        for what in ("_tenants", "_unread", "_giving_way", "_leaving", "_sessions"):
            assert not getattr(directory, what), what
        assert len(directory._leases) == 0
        assert not directory._applications._waiting
        assert self.server.end() == []


who = st.integers(0, len(USERS) - 1)
visits = st.tuples(st.sampled_from(["come_back", "come_back", "break_off", "break_off", "leave", "release"]), who)
troubles = st.sampled_from([("hesitate", True), ("hesitate", False), ("hesitate", False), ("fail",)])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("come"), who, st.sampled_from([None, *Take]), st.sampled_from(OnLeave)),
        *[visits] * 4,
        *[st.tuples(st.just("wait"), st.sampled_from([0.01, 0.3, 1.2, LINGER + 1]))] * 2,
        troubles,
    ),
    min_size=20,
    max_size=40,
)


@given(st.booleans(), steps)
@settings(max_examples=60)
def test_whatever_happens_one_has_it_and_nothing_is_left(watched: bool, steps: list[Any]) -> None:
    world = World(watched)
    for name, *arguments in steps:
        if name == "wait":
            (seconds,) = arguments
            world.server.clock.pump([min(seconds, 0.25)] * max(round(seconds * 4), 1))
        elif name == "come":
            number, take, on_leave = arguments
            world.clients[number].come(take, on_leave)
        elif name in ("hesitate", "fail"):
            getattr(world, name)(*arguments)
        else:
            getattr(world.clients[arguments[0]], name)()
        world.check()
    world.end()
