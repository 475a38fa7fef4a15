"""Count how often a place in the kernel is passed, and what the target prints meanwhile.

python count_calls.py 'kdsrv:server=@{tcp:server=lab,port=1234},trans=@{sim:}' 0xfffff80212341040 5
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from kdsrv.client import Event, Printed, open_session


async def count_calls(reactor: Any, string: str, address: int, wanted: int) -> None:
    async with open_session(reactor, string, continue_modules=True) as target:
        await target.break_in(timeout=30)

        def show(event: Event) -> None:
            if isinstance(event, Printed):
                print(f"target: {event.text}", end="")

        target.listen(show)
        breakpoint_ = await target.set_breakpoint(address)
        for number in range(1, wanted + 1):
            stop = await target.run_until_stop(timeout=60)
            context = await target.context(stop.processor)
            print(f"{number}: processor {stop.processor}, rcx {context['rcx']:#x}")
        await breakpoint_.clear()
        await target.continue_()


if __name__ == "__main__":
    react(
        lambda reactor: Deferred.fromCoroutine(
            count_calls(reactor, sys.argv[1], int(sys.argv[2], 16), int(sys.argv[3]))
        )
    )
