"""Recordings of a server that runs: what tshark makes of them, what a killed server leaves, what is never in them."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from recordings import Script, printed, stopped
from running_programs import KDSRV, ROOT, Client, Debugger, Server, run_program, until
from test_secrets_stay_hidden import check_hidden

from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import MANIPULATE
from kdsrv.recorder.entries import Entry, Note, PacketSeen
from kdsrv.recorder.reading import read_recording
from kdsrv.sim.kernel import KERNEL_BASE

FIELDS = (
    *("frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction", "_ws.col.Protocol", "frame.comment"),
)
KERNEL = Manipulate.read_virtual(KERNEL_BASE, 512)


def program(name: str) -> str:
    """Where a program of Wireshark is."""
    found = shutil.which(name)
    if found is None:
        missing = f"{name} is not installed (Debian: apt-get install tshark)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def dissected(path: Path, *fields: str) -> list[list[str]]:
    """What tshark says of each packet; it has to find nothing wrong."""
    words = [program("tshark"), "-r", str(path), "-T", "fields", *[word for field in fields for word in ("-e", field)]]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=60, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def only(directory: Path, pattern: str = "*.pcapng") -> Path:
    """The one file there, once there is one."""
    until(lambda: list(directory.glob(pattern)))
    (path,) = directory.glob(pattern)
    return path


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "records"


@pytest.fixture
def bridge(tmp_path: Path) -> Path:
    return tmp_path / "bridge"


def recording_server(records: Path, bridge: Path, trans: str = "sim:", *, before: tuple[str, ...] = ()) -> Server:
    """One that has a bridge to this target."""
    listen = f"listen=@{{unix:{bridge}}},trans=@{{{trans}}}"
    return Server("--record", str(records), "--bridge", listen, before=before)


def work(debugger: Debugger) -> None:
    debugger.halt()
    for _ in range(20):
        debugger.ask(KERNEL)


def test_tshark_opens_a_recorded_session(records: Path, bridge: Path) -> None:
    begin = time.time()
    with recording_server(records, bridge), Debugger(str(bridge)) as debugger:
        work(debugger)
    path = only(records)
    entries = list(read_recording(path))
    found = dissected(path, *FIELDS)
    assert len(found) == len(entries) > 43
    for (when, interface, direction, protocol, _), entry in zip(found, entries, strict=True):
        seconds, _, fraction = when.partition(".")
        assert int(seconds) * 10**9 + int(fraction) == entry.time
        assert begin < entry.time / 1e9 < time.time()
        if isinstance(entry, Note):
            assert interface == "kdsrv"
        else:
            from_target = isinstance(entry, PacketSeen) and entry.direction == "from-target"
            expected = ("sim:", "0x00000001" if from_target else "0x00000002", "KD")
            assert (interface, direction, protocol) == expected
    comments = [words[-1] for words in found]
    assert comments.count("ReadVirtualMemory fffff802`10000000 length 512") == 20
    assert comments.count("ReadVirtualMemory: 00000000 success, 512 bytes") == 20
    assert comments[-1] == "the session ended"
    check_capinfos(path, entries)
    check_index(records)


def check_capinfos(path: Path, entries: list[Entry]) -> None:
    words = (program("capinfos"), "-M", "-c", "-a", "-e", "-o", "-S", str(path))
    told = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in told.splitlines())}
    assert facts["Number of packets"] == str(len(entries))
    assert facts["First packet time"].replace(".", "") == str(entries[0].time)
    assert facts["Last packet time"].replace(".", "") == str(entries[-1].time)
    assert facts["Strict time order"] == "True"


def test_tshark_shows_all_that_is_whole_of_a_torn_file(tmp_path: Path) -> None:
    script = Script()
    script.says(stopped(), printed("one\n"), printed("two\n"))
    path = script.save(tmp_path / "torn.pcapng")
    path.write_bytes(path.read_bytes()[:-7])
    words = [program("tshark"), "-r", str(path), "-T", "fields", "-e", "frame.comment"]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.stdout.splitlines()[1:] == ["halted: breakpoint at 00000000`00001000 on processor 0", "one"]


def check_index(records: Path) -> None:
    assert records.stat().st_mode & 0o777 == 0o700
    for path in records.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    kinds = [json.loads(line)["kind"] for line in only(records, "*.jsonl").read_text(encoding="ascii").splitlines()]
    assert (kinds[0], "stop" in kinds, kinds[-1]) == ("session", True, "ended")


def test_a_killed_server_leaves_all_but_the_last_second(records: Path, bridge: Path) -> None:
    server = recording_server(records, bridge)
    with server, Debugger(str(bridge)) as debugger:
        debugger.halt()
        begin, count = time.monotonic(), 0
        while time.monotonic() < begin + 1.6:
            debugger.ask(KERNEL)
            count += time.monotonic() < begin + 0.6
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    path = only(records)
    assert sum(is_reply(entry) for entry in read_recording(path)) >= count > 100
    words = [program("tshark"), "-r", str(path), "-T", "fields", "-e", "frame.len"]
    shown = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=60, check=False).stdout.splitlines()
    assert len(shown) == len(list(read_recording(path)))
    *lines, last = path.with_suffix(".jsonl").read_bytes().split(b"\n")
    assert all(json.loads(line) for line in lines)
    assert last == b""
    told = run_program((*KDSRV, "log", str(path)))
    assert (told.status, "halted: breakpoint" in told.text) == (0, True)


def is_reply(entry: Entry) -> bool:
    return isinstance(entry, PacketSeen) and (entry.packet.type, entry.direction) == (MANIPULATE, "from-target")


NET_KEY = "3kq8w1zr5.5tt9x2ab.7mnbv4cdd.1poiuy6ee"
PASSWORD = "Hunter2Swordfish"


def user_file(path: Path) -> tuple[Path, list[str]]:
    """A file with a user of this password, and what is secret in it besides."""
    script = f"printf '%s\\n' {PASSWORD} | {shlex.join(KDSRV)} password kim"
    line = run_program(("sh", "-c", script)).text
    path.touch(0o600)
    path.write_text(line, encoding="ascii")
    return path, [word for word in re.split(r"[:$,\s]+", line) if len(word) > 20]


def test_no_recording_holds_a_secret(records: Path, tmp_path: Path) -> None:
    """Neither the key of a target nor the password of a user, though both are needed for the session."""
    users, verifiers = user_file(tmp_path / "users")
    assert len(verifiers) >= 2
    port = free_udp_port()
    options = ("--record", str(records), "--users", str(users), "--target", f"lab=net:port={port},key={NET_KEY}")
    sim = BackgroundProgram(
        [*KDSRV, "sim", "--net", f"127.0.0.1:{port}", "--key", NET_KEY, "--offer-every", "0.2"], cwd=ROOT
    )
    with Server(*options) as server, sim:
        string = server.string("target:name=lab").replace("},trans", f",password={PASSWORD}}},trans")
        with Client(string, "--tcp", "0", "--user", "kim") as client:
            client.wait_event("status", kind="halted")
            with Debugger(client.bridge) as debugger:
                work(debugger)
    assert len(list(read_recording(only(records)))) > 40
    for path in records.iterdir():
        check_hidden(path.read_bytes(), path.name, NET_KEY, *NET_KEY.split("."), PASSWORD, *verifiers)


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_files_that_may_not_grow_end_the_recording_and_not_the_session(records: Path, bridge: Path) -> None:
    limited = ("prlimit", "--fsize=20000:20000")
    server = recording_server(records, bridge, "sim:", before=limited)
    with server, Debugger(str(bridge)) as debugger:
        for _ in range(3):
            work(debugger)
            time.sleep(0.6)
        server.wait_for("the session on sim: is not recorded now: File too large. The session goes on")
        assert len(debugger.read(KERNEL_BASE, 16)) == 16
    path = only(records)
    assert path.stat().st_size <= 20_000
    assert len(dissected(path, "frame.comment")) == len(list(read_recording(path)))


def test_without_descriptors_the_session_goes_on(records: Path, bridge: Path) -> None:
    with recording_server(records, bridge) as server:
        with Debugger(str(bridge)) as debugger:
            work(debugger)
        until(lambda: "the session ended" in only(records, "*.jsonl").read_text(encoding="ascii"))
        used = set(map(int, os.listdir(f"/proc/{server.process.pid}/fd")))
        for_a_debugger = [number for number in range(1000) if number not in used][2]
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (for_a_debugger, for_a_debugger))
        with Debugger(str(bridge)) as debugger:
            work(debugger)
            server.wait_for("is not recorded now: Too many open files. The session goes on")
            assert len(debugger.read(KERNEL_BASE, 16)) == 16
