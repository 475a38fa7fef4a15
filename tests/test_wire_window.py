from __future__ import annotations

import pytest

from kdsrv.wire.window import Outstanding, Window

READ = bytes.fromhex("30310000") + bytes(96)
ONLY_ACKNOWLEDGED = ["36310000", "3c310000", "3b310000", "49310000", "5a310000", "50310000"]


def account(packets: int, size: int) -> Outstanding:
    outstanding = Outstanding()
    outstanding.window = Window(packets, size)
    return outstanding


def test_the_window_to_start_with() -> None:
    assert Outstanding().window == Window(512, 262144)


def test_packets_are_bounded() -> None:
    outstanding = account(2, 1000)
    outstanding.asked(READ)
    assert outstanding.has_room(READ)
    outstanding.asked(READ)
    assert not outstanding.has_room(READ)
    outstanding.answered()
    assert outstanding.has_room(READ)


def test_bytes_are_bounded() -> None:
    outstanding = account(100, 250)
    outstanding.asked(READ)
    assert outstanding.has_room(READ + bytes(50))
    assert not outstanding.has_room(READ + bytes(51))
    outstanding.asked(READ)
    assert outstanding.bytes == 200
    assert not outstanding.has_room(READ)
    outstanding.answered()
    assert outstanding.has_room(READ)


def test_one_request_alone_is_always_allowed() -> None:
    outstanding = account(1, 10)
    assert outstanding.has_room(READ)
    outstanding.asked(READ)
    assert not outstanding.has_room(b"")


@pytest.mark.parametrize("api", ONLY_ACKNOWLEDGED)
def test_what_is_only_acknowledged_does_not_count(api: str) -> None:
    outstanding = account(1, 1000)
    outstanding.asked(READ)
    request = bytes.fromhex(api) + bytes(52)
    assert outstanding.has_room(request)
    outstanding.asked(request)
    assert (len(outstanding), outstanding.bytes) == (1, 100)


def test_a_reply_to_nothing_changes_nothing() -> None:
    outstanding = account(1, 1000)
    outstanding.answered()
    assert (len(outstanding), outstanding.bytes) == (0, 0)


def test_forgetting() -> None:
    outstanding = account(1, 1000)
    outstanding.asked(READ)
    outstanding.forget()
    assert (len(outstanding), outstanding.bytes) == (0, 0)
    assert outstanding.has_room(READ)


def test_between_resync_and_echo_replies_do_not_count() -> None:
    outstanding = account(9, 1000)
    outstanding.asked(READ)
    outstanding.resync()
    outstanding.resync()
    outstanding.asked(READ)
    outstanding.echo()
    outstanding.answered()
    assert len(outstanding) == 1
    outstanding.echo()
    outstanding.answered()
    assert len(outstanding) == 0
