"""``kdsrv log``: recordings as people read them."""

from __future__ import annotations

import argparse
import fcntl
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from recordings import Script, loaded, printed, replied, stopped
from running_programs import KDSRV, ROOT, run_each

from kdsrv.commands.log import configure, run
from kdsrv.errors import SetupError
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.statuses import Status
from kdsrv.recorder.reading import RecordingError
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.status import Lost, Running

CRASH = "\n*** Fatal System Error: 0x0000007e\n                       (0xC0000005,0x1000,0x2,0x3)\n\n"


@pytest.fixture(autouse=True)
def _in_a_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two hours east of UTC."""
    monkeypatch.setenv("TZ", "EET-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shown(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[str]:
    parser = argparse.ArgumentParser()
    configure(parser)
    assert run(None, parser.parse_args([str(word) for word in words])) == 0
    return capsys.readouterr().out.splitlines()


def session() -> Script:
    script = Script()
    script.says(stopped(0xFFFFF80210001020))
    script.reads(0x1000, b"abcd")
    script.asks(Manipulate.continue_())
    script.recorder.status_changed(Running())
    script.says(printed("half a "), printed("line\r\nand \x1b[31mmore"), loaded(b"\\driver.sys", 0xFFFFF80220000000))
    script.asks(Manipulate.continue_())
    script.says(printed(CRASH), stopped())
    prompt = DebugIo.get_string(b"Break? ", 2)
    script.says(Packet(PacketType.DEBUG_IO, prompt.encode()))
    script.recorder.packet_to_target(Packet(PacketType.DEBUG_IO, prompt.answer(b"b").encode()))
    script.breaks_in()
    script.recorder.holder_changed(Lease("a key", "lee@home", "10.0.0.8:1", 0.0))
    script.recorder.status_changed(Lost("the cable is out"))
    script.recorder.session_ended()
    return script


def test_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = session().save(tmp_path / "a.pcapng")
    assert shown(capsys, path) == [
        "2026-08-01 12:00:00.001 session       rack1 (/dev/ttyS0 at 115200 baud), held by kim@desk from 10.0.0.7:4711",
        "2026-08-01 12:00:00.001 stop          halted: breakpoint at fffff802`10001020 on processor 0",
        "2026-08-01 12:00:00.004 continue      continue: 00010002 dbg continue",
        "2026-08-01 12:00:00.006 print         half a line",
        "2026-08-01 12:00:00.007 print         and \\x1b[31mmore",
        "2026-08-01 12:00:00.008 module-load   loaded fffff802`20000000 \\driver.sys",
        "2026-08-01 12:00:00.009 continue      continue: 00010002 dbg continue",
        "2026-08-01 12:00:00.010 bugcheck      bugcheck 0x7e SYSTEM_THREAD_EXCEPTION_NOT_HANDLED "
        "(0xc0000005, 0x1000, 0x2, 0x3)",
        "2026-08-01 12:00:00.011 stop          halted: breakpoint at 00000000`00001000 on processor 0",
        "2026-08-01 12:00:00.012 prompt        prompt: Break?",
        "2026-08-01 12:00:00.013 prompt        answer: b",
        "2026-08-01 12:00:00.014 break-in      break in",
        "2026-08-01 12:00:00.015 holder        held by lee@home from 10.0.0.8:1",
        "2026-08-01 12:00:00.016 status        the line is lost: the cable is out",
        "2026-08-01 12:00:00.017 ended         the session ended",
    ]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["--only", "prints"], ["print"] * 2),
        (["--only", "bugchecks", "--only", "modules"], ["module-load", "bugcheck"]),
        (["--only", "stops"], ["stop"] * 2),
        (["--only", "questions"], ["prompt"] * 2),
        (["--only", "commands"], ["continue", "continue", "break-in"]),
        (["--only", "requests"], ["request", "reply"]),
        (["--only", "server"], ["session", "holder", "status", "ended"]),
    ],
)
def test_only_what_is_asked_for(
    options: list[str], kinds: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = session().save(tmp_path / "a.pcapng")
    assert [line.split()[2] for line in shown(capsys, path, *options)] == kinds
    assert [json.loads(line)["kind"] for line in shown(capsys, path, "--json", *options)] == kinds


def test_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = session().save(tmp_path / "a.pcapng")
    usual, everything = shown(capsys, path), shown(capsys, path, "--all")
    assert [line for line in everything if line not in usual] == [
        "2026-08-01 12:00:00.002 request       ReadVirtualMemory 00000000`00001000 length 4",
        "2026-08-01 12:00:00.003 reply         ReadVirtualMemory: 00000000 success, 4 bytes",
    ]


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = session().save(tmp_path / "a.pcapng")
    lines = [json.loads(line) for line in shown(capsys, path, "--json")]
    assert lines[3] == {
        "time": "2026-08-01T10:00:00.006000+00:00",
        "kind": "print",
        "text": "half a line",
        "direction": "from-target",
        "processor": 0,
        "printed": "half a line",
    }
    assert (lines[4]["text"], lines[4]["printed"]) == ("and \\x1b[31mmore", "and \x1b[31mmore")
    assert (lines[7]["code"], lines[7]["parameters"][0]) == ("0x7e", "0xc0000005")


def test_several_files_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Script(), Script()
    first.says(printed("a line that "))
    second.says(printed("goes on\n"))
    paths = [each.save(tmp_path / name) for name, each in (("1", first), ("2", second))]
    assert [line[38:] for line in shown(capsys, *paths, "--only", "prints")] == ["a line that goes on"]


def test_a_directory_stands_for_its_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("b", "two\n"), ("a", "one\n")):
        script = Script()
        script.says(printed(text))
        script.save(tmp_path / f"{name}.pcapng")
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    assert [line.rpartition(" ")[2] for line in shown(capsys, tmp_path, "--only", "prints")] == ["one", "two"]
    with pytest.raises(SetupError, match="--follow goes on with one recording"):
        shown(capsys, tmp_path, "--follow")
    with pytest.raises(RecordingError, match=rf"a\.jsonl: .* give the recording, {tmp_path}/a\.pcapng"):
        shown(capsys, tmp_path / "a.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingError, match=r"empty: there is no recording \(\*\.pcapng\) in this directory"):
        shown(capsys, tmp_path / "empty")


def test_a_line_without_an_end_is_told_in_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Script()
    script.says(*[printed("x" * 3000)] * 100)
    lines = shown(capsys, script.save(tmp_path / "a"), "--only", "prints")
    assert len(lines) > 10
    assert sum(line.count("x") for line in lines) == 300_000


def test_nothing_steers_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;title\x07\x9b2J\u202e\x00"
    script = Script(target=evil, line=evil)
    script.recorder.holder_changed(Lease("a key", evil, evil, 0.0))
    script.recorder.status_changed(Lost(evil))
    script.says(loaded(b"\x1b[2J", 0), printed("\x1b[2J\r\n\x1bc\n"))
    request = Manipulate.get_version()
    script.asks(request)
    script.says(replied(request.reply(Status.UNSUCCESSFUL)))
    lines = shown(capsys, script.save(tmp_path / "a"), "--all")
    assert len(lines) == 8
    assert all(line.isprintable() for line in lines)
    assert all(line.isascii() for line in shown(capsys, tmp_path / "a", "--all", "--json"))


def test_a_file_that_ends_too_soon_is_shown_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = session().save(tmp_path / "a.pcapng")
    path.write_bytes(path.read_bytes()[:-5])
    assert shown(capsys, path)[-1].endswith("the cable is out")


def test_damage_is_told_behind_what_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = session().save(tmp_path / "a.pcapng")
    path.write_bytes(path.read_bytes() + b"\x06\0\0\0\x03\0\0\0\0\0\0\0")
    with pytest.raises(RecordingError, match="a block of 3 bytes"):
        shown(capsys, path)
    assert "the session ended" in capsys.readouterr().out


def test_one_file_is_followed() -> None:
    parser = argparse.ArgumentParser()
    configure(parser)
    with pytest.raises(SetupError, match="--follow goes on with one recording; name one file"):
        run(None, parser.parse_args(["a", "b", "--follow"]))


def test_the_command(tmp_path: Path) -> None:
    path = session().save(tmp_path / "a.pcapng")
    good, wrong, as_json, unknown = run_each(
        [
            ("log", str(path), "--only", "prints"),
            ("log", "README.md"),
            ("log", "nothing", "--json"),
            ("log", str(path), "--only", "pints"),
        ],
        tmp_path,
    )
    assert (good.status, good.text.count("\n")) == (0, 2)
    assert (wrong.status, wrong.text) == (
        1,
        "kdsrv: README.md: no pcapng file, or a damaged one: it does not begin as one\n",
    )
    told = {"event": "error", "code": "bad-recording", "message": "nothing: No such file or directory"}
    assert (as_json.status, json.loads(as_json.text)) == (1, told)
    assert unknown.status == 2
    assert "choose from 'prints', 'bugchecks'" in unknown.text


def test_nobody_reads_it(tmp_path: Path) -> None:
    script = Script()
    script.says(*[printed("x" * 100 + "\n")] * 5000)
    path = script.save(tmp_path / "a.pcapng")
    with subprocess.Popen([*KDSRV, "log", path], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.read(10)
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(20) == 1


def test_it_follows_what_is_being_written(tmp_path: Path) -> None:
    script = Script()
    script.says(printed("one\n"))
    path = script.save(tmp_path / "a.pcapng")
    with BackgroundProgram([*KDSRV, "log", path, "--follow"], cwd=ROOT) as program, path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        program.wait_for("print         one$")
        script.says(printed("two\n"))
        data = whole_body(script)
        file.write(data[:50])
        file.flush()
        time.sleep(0.6)
        assert program.process.poll() is None
        file.write(data[50:])
        file.close()
        assert program.process.wait(10) == 0
        program.wait_for("print         two$")


def whole_body(script: Script) -> bytes:
    piece = script.recorder.take()
    assert piece is not None
    return piece.body.packets
