"""Recording under a clock: when things reach the disk, what a failing disk does, how it ends; and the options."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from recordings import BEGIN, LEASE, printed
from running_programs import until
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from zope.interface import implementer

from kdsrv.errors import SetupError
from kdsrv.recorder.disk import DiskThread
from kdsrv.recorder.entries import Note, PacketSeen
from kdsrv.recorder.files import OutputFile, open_file
from kdsrv.recorder.limits import RecordLimits
from kdsrv.recorder.reading import read_recording
from kdsrv.recorder.recorder import Recorder
from kdsrv.recorder.service import RecordingService
from kdsrv.sessions.session import Session
from kdsrv.tap import Options


class FakeSession:
    """As much of a session as is recorded."""

    def __init__(self, name: str = "sim:") -> None:
        self.name = name
        self.description = "a line"
        self.lease = LEASE
        self.observers: list[Recorder] = []

    def observe(self, observer: Recorder) -> Callable[[], None]:
        self.observers.append(observer)
        return lambda: self.observers.remove(observer)

    def prints(self, text: str) -> None:
        for observer in self.observers:
            observer.packet_from_target(printed(text))

    def ends(self) -> None:
        for observer in self.observers:
            observer.session_ended()


class FakeDisk:
    """Does at once what it is to do, or keeps it as long as it ``hangs``."""

    def __init__(self) -> None:
        self.hangs = False
        self.waiting: list[Callable[[], None]] = []
        self.stopped = False

    def run(self, act: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()

        def job() -> None:
            try:
                done.callback(act())
            except Exception:
                done.errback(Failure())

        self.waiting.append(job)
        self.work()
        return done

    def work(self) -> None:
        while self.waiting and not self.hangs:
            self.waiting.pop(0)()

    def stop(self) -> None:
        self.stopped = True


class Bench:
    """A recording service, and sessions to record."""

    def __init__(self, path: Path, **by_target: Path) -> None:
        self.clock = Clock()
        self.disk = FakeDisk()
        self.error: int | None = None
        self.path = path
        self.opened: list[Callable[[Session], None]] = []
        self.service = RecordingService(
            self.clock,
            path,
            by_target,
            RecordLimits(),
            disk=self.disk,
            wall_clock=lambda: BEGIN + int(self.clock.seconds() * 10**9),
            open_file=self._open,
        )
        self.service.watch(cast(Any, self))
        self.service.startService()

    def _open(self, path: Path) -> OutputFile:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        return open_file(path)

    def open(self, name: str = "sim:") -> FakeSession:
        session = FakeSession(name)
        for opened in self.opened:
            opened(cast(Any, session))
        return session

    def wait(self, seconds: float) -> None:
        self.clock.pump([0.1] * round(seconds * 10))

    def texts(self, path: Path | None = None) -> list[str]:
        """What is on the disk: the kinds of notes, and what was printed."""
        found = []
        for file in sorted((path or self.path).glob("*.pcapng")):
            for entry in read_recording(file):
                match entry:
                    case PacketSeen(_, _, (_, payload)):
                        found.append(payload[16:].decode("cp1252"))
                    case Note(_, kind):
                        found.append(kind)
        return found

    def stop(self) -> None:
        stopped = self.service.stopService()
        self.wait(4)
        assert stopped.called
        assert self.clock.getDelayedCalls() == []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "all", rack1=tmp_path / "one")
    yield bench
    if bench.service.running:
        bench.disk.hangs = False
        bench.disk.work()
        bench.stop()


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines that the service logs."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def keep(event: LogEvent) -> None:
        if event["log_namespace"].startswith("kdsrv.recorder"):
            lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(keep)
    yield lines
    globalLogPublisher.removeObserver(keep)


def test_what_is_said_is_on_the_disk_within_half_a_second(bench: Bench) -> None:
    session = bench.open()
    for number in range(3):
        session.prints(f"{number}")
        bench.wait(0.6)
        assert bench.texts() == ["session", *map(str, range(number + 1))]


def test_a_burst_is_written_at_once(bench: Bench) -> None:
    session = bench.open()
    for _ in range(1000):
        session.prints("x")
    bench.clock.pump([0.0] * 20)
    assert len(bench.texts()) == 1001


def test_no_turn_of_the_reactor_takes_all(bench: Bench) -> None:
    session = bench.open()
    for _ in range(1000):
        session.prints("x")
    bench.disk.hangs = True
    bench.clock.advance(0)
    for done in (201, 401):
        bench.disk.waiting.pop()()
        assert len(bench.texts()) == done
        assert not bench.disk.waiting
        bench.clock.advance(0)


def test_sessions_take_turns(bench: Bench) -> None:
    first, second = bench.open("sim:name=a"), bench.open("sim:name=b")
    for _ in range(900):
        first.prints("a")
    second.prints("b")
    bench.disk.hangs = True
    bench.clock.advance(0.5)
    for written in (["a"] * 200, ["a"] * 200 + ["b"], ["a"] * 400 + ["b"]):
        bench.disk.waiting.pop()()
        assert [text for text in bench.texts() if text != "session"] == written
        bench.clock.advance(0)


def test_published_targets_may_have_their_own_directory(bench: Bench, tmp_path: Path) -> None:
    bench.open("target:name=rack1").prints("one")
    bench.open("target:name=rack2").prints("two")
    bench.wait(1)
    assert bench.texts(tmp_path / "one") == ["session", "one"]
    assert bench.texts() == ["session", "two"]
    assert list((tmp_path / "one").glob("rack1-2026-*.pcapng"))


def test_only_those_that_are_asked_for_are_recorded(tmp_path: Path) -> None:
    clock = Clock()
    service = RecordingService(clock, None, {"rack1": tmp_path / "x"}, disk=FakeDisk())
    service.startService()
    bench = SimpleNamespace(opened=[])
    service.watch(cast(Any, bench))
    for name, observers in (("rack1", 1), ("rack2", 0)):
        session = FakeSession(f"target:name={name}")
        bench.opened[0](session)
        assert len(session.observers) == observers
    service.stopService()
    clock.advance(5)


def test_the_end_of_a_session_ends_its_recording(bench: Bench) -> None:
    session = bench.open()
    session.prints("x")
    session.ends()
    bench.clock.advance(0)
    assert bench.texts() == ["session", "x", "ended"]
    assert not any(folder.open_recordings for folder in bench.service._folders.values())


def test_a_full_disk_is_told_once_and_recording_goes_on_when_it_can(bench: Bench, log: list[str]) -> None:
    session = bench.open()
    bench.error = errno.ENOSPC
    session.prints("a")
    bench.wait(40)
    session.prints("b")
    bench.wait(30)
    why = "No space left on device. The session goes on, its recording when it can"
    assert log == [f"the session on sim: is not recorded now: {why}"]
    assert bench.texts() == []
    bench.error = None
    bench.wait(31)
    assert log[1:] == ["the session on sim: is recorded again"]
    assert bench.texts() == ["session", "a", "b"]


def test_no_descriptors_left(bench: Bench, log: list[str]) -> None:
    bench.error = errno.EMFILE
    bench.open().prints("a")
    bench.wait(1)
    assert "Too many open files" in log[0]


def test_a_session_that_ends_while_the_disk_is_full_is_let_go(bench: Bench) -> None:
    bench.error = errno.ENOSPC
    session = bench.open()
    session.prints("a")
    bench.wait(1)
    session.ends()
    bench.wait(1)
    bench.error = None
    bench.wait(60)
    assert bench.texts() == []
    assert not bench.service._at_work


def test_a_disk_that_hangs_holds_up_nothing(bench: Bench) -> None:
    bench.disk.hangs = True
    session = bench.open()
    for _ in range(5000):
        session.prints("x" * 3900)
        bench.clock.advance(0.01)
    assert len(bench.disk.waiting) == 1
    bench.disk.hangs = False
    bench.disk.work()
    bench.wait(2)
    session.prints("again")
    bench.wait(1)
    found = bench.texts()
    assert found.count("lost") == 1
    assert found[-2:] == ["lost", "again"]


def test_the_end_waits_for_the_sessions_and_the_disk(bench: Bench) -> None:
    session = bench.open()
    session.prints("x")
    stopped = bench.service.stopService()
    bench.wait(1)
    assert not stopped.called
    session.prints("y")
    session.ends()
    bench.clock.advance(0)
    bench.clock.advance(0)
    assert stopped.called
    assert bench.disk.stopped
    assert bench.texts() == ["session", "x", "y", "ended"]
    assert bench.clock.getDelayedCalls() == []


def test_the_end_does_not_wait_for_ever(bench: Bench) -> None:
    bench.disk.hangs = True
    session = bench.open()
    session.prints("x")
    bench.stop()
    assert session.observers == []


def test_an_error_inside_ends_the_recording_and_not_the_session(bench: Bench, log: list[str]) -> None:
    session = bench.open()
    session.prints("x")
    bench.wait(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdsrv.recorder.files.Recording.append", lambda *_: 1 / 0)
        session.prints("y")
        bench.wait(1)
    assert log == ["the recording of sim: ends by an error inside kdsrv"]
    assert session.observers == []
    assert bench.texts() == ["session", "x"]


def test_a_directory_that_cannot_be_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    service = RecordingService(Clock(), tmp_path / "file")
    with pytest.raises(SetupError, match=r"cannot put recordings into .*/file: File exists"):
        service.startService()


def test_what_opens_while_the_server_starts_is_recorded_too(tmp_path: Path) -> None:
    """As a target does that the server itself watches."""
    clock = Clock()
    service = RecordingService(clock, tmp_path / "x", disk=FakeDisk(), wall_clock=lambda: BEGIN)
    opened: list[Callable[[Session], None]] = []
    service.watch(cast(Any, SimpleNamespace(opened=opened)))
    session = FakeSession()
    opened[0](cast(Any, session))
    session.prints("early")
    service.startService()
    clock.advance(1)
    service.stopService()
    clock.advance(5)
    assert b"early" in next((tmp_path / "x").glob("*.pcapng")).read_bytes()
    opened[0](cast(Any, FakeSession()))
    assert not service._at_work


class ThreadReactor:
    """Runs what comes from a thread when told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def callFromThread(self, call: Callable[..., None], *words: Any) -> None:  # noqa: N802
        self.calls.append(lambda: call(*words))


def test_the_thread_does_one_thing_after_the_other() -> None:
    reactor = ThreadReactor()
    disk = DiskThread(reactor)
    done: list[object] = []
    for number in range(3):
        disk.run(partial(divmod, 6, number)).addBoth(done.append)
    disk.stop()
    until(lambda: len(reactor.calls) == 3)
    for call in reactor.calls:
        call()
    assert isinstance(done[0], Failure)
    assert done[0].check(ZeroDivisionError)
    assert done[1:] == [(6, 0), (3, 0)]


# The options


def options(*words: str) -> Options:
    parsed = Options()
    parsed.parseOptions(["--listen", "tcp:0", "--no-password", *words])
    return parsed


def test_nothing_is_recorded_unless_asked_for() -> None:
    assert options().recorded is None


def test_what_the_options_come_to(tmp_path: Path) -> None:
    target = ("--target", "rack1=sim:")
    words = ("--record-size", "2M", "--record-age", "2h", "--record-space", "8M")
    service = options(*target, "--record", f"{tmp_path}/a=b", "--record", f"rack1={tmp_path}/c", *words).recorded
    assert service is not None
    assert {str(path): folder.limits for path, folder in service._folders.items()} == dict.fromkeys(
        (f"{tmp_path}/a=b", f"{tmp_path}/c"), RecordLimits(2 << 20, 7200, 8 << 20)
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--record", ""), "--record: '' names no directory"),
        (("--record", "rack1="), "--record: 'rack1=' names no directory"),
        (("--record", "rack1=/x"), r"--record: 'rack1' is no published target \(none is\); see --target"),
        (("--record", "/x", "--record-size", "1"), "--record: a recording of 1 bytes is too small: 1M or more"),
        (("--record", "/x", "--record-space", "x"), "--record-space: 'x' is not a size: 64M, 1G"),
        (("--record", "/x", "--record-age", "1y"), "--record-age: '1y' is not a time: 90m, 12h, 7d"),
        (("--record-age", "1d"), "there are limits of recordings, but no --record DIR that says where they go"),
    ],
)
def test_mistakes(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        options(*words)
