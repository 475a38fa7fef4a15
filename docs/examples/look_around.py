"""Attach to a target, look around, and leave it as it was found.

python look_around.py 'kdsrv:server=@{tcp:server=lab,port=1234},trans=@{com:port=/dev/ttyUSB0,baud=115200}'
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from kdsrv.client import MemoryUnreadable, open_session
from kdsrv.sessions.status import RunState


async def look_around(reactor: Any, string: str) -> None:
    async with open_session(reactor, string) as target:
        print(f"{target.name} on {target.description}: {target.status.sentence()}")
        stop = await target.break_in(timeout=30)
        print(stop)

        version = await target.version()
        print(f"build {version.build_number}, kernel at {version.kernel_base:#x}")

        context = await target.context()
        print(f"rip {context['rip']:#x}, rsp {context['rsp']:#x}")

        try:
            header = await target.read_virtual(version.kernel_base, 4096)
        except MemoryUnreadable as error:
            header = error.read
        print(f"the kernel's image begins with {header[:2]!r}")

        await target.continue_()
        print("running again" if target.run_state is RunState.RUNNING else "halted")


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(look_around(reactor, sys.argv[1])))
