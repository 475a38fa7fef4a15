"""One body of tests for every medium that carries bytes, then what only one of them has."""

from __future__ import annotations

import grp
import os
import pty
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from transport_rigs import (
    FifoRig,
    NetRig,
    PtyRig,
    Recorder,
    Rig,
    StillReactor,
    TcpRig,
    UnixRig,
    closed_on_exec,
    open_descriptors,
    pause,
    until,
)
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from kdsrv.connection_strings.kd import (
    FireWireSpec,
    KdSpec,
    ModemSpec,
    NetSpec,
    PipeSpec,
    SerialSpec,
    SimSpec,
    TcpSerialSpec,
    UsbSpec,
)
from kdsrv.errors import KdsrvError, TargetError
from kdsrv.transports import devices
from kdsrv.transports.descriptor import MAX_UNSENT, DescriptorTransport
from kdsrv.transports.devices import device_path
from kdsrv.transports.opener import Opener, target_key
from kdsrv.transports.pipe import open_pipe
from kdsrv.transports.serial import open_serial
from kdsrv.transports.transport import Transport

EVERY_BYTE = bytes(range(256))


class TransportCase(TestCase):
    """Counts descriptors around each test and opens through the opener's table."""

    async def setUp(self) -> None:
        await pause(0)  # a reactor at rest has fewer descriptors than one that runs
        self.before = open_descriptors()
        self.opened: list[Transport] = []
        self.rigs: list[Rig] = []
        self.folder = tempfile.mkdtemp()

    def tearDown(self) -> None:
        for transport in self.opened:
            transport.close()
        for rig in self.rigs:
            rig.clean()
        shutil.rmtree(self.folder)
        assert open_descriptors() == self.before

    def rig(self, rig: Rig) -> Rig:
        self.rigs.append(rig)
        return rig

    async def open(self, spec: KdSpec) -> Transport:
        transport = await Opener(reactor).open(spec)
        self.opened.append(transport)
        return transport

    async def refused(self, spec: KdSpec) -> str:
        try:
            await self.open(spec)
        except KdsrvError as error:
            return str(error)
        self.fail("it was opened")


class Medium:
    """What holds for every medium."""

    make_rig: ClassVar[Callable[[], Rig]]

    async def connect(self: Any, missing: int = 0) -> tuple[Rig, Transport, Recorder]:
        rig = self.rig(type(self).make_rig())
        transport = await self.open(rig.spec)
        rig.accept()
        recorder = Recorder(missing)
        transport.start(recorder)
        await rig.settle(recorder)
        return rig, transport, recorder

    async def test_bytes_pass_unchanged_both_ways(self: Any) -> None:
        rig, transport, recorder = await self.connect()
        transport.write(EVERY_BYTE)
        await rig.write_all(EVERY_BYTE)
        assert await rig.read_all(256) == EVERY_BYTE
        await until(lambda: len(recorder.data) >= 256)
        assert bytes(recorder.data) == EVERY_BYTE
        assert recorder.events == []

    async def test_a_write_is_out_when_it_returns(self: Any) -> None:
        rig, transport, _ = await self.connect()
        transport.write(b"now")
        assert rig.read(seconds=2.0) == b"now"

    async def test_bytes_pass_one_at_a_time(self: Any) -> None:
        rig, transport, recorder = await self.connect(missing=100)
        for value in EVERY_BYTE:
            transport.write(bytes([value]))
            rig.write(bytes([value]))
            await pause(0)
        assert await rig.read_all(256) == EVERY_BYTE
        await until(lambda: len(recorder.data) >= 256)
        assert bytes(recorder.data) == EVERY_BYTE

    async def test_closing_is_silent_and_final(self: Any) -> None:
        rig, transport, recorder = await self.connect()
        transport.close()
        transport.close()
        transport.write(b"late")
        assert rig.read(seconds=0.05) == b""
        rig.close()
        await pause(0.02)
        assert (bytes(recorder.data), recorder.events) == (b"", [])

    async def test_a_receiver_may_close(self: Any) -> None:
        rig, transport, recorder = await self.connect(missing=100)
        recorder.on_bytes = transport.close
        rig.write(b"x")
        await until(lambda: recorder.data)
        await pause(0.02)
        assert recorder.events == []

    async def test_an_error_in_the_receiver_ends_this_line_only(self: Any) -> None:
        rig, _, recorder = await self.connect()
        recorder.on_bytes = lambda: 1 // 0
        rig.write(b"x")
        await until(lambda: recorder.events)
        await pause(0.02)
        assert recorder.events == ["lost"]
        assert "error inside kdsrv: ZeroDivisionError" in str(recorder.reasons[0])
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1


class Stream(Medium):
    """What holds for those that are streams of bytes, with an end."""

    async def test_much_passes_in_order(self: Any) -> None:
        rig, transport, recorder = await self.connect()
        much = os.urandom(MAX_UNSENT)
        transport.write(much)
        assert await rig.read_all(len(much)) == much
        await rig.write_all(much)
        await until(lambda: len(recorder.data) >= len(much))
        assert bytes(recorder.data) == much
        transport.write(b"then")
        assert rig.read(seconds=2.0) == b"then"

    async def test_writes_behind_unsent_bytes_keep_their_order(self: Any) -> None:
        rig, transport, recorder = await self.connect()
        blocked = _write_until_blocked(transport) - len(head := rig.read())
        transport.write(b"first")
        transport.write(b"second")
        assert head
        got = await rig.read_all(blocked + 11)
        assert got[-11:] == b"firstsecond"
        assert recorder.events == []

    async def test_the_peer_goes_while_idle(self: Any) -> None:
        rig, transport, recorder = await self.connect()
        rig.close()
        await until(lambda: recorder.events, 1.0)
        await pause(0.05)
        assert recorder.events == ["lost"]
        assert str(recorder.reasons[0]) == f"{transport.description}: the link is lost: {rig.ended}"
        transport.write(b"into nothing")

    async def test_the_peer_goes_while_it_is_sent_to(self: Any) -> None:
        rig, transport, recorder = await self.connect()
        _write_until_blocked(transport)
        rig.close()
        transport.write(b"more")
        assert recorder.events == []
        await until(lambda: recorder.events, 1.0)
        await pause(0.05)
        assert recorder.events == ["lost"]
        assert rig.ended in str(recorder.reasons[0])

    async def test_the_peer_goes_while_it_sends(self: Any) -> None:
        rig, _, recorder = await self.connect()
        rig.write(EVERY_BYTE)
        rig.close()
        await until(lambda: recorder.events, 1.0)
        assert recorder.events == ["lost"]
        if rig.keeps_last_words:
            assert bytes(recorder.data) == EVERY_BYTE

    async def test_a_peer_that_never_reads_is_given_up(self: Any) -> None:
        _, transport, recorder = await self.connect()
        _overfill(transport)
        assert recorder.events == []
        await until(lambda: recorder.events, 1.0)
        assert recorder.events == ["lost"]
        assert "does not take bytes" in str(recorder.reasons[0])

    async def test_closing_does_not_wait_for_a_peer_that_never_reads(self: Any) -> None:
        _rig, transport, recorder = await self.connect()
        _write_until_blocked(transport)
        transport.write(bytes(4096))
        begin = time.monotonic()
        transport.close()
        assert time.monotonic() - begin < 0.5
        await pause(0.05)
        assert recorder.events == []

    async def test_a_loss_that_is_not_yet_told_is_not_told_after_closing(self: Any) -> None:
        _, transport, recorder = await self.connect()
        _overfill(transport)
        transport.close()
        await pause(0.02)
        assert recorder.events == []

    async def test_nothing_is_delivered_before_the_start(self: Any) -> None:
        rig = self.rig(type(self).make_rig())
        transport = await self.open(rig.spec)
        rig.accept()
        rig.write(b"early")
        await pause(0.02)
        recorder = Recorder()
        transport.start(recorder)
        await until(lambda: recorder.data)
        assert bytes(recorder.data) == b"early"

    async def test_a_loss_before_the_start_is_told_after_it(self: Any) -> None:
        rig = self.rig(type(self).make_rig())
        transport = await self.open(rig.spec)
        rig.accept()
        _overfill(transport)
        await pause(0.02)
        recorder = Recorder()
        transport.start(recorder)
        assert recorder.events == []
        await until(lambda: recorder.events)
        assert recorder.events == ["lost"]

    async def test_waking_up_for_nothing_is_no_loss(self: Any) -> None:
        _, transport, recorder = await self.connect()
        transport.doRead()
        transport.doWrite()
        assert recorder.events == []

    async def test_descriptors_do_not_reach_child_processes(self: Any) -> None:
        _, transport, _ = await self.connect()
        assert closed_on_exec(transport.fileno())


def _write_until_blocked(transport: Transport) -> int:
    """Write until the system takes no more; the number of bytes written."""
    assert isinstance(transport, DescriptorTransport)
    written = 0
    while not transport._unsent:
        transport.write(bytes(4096))
        written += 4096
    return written


def _overfill(transport: Transport) -> None:
    _write_until_blocked(transport)
    for _ in range(MAX_UNSENT // 4096 + 1):
        transport.write(bytes(4096))


class SerialMediumTests(Stream, TransportCase):
    make_rig = PtyRig


class UnixMediumTests(Stream, TransportCase):
    make_rig = UnixRig


class FifoMediumTests(Stream, TransportCase):
    make_rig = FifoRig


class TcpMediumTests(Stream, TransportCase):
    make_rig = TcpRig


class NetMediumTests(Medium, TransportCase):
    make_rig = NetRig


class SerialTests(TransportCase):
    """Serial ports."""

    async def test_bytes_of_an_earlier_conversation_are_thrown_away(self) -> None:
        rig = self.rig(PtyRig())
        rig.write(b"old")
        recorder = Recorder()
        (await self.open(rig.spec)).start(recorder)
        rig.write(b"new")
        await until(lambda: recorder.data)
        await pause(0.02)
        assert bytes(recorder.data) == b"new"

    async def test_a_second_opening_names_this_process(self) -> None:
        rig = self.rig(PtyRig())
        transport = await self.open(rig.spec)
        sentence = await self.refused(rig.spec)
        assert f"held by this kdsrv itself (process {os.getpid()})" in sentence
        transport.close()
        await self.open(rig.spec)

    async def test_another_holder_is_named(self) -> None:
        rig = self.rig(PtyRig())
        program = "import fcntl, sys; port = open(sys.argv[1], 'rb', buffering=0); fcntl.flock(port, fcntl.LOCK_EX); "
        program += "print(flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", program, rig.path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdout.readline()
            sentence = await self.refused(rig.spec)
            holder.stdin.close()
        assert "is held by python" in sentence
        assert f"(process {holder.pid})" in sentence

    async def test_speed_is_described_and_paced(self) -> None:
        rig = self.rig(PtyRig())
        transport = open_serial(reactor, rig.path, 250_000)
        self.opened.append(transport)
        assert transport.description == f"{rig.path} at 250000 baud"
        assert transport.byte_time == pytest.approx(40e-6)

    async def test_a_baud_rate_that_cannot_be(self) -> None:
        rig = self.rig(PtyRig())
        for baud in (0, -1, 1 << 40):
            with pytest.raises(TargetError):
                open_serial(reactor, rig.path, baud)

    async def test_no_permission_names_owner_and_cure(self) -> None:
        rig = self.rig(PtyRig())
        group = next(each for each in grp.getgrall() if each.gr_gid not in {os.getegid(), *os.getgroups()})
        owners = f"no permission to open {rig.path}: it belongs to user root and group {group.gr_name}"
        os.chown(rig.path, 0, group.gr_gid)
        cures = {0o660: f"add yourself to group {group.gr_name} (", 0o600: "its mode 0600 lets only that user in"}
        for mode, cure in cures.items():
            os.chmod(rig.path, mode)
            os.seteuid(65534)
            try:
                sentence = await self.refused(rig.spec)
            finally:
                os.seteuid(0)
            assert f"{owners}; {cure}" in sentence

    if os.geteuid() != 0:
        test_no_permission_names_owner_and_cure.skip = "gives up root's rights, so has to have them"  # type: ignore[attr-defined]

    async def test_what_is_not_a_serial_port(self) -> None:
        self.patch(devices.list_ports, "comports", list)
        regular = os.path.join(self.folder, "regular")
        with open(regular, "w"):
            pass
        with UnixRigContext() as unix:
            table = [
                (regular, "this is a regular file, not a serial port"),
                (self.folder, "this is a directory, not a serial port"),
                (f"{self.folder}/none", "there is no such device; this host has no serial ports"),
                (f"{regular}/beneath", "there is no such device"),
                ("/dev/null", "this device is not a serial port"),
                ("/dev/ptmx", "this device is not a serial port"),
                ("/dev/tty", "this device is not a serial port"),
                (unix.path, f"this is a pipe, not a serial port; write com:pipe,port={unix.path}"),
                ("com0", "com0: there is no such port, COM1 is the first; this host has no serial ports"),
                ("0", "0: there is no such port, COM1 is the first"),
                ("com77", "com77: it means /dev/ttyS76 here, and there is no such device"),
                (r"\\.\com77", r"\\.\com77: it means /dev/ttyS76 here, and there is no such device"),
                ("bad\0name", "it cannot be set up"),
            ]
            for port, words in table:
                assert words in await self.refused(SerialSpec(port=port, baud=9600))

    async def test_a_missing_port_says_what_there_is(self) -> None:
        ports = [_Port(f"/dev/ttyUSB{number}") for number in range(10)]
        self.patch(devices.list_ports, "comports", lambda: ports)
        sentence = await self.refused(SerialSpec(port="/dev/ttyUSB99", baud=9600))
        assert "this host has /dev/ttyUSB0, /dev/ttyUSB1," in sentence
        assert sentence.endswith(" and 2 more")

    def test_names_of_ports(self) -> None:
        table = [("com1", 0), ("COM3", 2), (r"\\.\com12", 11), ("4", 3)]
        for name, number in table:
            assert device_path(name) == f"/dev/ttyS{number}"
        assert device_path("/dev/serial/by-id/x") == "/dev/serial/by-id/x"


class _Port:
    def __init__(self, device: str) -> None:
        self.device = device


class UnixRigContext:
    def __enter__(self) -> UnixRig:
        self.rig = UnixRig()
        return self.rig

    def __exit__(self, *_: object) -> None:
        self.rig.clean()


class PaceTests(SynchronousTestCase):
    """Few wake-ups on a slow line, no delay on one that only claims to be slow."""

    def setUp(self) -> None:
        self.still = StillReactor()
        self.still.advance(1000.0)
        self.rig = PtyRig()
        self.line = open_serial(self.still, self.rig.path, 115200)
        self.recorder = Recorder(missing=4000)
        self.line.start(self.recorder)
        self.addCleanup(self.rig.clean)
        self.addCleanup(self.line.close)

    def wake(self, after: float, count: int) -> bool:
        """``count`` bytes are there ``after`` seconds; whether the line is still being read afterwards."""
        self.still.advance(after)
        self.rig.write(bytes(count))
        assert self.line in self.still.readers
        self.line.doRead()
        return self.line in self.still.readers

    def test_a_paced_line_rests_in_the_middle_of_a_packet(self) -> None:
        assert self.wake(after=1.0, count=8)
        assert not self.wake(after=0.001, count=11)
        self.still.advance(0.0199)
        assert self.line not in self.still.readers
        self.still.advance(0.0002)
        assert not self.wake(after=0.0005, count=235)

    def test_the_rest_ends_before_the_packet_does(self) -> None:
        self.recorder.missing = 100
        self.wake(after=1.0, count=8)
        assert not self.wake(after=0.001, count=11)
        self.still.advance(100 / 11520 - 0.0009)
        assert self.line in self.still.readers

    def test_no_rest_between_packets_or_at_the_end_of_one(self) -> None:
        self.wake(after=1.0, count=8)
        for missing in (0, 1, 20):
            self.recorder.missing = missing
            assert self.wake(after=0.001, count=11)

    def test_a_line_faster_than_it_claims_never_rests(self) -> None:
        assert self.wake(after=1.0, count=16)
        assert self.wake(after=0.0001, count=4000)
        for _ in range(20):
            assert self.wake(after=5e-05, count=1)
        assert self.wake(after=0.025, count=2000)

    def test_a_silence_is_no_evidence_of_a_slow_line(self) -> None:
        for silence in (0.003, 0.010, 0.025, 1.0):
            assert self.wake(after=silence, count=16)

    def test_closing_at_rest_leaves_no_timer(self) -> None:
        self.wake(after=1.0, count=8)
        assert not self.wake(after=0.001, count=11)
        self.line.close()
        assert self.still.getDelayedCalls() == []

    def test_closing_before_a_loss_is_told_leaves_no_timer(self) -> None:
        _overfill(self.line)
        assert len(self.still.getDelayedCalls()) == 1
        self.line.close()
        assert self.still.getDelayedCalls() == []

    def test_a_hang_up_at_rest_is_noticed_after_it(self) -> None:
        self.wake(after=1.0, count=8)
        assert not self.wake(after=0.001, count=11)
        self.rig.close()
        self.still.advance(0.020)
        self.line.doRead()
        assert self.recorder.events == ["lost"]


class PipeTests(TransportCase):
    """Unix sockets and FIFO pairs."""

    async def test_a_fifo_pair_starts_without_old_bytes(self) -> None:
        rig = self.rig(FifoRig())
        rig.write(b"old" * 5000)
        recorder = Recorder()
        (await self.open(rig.spec)).start(recorder)
        rig.write(b"new")
        await until(lambda: recorder.data)
        assert bytes(recorder.data) == b"new"

    async def test_a_socket_keeps_the_first_packet_of_a_boot(self) -> None:
        rig = self.rig(UnixRig())
        transport = await self.open(rig.spec)
        rig.accept()
        rig.write(b"hello")
        recorder = Recorder()
        transport.start(recorder)
        await until(lambda: recorder.data)
        assert bytes(recorder.data) == b"hello"

    async def test_a_fifo_pair_has_one_reader(self) -> None:
        rig = self.rig(FifoRig())
        await self.open(rig.spec)
        assert f"{rig.path}.out is held by this kdsrv itself" in await self.refused(rig.spec)

    def test_a_machine_that_reads_after_a_second_is_waited_for(self) -> None:
        still = StillReactor()
        rig = self.rig(FifoRig())
        rig.close()
        opening = Deferred.fromCoroutine(open_pipe(still, rig.path))
        still.pump([0.1] * 10)
        self.assertNoResult(opening)
        again = self.rig(FifoRig(rig.path))
        still.advance(0.1)
        self.opened.append(self.successResultOf(opening))
        again.close()

    def test_a_machine_that_never_reads_is_named(self) -> None:
        still = StillReactor()
        rig = self.rig(FifoRig())
        rig.close()
        opening = Deferred.fromCoroutine(open_pipe(still, rig.path))
        still.pump([0.1] * 22)
        sentence = str(self.failureResultOf(opening, TargetError).value)
        assert f"nobody reads {rig.path}.in; is the virtual machine running?" in sentence

    def test_waiting_can_be_cancelled(self) -> None:
        still = StillReactor()
        rig = self.rig(FifoRig())
        rig.close()
        opening = Deferred.fromCoroutine(open_pipe(still, rig.path))
        opening.cancel()
        self.failureResultOf(opening)
        assert still.getDelayedCalls() == []

    async def test_a_socket_with_a_full_queue_is_waited_for(self) -> None:
        still = StillReactor()
        path = os.path.join(self.folder, "full")
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
            listener.bind(path)
            listener.listen(0)
            other.connect(path)
            opening = Deferred.fromCoroutine(open_pipe(still, path))
            still.pump([0.1] * 22)
            assert "it accepts nobody" in str(self.failureResultOf(opening, TargetError).value)

    async def test_what_is_not_a_pipe(self) -> None:
        in_folder = lambda name: os.path.join(self.folder, name)  # noqa: E731
        with open(in_folder("regular"), "w"):
            pass
        os.mkfifo(in_folder("one"))
        os.mkfifo(in_folder("odd.in"))
        with open(in_folder("odd.out"), "w"):
            pass
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(in_folder("dead"))
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        datagrams.bind(in_folder("datagrams"))
        self.addCleanup(datagrams.close)
        table = [
            (in_folder("regular"), "this is a regular file, not a unix socket"),
            (self.folder, "this is a directory, not a unix socket"),
            ("/dev/null", "this is a device, not a pipe; a serial port or terminal is written com:port=/dev/null"),
            (in_folder("one"), "one FIFO carries one direction only"),
            (in_folder("odd"), f"{in_folder('odd.out')} is not a FIFO"),
            (in_folder("none"), "there is neither a unix socket of this name nor the two FIFOs NAME.in and NAME.out"),
            (in_folder("dead"), "nobody listens on this socket; is the virtual machine running?"),
            (in_folder("datagrams"), "this is a unix socket, but not a stream socket"),
            (r"\\.\pipe\com_1", "on this host a virtual machine's pipe is a unix socket or a FIFO pair"),
            (in_folder("regular/beneath"), "no way to this pipe: Not a directory"),
        ]
        for path, words in table:
            assert f"{path}: {words}" in await self.refused(PipeSpec(path=path))
        datagrams.close()


class ReconnectTests(TransportCase):
    """Pipes with ``reconnect``."""

    async def start(self, path: str) -> tuple[Transport, Recorder]:
        transport = await self.open(PipeSpec(path=path, reconnect=True))
        recorder = Recorder()
        transport.start(recorder)
        return transport, recorder

    async def test_a_pipe_that_appears_later(self) -> None:
        path = os.path.join(self.folder, "vm")
        transport, recorder = await self.start(path)
        assert recorder.events == []
        transport.write(b"dropped")
        await until(lambda: recorder.events)
        assert recorder.events == ["interrupted: the pipe is not there"]
        rig = self.rig(UnixRig(path))
        recorder.on_resumed = lambda: transport.write(b"hello")
        await until(lambda: len(recorder.events) > 1)
        assert recorder.events[1:] == ["resumed"]
        rig.accept()
        assert await rig.read_all(5) == b"hello"

    async def test_a_socket_that_goes_and_comes_back(self) -> None:
        path = os.path.join(self.folder, "vm")
        await self._goes_and_comes_back(path, lambda: UnixRig(path), lambda: os.unlink(path))

    async def test_a_fifo_pair_whose_machine_goes_and_comes_back(self) -> None:
        path = os.path.join(self.folder, "vm")
        await self._goes_and_comes_back(path, lambda: FifoRig(path), lambda: None)

    async def _goes_and_comes_back(self, path: str, make: Callable[[], Rig], remove: Callable[[], None]) -> None:
        rig = self.rig(make())
        transport, recorder = await self.start(path)
        rig.accept()
        rig.write(b"one")
        await until(lambda: recorder.data == b"one")
        rig.close()
        remove()
        await until(lambda: recorder.events)
        assert recorder.events == [f"interrupted: {rig.ended}"]
        again = self.rig(make())
        await until(lambda: len(recorder.events) > 1)
        again.accept()
        again.write(b"two")
        transport.write(b"three")
        assert await again.read_all(5) == b"three"
        await until(lambda: recorder.data == b"onetwo")
        assert recorder.events[1:] == ["resumed"]

    async def test_closing_ends_the_waiting(self) -> None:
        transport, recorder = await self.start(os.path.join(self.folder, "never"))
        await until(lambda: recorder.events)
        transport.close()
        transport.close()
        transport.write(b"late")
        assert len(recorder.events) == 1

    async def test_closing_ends_a_try_that_is_under_way(self) -> None:
        rig = self.rig(FifoRig())
        transport, recorder = await self.start(rig.path)
        rig.close()
        await until(lambda: recorder.events)
        await pause(0.15)
        transport.close()

    async def test_an_error_in_the_receiver_is_not_an_interruption(self) -> None:
        rig = self.rig(UnixRig())
        _, recorder = await self.start(rig.path)
        rig.accept()
        recorder.on_bytes = lambda: 1 // 0
        rig.write(b"x")
        await until(lambda: recorder.events)
        await pause(0.15)
        assert recorder.events == ["lost"]
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    async def test_an_error_at_the_return_ends_it(self) -> None:
        path = os.path.join(self.folder, "vm")
        _, recorder = await self.start(path)
        recorder.on_resumed = lambda: 1 // 0
        await until(lambda: recorder.events)
        self.rig(UnixRig(path))
        await until(lambda: "lost" in recorder.events)
        await pause(0.15)
        assert recorder.events[1:] == ["resumed", "lost"]
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    async def test_a_name_that_can_never_be_a_pipe_is_refused(self) -> None:
        spec = PipeSpec(path=self.folder, reconnect=True)
        assert "this is a directory" in await self.refused(spec)


class TcpTests(TransportCase):
    """Serial ports behind TCP."""

    async def test_the_socket_is_set_up_for_request_and_reply(self) -> None:
        rig = self.rig(TcpRig())
        with capturedLogs() as logged:
            transport = await self.open(rig.spec)
        assert [event for event in logged if "factory" in event] == []
        rig.accept()
        assert isinstance(transport, DescriptorTransport)
        with socket.socket(fileno=os.dup(transport.fileno())) as view:
            assert view.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert view.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert view.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)

    async def test_nobody_listens(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            sentence = await self.refused(TcpSerialSpec(host="127.0.0.1", port=port))
        assert sentence.startswith(f"127.0.0.1:{port}: nobody listens there")

    async def test_names_that_are_none(self) -> None:
        for host in ("a" * 70 + ".example", "x..y"):
            sentence = await self.refused(TcpSerialSpec(host=host, port=1))
            assert f"{host}:1: " in sentence


class OpenerTests(SynchronousTestCase):
    """The table of media."""

    def test_media_that_are_not_supported_are_named(self) -> None:
        table: list[tuple[KdSpec, str]] = [
            (ModemSpec(), "modem"),
            (UsbSpec(targetname="lab"), "USB (usb:, usb2:)"),
        ]
        for spec, name in table:
            failure = self.failureResultOf(Opener(None).open(spec), KdsrvError)
            assert str(failure.value) == f"{name} targets are not supported by this version of kdsrv"

    def test_simulated_targets_come_from_their_source(self) -> None:
        spec = SimSpec(name="one")
        opener = Opener(None, simulated=_Source())
        assert self.successResultOf(opener.open(spec)) == spec
        failure = self.failureResultOf(Opener(None).open(spec), KdsrvError)
        assert str(failure.value) == "this server does not offer sim: targets"

    def test_one_device_has_one_key(self) -> None:
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        self.addCleanup(os.close, slave)
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        link = os.path.join(folder, "by-id")
        os.symlink(os.ttyname(slave), link)
        same: list[tuple[KdSpec, KdSpec]] = [
            (SerialSpec(port=link, baud=1), SerialSpec(port=os.ttyname(slave), baud=2)),
            (SerialSpec(port="com2"), SerialSpec(port="/dev/ttyS1")),
            (SerialSpec(port=r"\\.\COM2"), SerialSpec(port="/dev/ttyS1")),
            (PipeSpec(path=f"{folder}/./vm"), PipeSpec(path=f"{folder}/vm", reconnect=True)),
            (TcpSerialSpec(host="Lab", port=5), TcpSerialSpec(host="lab", port=5)),
            (TcpSerialSpec(host="LocalHost", port=5), TcpSerialSpec(host="127.0.0.1", port=5)),
            (TcpSerialSpec(host="::1", port=6), TcpSerialSpec(host="localhost", port=6)),
            (TcpSerialSpec(host="fe80::1", port=5), TcpSerialSpec(host="FE80:0::1", port=5)),
            (SimSpec(name="a"), SimSpec(name="a", cpus=4)),
            (FireWireSpec(1), FireWireSpec(1, "channel")),
            (NetSpec(port=50000, key="a.2.3.4"), NetSpec(port=50000, key="0A.2.3.4", target="lab")),
            (NetSpec(port=50000, key="b.2.3.4"), NetSpec(port=50000, key="b.2.3.4")),
            (NetSpec(port=50001, key="a.2.3.4"), NetSpec(port=50001, key="a.2.3.4")),
        ]
        for one, other in same:
            assert target_key(one) == target_key(other)
        keys = {target_key(one) for one, _ in same}
        assert len(keys) == len(same) - 1
        assert "2.3.4" not in "".join(keys)


class _Source:
    def open(self, spec: SimSpec) -> Any:
        return succeed(spec)
