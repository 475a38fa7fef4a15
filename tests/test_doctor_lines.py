"""The doctor on real lines: ptys, pipes, sockets and UDP on loopback; and the command as people start it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import tty
from argparse import ArgumentParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, Client, Server, Simulation, run_program, until
from transport_rigs import open_descriptors, pause
from twisted.internet import reactor
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase
from typing_extensions import override

from kdsrv.auth.passwords import Verifier
from kdsrv.auth.users import Role, User, user_line
from kdsrv.commands import doctor as doctor_command
from kdsrv.commands.doctor import configure, run
from kdsrv.commands.string_option import complaint
from kdsrv.connection_strings import FireWireSpec, KdSpec, NetSpec, PipeSpec, SerialSpec, TcpSerialSpec
from kdsrv.doctor import examiner
from kdsrv.doctor.bit_rates import RATES, as_read
from kdsrv.doctor.examiner import examine, find_rate
from kdsrv.doctor.verdicts import Verdict
from kdsrv.kd.packets import PacketType, encode_control
from kdsrv.kdnet.keys import NetKey
from kdsrv.kdnet.target import NetTarget
from kdsrv.sim.faults import FaultRates
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget, TargetState
from kdsrv.transports.opener import Opener
from kdsrv.transports.simulated import LiveTarget
from kdsrv.transports.simulated_net import LiveNetTarget

ANY: Any = reactor
KEY = "1.2.3.4"
SPEEDS = {getattr(termios, f"B{rate}"): rate for rate in RATES}
HOLDER = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY), fcntl.LOCK_EX)
print("held", flush=True)
input()
"""
AS_NOBODY = """
import os, sys
from twisted.internet import reactor
from kdsrv.cli import main
if not os.getuid():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
else:
    os.chmod(sys.argv[2].partition("=")[2].partition(",")[0], 0)
sys.exit(main(sys.argv[1:]))
"""


class Port:
    """A serial port: a pty, at whose other end a simulated target sits that speaks at ``rate``; None: nobody does.

    What it says at another rate is noise, or with ``quiet`` nothing.
    """

    def __init__(self, rate: int | None, options: SimOptions | None = None, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.other, self._port = pty.openpty()
        tty.setraw(self._port)
        os.set_blocking(self.other, False)
        self.name = os.ttyname(self._port)
        self.rate = rate
        self.target = SimulatedTarget(options or SimOptions(), ANY.seconds())
        self._live = LiveTarget(ANY, self.target, FaultRates(), 0)
        self._reading = LoopingCall(self._read)
        if rate is not None:
            self._live.listen(self._say)
            self._reading.start(0.01)

    def close(self) -> None:
        if self._reading.running:
            self._reading.stop()
        self._live.stop()
        os.close(self.other)
        os.close(self._port)

    @property
    def own(self) -> int:
        """The port, as whoever made it has it open."""
        return self._port

    @property
    def _read_at(self) -> int:
        """The rate that whoever opened the port has set."""
        return SPEEDS[termios.tcgetattr(self._port)[4]]

    def _read(self) -> None:
        try:
            data = os.read(self.other, 4096)
        except OSError:
            return
        # what is sent at another rate makes no sense to the target
        if self.rate == self._read_at:
            self._live.feed(data)
        else:
            self._say(encode_control(PacketType.RESET))

    def _say(self, data: bytes) -> None:
        assert self.rate is not None
        if not self.quiet or self.rate == self._read_at:
            os.write(self.other, as_read(data, self.rate, self._read_at, 4096))


class LineTests(TestCase):
    @override
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    async def look(self, spec: KdSpec, total: float = 1.5) -> Verdict:
        await pause()  # the reactor has its own only while it runs
        before = open_descriptors()
        verdict = await examine(reactor, Opener(reactor), spec, total=total)
        await pause(0.01)  # UDP ports are closed in the reactor's next turn
        assert open_descriptors() <= before
        return verdict

    def port(self, rate: int | None, options: SimOptions | None = None, *, quiet: bool = False) -> Port:
        port = Port(rate, options, quiet=quiet)
        self.addCleanup(port.close)
        return port

    async def test_no_such_device(self) -> None:
        verdict = await self.look(SerialSpec("/dev/kdsrv-none", 9600))
        assert verdict.code == "missing"
        assert verdict.sentence.startswith("/dev/kdsrv-none: there is no such device; this host has ")

    async def test_a_device_that_another_program_holds(self) -> None:
        port = self.port(None)
        words = [sys.executable, "-c", HOLDER, port.name]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            verdict = await self.look(SerialSpec(port.name, 9600))
            program = Path(f"/proc/{holder.pid}/comm").read_text().strip()
            holder.communicate(b"\n")
        assert verdict.code == "held"
        # this process has the other end of the port, and holds nothing
        assert verdict.sentence == f"{port.name}: the device is held by {program} (process {holder.pid})"

    async def test_a_device_whose_other_end_alone_is_open_names_that(self) -> None:
        port = self.port(None)
        fcntl.flock(port.own, fcntl.LOCK_EX)
        verdict = await self.look(SerialSpec(port.name, 9600))
        assert verdict.sentence == f"{port.name}: the device is held by this kdsrv itself (process {os.getpid()})"

    async def test_a_silent_port(self) -> None:
        port = self.port(None)
        verdict = await self.look(SerialSpec(port.name, 9600))
        assert (verdict.code, verdict.sentence) == (
            "silent",
            "the line is open and silent: no byte came, whatever was sent",
        )
        assert verdict.evidence[:2] == (
            f"opened: {port.name} at 9600 baud",
            "it is a pseudo terminal, which has no baud rate: any will do",
        )
        assert "baud" not in " ".join(verdict.advice)

    async def test_a_target_at_another_rate(self) -> None:
        port = self.port(57600)
        verdict = await self.look(SerialSpec(port.name, 115200))
        assert verdict.code == "noise"
        assert verdict.sentence.endswith("at 115200 baud they look like KD at 57600")

    async def test_a_target_at_the_right_rate(self) -> None:
        port = self.port(57600)
        verdict = await self.look(SerialSpec(port.name, 57600), 5)
        assert verdict.code == "well-halted"

    async def test_the_rate_of_a_halted_target_is_found_and_soon_if_it_makes_noise(self) -> None:
        port = self.port(38400)
        told: list[str] = []
        assert await find_rate(reactor, Opener(reactor), SerialSpec(port.name, 115200), told.append) == 38400
        assert re.fullmatch(r"115200 baud: \d+ bytes, no KD", told[0])
        assert told[1:] == ["38400 baud: the target speaks KD"]
        assert port.target.state is TargetState.STOPPED

    async def test_the_rate_of_a_running_target_is_found_by_a_break_in_and_it_runs_again(self) -> None:
        port = self.port(57600, SimOptions(state="running"), quiet=True)
        told: list[str] = []
        assert await find_rate(reactor, Opener(reactor), SerialSpec(port.name, 115200), told.append) == 57600
        assert told == ["115200 baud: silence", "57600 baud: the target speaks KD"]
        assert port.target.state is TargetState.RUNNING

    async def test_no_pipe(self) -> None:
        path = str(self.folder / "vm")
        verdict = await self.look(PipeSpec(path))
        assert (verdict.code, verdict.sentence) == (
            "missing",
            f"{path}: there is neither a unix socket of this name nor the two FIFOs NAME.in and NAME.out",
        )

    async def test_a_pipe_that_may_come(self) -> None:
        verdict = await self.look(PipeSpec(str(self.folder / "vm"), reconnect=True))
        assert (verdict.code, verdict.sentence) == ("away", "the line is not there: the pipe is not there")

    async def test_a_unix_socket_on_which_nobody_listens(self) -> None:
        path = str(self.folder / "vm")
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)
        verdict = await self.look(PipeSpec(path))
        assert verdict.sentence == f"{path}: nobody listens on this socket; is the virtual machine running?"

    async def test_a_tcp_port_on_which_nobody_listens(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            number = bound.getsockname()[1]
            verdict = await self.look(TcpSerialSpec("127.0.0.1", number))
        assert (verdict.code, verdict.sentence) == (
            "refused",
            f"127.0.0.1:{number}: nobody listens there; is the virtual machine or the device server running?",
        )

    async def test_kdnet_without_an_offer(self) -> None:
        number = free_udp_port()
        verdict = await self.look(NetSpec(number, KEY), 1.0)
        assert (verdict.code, verdict.sentence) == (
            "net-waiting",
            f"waiting for an OFFER on UDP port {number}",
        )

    async def test_kdnet_with_the_wrong_key(self) -> None:
        number = free_udp_port()
        live = LiveNetTarget(ANY, NetTarget(NetKey.parse("5.6.7.8"), ("127.0.0.1", number), offer_period=0.2))
        self.addCleanup(live.stop)
        verdict = await self.look(NetSpec(number, KEY), 3.0)
        assert verdict.code == "net-wrong-key"
        assert re.fullmatch(
            rf"wrong key\? (an OFFER|\d+ OFFERs) on UDP port {number} did not authenticate, the last from "
            rf"127\.0\.0\.1:{live.address[1]}: compare key= with what bcdedit /dbgsettings shows on the target",
            verdict.sentence,
        )

    async def test_kdnet_with_the_right_key(self) -> None:
        number = free_udp_port()
        live = LiveNetTarget(ANY, NetTarget(NetKey.parse(KEY), ("127.0.0.1", number), offer_period=0.2))
        self.addCleanup(live.stop)
        assert (await self.look(NetSpec(number, KEY), 10.0)).code == "well-halted"

    async def test_kdnet_on_a_running_target_that_is_not_to_be_halted(self) -> None:
        number = free_udp_port()
        options = SimOptions(state="running")
        target = NetTarget(NetKey.parse(KEY), ("127.0.0.1", number), options=options, offer_period=0.2)
        live = LiveNetTarget(ANY, target)
        self.addCleanup(live.stop)
        verdict = await examine(reactor, Opener(reactor), NetSpec(number, KEY), may_break_in=False, total=4.0)
        assert (verdict.code, verdict.sentence) == (
            "well-heard",
            "the line is well as far as it goes: the target is connected, and runs",
        )
        assert live.target.state is TargetState.RUNNING

    async def test_no_firewire(self) -> None:
        if Path("/dev/fw0").exists():
            raise pytest.skip.Exception("this host has FireWire")
        assert (await self.look(FireWireSpec(3))).code == "missing"


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("", 0))
        number: int = bound.getsockname()[1]
        return number


def doctor(*words: str) -> tuple[str, ...]:
    return (*KDSRV, "doctor", *words)


def test_the_command_on_a_target_that_is_well() -> None:
    with Simulation("--pty") as simulation:
        name = simulation.place
        outcome = run_program(doctor(f"com:port={name},baud=57600", "--find-baud"))
    assert outcome.status == 0
    assert re.fullmatch(
        rf"""{name} is a pseudo terminal, which has no baud rate: none is searched for
examining com:port={name},baud=57600, which takes 13 s at the most \.\.\.
verdict: the line is well: the target is halted and answers \(Windows kernel build 17134 on AMD64\)
evidence:
  - opened: {name} at 57600 baud
  - it is a pseudo terminal, which has no baud rate: any will do
  - sent: \d+ bytes
  - came: \d+ bytes; \d+ packets, 1 RESETs, 0 damaged packets, 0 bytes of noise
  - 16 of 16 requests were answered
  - the target was halted before, and still is
what to do:
  - a debugger can have this target: see README.md for how it connects
""",
        outcome.text,
    )


class BaudTests(LineTests):
    """``kdsrv doctor`` where a pty stands for a port that has a rate."""

    async def doctor(self, *words: str, find: bool = True) -> str:
        """What the command says, on both streams."""
        await pause()
        parser = ArgumentParser()
        configure(parser)
        said = StringIO()
        for module in (doctor_command, examiner):
            self.patch(module, "is_pseudo_terminal", lambda port: False)
        self.patch(sys, "stdout", said)
        self.patch(sys, "stderr", said)
        options = parser.parse_args([*words, *(["--find-baud"] if find else []), "--seconds", "1"])
        assert complaint(options, ()) is None
        await run(reactor, options)
        return said.getvalue()

    async def test_a_rate_that_is_found(self) -> None:
        port = self.port(57600, quiet=True)
        said = await self.doctor(f"com:port={port.name}")
        assert said.startswith(
            f"trying all baud rates at {port.name}, which takes 42 s at the most ...\n"
            "19200 baud: silence\n115200 baud: silence\n57600 baud: the target speaks KD\n"
            f"examining com:port={port.name},baud=57600, which takes 1 s at the most ...\n"
        )
        assert f"what to do:\n  - use com:port={port.name},baud=57600\n" in said

    async def test_after_a_search_no_search_is_advised(self) -> None:
        self.patch(doctor_command, "find_rate", nothing_found)
        said = await self.doctor(f"com:port={self.port(None).name}")
        assert "  - no KD at any of the usual baud rates\n" in said
        assert "what to do:\n" in said
        assert "--find-baud" not in said

    async def test_a_rate_that_nobody_gave(self) -> None:
        name = self.port(None).name
        default = "  - no baud= was given: 19200 is a default, which few targets use\n"
        assert default in await self.doctor(f"com:port={name}", find=False)
        assert default not in await self.doctor(f"com:port={name},baud=19200", find=False)


async def nothing_found(*_: object, **__: object) -> None:
    """In the place of a search."""


def test_the_command_at_a_bridge_lets_a_running_target_run_again() -> None:
    with Server() as server, Client(server.string("sim:state=running")) as client:
        host, port = client.bridge
        outcome = run_program(doctor(f"com:port={host},ipport={port}", "--seconds", "5"))
        assert outcome.status == 0, outcome.text
        assert "the line is well: the target halted when asked to, and answers" in outcome.text
        assert "the target was halted for this, and runs again\n" in outcome.text
        assert "halted before" not in outcome.text
        until(lambda: client.events("status")[-1]["run_state"] == "running")


def test_the_command_at_a_bridge_leaves_a_halted_target_halted() -> None:
    with Server() as server, Client(server.string("sim:")) as client:
        host, port = client.bridge
        outcome = run_program(doctor(f"com:port={host},ipport={port}", "--seconds", "5"))
        assert "the target was halted before, and still is\n" in outcome.text
        assert client.events("status")[-1]["run_state"] == "halted"


def test_the_command_at_a_bridge_that_may_only_look(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.touch(mode=0o600)
    users.write_text(f"{user_line(User('jo', Role.READ_ONLY), Verifier.of('a-word', b's' * 16))}\n")
    with (
        Server("--users", str(users)) as server,
        Client(
            f"kdsrv:server=@{{tcp:server=127.0.0.1,port={server.port},password=a-word}},trans=@{{sim:state=running}}",
            *("--tcp", "0", "--user", "jo"),
        ) as client,
    ):
        host, port = client.bridge
        outcome = run_program(doctor(f"com:port={host},ipport={port}", "--seconds", "4"))
        assert outcome.status == 1
        assert "or a bridge of kdsrv connect answers in its place\n" in outcome.text
        assert "halted" not in outcome.text


def test_the_command_as_json_on_a_line_that_is_not() -> None:
    outcome = run_program(doctor("com:port=/dev/kdsrv-none,baud=9600", "--json"))
    assert outcome.status == 1
    verdict = json.loads(outcome.text)
    assert verdict.keys() == {"event", "target", "code", "sentence", "evidence", "advice"}
    assert (verdict["event"], verdict["code"]) == ("verdict", "missing")
    assert verdict["target"] == "com:port=/dev/kdsrv-none,baud=9600"


def test_the_command_without_permission() -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    os.chmod(name, 0o620)
    outcome = run_program((sys.executable, "-c", AS_NOBODY, "doctor", f"com:port={name},baud=9600"))
    os.close(master)
    os.close(slave)
    assert outcome.status == 1
    assert f"verdict: {name}: no permission to open {name}: it belongs to user " in outcome.text


def test_ctrl_c_ends_it_tidily() -> None:
    master, slave = pty.openpty()
    with BackgroundProgram(doctor(f"com:port={os.ttyname(slave)},baud=9600"), cwd=ROOT) as program:
        program.wait_for("examining")
        until(lambda: len(os.read(master, 1)))
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(5) == 1
        program.wait_for("ended before there was a verdict")
        assert "Traceback" not in program.text
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("target:name=lab4",), 1, "what target:name=lab4 stands for only its server knows"),
        (("sim:", "--find-baud"), 1, "--find-baud is for serial ports (com:port=...): other lines have no baud rate"),
        (("com:port=com1", "--seconds", "0"), 2, "0 is not a number of seconds from 1 to 600"),
        (("nonsense:",), 1, "column 1: "),
    ],
)
def test_what_cannot_be_examined(words: tuple[str, ...], status: int, said: str) -> None:
    outcome = run_program(doctor(*words))
    assert outcome.status == status
    assert said in outcome.text
    assert "Traceback" not in outcome.text


def test_a_server_tells_its_client_its_listing_and_its_log() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    string = f"com:port={os.ttyname(slave)},baud=115200"
    noise = as_read(encode_control(PacketType.RESET), 57600, 115200) * 3
    with Server() as server, Client(server.string(string)) as client:
        client.wait_event("attached")
        os.write(master, noise)
        client.wait_event("status", kind="noise", bytes=len(noise), rates=[57600])
        os.write(master, noise)
        client.wait_event("status", kind="noise", bytes=2 * len(noise))
        listing = run_program((*KDSRV, "list", f"tcp:server=127.0.0.1,port={server.port}"))
        assert "bytes came but no KD packet: at 115200 baud they look like KD at 57600" in listing.text
        sentence = f"{string}: {len(noise)} bytes came but no KD packet: at 115200 baud they look like KD at 57600"
        assert server.text.count(sentence) == server.text.count("no KD packet") == 1
    os.close(master)
    os.close(slave)
