"""What holds for every medium, for FireWire under a real reactor; then the system calls themselves, on pipes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import cast

import pytest
from firewire_bus import FireWireBus
from firewire_target import EMPTY, FULL, RECEIVE, SEND, FireWireTarget
from test_transports import Medium, TransportCase
from transport_rigs import Recorder, Rig, pause, until
from twisted.internet import reactor

from kdsrv.connection_strings.kd import FireWireSpec, KdSpec
from kdsrv.kd.packets import PacketType, encode_control, encode_data
from kdsrv.sim.options import SimOptions
from kdsrv.transports.firewire_device import FireWireDevice, SystemCalls
from kdsrv.transports.opener import Opener
from kdsrv.transports.transport import Transport

HELLO = encode_data(PacketType.DEBUG_IO, 7, b"hello", trailer=b"")


class NodeByHand(FireWireTarget):
    """Nobody looks into the mailboxes but the test."""

    def look(self, now: float) -> None:
        self.filters_open = True


class FireWireRig(Rig):
    """The target's end of the mailboxes. What is no packet is written as the body of one."""

    def __init__(self) -> None:
        super().__init__()
        self.bus = FireWireBus(reactor, Path(self.folder))
        self.node = NodeByHand(1, SimOptions(state="running"))
        self.bus.plug(self.node)
        self.spec = FireWireSpec(1)

    async def settle(self, recorder: Recorder) -> None:
        await until(lambda: recorder.events)
        assert recorder.events == ["resumed"]
        recorder.events.clear()

    def write(self, data: bytes) -> int:
        memory = self.node.memory
        if memory[SEND : SEND + 4] != EMPTY:
            return 0
        packet = data if data.startswith(b"0000") else encode_data(PacketType.DEBUG_IO, 0, data, trailer=b"")
        memory[SEND + 4 : SEND + 20] = packet[:16]
        memory[SEND + 20 : SEND + 24] = (len(packet) - 16).to_bytes(4, "little")
        memory[SEND + 24 : SEND + 8 + len(packet)] = packet[16:]
        memory[SEND : SEND + 4] = FULL
        return len(data)

    def read(self, seconds: float = 0.0) -> bytes:
        memory = self.node.memory
        if memory[RECEIVE : RECEIVE + 4] != FULL:
            return b""
        length = int.from_bytes(memory[RECEIVE + 4 : RECEIVE + 8], "little")
        memory[RECEIVE : RECEIVE + 4] = EMPTY
        return bytes(memory[RECEIVE + 8 : RECEIVE + 8 + length])

    def close(self) -> None:
        if len(list(self.bus.nodes.iterdir())) > 1:
            self.bus.unplug("fw1")


class FireWireMediumTests(Medium, TransportCase):
    """Without what only bytes have: here there is a packet at a time, and none is out before the bus was asked."""

    make_rig = FireWireRig
    test_a_write_is_out_when_it_returns = None  # type: ignore[assignment]
    test_bytes_pass_one_at_a_time = None  # type: ignore[assignment]

    async def open(self, spec: KdSpec) -> Transport:
        transport = await Opener(reactor, firewire=cast(FireWireRig, self.rigs[-1]).bus.host).open(spec)
        self.opened.append(transport)
        return transport

    async def test_bytes_pass_unchanged_both_ways(self) -> None:
        rig, transport, recorder = await self.connect()
        packet = encode_data(PacketType.DEBUG_IO, 9, bytes(range(256)) * 15, trailer=b"")
        transport.write(packet)
        await rig.write_all(packet)
        assert await rig.read_all(len(packet)) == packet
        ack = encode_control(PacketType.ACKNOWLEDGE, 9)
        await until(lambda: len(recorder.data) >= len(packet) + len(ack))
        assert recorder.data.replace(ack, b"") == packet
        assert recorder.events == []

    async def test_packets_pass_one_after_another(self) -> None:
        rig, transport, recorder = await self.connect()
        for number in range(50):
            transport.write(encode_data(PacketType.DEBUG_IO, number, b"hello", trailer=b""))
            await until(lambda: rig.read())
            await rig.write_all(HELLO)
            await until(lambda number=number: len(recorder.data) >= (number + 1) * (16 + len(HELLO)))
        assert recorder.data.count(HELLO) == 50

    async def test_the_peer_goes_and_comes_back(self) -> None:
        rig, transport, recorder = await self.connect()
        rig.close()
        await until(lambda: recorder.events)
        assert recorder.events == ["interrupted: fw1: it is gone from the bus"]
        transport.write(HELLO)
        rig.bus.plug(rig.node)
        await until(lambda: "resumed" in recorder.events)
        rig.write(HELLO)
        await until(lambda: recorder.data)
        assert bytes(recorder.data) == HELLO

    async def test_the_peer_goes_while_it_is_sent_to(self) -> None:
        rig, transport, recorder = await self.connect()
        rig.close()
        transport.write(HELLO)
        assert recorder.events == []
        await until(lambda: recorder.events)

    async def test_nothing_is_taken_before_the_start(self) -> None:
        rig = cast(FireWireRig, self.rig(FireWireRig()))
        transport = await self.open(rig.spec)
        rig.write(HELLO)
        await pause(0.02)
        recorder = Recorder()
        transport.start(recorder)
        await until(lambda: recorder.data)
        assert bytes(recorder.data) == HELLO

    async def test_an_error_at_the_beginning_ends_it(self) -> None:
        rig = cast(FireWireRig, self.rig(FireWireRig()))
        transport = await self.open(rig.spec)
        recorder = Recorder()
        recorder.on_resumed = lambda: 1 // 0
        transport.start(recorder)
        await until(lambda: "lost" in recorder.events)
        assert rig.bus.is_at_rest
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1


class SystemCallsTests(TransportCase):
    """The seam's real side, as far as it goes without a FireWire card."""

    async def test_a_descriptor_is_watched_and_read(self) -> None:
        calls = SystemCalls(reactor)
        reading, writing = os.pipe()
        seen: list[bytes] = []
        calls.watch(reading, lambda: seen.append(calls.read(reading, 8192)))
        os.write(writing, b"event")
        await until(lambda: seen)
        os.close(writing)  # a hang-up is for the next read to tell
        await until(lambda: len(seen) > 1)
        calls.unwatch(reading)
        calls.unwatch(reading)
        calls.close(reading)
        assert seen[:2] == [b"event", b""]

    async def test_one_user_at_a_time_but_for_who_only_looks(self) -> None:
        path = os.path.join(self.folder, "fw1")
        Path(path).touch()
        calls = SystemCalls(reactor)
        first = calls.open(path, exclusive=True)
        with pytest.raises(BlockingIOError):
            calls.open(path, exclusive=True)
        calls.close(calls.open(path, exclusive=False))
        calls.close(first)
        calls.close(calls.open(path, exclusive=True))

    async def test_what_is_no_firewire_device_is_refused_and_closed(self) -> None:
        with pytest.raises(OSError, match="Inappropriate ioctl") as refusal:
            FireWireDevice(SystemCalls(reactor), "/dev/null")
        assert refusal.value.errno == errno.ENOTTY

    def test_the_ioctl_that_the_kernel_gets_may_change_its_argument(self) -> None:
        calls = SystemCalls(reactor)
        reading, writing = os.pipe()
        os.write(writing, b"12345")
        count = bytearray(4)
        assert calls.ioctl(reading, 0x541B, count) == 0  # FIONREAD
        assert int.from_bytes(count, "little") == 5
        for descriptor in (reading, writing):
            calls.close(descriptor)
