"""Host and target link back to back over lines that lose, damage, repeat, delay and cut what they carry."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from link_pair import Debugger, Fault, Kernel, Line, LinkPair

from kdsrv.kd.host_link import HostLink
from kdsrv.kd.link import ResetSeen
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.target_link import TargetLink

PATIENCE = 120.0

places = st.one_of(st.integers(0, 17), st.integers(0, 300), st.integers(0, 4100))
faults = st.one_of(
    st.just(Fault()),
    st.builds(Fault, lose=st.just((0, 5000))),
    st.builds(Fault, lose=st.tuples(places, st.integers(1, 300))),
    st.builds(Fault, flip=st.tuples(places, st.integers(1, 255))),
    st.builds(Fault, twice=st.just(True)),
    st.builds(Fault, noise=st.text("0i\x00x\x7f", min_size=1, max_size=6).map(str.encode)),
    st.builds(Fault, reads=st.one_of(st.just((1,) * 4100), st.lists(st.integers(1, 30), max_size=9).map(tuple))),
    st.builds(
        Fault,
        delay=st.floats(0.0, 0.15),
        noise=st.text("0ix", max_size=3).map(str.encode),
        lose=st.none() | st.tuples(places, st.integers(1, 20)),
        flip=st.none() | st.tuples(places, st.integers(1, 255)),
        twice=st.booleans(),
    ),
)
plans = st.lists(faults, max_size=30)
amounts = st.lists(st.integers(0, 3), min_size=1, max_size=4)
sizes = st.lists(st.sampled_from([56, 57, 300, 4000]), min_size=1, max_size=3)


def pair(
    down: Sequence[Fault], up: Sequence[Fault], *, runs: list[int], plan: list[int], sizes: list[int], anywhere: bool
) -> LinkPair:
    debugger = Debugger(HostLink(), plan)
    kernel = Kernel(TargetLink(want=frozenset({PacketType.STATE_MANIPULATE})), runs, sizes)
    return LinkPair(debugger, kernel, Line(deque(down), anywhere), Line(deque(up), anywhere))


def in_order_and_once(taken: list[Packet], sent: list[Packet]) -> bool:
    """Whether ``taken`` is ``sent`` with some left out."""
    rest = iter(sent)
    return all(packet in rest for packet in taken)


def without_repeats_after_resets(log: Sequence[object]) -> list[Packet]:
    """The packets taken; one that is repeated right after the ids have started again counts once.

    A target repeats after a RESET what was not acknowledged, and the host cannot know whether it has that already.
    """
    taken: list[Packet] = []
    fresh = False
    for event in log:
        if isinstance(event, ResetSeen):
            fresh = True
        elif isinstance(event, Packet):
            if not (fresh and taken and taken[-1] == event):
                taken.append(event)
            fresh = False
    return taken


def numbers(packets: Iterable[Packet], packet_type: int) -> set[bytes]:
    """Of replies: which requests they answer. Of state changes: which stops they announce."""
    return {packet.payload[8:12] for packet in packets if packet.type == packet_type}


@settings(max_examples=300, deadline=None)
@given(plans, plans, amounts, amounts, sizes)
def test_every_packet_arrives_once_and_in_order_or_is_given_up(
    down: list[Fault], up: list[Fault], runs: list[int], plan: list[int], sizes: list[int]
) -> None:
    """But for what KD cannot do: a RESEND upon a packet that was damaged in vain makes a stopped target announce its
    stop again, and the next request passes for the ACK of that. So of each stop one announcement has to arrive.
    """
    lines = pair(down, up, runs=runs, plan=plan, sizes=sizes, anywhere=False)
    debugger, kernel = lines.debugger, lines.kernel
    lines.run(PATIENCE)
    lines.settle(10.0)

    assert in_order_and_once(kernel.taken, debugger.sent)
    assert set(debugger.acknowledged) <= set(kernel.taken)

    taken = without_repeats_after_resets(debugger.log)
    assert in_order_and_once(taken, kernel.sent)
    dropped = set(kernel.acknowledged) - set(taken)
    assert numbers(dropped, PacketType.STATE_MANIPULATE) <= {request[4:8] for request in debugger.unanswered}
    assert numbers(dropped, PacketType.STATE_CHANGE64) <= numbers(taken, PacketType.STATE_CHANGE64)
    assert not numbers(dropped, PacketType.DEBUG_IO)


@settings(max_examples=200, deadline=None)
@given(plans, plans, amounts, amounts, sizes)
def test_whatever_a_line_does_the_links_recover(
    down: list[Fault], up: list[Fault], runs: list[int], plan: list[int], sizes: list[int]
) -> None:
    lines = pair(down, up, runs=runs, plan=plan, sizes=sizes, anywhere=True)
    lines.run(2 * PATIENCE)


@settings(max_examples=100, deadline=None)
@given(plans, plans, sizes, st.booleans())
def test_once_the_lines_are_good_everything_arrives(
    down: list[Fault], up: list[Fault], sizes: list[int], anywhere: bool
) -> None:
    lines = pair(down, up, runs=[1, 2], plan=[2], sizes=sizes, anywhere=anywhere)
    debugger, kernel = lines.debugger, lines.kernel
    lines.run(2 * PATIENCE)
    lines.down.faults.clear()
    lines.up.faults.clear()
    lines.settle(60.0)
    assert debugger.done
    answered, given_up = len(debugger.answered), len(debugger.given_up)
    debugger.plan += [5, 3]
    debugger.go_on(lines.now)
    lines.down.write(debugger.link.take_output(), lines.now)
    lines.faults_ended = lines.now
    lines.run(PATIENCE)
    assert len(debugger.answered) == answered + 8
    assert len(debugger.given_up) == given_up
    assert in_order_and_once(kernel.taken[-9:], debugger.sent[-9:])


def test_good_lines_need_no_repeats() -> None:
    lines = pair([], [], runs=[3, 2, 0, 4], plan=[3, 0, 5, 2], sizes=[56, 4000], anywhere=False)
    lines.run(PATIENCE)
    host, target = lines.debugger.link.counters, lines.kernel.link.counters
    assert len(lines.debugger.answered) == 10
    assert [len(lines.debugger.given_up), len(lines.kernel.given_up), len(lines.debugger.unanswered)] == [0, 0, 0]
    assert (host.damaged, host.duplicates, host.repeats_sent) == (0, 0, 0)
    assert (target.damaged, target.duplicates, target.repeats_sent) == (0, 0, 0)
    assert lines.debugger.taken == lines.kernel.sent
    assert lines.kernel.taken == lines.debugger.sent
