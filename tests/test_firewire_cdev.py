"""What is read from a FireWire bus, as bytes: the structures of Linux, ROMs, descriptors, directories of nodes."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import pytest
from firewire_bus import FireWireBus, GetInfo, OtherNode, SendRequest
from firewire_target import BASE, RECEIVE, SEND, FireWireTarget, wrong_crc
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from kdsrv.firewire import cdev
from kdsrv.firewire.configuration_rom import ROM_ADDRESS, ConfigurationRom, read_rom
from kdsrv.firewire.descriptor import Descriptor, NoBlock, find_block
from kdsrv.firewire.nodes import list_nodes
from kdsrv.firewire.search import Search
from kdsrv.firewire.transactions import Operation, Read, Script, TransactionFailed, Write, read, write


class BusResetEvent(ctypes.Structure):
    _fields_ = [
        ("closure", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("type", "node_id", "local", "bm", "irm", "root", "generation")),
    ]


class ResponseEvent(ctypes.Structure):
    _fields_ = [("closure", ctypes.c_uint64), *((name, ctypes.c_uint32) for name in ("type", "rcode", "length"))]


# As a C program that includes <linux/firewire-cdev.h> prints them.
NUMBERS = {"GET_INFO": 0xC0282300, "SEND_REQUEST": 0x40282301, "GET_SPEED": 0x2311}
SIZES = {GetInfo: 40, SendRequest: 40, BusResetEvent: 40, ResponseEvent: 24}
OFFSETS = {
    GetInfo: {"version": 0, "rom_length": 4, "rom": 8, "bus_reset": 16, "bus_reset_closure": 24, "card": 32},
    SendRequest: {"tcode": 0, "length": 4, "offset": 8, "closure": 16, "data": 24, "generation": 32},
    BusResetEvent: {"type": 8, "node_id": 12, "local": 16, "root": 28, "generation": 32},
    ResponseEvent: {"type": 8, "rcode": 12, "length": 16},
}


class Memory:
    """A node of nothing but memory, and what was done with it. The ROM begins at ``start``."""

    def __init__(self, size: int, start: int = 0) -> None:
        self.bytes = bytearray(b"\xff" * size)
        self.done: list[tuple[int, int]] = []
        self._start = start

    def read(self, address: int, length: int) -> tuple[int, bytes]:
        self.done.append((address, length))
        return 0, bytes(self.bytes[address - self._start :][:length])

    def write(self, address: int, data: bytes) -> int:
        self.done.append((address, len(data)))
        self.bytes[address : address + len(data)] = data
        return 0


def run(script: Script[Any], node: FireWireTarget | Memory) -> Any:
    """The result of a script on a node."""
    operation = next(script)
    try:
        while True:
            assert operation is not None
            if isinstance(operation, Read):
                code, data = node.read(operation.address, operation.length)
            else:
                code, data = node.write(operation.address, operation.data), b""
            operation = script.throw(TransactionFailed(code)) if code else script.send(data)
    except StopIteration as end:
        return end.value


@pytest.fixture
def node() -> FireWireTarget:
    node = FireWireTarget(5)
    node.filters_open = True
    return node


# The structures of Linux


def test_numbers_and_layouts_are_those_of_the_header() -> None:
    assert {name: getattr(cdev, name) for name in NUMBERS} == NUMBERS
    assert {kind: ctypes.sizeof(kind) for kind in SIZES} == SIZES
    found = {kind: {name: getattr(kind, name).offset for name in offsets} for kind, offsets in OFFSETS.items()}
    assert found == OFFSETS
    assert cdev.BUS_RESET_SIZE == 40


def test_requests() -> None:
    cases: list[tuple[Operation, int, int]] = [
        (Read(0x123456789A, 4), 4, 4),
        (Read(1, 8), 5, 8),
        (Write(2, bytes(4)), 0, 4),
        (Write(3, bytes(2048)), 1, 2048),
    ]
    for operation, code, length in cases:
        request = SendRequest.from_buffer_copy(cdev.pack_request(operation, 0xABCD, 9))
        assert (request.tcode, request.length, request.offset) == (code, length, operation.address)
        assert (request.closure, request.data, request.generation) == (0, 0xABCD, 9)


def test_get_info() -> None:
    info = GetInfo.from_buffer_copy(cdev.pack_get_info(0x1234))
    assert (info.version, info.rom_length, info.rom, info.bus_reset) == (5, 0, 0, 0x1234)
    info.card, info.version = 3, 6
    assert cdev.parse_get_info(bytes(info)) == (6, 3)


def test_events() -> None:
    response = bytes(ResponseEvent(8, 1, 0x12, 6))[:20] + b"6bytesand padding"
    assert cdev.parse_event(response) == cdev.Response(0x12, b"6bytes")
    assert cdev.parse_event(bytes(ResponseEvent(8, 1, 0, 0))) == cdev.Response(0, b"")
    reset = bytes(BusResetEvent(0, 0, 0xFFC1, 0xFFC0, 1, 2, 3, 99))
    assert cdev.parse_event(reset) == cdev.BusReset(0xFFC1, 0xFFC0, 99)
    assert cdev.parse_event(bytes(ResponseEvent(8, 2, 0, 0))) is None


@given(st.binary(max_size=60))
def test_any_event_can_be_read(data: bytes) -> None:
    event = cdev.parse_event(data)
    assert event is None or isinstance(event, cdev.BusReset | cdev.Response)


def test_longest_transactions() -> None:
    assert [cdev.longest_transaction(speed) for speed in range(5)] == [512, 1024, 2048, 4096, 4096]


# Transactions


@given(st.binary(min_size=1, max_size=500), st.sampled_from([4, 8, 64, 512]))
def test_what_is_long_is_done_in_whole_quadlets_within_the_limit(data: bytes, limit: int) -> None:
    memory = Memory(520)
    run(write(0, data, limit), memory)
    assert memory.bytes[: len(data)] == data
    assert memory.bytes[len(data) + 3 :] == b"\xff" * (520 - len(data) - 3)
    assert run(read(0, len(data), limit), memory) == data
    assert all(address % 4 == length % 4 == 0 and length <= limit for address, length in memory.done)


def test_failures_in_words() -> None:
    assert [str(TransactionFailed(code)) for code in (7, 0x12, 0x14, 0x99)] == [
        "address error",
        "busy",
        "no acknowledgement",
        "response code 0x99",
    ]


# ROM and descriptor


def test_the_rom_on_the_bus_is_that_which_linux_shows(node: FireWireTarget, tmp_path: Path) -> None:
    bus = FireWireBus(Clock(), tmp_path)
    bus.plug(node)
    rom = run(read_rom(), node)
    (_, shown) = list_nodes(bus.nodes) or []
    assert rom == shown.rom
    assert shown.rom.guid == node.guid
    assert shown.rom.descriptor_address == BASE + 0x3E0
    assert (shown.rom.max_rec, shown.rom.max_payload) == (10, 2048)
    assert shown.rom.root_directory[2:] == (0x1C0050F2, 0x1D000002, 0x1E0093E0)


def test_its_directory_has_a_wrong_sum(node: FireWireTarget) -> None:
    """What the test relies on: nobody may validate it."""
    entries = node.rom[6:]
    right = 0
    for quadlet in entries:
        for shift in range(28, -4, -4):
            total = (right >> 12 ^ quadlet >> shift) & 0xF
            right = right << 4 & 0xFFFF ^ total << 12 ^ total << 5 ^ total
    assert node.rom[5] & 0xFFFF == wrong_crc(entries) != right


def rom_with(*entries: int, info_length: int = 4) -> ConfigurationRom:
    return ConfigurationRom((info_length << 24, *[0] * info_length, len(entries) << 16, *entries))


@pytest.mark.parametrize(
    ("entries", "address"),
    [
        ((0x1C0050F2, 0x1D000002, 0x1E123456), 0x123456),
        ((0x0C0083C0, 0x1C0050F2, 0x1D000002, 0x030050F2, 0x1E123456, 0x1E000001), 0x123456),
        ((0x1D000002, 0x1C0050F2, 0x1E123456), None),
        ((0x1C0050F3, 0x1D000002, 0x1E123456), None),
        ((0x1C0050F2, 0x1D000003, 0x1E123456), None),
        ((0x1C0050F2, 0x1D000002, 0x1C000001, 0x1E123456), None),
        ((0x1C0050F2, 0x1D000002), None),
        ((), None),
    ],
)
def test_three_entries_in_their_order(entries: tuple[int, ...], address: int | None) -> None:
    assert rom_with(*entries).descriptor_address == address


def test_a_directory_that_is_longer_than_the_rom() -> None:
    quadlets = rom_with(0x1C0050F2, 0x1D000002, 0x1E123456).quadlets
    longer = ConfigurationRom((*quadlets[:5], 0xFFFF0000, *quadlets[6:]))
    assert longer.descriptor_address == 0x123456
    assert ConfigurationRom(quadlets[:8]).descriptor_address is None


@given(st.binary(max_size=1100))
def test_any_rom_can_be_read(data: bytes) -> None:
    rom = ConfigurationRom.from_host_order(data)
    assert len(rom.quadlets) <= 256
    assert rom.descriptor_address is None or rom.descriptor_address < 1 << 24
    assert rom.max_payload >= 4
    assert rom.guid >= 0


@given(st.binary(min_size=1024, max_size=1024))
def test_reading_any_rom_ends(data: bytes) -> None:
    memory = Memory(1024, ROM_ADDRESS)
    memory.bytes[:] = data
    rom = run(read_rom(), memory)
    count = len(memory.done)
    assert memory.done == [(0xFFFFF0000400 + 4 * index, 4) for index in range(count)]
    assert rom.quadlets == struct.unpack(f">{count}I", data[: 4 * count])


def test_a_block_is_found(node: FireWireTarget) -> None:
    block = run(find_block(512), node)
    assert (block.limit, block.address) == (512, BASE + 0x3E0)
    assert block.descriptor == Descriptor(0xBABABABA, 1, 0, 5, 0, SEND, RECEIVE)


@pytest.mark.parametrize(
    ("offset", "data", "why"),
    [
        (0, b"\0", "its descriptor begins with bababa00, not with babababa"),
        (4, b"\2", "its descriptor is of version 2.0, and kdsrv knows 1.0 only"),
        (16, bytes(8), "its descriptor names 0x0 as the place of a mailbox"),
        (24, b"\1", "its descriptor names 0xa401 as the place of a mailbox"),
        (24, b"\xfc\xff\xff\xff\xff\xff\xff\xff", "its descriptor names 0xfffffffffffffffc as the place of a mailbox"),
        (16, b"\0\0\0\0\xff\xff\0\0", "its descriptor names 0xffff00000000 as the place of a mailbox"),
    ],
)
def test_what_is_no_descriptor_is_named(node: FireWireTarget, offset: int, data: bytes, why: str) -> None:
    at = BASE + 0x3E0 + offset
    node.memory[at : at + len(data)] = data
    with pytest.raises(NoBlock, match=why):
        run(find_block(512), node)


@given(st.binary(min_size=32, max_size=32))
def test_any_descriptor_can_be_judged(data: bytes) -> None:
    descriptor = Descriptor.decode(data)
    if not descriptor.problem:
        assert data.startswith(b"\xba" * 4)
        assert 0 < descriptor.send < 1 << 48


# Nodes


def test_nodes_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    bus = FireWireBus(Clock(), tmp_path)
    for _ in range(10):
        bus.plug(OtherNode())
    bus.plug(FireWireTarget())
    (bus.nodes / "fw3.0").mkdir()  # a unit of a node
    (bus.nodes / "fw4" / "config_rom").unlink()
    nodes = list_nodes(bus.nodes)
    assert nodes is not None
    assert [node.name for node in nodes] == [f"fw{number}" for number in range(12)]
    assert [node.name for node in nodes if node.is_local] == ["fw0"]
    assert [node.name for node in nodes if node.may_wait] == ["fw11"]
    assert nodes[11].vendor == "0x0050f2"
    assert list_nodes(tmp_path / "none") is None


def test_a_search_that_finds_nothing_says_why(tmp_path: Path) -> None:
    assert Search(0, None).sentence().startswith("this host has no FireWire")
    assert Search(0, []).sentence().startswith("this host has no FireWire")
    bus = FireWireBus(Clock(), tmp_path)
    for channel in range(12):
        bus.plug(FireWireTarget(channel))
    search = Search(62, list_nodes(bus.nodes))
    assert len(search.candidates) == 12
    for channel in range(12):
        search.note_channel(channel)
    assert search.sentence() == (
        "12 nodes on the FireWire bus, none waits on channel 62: found channels 0, 1, 2, 3, 4, 5, 6, 7"
    )
