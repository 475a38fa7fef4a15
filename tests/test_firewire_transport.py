"""Targets on FireWire on a bus without hardware: transport, mailboxes and link together, whatever the bus does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from firewire_bus import LATENCY, Asked, Fault, OtherNode
from firewire_desk import Desk
from firewire_target import BASE, EMPTY, FULL, RECEIVE, SEND, FireWireTarget
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs

from kdsrv.connection_strings.kd import FireWireSpec
from kdsrv.errors import TargetError
from kdsrv.firewire.cdev import Response
from kdsrv.firewire.transactions import Read
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.link import GaveUp, Phase
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import PacketType
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import TargetState
from kdsrv.transports.firewire import open_firewire
from kdsrv.transports.firewire_device import FireWireDevice

BUSY, STALE, CANCELLED, NO_ACKNOWLEDGEMENT, SEND_ERROR = 0x12, 0x13, 0x11, 0x14, 0x10
RUNNING = SimOptions(state="running")


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


@pytest.fixture
def target(desk: Desk) -> FireWireTarget:
    """A target that stands still, and whose stop the debugger has."""
    target = desk.plug()
    desk.attach()
    desk.stop()
    desk.events.clear()
    return target


@pytest.fixture
def running(desk: Desk) -> FireWireTarget:
    """A target that runs, as the debugger knows."""
    target = desk.plug(FireWireTarget(0, RUNNING, now=desk.now))
    desk.attach(wait=4.0)
    desk.events.clear()
    desk.gave_up.clear()
    return target


def read(count: int, offset: int = 0) -> Manipulate:
    return Manipulate.read_virtual(KERNEL_BASE + offset, count)


def status_is(box: int, status: bytes) -> Callable[[Asked], bool]:
    """Picks the writes of this status to this box."""
    return lambda asked: asked.address == box and asked.data == status


# Packets


def test_a_target_that_has_stopped_before_we_came(desk: Desk) -> None:
    desk.plug()
    desk.attach()
    assert desk.stop()["exception_code"] == 0x80000003
    assert desk.packets == []
    assert desk.events == ["resumed"]
    assert desk.link.phase is Phase.SYNCED


def test_a_target_whose_stop_somebody_else_has_taken_tells_it_again(desk: Desk) -> None:
    target = desk.plug()
    target.memory[SEND : SEND + 4] = EMPTY
    desk.attach()
    assert desk.stop()["exception_code"] == 0x80000003
    assert desk.packets == []
    desk.go()
    desk.wait(0.1)
    assert target.kernel.state is TargetState.RUNNING
    assert desk.packets == []


def test_a_target_that_runs_goes_on_running(desk: Desk) -> None:
    target = desk.plug(FireWireTarget(0, RUNNING, now=desk.now))
    desk.attach(wait=0.15)
    assert target.memory[RECEIVE : RECEIVE + 4] == FULL
    desk.wait(0.1)
    assert target.memory[RECEIVE : RECEIVE + 4] == EMPTY, "what a running target does not look at is taken back"
    desk.wait(3.0)
    assert target.kernel.state is TargetState.RUNNING
    assert [lost.type for lost in desk.gave_up] == [PacketType.RESET]
    assert desk.packets == []


def test_requests_and_replies(desk: Desk, target: FireWireTarget) -> None:
    assert desk.ask(Manipulate.get_version()).version.build_number == 17134
    expected = target.kernel.memory.read_virtual(KERNEL_BASE, 3944)
    assert desk.ask(read(3944)).data == expected
    for count in (1, 2, 3, 5, 2047, 2048, 2049, 3943):
        assert desk.ask(read(count)).data == expected[:count]
    data = bytes(range(1, 256)) * 15
    place = target.kernel.machine.kernel.worker_routines["WorkerCounter"]
    assert desk.ask(Manipulate.write_virtual(place, data[:256])).succeeded
    assert desk.ask(Manipulate.read_virtual(place, 256)).data == data[:256]
    assert target.link.refused == 0


def test_a_reply_comes_by_few_transactions(desk: Desk, target: FireWireTarget) -> None:
    desk.ask(read(8))
    desk.wait(1.0001)
    before = len(desk.bus.asked)
    desk.ask(read(8))
    asked = desk.bus.asked[before:]
    assert [each.address - BASE for each in asked[:7]] == [
        0x400,  # the look that was due
        0x1404,  # our packet, its status
        0x1400,
        0x400,  # the reply is there already
        0x1400,  # ours was taken
        0x418,  # the body, the status
        0x400,
    ]


def test_the_largest_request_and_one_that_is_too_large(desk: Desk, target: FireWireTarget) -> None:
    request = Manipulate.write_virtual(KERNEL_BASE, bytes(3928))
    assert len(request.encode()) == desk.link.max_request == 3984
    desk.ask(request)
    assert target.link.refused == 0
    with pytest.raises(ValueError, match="3984"):
        desk.send(Manipulate.write_virtual(KERNEL_BASE, bytes(3929)))


@pytest.mark.parametrize(("max_rec", "speed", "limit"), [(8, 2, 512), (11, 0, 512), (11, 3, 4000), (9, 2, 1024)])
def test_transactions_are_as_short_as_the_node_and_the_bus_want_them(
    desk: Desk, max_rec: int, speed: int, limit: int
) -> None:
    target = FireWireTarget(0, now=desk.now, max_rec=max_rec)
    target.speed = speed
    desk.plug(target)
    desk.attach()
    desk.stop()
    assert len(desk.ask(read(3944)).data) == 3944
    assert max(asked.length for asked in desk.bus.asked) == limit


def test_continue_runs_the_target_and_a_break_in_stops_it(desk: Desk, target: FireWireTarget) -> None:
    desk.go()
    desk.wait(0.2)
    assert target.kernel.state is TargetState.RUNNING
    assert desk.link.backlog == 0
    desk.break_in()
    assert desk.stop()["exception_code"] == 0x80000003
    assert not desk.link.breaking_in
    desk.wait(3.0)
    assert desk.packets == []
    assert target.memory[RECEIVE + 4 : RECEIVE + 12] == b"\x04\0\0\0bbbb"


def test_a_break_in_takes_the_place_of_what_a_running_target_does_not_look_at(
    desk: Desk, running: FireWireTarget
) -> None:
    desk.resync()
    desk.wait(0.1)
    assert running.memory[RECEIVE : RECEIVE + 4] == FULL
    desk.break_in()
    desk.stop()
    assert desk.packets == []


def test_a_break_in_waits_for_the_packet_before_it(desk: Desk, target: FireWireTarget) -> None:
    target.looks = False
    desk.send(Manipulate.continue_())
    desk.wait(0.01)
    desk.break_in()
    desk.wait(0.15)
    target.looks = True
    desk.stop()
    assert [request.kind for request in target.kernel.log] == [0x3136]


def test_a_break_in_right_behind_a_continue_comes_after_it(desk: Desk, target: FireWireTarget) -> None:
    desk.go()
    desk.break_in()
    desk.stop()
    desk.wait(0.5)
    assert desk.packets == []
    assert [request.kind for request in target.kernel.log].count(0x3136) == 1


def test_a_continue_that_a_break_in_has_overtaken_is_not_given_again(desk: Desk, running: FireWireTarget) -> None:
    running.kernel.print("running, in spite of what the debugger thinks", desk.now)
    desk.text()
    desk.send(Manipulate.continue_())
    desk.break_in()
    desk.stop()
    desk.wait(6.0)
    assert (running.kernel.state, desk.packets) == (TargetState.STOPPED, [])
    assert [lost.why for lost in desk.gave_up] == ["the target has stopped before it was taken"]


def test_a_break_in_at_a_stop_repeats_the_stop_and_counts_once_more(desk: Desk, target: FireWireTarget) -> None:
    desk.break_in()
    desk.stop()
    desk.go()
    desk.stop()
    assert target.kernel.state is TargetState.STOPPED
    desk.go()
    desk.wait(0.5)
    assert (target.kernel.state, desk.packets) == (TargetState.RUNNING, [])


def test_resync_at_a_stop_repeats_the_stop_and_nothing_else(desk: Desk, target: FireWireTarget) -> None:
    desk.resync()
    desk.stop()
    desk.go()
    desk.wait(0.5)
    assert (target.kernel.state, desk.packets) == (TargetState.RUNNING, [])


def test_a_stop_of_its_own_takes_back_a_break_in_that_has_not_reached_it(desk: Desk, running: FireWireTarget) -> None:
    desk.wait(1.0)
    running.kernel.stop(desk.now)
    desk.break_in()  # the next look finds the stop first
    desk.stop()
    desk.go()
    desk.wait(0.5)
    assert (running.kernel.state, desk.packets) == (TargetState.RUNNING, [])


def test_prints_prompts_and_files(desk: Desk, running: FireWireTarget) -> None:
    running.kernel.print("one\n" * 2000, desk.now)
    assert b"".join(desk.text() for _ in range(3)) == b"one\n" * 2000
    running.kernel.prompt("name? ", desk.now)
    prompt = desk.take(PacketType.DEBUG_IO)
    assert b"name? " in prompt
    running.kernel.request_file("driver.sys", desk.now)
    desk.link.send(PacketType.DEBUG_IO, DebugIo.decode(prompt).answer(b"kim").encode(), desk.now)
    desk.driver.flush()
    asked = FileIo.decode(desk.take(PacketType.FILE_IO))
    desk.link.send(PacketType.FILE_IO, asked.refusal().encode(), desk.now)
    desk.driver.flush()
    desk.wait(0.1)
    assert [answer.type for answer in running.kernel.answers] == [PacketType.DEBUG_IO, PacketType.FILE_IO]


def test_the_first_print_of_a_loader_has_a_length_of_nought(desk: Desk, running: FireWireTarget) -> None:
    """The length field within the print is 0, though 7 bytes follow; the packet's length counts."""
    payload = bytes.fromhex("30320000 00000000 00000000 00000000") + b"hello\r\n"
    running.link.send(PacketType.DEBUG_IO, payload, desk.now)
    assert desk.take(PacketType.DEBUG_IO) == payload


def test_the_longest_packet_of_a_target(desk: Desk, running: FireWireTarget) -> None:
    payload = b"\x30\x32\0\0" + bytes(range(1, 250)) * 16
    running.link.send(PacketType.DEBUG_IO, payload[:4000], desk.now)
    assert desk.take(PacketType.DEBUG_IO) == payload[:4000]


def test_an_impossible_length_is_not_believed(desk: Desk, running: FireWireTarget) -> None:
    running.memory[SEND + 16 : SEND + 20] = b"sum."
    for length in (4001, 0xFFFFFFFF):
        running.memory[SEND + 20 : SEND + 24] = length.to_bytes(4, "little")
        running.memory[SEND : SEND + 4] = FULL
        desk.wait(0.1)
        assert running.memory[SEND : SEND + 4] == EMPTY
    assert desk.packets == []
    assert max(asked.length for asked in desk.bus.asked) <= 2048
    running.kernel.print("and on it goes", desk.now)
    assert desk.text() == b"and on it goes"


def test_a_request_that_the_target_refuses_comes_again(desk: Desk, target: FireWireTarget) -> None:
    damaged = []

    def damage(asked: Asked) -> bool:
        if asked.address == RECEIVE + 4 and not damaged:
            damaged.append(asked)
        return False

    desk.bus.faults.append(Fault(0, concerns=damage))
    original = target.write

    def write(address: int, data: bytes) -> int:
        if address == RECEIVE + 4 and len(damaged) == 1:
            damaged.append(data)
            data = data[:40] + b"\xff" + data[41:]
        return original(address, data)

    target.write = write  # type: ignore[method-assign]
    assert desk.ask(read(16)).data == target.kernel.memory.read_virtual(KERNEL_BASE, 16)
    assert target.link.refused == 1
    assert len(target.kernel.log) == 1
    desk.bus.faults.clear()


def test_what_the_target_always_refuses_is_given_up(desk: Desk, target: FireWireTarget) -> None:
    desk.link.send(PacketType.FILE_IO, bytes(64), desk.now)
    desk.driver.flush()
    desk.wait(1.0)
    assert target.link.refused == 4
    assert desk.gave_up == [GaveUp(PacketType.FILE_IO, "the target asks for it again and again")]
    assert desk.link.phase is Phase.UNKNOWN


def spoil_bodies(target: FireWireTarget, times: int) -> None:
    """So many reads of a body give something else, as when another packet takes its place meanwhile."""
    original = target.read
    left = times

    def read(address: int, length: int) -> tuple[int, bytes]:
        nonlocal left
        code, data = original(address, length)
        if address == SEND + 24 and left:
            left -= 1
            data = b"\xee" + data[1:]
        return code, data

    target.read = read  # type: ignore[method-assign]


def test_a_packet_that_changed_while_it_was_read_is_read_again(desk: Desk, target: FireWireTarget) -> None:
    for times in (1, 2):
        spoil_bodies(target, times)
        assert desk.ask(read(16)).data == target.kernel.memory.read_virtual(KERNEL_BASE, 16)
    assert desk.link.counters.damaged == 0


def test_a_packet_whose_sum_is_never_right_has_the_stop_told_again(desk: Desk, target: FireWireTarget) -> None:
    spoil_bodies(target, 3)
    desk.send(read(16))
    desk.stop()
    assert desk.link.counters.damaged == 1
    assert len(desk.ask(read(16)).data) == 16
    spoil_bodies(target, 10**6)
    desk.send(read(16))
    desk.wait(1.0)
    assert desk.link.counters.damaged == 5, "and not for ever"
    assert desk.packets == []


def test_no_ack_and_no_reset_is_ever_sent(desk: Desk, target: FireWireTarget) -> None:
    desk.ask(read(100))
    desk.resync()
    desk.stop()
    desk.go()
    desk.break_in()
    desk.stop()
    put = [asked.data for asked in desk.bus.asked if asked.address == RECEIVE + 4 and asked.data is not None]
    kinds = {int.from_bytes(data[8:10], "little") for data in put if data[4:8] == b"iiii"}
    assert kinds == {PacketType.RESEND}


def test_a_target_that_hangs_takes_nothing_and_is_given_up(desk: Desk, target: FireWireTarget) -> None:
    target.looks = False
    desk.wait(0.5)
    desk.send(read(8))
    desk.wait(6.0)
    assert [asked.address for asked in desk.bus.asked].count(RECEIVE + 4) == 1, "what lies there is not put again"
    assert desk.gave_up == [GaveUp(PacketType.STATE_MANIPULATE, "the target does not take it in 4 s")]
    assert desk.link.phase is Phase.UNKNOWN
    target.looks = True
    desk.resync()
    desk.take(PacketType.STATE_MANIPULATE)  # it was quicker than we
    desk.stop()
    assert len(desk.ask(read(8)).data) == 8


def test_prints_that_nobody_takes_are_given_up_by_the_target(desk: Desk) -> None:
    """Without a host, a kernel waits so many looks; then it thinks that there is no debugger, until one breaks in."""
    target = desk.plug(FireWireTarget(0, RUNNING, now=desk.now, rounds=50))
    target.kernel.print("unheard", desk.now)
    for _ in range(60):
        target.look(desk.now)
    assert target.link.debugger_absent
    target.kernel.print("nor this", desk.now)
    desk.attach()
    assert desk.packets == []
    desk.break_in()
    desk.stop()
    assert not target.link.debugger_absent


def test_a_stop_that_nobody_takes_waits(desk: Desk) -> None:
    target = desk.plug(FireWireTarget(0, RUNNING, now=desk.now, rounds=50))
    target.kernel.stop(desk.now)
    for _ in range(200):
        target.look(desk.now)
    desk.attach()
    assert desk.stop()["exception_code"] == 0x80000003


def test_a_loader_that_throws_away_what_comes_while_it_waits(desk: Desk) -> None:
    target = desk.plug(FireWireTarget(0, now=desk.now, is_loader=True))
    desk.attach()
    desk.stop()
    for _ in range(5):
        assert len(desk.ask(read(8)).data) == 8
    assert target.link.refused == 0


# The bus


@pytest.mark.parametrize("code", [SEND_ERROR, BUSY, STALE, NO_ACKNOWLEDGEMENT])
def test_bursts_of_refusals_pass(desk: Desk, target: FireWireTarget, code: int) -> None:
    for round_ in range(1, 30):
        desk.bus.faults += [Fault(code)] * (round_ % 4)
        assert desk.ask(read(round_)).data == target.kernel.memory.read_virtual(KERNEL_BASE, round_)
    assert desk.events == []
    assert len(target.kernel.log) == 29
    assert target.link.refused == 0


def test_a_bus_reset_at_any_moment_passes(desk: Desk, target: FireWireTarget) -> None:
    """The reset comes between two transactions, wherever that is; most of them fail then until the target looks."""
    expected = target.kernel.memory.read_virtual(KERNEL_BASE, 3000)
    for moment in range(40):
        desk.send(read(3000))
        desk.wait(0.00002 + moment * 0.00005)
        desk.bus.reset()
        assert Manipulate.decode(desk.take(PacketType.STATE_MANIPULATE)).data == expected
    assert desk.events == []
    assert len(target.kernel.log) == 40


def test_after_a_bus_reset_rom_and_descriptor_are_read_again(desk: Desk, target: FireWireTarget) -> None:
    desk.wait(0.1)
    desk.bus.asked.clear()
    desk.bus.reset()
    desk.wait(0.2)
    addresses = [asked.address for asked in desk.bus.asked]
    assert [0xFFFFF0000400 + 4 * index in addresses for index in range(12)] == [True] * 11 + [False]
    assert BASE + 0x3E0 in addresses


def test_an_emptying_that_is_not_confirmed_neither_loses_nor_doubles(desk: Desk, target: FireWireTarget) -> None:
    for is_done in (False, True):
        for code in (CANCELLED, NO_ACKNOWLEDGEMENT, BUSY):
            desk.bus.faults.append(Fault(code, is_done, status_is(SEND, EMPTY), resets=code == CANCELLED))
            before = len(target.kernel.log)
            assert len(desk.ask(read(64)).data) == 64
            desk.wait(0.5)
            assert desk.packets == []
            assert desk.bus.faults == []
            assert len(target.kernel.log) == before + 1
    assert desk.events == []


def test_prints_are_neither_lost_nor_doubled_by_resets(desk: Desk, running: FireWireTarget) -> None:
    running.link.rounds = 10_000
    lines = [f"line {number}" for number in range(60)]
    for line in lines:
        running.kernel.print(line, desk.now)
    for moment in range(60):
        desk.wait(0.0005 + moment * 0.0001)
        desk.bus.reset()
    desk.wait(2.0)
    assert [desk.text().decode() for _ in range(len(desk.packets))] == lines


def test_a_packet_that_perhaps_arrived_is_not_sent_twice(desk: Desk, target: FireWireTarget) -> None:
    """The write of the status was cancelled by a bus reset, and the box is empty: taken, or never full?"""
    for is_done in (False, True):
        desk.bus.faults.append(Fault(CANCELLED, is_done, status_is(RECEIVE, FULL), resets=True))
        before = len(target.kernel.log)
        request = Manipulate.write_breakpoint(1) if not is_done else Manipulate.clear_all_internal_breakpoints()
        desk.send(request)  # one that is not replied to, where it is done
        desk.stop()
        assert desk.events == ["a bus reset came between a packet and the target", "resumed"]
        assert len(target.kernel.log) == before + is_done
        desk.wait(0.5)
        assert desk.packets == []
        desk.events.clear()
        assert len(desk.ask(read(9)).data) == 9


def test_a_reply_says_that_a_packet_has_arrived(desk: Desk, target: FireWireTarget) -> None:
    desk.bus.faults.append(Fault(CANCELLED, True, status_is(RECEIVE, FULL), resets=True))
    assert len(desk.ask(read(8)).data) == 8
    assert (desk.events, len(target.kernel.log), desk.link.backlog) == ([], 1, 0)


def test_a_packet_that_arrived_and_still_lies_there_is_waited_for(desk: Desk, target: FireWireTarget) -> None:
    target.looks = False
    desk.bus.faults.append(Fault(CANCELLED, True, status_is(RECEIVE, FULL)))
    desk.send(read(8))
    desk.wait(0.1)
    target.looks = True
    assert len(Manipulate.decode(desk.take(PacketType.STATE_MANIPULATE)).data) == 8
    assert desk.events == []
    assert len(target.kernel.log) == 1


def test_a_target_that_does_not_open_its_filters_is_named_and_found_again(desk: Desk, target: FireWireTarget) -> None:
    target.looks = False
    desk.bus.reset()
    desk.wait(2.9)
    assert desk.events == []
    desk.wait(1.0)
    assert desk.events == ["fw1: it has not answered for 3 s (no acknowledgement)"]
    before = len(desk.bus.asked)
    desk.wait(10.0)
    assert len(desk.bus.asked) - before < 700, "it is tried four times in a second and not all the time"
    target.looks = True
    desk.wait(1.0)
    assert desk.events[1:] == ["resumed"]
    desk.stop()
    assert len(desk.ask(read(8)).data) == 8


def test_one_failure_now_and_then_is_no_silence(desk: Desk, target: FireWireTarget) -> None:
    for _ in range(5):
        desk.bus.faults.append(Fault(BUSY))
        desk.wait(2.0)
    assert desk.events == []


def test_after_a_silence_rom_and_descriptor_are_read_again(desk: Desk, target: FireWireTarget) -> None:
    """Without a bus reset, too."""
    target.looks = target.filters_open = False
    desk.wait(4.0)
    desk.bus.asked.clear()
    target.looks = True
    desk.wait(1.0)
    assert 0xFFFFF0000428 in [asked.address for asked in desk.bus.asked]


def test_a_target_that_comes_back_on_another_channel(desk: Desk, target: FireWireTarget) -> None:
    target.channel = 9
    target.put_block()
    desk.bus.reset()
    desk.wait(0.2)
    assert desk.events == ["fw1: it waits on channel 9"]
    desk.wait(1.0)
    assert desk.events[1:] == ["1 node on the FireWire bus, none waits on channel 0: found channel 9"]


def test_an_address_error_is_the_end_of_that_block(desk: Desk, target: FireWireTarget) -> None:
    desk.bus.faults.append(Fault(7))
    desk.wait(0.1)
    assert desk.events == ["fw1: it answers with an error: address error"]
    desk.wait(1.5)
    assert desk.events[1:] == ["resumed"]
    desk.stop()


def test_short_answers_are_errors(desk: Desk, target: FireWireTarget) -> None:
    original = target.read
    target.read = lambda address, length: (0, original(address, length)[1][:-1])  # type: ignore[method-assign]
    desk.wait(0.1)
    assert desk.events == ["fw1: it answers with an error: data error"]


# Coming and going


def test_a_host_without_firewire(desk: Desk) -> None:
    for entry in sorted(desk.bus.nodes.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    desk.bus.nodes.rmdir()
    with pytest.raises(TargetError, match="1394 channel 0: this host has no FireWire"):
        open_firewire(desk.bus.host, FireWireSpec(0))


def test_an_empty_bus(desk: Desk) -> None:
    desk.attach()
    assert desk.events == ["there is no other node on the FireWire bus: is the cable in, and the target on?"]
    desk.bus.plug(OtherNode())
    desk.wait(1.5)
    assert desk.events[1:] == ["1 node on the FireWire bus, none waits on channel 0 or on any other"]
    desk.plug()
    desk.wait(1.5)
    assert desk.events[2:] == ["resumed"]
    desk.stop()


def test_other_channels_are_named_and_left_alone(desk: Desk) -> None:
    others = [desk.plug(FireWireTarget(channel, now=desk.now)) for channel in (7, 3)]
    desk.bus.plug(OtherNode())
    desk.attach(wait=1.5)
    assert desk.events == ["3 nodes on the FireWire bus, none waits on channel 0: found channels 3, 7"]
    assert [bytes(other.memory[SEND : SEND + 4]) for other in others] == [FULL, FULL]
    assert {asked.address for asked in desk.bus.asked if asked.data is not None} == set()
    desk.plug()
    desk.wait(1.5)
    desk.stop()
    assert [bytes(other.memory[SEND : SEND + 4]) for other in others] == [FULL, FULL]


def test_two_targets_at_once(desk: Desk) -> None:
    other = Desk(2, desk.clock, desk.bus)
    for each in (desk, other):
        each.plug()
        each.attach()
    for each in (desk, other):
        each.stop(wait=3.0)  # one may find the node of the other in use while it searches
        assert len(each.ask(read(100)).data) == 100
    other.leave()


def test_no_permission_and_the_cure(desk: Desk) -> None:
    desk.plug()
    desk.bus.denied.add("fw1")
    desk.attach()
    (sentence,) = desk.events
    assert "1 node on the FireWire bus, none waits on channel 0; no permission to open" in sentence
    assert 'fw1: as root, put SUBSYSTEM=="firewire", ATTR{vendor}=="0x0050f2"' in sentence
    desk.wait(5.0)
    assert len(desk.events) == 1
    desk.bus.denied.clear()
    desk.wait(1.5)
    desk.stop()


def test_a_node_that_somebody_else_uses(desk: Desk) -> None:
    desk.plug()
    descriptor = desk.bus.open("/dev/fw1", exclusive=True)
    desk.attach()
    assert "fw1: it is held by" in desk.events[0]
    desk.bus.close(descriptor)
    desk.wait(1.5)
    desk.stop()


def test_a_node_that_goes_and_comes_back(desk: Desk, target: FireWireTarget) -> None:
    desk.go()
    desk.wait(0.1)
    desk.bus.unplug("fw1")
    desk.wait(0.1)
    assert desk.events == ["fw1: it is gone from the bus"]
    desk.wait(2.0)
    assert desk.events[1:] == ["there is no other node on the FireWire bus: is the cable in, and the target on?"]
    desk.break_in()  # into nothing
    desk.plug(target)
    desk.wait(1.5)
    assert desk.events[2:] == ["resumed"]
    desk.stop(wait=3.0)  # the break-in is repeated
    assert len(desk.ask(read(8)).data) == 8


def test_a_node_that_is_gone_when_it_is_written_to(desk: Desk, target: FireWireTarget) -> None:
    desk.wait(0.5)
    desk.bus.unplug("fw1")
    desk.send(read(8))
    assert desk.events == [], "nobody is told from inside his own write"
    desk.wait(0.1)
    assert desk.events == ["fw1: it is gone from the bus"]


def test_a_target_that_reboots(desk: Desk, target: FireWireTarget) -> None:
    desk.send(Manipulate.reboot())
    desk.wait(0.1)
    assert target.kernel.state is TargetState.OFF
    assert b"simulated target: Windows build" in desk.text(wait=2.0)
    desk.stop()
    assert desk.ask(Manipulate.get_version()).version.build_number == 17134
    for _ in range(50):
        desk.go()
        desk.wait(0.05)
        desk.packets.clear()
    assert target.link.refused == 0


def test_a_block_that_is_at_another_place_after_a_reset(desk: Desk, target: FireWireTarget) -> None:
    old = BASE + 0x3E0
    descriptor = bytearray(target.memory[old : old + 32])
    descriptor[16:24] = (0x21000).to_bytes(8, "little")
    descriptor[24:32] = (0x22000).to_bytes(8, "little")
    target.memory[old : old + 32] = descriptor
    desk.bus.reset()
    desk.wait(0.1)
    assert desk.events == ["the target has started anew", "resumed"]
    assert any(asked.address == 0x21000 for asked in desk.bus.asked)


def test_a_node_that_waits_no_longer(desk: Desk, target: FireWireTarget) -> None:
    target.memory[BASE + 0x3E0] = 0
    desk.bus.reset()
    desk.wait(0.2)
    why = "fw1: its descriptor begins with bababa00, not with babababa"
    assert desk.events == [why]
    desk.wait(1.5)
    assert desk.events[1:] == [f"1 node on the FireWire bus, none waits on channel 0; {why}"]
    target.put_block()
    desk.wait(1.5)
    assert desk.events[2:] == ["resumed"]


def test_a_node_that_does_not_answer_the_search(desk: Desk) -> None:
    target = desk.plug()
    target.looks = False
    desk.attach(wait=5.0)
    assert desk.events == [
        "1 node on the FireWire bus, none waits on channel 0; fw1: it has not answered for 3 s (no acknowledgement)"
    ]
    target.looks = True
    desk.wait(2.0)
    desk.stop()


def test_closing_takes_back_what_lies_in_the_box(desk: Desk, running: FireWireTarget) -> None:
    running.looks = False
    desk.break_in()
    desk.wait(0.5)
    assert running.memory[RECEIVE : RECEIVE + 4] == FULL
    assert desk.transport is not None
    desk.transport.close()
    desk.transport.close()
    desk.transport.write(b"b")
    desk.wait(0.5)
    assert running.memory[RECEIVE : RECEIVE + 4] == EMPTY


def test_what_somebody_before_us_left_in_the_box_is_taken_out(desk: Desk) -> None:
    target = desk.plug(FireWireTarget(0, RUNNING, now=desk.now))
    request = Manipulate.continue_().encode()
    target.memory[RECEIVE + 4 : RECEIVE + 8 + len(request)] = (16 + len(request)).to_bytes(4, "little") + request
    target.memory[RECEIVE : RECEIVE + 4] = FULL
    desk.attach()
    desk.break_in()
    desk.stop()
    assert list(target.kernel.log) == []
    written = [asked for asked in desk.bus.asked if asked.data is not None]
    assert (written[0].address, written[0].data) == (RECEIVE, EMPTY)


def test_prints_on_the_way_in_are_heard(desk: Desk) -> None:
    """A target that runs does not wait for its prints to be taken while our request to repeat the stop lies there."""
    target = desk.plug(FireWireTarget(0, RUNNING, now=desk.now))
    for number in range(100):
        target.kernel.print(f"line {number}", desk.now)
    desk.attach(wait=1.0)
    assert [desk.text().decode() for _ in range(len(desk.packets))] == [f"line {number}" for number in range(100)]


def test_few_prints_are_lost_while_the_question_lies_in_the_box(desk: Desk) -> None:
    """The first that comes tells that the target runs, and the question is taken back."""
    target = desk.plug(FireWireTarget(0, RUNNING, now=desk.now))
    desk.attach(wait=0.1)
    assert target.memory[RECEIVE : RECEIVE + 4] == FULL
    for number in range(100):
        target.kernel.print(f"line {number}", desk.now)
    desk.wait(1.0)
    assert 85 < len(desk.packets) < 100


def test_silence_is_looked_into_ever_more_rarely(desk: Desk, target: FireWireTarget) -> None:
    desk.ask(read(8))
    counts = []
    for seconds in (0.02, 0.02, 0.1, 1.0, 1.0):
        before = len(desk.bus.asked)
        desk.wait(seconds)
        counts.append((len(desk.bus.asked) - before) / seconds)
    assert counts[0] > 5000
    assert counts == sorted(counts, reverse=True)
    assert 90 <= counts[-1] <= 110


def test_the_rom_is_in_the_log_once(desk: Desk) -> None:
    desk.plug()
    with capturedLogs() as logged:
        desk.attach()
        desk.bus.reset()
        desk.wait(0.5)
    roms = [event for event in logged if "rom" in event]
    assert len(roms) == 1
    assert "1c0050f2 1d000002 1e0093e0" in roms[0]["rom"]


def test_symlink_is_taken_and_means_nothing(desk: Desk) -> None:
    with capturedLogs() as logged:
        transport = open_firewire(desk.bus.host, FireWireSpec(5, "instance"))
    assert (transport.description, transport.byte_time) == ("1394 channel 5", 0.0)
    assert [event["symlink"] for event in logged] == ["instance"]


def test_memory_of_the_target_can_be_read_without_its_help(desk: Desk) -> None:
    """What the seam offers and no session uses: the physical window."""
    target = desk.plug()
    target.look(desk.now)
    target.memory[0x54320:0x54328] = b"physical"
    device = FireWireDevice(desk.bus, "/dev/fw1")
    events: list[object] = []
    device.watch(lambda: events.append(device.next_event()))
    device.submit(Read(0x54320, 8))
    desk.wait(0.01)
    device.close()
    assert events == [Response(0, b"physical")]


# Everything at once

# What happens at so many steps after something was begun.
STORMS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from(
            [
                (),
                ("reset",),
                ("reset", "reset"),
                *((Fault(code),) for code in (SEND_ERROR, BUSY, STALE, NO_ACKNOWLEDGEMENT)),
                *((Fault(BUSY),) * count for count in (3, 5)),
                *((Fault(CANCELLED, done, status_is(SEND, EMPTY), True),) for done in (False, True)),
                *((Fault(CANCELLED, done, status_is(RECEIVE, FULL), True),) for done in (False, True)),
                *((Fault(NO_ACKNOWLEDGEMENT, done, status_is(SEND, EMPTY)),) for done in (False, True)),
            ]
        ),
    ),
    min_size=1,
    max_size=6,
)


@given(STORMS)
@settings(max_examples=20)
def test_in_any_weather_a_request_is_done_once(storm: list[tuple[int, tuple[Any, ...]]]) -> None:
    """And its reply is its own; or nobody knows, and that is told."""
    desk = Desk()
    target = desk.plug()
    desk.attach()
    desk.stop()
    desk.events.clear()
    for number, (step, weather) in enumerate(storm, 1):
        done = len(target.kernel.log)
        desk.clock.callLater(step * LATENCY, brew, desk, weather)
        desk.send(read(number))
        desk.wait(0.8)
        replies = [packet for packet in desk.packets if packet.type == PacketType.STATE_MANIPULATE]
        lengths = [len(Manipulate.decode(reply.payload).data) for reply in replies]
        assert lengths == [number] or (lengths == [] and desk.events != [])
        assert len(target.kernel.log) <= done + 1
        assert lengths == [] or len(target.kernel.log) == done + 1
        assert {packet.type for packet in desk.packets} <= {PacketType.STATE_MANIPULATE, PacketType.STATE_CHANGE64}
        desk.packets.clear()
        desk.events.clear()
        desk.bus.faults.clear()
    assert target.link.refused == 0
    desk.close()


@given(STORMS)
@settings(max_examples=20)
def test_in_any_weather_each_print_comes_once(storm: list[tuple[int, tuple[Any, ...]]]) -> None:
    desk = Desk()
    target = desk.plug(FireWireTarget(0, RUNNING, now=desk.now, rounds=10_000))
    desk.attach(wait=0.3)
    lines = [f"line {number}" for number in range(4 * len(storm))]
    for number, (step, weather) in enumerate(storm):
        for line in lines[4 * number : 4 * number + 4]:
            target.kernel.print(line, desk.now)
        desk.clock.callLater(step * LATENCY, brew, desk, weather)
        desk.wait(0.1)
    desk.wait(10.0)
    assert [desk.text().decode() for _ in range(len(desk.packets))] == lines
    desk.close()


def brew(desk: Desk, weather: tuple[Any, ...]) -> None:
    for each in weather:
        if isinstance(each, Fault):
            desk.bus.faults.append(each)
        else:
            desk.bus.reset()
