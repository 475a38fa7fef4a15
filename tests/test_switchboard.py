"""The switchboard by hand, under a reactor that is no more than an epoll object and a clock; and with Twisted's own."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from kdsrv.transports.switchboard import Switchboard, watcher_of


class SmallReactor:
    """What a switchboard needs of a reactor. Time stands still unless ``tick`` is set."""

    def __init__(self) -> None:
        self._poller = select.epoll()
        self.readers: list[Any] = []
        self.now = 0.0
        self.tick = 0.0

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)
        self._poller.register(reader.fileno(), select.EPOLLIN)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)
        self._poller.unregister(reader.fileno())

    def seconds(self) -> float:
        self.now += self.tick
        return self.now


class Line:
    """A descriptor that notes what happens to it. ``then`` is called with what was read."""

    def __init__(self, end: socket.socket, then: Callable[[bytes], object] = len) -> None:
        self.end = end
        self.then = then
        self.seen: list[str] = []

    def fileno(self) -> int:
        return self.end.fileno()

    def logPrefix(self) -> str:
        return "a line"

    def doRead(self) -> None:
        data = self.end.recv(100)
        self.seen.append(data.decode())
        self.then(data)

    def doWrite(self) -> None:
        self.seen.append("can write")

    def connectionLost(self, reason: Failure) -> None:
        self.seen.append(f"lost: {type(reason.value).__name__}")


class Table:
    """A switchboard with lines, each with its far end."""

    def __init__(self) -> None:
        self.reactor = SmallReactor()
        self.board = Switchboard(self.reactor, self.reactor._poller)
        self.sockets: list[socket.socket] = []
        self.lines: list[Line] = []

    def line(self, then: Callable[[bytes], object] = len) -> tuple[Line, socket.socket]:
        near, far = socket.socketpair()
        near.setblocking(False)
        self.sockets += [near, far]
        line = Line(near, then)
        self.lines.append(line)
        self.board.addReader(line)
        return line, far

    def close(self) -> None:
        for line in self.lines:
            self.board.removeReader(line)
            self.board.removeWriter(line)
        for end in self.sockets:
            end.close()
        self.reactor._poller.close()


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table()
    yield made
    made.close()


def test_events_go_to_their_lines(table: Table) -> None:
    (one, far_one), (two, far_two) = table.line(), table.line()
    far_one.send(b"to one")
    far_two.send(b"to two")
    table.board.doRead()
    assert (one.seen, two.seen) == (["to one"], ["to two"])


def test_all_that_is_ready_comes_before_what_the_reactor_sees_next(table: Table) -> None:
    """A debugger that leaves and comes back at once must have left when it comes, however many do so."""
    lines = [table.line() for _ in range(200)]
    other, far_other = socket.socketpair()
    table.sockets += [other, far_other]
    table.reactor._poller.register(other, select.EPOLLIN)
    for _, far in lines:
        far.send(b"x")
    far_other.send(b"for the reactor")
    table.board.doRead()
    assert [line.seen for line, _ in lines] == [["x"]] * 200


def test_what_comes_meanwhile_needs_no_other_turn_of_the_reactor(table: Table) -> None:
    answers = iter((b"second", b"third"))
    line, far = table.line(lambda data: far.send(next(answers, b"")))
    far.send(b"first")
    table.board.doRead()
    assert line.seen == ["first", "second", "third"]


def test_lines_that_never_rest_leave_the_reactor_its_time(table: Table) -> None:
    line, far = table.line(lambda data: far.send(data))
    far.send(b"x")
    table.reactor.tick = 0.0009
    table.board.doRead()
    assert line.seen == ["x"] * 3


def test_what_the_reactor_watches_itself_ends_the_turn(table: Table) -> None:
    line, far = table.line(lambda data: far.send(data))
    other, far_other = socket.socketpair()
    table.sockets += [other, far_other]
    table.reactor._poller.register(other, select.EPOLLIN)
    far_other.send(b"for the reactor")
    far.send(b"x")
    table.board.doRead()
    assert line.seen == ["x"]


def test_what_the_reactor_watches_itself_ends_the_waiting(table: Table) -> None:
    other, far_other = socket.socketpair()
    table.sockets += [other, far_other]
    table.reactor._poller.register(other, select.EPOLLIN)
    line, far = table.line(lambda data: far_other.send(b"for the reactor"))
    far.send(b"x")
    table.reactor.tick = 0.0005
    table.board.doRead()
    assert line.seen == ["x"]
    assert table.reactor.now == 0.001


def test_a_line_that_is_gone_hears_nothing_more(table: Table) -> None:
    lines: list[Line] = []

    def close_both(data: bytes) -> None:
        for line in lines:
            table.board.removeReader(line)
            line.end.close()

    for _ in range(2):
        line, far = table.line(close_both)
        lines.append(line)
        far.send(b"x")
    table.board.doRead()
    assert sorted(line.seen for line in lines) == [[], ["x"]]


def test_reading_and_writing_are_watched_apart(table: Table) -> None:
    line, far = table.line()
    far.send(b"x")
    table.board.addWriter(line)
    table.board.removeReader(line)
    table.reactor.tick = 1
    table.board.doRead()
    assert line.seen == ["can write"]
    table.board.addReader(line)
    table.board.removeWriter(line)
    table.board.doRead()
    assert line.seen == ["can write", "x"]


def test_a_line_that_wants_to_write_no_more_is_not_told_that_it_can(table: Table) -> None:
    line, far = table.line(lambda data: table.board.removeWriter(line))
    table.board.addWriter(line)
    far.send(b"x")
    table.board.doRead()
    assert line.seen == ["x"]


def test_a_hang_up_with_nothing_to_read_is_a_loss(table: Table) -> None:
    line, far = table.line()
    table.board.addWriter(line)
    table.board.removeReader(line)
    far.close()
    line.end.shutdown(socket.SHUT_RDWR)
    table.reactor.tick = 1
    table.board.doRead()
    assert line.seen == ["lost: ConnectionLost"]


def test_an_error_at_one_line_leaves_the_others(table: Table) -> None:
    def fail(data: bytes) -> None:
        table.board.removeReader(bad)
        raise ZeroDivisionError

    (bad, far_bad), (good, far_good) = table.line(fail), table.line()
    far_bad.send(b"x")
    far_good.send(b"y")
    table.board.doRead()
    assert (bad.seen, good.seen) == (["x", "lost: ZeroDivisionError"], ["y"])


def test_nothing_is_open_without_lines(table: Table) -> None:
    assert (table.board.fileno(), table.reactor.readers) == (-1, [])
    line, _ = table.line()
    assert table.board.fileno() >= 0
    assert table.reactor.readers == [table.board]
    table.board.removeReader(line)
    table.board.removeReader(line)
    assert (table.board.fileno(), table.reactor.readers) == (-1, [])


def test_the_end_of_the_reactor_is_that_of_all_lines(table: Table) -> None:
    lines = [table.line()[0] for _ in range(2)]
    table.board.connectionLost(Failure(ConnectionDone()))
    assert [line.seen for line in lines] == [["lost: ConnectionDone"]] * 2


def test_this_twisted_has_what_a_switchboard_looks_at() -> None:
    board = watcher_of(reactor)
    assert isinstance(board, Switchboard)
    assert watcher_of(reactor) is board


def test_another_reactor_watches_by_itself() -> None:
    other = MemoryReactorClock()
    assert watcher_of(other) is other
