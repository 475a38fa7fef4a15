"""``kdsrv key``."""

from __future__ import annotations

import io
import re
import sys

import pytest

from kdsrv import cli
from kdsrv.connection_strings import NetSpec, parse_kd_string
from kdsrv.kdnet.keys import NetKey

Captured = pytest.CaptureFixture[str]
GOOD = "1m770ts6ru0p.3671pemyie4i.2b8djy3wt5et.1p99ir125v4q"


def run(monkeypatch: pytest.MonkeyPatch, typed: str, *words: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return cli.main(["key", *words])


def test_a_key_is_made_and_goes_to_both_ends(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    keys = []
    for _ in range(2):
        assert run(monkeypatch, "", "--host", "192.0.2.10", "--port", "50017") == 0
        text = capsys.readouterr().out
        spec = parse_kd_string(re.search(r"trans=@\{(.*)\}", text)[1])  # type: ignore[index]
        assert isinstance(spec, NetSpec)
        assert spec.port == 50017
        assert NetKey.parse(spec.key).weakness is None
        assert f"bcdedit /dbgsettings net hostip:192.0.2.10 port:50017 key:{spec.key}\n" in text
        assert "kdnet.exe 192.0.2.10 50017\n" in text
        keys.append(spec.key)
    assert keys[0] != keys[1]


def test_a_key_without_a_host(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert run(monkeypatch, "") == 0
    text = capsys.readouterr().out
    spec = parse_kd_string(re.search(r"trans=@\{(.*)\}", text)[1])  # type: ignore[index]
    assert isinstance(spec, NetSpec)
    assert f"bcdedit /dbgsettings net hostip:ADDRESS port:50000 key:{spec.key}\n" in text
    assert text.endswith("--host 192.0.2.10 puts it in\n")


def test_a_key_alone(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert run(monkeypatch, "", "--only-key", "--host", "192.0.2.10") == 0
    assert NetKey.parse(capsys.readouterr().out.removesuffix("\n")).weakness is None


def test_a_key_is_judged(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert run(monkeypatch, f"{GOOD}\n", "--check") == 0
    assert capsys.readouterr().out == "this is a good key\n"
    assert run(monkeypatch, " 1.2.3.4 \n", "--check") == 1
    assert capsys.readouterr().out.startswith("this key is easily guessed: 4 of the 4 components")
    for nonsense in ("", "1.2.3\n", f"{GOOD}.1\n", "z.z.z.zzzzzzzzzzzzz\n"):
        assert run(monkeypatch, nonsense, "--check") == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("kdsrv: a ")
        assert nonsense.strip() == "" or nonsense.strip() not in err


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--host", "lab"], 2, "a target is told an IPv4 address, such as 192.0.2.10"),
        (["--host", "::1"], 2, "a target is told an IPv4 address, such as 192.0.2.10"),
        (["--host", "192.0.2.10", "--port", "5364"], 2, "Windows takes ports 49152 to 65535"),
        (["--check", GOOD], 1, "kdsrv: a key in a command line is seen by others"),
        ([GOOD], 1, "kdsrv: a key in a command line is seen by others"),
    ],
)
def test_mistakes(monkeypatch: pytest.MonkeyPatch, capsys: Captured, words: list[str], status: int, says: str) -> None:
    try:
        ended = run(monkeypatch, "", *words)
    except SystemExit as error:
        ended = error.code  # type: ignore[assignment]
    assert ended == status
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert GOOD not in err
