"""A test of a script of one's own, without sockets, hardware or waiting."""

from __future__ import annotations

import pytest

from kdsrv.client import SessionEnded, Target
from kdsrv.testing import MemoryLab


async def kernel_is_there(target: Target) -> bool:
    """The script: does the kernel's image begin as images do?"""
    version = await target.version()
    return await target.read_virtual(version.kernel_base, 2) == b"MZ"


def test_the_kernel_is_there() -> None:
    lab = MemoryLab()
    target = lab.run(lab.open_session("sim:"))
    lab.run(target.break_in())
    assert lab.run(kernel_is_there(target))

    kernel = lab.simulated().machine.version.kernel_base
    lab.simulated().memory.write_virtual(kernel, b"??")
    assert not lab.run(kernel_is_there(target))
    lab.close()


def test_the_network_fails() -> None:
    lab = MemoryLab(latency=0.05)
    target = lab.run(lab.open_session("sim:"))
    lab.run(target.break_in())
    lab.cut(5)
    assert lab.run(kernel_is_there(target)), "it takes five seconds longer"
    lab.cut(300)
    with pytest.raises(SessionEnded):
        lab.run(kernel_is_there(target))
    lab.close()
