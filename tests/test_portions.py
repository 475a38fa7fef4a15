"""Requests in portions: whatever a medium carries, a debugger gets what it would get on a serial line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsrv.kd.api import Api
from kdsrv.kd.manipulate import MAX_TRANSFER, Manipulate
from kdsrv.kd.portions import portions
from kdsrv.kd.statuses import Status

KDNET = 1152
"""The largest payload of KDNET."""
BASE, END = 0x1000, 0x1000 + 2 * MAX_TRANSFER
CONTEXT = bytes(range(256)) * 4 + bytes(range(208))


class Target:
    """A target with some memory, a bus device and a context, that keeps what it is asked.

    ``clip``: the most data that it gives in one reply. ``context_ex``: whether it knows GetContextEx and SetContextEx.
    """

    def __init__(self, clip: int = MAX_TRANSFER, *, context: bytes = CONTEXT, context_ex: bool = True) -> None:
        self.clip = clip
        self.context_ex = context_ex
        self.memory = bytearray(number * 7 & 0xFF for number in range(END - BASE))
        self.device = bytearray(range(256)) * 16
        self.context = bytearray(context)
        self.collected = b""
        self.asked: list[Manipulate] = []

    def handle(self, request: Manipulate) -> Manipulate:
        self.asked.append(request)
        match request.kind:
            case Api.READ_VIRTUAL_MEMORY | Api.READ_PHYSICAL_MEMORY:
                return self._read(request)
            case Api.WRITE_VIRTUAL_MEMORY | Api.WRITE_PHYSICAL_MEMORY:
                return self._write(request)
            case Api.GET_BUS_DATA:
                piece = bytes(self.device[request["offset"] :][: min(request["length"], self.clip)])
                return request.reply(data=piece, length=len(piece))
            case Api.SET_BUS_DATA:
                self.device[request["offset"] : request["offset"] + len(request.data)] = request.data
                return request.reply()
            case Api.GET_CONTEXT:
                return request.reply(data=bytes(self.context)[: self.clip])
            case Api.SET_CONTEXT:
                self.context[:] = request.data[: len(self.context)]
                return request.reply()
            case Api.GET_CONTEXT_EX if self.context_ex:
                return self._get_context_ex(request)
            case Api.SET_CONTEXT_EX if self.context_ex:
                return self._set_context_ex(request)
            case Api.READ_CONTROL_SPACE if request["address"] == 2:
                data = bytes(224)[: request["transfer_count"]]
                return request.reply(data=data, actual=len(data))
        return request.reply_unknown()

    def _read(self, request: Manipulate) -> Manipulate:
        start, wanted = request["address"], min(request["transfer_count"], self.clip)
        data = bytes(self.memory[start - BASE :][:wanted]) if BASE <= start < END else b""
        return request.reply(Status.SUCCESS if len(data) == wanted else Status.UNSUCCESSFUL, data, actual=len(data))

    def _write(self, request: Manipulate) -> Manipulate:
        start = request["address"]
        done = min(len(request.data), END - start) if BASE <= start < END else 0
        if done:
            self.memory[start - BASE : start - BASE + done] = request.data[:done]
        return request.reply(Status.SUCCESS if done == len(request.data) else Status.UNSUCCESSFUL, actual=done)

    def _get_context_ex(self, request: Manipulate) -> Manipulate:
        start, count = request["offset"], request["byte_count"]
        if start + count > len(self.context):
            return request.reply(Status.UNSUCCESSFUL, bytes_copied=0)
        data = bytes(self.context[start : start + min(count, self.clip)])
        return request.reply(data=data, bytes_copied=len(data))

    def _set_context_ex(self, request: Manipulate) -> Manipulate:
        start, total = request["offset"], request["bytes_copied"]
        if start != len(self.collected) or total != len(self.context) or start + len(request.data) > total:
            return request.reply(Status.UNSUCCESSFUL, bytes_copied=0)
        self.collected += request.data
        if len(self.collected) == total:
            self.context[:] = self.collected
            self.collected = b""
        return request.reply(bytes_copied=len(request.data))

    @property
    def state(self) -> tuple[bytes, bytes, bytes]:
        return bytes(self.memory), bytes(self.device), bytes(self.context)


def ask(target: Target, request: Manipulate, max_request: int = KDNET, max_reply: int = KDNET) -> Manipulate:
    """The reply over a medium with these limits, which is seen to carry no more."""
    steps = portions(request.encode(), max_request, max_reply)
    if steps is None:
        assert len(request.encode()) <= max_request
        reply = target.handle(request)
        assert len(reply.encode()) <= max_reply
        return reply
    try:
        portion = next(steps)
        while True:
            assert len(portion) <= max_request
            reply = target.handle(Manipulate.decode(portion))
            assert len(reply.encode()) <= max_reply
            portion = steps.send(reply.encode())
    except StopIteration as end:
        return Manipulate.decode(end.value)


READS = (Manipulate.read_virtual, Manipulate.read_physical)
WRITES = (Manipulate.write_virtual, Manipulate.write_physical)
PLACES = st.integers(BASE - 10, END + 10) | st.sampled_from([0, END - 1, 0xFFFFFFFFFFFFFFF0])
SIZES = st.integers(0, 2 * MAX_TRANSFER) | st.sampled_from([0xFFFFFFFF, MAX_TRANSFER, 1096, 1097])
DATA = st.binary(max_size=16).flatmap(
    lambda seed: st.integers(0, MAX_TRANSFER).map(lambda n: ((seed or b"\0") * n)[:n])
)
REQUESTS = st.one_of(
    st.builds(lambda make, at, size: make(at, size, processor=3), st.sampled_from(READS), PLACES, SIZES),
    st.builds(lambda make, at, data: make(at, data, processor=3), st.sampled_from(WRITES), PLACES, DATA),
    st.builds(Manipulate.read_physical, PLACES, SIZES, st.integers(0, 3)),
    st.builds(Manipulate.get_context_ex, st.integers(0, 1300), st.integers(0, 1300), st.integers(0, 9)),
    st.builds(Manipulate.get_context, st.integers(0, 9), st.integers(0, 0xFFFFFFFF)),
    st.builds(Manipulate.set_context, st.binary(min_size=1, max_size=9).map(lambda b: (b * 1232)[:1232])),
    st.builds(lambda b: Manipulate.set_context_ex(0, (b * 1232)[:1232], 1232), st.binary(min_size=1, max_size=9)),
    st.builds(Manipulate.get_bus_data, *4 * [st.integers(0, 9)], st.integers(0, MAX_TRANSFER)),
    st.builds(Manipulate.set_bus_data, *4 * [st.integers(0, 9)], DATA),
    st.builds(Manipulate.read_control_space, st.integers(0, 3), st.integers(224, 5000)),
    st.just(Manipulate.get_version()),
)


@settings(deadline=None, max_examples=300)
@given(
    request_=REQUESTS,
    max_request=st.integers(57, 4000) | st.just(KDNET),
    max_reply=st.integers(56 + 224, 4000) | st.just(KDNET),
    clip=st.integers(1, MAX_TRANSFER) | st.just(MAX_TRANSFER),
)
def test_any_request_over_any_medium_gets_what_a_serial_line_gets(
    request_: Manipulate, max_request: int, max_reply: int, clip: int
) -> None:
    """A reply is joined from however little the target gives at a time, and passed on as it is if it fits."""
    clip = min(clip, max_reply - 56)
    fits = portions(request_.encode(), max_request, max_reply) is None
    near, far = Target(clip if fits else MAX_TRANSFER), Target(clip)
    reply = ask(far, request_, max_request, max_reply)
    assert reply == near.handle(request_)
    assert far.state == near.state


@given(request_=REQUESTS)
def test_a_serial_line_carries_everything_as_it_is(request_: Manipulate) -> None:
    assert portions(request_.encode(), 4000, 4000) is None


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        (Manipulate.read_virtual(BASE, 3944), [(BASE + 1096 * n, 1096) for n in range(3)] + [(BASE + 3288, 656)]),
        (Manipulate.read_virtual(BASE, 5000), [(BASE + 1096 * n, 1096) for n in range(3)] + [(BASE + 3288, 656)]),
        (Manipulate.read_virtual(BASE, 1096), [(BASE, 1096)]),
        (Manipulate.write_virtual(BASE, bytes(1097)), [(BASE, 1096), (BASE + 1096, 1)]),
        (Manipulate.write_virtual(BASE, bytes(1096)), [(BASE, 1096)]),
    ],
)
def test_portions_are_as_large_as_the_medium_lets_them_be(request_: Manipulate, asked: list[tuple[int, int]]) -> None:
    target = Target()
    ask(target, request_)
    assert [(portion["address"], portion["transfer_count"]) for portion in target.asked] == asked


def test_the_boot_debugger_is_asked_the_old_way() -> None:
    target = Target(MAX_TRANSFER, context=CONTEXT[:1096], context_ex=False)
    reply = ask(target, Manipulate.get_context(2))
    assert (reply.kind, reply.status, reply.processor, reply.data) == (Api.GET_CONTEXT, 0, 2, CONTEXT[:1096])
    assert [portion.kind for portion in target.asked] == [Api.GET_CONTEXT_EX, Api.GET_CONTEXT]


@pytest.mark.parametrize("size", [716, 912])
def test_a_context_that_fits_is_asked_for_in_the_end(size: int) -> None:
    assert ask(Target(context=CONTEXT[:size]), Manipulate.get_context()).data == CONTEXT[:size]


def test_how_a_page_is_cached_is_said_in_each_portion() -> None:
    target = Target()
    for request in (Manipulate.read_physical(BASE, 2000, 2), Manipulate.write_physical(BASE, bytes(2000), 2)):
        ask(target, request)
    assert [portion["actual"] for portion in target.asked] == [2, 2, 2, 2]


def test_what_a_debugger_left_in_a_request_comes_back() -> None:
    request = Manipulate.read_virtual(BASE, 3000)
    request = Manipulate(request.replace(level=0xFFFF, pad=0x12345678).fixed[:0x20] + b"\xee" * 24)
    assert ask(Target(), request).fixed == Target().handle(request).fixed


def test_what_is_left_out_at_the_end_of_memory_is_a_failure_with_what_there_is() -> None:
    reply = ask(Target(), Manipulate.read_virtual(END - 1096, 3000))
    assert (reply.status, reply["actual"], len(reply.data)) == (Status.UNSUCCESSFUL, 1096, 1096)
    reply = ask(Target(), Manipulate.write_virtual(END - 1100, bytes(3000)))
    assert (reply.status, reply["actual"], reply.data) == (Status.UNSUCCESSFUL, 1100, b"")


def test_a_target_that_gives_nothing_and_calls_it_success_is_not_asked_for_ever() -> None:
    request = Manipulate.read_virtual(BASE, 3000)
    steps = portions(request.encode(), KDNET, KDNET)
    assert steps is not None
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(request.reply(actual=0).encode())
    assert Manipulate.decode(end.value.value) == request.reply(actual=0)


def test_more_than_was_asked_for_is_cut() -> None:
    steps = portions(Manipulate.read_virtual(BASE, 1200).encode(), KDNET, KDNET)
    assert steps is not None
    first = Manipulate.decode(next(steps))
    second = Manipulate.decode(steps.send(first.reply(data=bytes(3000)).encode()))
    assert (second["address"], second["transfer_count"]) == (BASE + 1096, 104)


@pytest.mark.parametrize("size", [4, 12, 55])
def test_a_reply_that_is_cut_short_ends_the_matter(size: int) -> None:
    request = Manipulate.read_virtual(BASE, 1200)
    steps = portions(request.encode(), KDNET, KDNET)
    assert steps is not None
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(request.reply(data=b"12345678").encode()[:size])
    reply = Manipulate.decode(end.value.value)
    assert (reply["transfer_count"], reply.data) == (1200, b"")


LONG: list[Callable[[], Manipulate]] = [
    lambda: Manipulate.search_memory(BASE, 5000, bytes(2000)),
    lambda: Manipulate.write_breakpoints(range(100)),
    lambda: Manipulate.write_control_space(2, bytes(2000)),
    lambda: Manipulate.request(0x3199, data=bytes(2000)),
    lambda: Manipulate(Manipulate.set_context_ex(0, bytes(1232), 1232).replace(byte_count=5).fixed, bytes(1232)),
]


@pytest.mark.parametrize("make", LONG)
def test_what_has_no_portions_fails_without_the_target(make: Callable[[], Manipulate]) -> None:
    target = Target()
    reply = ask(target, make())
    assert target.asked == []
    assert (reply.status, reply.data) == (Status.UNSUCCESSFUL, b"")
    assert reply.kind == make().kind


def test_a_continue_loses_what_is_behind_it() -> None:
    request = Manipulate.continue2()
    steps = portions(request.encode() + bytes(2000), KDNET, KDNET)
    assert steps is not None
    assert next(steps) == request.encode()


def test_a_request_that_is_too_short_to_be_read_is_not_looked_at() -> None:
    assert portions(Manipulate.read_virtual(BASE, 3000).encode()[:30], KDNET, KDNET) is None
