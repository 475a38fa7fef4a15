from __future__ import annotations

import pytest

from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.statuses import Status
from kdsrv.sessions.breakpoints import BREAKPOINT_REQUESTS, Breakpoints


def note(breakpoints: Breakpoints, request: Manipulate, reply: Manipulate) -> None:
    assert request.api in BREAKPOINT_REQUESTS
    breakpoints.note(request.encode(), reply.encode())


def entries(*pairs: tuple[int, int]) -> bytes:
    return b"".join(address.to_bytes(8, "little") + handle.to_bytes(8, "little") for address, handle in pairs)


@pytest.fixture
def three() -> Breakpoints:
    breakpoints = Breakpoints()
    for handle in (1, 2, 3):
        request = Manipulate.write_breakpoint(0x1000 * handle)
        note(breakpoints, request, request.reply(handle=handle))
    return breakpoints


def test_what_was_set_is_known_by_its_handle(three: Breakpoints) -> None:
    assert three.handles == [1, 2, 3]


def test_what_could_not_be_set_is_not_there(three: Breakpoints) -> None:
    request = Manipulate.write_breakpoint(0x9000)
    note(three, request, request.reply(Status.UNSUCCESSFUL, handle=9))
    assert three.handles == [1, 2, 3]


def test_what_was_removed_is_forgotten(three: Breakpoints) -> None:
    request = Manipulate.restore_breakpoint(2)
    note(three, request, request.reply())
    assert three.handles == [1, 3]
    again = Manipulate.restore_breakpoint(1)
    note(three, again, again.reply(Status.UNSUCCESSFUL))
    assert three.handles == [1, 3]


def test_many_at_once(three: Breakpoints) -> None:
    request = Manipulate.write_breakpoints([0x9000, 0xA000])
    note(three, request, request.reply(Status.UNSUCCESSFUL, entries((0x9000, 9), (0xA000, 0))))
    assert three.handles == [1, 2, 3, 9]
    request = Manipulate.restore_breakpoints([1, 9])
    note(three, request, request.reply())
    assert three.handles == [2, 3]


def test_one_that_is_set_anew_has_another_handle(three: Breakpoints) -> None:
    request = Manipulate(Manipulate.write_breakpoints([0x9000]).fixed, entries((0x9000, 2)))
    note(three, request, request.reply(data=entries((0x9000, 7))))
    assert three.handles == [1, 3, 7]


def test_a_target_that_does_not_tell_the_handles(three: Breakpoints) -> None:
    request = Manipulate.write_breakpoints([0x9000])
    note(three, request, request.reply())
    assert three.handles == [1, 2, 3]


def test_a_reboot_forgets_them(three: Breakpoints) -> None:
    three.note(Manipulate.reboot().encode())
    assert three.handles == []


def test_there_is_a_bound() -> None:
    breakpoints = Breakpoints()
    for handle in range(1, 1000):
        request = Manipulate.write_breakpoint(0)
        note(breakpoints, request, request.reply(handle=handle))
    assert breakpoints.handles == list(range(936, 1000))


@pytest.mark.parametrize("size", [0, 4, 30, 55])
def test_what_is_cut_short_is_not_looked_at(size: int, three: Breakpoints) -> None:
    request = Manipulate.write_breakpoint(0x9000)
    three.note(request.encode(), request.reply(handle=9).encode()[:size])
    three.note(Manipulate.restore_breakpoint(1).encode()[:size], request.reply().encode())
    assert three.handles == [1, 2, 3]
