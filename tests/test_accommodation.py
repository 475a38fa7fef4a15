from __future__ import annotations

import pytest

from kdsrv.bridge.accommodation import Accommodation
from kdsrv.kd.manipulate import Manipulate

LIMIT = 0x800 - 56
RADARE2 = Manipulate.get_context(flags=0x1003F).encode()
OTHER = Manipulate.get_context(flags=0).encode()


def reads(count: int) -> list[Manipulate]:
    return [Manipulate.read_virtual(0x1234, count, 1), Manipulate.read_physical(0x1234, count, processor=1)]


@pytest.mark.parametrize("request_", reads(0x1000))
def test_large_reads_of_radare2_are_cut(request_: Manipulate) -> None:
    accommodation = Accommodation()
    assert accommodation.adapt(RADARE2) is RADARE2
    cut = Manipulate.decode(accommodation.adapt(request_.encode()))
    assert cut == request_.replace(transfer_count=LIMIT)


@pytest.mark.parametrize(
    "request_", [*reads(LIMIT), Manipulate.read_control_space(0, 0x1000), Manipulate.get_version()]
)
def test_nothing_else_of_radare2_is_touched(request_: Manipulate) -> None:
    accommodation = Accommodation()
    accommodation.adapt(RADARE2)
    payload = request_.encode()
    assert accommodation.adapt(payload) is payload


@pytest.mark.parametrize("request_", reads(0x1000))
def test_other_debuggers_are_left_alone(request_: Manipulate) -> None:
    accommodation = Accommodation()
    accommodation.adapt(OTHER)
    payload = request_.encode()
    assert accommodation.adapt(payload) is payload
