"""What is sent again when, and what is passed on in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kdsrv.com_channel.sequence import WINDOW, Incoming, Outgoing, Record


def record(number: int) -> Record:
    return Record(8, 0, b"%d" % number)


def sender(count: int) -> Outgoing:
    """One that has sent ``count`` records, a second each, from second 0 on."""
    outgoing = Outgoing(0.5)
    for number in range(count):
        outgoing.add(record(number))
        outgoing.send(float(number + 1))
    return outgoing


def sent(outgoing: Outgoing) -> list[int]:
    """The numbers of all that is to be sent now."""
    numbers = []
    while outgoing.must_send:
        number, what = outgoing.send(100.0)
        assert what == record(number)
        numbers.append(number)
    return numbers


def test_a_window_is_full() -> None:
    outgoing = sender(WINDOW)
    assert not outgoing.has_room
    outgoing.acknowledged(1, gap=False, now=40.0)
    assert outgoing.has_room


def test_a_gap_costs_one_record() -> None:
    outgoing = sender(6)
    outgoing.acknowledged(2, gap=True, now=7.0)
    assert outgoing.upcoming == record(2)
    assert sent(outgoing) == [2]
    assert outgoing.has_room
    assert outgoing.repeats == 1


def test_after_a_silence_it_begins_with_one_and_doubles() -> None:
    outgoing = sender(20)
    assert outgoing.deadline == 1.5
    outgoing.expire(1.4)
    assert sent(outgoing) == []
    outgoing.expire(1.5)
    assert not outgoing.has_room
    assert sent(outgoing) == [0]
    outgoing.acknowledged(1, gap=False, now=101.0)
    assert sent(outgoing) == [1, 2]
    outgoing.acknowledged(3, gap=False, now=102.0)
    assert sent(outgoing) == [3, 4, 5, 6]
    outgoing.acknowledged(20, gap=False, now=103.0)
    assert sent(outgoing) == []
    assert outgoing.has_room


def test_patience_doubles_up_to_a_bound_and_comes_back() -> None:
    outgoing = sender(2)
    waits = []
    now = 1.0
    for _ in range(4):
        deadline = outgoing.deadline
        assert deadline is not None
        waits.append(deadline - now)
        outgoing.expire(deadline)
        outgoing.send(deadline)
        now = deadline
    assert waits == [0.5, 1.0, 1.5, 1.5]
    outgoing.acknowledged(2, gap=False, now=now)
    outgoing.add(record(2))
    outgoing.send(now)
    outgoing.acknowledged(3, gap=False, now=now)
    outgoing.add(record(3))
    outgoing.send(now)
    assert outgoing.deadline == now + 0.5


def test_what_acknowledges_nothing_that_was_sent_is_ignored() -> None:
    outgoing = sender(3)
    for number in (4, 0xFFFF, 500):
        outgoing.acknowledged(number, gap=True, now=5.0)
    assert len(outgoing) == 3
    assert not outgoing.must_send


def test_a_gap_is_told_once_until_it_is_filled() -> None:
    incoming = Incoming()
    assert incoming.take(1, record(1)) == []
    assert incoming.gap
    incoming.told()
    assert incoming.take(3, record(3)) == []
    assert (incoming.gap, incoming.must_tell) == (False, True)
    assert incoming.take(0, record(0)) == [record(0), record(1)]
    assert incoming.gap
    assert incoming.take(2, record(2)) == [record(2), record(3)]
    assert not incoming.gap
    assert incoming.expected == 4


def test_repeats_are_acknowledged_and_counted_and_not_passed_on() -> None:
    incoming = Incoming()
    incoming.take(0, record(0))
    incoming.take(2, record(2))
    incoming.told()
    for number in (0, 2, 0xFFF0):
        assert incoming.take(number, record(number)) == []
        assert incoming.must_tell
    assert incoming.duplicates == 3
    assert incoming.take(WINDOW + 1, record(0)) == []
    assert incoming.duplicates == 4


@given(st.permutations(range(WINDOW)), st.lists(st.integers(0, WINDOW - 1), max_size=20))
def test_any_order_comes_out_right(order: list[int], again: list[int]) -> None:
    incoming = Incoming()
    incoming.expected = first = 0xFFF8
    got = [what for number in [*again, *order] for what in incoming.take((first + number) % 0x10000, record(number))]
    assert got == [record(number) for number in range(WINDOW)]
