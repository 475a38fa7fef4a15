"""A session on a bad line: whatever the client asks and the target does, replies go to whom they belong."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from session_bench import SimBench

from kdsrv.kd.api import Api
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import MAX_PAYLOAD, Packet, PacketType
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.status import RunState
from kdsrv.sim.faults import FaultRates
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.sim.options import SimOptions

CLEAN = FaultRates()
_SIZE = 100
"""Bytes that are read at a time."""
_NARROW = 56 + 40
"""On a medium with so many bytes in a packet, that takes three portions."""


class Client:
    """Keeps account of the requests that are to be answered, and sees that each reply is to the oldest."""

    def __init__(self, bench: SimBench) -> None:
        self.bench = bench
        self.asked: deque[int] = deque()
        self.next_address = KERNEL_BASE
        self.answered = 0
        bench.session.user = self
        bench.wait(0.5)

    def packet_received(self, packet: Packet) -> None:
        if packet.type != PacketType.STATE_MANIPULATE:
            return
        reply = Manipulate.decode(packet.payload)
        assert reply.kind == Api.READ_VIRTUAL_MEMORY
        assert self.asked, "a reply to nobody"
        address = self.asked.popleft()
        assert reply["address"] == address
        assert reply.data == self.bench.target.machine.kernel.memory.read_virtual(address, _SIZE)
        self.answered += 1

    def resynced(self) -> None:
        self.asked.clear()

    def requests_lost(self, count: int) -> None:
        assert 0 < count <= len(self.asked)
        for _ in range(count):
            self.asked.popleft()

    def status_changed(self, status: object) -> None: ...

    def session_lost(self, reason: object) -> None:
        raise AssertionError(reason)

    # What it does

    def read(self) -> None:
        self.asked.append(self.next_address)
        self.bench.ask(Manipulate.read_virtual(self.next_address, _SIZE))
        self.next_address += _SIZE

    def read_many(self) -> None:
        for _ in range(5):
            self.read()

    def run(self) -> None:
        self.bench.step_over_break()
        self.bench.ask(Manipulate.continue2())

    def switch(self) -> None:
        self.bench.ask(Manipulate.switch_processor(1))

    def break_in(self) -> None:
        self.bench.session.break_in()

    def resync(self) -> None:
        self.bench.session.resync()

    def it_is_handed_over(self) -> None:
        """Another client takes the session as it is."""
        self.asked.clear()
        self.bench.session.hand_over(self, self.bench.session.lease)

    def another_comes(self) -> None:
        """This client leaves and another one takes the target over."""
        self.bench.session.close()
        self.asked.clear()
        self.bench.open()
        self.bench.session.user = self

    def leaves_it_running(self) -> None:
        """This client leaves and has the target continued, and another one comes."""
        left: list[bool] = []
        self.asked.clear()
        self.bench.session.on_leave = OnLeave.CONTINUE
        self.bench.session.leave(lambda: left.append(True))
        self.bench.wait(5.1)
        assert left == [True]
        self.bench.open()
        self.bench.session.user = self

    # What happens to the target

    def stops(self) -> None:
        self._target(self.bench.target.stop)

    def prints(self) -> None:
        self._target(lambda now: self.bench.target.print("a line\n", now))

    def reboots(self) -> None:
        self._target(self.bench.target.reboot)

    def is_switched_off_and_on(self) -> None:
        self._target(self.bench.target._power_off)

    def _target(self, what: Callable[[float], None]) -> None:
        what(self.bench.clock.seconds())
        self.bench.live.flush()


ACTIONS = [
    Client.read,
    Client.read,
    Client.read_many,
    Client.run,
    Client.switch,
    Client.break_in,
    Client.resync,
    Client.another_comes,
    Client.it_is_handed_over,
    Client.leaves_it_running,
    Client.stops,
    Client.prints,
    Client.reboots,
    Client.is_switched_off_and_on,
]


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    state=st.sampled_from(["halted", "running", "boot"]),
    steps=st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from([0.0, 0.0, 0.001, 0.3, 1.2, 4.0])), max_size=25),
    bad=st.sampled_from([0.0, 0.1, 0.3]),
    kinds=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 1000),
    room=st.sampled_from([MAX_PAYLOAD, _NARROW]),
)
def test_each_reply_is_to_its_request_and_a_good_line_ends_all_trouble(
    state: str,
    steps: list[tuple[Callable[[Client], None], float]],
    bad: float,
    kinds: tuple[bool, bool],
    seed: int,
    room: int,
) -> None:
    bench = SimBench(SimOptions(state=state), room=room)
    client = Client(bench)
    rates = FaultRates(loss=bad * kinds[0], duplicate=bad * kinds[1])
    bench.live.set_faults(rates, seed)
    for action, seconds in steps:
        action(client)
        bench.wait(seconds)
    bench.live.set_faults(CLEAN, 0)
    recover(client)
    bench.close()


def recover(client: Client) -> None:
    """On a good line a break-in or two lead to a stop, and to an answer."""
    bench = client.bench
    for _ in range(3):
        bench.wait(15)
        client.break_in()
        bench.wait(15)
        if bench.session.run_state is RunState.HALTED:
            answered = client.answered
            client.asked.clear()
            bench.session.resync()
            bench.wait(5)
            client.read()
            bench.wait(15)
            if client.answered > answered:
                return
    pytest.fail(f"the session is stuck: {bench.session.status.sentence()}, target {bench.target.state}")
