"""Everything a user can get wrong on a command line, with real programs: one sentence, a status, no traceback.

The programs run beside each other; a test looks at how its own one ended.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from running_programs import KDSRV, ROOT, TWIST, TWISTD, Outcome, Server, fake_server, run_each, run_program

from kdsrv.wire.frames import FrameKind, encode
from kdsrv.wire.messages import Failure, ServerHello
from kdsrv.wire.messages import encode as encode_message

PARALLEL = 2
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")

# What is in {braces} is filled in. The status is that of Twisted for a wrong option of a server (64,
# and 1 under twistd), 2 for a wrong option of `kdsrv`, and 1 for what turned out to be impossible.
TWIST_LINES: dict[str, tuple[int, str]] = {
    "--listen tcp:http": (64, "Error: kdsrv: --listen: 'tcp:http' is not a Twisted endpoint"),
    "--listen tcp:0 more": (64, "Error: kdsrv: 'more' belongs to no option"),
    "-t tcp:prt=1": (64, "see twist kdsrv --help"),
    "--listen tcp:{busy}:interface=127.0.0.1": (
        1,
        "kdsrv: the server cannot listen: 127.0.0.1:{busy}: Address already in use",
    ),
    "--no-password --listen tcp:0:interface=192.0.2.1": (
        1,
        "kdsrv: the server cannot listen: 192.0.2.1:0: Cannot assign requested address",
    ),
    "--listen unix:{long}": (1, "kdsrv: the server cannot listen: {long}: AF_UNIX path too long"),
    "--listen unix:{socket}": (1, "kdsrv: the server cannot listen: {socket}: Address already in use"),
    "--bridge listen=@{{tcp:{busy}}},trans=@{{sim:}}": (
        1,
        "kdsrv: the bridge cannot listen on 127.0.0.1:{busy}: Address already in use",
    ),
    "--bridge listen=@{{unix:{long}}},trans=@{{sim:}}": (1, "the unix socket {long}: AF_UNIX path too long"),
    "--bridge listen=@{{unix:{socket}}},trans=@{{sim:}}": (1, "the unix socket {socket}: Address already in use"),
}
TWISTD_LINES: dict[str, tuple[int, str]] = {
    "-n kdsrv --listen tcp:http": (1, "kdsrv: --listen: 'tcp:http' is not a Twisted endpoint"),
    "-n kdsrv --listen tcp:https": (1, "see twistd kdsrv --help"),
    "-n kdsrv --listen tcp:{busy}:interface=127.0.0.1": (
        1,
        "kdsrv: the server cannot listen: 127.0.0.1:{busy}: Address already in use",
    ),
    "kdsrv --listen tcp:{busy}:interface=127.0.0.1": (
        1,
        "kdsrv: the server cannot listen: 127.0.0.1:{busy}: Address already in use",
    ),
}
CONNECT = "connect --tcp 0 --no-reconnect -k kdsrv:server=@{{tcp:server=127.0.0.1,port={port}}},trans=@{{"
SAYS = "kdsrv: the server says: "
TORN = "your shell took the connection string apart; put it in single quotes"
KDSRV_LINES: dict[str, tuple[int, str]] = {
    "": (2, "COMMAND"),
    "conect": (2, "'conect' (choose from"),
    "connect": (2, "kdsrv connect: "),
    "doctor": (2, "kdsrv doctor: "),
    "watch --json": (2, '{{"event": "error", "code": "usage", "message": "the following arguments are required:'),
    "-QR": (2, "kdsrv: -QR needs a host: kdsrv -QR HOST"),
    "connect --take steal": (2, "invalid choice: 'steal' (choose from 'ask', 'force')"),
    "connect --on-leave run": (2, "invalid choice: 'run' (choose from 'stay', 'continue')"),
    "connect --udp 1 -k x": (2, "--udp"),
    "connect -k kdsrv:server=@tcp:server=lab kdsrv:server=@port=1,password=TORN --tcp 0": (2, TORN),
    "connect kdsrv:server=@tcp:server=lab --tcp 0 kdsrv:server=@password=TORN": (2, TORN),
    "list tcp:server=lab, port=1,password=TORN": (2, TORN),
    "end --user jo -k tcp:server=lab, port=1, password=TORN": (2, TORN),
    "kdsrv:server=@{{tcp:server=lab,port=1,password=TORN}}": (2, "needs a command before it: kdsrv connect -k"),
    "list": (2, "STRING, or -k STRING"),
    "list lab:1234": (1, "kdsrv: a connection string begins with a transport: write tcp:server=lab,port=1234"),
    "list -k tcp:1234": (1, "kdsrv: column "),
    "list -k kdsrv:server=@{{tcp:server=127.0.0.1,port={nobody}}}": (1, "127.0.0.1:{nobody}: nobody listens there"),
    "end kdsrv:server=@{{tcp:server=127.0.0.1,port={nobody}}}": (1, "127.0.0.1:{nobody}: nobody listens there"),
    "list tcp:server=127.0.0.1,port={nobody} --json": (
        1,
        '{{"event": "error", "code": "unreachable", "message": "cannot',
    ),
    "end tcp:server=127.0.0.1,port={nobody} --json": (
        1,
        '{{"event": "error", "code": "unreachable", "message": "cannot',
    ),
    "demo --onec": (2, "--onec"),
    "sim": (2, "--pty --unix --tcp --fifo"),
    "sim --pty --unix x": (2, "not allowed with argument --pty"),
    "sim --pty --state broken": (2, "'broken' (choose from"),
    "sim --pty --cpus 65": (2, "kdsrv: a target has 1 to 64 processors, not 65"),
    "sim --pty --loss 1.5": (2, "kdsrv: "),
    "sim --pty --print-every -1": (2, "kdsrv sim: argument --print-every: '-1' is no number of seconds (see kdsrv sim"),
    "sim --pty --cpus two": (2, "kdsrv sim: argument --cpus: 'two' is no number (see kdsrv sim --help)"),
    "sim --pty --cpus 1.5": (2, "kdsrv sim: argument --cpus: '1.5' is no whole number"),
    "sim --tcp nowhere": (2, "nowhere is not [HOST:]PORT"),
    "sim --tcp {busy}": (1, "kdsrv: cannot listen on 127.0.0.1:{busy}: Address already in use"),
    "sim --unix {file}.in": (1, "kdsrv: cannot listen on {file}.in: something that is no socket is there already"),
    "sim --unix {long}": (1, "kdsrv: cannot listen on {long}"),
    "sim --fifo {file}": (1, "{file}.in is there already and is no FIFO"),
    "connect -k tcp:server=lab,port=1": (1, "kdsrv: column 1: "),
    "connect -k kdsrv:server=@{{tcp:server=127.0.0.1,port={nobody}}},trans=@{{sim:}}": (
        1,
        "kdsrv: cannot connect to the server at 127.0.0.1:{nobody}: nobody listens there",
    ),
    "connect -k kdsrv:server=@{{tcp:server=no.such.invalid,port=1}},trans=@{{sim:}}": (
        1,
        "there is no host of that name",
    ),
    "connect -k kdsrv:server=@{{1394:channel=5}},trans=@{{sim:}}": (1, "kdsrv: 1394: is not offered by this version"),
    "connect -k kdsrv:server=@{{ssl:server=lab,port=1,certuser=lab}},trans=@{{sim:}}": (
        1,
        "kdsrv: 'lab' is neither a file nor a sha256 fingerprint",
    ),
    "connect -k kdsrv:server=@{{npipe:server=far,pipe=x}},trans=@{{sim:}}": (
        1,
        "kdsrv: pipes do not cross hosts here, and 'far' is not this one",
    ),
    "connect -k kdsrv:server=@{{tcp:server=127.0.0.1,port={newer}}},trans=@{{sim:}}": (
        1,
        "speaks version 1 of the kdsrv protocol and the server version 9",
    ),
    "connect -k kdsrv:server=@{{tcp:server=127.0.0.1,port={refusing}}},trans=@{{sim:}}": (
        1,
        SAYS + "come back with version 9",
    ),
    "connect -k kdsrv:server=@{{tcp:server=127.0.0.1,port={http}}},trans=@{{sim:}}": (1, "an HTTP response"),
    "connect -k kdsrv:server=@{{tcp:server=127.0.0.1,port={closing}}},trans=@{{sim:}}": (
        1,
        "it closed the connection before it said hello: is it a kdsrv server, and does it want tcp: or ssl:?",
    ),
    CONNECT + "sim:state=broken}}": (1, "the value must be halted or running or boot"),
    CONNECT + "sim:name=a}} --tcp nowhere": (1, "kdsrv: --tcp: 'nowhere' is not [HOST:]PORT"),
    CONNECT + "sim:name=b}} --tcp {busy}": (1, "kdsrv: the bridge cannot listen on 127.0.0.1:{busy}: Address already"),
    CONNECT + "sim:name=c}} --tcp 192.0.2.1:0": (1, "on 192.0.2.1:0: Cannot assign requested address"),
    CONNECT + "sim:name=d}} --unix {long}": (1, "the unix socket {long}: AF_UNIX path too long"),
    CONNECT + "sim:name=e}} --unix {socket}": (1, "the unix socket {socket}: Address already in use"),
    CONNECT + "sim:name=f}} --pty {file}.in": (1, "cannot link {file}.in to its pty: something else is there"),
    CONNECT + "sim:name=g}} --pty {folder}/no/where": (1, "cannot make a pty at {folder}/no/where: No such file"),
    CONNECT + "com:port=/dev/nosuch}}": (1, SAYS + "/dev/nosuch: there is no such device"),
    CONNECT + "com:port=/dev/null}}": (1, SAYS + "/dev/null: this device is not a serial port"),
    CONNECT + "com:port={file}.in}}": (
        1,
        SAYS + "com:port={file}.in,baud=19200 is not open to you on this server: a serial port is a device in /dev",
    ),
    CONNECT + "com:pipe,port={file}}}": (1, SAYS + "{file}: there is neither a unix socket of this name nor the two"),
    CONNECT + "com:ipport={nobody},port=127.0.0.1}}": (1, SAYS + "127.0.0.1:{nobody}: nobody listens there"),
    CONNECT + "net:port=53,key=1.2.3.4}}": (1, SAYS + "net:port=53,key=* is not open to you on this server: "),
    CONNECT + "usb:targetname=lab}}": (1, SAYS + "USB (usb:, usb2:) targets are not supported"),
    CONNECT + "1394:}}": (1, SAYS + "a 1394 string without channel= needs _NT_DEBUG_1394_CHANNEL on the server"),
}
LINES = {
    **{("twist", line): outcome for line, outcome in TWIST_LINES.items()},
    **{("twistd", line): outcome for line, outcome in TWISTD_LINES.items()},
    **{("kdsrv", line): outcome for line, outcome in KDSRV_LINES.items()},
}


class Surroundings:
    """What the command lines run into, and the programs."""

    def __init__(self, stack: ExitStack, pool: ThreadPoolExecutor) -> None:
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.facts: dict[str, object] = {
            "folder": self.folder,
            "file": self.folder / "file",
            "long": f"{self.folder}/{'x' * 120}",
            "socket": self.folder / "socket",
            "busy": stack.enter_context(fake_server(b"")),
            "nobody": stack.enter_context(fake_server(b"", listens=False)),
            "http": stack.enter_context(fake_server(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
            "closing": stack.enter_context(fake_server(b"")),
            "newer": stack.enter_context(
                fake_server(_frame(b'{"type":"hello","version":9,"software":"x","login":[]}'))
            ),
            "refusing": stack.enter_context(
                fake_server(_frame(encode_message(Failure("version", "come back with version 9"))))
            ),
        }
        (self.folder / "file.in").write_bytes(b"")
        taken = stack.enter_context(socket.socket(socket.AF_UNIX))
        taken.bind(str(self.folder / "socket"))
        taken.listen()
        self.server = stack.enter_context(Server())
        self.facts["port"] = self.server.port
        (self.folder / "outputs").mkdir()
        self._commands = pool.submit(run_each, [self.words(line) for line in KDSRV_LINES], self.folder / "outputs")
        self._servers = {
            ("twist", line): pool.submit(run_program, (*TWIST, *self.words(line))) for line in TWIST_LINES
        } | {
            ("twistd", line): pool.submit(run_program, (*TWISTD, *self.own_files(number, line), *self.words(line)))
            for number, line in enumerate(TWISTD_LINES)
        }

    def ended(self, program: str, line: str) -> Outcome:
        if program == "kdsrv":
            return self._commands.result(90)[list(KDSRV_LINES).index(line)]
        return self._servers[program, line].result(90)

    def wait(self) -> None:
        for program, line in LINES:
            self.ended(program, line)

    def words(self, line: str) -> tuple[str, ...]:
        return tuple(word.format(**self.facts) for word in line.split())

    def own_files(self, number: int, line: str) -> tuple[str, ...]:
        log = () if "-n" in line else ("--logfile", f"{self.folder}/log{number}")
        return ("--pidfile", f"{self.folder}/pid{number}", *log)


def _frame(body: bytes) -> bytes:
    return encode(FrameKind.CONTROL, body)


@pytest.fixture(scope="module")
def surroundings() -> Iterator[Surroundings]:
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(PARALLEL))
        stack.callback(pool.shutdown, cancel_futures=True)
        yield Surroundings(stack, pool)


@pytest.mark.parametrize(("program", "line"), LINES, ids=[f"{program} {line}" for program, line in LINES])
def test_one_sentence_and_a_status(program: str, line: str, surroundings: Surroundings) -> None:
    ended = surroundings.ended(program, line)
    status, words = LINES[program, line]
    assert words.format(**surroundings.facts) in " ".join(ended.text.split()), ended.text
    assert ended.status == status, ended.text
    assert "Traceback" not in ended.text
    assert "Error in Deferred" not in ended.text
    assert "File " not in ended.text
    assert "TORN" not in ended.text
    assert ended.text.endswith("\n")


def test_a_json_reader_is_told_as_well(surroundings: Surroundings) -> None:
    ended = run_program((*KDSRV, *surroundings.words(CONNECT + "com:port=/dev/nosuch}} --json")))
    assert ended.status == 1
    assert ended.text.startswith('{"event": "error", "code": "target", "message": "the server says: /dev/nosuch: ')
    assert ended.text.count("\n") == 1


def test_a_reader_that_leaves_is_no_error_to_report() -> None:
    """As in ``kdsrv demo | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        ended = subprocess.run(
            (*KDSRV, "demo", "--once"), stdout=nobody, stderr=subprocess.PIPE, cwd=ROOT, timeout=30, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_what_the_file_and_socket_were_is_left_alone(surroundings: Surroundings) -> None:
    surroundings.wait()
    assert stat.S_ISREG((surroundings.folder / "file.in").lstat().st_mode)
    assert stat.S_ISSOCK((surroundings.folder / "socket").lstat().st_mode)


def test_the_server_had_no_trouble(surroundings: Surroundings) -> None:
    surroundings.wait()
    assert "Traceback" not in surroundings.server.text
    assert "/dev/nosuch: there is no such device" in surroundings.server.text


def test_no_permission(tmp_path: Path) -> None:
    """A server without rights: the sentence says whose the device is."""
    before: tuple[str, ...] = ()
    if os.getuid() == 0:
        if shutil.which("setpriv") is None and os.environ.get("CI") != "true":
            pytest.skip("setpriv is missing, and root may open everything")
        before = NOBODY
        if run_program((*before, *KDSRV, "--version")).status:
            pytest.skip(f"another user may not read {ROOT}")
    master, slave = os.openpty()
    name = os.ttyname(slave)
    os.chmod(name, 0)
    try:
        with Server(before=before) as server:
            ended = run_program((*KDSRV, "connect", "--tcp", "0", "-k", server.string(f"com:port={name}")))
    finally:
        os.close(master)
        os.close(slave)
    assert ended.status == 1
    assert f"{SAYS}{name}: no permission to open {name}: it belongs to user" in ended.text


def test_hello_of_today_is_the_one_in_the_fake() -> None:
    """The fake server of another version differs from a real one in nothing but the version."""
    assert encode_message(ServerHello(1, "x")) == b'{"type":"hello","version":1,"software":"x","login":[]}'
