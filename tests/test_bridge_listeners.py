from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import tempfile
import termios
import tty
from pathlib import Path
from typing import Any

import pytest
from transport_rigs import Recorder, open_descriptors, pause, until
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from kdsrv.bridge.listeners import is_loopback, listen_on_pty, listen_on_tcp, listen_on_unix
from kdsrv.errors import SetupError
from kdsrv.transports.transport import Transport


class Visit(Recorder):
    """One debugger's line."""

    def __init__(self, line: Transport) -> None:
        super().__init__()
        self.line = line
        line.start(self)


class ListenerCase(TestCase):
    """Lets one debugger in at a time, and sees that nothing is left at the end (that no timer is, trial sees)."""

    async def setUp(self) -> None:
        await pause()
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.visits: list[Visit] = []
        self.turned_away = 0
        self.before = open_descriptors(), len(reactor.getReaders())

    def accept(self, line: Transport) -> bool:
        if self.visits and not self.visits[-1].reasons:
            self.turned_away += 1
            return False
        self.visits.append(Visit(line))
        return True

    def check_nothing_is_left(self) -> None:
        for visit in self.visits:
            visit.line.close()
        assert (open_descriptors(), len(reactor.getReaders())) == self.before

    async def talk(self, connect: Any) -> None:
        """A debugger comes, another is turned away, the first talks and leaves, the next comes."""
        with connect() as first:
            await until(lambda: self.visits)
            first.sendall(b"hello")
            await until(lambda: self.visits[0].data == b"hello")
            self.visits[0].line.write(b"answer")
            assert first.recv(100) == b"answer"
            with connect() as second:
                await until(lambda: self.turned_away)
                await pause(0.01)
                assert second.recv(100) == b""
        await until(lambda: self.visits[0].reasons)
        with connect() as third:
            await until(lambda: len(self.visits) == 2)
            third.sendall(b"again")
            await until(lambda: self.visits[1].data == b"again")
        await until(lambda: self.visits[1].reasons)


@pytest.mark.parametrize(
    ("host", "confined"),
    [("127.0.0.1", True), ("127.5.5.5", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_who_reaches_a_host(host: str, confined: bool) -> None:
    assert is_loopback(host) is confined


class TcpTests(ListenerCase):
    async def test_debuggers_come_and_go(self) -> None:
        listener = listen_on_tcp(reactor, "127.0.0.1", 0, self.accept)
        assert listener.address == f"127.0.0.1:{listener.port}"
        await self.talk(lambda: socket.create_connection(("127.0.0.1", listener.port)))
        assert self.visits[0].line.description.startswith("127.0.0.1:")
        listener.close()
        listener.close()
        self.check_nothing_is_left()

    def test_a_port_in_use_is_a_sentence(self) -> None:
        listener = listen_on_tcp(reactor, "127.0.0.1", 0, self.accept)
        with pytest.raises(SetupError, match=rf"cannot listen on 127\.0\.0\.1:{listener.port}: Address already in use"):
            listen_on_tcp(reactor, "127.0.0.1", listener.port, self.accept)
        with pytest.raises(SetupError, match=r"cannot listen on 127\.0\.0\.1:99999"):
            listen_on_tcp(reactor, "127.0.0.1", 99999, self.accept)
        listener.close()
        self.check_nothing_is_left()

    async def test_without_descriptors_it_rests(self) -> None:
        """A socket that cannot be accepted stays readable: without a rest the reactor would do nothing else."""
        tries = 0

        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(listening, name)

            def accept(self) -> Any:
                nonlocal tries
                tries += 1
                raise OSError(errno.EMFILE, "Too many open files")

        listener = listen_on_tcp(reactor, "127.0.0.1", 0, self.accept)
        listening = listener._socket
        listener._socket = Full()
        with socket.create_connection(("127.0.0.1", listener.port)):
            await until(lambda: tries)
            await pause(0.1)
            assert tries == 1
            listener._socket = listening
            await until(lambda: self.visits)
        await until(lambda: self.visits[0].reasons)
        listener.close()
        self.check_nothing_is_left()

    async def test_a_closed_listener_lets_nobody_in(self) -> None:
        listener = listen_on_tcp(reactor, "127.0.0.1", 0, self.accept)
        port = listener.port
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        self.check_nothing_is_left()


class UnixTests(ListenerCase):
    def connect(self, path: Path) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        return connection

    async def test_debuggers_come_and_go(self) -> None:
        path = self.directory / "bridge"
        listener = listen_on_unix(reactor, path, self.accept)
        assert listener.address == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await self.talk(lambda: self.connect(path))
        listener.close()
        assert not path.exists()
        self.check_nothing_is_left()

    def test_the_socket_of_a_dead_process_is_replaced(self) -> None:
        path = self.directory / "bridge"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        listener = listen_on_unix(reactor, path, self.accept)
        self.connect(path).close()
        listener.close()
        self.check_nothing_is_left()

    async def test_a_live_socket_is_left_alone(self) -> None:
        path = self.directory / "bridge"
        listener = listen_on_unix(reactor, path, self.accept)
        with pytest.raises(SetupError, match="Address already in use"):
            listen_on_unix(reactor, path, self.accept)
        await until(lambda: self.visits)
        await until(lambda: self.visits[0].reasons)
        with self.connect(path):
            await until(lambda: len(self.visits) == 2)
        listener.close()
        self.check_nothing_is_left()

    def test_files_are_left_alone(self) -> None:
        path = self.directory / "precious"
        path.write_text("data")
        with pytest.raises(SetupError, match="Address already in use"):
            listen_on_unix(reactor, path, self.accept)
        assert path.read_text() == "data"
        self.check_nothing_is_left()

    def test_paths_that_cannot_be_are_sentences(self) -> None:
        with pytest.raises(SetupError, match=r"unix socket .*: AF_UNIX path too long"):
            listen_on_unix(reactor, self.directory / ("x" * 150), self.accept)
        with pytest.raises(SetupError, match="No such file or directory"):
            listen_on_unix(reactor, self.directory / "missing" / "bridge", self.accept)
        self.check_nothing_is_left()


class Slave:
    """A debugger that has the slave of a pty open. It sets no mode."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)

    def __enter__(self) -> Slave:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)

    def read(self) -> bytes:
        try:
            return os.read(self.descriptor, 100)
        except BlockingIOError:
            return b""


EVERY_BYTE = bytes(range(256))


class PtyTests(ListenerCase):
    async def test_debuggers_come_and_go_and_get_every_byte(self) -> None:
        listener = listen_on_pty(reactor, self.accept)
        for number in range(2):
            await pause(0.15)
            assert len(self.visits) == number
            with Slave(listener.address) as slave:
                await until(lambda: len(self.visits) == number + 1)  # noqa: B023
                visit = self.visits[number]
                os.write(slave.descriptor, EVERY_BYTE)
                await until(lambda: visit.data == EVERY_BYTE)  # noqa: B023
                visit.line.write(EVERY_BYTE)
                assert slave.read() + slave.read() + slave.read() == EVERY_BYTE
                assert not termios.tcgetattr(slave.descriptor)[3] & (termios.ECHO | termios.ICANON)
            await until(lambda: visit.reasons)  # noqa: B023
        assert listener.address in str(self.visits[0].reasons[0])
        listener.close()
        self.check_nothing_is_left()

    async def test_a_debugger_that_speaks_before_it_was_seen_is_heard(self) -> None:
        listener = listen_on_pty(reactor, self.accept)
        with Slave(listener.address) as slave:
            os.write(slave.descriptor, EVERY_BYTE)
            await until(lambda: self.visits)
            await until(lambda: self.visits[0].data == EVERY_BYTE)
        await until(lambda: self.visits[0].reasons)
        listener.close()
        self.check_nothing_is_left()

    async def test_what_one_debugger_did_not_read_is_not_for_the_next(self) -> None:
        listener = listen_on_pty(reactor, self.accept)
        with Slave(listener.address):
            await until(lambda: self.visits)
            self.visits[0].line.write(b"for the first")
        await until(lambda: self.visits[0].reasons)
        with Slave(listener.address) as slave:
            await until(lambda: len(self.visits) == 2)
            assert slave.read() == b""
            self.visits[1].line.write(b"for the second")
            assert slave.read() == b"for the second"
        await until(lambda: self.visits[1].reasons)
        listener.close()
        self.check_nothing_is_left()

    async def test_who_is_turned_away_is_turned_away_once(self) -> None:
        listener = listen_on_pty(reactor, self.accept)
        elsewhere = listen_on_tcp(reactor, "127.0.0.1", 0, self.accept)
        with socket.create_connection(("127.0.0.1", elsewhere.port)):
            await until(lambda: self.visits)
            with Slave(listener.address) as slave:
                await until(lambda: self.turned_away)
                os.write(slave.descriptor, b"of no use")
                await pause(0.35)
                assert self.turned_away == 1
            await pause(0.15)
        await until(lambda: self.visits[0].reasons)
        with Slave(listener.address) as slave:
            os.write(slave.descriptor, b"hello")
            await until(lambda: len(self.visits) == 2)
            await until(lambda: self.visits[1].data == b"hello")
        await until(lambda: self.visits[1].reasons)
        listener.close()
        elsewhere.close()
        self.check_nothing_is_left()

    async def test_the_link_leads_to_the_pty_and_goes_with_it(self) -> None:
        link = self.directory / "pty"
        link.symlink_to("/dev/pts/of-a-dead-process")
        listener = listen_on_pty(reactor, self.accept, link)
        assert os.readlink(link) == listener.address
        with Slave(str(link)):
            await until(lambda: self.visits)
            listener.close()
            listener.close()
            assert not os.path.lexists(link)
            self.visits[0].line.close()
        await pause(0.15)
        self.check_nothing_is_left()

    def test_files_are_left_alone(self) -> None:
        precious = self.directory / "precious"
        precious.write_text("data")
        with pytest.raises(SetupError, match="something else is there"):
            listen_on_pty(reactor, self.accept, precious)
        assert precious.read_text() == "data"
        with pytest.raises(SetupError, match="No such file or directory"):
            listen_on_pty(reactor, self.accept, self.directory / "missing" / "link")
        self.check_nothing_is_left()

    def test_raw_mode_is_what_it_says(self) -> None:
        listener = listen_on_pty(reactor, self.accept)
        slave = os.open(listener.address, os.O_RDWR | os.O_NOCTTY)
        mode = termios.tcgetattr(slave)
        tty.setraw(slave)
        assert termios.tcgetattr(slave)[:4] == mode[:4]
        os.close(slave)
        listener.close()
        self.check_nothing_is_left()
