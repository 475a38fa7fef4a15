"""A recording as a target: it says again what was said, stops where it stopped, and answers what was asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from background_program import BackgroundProgram
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import BEGIN, LEASE, Script, going_down, loaded, printed, replied, stopped, whole
from running_programs import KDSRV, ROOT, Debugger, run_program
from sim_debugger import SimDebugger

from kdsrv.kd.api import Api
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import DATA_LEADER, HEADER, INITIAL_ID, SYNC, Packet, PacketType
from kdsrv.kd.statuses import Status
from kdsrv.recorder.entries import EntryReader
from kdsrv.recorder.images import Images, Span
from kdsrv.recorder.recorder import Recorder
from kdsrv.recorder.replay import ReplayedTarget
from kdsrv.recorder.timeline import Timeline
from kdsrv.sim.kernel import KERNEL_BASE


class Playback(SimDebugger):
    """A debugger on a recording."""

    def __init__(self, *recorders: Recorder) -> None:
        entries = [entry for each in recorders for entry in EntryReader().feed(whole(each).packets)]
        self.timeline = Timeline(entries)
        super().__init__(line=ReplayedTarget(self.timeline))
        self.attach()

    def attach(self) -> None:
        self.link.resync(self.now)
        self.pump()

    def read(self, address: int, length: int) -> bytes:
        return self.ask(Manipulate.read_virtual(address, length)).data


def test_stops_and_prints_come_when_the_debugger_lets_it_run() -> None:
    script = Script()
    script.says(stopped(0x1000))
    script.asks(Manipulate.continue_())
    script.says(printed("one\n"), printed("two\n"), loaded(b"a.sys", 0x5000))
    script.asks(Manipulate.continue_())
    script.says(printed("three\n"), stopped(0x2000))
    debugger = Playback(script.recorder)
    assert debugger.stop().program_counter == 0x1000
    debugger.send(Manipulate.continue_())
    assert (debugger.text(), debugger.text()) == (b"one\n", b"two\n")
    assert debugger.stop().path == b"a.sys"
    assert debugger.packets == []
    debugger.send(Manipulate.continue2(trace=True))
    assert debugger.text() == b"three\n"
    assert debugger.stop().program_counter == 0x2000


def test_a_stop_that_was_asked_for_waits_until_it_is() -> None:
    script = Script()
    script.breaks_in()
    script.says(printed("running\n"), stopped(0x1000))
    script.asks(Manipulate.continue_())
    script.says(printed("on\n"))
    script.breaks_in()
    script.says(stopped(0x2000))
    debugger = Playback(script.recorder)
    assert debugger.text() == b"running\n"
    debugger.wait(5)
    assert debugger.packets == []
    assert debugger.break_in().program_counter == 0x1000
    debugger.send(Manipulate.continue_())
    assert debugger.text() == b"on\n"
    assert debugger.packets == []
    assert debugger.break_in().program_counter == 0x2000


def test_behind_the_end_it_runs_and_a_break_in_leads_to_the_last_stop() -> None:
    script = Script()
    script.says(stopped(0x1000))
    script.reads(0x1000, b"abcd")
    script.asks(Manipulate.continue_())
    script.says(printed("bye\n"))
    debugger = Playback(script.recorder)
    debugger.stop()
    for _ in range(2):
        debugger.send(Manipulate.continue_())
        assert debugger.text() == b"bye\n"
        debugger.wait(3)
        assert debugger.packets == []
        assert debugger.break_in().program_counter == 0x1000
        assert debugger.read(0x1000, 4) == b"abcd"


def test_nothing_is_said_before_somebody_listens() -> None:
    script = Script()
    script.says(printed("hello\n"), stopped())
    target = ReplayedTarget(Timeline(EntryReader().feed(whole(script.recorder).packets)))
    assert (target.take_output(), target.deadline) == (b"", None)


def test_a_stop_that_was_repeated_is_one() -> None:
    """As after a RESET, and where a recording goes on in a new file."""
    first, second = Script(), Script()
    first.says(stopped(0x1000), stopped(0x1000))
    first.reads(0x1000, b"abcd")
    second.says(stopped(0x1000))
    second.reads(0x2000, b"efgh")
    second.asks(Manipulate.continue_())
    second.says(stopped(0x1000))
    debugger = Playback(first.recorder, second.recorder)
    assert len(debugger.timeline.scenes) == 3
    debugger.stop()
    assert (debugger.read(0x1000, 4), debugger.read(0x2000, 4)) == (b"abcd", b"efgh")
    debugger.send(Manipulate.continue_())
    assert debugger.stop().program_counter == 0x1000


def test_what_was_never_asked_is_refused() -> None:
    script = Script()
    script.says(stopped())
    script.reads(0x1000, b"abcd")
    debugger = Playback(script.recorder)
    debugger.stop()
    for request in (Manipulate.read_virtual(0x9000, 8), Manipulate.get_version(), Manipulate.request(0x3199)):
        reply = debugger.ask(request)
        assert (reply.kind, reply.status, reply.data) == (request.kind, Status.UNSUCCESSFUL, b"")
    assert isinstance(debugger.line, ReplayedTarget)
    assert (debugger.line.asked, debugger.line.refused) == (3, 3)


def test_answers_are_those_of_their_time() -> None:
    script = Script()
    script.says(stopped(1))
    for data in (b"aaaa", b"bbbb"):
        script.reads(0x1000, data)
    script.asks(Manipulate.continue_())
    script.says(stopped(2))
    script.reads(0x1000, b"cccc")
    script.asks(Manipulate.continue_())
    script.says(stopped(3))
    script.asks(Manipulate.continue_())
    script.says(stopped(4))
    script.reads(0x1000, b"dddd")
    script.asks(Manipulate.continue_())
    script.says(stopped(5))
    debugger = Playback(script.recorder)
    found = []
    for _ in range(5):
        debugger.stop()
        found.append([debugger.read(0x1000, 4) for _ in range(3)])
        debugger.send(Manipulate.continue_())
    assert found == [
        [b"aaaa", b"bbbb", b"bbbb"],
        [b"cccc"] * 3,
        [b"dddd"] * 3,
        [b"dddd"] * 3,
        [b"dddd"] * 3,
    ]


def test_memory_is_read_in_other_cuts() -> None:
    script = Script()
    script.says(stopped())
    script.reads(0x1000, bytes(range(100)))
    script.reads(0x1064, bytes(range(100, 200)))
    script.reads(0x1FF0, b"x" * 32)
    debugger = Playback(script.recorder)
    debugger.stop()
    assert debugger.read(0x1010, 8) == bytes(range(16, 24))
    assert debugger.read(0x1000, 200) == bytes(range(200))
    assert debugger.read(0x1FF8, 16) == b"x" * 16
    reply = debugger.ask(Manipulate.read_virtual(0x10C0, 16))
    assert (reply.status, reply.data, reply["actual"]) == (Status.UNSUCCESSFUL, bytes(range(192, 200)), 8)
    assert debugger.ask(Manipulate.read_physical(0x1000, 4)).status == Status.UNSUCCESSFUL


def test_another_cut_of_this_stop_goes_before_the_same_one_of_another() -> None:
    script = Script()
    for address, data in ((0x1000, b"aaaa"), (0x0FF8, b"x" * 8 + b"bbbb"), (0x1000, b"cccc")):
        script.says(stopped(address))
        script.reads(address, data)
        script.asks(Manipulate.continue_())
    debugger = Playback(script.recorder)
    found = []
    for _ in range(3):
        debugger.stop()
        found.append(debugger.read(0x1000, 4))
        debugger.send(Manipulate.continue_())
    assert found == [b"aaaa", b"bbbb", b"cccc"]


def test_what_the_debugger_wrote_is_read_again() -> None:
    script = Script()
    script.says(stopped())
    script.reads(0x1000, b"abcdefgh")
    write = Manipulate.write_virtual(0x1002, b"XY")
    script.asks(write)
    script.says(replied(write.reply(actual=2)))
    debugger = Playback(script.recorder)
    debugger.stop()
    assert debugger.read(0x1000, 6) == b"abcdef"
    assert debugger.ask(write).succeeded
    assert debugger.read(0x1000, 6) == b"abXYef"
    assert not debugger.ask(Manipulate.write_virtual(0x1002, b"ZZ")).succeeded


def test_registers_are_read_in_slices() -> None:
    script = Script()
    script.says(stopped())
    get = Manipulate.get_context(1)
    script.asks(get)
    script.says(replied(get.reply(0, bytes(range(250)) * 4)))
    debugger = Playback(script.recorder)
    debugger.stop()
    reply = debugger.ask(Manipulate.get_context_ex(10, 20, processor=1))
    assert (reply["bytes_copied"], reply.data) == (20, bytes(range(10, 30)))
    assert not debugger.ask(Manipulate.get_context_ex(10, 20, processor=0)).succeeded


def test_unset_bytes_of_a_request_do_not_matter() -> None:
    """WinDbg leaves there what was there before."""
    script = Script()
    script.says(stopped())
    request = Manipulate.read_msr(0xC0000080)
    script.asks(Manipulate(request.fixed[:0x1C] + b"garbage." * 3 + b"....", b""))
    script.says(replied(request.reply(low=0xD01)))
    debugger = Playback(script.recorder)
    debugger.stop()
    assert debugger.ask(request)["low"] == 0xD01
    assert not debugger.ask(Manipulate.read_msr(0xC0000080, processor=1)).succeeded


def test_another_processor_is_switched_to_as_it_was() -> None:
    script = Script()
    script.says(stopped(0x1000))
    script.asks(Manipulate.switch_processor(1))
    script.says(stopped(0x2000, processor=1, code=0x80000007))
    debugger = Playback(script.recorder)
    debugger.stop()
    debugger.send(Manipulate.switch_processor(3))
    assert debugger.stop().processor == 0
    debugger.send(Manipulate.switch_processor(1))
    assert debugger.stop().processor == 1
    debugger.send(Manipulate.switch_processor(0))
    assert debugger.stop().processor == 1


def test_prompts_and_file_requests_wait_for_any_answer() -> None:
    script = Script()
    prompt, file = DebugIo.get_string(b"? ", 10), FileIo.create("a.sys")
    script.says(stopped())
    script.asks(Manipulate.continue_())
    script.says(Packet(PacketType.DEBUG_IO, prompt.encode()), Packet(PacketType.FILE_IO, file.encode()), printed("x\n"))
    debugger = Playback(script.recorder)
    debugger.stop()
    debugger.send(Manipulate.continue_())
    assert debugger.text() == b"? "
    assert debugger.packets == []
    debugger.link.send(PacketType.DEBUG_IO, prompt.answer(b"i").encode(), debugger.now)
    debugger.pump()
    assert debugger.take(PacketType.FILE_IO) == file.encode()
    debugger.link.send(PacketType.FILE_IO, file.refusal().encode(), debugger.now)
    debugger.pump()
    assert debugger.text() == b"x\n"


@pytest.mark.parametrize("last", [Manipulate.reboot(), Manipulate.continue_()])
def test_a_reboot_is_played_too(last: Manipulate) -> None:
    script = Script()
    script.says(stopped(1))
    script.asks(Manipulate.continue_())
    script.says(going_down())
    script.asks(last)
    script.says(printed("booting\n"), stopped(2))
    debugger = Playback(script.recorder)
    debugger.stop()
    debugger.send(Manipulate.continue_())
    assert debugger.stop().is_reboot
    debugger.link.send(PacketType.STATE_MANIPULATE, last.encode(), debugger.now)
    debugger.line.receive(debugger.link.take_output(), debugger.now)
    said = debugger.line.take_output()
    assert HEADER.unpack_from(said, said.index(DATA_LEADER))[3] == INITIAL_ID | SYNC
    debugger.wait(2)
    assert debugger.text() == b"booting\n"
    assert debugger.stop().program_counter == 2


def test_a_request_that_lets_the_target_run_after_its_reply() -> None:
    script = Script()
    request = Manipulate.write_breakpoints([0x1000])
    script.says(stopped(1))
    script.asks(request)
    script.says(replied(request.reply()), stopped(2))
    debugger = Playback(script.recorder)
    debugger.stop()
    debugger.send(request)
    assert Manipulate.decode(debugger.take(PacketType.STATE_MANIPULATE)).kind == Api.WRITE_BREAKPOINT_EX
    assert debugger.stop().program_counter == 2


def test_a_debugger_that_comes_back_finds_it_where_it_is() -> None:
    script = Script()
    script.says(stopped(1))
    script.asks(Manipulate.continue_())
    script.says(stopped(2))
    debugger = Playback(script.recorder)
    debugger.stop()
    debugger.send(Manipulate.continue_())
    debugger.stop()
    debugger.attach()
    assert debugger.stop().program_counter == 2


ADDRESSES = st.one_of(st.integers(KERNEL_BASE, KERNEL_BASE + 0x3000), st.integers(0, 1 << 64))
PROCESSORS = st.integers(0, 2)
REQUESTS = st.one_of(
    st.builds(Manipulate.read_virtual, ADDRESSES.map(lambda a: a % (1 << 64)), st.integers(0, 5000)),
    st.builds(Manipulate.read_physical, st.integers(0, 1 << 24), st.integers(0, 300)),
    st.builds(Manipulate.read_control_space, st.integers(0, 4), st.integers(0, 300), PROCESSORS),
    st.builds(Manipulate.read_msr, st.sampled_from([0xC0000080, 0xC0000101, 5]), PROCESSORS),
    st.builds(Manipulate.get_context, PROCESSORS),
    st.builds(Manipulate.get_context_ex, st.integers(0, 1300), st.integers(0, 300), PROCESSORS),
    st.builds(Manipulate.write_virtual, st.just(KERNEL_BASE + 0x100), st.binary(max_size=8)),
    st.builds(Manipulate.write_breakpoint, st.integers(KERNEL_BASE + 0x1000, KERNEL_BASE + 0x1040)),
    st.builds(Manipulate.restore_breakpoint, st.integers(0, 4)),
    st.builds(Manipulate.switch_processor, st.integers(0, 1)),
    st.builds(Manipulate.continue_),
    st.builds(Manipulate.continue2, trace=st.booleans()),
    st.builds(Manipulate.get_version),
)


class _Record(SimDebugger):
    """A debugger on the simulated target, with everything recorded as a session would see it."""

    def __init__(self) -> None:
        self.recorder = Recorder("sim", "a line", LEASE, lambda: BEGIN, lambda: None)
        super().__init__()
        self.link.resync(self.now)
        self.pump()
        self.keep(0)

    def keep(self, since: int) -> None:
        for packet in self.packets[since:]:
            self.recorder.packet_from_target(packet)


def visit(debugger: SimDebugger, requests: list[Manipulate], record: _Record | None = None) -> list[Packet]:
    """What comes of it to ask all that, with a break-in behind whatever leaves the target running."""
    debugger.packets.clear()
    for request in requests:
        before = len(debugger.packets)
        if record is not None:
            record.recorder.packet_to_target(Packet(PacketType.STATE_MANIPULATE, request.encode()))
        debugger.send(request)
        if request.kind in (Api.CONTINUE, Api.CONTINUE2) and len(debugger.packets) == before:
            if record is not None:
                record.recorder.break_in_sent()
            debugger.link.break_in(debugger.now)
            debugger.pump()
        if record is not None:
            record.keep(before)
    return debugger.packets


@settings(max_examples=60)
@given(st.lists(REQUESTS, max_size=25))
def test_who_asks_the_same_is_told_the_same(requests: list[Manipulate]) -> None:
    """On a target that runs a program: whatever was asked of it, in the same order."""
    record = _Record()
    told = visit(record, requests, record)
    assert visit(Playback(record.recorder), requests) == told


@given(
    st.lists(st.tuples(st.integers(0, 9000), st.binary(min_size=1, max_size=3000)), max_size=8),
    st.integers(0, 9000),
    st.integers(0, 4000),
    st.integers(0, 8),
    st.integers(0, 8),
)
def test_images_against_a_plain_array(
    parts: list[tuple[int, bytes]], address: int, length: int, begin: int, position: int
) -> None:
    """With one stop that begins at a position and never ends."""
    images = Images()
    position = max(begin, position)
    for number, (at, data) in enumerate(parts):
        images.add(("virtual", 0), at, data, number)
    everything = range(len(parts))
    before, within, after = everything[:begin], everything[begin : position + 1], everything[position + 1 :]
    order = [*before, *reversed(after), *within]
    plain: dict[int, int] = {}
    for number in order:
        at, data = parts[number]
        plain.update(enumerate(data, at))
    known = 0
    while known < length and address + known in plain:
        known += 1
    expected = bytes(plain[address + at] for at in range(known))
    assert images.read(("virtual", 0), address, length, Span(begin, 1000), position) == expected


def test_the_command_plays_several_files_and_says_what_they_are(tmp_path: Path) -> None:
    first, second = Script(), Script()
    first.says(stopped(0x1000))
    first.reads(0x1000, b"abcd")
    second.says(stopped(0x1000))
    second.asks(Manipulate.continue_())
    second.says(stopped(0x2000))
    files = [str(each.save(tmp_path / f"{name}.pcapng")) for name, each in (("a", first), ("b", second))]
    path = str(tmp_path / "target")
    with BackgroundProgram([*KDSRV, "replay", *files, "--unix", path], cwd=ROOT) as replay:
        replay.wait_for(f"^played back at unix socket {path}; Ctrl-C ends it$")
        replay.wait_for(rf"^a server on this host reaches it as trans=@{{com:pipe,port={path}}}$")
        assert "recording of rack1 (/dev/ttyS0 at 115200 baud), held by kim@desk" in replay.text
        assert ": 2 stops, 1 answers" in replay.text
        with Debugger(path) as debugger:
            debugger.halt()
            assert debugger.read(0x1000, 4) == b"abcd"


def test_what_is_no_recording_is_not_played(tmp_path: Path) -> None:
    empty = Script()
    empty.recorder.session_ended()
    wrong = {"text": "README.md", "empty": str(empty.save(tmp_path / "empty"))}
    for name, why in (("text", "no pcapng file"), ("empty", "the target says nothing in it")):
        ended = run_program((*KDSRV, "replay", wrong[name], "--pty"))
        assert ended.status == 1
        assert ended.text.startswith(f"kdsrv: {wrong[name]}: {why}")
        assert ended.text.count("\n") == 1
