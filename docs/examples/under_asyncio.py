"""The same API in an asyncio program: Twisted's reactor runs on asyncio's loop, and a Deferred becomes a Future.

python under_asyncio.py 'kdsrv:server=@{tcp:server=lab,port=1234},trans=@{sim:}'
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred

from kdsrv.client import open_session


async def kernel_header(reactor: Any, string: str) -> bytes:
    """Twisted's side: it waits for Deferreds."""
    async with open_session(reactor, string) as target:
        await target.break_in(timeout=30)
        version = await target.version()
        return await target.read_virtual(version.kernel_base, 64)


async def program(reactor: Any, loop: asyncio.AbstractEventLoop, string: str) -> None:
    """asyncio's side: it waits for Futures, and a session's work is one of them."""
    reading = Deferred.fromCoroutine(kernel_header(reactor, string)).asFuture(loop)
    header, _ = await asyncio.gather(reading, asyncio.sleep(0.1))
    print(header[:2])


def main(string: str) -> None:
    loop = asyncio.new_event_loop()
    asyncioreactor.install(loop)
    from twisted.internet.task import react

    try:
        react(lambda reactor: Deferred.fromFuture(loop.create_task(program(reactor, loop, string))))
    finally:
        loop.close()


if __name__ == "__main__":
    main(sys.argv[1])
