"""One large read by the Python API; talks to the run as debugger.c does with --handshake."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

from kdsrv.client import ServerUnreachable, Target, open_session

__all__ = ["main"]

ADDRESS = 0xFFFFF80002A00000
SIZE = 1 << 20
READ = 3944
KNOCKS = 100


def _expected() -> bytes:
    """What target.c has there: the byte at address a is (a * 7 + (a >> 8)) & 0xff, the same every 64 KiB."""
    return bytes((a * 7 + (a >> 8)) & 0xFF for a in range(1 << 16)) * (SIZE >> 16)


async def _opened(reactor: Any, string: str) -> Target:
    """The server may still be starting."""
    for _ in range(KNOCKS):
        try:
            return await open_session(reactor, string)
        except ServerUnreachable:
            await deferLater(reactor, 0.1)
    return await open_session(reactor, string)


async def main(reactor: Any, string: str) -> None:
    """Reads once when told so; the result counts in reads of 3944 bytes, to be compared with debugger.c's."""
    expected = _expected()
    target = await _opened(reactor, string)
    await target.wait_for_stop()
    await _say("ready")
    began = time.monotonic()
    data = await target.read_virtual(ADDRESS, SIZE)
    seconds = time.monotonic() - began
    if data != expected:
        sys.exit("wrong data")
    await _say(json.dumps({"rounds": -(-SIZE // READ), "seconds": seconds, "p50_us": 0, "p99_us": 0}))
    await target.leave()


async def _say(line: str) -> None:
    """Says it, and waits for the word to go on."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    await deferToThread(sys.stdin.readline)


def _main(reactor: Any, string: str) -> Deferred[None]:
    return Deferred.fromCoroutine(main(reactor, string))


if __name__ == "__main__":
    react(_main, sys.argv[1:])
