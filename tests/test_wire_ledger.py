from __future__ import annotations

import pytest

from kdsrv.errors import PeerError
from kdsrv.wire.ledger import CONFIRM_BYTES, CONFIRM_FRAMES, MAX_KEPT_BYTES, MAX_KEPT_FRAMES, Ledger


def keeping(frames: int = 0, size: int = 10) -> Ledger:
    ledger = Ledger()
    ledger.keeping = True
    for number in range(frames):
        ledger.keep(bytes([number % 256]) * size)
    return ledger


def test_frames_are_counted_and_kept() -> None:
    ledger = keeping(3, size=2)
    assert (ledger.sent, ledger.kept_bytes) == (3, 6)
    assert ledger.kept_after(1) == b"\1\1\2\2"
    assert ledger.kept_bytes == 4


def test_without_keeping_they_are_counted_only() -> None:
    ledger = Ledger()
    ledger.keep(b"abc")
    assert (ledger.sent, ledger.kept_bytes, ledger.is_full) == (1, 0, False)


def test_to_ask_twice_what_is_kept_changes_nothing() -> None:
    ledger = keeping(5)
    assert ledger.kept_after(2) == ledger.kept_after(2)


def test_all_may_be_confirmed() -> None:
    ledger = keeping(5)
    ledger.confirmed(5)
    ledger.confirmed(5)
    assert (ledger.kept_after(5), ledger.kept_bytes) == (b"", 0)


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (6, "it says that it received 6 frames, where 5 were sent"),
        (2**64 - 1, "received 18446744073709551615 frames"),
        (2, "it says that it received 2 frames, and before it said 3"),
    ],
)
def test_counts_that_cannot_be(count: int, says: str) -> None:
    ledger = keeping(5)
    ledger.confirmed(3)
    with pytest.raises(PeerError, match=says):
        ledger.confirmed(count)
    with pytest.raises(PeerError, match=says):
        ledger.kept_after(count)
    assert ledger.kept_bytes == 20


def test_it_is_full_of_bytes() -> None:
    ledger = keeping(MAX_KEPT_BYTES // 8192, size=8192)
    assert not ledger.is_full
    ledger.keep(b"x")
    assert ledger.is_full
    ledger.confirmed(1)
    assert not ledger.is_full


def test_it_is_full_of_frames() -> None:
    ledger = keeping(MAX_KEPT_FRAMES, size=1)
    assert not ledger.is_full
    ledger.keep(b"x")
    assert ledger.is_full


def test_it_confirms_so_many_frames() -> None:
    ledger = keeping()
    for _ in range(2):
        for _ in range(CONFIRM_FRAMES - 1):
            ledger.came(1)
        assert not ledger.confirm_due
        ledger.came(0)
        assert ledger.confirm_due
        assert ledger.confirm() == ledger.received
    assert ledger.received == 2 * CONFIRM_FRAMES


def test_it_confirms_so_many_bytes() -> None:
    ledger = keeping()
    for _ in range(2):
        ledger.came(CONFIRM_BYTES - 1)
        assert not ledger.confirm_due
        ledger.came(1)
        assert ledger.confirm_due
        ledger.confirm()
