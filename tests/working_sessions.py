"""Sessions at work, as a program of its own: ``python working_sessions.py STRING SESSIONS PACE``.

Each reads 4 KB of its simulated target PACE times a second, as far as it gets. Every second a line is printed: how many
reads all of them made in it, and the longest one in milliseconds. It works until it is ended.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred, ensureDeferred

from kdsrv import client
from kdsrv.client import Target
from kdsrv.sim.kernel import KERNEL_BASE

reads = 0
longest = 0.0


async def work(reactor: Any, target: Target, pace: float) -> None:
    global reads, longest
    due = time.monotonic()
    while True:
        begin = time.monotonic()
        await target.read_virtual(KERNEL_BASE, 4096)
        now = time.monotonic()
        reads += 1
        longest = max(longest, now - begin)
        due = max(due + 1 / pace, now)
        await task.deferLater(reactor, due - now)


def report() -> None:
    global reads, longest
    sys.stdout.write(f"{reads} {longest * 1000:.0f}\n")
    sys.stdout.flush()
    reads, longest = 0, 0.0


async def main(reactor: Any, string: str, sessions: str, pace: str) -> None:
    targets = [
        await client.open_session(reactor, string.replace("NAME", f"t{number}")) for number in range(int(sessions))
    ]
    for target in targets:
        await target.break_in()
        ensureDeferred(work(reactor, target, float(pace)))
    report()
    task.LoopingCall(report).start(1.0, now=False)
    await Deferred()


if __name__ == "__main__":
    task.react(lambda reactor: ensureDeferred(main(reactor, *sys.argv[1:4])))
