"""The whole path with real processes and sockets: debugger, ``kdsrv connect``, server, target."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from running_programs import KDSRV, TWISTD, Client, Debugger, Server, Simulation, fake_server, run_program, until
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.trial.unittest import TestCase

from kdsrv.client.connecting import connect
from kdsrv.commands.machine_end import offer_fifos, offer_pty, offer_tcp, offer_unix
from kdsrv.connection_strings import parse_kdsrv_string
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.sessions.status import Status
from kdsrv.sim.faults import FaultRates
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget
from kdsrv.transports.simulated import LiveTarget
from kdsrv.wire.connection import Connection
from kdsrv.wire.messages import Attach, Attached, ClientHello, Role


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running
    assert "Traceback" not in running.text, running.text


def ask_with_sockets(server: Server, trans: str) -> Any:
    """A blocking client of the kdsrv protocol that only attaches; it is killed by a reset."""
    connection, line = Connection(Role.CLIENT), socket.create_connection(("127.0.0.1", server.port), 5)
    line.sendall(connection.send(ClientHello("a test")))
    connection.receive_data(line.recv(65536))
    line.sendall(connection.send(Attach(trans, "kim@desk")))
    events: list[Any] = []
    while not any(isinstance(event, Attached) for event in events):
        data = line.recv(65536)
        assert data, events
        events += connection.receive_data(data)
    return line


def test_a_second_client_is_told_who_holds_the_target(server: Server) -> None:
    with Client(server.string("sim:name=held")) as client:
        client.wait_event("ready")
        second = run_program((*KDSRV, "connect", "--tcp", "0", "-k", server.string("sim:name=held")))
        assert second.status == 1
        assert "sim:name=held is held by " in second.text
        assert f"@{socket.gethostname()} from 127.0.0.1:" in second.text
        assert f"since {time.strftime('%Y-')}" in second.text
        with Debugger(client.bridge) as debugger:
            debugger.halt()
            assert debugger.read(KERNEL_BASE, 2) == b"MZ", "the first one notices nothing"


def test_a_killed_client_frees_its_target_at_once(server: Server) -> None:
    """In the middle of a read, so that the target's answer comes when nobody is there. It did not want to come back."""
    trans = "sim:name=killed,baud=115200"
    with Client(server.string(trans), "--tcp", "0", "--no-reconnect") as first:
        with Debugger(first.bridge) as debugger:
            stop = StateChange.decode(debugger.halt().payload)
            for _ in range(3):
                debugger.send(Manipulate.read_virtual(KERNEL_BASE, 3000))
            time.sleep(0.05)
            first.process.kill()
            killed = time.monotonic()
        first.process.wait()
        ask_with_sockets(server, trans).close()
        assert time.monotonic() - killed < 1.0
    with Client(server.string(trans)) as second:
        status = second.wait_event("status", kind="halted")
        assert status["address"] == f"{stop['program_counter']:#x}"
        with Debugger(second.bridge) as debugger:
            assert StateChange.decode(debugger.halt().payload)["program_counter"] == stop["program_counter"]
            assert debugger.read(KERNEL_BASE, 2) == b"MZ"


@pytest.mark.parametrize("busy", [False, True])
def test_a_target_that_vanishes(server: Server, busy: bool) -> None:
    """A pty whose master is closed is what an unplugged serial port is; a Simulation is ended by SIGKILL."""
    with Simulation("--pty") as target, Client(server.string("sim:name=other")) as other:
        trans = f"com:port={target.place},baud=115200"
        with Client(server.string(trans), "--tcp", "0", "--no-reconnect") as client, ExitStack() as stack:
            client.wait_event("status", kind="halted")
            debugger = stack.enter_context(Debugger(client.bridge))
            debugger.halt()
            if busy:
                for _ in range(5):
                    debugger.send(Manipulate.read_virtual(KERNEL_BASE, 3000))
            target.process.kill()
            assert client.process.wait(5) == 1
            (error,) = client.events("error")
            assert error["code"] == "link-lost"
            assert "unplugged or its other end closed" in error["message"]
        with Debugger(other.bridge) as debugger:
            debugger.halt()
            assert debugger.read(KERNEL_BASE, 2) == b"MZ", "who uses another target notices nothing"
        again = run_program((*KDSRV, "connect", "--tcp", "0", "-k", server.string(trans)))
        assert again.status == 1
        assert "there is no such device" in again.text, "the lost session does not hold the target"


def test_a_pipe_that_comes_and_goes(server: Server, tmp_path: Path) -> None:
    """As with a virtual machine that is switched off and on: the debugger keeps its line."""
    path = str(tmp_path / "vm")
    with Client(server.string(f"com:pipe,port={path},reconnect")) as client:
        client.wait_event("status", kind="interrupted")
        with Debugger(client.bridge) as debugger:
            for round_ in (1, 2):
                with Simulation("--unix", path) as machine:
                    client.wait_event("status", round_, kind="halted")
                    debugger.halt()
                    assert debugger.read(KERNEL_BASE, 2) == b"MZ"
                    machine.process.kill()
                    machine.process.wait()
                client.wait_event("status", round_ + 1, kind="interrupted")
        assert client.events("lost") == []


def test_a_bridge_of_the_server() -> None:
    """Without any client; the second debugger is turned away, and the next one finds the target as it was left."""
    options = ("--bridge", "listen=@{tcp:0},trans=@{sim:}")
    with Server(*options) as server:
        place = server.wait_for(r"a debugger finds sim: on 127\.0\.0\.1:(\d+)")
        address = ("127.0.0.1", int(place[1]))
        for _ in range(2):
            with Debugger(address) as debugger:
                debugger.halt()
                assert debugger.read(KERNEL_BASE, 2) == b"MZ"
                with socket.create_connection(address, 5) as second:
                    assert second.recv(1) == b""
                assert debugger.read(KERNEL_BASE, 2) == b"MZ"
            server.wait_for("turned away")
        assert "Traceback" not in server.text


GARBAGE: tuple[Callable[[random.Random], bytes], ...] = (
    lambda dice: b"GET / HTTP/1.1\r\n\r\n",
    lambda dice: bytes.fromhex("16030100c8010000c40303") + dice.randbytes(200),
    lambda dice: b"\xff\xff\xff\xff\x01",
    lambda dice: b"\0\0\0\x09\x01half",
    lambda dice: b"",
    lambda dice: dice.randbytes(dice.randrange(5, 5000)),
    lambda dice: bytes(200_000),
)


def test_a_debugger_may_come_back_at_once() -> None:
    """It is not taken for a second one, though the bridge has not read to the end of its old line."""
    with Server("--bridge", "listen=@{tcp:0},trans=@{sim:name=own}") as server, Client(server.string()) as client:
        place = server.wait_for(r"a debugger finds sim:name=own on 127\.0\.0\.1:(\d+)")
        for address in (("127.0.0.1", int(place[1])), client.bridge):
            for _ in range(12):
                with Debugger(address) as debugger:
                    debugger.halt()
                    debugger.send(Manipulate.read_virtual(KERNEL_BASE, 3000))
        assert "turned away" not in server.text
        assert client.events("debugger")[-1]["state"] in ("came", "left")
        assert all(event["state"] != "refused" for event in client.events("debugger"))


def test_a_server_keeps_nothing_of_those_who_left() -> None:
    dice = random.Random(7)
    with Server() as server:

        def rounds(count: int) -> None:
            for number in range(count):
                line = ask_with_sockets(server, "sim:")
                if number % 2:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                line.close()

        def garbage(count: int) -> None:
            for number in range(count):
                with socket.create_connection(("127.0.0.1", server.port), 5) as line:
                    try:
                        line.sendall(GARBAGE[number % len(GARBAGE)](dice))
                        if number % 3 == 0:
                            line.shutdown(socket.SHUT_WR)
                            while line.recv(65536):
                                pass
                    except OSError:
                        pass  # it closed before it had read all

        rounds(5)
        garbage(20)
        line = ask_with_sockets(server, "sim:")
        line.close()
        before, resident = server.descriptors, server.resident
        rounds(50)
        garbage(200)
        until(lambda: server.descriptors <= before)
        assert server.resident < resident + 3_000_000
        with Client(server.string()) as client, Debugger(client.bridge) as debugger:
            debugger.halt()
            assert debugger.read(KERNEL_BASE, 2) == b"MZ"
        assert "Traceback" not in server.text, server.text


def test_the_answer_to_garbage_arrives() -> None:
    with Server() as server:
        for garbage, word in ((b"GET / HTTP/1.1\r\n\r\n", b"HTTP"), (b"\x16\x03\x01" * 100_000, b"TLS")):
            with socket.create_connection(("127.0.0.1", server.port), 5) as line:
                with contextlib.suppress(OSError):
                    line.sendall(garbage)
                assert word in line.recv(65536)


class SixteenTargetsTests(TestCase):
    """Sixteen sessions at once on one server, over all media; each target holds data that no other has."""

    timeout = 60
    sessions = 16
    reads = 60

    async def test_no_byte_goes_astray(self) -> None:
        with tempfile.TemporaryDirectory() as folder, Server() as server:
            targets = [_Target(number, folder) for number in range(self.sessions)]
            for target in targets:
                await target.attach(server)
            before = server.descriptors
            await gatherResults([target.ask(self.reads) for target in targets], consumeErrors=True)
            assert server.descriptors == before
            kinds = {packet.type for target in targets for packet in target.others}
            assert kinds == {PacketType.STATE_CHANGE64}
            for target in targets:
                await target.end()
            assert "Traceback" not in server.text, server.text


SCRATCH = KERNEL_BASE + 0x2000
SIZE = 2048


class _Target:
    """A simulated target of the test's own process, and its session."""

    def __init__(self, number: int, folder: str) -> None:
        self.others: list[Packet] = []
        self._dice = random.Random(number)
        self._data = self._dice.randbytes(SIZE)
        self._live = LiveTarget(reactor, SimulatedTarget(SimOptions(), reactor.seconds()), FaultRates(), 0)
        assert self._live.target.memory.write_virtual(SCRATCH, self._data) == SIZE
        self._trans, self._close = self._offer(number % 4, f"{folder}/{number}")
        self._asked: list[tuple[int, int]] = []
        self._left = 0
        self._done: Deferred[None] = Deferred()
        self._halted: Deferred[None] = Deferred()

    def _offer(self, medium: int, path: str) -> tuple[str, Callable[[], Any]]:
        """One medium after the other: its kd-string, and how to end it."""
        if medium == 0:
            where, end = offer_pty(reactor, self._live)
            return f"com:port={where.split()[-1]},baud=115200", end
        if medium == 1:
            return f"com:pipe,port={path}", offer_fifos(reactor, self._live, path)[1]
        if medium == 2:
            return f"com:pipe,port={path}", offer_unix(reactor, self._live, path)[1]
        where, end = offer_tcp(reactor, self._live, "127.0.0.1", 0)
        return f"com:ipport={where.rpartition(':')[2]},port=127.0.0.1", end

    async def attach(self, server: Server) -> None:
        self._session, _ = await connect(reactor, parse_kdsrv_string(server.string(self._trans)))
        self._session.user = self
        await self._halted

    def ask(self, reads: int) -> Deferred[None]:
        """Many reads at once; fires when each was answered with this target's own data."""
        self._left = reads
        for _ in range(reads):
            offset = self._dice.randrange(SIZE)
            count = self._dice.randrange(1, SIZE - offset + 1)
            self._asked.append((offset, count))
            request = Manipulate.read_virtual(SCRATCH + offset, count)
            self._session.send_packet(PacketType.STATE_MANIPULATE, request.encode())
        return self._done

    async def end(self) -> None:
        self._session.leave()
        await self._session.disconnected
        self._live.stop()
        await maybeDeferred(self._close)

    def packet_received(self, packet: Packet) -> None:
        if packet.type != PacketType.STATE_MANIPULATE:
            self.others.append(packet)
            if not self._halted.called:
                self._halted.callback(None)
            return
        reply = Manipulate.decode(packet.payload)
        offset, count = self._asked.pop(0)
        if (reply["address"], reply.data) != (SCRATCH + offset, self._data[offset : offset + count]):
            self._done.errback(AssertionError("another target's data"))
        self._left -= 1
        if not self._left:
            self._done.callback(None)

    def status_changed(self, status: Status) -> None:
        pass

    def resynced(self) -> None:
        raise AssertionError

    def requests_lost(self, count: int) -> None:
        self._done.errback(AssertionError(f"{count} requests were lost"))

    def session_lost(self, reason: Exception) -> None:
        self._done.errback(reason)


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    with fake_server(b"") as busy:
        own = ("--pidfile", str(tmp_path / "pid"), "--logfile", str(tmp_path / "log"))
        ended = run_program((*TWISTD, *own, "kdsrv", "--listen", f"tcp:{busy}:interface=127.0.0.1"))
    assert ended.status == 1
    assert f"127.0.0.1:{busy}: Address already in use" in ended.text
    assert "Address already in use" in (tmp_path / "log").read_text()
    assert not (tmp_path / "pid").exists()


def test_a_daemon_that_starts(tmp_path: Path) -> None:
    """It serves, and SIGTERM ends it."""
    log, pid = tmp_path / "log", tmp_path / "pid"
    own = ("--pidfile", str(pid), "--logfile", str(log))
    ended = run_program((*TWISTD, *own, "kdsrv", "--listen", f"unix:{tmp_path}/socket"))
    assert ended.status == 0, ended.text
    until(lambda: pid.exists() and pid.read_text())
    daemon = int(pid.read_text())
    try:
        until(lambda: f"listens on {tmp_path}/socket" in log.read_text())
        assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(tmp_path / "socket"))
            line.sendall(b"GET / HTTP/1.1\r\n")
            assert b"HTTP" in line.recv(4096)
    finally:
        os.kill(daemon, signal.SIGTERM)
    until(lambda: not pid.exists())
    assert not (tmp_path / "socket").exists()
