"""One rig per medium: a transport at one end and, at the other, a peer that the test drives by hand.

The peer's descriptors are non-blocking, so a test that expects too much fails instead of hanging.
"""

from __future__ import annotations

import fcntl
import gc
import os
import pty
import random
import select
import shutil
import socket
import tempfile
import tty
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from kdsrv.connection_strings.kd import KdSpec, NetSpec, PipeSpec, SerialSpec, TcpSerialSpec
from kdsrv.errors import TargetError
from kdsrv.kdnet.control import ConnectCheck, Offer
from kdsrv.kdnet.datagrams import Channel, Seal
from kdsrv.kdnet.keys import NetKey


def open_descriptors() -> int:
    """How many this process has; those of objects that only wait to be collected do not count."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def pause(seconds: float = 0.002) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    give_up_at = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < give_up_at, "it did not happen"
        await pause()


class StillReactor(Clock):
    """A clock that also keeps who wants to read and write; nothing happens by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[object] = set()
        self.writers: set[object] = set()

    def addReader(self, reader: object) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: object) -> None:
        self.readers.discard(reader)

    def addWriter(self, writer: object) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: object) -> None:
        self.writers.discard(writer)


class Recorder:
    """A receiver that keeps what it is told."""

    def __init__(self, missing: int = 0) -> None:
        self.data = bytearray()
        self.events: list[str] = []
        self.reasons: list[TargetError] = []
        self.missing = missing
        self.on_bytes: Callable[[], object] | None = None
        self.on_resumed: Callable[[], object] | None = None

    def bytes_received(self, data: bytes) -> int:
        self.data += data
        if self.on_bytes is not None:
            self.on_bytes()
        return self.missing

    def transport_interrupted(self, why: str) -> None:
        self.events.append(f"interrupted: {why}")

    def transport_resumed(self) -> None:
        self.events.append("resumed")
        if self.on_resumed is not None:
            self.on_resumed()

    def transport_lost(self, reason: TargetError) -> None:
        self.events.append("lost")
        self.reasons.append(reason)


class Rig:
    """The peer's side. `accept` is called once the transport is open."""

    ended: ClassVar[str]
    keeps_last_words: ClassVar[bool] = True
    """Whether bytes sent right before the peer closes still arrive."""
    spec: KdSpec
    reads_from: int
    writes_to: int

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp()

    def accept(self) -> None:
        pass

    async def settle(self, recorder: Recorder) -> None:
        """Called when the transport has been started: come to the point from which on bytes pass."""

    def write(self, data: bytes) -> int:
        try:
            return os.write(self.writes_to, data)
        except BlockingIOError:
            return 0

    def read(self, seconds: float = 0.0) -> bytes:
        """What has arrived; without a turn of the reactor in between."""
        if not select.select([self.reads_from], [], [], seconds)[0]:
            return b""
        try:
            return os.read(self.reads_from, 65536)
        except OSError:  # a pty whose other end has just closed
            return b""

    async def read_all(self, count: int) -> bytes:
        got = bytearray()

        def complete() -> bool:
            got.extend(self.read())
            return len(got) >= count

        await until(complete)
        return bytes(got)

    async def write_all(self, data: bytes) -> None:
        left = bytearray(data)

        def complete() -> bool:
            del left[: self.write(left)]
            return not left

        await until(complete)

    def close(self) -> None:
        """The peer goes away."""
        for descriptor in {self.reads_from, self.writes_to} - {-1}:
            os.close(descriptor)
        self.reads_from = self.writes_to = -1

    def clean(self) -> None:
        self.close()
        shutil.rmtree(self.folder)


class PtyRig(Rig):
    """A pseudo terminal as the serial port; the peer has the master."""

    ended = "unplugged or its other end closed"
    keeps_last_words = False

    def __init__(self) -> None:
        super().__init__()
        master, slave = pty.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(master, False)
        self.reads_from = self.writes_to = master
        self.spec = SerialSpec(port=self.path, baud=115200)


class SocketRig(Rig):
    ended = "its other end closed"

    def listen(self, listener: socket.socket) -> None:
        listener.listen()
        listener.settimeout(5)
        self.listener: socket.socket | None = listener
        self.reads_from = self.writes_to = -1

    def accept(self) -> None:
        assert self.listener is not None
        connection, _ = self.listener.accept()
        connection.setblocking(False)
        self.reads_from = self.writes_to = connection.detach()

    def close(self) -> None:
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        super().close()


class UnixRig(SocketRig):
    def __init__(self, path: str = "") -> None:
        super().__init__()
        self.path = path or os.path.join(self.folder, "vm")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        self.listen(listener)
        self.spec = PipeSpec(path=self.path)


class TcpRig(SocketRig):
    def __init__(self) -> None:
        super().__init__()
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.listen(listener)
        host, port = listener.getsockname()
        self.spec = TcpSerialSpec(host=host, port=port)


class FifoRig(Rig):
    """As QEMU has it: both FIFOs are opened for reading and writing by the machine."""

    ended = "the virtual machine closed it or went away"

    def __init__(self, path: str = "") -> None:
        super().__init__()
        self.path = path or os.path.join(self.folder, "vm")
        for name in (f"{self.path}.in", f"{self.path}.out"):
            if not os.path.exists(name):
                os.mkfifo(name)
        self.reads_from = os.open(f"{self.path}.in", os.O_RDWR | os.O_NONBLOCK)
        self.writes_to = os.open(f"{self.path}.out", os.O_RDWR | os.O_NONBLOCK)
        self.spec = PipeSpec(path=self.path)


KEY = "1m770ts6ru0p.3671pemyie4i.2b8djy3wt5et.1p99ir125v4q"
OTHER_KEY = "2l00g8c0tt3yx.1xhb5wk2rfhn9.7d8ssprx0bpf.9s3ru6bdjuyt"


def free_udp_port() -> int:
    """One that Windows would take, and that the system gives to nobody else meanwhile."""
    while True:
        port = random.randrange(61000, 65536)
        with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::", port))
            return port


class NetRig(Rig):
    """The target's end of KDNET, by hand: what is written goes out as one datagram of the data channel."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = NetSpec(free_udp_port(), KEY)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.reads_from = self.writes_to = self.socket.fileno()
        self.socket.connect(("127.0.0.1", self.spec.port))
        self.socket.setblocking(False)
        self._key = NetKey.parse(KEY)
        self._sent = 0

    async def settle(self, recorder: Recorder) -> None:
        offer = Offer(bytes(32), ("127.0.0.1", 1), ("127.0.0.1", self.spec.port))
        control = Seal(self._key.control, self._key.mac)
        self.socket.send(control.seal(5, Channel.CONTROL, 3, False, offer.encode()))
        await until(lambda: select.select([self.reads_from], [], [], 0)[0])
        response = control.open(os.read(self.reads_from, 4096))
        assert response is not None
        self._data = Seal(self._key.data_key(response.payload), self._key.mac)
        self.write(ConnectCheck("127.0.0.1").encode())
        await until(lambda: "resumed" in recorder.events)
        recorder.events.clear()

    def write(self, data: bytes) -> int:
        self._sent += 1
        self.socket.send(self._data.seal(5, Channel.DATA, self._sent, False, data))
        return len(data)

    def read(self, seconds: float = 0.0) -> bytes:
        if not select.select([self.reads_from], [], [], seconds)[0]:
            return b""
        datagram = self._data.open(os.read(self.reads_from, 4096))
        assert datagram is not None
        return datagram.payload

    def close(self) -> None:
        self.socket.close()
        self.reads_from = self.writes_to = -1


def closed_on_exec(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
