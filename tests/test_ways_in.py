"""Every way into a server, forward and reverse, without a password and with the right one, a wrong one and none.

Server and client are made of the strings that users type, in one process, over real sockets and pseudo terminals. Each
way has the same tests: those who may come in read a simulated target, leave, and come again; all others are told why
not, and leave nothing behind.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

from com_channel_rigs import NullModem
from transport_rigs import open_descriptors, pause, until
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from typing_extensions import override
from wire_talk import pair

from kdsrv.client import ServerRefused, Target, open_session
from kdsrv.client import connecting as client_connecting
from kdsrv.client.admission import LoginNeeded
from kdsrv.client.protocol import ClientProtocol
from kdsrv.com_channel.ports import Cables
from kdsrv.first_free_port import FirstFreePort
from kdsrv.server import initiator as server_initiator
from kdsrv.server import listening as server_listening
from kdsrv.server import protocol as server_protocol
from kdsrv.server.service import KdsrvService
from kdsrv.sim.kernel import KERNEL_BASE
from kdsrv.tap import Options, makeService
from kdsrv.wire.connection import State

RIGHT, WRONG = "the right one", "the wrong one"
BROKEN = "The other end does not keep to the kdsrv protocol"
SOON = 3.0
"""Seconds that a login takes at most where nothing is held back, on a busy machine."""


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port: int = line.getsockname()[1]
    return port


class Pushy(ClientProtocol):
    """Asks for the target without the login that the server wants."""

    @override
    def _come_in(self, event: Any) -> None:
        self._connection, _ = pair(State.READY)
        self._say(self._request())


class Mute(ClientProtocol):
    """Says hello and never logs in."""

    @override
    def _come_in(self, event: Any) -> None: ...


class Ways:
    """The tests, for a way with the strings ``server`` (what ``-t`` gets) and ``client``."""

    timeout = 60
    server: str
    client: str
    patch: Callable[[object, str, object], object]
    addCleanup: Callable[..., None]  # noqa: N815

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        pipes = patch.dict(os.environ, KDSRV_PIPE_DIR=str(self.folder / "pipes"))
        pipes.start()
        self.addCleanup(pipes.stop)
        self.patch(Cables, "_of", WeakKeyDictionary())
        self.patch(server_listening, "FirstFreePort", lambda _, ports, __: FirstFreePort(reactor, ports, "127.0.0.1"))
        self.patch(server_initiator, "FIRST_WAIT", 0.05)
        self.facts = {"port": free_port(), "folder": self.folder, "pid": os.getpid(), "pin": ""}
        if "{folder}" in self.server:
            cable = NullModem(self.folder)
            self.addCleanup(cable.unplug)
            ends = Cables.of(reactor)._cables
            self.addCleanup(until, lambda: all(end._transport is None for end in ends.values()))

    async def serve(self, password: str | None) -> None:
        """Start the server, and see what it is and has while nobody is there."""
        options = Options()
        words = ["--no-password"] if password is None else []
        string = self.server.format(**self.facts) + ("" if password is None else f",password={password}")
        options.parseOptions(["-t", string, "--state-dir", str(self.folder / "state"), *words])
        for fingerprint in options.certificates.fingerprints:
            self.facts["pin"] = f",certuser={fingerprint}"
        service = makeService(options)
        assert isinstance(service, KdsrvService)
        self.service = service
        service.startService()
        self.addCleanup(service.stopService)
        await pause()  # so that trial's own timer is counted before and after
        await until(lambda: all(way._again for way in service._initiators))
        self.before = self.possessions()

    def open(self, password: str | None) -> Deferred[Target]:
        given = "" if password is None else f",password={password}"
        server = self.client.format(**self.facts) + given
        opening = open_session(reactor, f"kdsrv:server=@{{{server}}},trans=@{{sim:}}", client="kim")
        return Deferred.fromCoroutine(_awaited(opening))

    def possessions(self) -> dict[str, object]:
        """What a connection could leave behind."""
        factories = self.service._factories
        return {
            "sessions": [session.name for session in self.service.directory],
            "targets": list(self.service.simulated._live),
            "connections": sum(len(factory._connected) for factory in factories),
            "at the door": len(self.service.factory.door.crowd),
            "descriptors": open_descriptors(),
            "readers and writers": (len(reactor.getReaders()), len(reactor.getWriters())),
            "timers": len(reactor.getDelayedCalls()),
        }

    async def wait_until_as_before(self, **except_for: object) -> None:
        """Wait until the server has what it had before anybody came, which takes a moment as lines are closed."""
        give_up_at = reactor.seconds() + 3
        while (now := {**self.possessions(), **except_for}) != (before := {**self.before, **except_for}):
            assert reactor.seconds() < give_up_at, f"it has {now}, and had {before}"
            await pause()

    async def check_visit(self, password: str | None) -> None:
        """Attach, find the target halted, read its memory, leave, with nothing of the connection left behind."""
        target = await self.open(password)
        assert [session.name for session in self.service.directory] == [target.name] == ["sim:"]
        stop = await target.wait_for_stop(timeout=10)
        memory = self.service.simulated["sim"].target.memory
        assert memory.read_virtual(KERNEL_BASE, 2) == b"MZ"
        for address in (KERNEL_BASE, stop.program_counter):
            assert await target.read_virtual(address, 0x400, timeout=10) == memory.read_virtual(address, 0x400)
        await target.leave()
        live = self.service.simulated["sim"]
        await until(lambda: not live.is_heard)
        gone = {"targets": ["sim"], "timers": None}
        await self.wait_until_as_before(**gone)

    async def check_refusal(self, password: str | None, error: type[Exception], sentence: str) -> float:
        """Be refused with a sentence, at the cost of nothing; how many seconds that took."""
        began = reactor.seconds()
        try:
            await self.open(password)
        except error as refusal:
            assert str(refusal) == sentence  # noqa: PT017
        else:
            raise AssertionError("it was let in")
        took = reactor.seconds() - began
        await self.wait_until_as_before()
        return took

    async def check_that_others_get_in_at_once(self) -> None:
        began = reactor.seconds()
        target = await self.open(RIGHT)
        assert reactor.seconds() - began < SOON
        await target.leave()
        await self.check_visit(RIGHT)

    async def test_no_password(self) -> None:
        await self.serve(None)
        await self.check_visit(None)
        await self.check_visit(None)

    async def test_the_right_password(self) -> None:
        await self.serve(RIGHT)
        await self.check_visit(RIGHT)
        await self.check_visit(RIGHT)

    async def test_a_wrong_password(self) -> None:
        await self.serve(RIGHT)
        took = await self.check_refusal(
            WRONG,
            ServerRefused,
            "the server says: login refused (0x80004005): wrong user or password "
            "(no user name was given; a server with --users wants --user NAME)",
        )
        assert 0.5 <= took < server_protocol.GREETING_LIMIT
        await self.check_that_others_get_in_at_once()

    async def test_a_connection_that_breaks(self) -> None:
        """The session goes on over another one, and is resumed only by who can log in."""
        await self.serve(RIGHT)
        target = await self.open(RIGHT)
        await target.wait_for_stop(timeout=10)
        expected = self.service.simulated["sim"].target.memory.read_virtual(KERNEL_BASE, 0x4000)
        broken = set()
        for _ in range(3):
            reading = Deferred.fromCoroutine(target.read_virtual(KERNEL_BASE, 0x4000, timeout=20))
            await pause(0)
            (protocol,) = [each for factory in self.service._factories for each in factory._attached]
            protocol.transport.abortConnection()  # type: ignore[union-attr]
            broken.add(protocol)
            assert await reading == expected
        assert len(broken) == 3
        await target.leave()
        live = self.service.simulated["sim"]
        await until(lambda: not live.is_heard)
        await self.wait_until_as_before(targets=["sim"], timers=None)

    async def test_no_password_where_one_is_wanted(self) -> None:
        await self.serve(RIGHT)
        sentence = str(LoginNeeded())
        assert await self.check_refusal(None, LoginNeeded, sentence) < SOON
        self.patch(client_connecting, "ClientProtocol", Pushy)
        sentence = f"the server says: {BROKEN}: it sent message 'attach', which a client does not send when login."
        assert await self.check_refusal(None, ServerRefused, sentence) < SOON
        self.patch(client_connecting, "ClientProtocol", Mute)
        self.patch(server_protocol, "GREETING_LIMIT", 0.6)
        sentence = f"the server says: {BROKEN}: it has not come in within 1 s."
        assert 0.6 <= await self.check_refusal(None, ServerRefused, sentence) < SOON
        self.patch(client_connecting, "ClientProtocol", ClientProtocol)
        self.patch(server_protocol, "GREETING_LIMIT", 10.0)
        await self.check_that_others_get_in_at_once()


class TcpForward(Ways, TestCase):
    server = "tcp:port={port}"
    client = "tcp:server=127.0.0.1,port={port}"


class TcpReverse(Ways, TestCase):
    server = "tcp:port={port},clicon=127.0.0.1"
    client = "tcp:clicon=127.0.0.1,port={port}"


class SslForward(Ways, TestCase):
    server = "ssl:proto=tls1,port={port}"
    client = "ssl:proto=tls1,server=127.0.0.1,port={port}{pin}"


class SslReverse(Ways, TestCase):
    server = "ssl:proto=tls1,port={port},clicon=127.0.0.1"
    client = "ssl:proto=tls1,clicon=127.0.0.1,port={port}{pin}"


class Npipe(Ways, TestCase):
    server = "npipe:pipe=lab"
    client = "npipe:server=.,pipe=lab"


class Spipe(Ways, TestCase):
    server = "spipe:proto=tls1,pipe=lab_%x"
    client = "spipe:proto=tls1,server=.,pipe=lab_{pid:x}{pin}"


class Com(Ways, TestCase):
    server = "com:port={folder}/lab,baud=115200,channel=3"
    client = "com:port={folder}/desk,baud=115200,channel=3"


async def _awaited(opening: Any) -> Target:
    target: Target = await opening
    return target
