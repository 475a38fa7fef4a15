"""The recorder: what a session does, in pieces for two files."""

from __future__ import annotations

import json
from typing import Any

from recordings import BEGIN, Script, going_down, loaded, printed, replied, stopped, whole

from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.recorder.entries import BreakInSent, Entry, EntryReader, Note, PacketSeen
from kdsrv.recorder.pcapng import CapturedPacket, PcapngReader
from kdsrv.recorder.recorder import Growth
from kdsrv.sessions.decoded import Direction
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.status import BreakingIn, Lost, Quiet

FROM, TO = Direction.FROM_TARGET, Direction.TO_TARGET


def entries(growth: Growth) -> list[Entry]:
    return list(EntryReader().feed(growth.packets))


def comments(growth: Growth) -> list[str]:
    return [block.comment for block in PcapngReader().feed(growth.packets) if isinstance(block, CapturedPacket)]


def lines(growth: Growth) -> list[dict[str, Any]]:
    return [json.loads(line) for line in growth.lines.splitlines()]


def test_a_session_from_beginning_to_end() -> None:
    script = Script()
    script.says(stopped())
    script.reads(0x1000, b"abcd")
    script.asks(Manipulate.continue_())
    script.says(printed("hello\n"))
    script.breaks_in()
    script.recorder.session_ended()
    growth = whole(script.recorder)
    read = Manipulate.read_virtual(0x1000, 4)
    tick = 1_000_000
    held = {"holder": "kim@desk", "address": "10.0.0.7:4711", "target": "rack1", "line": "/dev/ttyS0 at 115200 baud"}
    assert entries(growth) == [
        Note(
            BEGIN + tick,
            "session",
            "rack1 (/dev/ttyS0 at 115200 baud), held by kim@desk from 10.0.0.7:4711",
            held,
        ),
        PacketSeen(BEGIN + 1 * tick, FROM, stopped()),
        PacketSeen(BEGIN + 2 * tick, TO, replied(read)),
        PacketSeen(BEGIN + 3 * tick, FROM, replied(read.reply(0, b"abcd", actual=4))),
        PacketSeen(BEGIN + 4 * tick, TO, replied(Manipulate.continue_())),
        PacketSeen(BEGIN + 5 * tick, FROM, printed("hello\n")),
        BreakInSent(BEGIN + 6 * tick),
        Note(BEGIN + 7 * tick, "ended", "the session ended"),
    ]
    assert comments(growth)[1:] == [
        "halted: breakpoint at 00000000`00001000 on processor 0",
        "ReadVirtualMemory 00000000`00001000 length 4",
        "ReadVirtualMemory: 00000000 success, 4 bytes",
        "continue: 00010002 dbg continue",
        "hello",
        "break in",
        "the session ended",
    ]


def test_the_index_has_a_line_for_each_event() -> None:
    script = Script()
    script.says(stopped(), loaded(b"a.sys", 0xFFFFF80210000000), printed("x\n"))
    script.reads(0x1000, b"abcd")
    script.breaks_in()
    script.says(printed("*** Fatal System Error: 0x000000e2\n"), Packet(PacketType.TRACE_IO, bytes(80)))
    script.says(Packet(PacketType.DEBUG_IO, DebugIo.get_string(b"? ", 9).encode()))
    script.recorder.status_changed(Lost("the cable is out"))
    script.recorder.holder_changed(Lease("a key", "lee@home", "10.0.0.8:1", 0.0))
    found = lines(whole(script.recorder))
    assert [line["kind"] for line in found] == [
        *("session", "stop", "module-load", "print", "bugcheck", "prompt", "status", "holder")
    ]
    assert found[1]["time"] == "2026-08-01T10:00:00.001000+00:00"
    assert found[2]["base"] == "0xfffff80210000000"
    assert found[4]["name"] == "MANUALLY_INITIATED_CRASH"
    assert found[6]["status"]["kind"] == "lost"
    assert (found[7]["holder"], found[7]["text"]) == ("lee@home", "held by lee@home from 10.0.0.8:1")


def test_every_piece_can_begin_files_of_its_own() -> None:
    script = Script()
    recorder = script.recorder
    script.says(stopped())
    recorder.status_changed(Lost("x"))
    first = recorder.take()
    recorder.holder_changed(Lease("a key", "lee@home", "10.0.0.8:1", 0.0))
    script.reads(0x1000, b"abcd")
    second = recorder.take()
    script.asks(Manipulate.continue_())
    third = recorder.take()
    script.says(printed("x"))
    fourth = recorder.take()
    assert first is not None
    assert second is not None
    assert third is not None
    assert fourth is not None

    def told(growth: Growth) -> list[object]:
        return [e.kind if isinstance(e, Note) else getattr(e, "packet", None) for e in entries(growth)]

    assert told(first.head) == ["session"]
    assert told(second.head) == ["session", "status", stopped()]
    assert told(third.head) == ["session", "status", stopped()]
    assert told(fourth.head) == ["session", "status"]
    assert "lee@home" not in comments(second.head)[0]
    assert "lee@home" in comments(third.head)[0]
    assert recorder.take() is None


def test_statuses_that_only_count_are_told_once() -> None:
    recorder = Script().recorder
    for seconds in range(5):
        recorder.status_changed(Quiet(float(seconds)))
    for seconds in range(5):
        recorder.status_changed(BreakingIn(float(seconds)))
    recorder.status_changed(Quiet(0.0))
    recorder.status_changed(Lost("a"))
    recorder.status_changed(Lost("b"))
    found = [line["status"]["kind"] for line in lines(whole(recorder))[1:]]
    assert found == ["quiet", "breaking-in", "quiet", "lost", "lost"]


def test_what_nobody_takes_is_dropped_past_a_bound_and_counted() -> None:
    script = Script()
    big = printed("x" * 3900)
    sent = 3000
    script.says(*[big] * sent)
    taken = script.recorder.take()
    assert taken is not None
    script.says(printed("again\n"))
    growth = whole(script.recorder)
    (lost,) = [entry for entry in entries(growth) if isinstance(entry, Note) and entry.kind == "lost"]
    kept = [e for part in (taken.head + taken.body, growth) for e in entries(part) if isinstance(e, PacketSeen)]
    missing = int(str(lost.data["packets"]))
    assert 0 < missing == sent + 1 - len(kept)
    assert (len(kept) - 1) * (3916 + 256) < (4 << 20) + 5000
    assert lost.text == f"{missing} packets are missing here: the disk did not take them in time"
    assert entries(growth)[-2:] == [lost, kept[-1]]
    assert kept[-1].packet == printed("again\n")


def test_the_end_is_never_dropped() -> None:
    script = Script()
    script.says(*[printed("x" * 3900)] * 2000)
    script.recorder.session_ended()
    kinds = [entry.kind for entry in entries(whole(script.recorder)) if isinstance(entry, Note)]
    assert kinds == ["session", "lost", "ended"]


def test_dropping_goes_on_as_it_did() -> None:
    """What waits is counted right: after any number of pieces as much room is there as at first."""
    script = Script()
    for _ in range(3):
        script.says(*[printed("x" * 3900)] * 2000)
        growth = whole(script.recorder)
        kept = [entry for entry in entries(growth) if isinstance(entry, PacketSeen)]
        assert 1000 < len(kept) < 1010


def test_pieces_are_bounded() -> None:
    script = Script()
    script.says(*[printed("\x1b" * 3900)] * 300, *[printed("x")] * 1000)
    sizes = []
    while (piece := script.recorder.take()) is not None:
        sizes.append(len(piece.body))
    assert max(sizes) < (256 + 64) * 1024
    assert len(sizes) > 5


def test_under_load_requests_get_no_comment_but_events_do() -> None:
    script = Script()
    script.says(printed("first\n"))
    for _ in range(1000):
        script.reads(0x1000, b"abcd")
    script.says(going_down())
    growth = whole(script.recorder)
    found = comments(growth)
    assert found[1:3] == ["first", ""]
    assert found[-2:] == ["ReadVirtualMemory: 00000000 success, 4 bytes", "halted: the target goes down (reboot)"]


def test_a_burst_and_the_end_wake_the_writer() -> None:
    script = Script()
    script.says(*[printed("x")] * 999)
    assert script.woken == 0
    script.says(printed("x"))
    assert script.woken == 1
    script.recorder.session_ended()
    assert script.woken == 2
    assert script.recorder.has_ended
