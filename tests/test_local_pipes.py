"""Pipes of one host: who gets a name, who gets in, and what stands in the way."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from tls_rig import Lab, issue, server_tls
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from kdsrv import local_pipes
from kdsrv.errors import SetupError
from kdsrv.local_pipes import LocalPipe, local_pipe_client, peer_uid, pipe_directory, pipe_name
from kdsrv.tls.binding import channel_binding
from kdsrv.tls.contexts import ClientTls, Trust
from kdsrv.tls.endpoints import tls_client_endpoint, tls_server_endpoint


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lab", "lab"),
        ("lab_%x", "lab_ff"),
        ("lab_%d", "lab_255"),
        ("%X.%x", "FF.1000"),
        ("%x-%d", "ff-4096"),
        ("50%", "50%"),
        ("%s", "%s"),
    ],
)
def test_codes_in_names(text: str, name: str) -> None:
    assert pipe_name(text, 255, 4096) == name


@pytest.mark.parametrize("text", ["", ".", "..", ".lock", "a/b", "../x", "/x", r"a\b", "a\0b", "%x%x%x"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(SetupError, match="name"):
        pipe_name(text, 1, 2)


def test_where_pipes_are() -> None:
    assert pipe_directory({"XDG_RUNTIME_DIR": "/run/user/5"}, 5) == Path("/run/user/5/kdsrv/pipes")
    assert pipe_directory({"RUNTIME_DIRECTORY": "/run/lab"}, 5) == Path("/run/lab/kdsrv/pipes")
    assert pipe_directory({"XDG_RUNTIME_DIR": "/run/user/5"}, 0) == Path("/run/kdsrv/pipes")
    for uid in (0, 5):
        told = {"KDSRV_PIPE_DIR": "/srv/pipes", "XDG_RUNTIME_DIR": "/run/user/5"}
        assert pipe_directory(told, uid) == Path("/srv/pipes")
    with pytest.raises(SetupError, match="XDG_RUNTIME_DIR is not set"):
        pipe_directory({}, 5)


@pytest.mark.parametrize("host", [".", "localhost", "LOCALHOST", "127.0.0.1", "::1", "lab", "Lab.Example"])
def test_this_host_has_many_names(tmp_path: Path, host: str) -> None:
    with pytest.raises(SetupError, match=r"there is no pipe x in .*is the server running"):
        local_pipe_client(reactor, host, "x", tmp_path, "lab.example")


def test_other_hosts_have_no_pipes_here(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="pipes do not cross hosts here, and 'far' is not this one"):
        local_pipe_client(reactor, "far", "x", tmp_path, "lab.example")
    with pytest.raises(SetupError, match="write the name that the server shows"):
        local_pipe_client(reactor, ".", "x%x", tmp_path, "lab.example")
    with pytest.raises(SetupError, match="too long"):
        local_pipe_client(reactor, ".", "x" * 120, tmp_path, "lab.example")


class Pipes(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.lab = Lab()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.lab.close()))
        self.pipes = self.folder / "kdsrv/pipes"

    async def listen(self, name: str, tls: Any = None) -> tuple[Any, Any]:
        factory = self.lab.factory()
        endpoint: Any = LocalPipe(reactor, name, self.pipes)
        if tls is not None:
            endpoint = tls_server_endpoint(reactor, endpoint, tls)
        port = await endpoint.listen(factory)
        self.lab.ports.append(port)
        return port, factory

    async def dial(self, name: str, tls: Any = None) -> Any:
        endpoint: Any = local_pipe_client(reactor, ".", name, self.pipes, "lab")
        if tls is not None:
            endpoint = tls_client_endpoint(reactor, endpoint, tls)
        return await endpoint.connect(self.lab.factory())

    async def refused(self, name: str) -> str:
        with pytest.raises(SetupError) as refusal:
            await self.listen(name)
        return str(refusal.value)

    async def test_bytes_go_both_ways_and_nobody_else_can_reach_the_socket(self) -> None:
        before = os.umask(0)
        try:
            _, factory = await self.listen("lab")
        finally:
            os.umask(before)
        assert factory.numPorts == 1
        assert stat.S_IMODE(self.pipes.stat().st_mode) == 0o700
        assert stat.S_IMODE((self.pipes / "lab").stat().st_mode) == 0o600
        arrived = factory.arrived
        near = await self.dial("lab")
        far = await arrived
        near.transport.write(b"hello")
        assert await far.got(5) == b"hello"
        far.transport.write(b"x" * 200_000)
        await near.got(200_000)
        near.transport.loseConnection()
        await far.lost
        await self.lab.ports.pop().stopListening()
        assert not (self.pipes / "lab").exists()
        assert factory.numPorts == 0

    async def test_tls_inside(self) -> None:
        identity = issue("lab")
        _, factory = await self.listen("lab", server_tls(identity))
        arrived = factory.arrived
        near = await self.dial("lab", ClientTls(Trust(pins=frozenset({identity.fingerprint}))))
        far = await arrived
        near.transport.write(b"hello")
        assert await far.got(5) == b"hello"
        assert channel_binding(near.transport) == channel_binding(far.transport) is not None

    async def test_the_codes_are_filled_in(self) -> None:
        port, _ = await self.listen("lab_%x_%d")
        name = f"lab_{os.getpid():x}_{threading.get_native_id()}"
        assert os.fsdecode(port.getHost().name) == str(self.pipes / name)
        assert (await self.dial(name)).transport is not None

    async def test_a_name_in_use(self) -> None:
        await self.listen("lab")
        assert await self.refused("lab") == (
            "pipe lab is in use; pipe names are unique, and %x in one stands for the process id"
        )
        await self.dial("lab")

    async def test_a_dead_servers_socket_is_replaced(self) -> None:
        self.pipes.mkdir(mode=0o700, parents=True)
        program = "import socket, sys; s = socket.socket(1); s.bind(sys.argv[1]); s.listen()"
        subprocess.run([sys.executable, "-c", program, str(self.pipes / "lab")], check=True)
        assert (self.pipes / "lab").is_socket()
        with pytest.raises(Exception, match="Connection refused"):
            await self.dial("lab")
        _, factory = await self.listen("lab")
        arrived = factory.arrived
        await self.dial("lab")
        await arrived

    async def test_what_is_no_socket_stays(self) -> None:
        self.pipes.mkdir(mode=0o700, parents=True)
        (self.pipes / "lab").write_text("precious")
        assert "is there and is not a pipe" in await self.refused("lab")
        assert (self.pipes / "lab").read_text() == "precious"
        (self.pipes / "link").symlink_to(self.pipes / "lab")
        assert "is there and is not a pipe" in await self.refused("link")
        with pytest.raises(SetupError, match="there is no pipe"):
            await self.dial("lab")

    async def test_a_directory_open_to_others(self) -> None:
        self.pipes.mkdir(parents=True)
        self.pipes.chmod(0o750)
        assert "is open to other users" in await self.refused("lab")
        with pytest.raises(SetupError, match="is open to other users"):
            await self.dial("lab")

    async def test_a_directory_that_cannot_be_made(self) -> None:
        (self.folder / "kdsrv").write_text("")
        assert "cannot listen on pipe lab in" in await self.refused("lab")
        assert "too long" in await self.refused("x" * 120)

    async def test_another_user_is_not_let_in(self) -> None:
        _, factory = await self.listen("lab")
        strangers = {"uid": 4242}
        self.patch(local_pipes, "peer_uid", lambda _: strangers["uid"])
        near = await self.dial("lab")
        near.transport.write(b"hello")
        await near.lost
        assert factory.made == []
        arrived = factory.arrived
        strangers["uid"] = 0
        near = await self.dial("lab")
        await arrived
        assert len(factory.made) == 1

    async def test_whose_a_connection_is(self) -> None:
        near, far = socket.socketpair()
        with near, far:
            assert peer_uid(near) == os.getuid()
        if os.geteuid() != 0:
            pytest.skip("only root can be somebody else")
        _, factory = await self.listen("lab")
        for folder in (self.folder, self.folder / "kdsrv", self.pipes):
            folder.chmod(0o755)
        (self.pipes / "lab").chmod(0o666)
        program = (
            "import os, socket, sys; os.setuid(65534); s = socket.socket(1); s.connect(sys.argv[1]);"
            "sys.exit(7 + len(s.recv(9)))"
        )
        command = [sys.executable, "-S", "-c", program, str(self.pipes / "lab")]
        assert (await deferToThread(subprocess.run, command, timeout=10)).returncode == 7
        assert factory.made == []

    async def test_a_factory_that_builds_nothing(self) -> None:
        _, factory = await self.listen("lab")
        self.patch(factory, "buildProtocol", lambda addr: None)
        near = await self.dial("lab")
        await near.lost
