from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdsrv import cli
from kdsrv.auth.users import Role, User, read_users

ROOT = Path(__file__).resolve().parents[1]
Captured = pytest.CaptureFixture[str]


def run(monkeypatch: pytest.MonkeyPatch, typed: str, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return cli.main(["password", *map(str, words)])


def test_the_line_of_a_user(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    words = ("kim", "--role", "read-only", "--target", "vm1", "--target", "vm2")
    assert run(monkeypatch, "secret\n", *words) == 0
    (entry,) = read_users(capsys.readouterr().out).values()
    assert entry.user == User("kim", Role.READ_ONLY, ("vm1", "vm2"))
    assert entry.verifier.fits("secret")
    assert run(monkeypatch, "secret", "tom") == 0
    (other,) = read_users(capsys.readouterr().out).values()
    assert other.user == User("tom", Role.FULL, None)
    assert other.verifier.salt != entry.verifier.salt


def test_a_line_is_checked(monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path) -> None:
    run(monkeypatch, "secret\n", "kim")
    path = tmp_path / "users"
    path.touch(0o600)
    path.write_text(capsys.readouterr().out)
    assert run(monkeypatch, "secret\n", "kim", "--check", path) == 0
    assert run(monkeypatch, "Secret\n", "kim", "--check", path) == 1
    assert run(monkeypatch, "", "kim", "--check", path) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["that is the password of kim"] + ["that is not the password of kim"] * 2
    assert err == ""
    assert run(monkeypatch, "secret\n", "tom", "--check", path) == 1
    assert capsys.readouterr().err == f"kdsrv: there is no user tom in {path}\n"


@pytest.mark.parametrize(
    ("typed", "words", "says"),
    [
        ("", ["kim"], "the password cannot be used: it is empty"),
        ("a\0b\n", ["kim"], "the password cannot be used: a character in it"),
        ("x\n", ["k:m"], "'k:m' is not a user name"),
        ("x\n", ["kim", "--target", "v,m"], "'v,m' is not the name of a target"),
        ("x\n", ["kim", "--check", "/nowhere"], "cannot read /nowhere: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, typed: str, words: list[str], says: str
) -> None:
    assert run(monkeypatch, typed, *words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"kdsrv: {says}")
    assert err.count("\n") == 1


def at_a_terminal(*answers: str, words: tuple[str, ...] = ("kim",)) -> tuple[int, str]:
    """Run the command on a terminal and type an answer to each question; its status and all that was shown."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kdsrv.cli", "password", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = ""
    waiting = list(answers)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            data = os.read(ours, 1000)
        except OSError:
            break
        shown += data.decode()
        if data.endswith(b": ") and waiting:
            time.sleep(0.2)
            os.write(ours, waiting.pop(0).encode())
    os.close(ours)
    return process.wait(10), shown


def test_a_terminal_is_asked_twice_and_shows_nothing() -> None:
    status, shown = at_a_terminal("secret\n", "secret\n")
    assert status == 0
    assert "password: " in shown
    assert "the same again: " in shown
    assert "secret" not in shown
    (entry,) = read_users(shown.split("again: ")[1]).values()
    assert entry.verifier.fits("secret")


def test_two_different_passwords_are_refused() -> None:
    status, shown = at_a_terminal("secret\n", "secrets\n")
    assert status == 1
    assert "kdsrv: these were two different passwords" in shown


def test_end_of_input_ends_it() -> None:
    status, shown = at_a_terminal("\x04")
    assert status == 1
    assert "Traceback" not in shown
