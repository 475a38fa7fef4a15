"""Both ends of a serial cable on a virtual line: every byte once and in order, whatever the line does."""

from __future__ import annotations

import zlib
from random import Random

import pytest
from com_channel_line import BAUD, Faults, Rig, User
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsrv.com_channel.cable import SILENCE_LIMIT, VERSION, Cable
from kdsrv.com_channel.channels import HIGH_WATER
from kdsrv.com_channel.frames import Frame, FrameKind, FrameReader, encode
from kdsrv.com_channel.stream import CREDIT, State
from kdsrv.errors import SetupError

LINE_RATE = BAUD / 10
BAD_LINE = Faults(loss=0.0005, damage=0.0005, duplicate=0.0005)


def open_pair(rig: Rig, number: int = 3) -> tuple[User, User]:
    """A stream that is open, as the desk and as the lab have it."""
    rig.lab.cable.channels.listening.add(number)
    known = len(rig.lab.arrived)
    user = rig.desk.open(number)
    rig.until(lambda: user.state == "open" and len(rig.lab.arrived) > known)
    return user, rig.lab.arrived[-1]


def feed(rig: Rig, side: int, user: User, data: bytes) -> None:
    """Write more of ``data`` as long as the stream takes it."""
    while not user.waits and len(user.sent) < len(data) and user.state == "open":
        rig.ends[side].write(user, data[len(user.sent) : len(user.sent) + 700])


def test_open_talk_and_close() -> None:
    rig = Rig()
    desk, lab = open_pair(rig)
    rig.desk.write(desk, b"question")
    rig.until(lambda: bytes(lab.got) == b"question", 0.1)
    rig.lab.write(lab, b"answer")
    rig.until(lambda: bytes(desk.got) == b"answer", 0.1)
    rig.desk.write(desk, b"bye")
    rig.desk.cable.channels.close(desk.stream)
    rig.until(lambda: desk.state == lab.state == "closed", 0.2)
    assert bytes(lab.got) == b"questionbye"
    again, _ = open_pair(rig)
    assert again.state == "open"


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 32),
    faults=st.builds(
        Faults,
        loss=st.sampled_from([0, 0.0003, 0.001]),
        damage=st.sampled_from([0, 0.0003, 0.001]),
        duplicate=st.sampled_from([0, 0.0005]),
        delay=st.sampled_from([0.0, 0.01, 0.1]),
        largest_piece=st.sampled_from([8, 64, 2000]),
    ),
    sizes=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 6000)), min_size=1, max_size=5),
)
def test_every_byte_comes_once_and_in_order(seed: int, faults: Faults, sizes: list[tuple[int, int]]) -> None:
    """Several channels, both directions, streams closed by either end while the others go on."""
    rig = Rig(seed, faults)
    rig.lab.cable.channels.listening.update(range(len(sizes)))
    desks = [rig.desk.open(number, 600) for number in range(len(sizes))]
    random = Random(seed)
    data = [(random.randbytes(out), random.randbytes(back)) for out, back in sizes]

    def all_there() -> bool:
        labs = {user.stream.number: user for user in rig.lab.arrived}
        for number, desk in enumerate(desks):
            lab = labs.get(number)
            if desk.state == "open":
                feed(rig, 0, desk, data[number][0])
            if lab is not None and lab.state == "open":
                feed(rig, 1, lab, data[number][1])
                if (len(lab.got), len(desk.got)) == sizes[number] and desk.state == "open":
                    rig.ends[number % 2].cable.channels.close((desk, lab)[number % 2].stream)
        return all(desk.state != "opening" for desk in desks) and all(
            user.state == "closed" for user in [*desks, *labs.values()]
        )

    rig.until(all_there, 600)
    labs = {user.stream.number: user for user in rig.lab.arrived}
    for number, desk in enumerate(desks):
        assert (bytes(labs[number].got), bytes(desk.got)) == data[number]
    assert len(rig.desk.cable.channels) == len(rig.lab.cable.channels) == 0


def test_one_stream_gets_nearly_all_of_the_line() -> None:
    rig = Rig()
    desk, lab = open_pair(rig)
    data = rig.random.randbytes(100_000)

    def done() -> bool:
        feed(rig, 0, desk, data)
        return len(lab.got) == len(data)

    seconds = rig.until(done)
    assert len(data) / seconds >= 0.93 * LINE_RATE
    assert bytes(lab.got) == data


def test_both_directions_at_once_and_zeros_get_nearly_all_of_the_line() -> None:
    rig = Rig(faults=Faults(delay=0.016))
    desk, lab = open_pair(rig)
    data = bytes(60_000)

    def done() -> bool:
        feed(rig, 0, desk, data)
        feed(rig, 1, lab, data)
        return len(lab.got) == len(desk.got) == len(data)

    assert len(data) / rig.until(done) >= 0.9 * LINE_RATE


def test_a_noisy_line_is_slower_but_not_by_much() -> None:
    """A byte in 1500 is hit: about every third frame."""
    rig = Rig(7, Faults(loss=0.0003, damage=0.0003))
    desk, lab = open_pair(rig)
    data = rig.random.randbytes(60_000)

    def done() -> bool:
        feed(rig, 0, desk, data)
        return len(lab.got) == len(data)

    assert len(data) / rig.until(done) >= 0.4 * LINE_RATE


def test_channels_share_fairly_and_a_small_question_does_not_wait() -> None:
    rig = Rig()
    pairs = [open_pair(rig, number) for number in range(4)]
    data = rig.random.randbytes(200_000)

    def busy() -> bool:
        for desk, _ in pairs[:3]:
            feed(rig, 0, desk, data)
        return False

    def all_have(size: int) -> bool:
        busy()
        return all(len(lab.got) >= size for _, lab in pairs[:3])

    rig.until(lambda: all_have(10_000))
    amounts = [len(lab.got) for _, lab in pairs[:3]]
    assert max(amounts) - min(amounts) <= 3000
    asking, answering = pairs[3]
    rig.desk.write(asking, b"?")
    seconds = rig.until(lambda: busy() or bytes(answering.got) == b"?")
    assert seconds < 0.3


def test_a_stream_that_is_not_read_holds_up_no_other_and_is_bounded() -> None:
    rig = Rig()
    stuck, unread = open_pair(rig, 1)
    free, read = open_pair(rig, 2)
    unread.reads = False
    data = rig.random.randbytes(60_000)

    def done() -> bool:
        feed(rig, 0, stuck, data)
        feed(rig, 0, free, data)
        return len(read.got) == len(data)

    rig.until(done)
    assert len(unread.stream.unread) == CREDIT
    assert stuck.waits
    assert len(stuck.stream.unsent) <= HIGH_WATER + 700
    rig.run(60)
    unread.reads = True
    rig.lab.read(unread)
    rig.until(lambda: feed(rig, 0, stuck, data) or len(unread.got) == len(data))
    assert bytes(unread.got) == data


def test_what_was_written_before_the_end_is_read_by_a_slow_reader() -> None:
    rig = Rig()
    desk, lab = open_pair(rig)
    lab.reads = False
    rig.desk.write(desk, b"x" * 2000)
    rig.desk.cable.channels.close(desk.stream)
    rig.run(20)
    assert (desk.state, lab.state) == ("open", "open")
    rig.lab.read(lab)
    assert len(lab.got) == 2000
    rig.until(lambda: desk.state == lab.state == "closed", 0.2)


def test_nobody_listens_on_the_channel() -> None:
    rig = Rig()
    user = rig.desk.open(9)
    rig.until(lambda: user.state == "lost", 0.1)
    assert user.why == "nobody listens on it"
    assert len(rig.desk.cable.channels) == 0


def test_both_ends_open_the_same_channel_at_once() -> None:
    rig = Rig()
    open_pair(rig, 1)
    desk, lab = rig.desk.open(5), rig.lab.open(5)
    rig.until(lambda: desk.state == lab.state == "lost", 0.2)
    assert desk.why == "it is in use"
    rig.lab.cable.channels.listening.add(5)
    assert open_pair(rig, 5)[0].state == "open"


def test_a_channel_that_is_in_use() -> None:
    rig = Rig()
    open_pair(rig)
    with pytest.raises(SetupError):
        rig.desk.open(3)


def test_nobody_is_at_the_other_end() -> None:
    rig = Rig()
    rig.plugged = False
    user = rig.desk.open(3)
    assert 4.9 < rig.until(lambda: user.state == "lost") < 5.1
    assert "nobody answers" in user.why
    assert rig.bytes[1] < 300
    assert rig.desk.cable.deadline is None


def test_an_abort_is_told_at_once_and_the_channel_can_be_opened_again() -> None:
    rig = Rig()
    desk, lab = open_pair(rig)
    desk.state = "aborted"
    rig.desk.write(desk, b"x" * 3000)
    rig.desk.cable.channels.abort(desk.stream)
    again = rig.desk.open(3)
    rig.until(lambda: again.state == "open" and len(rig.lab.arrived) == 2, 0.2)
    assert lab.state == "lost"
    assert lab.why == "it was closed at the other end"
    rig.desk.write(again, b"new")
    rig.until(lambda: bytes(rig.lab.arrived[1].got) == b"new", 0.1)


def test_an_open_that_is_taken_back_leaves_nothing() -> None:
    rig = Rig()
    rig.lab.cable.channels.listening.add(3)
    user = rig.desk.open(3)
    user.state = "aborted"
    rig.desk.cable.channels.abort(user.stream)
    rig.run(10)
    assert rig.lab.arrived == []
    assert rig.desk.cable.deadline is None


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("faults", [Faults(), BAD_LINE])
def test_an_end_that_starts_again_is_noticed(side: int, faults: Faults) -> None:
    """The streams of before are lost, those opened now work, and no byte of before comes into them."""
    rig = Rig(side, faults)
    desk, lab = open_pair(rig)
    rig.desk.write(desk, b"o" * 3900)
    rig.lab.write(lab, b"o" * 3900)
    rig.run(0.1)
    other = (lab, desk)[side]
    rig.ends[side].start()
    rig.lab.cable.channels.listening.add(3)
    if side == 0:
        again, _ = open_pair(rig)
        assert other.why == "the other end has started again"
    else:
        rig.until(lambda: other.state == "lost", 15)
        again, _ = open_pair(rig)
    rig.desk.write(again, b"new")
    rig.until(lambda: bytes(rig.lab.arrived[-1].got) == b"new", 5)
    rig.lab.write(rig.lab.arrived[-1], b"fresh")
    rig.until(lambda: bytes(again.got) == b"fresh", 5)
    rig.run(20)
    assert bytes(rig.lab.arrived[-1].got) == b"new"
    assert bytes(again.got) == b"fresh"
    assert again.state == "open"


def test_a_server_that_started_again_while_all_was_quiet_is_found_at_once() -> None:
    rig = Rig()
    desk, _ = open_pair(rig)
    rig.desk.cable.channels.close(desk.stream)
    rig.run(3600)
    rig.lab.start()
    again, _ = open_pair(rig)
    assert rig.now < 1000 + 3600 + 1
    assert again.state == "open"


def test_a_session_sleeps_as_long_as_nobody_needs_it() -> None:
    rig = Rig()
    desk, _ = open_pair(rig)
    rig.desk.cable.channels.close(desk.stream)
    rig.run(3600)
    again, _ = open_pair(rig)
    rig.run(60)
    assert again.state == "open"
    assert rig.desk.cable.counters.sessions == rig.lab.cable.counters.sessions == 1


def test_an_unplugged_cable_is_noticed_and_a_quiet_one_is_not() -> None:
    rig = Rig()
    desk, lab = open_pair(rig)
    rig.run(300)
    assert (desk.state, lab.state) == ("open", "open")
    rig.plugged = False
    seconds = rig.until(lambda: desk.state == lab.state == "lost")
    assert SILENCE_LIMIT - 4 < seconds < SILENCE_LIMIT + 1
    assert desk.why == "nothing has come for 10 s; is the cable unplugged?"
    rig.plugged = True
    assert open_pair(rig)[0].state == "open"


def test_a_cable_unplugged_for_a_moment_loses_nothing() -> None:
    rig = Rig()
    desk, lab = open_pair(rig)
    data = rig.random.randbytes(30_000)
    rig.until(lambda: feed(rig, 0, desk, data) or len(lab.got) > 5000)
    rig.plugged = False
    rig.run(6)
    rig.plugged = True
    rig.until(lambda: feed(rig, 0, desk, data) or len(lab.got) == len(data))
    assert bytes(lab.got) == data


def test_without_streams_the_line_is_silent() -> None:
    rig = Rig()
    desk, _ = open_pair(rig)
    rig.desk.cable.channels.close(desk.stream)
    rig.run(1)
    before = list(rig.bytes)
    rig.run(100)
    assert rig.bytes == before


def test_leaving_is_told() -> None:
    rig = Rig()
    desk, lab = open_pair(rig)
    rig.desk.cable.leave(rig.now)
    rig.until(lambda: lab.state == "lost", 0.1)
    assert lab.why == "the other end has closed the cable"
    assert desk.why == "the cable is closed"


def test_an_echo_is_no_other_end() -> None:
    cable = Cable(BAUD, Random(1).randbytes)
    cable.channels.listening.add(3)
    cable.channels.open(3, 5.0)
    cable.opened(0.0)
    now = 0.0
    while now < 4:
        output = cable.take_output(now)
        cable.receive(output, now)
        now += 0.1
        if cable.deadline is not None and cable.deadline <= now:
            cable.expire(now)
    assert not cable.in_session


def test_another_version_is_named() -> None:
    cable = Cable(BAUD, Random(1).randbytes)
    stream = cable.channels.open(3, 5.0)
    cable.opened(0.0)
    cable.receive(encode(Frame(FrameKind.ASK, body=bytes([VERSION + 1]) + b"a" * 8 + bytes(8))), 1.0)
    cable.expire(5.0)
    event = cable.channels.events.popleft()
    assert event.stream is stream
    assert "version 2" in str(event)


def test_a_record_for_another_session_is_not_taken() -> None:
    rig = Rig()
    desk, lab = open_pair(rig)
    rig.desk.write(desk, b"old")
    old = rig.desk.cable.take_output(rig.now)
    desk.state = "aborted"
    rig.desk.start()
    again, fresh = open_pair(rig)
    rig.inject(1, old)
    rig.run(1)
    assert lab.state == "lost"
    assert bytes(fresh.got) == b""
    assert again.state == fresh.state == "open"


def test_a_greeting_of_a_past_session_is_not_believed() -> None:
    rig = Rig()
    rig.lab.cable.channels.listening.add(3)
    first = rig.desk.open(3)
    greeting = rig.desk.cable.take_output(rig.now)
    rig.inject(1, greeting)
    rig.until(lambda: first.state == "open")
    rig.desk.start()
    again, fresh = open_pair(rig)
    rig.inject(1, greeting)
    rig.run(20)
    assert again.state == fresh.state == "open"


class Stranger:
    """An other end that says what it likes, in a session."""

    def __init__(self) -> None:
        self.cable = Cable(BAUD, Random(2).randbytes)
        self.cable.channels.listening.add(3)
        self.name = b"stranger"
        self.sequence = 0
        self.cable.receive(encode(Frame(FrameKind.ASK, body=bytes([VERSION]) + self.name + bytes(8))), 0.0)
        answer = FrameReader().read(self.cable.take_output(0.0))[0]
        self.theirs = answer.body[1:9]

    def say(self, kind: int, body: bytes) -> None:
        tag = zlib.crc32(self.name + self.theirs)
        self.cable.receive(encode(Frame(kind, tag, self.sequence, 0, body)), 0.0)
        self.sequence += 1

    @property
    def is_heard(self) -> bool:
        return self.cable.in_session


OPEN_3 = (FrameKind.OPEN, b"\3" + CREDIT.to_bytes(4, "little"))


@pytest.mark.parametrize(
    "fault",
    [
        (FrameKind.OPEN, b""),
        (FrameKind.OPEN, b"\xff\0\0\0\0"),
        (FrameKind.OPEN, b"\3"),
        OPEN_3,
        (FrameKind.DATA, b"\4x"),
        (FrameKind.ACCEPT, b"\3\0\0\0\0"),
        (FrameKind.REFUSE, b"\3\0"),
        (FrameKind.CREDIT, b"\3\0"),
        (FrameKind.CREDIT, b"\3\xff\xff\xff\xff"),
        (11, b"\3"),
        (15, b"\3"),
    ],
)
def test_who_breaks_the_rules_ends_the_session(fault: tuple[int, bytes]) -> None:
    stranger = Stranger()
    stranger.say(*OPEN_3)
    assert stranger.is_heard
    stranger.say(*fault)
    assert not stranger.is_heard
    assert stranger.cable.channels.events[-1][1:] != ()


def test_more_data_than_allowed_ends_the_session() -> None:
    stranger = Stranger()
    stranger.say(*OPEN_3)
    for _ in range(CREDIT // 512):
        stranger.say(FrameKind.DATA, b"\3" + bytes(512))
    assert stranger.is_heard
    stranger.say(FrameKind.DATA, b"\3x")
    assert not stranger.is_heard


def test_a_flood_of_questions_is_bounded() -> None:
    stranger = Stranger()
    asked = 0
    while stranger.is_heard or not asked:
        stranger.say(FrameKind.OPEN, b"\7\0\0\0\0")
        asked += 1
    assert 1000 < asked < 9000


@given(st.lists(st.tuples(st.integers(0, 15), st.binary(max_size=8)), max_size=12))
def test_whatever_comes_nothing_is_raised(records: list[tuple[int, bytes]]) -> None:
    stranger = Stranger()
    for kind, body in records:
        stranger.say(kind, body)
        stranger.cable.take_output(0.0)
        assert all(stream.state is not State.FREE for stream in stranger.cable.channels.opening)


def test_a_slow_line_uses_small_frames_and_long_patience() -> None:
    cable = Cable(9600, Random(1).randbytes)
    other = Cable(9600, Random(2).randbytes)
    other.channels.listening.add(1)
    stream = cable.channels.open(1, 5.0)
    cable.opened(0.0)
    for _ in range(4):
        other.receive(cable.take_output(0.1), 0.1)
        cable.receive(other.take_output(0.1), 0.1)
    assert stream.state is State.OPEN
    cable.channels.write(stream, bytes(5000))
    assert len(cable.take_output(100.0)) <= 9600 / 10 * 0.3
