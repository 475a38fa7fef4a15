"""A session that outlives its connections, where several things come at once or for ever."""

from __future__ import annotations

import pytest
from lasting_bench import TOKEN, Bench
from wire_talk import HALTED

from kdsrv.client.lasting import Endurance
from kdsrv.wire.frames import BreakIn, Resync
from kdsrv.wire.messages import Attached, Bye, Failure


@pytest.mark.parametrize("code", ["taken", "given", "link-lost"])
def test_a_session_that_ends_in_the_breath_in_which_it_goes_on(code: str) -> None:
    bench = Bench(Endurance.BREAKS)
    bench.open().lose()
    bench.clock.advance(1)
    server = bench.server
    server.greet()
    again = Attached("sim:", "sim", HALTED, token=TOKEN, linger=60.0, received=0, resumed=True)
    server.say(again, Failure(code, "it is gone"))
    assert bench.user.told[-1].code == code
    server.lose()
    assert bench.clock.getDelayedCalls() == []


def test_a_server_that_ends_in_the_breath_in_which_it_goes_on_is_come_back_to() -> None:
    bench = Bench()
    bench.open().lose()
    bench.clock.advance(1)
    server = bench.server
    server.greet()
    again = Attached("sim:", "sim", HALTED, token=TOKEN, linger=60.0, received=0, resumed=True)
    server.say(again, Bye("the server ends"))
    server.lose()
    bench.clock.advance(20)
    assert len(bench.servers) == 3
    bench.session.leave()


def test_a_debugger_that_knocks_for_days_while_the_server_is_away_loses_nothing_and_fills_nothing() -> None:
    bench = Bench()
    bench.open().lose()
    bench.user.take()
    for _ in range(20_000):
        bench.session.resync()
        bench.session.break_in()
    echoed = bench.user.take().count("resynced")
    bench.clock.advance(1)
    server = bench.server
    server.attach()
    asked = [event for event in server.heard() if isinstance(event, Resync | BreakIn)]
    assert len(asked) <= 2
    assert echoed + sum(isinstance(event, Resync) for event in asked) == 20_000
    bench.session.leave()
