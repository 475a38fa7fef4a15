from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.kd.debug_io import ControlRequest, DebugIo, TraceIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.sessions.outbox import DroppedPrints, Outbox, is_print

STOP = Packet(PacketType.STATE_CHANGE64, bytes(240))
REPLY = Packet(PacketType.STATE_MANIPULATE, Manipulate.get_version().encode())
PROMPT = Packet(PacketType.DEBUG_IO, DebugIo.get_string(b"?", 9).encode())
FILE = Packet(PacketType.FILE_IO, FileIo.create("a").encode())


def text(number: int) -> Packet:
    return Packet(PacketType.DEBUG_IO, DebugIo.print_string(b"%d" % number).encode())


def everything(outbox: Outbox) -> list[Packet | DroppedPrints]:
    taken = []
    while (packet := outbox.take()) is not None:
        taken.append(packet)
    return taken


def test_what_counts_as_a_print() -> None:
    trace = Packet(PacketType.TRACE_IO, TraceIo.trace_data(b"x").encode())
    control = Packet(PacketType.CONTROL_REQUEST, ControlRequest.request_breakpoint(1).encode())
    assert all(is_print(packet) for packet in (text(1), trace, control))
    assert not any(is_print(packet) for packet in (STOP, REPLY, PROMPT, FILE, Packet(PacketType.DEBUG_IO, b"")))


def test_packets_come_out_in_order() -> None:
    outbox = Outbox()
    packets = [text(1), STOP, REPLY, text(2), PROMPT, FILE]
    for packet in packets:
        outbox.put(packet)
    assert len(outbox) == 6
    assert everything(outbox) == packets
    assert outbox.take() is None


def test_the_oldest_prints_are_dropped_and_counted() -> None:
    outbox = Outbox(max_prints=3)
    for number in range(10):
        outbox.put(text(number))
    assert everything(outbox) == [DroppedPrints(7), text(7), text(8), text(9)]
    outbox.put(text(10))
    assert everything(outbox) == [text(10)]


def test_only_prints_are_dropped() -> None:
    outbox = Outbox(max_prints=1)
    for packet in (STOP, text(1), REPLY, text(2), PROMPT):
        outbox.put(packet)
    assert everything(outbox) == [DroppedPrints(1), STOP, REPLY, text(2), PROMPT]


def test_what_was_taken_is_counted_no_more() -> None:
    outbox = Outbox(max_prints=2)
    for number in range(20):
        outbox.put(text(number))
        assert outbox.take() == text(number)
    outbox.put(text(20))
    outbox.put(text(21))
    assert everything(outbox) == [text(20), text(21)]


def test_a_packet_put_back_comes_first() -> None:
    outbox = Outbox(max_prints=2)
    outbox.put(text(1))
    outbox.put(text(2))
    assert outbox.take() == text(1)
    outbox.put_back(text(1))
    assert everything(outbox) == [text(1), text(2)]


def test_keep_prints() -> None:
    outbox = Outbox(max_prints=2)
    for packet in (STOP, text(1), REPLY, text(2), PROMPT):
        outbox.put(packet)
    outbox.keep_prints()
    outbox.put(text(3))
    assert everything(outbox) == [DroppedPrints(1), text(2), text(3)]


@pytest.mark.parametrize("most", [1, 5])
@given(script=st.lists(st.sampled_from(["print", "reply", "take"]), max_size=60))
def test_nothing_is_lost_but_the_oldest_prints(most: int, script: list[str]) -> None:
    outbox = Outbox(max_prints=most)
    put: list[Packet] = []
    taken: list[Packet] = []
    dropped = 0
    for number, word in enumerate(script):
        if word == "take":
            packet = outbox.take()
            if isinstance(packet, DroppedPrints):
                dropped += packet.number
            elif packet is not None:
                taken.append(packet)
        else:
            packet = text(number) if word == "print" else Packet(PacketType.STATE_MANIPULATE, b"%d" % number)
            put.append(packet)
            outbox.put(packet)
            assert sum(map(is_print, outbox._packets)) <= most
    for packet in everything(outbox):
        if isinstance(packet, DroppedPrints):
            dropped += packet.number
        else:
            taken.append(packet)
    missing = [packet for packet in put if packet not in taken]
    assert all(map(is_print, missing))
    assert len(missing) == dropped
    assert taken == [packet for packet in put if packet not in missing]


def test_a_reader_that_is_behind_is_known_until_prints_are_dropped() -> None:
    outbox = Outbox(max_prints=8)
    filling = []
    for number in range(9):
        outbox.put(Packet(PacketType.STATE_CHANGE64, b"0"))
        outbox.put(text(number))
        filling.append(outbox.is_filling)
    assert filling == [False] + [True] * 6 + [False] * 2
