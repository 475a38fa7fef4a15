from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from transport_rigs import pause, until
from twisted.internet import reactor
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from kdsrv.connection_strings import BridgeSpec
from kdsrv.connection_strings.kd import SimSpec, UsbSpec
from kdsrv.errors import SetupError
from kdsrv.kd.host_link import HostLink
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.server.bridges import BridgeService, parse_listen
from kdsrv.sessions.directory import Directory
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.target import TargetState
from kdsrv.transports.opener import Opener
from kdsrv.transports.simulated import SimulatedTargets


class Debugger:
    """The plainest debugger on a socket."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.link = HostLink()
        self.packets: list[Packet] = []
        self.is_closed = False

    def look(self) -> None:
        """Take what has come, send what is to be sent."""
        now = reactor.seconds()
        try:
            data = self.socket.recv(65536)
            self.is_closed = not data
        except BlockingIOError:
            data = b""
        except ConnectionResetError:
            self.is_closed, data = True, b""
        events = [*self.link.receive(data, now), *self.link.expire(now)]
        self.packets += [event for event in events if isinstance(event, Packet)]
        output = self.link.take_output()
        if output and not self.is_closed:
            self.socket.sendall(output)

    async def attach(self) -> None:
        self.link.resync(reactor.seconds())
        await self.expect(PacketType.STATE_CHANGE64)

    async def break_in(self) -> None:
        self.link.break_in(reactor.seconds())
        await self.expect(PacketType.STATE_CHANGE64)

    async def read(self, address: int) -> bytes:
        self.ask(Manipulate.read_virtual(address, 8))
        return Manipulate.decode(await self.expect(PacketType.STATE_MANIPULATE)).data

    def ask(self, request: Manipulate) -> None:
        self.link.send(PacketType.STATE_MANIPULATE, request.encode(), reactor.seconds())
        self.look()

    async def expect(self, packet_type: int) -> bytes:
        await until(lambda: self.look() or self.packets)
        packet = self.packets.pop(0)
        assert packet.type == packet_type
        return packet.payload

    async def closed(self) -> None:
        await until(lambda: self.look() or self.is_closed)
        self.socket.close()


class BridgeServiceTests(TestCase):
    def setUp(self) -> None:
        self.targets = SimulatedTargets(reactor)
        self.directory = Directory(reactor, Opener(reactor, self.targets), {})
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)
        self.service: BridgeService | None = None

    async def tearDown(self) -> None:
        if self.service is not None:
            self.service.stopService()
        await self.directory.close_all()
        self.targets.stop()

    def log(self, event: Any) -> None:
        if event.get("log_namespace", "").startswith("kdsrv"):
            self.said.append(formatEvent(event))

    def count(self, words: str) -> int:
        return sum(words in line for line in self.said)

    def start(self, trans: Any = None, listen: str = "tcp:0") -> int:
        self.service = BridgeService(reactor, self.directory, BridgeSpec(listen, trans or SimSpec()))
        self.service.startService()
        assert self.service.address is not None
        return int(self.service.address.rpartition(":")[2] or 0) if listen.startswith("tcp") else 0

    async def test_a_debugger_comes_leaves_and_comes_again(self) -> None:
        port = self.start()
        assert list(self.directory) == []
        for number in (1, 2):
            debugger = Debugger(port)
            await debugger.attach()
            target = self.targets["sim"].target
            assert await debugger.read(KERNEL_BASE) == target.memory.read_virtual(KERNEL_BASE, 8)
            assert len(list(self.directory)) == 1
            debugger.socket.close()
            await until(lambda: self.count("has left") == number)  # noqa: B023
            await until(lambda: not list(self.directory))
            assert target.state is TargetState.STOPPED

    async def test_the_next_may_come_at_once(self) -> None:
        port = self.start()
        for _ in range(3):
            debugger = Debugger(port)
            await debugger.attach()
            await debugger.read(KERNEL_BASE)
            debugger.socket.close()
            await pause()

    async def test_a_running_target_is_broken_into(self) -> None:
        port = self.start(SimSpec(state="running"))
        debugger = Debugger(port)
        await debugger.break_in()
        await debugger.read(KERNEL_BASE)
        debugger.socket.close()

    async def test_a_second_debugger_is_turned_away(self) -> None:
        port = self.start()
        first = Debugger(port)
        await first.attach()
        await Debugger(port).closed()
        assert self.count("was turned away") == 1
        assert len(await first.read(KERNEL_BASE)) == 8
        first.socket.close()

    async def test_a_target_that_somebody_holds_is_refused_by_the_sentence(self) -> None:
        port = self.start()
        session = await self.directory.open(SimSpec(), "kim", "192.0.2.1")
        for number in (1, 2):
            await Debugger(port).closed()
            assert self.count("is held by kim from 192.0.2.1") == number
        self.directory.close(session)
        debugger = Debugger(port)
        await debugger.attach()
        debugger.socket.close()

    async def test_a_target_that_cannot_be_opened_is_logged_once(self) -> None:
        port = self.start(UsbSpec(targetname="lab"))
        await Debugger(port).closed()
        await pause(0.01)
        assert self.count("not supported") == 1
        assert self.flushLoggedErrors() == []

    async def test_a_status_that_only_counts_on_is_logged_once(self) -> None:
        port = self.start(SimSpec(state="running"))
        debugger = Debugger(port)
        await until(lambda: self.count("no byte from the target"))
        await pause(2.2)
        assert self.count("no byte from the target") == 1
        debugger.socket.close()
        await until(lambda: not list(self.directory))

    async def test_stopping_lets_the_debugger_go(self) -> None:
        port = self.start()
        debugger = Debugger(port)
        await debugger.attach()
        assert self.service is not None
        self.service.stopService()
        await debugger.closed()
        with pytest.raises(ConnectionRefusedError):
            Debugger(port)

    async def test_on_a_unix_socket(self) -> None:
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        path = directory / "bridge"
        self.start(listen=f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            await until(lambda: self.count("a debugger came"))
        await until(lambda: not list(self.directory))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("tcp:5001", ("127.0.0.1", 5001)),
        ("tcp:0:interface=192.0.2.1", ("192.0.2.1", 0)),
        (r"tcp:5001:interface=\:\:1", ("::1", 5001)),
        ("unix:/run/bridge", Path("/run/bridge")),
    ],
)
def test_where_a_bridge_may_listen(text: str, place: object) -> None:
    assert parse_listen(text) == place


@pytest.mark.parametrize(
    "text", ["", "tcp:", "tcp:x", "tcp:65536", "tcp:1:host=x", "tcp:1:xinterface=y", "unix:", "pty:"]
)
def test_where_it_may_not(text: str) -> None:
    with pytest.raises(SetupError, match="a bridge cannot listen on"):
        parse_listen(text)


def test_the_default_host_is_the_callers() -> None:
    assert parse_listen("tcp:1", "0.0.0.0") == ("0.0.0.0", 1)
