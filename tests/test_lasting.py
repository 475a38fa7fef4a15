"""A session that outlives its connections: when it comes back, how, and when it does not.

The servers here are a real one in memory, and one that is played by hand where a real one would not do it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from lasting_bench import TOKEN, Bench
from wire_talk import HALTED, READ, READ_REPLY

from kdsrv.client.breaks import Broken, Renewed, Resumed, ServerAway
from kdsrv.client.connecting import ServerUnreachable
from kdsrv.client.lasting import Endurance
from kdsrv.client.listening import Said, Waiting
from kdsrv.client.terms import Terms
from kdsrv.errors import KdsrvError, PeerError
from kdsrv.kd.packets import Packet
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.status import Quiet, Running, RunState
from kdsrv.sessions.tenant import Take
from kdsrv.wire.frames import BreakIn, FrameKind, Resync, encode
from kdsrv.wire.ledger import Ledger
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Bye,
    Failure,
    Ping,
    Pong,
    Resume,
    StatusReport,
)
from kdsrv.wire.messages import Notice as NoticeMessage
from kdsrv.wire.messages import encode as encode_message
from kdsrv.wire.window import Window

CONTINUE = Packet(2, bytes.fromhex("3c310000") + bytes(52))
STOP = Packet(7, bytes(240))
GONE = "the connection to the server has ended: it closed the connection"


def restart(bench: Bench) -> None:
    """The server knows nothing of before."""
    bench.ledger = Ledger()
    bench.instance = "2" * 16


# Resuming


def test_it_asks_for_a_session_that_may_be_resumed() -> None:
    bench = Bench(terms=Terms(take=Take.ASK, on_leave=OnLeave.CONTINUE))
    bench.session.open()
    assert bench.server.greet() == Attach("sim:", "kim@desk", True, Take.ASK, OnLeave.CONTINUE)


def test_what_was_under_way_both_ways_arrives_once_and_in_order() -> None:
    bench = Bench()
    server = bench.open()
    bench.session.send_packet(*READ)
    assert server.heard() == [READ]
    server.connection.send(READ_REPLY)  # written, and lost
    bench.session.send_packet(*READ)
    bench.session.break_in()  # written, and lost
    server.lose()
    bench.wait(0.05)
    asked = bench.server.attach()
    assert asked == Attach("sim:", "kim@desk", True, None, None, Resume(TOKEN, 0))
    assert bench.server.heard() == [READ, BreakIn(), Ping(0)]
    bench.server.say(READ_REPLY, Pong(0))
    assert bench.user.take() == [
        ServerAway("it closed the connection", RunState.HALTED),
        READ_REPLY,
        READ_REPLY,
        HALTED,
    ]
    (broken, resumed) = bench.news
    assert isinstance(broken, Broken)
    assert str(broken) == f"{GONE}; trying again"
    assert isinstance(resumed, Resumed)
    assert str(resumed) == "connected again after 0.1 s: the session goes on"


def test_what_is_asked_while_absent_waits_in_order() -> None:
    bench = Bench()
    bench.open()
    bench.server.lose()
    for _ in range(2):
        bench.session.send_packet(*READ)
    bench.session.break_in()
    bench.session.send_packet(*CONTINUE)
    bench.wait(0.05)
    bench.server.attach()
    assert bench.server.heard() == [READ, READ, BreakIn(), CONTINUE, Ping(0)]


def test_what_is_asked_before_there_is_a_session_waits_as_well() -> None:
    """A debugger may be on its bridge before the target is."""
    bench = Bench()
    bench.session.resync()
    bench.session.send_packet(*READ)
    server = bench.open()
    assert server.heard() == [Resync(), READ]
    server.say(Resync(), READ_REPLY)
    assert bench.user.take() == ["resynced", READ_REPLY]


def test_a_resync_while_absent_forgets_the_requests_before_it_and_nothing_else() -> None:
    bench = Bench()
    bench.open()
    bench.server.lose()
    bench.session.send_packet(*READ)
    bench.session.break_in()
    answer = Packet(3, b"\x31\x32\0\0" + bytes(12))
    bench.session.send_packet(*answer)
    bench.session.resync()
    bench.session.send_packet(*READ)
    bench.wait(0.05)
    bench.server.attach()
    assert bench.server.heard() == [BreakIn(), answer, Resync(), READ, Ping(0)]
    bench.server.say(Resync(), READ_REPLY)
    assert bench.user.take()[1:] == ["resynced", READ_REPLY]


def test_a_break_in_behind_a_continue_is_not_the_one_before_it() -> None:
    bench = Bench()
    bench.open()
    bench.server.lose()
    for _ in range(2):
        bench.session.break_in()
        bench.session.break_in()
        bench.session.send_packet(*CONTINUE)
    bench.session.break_in()
    bench.wait(0.05)
    bench.server.attach()
    assert bench.server.heard() == [BreakIn(), CONTINUE, BreakIn(), CONTINUE, BreakIn(), Ping(0)]


def test_break_ins_go_past_requests_that_find_no_room_also_after_a_break() -> None:
    bench = Bench()
    bench.open(window=Window(1, 1000))
    bench.server.lose()
    for _ in range(3):
        bench.session.send_packet(*READ)
    bench.session.break_in()
    bench.wait(0.05)
    bench.server.attach(window=Window(1, 1000))
    assert bench.server.heard() == [READ, BreakIn(), Ping(0)]
    bench.server.say(READ_REPLY)
    assert bench.server.heard() == [READ]


def test_requests_that_waited_for_the_window_wait_on() -> None:
    bench = Bench()
    server = bench.open(window=Window(1, 1000))
    for _ in range(3):
        bench.session.send_packet(*READ)
    assert server.heard() == [READ]
    server.lose()
    bench.session.send_packet(*READ)
    bench.wait(0.05)
    bench.server.attach()
    assert bench.server.heard() == [Ping(0)]
    for left in (3, 2, 1, 0):
        bench.server.say(READ_REPLY)
        assert bench.server.heard() == [READ][:left]
    assert bench.user.take()[1:] == [READ_REPLY] * 4


def test_what_waits_is_bounded() -> None:
    bench = Bench()
    bench.open()
    bench.server.lose()
    write = Packet(2, b"\x31\x31\0\0" + bytes(3900))
    for _ in range(4200):
        bench.session.send_packet(*write)
    with pytest.raises(PeerError, match="it asks without end"):
        deque(bench.session.send_packet(*write) for _ in range(100))
    bench.session.resync()
    bench.session.send_packet(*READ)
    bench.wait(0.05)
    bench.server.attach()
    assert bench.server.heard() == [Resync(), READ, Ping(0)]


def test_the_status_comes_behind_what_is_said_again() -> None:
    """It is the latest there is; what is said again is older."""
    bench = Bench()
    server = bench.open(Running())
    server.connection.send(STOP)
    server.lose()
    bench.wait(0.05)
    bench.server.attach(Running())
    assert bench.user.take()[1:] == [STOP]
    bench.server.say(StatusReport(Quiet(1.0)), Pong(0))
    assert bench.user.take() == [Quiet(1.0)]


def test_a_break_right_behind_another_one() -> None:
    bench = Bench()
    server = bench.open()
    bench.session.send_packet(*READ)
    server.heard()
    server.connection.send(READ_REPLY)
    server.lose()
    for _ in range(3):
        bench.wait(5)
        bench.server.greet()
        bench.server.lose()
    bench.wait(5)
    bench.server.attach()
    bench.server.lose()
    bench.wait(5)
    bench.server.attach()
    assert [packet for packet in bench.user.take() if isinstance(packet, Packet)] == [READ_REPLY]


def test_a_silent_server_is_given_up_without_a_word_and_resumed() -> None:
    """A goodbye that comes late would end what has been resumed by then."""
    bench = Bench()
    server = bench.open(stands=0)
    bench.wait(8)
    assert server.heard() == [Ping(0)]
    bench.wait(6.9)
    assert bench.news == []
    bench.wait(0.2)
    assert server.aborted
    assert server.heard() == []
    assert [str(news) for news in bench.news] == [
        "the connection to the server has ended: it has been silent for 15 s; trying again"
    ]
    assert bench.server.attach().resume == Resume(TOKEN, 0)
    server.say(STOP)
    server.lose()
    bench.server.say(Pong(0))
    assert bench.user.take()[1:] == [HALTED]


def test_a_server_that_answers_pings_is_not_given_up() -> None:
    bench = Bench()
    bench.open()
    for _ in range(20):
        bench.wait(5)
        if bench.server.heard():
            bench.server.say(Pong(0))
    assert bench.news == []


def test_a_session_that_cannot_be_resumed_is_not_given_up_so_soon() -> None:
    bench = Bench(Endurance.NOTHING)
    bench.open()
    bench.wait(43)
    assert bench.user.told == []
    bench.wait(3)
    assert [str(told) for told in bench.user.told] == [
        "the connection to the server has ended: it has been silent for 45 s"
    ]


def test_a_server_that_does_not_answer_who_comes_back_is_tried_anew() -> None:
    bench = Bench()
    bench.open()
    bench.server.lose()
    bench.wait(0.05)
    assert len(bench.servers) == 2
    bench.wait(14.9)
    assert not bench.server.aborted
    bench.wait(1.2)
    assert bench.servers[1].aborted
    assert bench.server.attach().resume is not None
    assert "it did not answer within 15 s" in bench.user.told[1].sentence()


# A new session


def test_a_server_that_was_restarted_gives_a_new_session() -> None:
    bench = Bench()
    bench.open()
    for _ in range(2):
        bench.session.send_packet(*READ)
    bench.server.lose()
    bench.session.send_packet(*READ)
    bench.session.send_packet(*CONTINUE)
    restart(bench)
    bench.wait(0.05)
    bench.refuse("unknown-session")
    bench.user.take()
    bench.wait(0.0)
    assert bench.server.attach(Quiet(0.0)) == Attach("sim:", "kim@desk", True)
    assert bench.server.heard() == []
    assert str(bench.news[-1]) == "the server was restarted: a new session, the target is as it was"
    assert bench.user.take() == [("lost", 3), Quiet(0.0)]
    bench.session.send_packet(*READ)
    assert bench.server.heard() == [READ]


@pytest.mark.parametrize(
    ("seconds", "sentence"),
    [
        (70, "the server did not wait longer than 60 s: a new session, the target is as it was"),
        (7, "somebody pulled the plug: a new session, the target is as it was"),
    ],
)
def test_a_wait_that_has_ended_is_told_from_a_restart(seconds: float, sentence: str) -> None:
    bench = Bench()
    bench.open()
    bench.error = ServerUnreachable(address="lab:1", why="no route")
    bench.server.lose()
    bench.wait(seconds)
    bench.error = None
    bench.ledger = Ledger()
    bench.wait(5)
    bench.refuse("unknown-session", "somebody pulled the plug")
    bench.wait(0)
    bench.server.attach()
    renewed = bench.news[-1]
    assert isinstance(renewed, Renewed)
    assert str(renewed) == sentence


def test_a_target_that_was_let_go_is_not_as_it_was() -> None:
    bench = Bench(terms=Terms(on_leave=OnLeave.CONTINUE))
    bench.open()
    bench.server.lose()
    restart(bench)
    bench.wait(0.05)
    bench.refuse("unknown-session")
    bench.wait(0)
    bench.server.attach()
    assert str(bench.news[-1]) == "the server was restarted: a new session"


def test_whoever_has_the_target_meanwhile_keeps_it() -> None:
    """To take it by force was for the first time."""
    bench = Bench(terms=Terms(take=Take.FORCE))
    bench.open()
    bench.server.lose()
    bench.wait(0.05)
    bench.refuse("unknown-session")
    bench.wait(0)
    assert bench.server.greet() == Attach("sim:", "kim@desk", True)
    bench.server.say(Failure("held", "sim: is held by jo"))
    bench.server.lose()
    assert bench.user.told[-1].sentence() == "waiting: sim: is held by jo"
    assert bench.user.told[-1].run_state is RunState.UNKNOWN
    bench.wait(1)
    bench.server.attach()
    assert isinstance(bench.news[-1], Renewed)


@pytest.mark.parametrize("halts", [False, True])
def test_a_break_in_that_no_stop_came_of_is_sent_again_in_a_new_session(halts: bool) -> None:
    bench = Bench()
    bench.open(Running())
    bench.session.break_in()
    bench.server.lose()
    restart(bench)
    bench.wait(0.05)
    bench.refuse("unknown-session")
    bench.wait(0)
    bench.server.attach(Quiet(0.0))
    bench.wait(0.9)
    assert bench.server.heard() == []
    if halts:
        bench.server.say(STOP)
    bench.wait(0.2)
    assert bench.server.heard() == ([] if halts else [BreakIn()])


def test_a_session_that_the_server_has_ended_is_opened_again() -> None:
    bench = Bench()
    bench.open()
    bench.session.send_packet(*READ)
    bench.server.say(Failure("link-lost", "the cable is out"))
    bench.server.lose()
    assert str(bench.news[-1]) == "the session is lost: the server says: the cable is out; trying again"
    bench.ledger = Ledger()
    bench.wait(1)
    assert bench.server.attach().resume is None
    assert str(bench.news[-1]) == "the target is there again: a new session, the target is as it was"
    assert ("lost", 1) in bench.user.told


def test_a_session_that_turns_out_to_be_over_is_opened_again() -> None:
    bench = Bench()
    bench.open()
    bench.server.lose()
    bench.wait(0.05)
    bench.refuse("link-lost", "the cable is out")
    bench.ledger = Ledger()
    bench.wait(1)
    assert bench.server.attach().resume is None


def test_a_server_that_gives_a_new_session_in_place_of_the_old_one_is_not_believed() -> None:
    bench = Bench()
    bench.open()
    bench.server.lose()
    bench.ledger = Ledger()
    bench.wait(0.05)
    bench.server.greet()
    new = Attached("sim:", "sim", HALTED, token=TOKEN, linger=60.0)
    bench.server.client.dataReceived(encode(FrameKind.CONTROL, encode_message(new)))
    bench.server.lose()
    assert "a new session where one was to be resumed" in bench.user.told[-1].sentence()
    bench.wait(1)
    assert bench.server.attach().resume is None
    assert isinstance(bench.news[-1], Renewed)


# Waits


def test_a_session_that_dies_at_once_is_not_tried_again_each_second() -> None:
    bench = Bench()
    bench.open(stands=0)
    for _ in range(6):
        bench.ledger = Ledger()
        bench.server.say(Failure("link-lost", "the line died"))
        bench.server.lose()
        tried = len(bench.times)
        while len(bench.times) == tried:
            bench.wait(0.25)
        bench.server.attach()
    waits = [later - earlier for earlier, later in zip(bench.times, bench.times[1:], strict=False)]
    assert waits == pytest.approx([1, 2, 4, 8, 15, 15], abs=0.01)


def test_after_a_long_session_the_wait_is_short_again() -> None:
    bench = Bench()
    bench.open()
    for stood in (0, 0, 10.5):
        bench.wait(stood)
        bench.ledger = Ledger()
        bench.server.say(Failure("link-lost", "the line died"))
        bench.server.lose()
        lost = bench.clock.seconds()
        tried = len(bench.times)
        while len(bench.times) == tried:
            bench.wait(0.25)
        bench.server.attach()
    assert bench.times[-1] - lost == pytest.approx(1, abs=0.01)


def test_a_broken_connection_is_replaced_at_once_and_one_of_no_use_later() -> None:
    bench = Bench()
    bench.open()
    for _ in range(4):
        bench.server.say(STOP)
        bench.server.lose()
        bench.wait(0.06)
        bench.server.attach()
    for wait in (1, 2, 4):
        tried = len(bench.times)
        bench.server.lose()
        bench.wait(wait - 0.01)
        assert len(bench.times) == tried
        bench.wait(0.02)
        bench.server.attach()
    bench.wait(1)
    bench.server.lose()
    bench.wait(0.06)
    assert bench.server.attach().resume is not None


def test_while_the_server_waits_it_is_tried_often() -> None:
    bench = Bench()
    bench.open()
    bench.error = ServerUnreachable(address="lab:1", why="no route")
    bench.server.lose()
    bench.wait(60)
    assert [told.sentence() for told in bench.user.take()] == [
        "waiting for the server: it closed the connection",
        "waiting for the server: no route",
    ], "each time something else"
    waits = [later - earlier for earlier, later in zip(bench.times[1:], bench.times[2:], strict=False)]
    assert waits[:3] == pytest.approx([1, 2, 4], abs=0.01)
    assert waits[3:] == pytest.approx([5] * len(waits[3:]), abs=0.01)
    assert len(waits) > 10


def test_a_server_that_was_one_is_not_asked_whether_it_is() -> None:
    """It is slow, or closes the connection before a hello: that is a network, or a server that ends."""
    bench = Bench()
    bench.open()
    bench.server.lose()
    (broken,) = bench.news
    assert isinstance(broken, Broken)
    assert bench.user.take() == [broken.status], "which the user has been told already"
    bench.wait(0.1)
    bench.wait(3)
    bench.server.lose()
    assert bench.user.take() == []
    assert bench.notices == []


def test_a_server_that_is_slow_for_the_first_time_is_told_of() -> None:
    bench = Bench()
    bench.session.open()
    bench.wait(3)
    assert bench.notices == [Waiting("the lab")]
    assert str(bench.notices[0]) == "waiting for the server at the lab to answer"
    bench.session.leave()


def test_what_is_waited_for() -> None:
    bench = Bench()
    bench.open()
    bench.error = ServerUnreachable(address="lab:1", why="nobody listens there")
    bench.server.lose()
    bench.wait(0.1)
    assert bench.user.told[-1].sentence() == "waiting for the server: nobody listens there"
    assert bench.user.told[-1].to_json() == {
        "kind": "interrupted",
        "why": "nobody listens there",
        "run_state": "halted",
        "sentence": "waiting for the server: nobody listens there",
    }


# The end


@pytest.mark.parametrize("endurance", list(Endurance))
def test_a_target_that_was_taken_away_ends_it(endurance: Endurance) -> None:
    bench = Bench(endurance)
    bench.open()
    bench.server.say(Failure("taken", "sim: was taken over by jo from lab"))
    bench.server.lose()
    bench.wait(60)
    (error,) = bench.user.told
    assert (error.code, str(error)) == ("taken", "the server says: sim: was taken over by jo from lab")
    assert len(bench.servers) == 1
    assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize("code", ["taken", "login"])
@pytest.mark.parametrize("endurance", [Endurance.BREAKS, Endurance.EVERYTHING])
def test_who_is_not_let_in_again_gives_up(endurance: Endurance, code: str) -> None:
    bench = Bench(endurance)
    bench.open()
    bench.server.lose()
    bench.wait(0.05)
    bench.refuse(code)
    assert [told.code for told in bench.user.told if isinstance(told, KdsrvError)] == [code]
    bench.wait(60)
    assert bench.clock.getDelayedCalls() == []


def test_who_endures_nothing_is_told_at_once_and_leaves_nothing_to_wait_for() -> None:
    bench = Bench(Endurance.NOTHING)
    bench.session.open()
    assert bench.server.attach() == Attach("sim:", "kim@desk")
    bench.server.lose()
    assert [str(told) for told in bench.user.told] == [GONE]
    assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize(("code", "message"), [("link-lost", "the cable is out"), ("setup", "it is shutting down")])
def test_who_endures_breaks_is_told_what_the_server_says(code: str, message: str) -> None:
    bench = Bench(Endurance.BREAKS)
    bench.open()
    bench.server.say(Failure(code, message))
    bench.server.lose()
    assert [str(told) for told in bench.user.told] == [f"the server says: {message}"]


def test_who_endures_breaks_does_not_wait_longer_than_the_server() -> None:
    bench = Bench(Endurance.BREAKS)
    bench.open()
    bench.error = ServerUnreachable(address="lab:1", why="no route")
    bench.server.lose()
    bench.wait(59.9)
    assert not isinstance(bench.user.told[-1], KdsrvError)
    bench.wait(0.2)
    assert str(bench.user.told[-1]) == GONE
    assert bench.clock.getDelayedCalls() == []


def test_who_endures_breaks_goes_on_in_a_new_session_if_the_server_has_none() -> None:
    bench = Bench(Endurance.BREAKS)
    bench.open()
    bench.session.send_packet(*READ)
    bench.server.lose()
    restart(bench)
    bench.wait(0.05)
    bench.refuse("unknown-session")
    bench.wait(0)
    bench.server.attach(Quiet(0))
    assert bench.user.told[1:] == [("lost", 1), Quiet(0)]


def test_a_server_that_cannot_resume_ends_it_or_begins_anew() -> None:
    """An older one."""
    for endurance in (Endurance.BREAKS, Endurance.EVERYTHING):
        bench = Bench(endurance)
        bench.session.open()
        bench.server.greet()
        bench.server.say(Attached("sim:", "sim", HALTED))
        bench.session.send_packet(*READ)
        bench.server.lose()
        if endurance is Endurance.BREAKS:
            assert str(bench.user.told[-1]) == GONE
        else:
            bench.ledger = Ledger()
            bench.wait(1)
            assert bench.server.greet().resume is None
            bench.server.say(Attached("sim:", "sim", HALTED))
            assert ("lost", 1) in bench.user.told


def test_a_busy_server_is_asked_again() -> None:
    bench = Bench(Endurance.BREAKS)
    bench.open()
    bench.server.lose()
    bench.wait(0.05)
    bench.refuse("login-later", "too many")
    bench.wait(1)
    bench.refuse("setup", "too many connections")
    bench.wait(2)
    assert bench.server.attach().resume == Resume(TOKEN, 0)


def test_leaving_while_present_says_goodbye() -> None:
    bench = Bench()
    bench.open()
    gone = bench.session.leave("enough")
    assert bench.server.heard() == [Bye("enough")]
    assert not gone.called
    bench.server.lose()
    assert gone.called
    assert bench.user.told == []
    assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize("wait", [0, 0.05])
def test_leaving_while_absent_leaves_nothing_behind(wait: float) -> None:
    bench = Bench()
    bench.open()
    bench.server.lose()
    bench.wait(wait)
    told = len(bench.user.told)
    assert bench.session.leave().called
    bench.session.send_packet(*READ)
    bench.session.break_in()
    bench.session.resync()
    if wait:
        assert isinstance(bench.server.heard()[-1], Bye)
        bench.server.lose()
    bench.wait(60)
    assert bench.user.told[told:] == []
    assert bench.clock.getDelayedCalls() == []


def test_an_error_inside_is_told_and_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.logger import globalLogPublisher

    bench = Bench()
    bench.open()
    bench.server.lose()
    bench.error = ZeroDivisionError("oh")  # type: ignore[assignment]
    logged: list[Any] = []
    globalLogPublisher.addObserver(logged.append)
    try:
        bench.wait(1)
    finally:
        globalLogPublisher.removeObserver(logged.append)
    assert str(bench.user.told[-1]) == "an error inside kdsrv; please report it: oh"
    assert any("connecting again failed" in event["log_format"] for event in logged)


def test_a_target_that_is_held_may_be_waited_for() -> None:
    """Somebody is asked for it, and takes their time."""
    bench = Bench(terms=Terms(take=Take.ASK))
    bench.session.open().addBoth(bench.outcome.append)
    bench.server.greet()
    bench.server.say(NoticeMessage("jo has been asked for sim:"))
    assert bench.notices == [Said("jo has been asked for sim:")]
    for _ in range(10):
        bench.wait(8.5)
        assert bench.server.heard() == [Ping(0)]
        bench.server.say(Pong(0))
    assert bench.outcome == []
    bench.wait(15)
    (failure,) = bench.outcome
    assert str(failure.value) == "the connection to the server has ended: it has been silent for 15 s"
