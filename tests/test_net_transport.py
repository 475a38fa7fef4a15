"""KDNET transports on a still clock and real sockets: what is told, who is heard, what is left behind."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from transport_rigs import KEY, OTHER_KEY, Recorder, StillReactor, closed_on_exec, free_udp_port, open_descriptors
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from kdsrv.connection_strings import NetSpec
from kdsrv.errors import TargetError
from kdsrv.kd.packets import PacketType, encode_control
from kdsrv.kdnet.control import POKE, Address
from kdsrv.kdnet.datagrams import Channel, Seal
from kdsrv.kdnet.keys import NetKey
from kdsrv.kdnet.target import NetTarget
from kdsrv.sessions.net_status import (
    NetRebooted,
    NetSilent,
    NetTakenOver,
    NetUnanswered,
    NetWaiting,
    NetWrongKey,
)
from kdsrv.sessions.status import Status
from kdsrv.sim.options import SimOptions
from kdsrv.transports.net import NetTransport, open_net
from kdsrv.transports.net_port import NetPort, place

WEAK_KEY = "1.2.3.4"
RESET = encode_control(PacketType.RESET, 0x80000000)


class Told(Recorder):
    """Also what it was told as a status."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[Any] = []
        self.packets: list[bytes] = []

    def bytes_received(self, data: bytes) -> int:
        self.packets.append(data)
        return super().bytes_received(data)

    def transport_interrupted(self, why: str | Status) -> None:
        self.statuses.append(why)
        self.events.append("interrupted")

    @property
    def is_up(self) -> bool:
        return bool(self.events) and self.events[-1] == "resumed"

    @property
    def last(self) -> Any:
        return self.statuses[-1]


class Machine:
    """A target with a socket; it is carried on by the bench."""

    def __init__(self, bench: Bench, key: str, port: int, host: str = "127.0.0.1", **options: Any) -> None:
        self.host = host
        self.socket = self.bind(host)
        options.setdefault("options", SimOptions(state="running"))
        own = random.Random(f"{key}{len(bench.machines)}")
        self.target = NetTarget(NetKey.parse(key), ("127.0.0.1", port), random=own, now=bench.now, **options)
        self.deaf = False

    def bind(self, host: str) -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((host, 0))
        made.setblocking(False)
        return made

    @property
    def address(self) -> Address:
        host, port, *_ = self.socket.getsockname()
        return host, port

    def move(self, host: str) -> None:
        """Go on from another port, or another address."""
        self.socket.close()
        self.socket = self.bind(host)

    def carry(self, now: float) -> bool:
        """Whether there was something to carry."""
        busy = False
        while (output := self.target.take_output()) is not None:
            with contextlib.suppress(OSError):  # no way there from here
                self.socket.sendto(*output)
            busy = True
        while True:
            try:
                data, sender = self.socket.recvfrom(4096)
            except BlockingIOError:
                return busy
            busy = True
            if not self.deaf:
                self.target.receive(data, sender[:2], now)


class Bench:
    """The host, the machines, and the time between them."""

    def __init__(self) -> None:
        self.still = StillReactor()
        self.still.advance(1000.0)
        self.machines: list[Machine] = []
        self.transports: list[NetTransport] = []

    @property
    def now(self) -> float:
        return self.still.seconds()

    def machine(self, key: str, port: int, **options: Any) -> Machine:
        self.machines.append(Machine(self, key, port, **options))
        return self.machines[-1]

    def open(self, spec: NetSpec) -> tuple[NetTransport, Told]:
        opened: list[NetTransport] = []
        Deferred.fromCoroutine(open_net(self.still, spec)).addCallback(opened.append)
        (transport,) = opened
        self.transports.append(transport)
        told = Told()
        transport.start(told)
        self.run(0.0)
        return transport, told

    def run(self, seconds: float) -> None:
        """Let time pass, in steps of an eighth of a second, and everybody say what they have to say."""
        end = self.now + seconds
        while True:
            self.still.advance(0)
            while any([machine.carry(self.now) for machine in self.machines] + [self.read()]):
                pass
            if self.now >= end:
                self.still.advance(0)
                return
            self.still.advance(min(0.125, end - self.now))
            for machine in self.machines:
                deadline = machine.target.deadline
                if deadline is not None and deadline <= self.now:
                    machine.target.expire(self.now)

    def read(self) -> bool:
        """Let the ports read; whether there may be more."""
        for port in tuple(self.still.readers):
            assert isinstance(port, NetPort)
            port.doRead()
        return False

    def close(self) -> None:
        for transport in self.transports:
            transport.close()
        for machine in self.machines:
            machine.socket.close()


class NetCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.before = open_descriptors()
        self.bench = Bench()
        self.port = free_udp_port()

    def tearDown(self) -> None:
        self.bench.close()
        assert self.bench.still.getDelayedCalls() == []
        assert self.bench.still.readers == set()
        assert open_descriptors() == self.before

    def sender(self, host: str = "127.0.0.1") -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((host, 0))
        made.connect(("127.0.0.1", self.port))
        self.addCleanup(made.close)
        return made

    def connected(self, **options: Any) -> tuple[NetTransport, Told, Machine]:
        machine = self.bench.machine(KEY, self.port, **options)
        transport, told = self.bench.open(NetSpec(self.port, KEY))
        self.bench.run(3.1)
        assert told.is_up
        return transport, told, machine


class WaitingTests(NetCase):
    """Before there is a target."""

    def test_nothing_comes(self) -> None:
        _, told = self.bench.open(NetSpec(self.port, KEY))
        assert told.statuses == [NetWaiting(self.port, 0)]
        self.bench.run(10.0)
        assert told.last == NetWaiting(self.port, 10)
        assert len(told.statuses) <= 7
        assert set(told.events) == {"interrupted"}

    def test_what_is_no_kdnet_is_counted(self) -> None:
        _, told = self.bench.open(NetSpec(self.port, KEY))
        noise = self.sender("127.0.0.9")
        for junk in (b"", b"x", b"MDBG", os.urandom(400), b"MDBG\x05\x02" + bytes(32), b"MDBG\x05\x01" + bytes(5000)):
            noise.send(junk)
        self.bench.run(3.0)
        where = place(noise.getsockname())
        assert told.last == NetWaiting(self.port, 2, foreign=6, address=where)

    def test_a_key_that_does_not_fit_is_told_at_once(self) -> None:
        _, told = self.bench.open(NetSpec(self.port, KEY))
        self.bench.run(1.0)
        machine = self.bench.machine(OTHER_KEY, self.port)
        self.bench.run(0.1)
        assert told.last == NetWrongKey(self.port, place(machine.address), 1)
        self.bench.run(10.0)
        assert told.last == NetWrongKey(self.port, place(machine.address), 4)
        machine.target.delay_offers(float("inf"))
        self.bench.run(12.0)
        assert isinstance(told.last, NetWaiting), "an OFFER of long ago says nothing of now"

    def test_data_of_another_session_is_told_and_asked_for_an_offer(self) -> None:
        _, told = self.bench.open(NetSpec(self.port, KEY))
        stray = self.sender()
        stray.send(Seal(bytes(32), bytes(32)).seal(5, Channel.DATA, 7, False, RESET))
        self.bench.run(2.0)
        assert told.last == NetWaiting(self.port, 2, data=1, address=place(stray.getsockname()))
        poke = Seal(NetKey.parse(KEY).control, NetKey.parse(KEY).mac).open(stray.recv(4096))
        assert poke is not None
        assert (poke.channel, poke.from_host, poke.payload) == (Channel.CONTROL, True, POKE)

    def test_a_target_that_hears_no_answer(self) -> None:
        _, told = self.bench.open(NetSpec(self.port, KEY))
        machine = self.bench.machine(KEY, self.port)
        machine.deaf = True
        self.bench.run(4.0)
        assert told.last == NetUnanswered(place(machine.address), 2)
        machine.deaf = False
        self.bench.run(3.0)
        assert told.is_up

    def test_what_is_written_meanwhile_is_dropped(self) -> None:
        transport, _ = self.bench.open(NetSpec(self.port, KEY))
        transport.write(RESET)
        machine = self.bench.machine(KEY, self.port)
        self.bench.run(0.5)
        assert machine.target.link.counters.bytes_received == 0


class ConnectedTests(NetCase):
    """With a target, and when it changes."""

    def test_packets_pass_and_the_description_says_who_it_is(self) -> None:
        transport, told, machine = self.connected(version=4)
        assert transport.description == (f"KDNET on UDP port {self.port}, target {place(machine.address)}, version 4")
        transport.write(b"b")
        self.bench.run(0.0)
        assert told.packets[0].startswith(b"0000\x07\x00"), "a stop"
        assert told.events.count("resumed") == 1

    def test_an_offer_of_a_connected_target_is_not_answered(self) -> None:
        _, told, machine = self.connected()
        self.bench.run(30.0)
        assert machine.target.counters.offers >= 10
        assert machine.target.counters.responses == 1
        assert told.events.count("resumed") == 1
        assert told.is_up

    def test_a_reboot(self) -> None:
        _, told, machine = self.connected()
        machine.target.target.power_cycle(self.bench.now)
        self.bench.run(4.0)
        assert told.events[-2:] == ["interrupted", "resumed"]
        assert told.last == NetRebooted(place(machine.address))

    def test_silence_and_its_end(self) -> None:
        transport, told, machine = self.connected()
        machine.target.delay_offers(self.bench.now + 20.0)
        self.bench.run(9.0)
        assert told.last == NetSilent(place(machine.address), 10)
        self.bench.run(4.0)
        assert told.last == NetSilent(place(machine.address), 14)
        self.bench.run(9.0)
        assert told.is_up
        transport.write(b"b")
        self.bench.run(0.0)
        assert told.packets[-1].startswith(b"0000\x07\x00"), "it goes on with the same key"
        assert machine.target.counters.responses == 1

    def test_a_take_over(self) -> None:
        transport, told, machine = self.connected()
        machine.target.bound = ("192.0.2.9", 50000)
        machine.target.offer(("127.0.0.1", self.port))
        self.bench.run(0.1)
        assert told.last == NetTakenOver(place(machine.address), "192.0.2.9:50000")
        self.bench.run(5.0)
        assert told.last == NetTakenOver(place(machine.address), "192.0.2.9:50000")
        assert "target" not in transport.description
        machine.target.target.power_cycle(self.bench.now)
        self.bench.run(4.0)
        assert told.is_up

    def test_another_port_of_the_target(self) -> None:
        transport, told, machine = self.connected()
        machine.move("127.0.0.1")
        self.bench.run(3.1)
        assert place(machine.address) in transport.description
        assert told.events.count("resumed") == 1
        transport.write(b"b")
        self.bench.run(0.0)
        assert told.packets[0].startswith(b"0000\x07\x00")

    def test_another_address_of_the_target(self) -> None:
        _, told, machine = self.connected(host="127.0.0.2")
        machine.target.target.power_cycle(self.bench.now)
        machine.move("127.0.0.3")
        self.bench.run(12.0)
        assert told.is_up
        assert told.last == NetRebooted(place(machine.address))

    def test_an_answer_that_gets_lost(self) -> None:
        machine = self.bench.machine(KEY, self.port)
        machine.deaf = True
        _, told = self.bench.open(NetSpec(self.port, KEY))
        self.bench.run(0.5)
        machine.deaf = False
        self.bench.run(3.0)
        assert told.is_up

    def test_another_machine_with_the_same_key_is_named_once(self) -> None:
        with capturedLogs() as log:
            _, told, _ = self.connected(host="127.0.0.2")
            self.bench.machine(KEY, self.port, host="127.0.0.3")
            self.bench.run(20.0)
        assert told.events.count("resumed") == 1
        assert sum("another machine" in str(event.get("log_format")) for event in log) == 1

    def test_leaving_and_attaching_again(self) -> None:
        transport, _, machine = self.connected()
        transport.close()
        assert self.bench.still.getDelayedCalls() == []
        self.bench.run(4.0)
        assert machine.target.bound is not None, "it was left as it is"
        _, told = self.bench.open(NetSpec(self.port, KEY))
        self.bench.run(3.1)
        assert told.is_up

    def test_closing_is_silent(self) -> None:
        transport, told, machine = self.connected()
        before = list(told.events)
        transport.close()
        transport.close()
        transport.write(RESET)
        machine.target.offer()
        self.bench.run(1.0)
        assert told.events == before

    def test_an_error_in_the_receiver_ends_this_session_only(self) -> None:
        _, other = self.bench.open(NetSpec(self.port, OTHER_KEY))
        self.bench.machine(OTHER_KEY, self.port)
        transport, told, _ = self.connected()
        told.on_bytes = lambda: 1 // 0
        transport.write(b"b")
        self.bench.run(0.1)
        assert told.events[-1] == "lost"
        assert "error inside kdsrv: ZeroDivisionError" in str(told.reasons[0])
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        assert other.is_up

    def test_an_error_in_the_receiver_at_a_change(self) -> None:
        _, told = self.bench.open(NetSpec(self.port, KEY))
        told.on_resumed = lambda: 1 // 0
        self.bench.machine(KEY, self.port)
        self.bench.run(0.1)
        assert told.events[-1] == "lost"
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_an_error_in_the_receiver_while_it_waits(self) -> None:
        _, told = self.bench.open(NetSpec(self.port, KEY))
        self.patch(told, "transport_interrupted", lambda _: 1 // 0)
        self.bench.run(3.0)
        assert told.events[-1] == "lost"
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_the_end_of_the_reactor(self) -> None:
        _, told, _ = self.connected()
        (port,) = self.bench.still.readers
        assert isinstance(port, NetPort)
        port.connectionLost(Failure(ConnectionLost()))
        assert told.events[-1] == "lost"
        assert str(told.reasons[0]) == f"UDP port {self.port}: the link is lost: the system has closed it"


class SharedPortTests(NetCase):
    """Several targets on one port, one port for one process."""

    def test_targets_with_different_keys(self) -> None:
        lines = [self.bench.open(NetSpec(self.port, key)) for key in (KEY, OTHER_KEY)]
        assert len(self.bench.still.readers) == 1
        machines = [self.bench.machine(key, self.port) for key in (OTHER_KEY, KEY)]
        self.bench.run(1.0)
        for (transport, told), machine in zip(lines, reversed(machines), strict=True):
            assert told.is_up
            assert place(machine.address) in transport.description
        lines[0][0].close()
        lines[1][0].write(b"b")
        self.bench.run(0.1)
        assert lines[1][1].packets

    def test_another_target_at_the_address_of_one_that_is_connected(self) -> None:
        """A machine that boots two systems, which have different keys."""
        _, told, machine = self.connected()
        other, second = self.bench.open(NetSpec(self.port, OTHER_KEY))
        again = Machine(self.bench, OTHER_KEY, self.port)
        again.socket.close()
        machine.socket, again.socket = again.socket, machine.socket
        self.bench.machines[:] = [again]
        self.bench.run(3.1)
        assert second.is_up
        other.write(b"b")
        self.bench.run(0.1)
        assert second.packets
        assert not told.packets

    def test_a_port_that_somebody_else_has(self) -> None:
        program = "import socket, sys; port = socket.socket(type=socket.SOCK_DGRAM); port.bind(('', int(sys.argv[1])));"
        program += "print(flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", program, str(self.port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdout.readline()
            held = rf"UDP port {self.port}: it is held by python\S* \(process {holder.pid}\)"
            with pytest.raises(TargetError, match=held):
                NetPort.open(self.bench.still, "", self.port)
            holder.stdin.close()
        port = NetPort.open(self.bench.still, "", self.port)
        assert NetPort.open(self.bench.still, "", self.port) is port
        assert closed_on_exec(port.fileno())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second, pytest.raises(OSError, match="in use"):
            second.bind(("", self.port))
        port.release()
        port.release()

    def test_an_interface(self) -> None:
        port = NetPort.open(self.bench.still, "127.0.0.1", self.port)
        port.release()
        with pytest.raises(TargetError, match=r"192\.0\.2\.1 is not an address of this host"):
            NetPort.open(self.bench.still, "192.0.2.1", self.port)

    def test_waking_up_for_nothing(self) -> None:
        _, told, _ = self.connected()
        (port,) = self.bench.still.readers
        before = list(told.events)
        port.doRead()  # type: ignore[attr-defined]
        assert told.events == before


class KeyTests(NetCase):
    def test_a_weak_key_is_told_once_and_not_shown(self) -> None:
        with capturedLogs() as log:
            machine = self.bench.machine(WEAK_KEY, self.port)
            transport, told = self.bench.open(NetSpec(self.port, WEAK_KEY))
            self.bench.run(10.0)
            machine.target.target.power_cycle(self.bench.now)
            self.bench.run(10.0)
        assert told.is_up
        assert transport.description.endswith(", version 5, its key is easily guessed: see kdsrv key")
        assert sum("easily guessed" in str(event.get("log_format")) for event in log) == 1
        assert WEAK_KEY not in "".join(map(str, log)) + transport.description + repr(transport.__dict__)

    def test_a_good_key_is_not_talked_about(self) -> None:
        with capturedLogs() as log:
            transport, _, _ = self.connected()
        assert "guess" not in transport.description + "".join(map(str, log))
        assert KEY not in "".join(map(str, log))


class CalledTests(NetCase):
    """With ``target=``."""

    def test_it_is_asked_until_it_offers_itself(self) -> None:
        machine = self.bench.machine(KEY, self.port, host="127.0.0.2")
        machine.target.host = None
        machine.target.delay_offers(float("inf"))
        # the host asks at its own port, which on one machine the target cannot have at the same address
        machine.socket.close()
        machine.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        machine.socket.setblocking(False)
        asked = NetSpec(self.port, KEY, "127.0.0.2")
        transport, told = None, None
        opened: list[NetTransport] = []
        Deferred.fromCoroutine(open_net(self.bench.still, asked, "127.0.0.1")).addCallback(opened.append)
        (transport,) = opened
        machine.socket.bind(("127.0.0.2", self.port))
        self.bench.transports.append(transport)
        told = Told()
        transport.start(told)
        machine.deaf = True
        self.bench.run(2.0)
        machine.deaf = False
        self.bench.run(1.0)
        assert told.is_up
        assert machine.target.counters.offers == 1
        assert f"target 127.0.0.2:{self.port}" in transport.description


class FloodTests(NetCase):
    """Datagrams of strangers, more than can be looked at."""

    def flood(self, senders: list[socket.socket], junk: Callable[[], bytes], seconds: float, rate: int = 2000) -> None:
        """The clock stands still while a hundredth of a second's worth is sent and read."""
        for _ in range(round(seconds * 100)):
            for number in range(rate // 100):
                senders[number % len(senders)].send(junk())
                if number % 64 == 63:
                    self.bench.read()
                    self.bench.read()
            self.bench.run(0.01)

    def junk(self) -> bytes:
        return b"MDBG\x05\x01" + random.randbytes(368)

    def test_a_new_target_is_heard(self) -> None:
        for host in ("127.0.0.1", "127.0.0.6"):
            _, told = self.bench.open(NetSpec(self.port, KEY))
            with capturedLogs() as log:
                self.flood([self.sender("127.0.0.6")], self.junk, 2.0)
                assert isinstance(told.last, NetWrongKey)
                self.bench.machine(KEY, self.port, host=host)
                self.flood([self.sender("127.0.0.6")], self.junk, 0.5)
            assert told.is_up, host
            assert len(log) < 10
            assert next(iter(self.bench.still.readers)).heard.unseen > 3000  # type: ignore[attr-defined]
            self.bench.close()
            self.bench.machines.clear()

    def test_a_connected_target_works_on(self) -> None:
        transport, told, _ = self.connected(options=SimOptions())
        told.packets.clear()
        crowd = [self.sender(f"127.0.1.{number}") for number in range(1, 100)]
        for _ in range(10):
            self.flood(crowd, self.junk, 0.1)
            before = len(told.packets)
            transport.write(RESET)
            self.bench.run(0.0)
            assert len(told.packets) > before, "the answer to a RESET"

    def test_data_from_the_targets_own_host(self) -> None:
        """Junk from another port of the same host is looked at only now and then."""
        transport, told, _ = self.connected(options=SimOptions())
        told.packets.clear()
        counters = transport._host.counters
        self.flood([self.sender()], lambda: b"MDBG\x05\x00" + random.randbytes(48), 2.0)
        assert 0 < counters.refused_data < 50
        transport.write(RESET)
        self.bench.run(0.0)
        assert told.packets


class NameTests(TestCase):
    """Names of targets, asked of the system."""

    async def test_a_name(self) -> None:
        port = free_udp_port()
        transport = await open_net(reactor, NetSpec(port, KEY, "localhost"))
        assert transport._host._target in (("127.0.0.1", port), ("::1", port))
        transport.close()

    async def test_names_that_are_none(self) -> None:
        for host in ("a" * 70 + ".example", "x..y"):
            with pytest.raises(TargetError, match=re.escape(f"target={host}: there is no host of this name")):
                await open_net(reactor, NetSpec(free_udp_port(), KEY, host))
