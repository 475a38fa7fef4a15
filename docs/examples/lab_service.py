"""A lab's own Twisted service that has a KD server in it, beside whatever else the lab needs.

twist --reactor=default lab ... would run it as a plugin; here ``make_lab`` is all there is, and ``python
lab_service.py`` runs it with a simulated target on a port of the loopback interface.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import LoopingCall, react
from typing_extensions import override

from kdsrv.client import open_session_in_process
from kdsrv.server.service import KdsrvService


class TargetWatch(Service):
    """Says what is going on: an example of a service that uses the server's directory."""

    def __init__(self, reactor: Any, server: KdsrvService, seconds: float = 60.0) -> None:
        self.lines: list[str] = []
        self._server = server
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._seconds = seconds

    @override
    def startService(self) -> None:
        super().startService()
        self._loop.start(self._seconds)

    @override
    def stopService(self) -> None:
        super().stopService()
        self._loop.stop()

    def _look(self) -> None:
        for session in self._server.directory:
            self.lines.append(f"{session.name} is held by {session.lease.holder}: {session.status.sentence()}")


def make_lab(reactor: Any, listen: str) -> tuple[MultiService, KdsrvService, TargetWatch]:
    """The lab as one service: a KD server that listens on an endpoint such as ``tcp:1234``, and somebody who looks."""
    lab = MultiService()
    server = KdsrvService(reactor, [serverFromString(reactor, listen)], environ={})
    server.setServiceParent(lab)
    watch = TargetWatch(reactor, server)
    watch.setServiceParent(lab)
    return lab, server, watch


async def nightly_check(reactor: Any, server: KdsrvService, target: str) -> str:
    """A session of the lab's own, in the server's process: others are refused while it lasts."""
    async with open_session_in_process(reactor, server.directory, target, client="the nightly check") as kernel:
        await kernel.break_in(timeout=30)
        version = await kernel.version()
        await kernel.continue_()
        return f"{target} runs build {version.build_number}"


async def main(reactor: Any) -> None:
    lab, server, _ = make_lab(reactor, "tcp:0:interface=127.0.0.1")
    lab.startService()
    try:
        print(f"listening on {server.ports[0].getHost()}")
        print(await nightly_check(reactor, server, "sim:"))
    finally:
        await lab.stopService()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
