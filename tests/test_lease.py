from __future__ import annotations

import pytest

from kdsrv.errors import TargetHeld
from kdsrv.sessions.lease import Lease, LeaseBook


@pytest.fixture
def book() -> LeaseBook:
    return LeaseBook(lambda since: f"second {since:.0f}")


def test_a_free_target_is_given(book: LeaseBook) -> None:
    lease = book.take("com1", "kim", "192.0.2.1", 7.0)
    assert (lease.target, lease.holder, lease.address, lease.since) == ("com1", "kim", "192.0.2.1", 7.0)
    assert list(book) == [lease]


def test_a_held_target_is_refused_with_its_holder(book: LeaseBook) -> None:
    held = book.take("com1", "kim", "192.0.2.1", 7.0)
    with pytest.raises(TargetHeld) as refusal:
        book.take("com1", "lee", "192.0.2.2", 9.0)
    assert str(refusal.value) == ("com1 is held by kim from 192.0.2.1 since second 7; it is free again when they leave")
    assert refusal.value.code == "held"
    assert list(book) == [held]


def test_the_same_holder_is_refused_too(book: LeaseBook) -> None:
    book.take("com1", "kim", "192.0.2.1", 7.0)
    with pytest.raises(TargetHeld):
        book.take("com1", "kim", "192.0.2.1", 7.0)


def test_other_targets_are_free(book: LeaseBook) -> None:
    first = book.take("com1", "kim", "192.0.2.1", 7.0)
    second = book.take("com2", "kim", "192.0.2.1", 8.0)
    assert list(book) == [first, second]


def test_a_released_target_is_free_and_releasing_again_does_nothing(book: LeaseBook) -> None:
    lease = book.take("com1", "kim", "192.0.2.1", 7.0)
    book.release(lease)
    book.release(lease)
    assert list(book) == []


def test_a_late_release_leaves_the_successor_alone(book: LeaseBook) -> None:
    late = book.take("com1", "kim", "192.0.2.1", 7.0)
    book.release(late)
    successor = book.take("com1", "kim", "192.0.2.1", 7.0)
    book.release(late)
    assert list(book) == [successor]


def test_a_lease_that_was_never_given_frees_nothing(book: LeaseBook) -> None:
    lease = book.take("com1", "kim", "192.0.2.1", 7.0)
    book.release(Lease("com1", "kim", "192.0.2.1", 7.0))
    book.release(Lease("com9", "kim", "192.0.2.1", 7.0))
    assert list(book) == [lease]


def test_releasing_while_looking_through_the_book(book: LeaseBook) -> None:
    for name in ("com1", "com2"):
        book.take(name, "kim", "192.0.2.1", 7.0)
    for lease in book:
        book.release(lease)
    assert list(book) == []
