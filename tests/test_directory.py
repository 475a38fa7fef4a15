from __future__ import annotations

from unittest.mock import Mock

from session_bench import QuietLine, User, pass_time
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kdsrv.auth.users import Role
from kdsrv.auth.users import User as AnyUser
from kdsrv.connection_strings import KdSpec, PipeSpec, TargetSpec
from kdsrv.connection_strings.kd import SerialSpec, SimSpec, UsbSpec
from kdsrv.errors import LinkLost, SetupError, TargetError, TargetHeld
from kdsrv.kd.link import GaveUp
from kdsrv.policy.patterns import Pattern
from kdsrv.policy.places import HostPlaces
from kdsrv.policy.policy import Policy
from kdsrv.server.attachment import Attachment, Attachments
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.session import Session
from kdsrv.sessions.tenant import Applicant, Take, TargetTaken
from kdsrv.transports.opener import Opener
from kdsrv.transports.simulated import SimulatedTargets
from kdsrv.transports.transport import Transport
from kdsrv.wire.ledger import Ledger


class PlannedOpener(Opener):
    """Gives what the test has ready for it."""

    def __init__(self) -> None:
        self.opened: list[KdSpec] = []
        self.result: Deferred[Transport] = succeed(QuietLine())

    def open(self, spec: KdSpec) -> Deferred[Transport]:
        self.opened.append(spec)
        return self.result


class DirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.opener = PlannedOpener()
        self.environ = {"_NT_DEBUG_PORT": "com7", "_NT_DEBUG_BAUD_RATE": "115200"}
        self.directory = Directory(self.clock, self.opener, self.environ, lambda: 0.0)

    def open(self, path: str = "/nowhere/a", holder: str = "kim") -> Session:
        session: Session = self.successResultOf(self.directory.open(PipeSpec(path), holder, "192.0.2.1"))
        return session

    def test_a_target_is_opened_and_held(self) -> None:
        session = self.open()
        assert list(self.directory) == [session]
        assert session.name == str(PipeSpec("/nowhere/a"))
        assert session.lease.holder == "kim"
        failure = self.failureResultOf(self.directory.open(PipeSpec("/nowhere/../nowhere/a"), "lee", "192.0.2.2"))
        failure.trap(TargetHeld)
        assert "held by kim from 192.0.2.1" in str(failure.value)
        assert len(self.opener.opened) == 1

    def test_so_many_sessions_and_no_more(self) -> None:
        directory = Directory(self.clock, self.opener, {}, lambda: 0.0, max_sessions=2)
        for name in ("a", "b"):
            self.opener.result = succeed(QuietLine())
            self.successResultOf(directory.open(PipeSpec(f"/nowhere/{name}"), "kim", "x"))
        failure = self.failureResultOf(directory.open(PipeSpec("/nowhere/c"), "kim", "x"), SetupError)
        assert "2 sessions" in str(failure.value)
        first = next(iter(directory))
        directory.close(first)
        pass_time(self.clock, 1.5)
        self.opener.result = succeed(QuietLine())
        self.successResultOf(directory.open(PipeSpec("/nowhere/c"), "kim", "x"))

    def test_other_targets_are_free(self) -> None:
        self.opener.result = succeed(QuietLine())
        first = self.open("/nowhere/a")
        self.opener.result = succeed(QuietLine())
        second = self.open("/nowhere/b")
        assert list(self.directory) == [first, second]

    def test_a_closed_session_frees_its_target(self) -> None:
        session = self.open()
        session.start(User())
        self.directory.close(session)
        pass_time(self.clock, 1.5)
        assert list(self.directory) == []
        assert session.transport.closed  # type: ignore[attr-defined]
        self.opener.result = succeed(QuietLine())
        assert self.open() is not session
        assert self.clock.getDelayedCalls() == []

    def test_a_late_close_does_not_free_the_successors_target(self) -> None:
        session = self.open()
        self.directory.close(session)
        pass_time(self.clock, 1.5)
        self.opener.result = succeed(QuietLine())
        successor = self.open()
        self.directory.close(session)
        pass_time(self.clock, 1.5)
        assert list(self.directory) == [successor]
        self.failureResultOf(self.directory.open(PipeSpec("/nowhere/a"), "lee", "x"), TargetHeld)

    def test_whoever_comes_while_one_leaves_waits_a_moment(self) -> None:
        session = self.open()
        session.start(User())
        self.directory.close(session)
        self.opener.result = succeed(QuietLine())
        opening = self.directory.open(PipeSpec("/nowhere/a"), "lee", "x")
        pass_time(self.clock, 1.5)
        assert self.successResultOf(opening).lease.holder == "lee"

    def test_a_target_that_cannot_be_opened_is_free(self) -> None:
        self.opener.result = fail(TargetError(target="a", why="it burns"))
        self.failureResultOf(self.directory.open(PipeSpec("/nowhere/a"), "kim", "x"), TargetError)
        self.opener.result = succeed(QuietLine())
        self.open()

    def test_an_opening_that_is_cancelled_frees_the_target(self) -> None:
        cancelled: list[object] = []
        self.opener.result = Deferred(cancelled.append)
        opening = self.directory.open(PipeSpec("/nowhere/a"), "kim", "x")
        self.failureResultOf(self.directory.open(PipeSpec("/nowhere/a"), "lee", "x"), TargetHeld)
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        assert len(cancelled) == 1
        self.opener.result = succeed(QuietLine())
        self.open()

    def test_a_lost_session_is_closed_by_its_user(self) -> None:
        session = self.open()
        session.start(User())
        session.transport_lost(LinkLost(target="a", why="unplugged"))
        self.directory.close(session)
        assert list(self.directory) == []
        assert self.clock.getDelayedCalls() == []

    def test_the_environment_fills_in_what_is_left_open(self) -> None:
        self.successResultOf(self.directory.open(None, "kim", "x"))
        assert self.opener.opened == [SerialSpec("com7", 115200)]

    def test_an_environment_that_cannot_be_used_is_a_sentence(self) -> None:
        self.environ["_NT_DEBUG_BAUD_RATE"] = "fast"
        failure = self.failureResultOf(self.directory.open(None, "kim", "x"), SetupError)
        assert "_NT_DEBUG_BAUD_RATE" in str(failure.value)

    def test_the_number_of_resets_is_the_strings(self) -> None:
        for resets, sent in ((None, 3), (0, None), (2, 2)):
            self.opener.result = succeed(QuietLine())
            spec = PipeSpec("/nowhere/p", resets=resets)
            session: Session = self.successResultOf(self.directory.open(spec, "kim", "x"))
            session.start(User())
            gave_up: list[GaveUp] = []
            session._on_gave_up = gave_up.append  # type: ignore[method-assign]
            pass_time(self.clock, 60)
            count = session.transport.written.count(b"iiii")  # type: ignore[attr-defined]
            if sent is None:
                assert count > 5
                assert gave_up == []
            else:
                assert count == sent
            self.directory.close(session)
            pass_time(self.clock, 1.5)

    def test_close_all(self) -> None:
        users = []
        for path in ("/nowhere/a", "/nowhere/b"):
            self.opener.result = succeed(QuietLine())
            session = self.open(path)
            users.append(User())
            session.start(users[-1])
        self.directory.close_all()
        pass_time(self.clock, 1.5)
        assert list(self.directory) == []
        assert self.clock.getDelayedCalls() == []
        for user in users:
            assert isinstance(user.events[-1], SetupError)


class OpenedTests(SynchronousTestCase):
    """With the real opener."""

    def test_what_is_not_supported_is_a_sentence_and_frees_the_target(self) -> None:
        clock = Clock()
        directory = Directory(clock, Opener(clock), {})
        for _ in range(2):
            failure = self.failureResultOf(directory.open(UsbSpec(targetname="lab"), "kim", "x"), SetupError)
            assert "not supported" in str(failure.value)

    def test_a_simulated_target_lives_on(self) -> None:
        clock = Clock()
        targets = SimulatedTargets(clock)
        directory = Directory(clock, Opener(clock, targets), {})
        for _ in range(2):
            session: Session = self.successResultOf(directory.open(SimSpec(), "kim", "x"))
            user = User()
            session.start(user)
            pass_time(clock, 3)
            assert len(user.stops) == 1
            directory.close(session)
            pass_time(clock, 1.5)
        targets.stop()
        assert clock.getDelayedCalls() == []


class TakingOverTests(SynchronousTestCase):
    """Who may have what is kept for somebody who is absent."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.targets = SimulatedTargets(self.clock)
        policy = Policy(HostPlaces(), {"lab": SimSpec()}, [Pattern("*", None)])
        self.directory = Directory(self.clock, Opener(self.clock, self.targets), {}, policy=policy)
        self.attachments = Attachments(self.clock, self.directory, lambda size: bytes(size))
        self.addCleanup(self.targets.stop)

    def break_off(self, user: AnyUser) -> Attachment:
        """Somebody's session, and their connection is broken."""
        session: Session = self.successResultOf(self.directory.open(SimSpec(), "kim", "x", user))
        hold = self.attachments.new(session, Applicant("kim", "x", None, user), Ledger(), lingers=True, linger=60)
        presence = Mock()
        hold.arrive(presence)
        self.directory.start(session, hold, hold)
        pass_time(self.clock, 1)
        assert hold.depart(presence)
        return hold

    def test_who_may_only_look_does_not_end_the_session_of_who_may_do_more(self) -> None:
        hold = self.break_off(AnyUser("kim"))
        pass_time(self.clock, 5)
        looker = AnyUser("lee", Role.READ_ONLY)
        opening = self.directory.open(SimSpec(), "lee", "y", looker, take=Take.ASK)
        pass_time(self.clock, 5)
        self.assertNoResult(opening)
        assert hold.over is None
        pass_time(self.clock, 60)  # but has what is free then
        session: Session = self.successResultOf(opening)
        assert session.read_only

    def test_who_knows_it_by_another_name_is_told_that_one(self) -> None:
        self.break_off(AnyUser("kim"))
        opening = self.directory.open(TargetSpec("lab"), "lee", "y", AnyUser("lee", targets=("lab",)), take=Take.ASK)
        session: Session = self.successResultOf(opening)
        assert session.name == "target:name=lab"

    def test_nor_is_anybody_else_kept_from_it(self) -> None:
        hold = self.break_off(AnyUser("kim"))
        self.successResultOf(self.directory.open(SimSpec(), "lee", "y", AnyUser("lee"), take=Take.ASK))
        assert isinstance(hold.over, TargetTaken)

    def test_who_may_only_look_has_it_from_their_like(self) -> None:
        hold = self.break_off(AnyUser("kim", Role.READ_ONLY))
        self.successResultOf(self.directory.open(SimSpec(), "lee", "y", AnyUser("lee", Role.READ_ONLY), take=Take.ASK))
        assert isinstance(hold.over, TargetTaken)


class EmbeddingTests(SynchronousTestCase):
    def test_a_hook_that_fails_does_not_keep_the_target(self) -> None:
        clock = Clock()
        targets = SimulatedTargets(clock)
        directory = Directory(clock, Opener(clock, targets), {})
        failing = [lambda session: 1 / 0]
        directory.opened += failing
        self.failureResultOf(directory.open(SimSpec(), "kim", "x"), ZeroDivisionError)
        pass_time(clock, 1.5)
        assert list(directory) == []
        directory.opened.clear()
        self.successResultOf(directory.open(SimSpec(), "kim", "x"))
        targets.stop()
