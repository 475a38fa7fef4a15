"""Who looks on at the targets of a server in memory, and what that costs those who debug them."""

from __future__ import annotations

import json
import time
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_callers import EPOCH, Caller, ServerInMemory
from twisted.internet.task import Clock

from kdsrv.auth.users import ANYBODY, Role, User
from kdsrv.connection_strings import SimSpec, TargetSpec
from kdsrv.errors import SetupError
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.policy.places import HostPlaces
from kdsrv.policy.policy import NotAllowed, Policy
from kdsrv.server import scene as scene_module
from kdsrv.server.scene import LINES_AT_ONCE, MAX_LINES, MAX_REQUESTS_WAITING, MAX_WAITING, MOMENT, NOBODY, Scene
from kdsrv.server.spectators import MAX_SPECTATORS, Spectators
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.status import Running, RunState
from kdsrv.sessions.tenant import Take
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.transports.opener import Opener
from kdsrv.wire.frames import MAX_CONTROL, BreakIn
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Bye,
    ClientHello,
    Failure,
    Message,
    Ping,
    Pong,
    Seen,
    StatusReport,
    Watch,
    Watching,
    encode_seen,
)

READ = Packet(PacketType.STATE_MANIPULATE, Manipulate.read_virtual(KERNEL_BASE, 16).encode())
GO = Packet(PacketType.STATE_MANIPULATE, Manipulate.continue2(0x10002, trace=False).encode())

RUNNING = "sim:state=running"


def printed(text: str) -> Packet:
    return Packet(PacketType.DEBUG_IO, DebugIo.print_string(text.encode()).encode())


@pytest.fixture
def server() -> Any:
    server = ServerInMemory()
    yield server
    server.factory.stopFactory()
    server.wait(10)
    assert server.end() == []


def holder(server: ServerInMemory, client: str = "kim@desk", trans: str = "sim:", **options: Any) -> Caller:
    caller = server.call()
    caller.say(ClientHello("a test"))
    caller.hear()
    caller.say(Attach(trans, client, **options))
    server.wait()
    assert caller.hear(Attached)
    return caller


def spectator(server: ServerInMemory, port: int = 4001, trans: str = "sim:") -> Caller:
    caller = server.call("192.0.2.9", port)
    caller.say(ClientHello("a test"))
    caller.hear()
    caller.say(Watch(trans, "pat@lab"))
    return caller


def lines(events: list[Any]) -> list[dict[str, Any]]:
    return [line for event in events if isinstance(event, Seen) for line in event.lines]


def missed(events: list[Any]) -> int:
    return sum(event.missed for event in events if isinstance(event, Seen))


def kinds(events: list[Any]) -> list[Any]:
    return [line["kind"] for line in lines(events)]


def test_a_spectator_sees_what_a_debugger_does(server: ServerInMemory) -> None:
    kim = holder(server)
    pat = spectator(server)
    watching, seen = pat.hear()
    assert watching == Watching("sim:", "simulated target sim", next(iter(server.directory)).status)
    assert [(line["kind"], line["text"]) for line in seen.lines] == [
        ("holder", "kim@desk from 192.0.2.7:4000 has the target")
    ]
    kim.say(READ, GO, BreakIn())
    server.wait()
    heard = pat.hear()
    assert kinds(heard) == ["request", "reply", "continue", "break-in", "stop"]
    assert [line["direction"] for line in lines(heard)] == ["to-target", "from-target"] + ["to-target"] * 2 + [
        "from-target"
    ]
    assert all(EPOCH <= line["time"] <= EPOCH + server.clock.seconds() for line in lines(heard))
    assert missed(heard) == 0


def test_a_status_comes_after_what_led_to_it(server: ServerInMemory) -> None:
    kim = holder(server, trans=RUNNING)
    pat = spectator(server, trans=RUNNING)
    assert pat.hear(Watching)[0].status.run_state is RunState.UNKNOWN
    kim.say(BreakIn())
    server.wait()
    seen, status = pat.hear()
    assert kinds([seen]) == ["break-in", "stop"]
    assert status == StatusReport(next(iter(server.directory)).status)


def test_all_see_the_same_and_it_is_made_once(server: ServerInMemory) -> None:
    kim = holder(server)
    watchers = [spectator(server, port) for port in range(5000, 5000 + MAX_SPECTATORS)]
    for watcher in watchers:
        watcher.hear()
    with patch.object(scene_module, "seen", wraps=scene_module.seen) as made:
        kim.say(READ, READ)
        server.wait()
    heard = [lines(watcher.hear()) for watcher in watchers]
    assert len(heard[0]) == made.call_count == 4
    assert all(each == heard[0] for each in heard)


def test_there_are_only_so_many(server: ServerInMemory) -> None:
    for port in range(5000, 5000 + MAX_SPECTATORS):
        spectator(server, port)
    (refusal,) = spectator(server, 6000).hear(Failure)
    assert refusal.code == "setup"
    assert refusal.message.startswith("32 look on at targets of this server, and no more can")


def test_who_leaves_makes_room_and_leaves_nothing_behind(server: ServerInMemory) -> None:
    kim = holder(server)
    watchers = [spectator(server, port) for port in range(5000, 5000 + MAX_SPECTATORS)]
    kim.say(READ)
    watchers.pop().say(Bye("enough"))
    watchers.pop().leave()
    assert len(server.factory.spectators) == MAX_SPECTATORS - 2
    assert spectator(server, 6000).hear(Watching)
    for watcher in watchers:
        watcher.leave()
    assert len(server.factory.spectators) == 1


def test_nobody_has_the_target_yet(server: ServerInMemory) -> None:
    pat = spectator(server)
    assert pat.hear() == [Watching("sim:", "", NOBODY)]
    holder(server)
    server.wait()
    heard = pat.hear()
    assert kinds(heard)[0] == "holder"
    assert "stop" in kinds(heard)
    assert heard[-1] == StatusReport(next(iter(server.directory)).status)


def test_it_goes_on_from_one_session_to_the_next(server: ServerInMemory) -> None:
    pat, kim = spectator(server), holder(server)
    server.wait()
    pat.hear()
    kim.say(Bye("gone"))
    server.wait(2)
    heard = pat.hear()
    assert kinds(heard) == ["end"]
    assert heard[-1] == StatusReport(NOBODY)
    holder(server, "lee@desk")
    server.wait()
    assert [line["holder"] for line in lines(pat.hear()) if line["kind"] == "holder"] == ["lee@desk"]


def test_it_goes_on_when_a_session_changes_hands(server: ServerInMemory) -> None:
    pat = spectator(server)
    holder(server)
    server.wait()
    pat.hear()
    lee = holder(server, "lee@desk", take=Take.FORCE)
    lee.say(READ)
    server.wait()
    assert kinds(pat.hear()) == ["holder", "request", "reply"]


def test_a_slow_spectator_loses_the_oldest_lines_and_is_told(server: ServerInMemory) -> None:
    holder(server)
    slow, fast = spectator(server, 5000), spectator(server, 5001)
    slow.hear()
    fast.hear()
    slow.transport.full = True
    slow.transport.producer.pauseProducing()
    total = MAX_LINES + 500
    scene = next(iter(server.factory.spectators._scenes.values()))
    heard = []
    for number in range(total):
        scene.packet_from_target(printed(f"line {number}\n"))
        if number % LINES_AT_ONCE == 0:
            server.wait(2 * MOMENT)
            heard += fast.hear()
    server.wait(1)
    heard += fast.hear()
    assert [line["text"] for line in lines(heard)] == [f"line {number}" for number in range(total)]
    slow.transport.full = False
    slow.transport.producer.resumeProducing()
    late = slow.hear()
    assert missed(late) == late[0].missed == 500
    assert [line["text"] for line in lines(late)] == [f"line {number}" for number in range(500, total)]


def test_it_may_take_its_time_as_long_as_it_is_there(server: ServerInMemory) -> None:
    pat = spectator(server)
    pat.hear()
    for _ in range(4):
        server.wait(16)
        (ping,) = pat.hear(Ping)
        pat.say(Pong(ping.id))
    server.wait(61)
    assert pat.is_aborted
    pat.leave()
    assert len(server.factory.spectators) == 0


# Who may


class Audience:
    """Takes everything at once."""

    is_ready = True

    def __init__(self) -> None:
        self.said: list[Message] = []

    def say(self, message: Message) -> None:
        self.said.append(message)

    def say_seen(self, missed: int, lines: Any) -> None:
        self.said.append(Seen(missed, [json.loads(line) for line in lines]))


def spectators(policy: Policy) -> Spectators:
    clock = Clock()
    return Spectators(clock, Directory(clock, Opener(clock), {}, clock.seconds, policy))


def test_a_target_that_a_user_may_not_open_is_not_looked_on_at() -> None:
    everyone = spectators(Policy(HostPlaces(), {"mine": SimSpec("a"), "yours": SimSpec("b")}))
    for role in Role:
        pat = User("pat", role, ("mine",))
        with pytest.raises(NotAllowed, match="it offers target:name=mine"):
            everyone.watch(TargetSpec("yours"), pat, Audience())
        audience = Audience()
        everyone.watch(TargetSpec("mine"), pat, audience).start()
        assert audience.said == [Watching("target:name=mine", "", NOBODY)]
    assert len(everyone) == len(Role)


def test_a_refused_spectator_takes_no_place() -> None:
    everyone = spectators(Policy(HostPlaces(), {"mine": SimSpec("a")}))
    for _ in range(2 * MAX_SPECTATORS):
        with pytest.raises(NotAllowed):
            everyone.watch(TargetSpec("yours"), ANYBODY, Audience())
    assert len(everyone) == 0
    for _ in range(MAX_SPECTATORS):
        everyone.watch(TargetSpec("mine"), ANYBODY, Audience())
    with pytest.raises(SetupError, match="no more can"):
        everyone.watch(TargetSpec("mine"), ANYBODY, Audience())


# What a scene does with what happens


class Stage:
    """A scene on its own. ``told`` is what one would be told who reads all at once."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[dict[str, Any]] = []
        self.missed = 0
        self.largest = 0
        self.place = self.number = 0
        self.scene = Scene(self.clock, self.clock.seconds, self._take)

    def _take(self) -> None:
        while (batch := self.scene.after(self.place, self.number)) is not None:
            self.place, self.number = batch.place, batch.number
            self.missed += batch.missed
            self.told += map(json.loads, batch.lines)
            self.largest = max(self.largest, len(encode_seen(batch.missed, batch.lines)))

    def wait(self) -> None:
        while self.clock.getDelayedCalls():
            self.clock.advance(MOMENT)


def test_a_packet_that_passes_is_not_read_at_once() -> None:
    stage = Stage()
    with patch.object(scene_module, "seen", wraps=scene_module.seen) as made:
        for _ in range(10_000):
            stage.scene.packet_to_target(READ)
            stage.scene.packet_from_target(READ)
        assert made.call_count == 0
        stage.clock.advance(MOMENT)
        assert made.call_count == LINES_AT_ONCE
        assert len(stage.clock.getDelayedCalls()) == 1
        stage.wait()
        assert made.call_count == MAX_REQUESTS_WAITING
    stage.scene.packet_from_target(printed("after it"))
    stage.wait()
    assert len(stage.told) == MAX_REQUESTS_WAITING + 1
    assert stage.missed == 20_000 - MAX_REQUESTS_WAITING


def test_in_a_flood_of_requests_prints_and_stops_are_seen() -> None:
    stage = Stage()
    for number in range(40):
        for _ in range(100):
            stage.scene.packet_to_target(READ)
        stage.scene.packet_from_target(printed(f"line {number}"))
    stage.scene.session_ended()
    stage.wait()
    told = [line["text"] for line in stage.told if line["kind"] not in ("request", "reply")]
    assert told == [*(f"line {number}" for number in range(40)), "the session has ended"]
    assert stage.missed + len(stage.told) == 40 * 101 + 1


def test_in_a_flood_of_prints_the_oldest_go() -> None:
    stage = Stage()
    for number in range(MAX_WAITING + 300):
        stage.scene.packet_from_target(printed(f"line {number}"))
    stage.wait()
    assert [line["text"] for line in stage.told] == [f"line {number}" for number in range(300, MAX_WAITING + 300)]
    assert stage.missed == 300


def test_a_status_in_a_flood_is_not_lost() -> None:
    stage = Stage()
    for _ in range(3 * MAX_WAITING):
        stage.scene.status_changed(NOBODY)
        stage.scene.packet_from_target(printed("x"))
    stage.scene.status_changed(Running())
    stage.wait()
    assert stage.scene.status == Running()
    assert stage.missed + len(stage.told) == 3 * MAX_WAITING


def test_long_lines_are_bounded_by_their_bytes() -> None:
    stage = Stage()
    stage.scene.packet_from_target(printed("first"))
    stage.wait()
    worst = Packet(PacketType.DEBUG_IO, DebugIo.print_string(b"\x01" * 3900).encode())
    stage.place = -1  # one that never reads
    with patch.object(stage, "_take"):
        for _ in range(300):
            stage.scene.packet_from_target(worst)
            stage.clock.advance(MOMENT)
    assert sum(len(line.json) for line in stage.scene._lines) <= scene_module.MAX_LINE_BYTES
    assert len(stage.scene._lines) < 300


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(PacketType),
            st.binary(max_size=300)
            | st.integers(0, 3985).map(lambda size: b"\x30\x32\0\0" + bytes(12) + b"\xfe" * size),
        ),
        max_size=60,
    )
)
def test_any_packets_become_lines_that_fit_a_message(packets: list[tuple[bool, int, bytes]]) -> None:
    stage = Stage()
    for from_target, kind, payload in packets:
        packet = Packet(kind, payload)
        if from_target:
            stage.scene.packet_from_target(packet)
        else:
            stage.scene.packet_to_target(packet)
    stage.wait()
    assert (len(stage.told), stage.missed) == (len(packets), 0)
    assert all(isinstance(line["text"], str) for line in stage.told)
    assert stage.largest <= MAX_CONTROL


def test_the_debugger_is_as_fast_as_alone() -> None:
    """By the time of the processor, in one run: a session that only its debugger sees, and one that 32 look on at."""

    def prepare(watchers: int) -> tuple[ServerInMemory, Caller, list[Caller]]:
        server = ServerInMemory()
        kim = holder(server)
        return server, kim, [spectator(server, 5000 + number) for number in range(watchers)]

    def measure(server: ServerInMemory, kim: Caller, watchers: list[Caller]) -> float:
        begun = time.process_time()
        for _ in range(400):
            kim.say(READ)
            server.clock.advance(0.0002)
            assert len(kim.hear(Packet)) == 1
        spent = time.process_time() - begun
        for watcher in watchers:
            watcher.transport.take()
        return spent

    alone, seen = prepare(0), prepare(MAX_SPECTATORS)
    times = [(measure(*alone), measure(*seen)) for _ in range(6)]
    assert min(pair[1] for pair in times) < 1.6 * min(pair[0] for pair in times)
    for server, *_ in (alone, seen):
        server.factory.stopFactory()
        server.wait(10)
        server.end()
