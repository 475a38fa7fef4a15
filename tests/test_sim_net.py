"""``kdsrv sim --net`` and the live target behind it, on real UDP on loopback."""

from __future__ import annotations

import argparse
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from background_program import BackgroundProgram
from net_debugger import KEY, NetDebugger
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.trial.unittest import TestCase
from typing_extensions import override

from kdsrv.commands.sim import configure, run
from kdsrv.errors import SetupError
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kdnet.control import NOWHERE, POKE, Address, Offer
from kdsrv.kdnet.datagrams import Channel, Seal
from kdsrv.kdnet.keys import NetKey
from kdsrv.kdnet.target import NetTarget
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.target import SimulatedTarget
from kdsrv.transports.simulated_net import LiveNetTarget

ROOT = Path(__file__).resolve().parents[1]


class UdpLine:
    """What a `NetDebugger` needs of a target, over a socket of the host; time is real."""

    deadline = None

    def __init__(self, host: str) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(0.02)
        self.address: Address = self.socket.getsockname()[:2]
        self.target: Address = NOWHERE

    def receive(self, data: bytes, sender: Address, now: float) -> None:
        self.socket.sendto(data, self.target)

    def expire(self, now: float) -> None:
        raise AssertionError

    def take_output(self) -> tuple[bytes, Address] | None:
        try:
            data, sender = self.socket.recvfrom(4096)
        except TimeoutError:
            return None
        self.target = sender[:2]
        return data, self.address


@contextmanager
def simulated(*options: str, host: str = "127.0.0.1", key: str | None = KEY.text) -> Iterator[tuple[UdpLine, str]]:
    """``kdsrv sim --net`` for the host at the end of the line, and what it says."""
    line = UdpLine(host)
    place = f"[{host}]" if ":" in host else host
    words = [sys.executable, "-m", "kdsrv.cli", "sim", "--net", f"{place}:{line.address[1]}", *options]
    with line.socket, BackgroundProgram(words + ([] if key is None else ["--key", key]), cwd=ROOT) as program:
        program.wait_for(r"reaches it as trans=@\{.*\}\n")
        yield line, program.text


def attach(line: UdpLine, key: NetKey = KEY) -> NetDebugger:
    """A debugger that hears the target."""
    debugger = NetDebugger(line, 0.0, key=key, address=line.address)
    for _ in range(200):
        if debugger.heard:
            return debugger
        debugger.pump()
    raise AssertionError("nothing is heard")


def check_memory(debugger: NetDebugger) -> None:
    memory = SimulatedTarget().memory
    for at in range(0, 0x1000, 1000):
        got = debugger.ask(Manipulate.read_virtual(KERNEL_BASE + at, 1000))
        assert got.data == memory.read_virtual(KERNEL_BASE + at, 1000)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_visit(host: str) -> None:
    with simulated(host=host) as (line, text):
        place = f"[{host}]" if ":" in host else host
        port = line.address[1]
        assert re.match(rf"simulated target \(halted\) at udp \S+:\d+, for {re.escape(place)}:{port}; Ctrl-C", text)
        assert f"a server on {host} reaches it as trans=@{{net:port={port},key=*}}\n" in text
        assert KEY.text not in text
        debugger = attach(line)
        assert (debugger.offer.own, debugger.offer.host) == ((host, line.target[1]), line.address)
        check_memory(debugger)


def test_a_key_is_made_where_none_is_given() -> None:
    with simulated(key=None) as (line, text):
        key = re.search(r"key=([0-9a-z.]+)", text)
        assert key is not None
        check_memory(attach(line, NetKey.parse(key[1])))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has all of 127.0.0.0/8")
def test_from_the_port_that_it_sends_to_as_real_targets_do() -> None:
    line = UdpLine("127.0.0.1")
    port = line.address[1]
    words = [sys.executable, "-m", "kdsrv.cli", "sim", "--net", f"127.0.0.1:{port}", "--from", f"127.0.0.2:{port}"]
    with line.socket, BackgroundProgram([*words, "--key", KEY.text], cwd=ROOT):
        debugger = attach(line)
        assert line.target == debugger.offer.own == ("127.0.0.2", port)


def test_a_bad_network_and_version_4() -> None:
    options = ["--loss", "0.05", "--damage", "0.05", "--duplicate", "0.1", "--reorder", "0.1", "--seed", "7"]
    with simulated(*options, "--net-version", "4", "--offer-every", "0.2") as (line, _):
        debugger = attach(line)
        assert debugger.version == 4
        check_memory(debugger)


def test_a_target_that_reboots() -> None:
    with simulated("--state", "running", "--reboot-after", "0.5", "--offer-every", "0.1") as (line, _):
        debugger = attach(line)
        first = debugger.offer.base
        while debugger.offer.base == first:
            debugger.pump()
        datagram, offer = next(heard for heard in debugger.offers if heard[1].base != first)
        assert (datagram.sequence, offer.bound) == (3, NOWHERE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pty", "--key", "1.2.3.4"], "--key goes with --net only"),
        (["--pty", "--net-version", "5"], "--net-version goes with --net only"),
        (["--pty", "--from", "1"], "--from goes with --net only"),
        (["--pty", "--offer-every", "1"], "--offer-every goes with --net only"),
        (["--pty", "--reorder", "0.5"], "--reorder goes with --net only"),
        (["--net", "127.0.0.1:50000", "--baud", "9600"], "--baud goes with a serial line"),
        (["--net", "127.0.0.1:50000", "--reorder", "2"], "reorder is a chance from 0 to 1"),
        (["--net", "127.0.0.1:50000", "--offer-every", "-1"], "not every -1"),
        (["--net", "127.0.0.1:50000", "--from", "192.0.2.1:50000"], "cannot use UDP port 50000 of 192.0.2.1"),
    ],
)
def test_wrong_options_are_one_sentence(arguments: list[str], message: str) -> None:
    parser = argparse.ArgumentParser()
    configure(parser)
    with pytest.raises(SetupError, match=re.escape(message)):
        run(reactor, parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--net", "127.0.0.1:50000", "--net-version", "7"], "targets have version 2, 4 or 5"),
        (["--net", "127.0.0.1"], "127.0.0.1 is not ADDRESS:PORT"),
        (["--net", "50000"], "50000 is not ADDRESS:PORT"),
        (["--net", "lab:50000"], "lab is no IP address"),
        (["--net", "127.0.0.1:0"], "127.0.0.1:0 is not ADDRESS:PORT"),
        (["--net", "127.0.0.1:70000"], "127.0.0.1:70000 is not"),
        (["--net", "127.0.0.1:50000", "--from", "x"], "x is not [ADDRESS:]PORT"),
        (["--net", "127.0.0.1:50000", "--key", "1.2.secret"], "a key is four components"),
        (["--net", "127.0.0.1:50000", "--ke", "1.2.3.4"], "unrecognized arguments"),
    ],
)
def test_the_command_line_is_checked(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    configure(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)
    told = capsys.readouterr().err
    assert message in told
    assert "secret" not in told


class Listening(DatagramProtocol):
    """A host that only looks at what comes, and answers when told to."""

    def __init__(self) -> None:
        self.control = Seal(KEY.control, KEY.mac)
        self._wanted: Callable[[Offer, Address], bool] = lambda offer, sender: False
        self._waiting: Deferred[tuple[Offer, Address]] = Deferred()

    def wait_for(self, wanted: Callable[[Offer, Address], bool]) -> Deferred[tuple[Offer, Address]]:
        self._wanted, self._waiting = wanted, Deferred()
        return self._waiting

    @override
    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        opened = self.control.open(datagram)
        assert opened is not None
        offer = Offer.decode(opened.payload)
        assert offer is not None
        if not self._waiting.called and self._wanted(offer, addr):
            self._waiting.callback((offer, addr))


class LiveNetTargetTests(TestCase):
    def setUp(self) -> None:
        ports: Any = reactor
        self.host = Listening()
        self.port = ports.listenUDP(0, self.host, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.place: Address = ("127.0.0.1", self.port.getHost().port)

    def live(self, host: Address | None, offer_period: float) -> LiveNetTarget:
        net = NetTarget(KEY, host, offer_period=offer_period, now=reactor.seconds())
        live = LiveNetTarget(reactor, net)
        self.addCleanup(live.stop)
        return live

    async def test_another_port(self) -> None:
        live = self.live(self.place, 0.05)
        offer, sender = await self.host.wait_for(lambda offer, sender: True)
        assert sender == offer.own == ("127.0.0.1", live.address[1])
        live.rebind(("127.0.0.1", 0))
        assert live.address != sender
        moved, other = await self.host.wait_for(lambda offer, other: other != sender)
        assert (moved.base, other, moved.own) == (offer.base, live.address, live.address)

    async def test_a_target_that_is_called(self) -> None:
        live = self.live(None, 60.0)
        offering = self.host.wait_for(lambda offer, sender: True)
        poke = self.host.control.seal(5, Channel.CONTROL, 1, True, POKE)
        self.host.transport.write(poke, ("127.0.0.1", live.address[1]))  # type: ignore[union-attr]
        offer, sender = await offering
        assert sender[1] == live.address[1]
        assert offer.host == NOWHERE

    def test_a_port_that_is_taken(self) -> None:
        net = NetTarget(KEY, self.place)
        with pytest.raises(SetupError, match=f"cannot use UDP port {self.place[1]} of 127.0.0.1"):
            LiveNetTarget(reactor, net, bind=self.place)
