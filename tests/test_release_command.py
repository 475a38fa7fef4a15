"""Asking for a target and giving it away, each as the programs that people run."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, TWIST, run_program

PASSWORD = "hand it over"
TARGET = "target:name=rack1"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(port: int) -> Iterator[BackgroundProgram]:
    words = [*TWIST, "-t", f"tcp:port={port},password={PASSWORD}", "--target", "rack1=sim:"]
    with BackgroundProgram(words, cwd=ROOT) as running:
        running.wait_for("listens on")
        yield running


def string(port: int) -> str:
    return f"kdsrv:server=@{{tcp:server=127.0.0.1,port={port},password={PASSWORD}}},trans=@{{{TARGET}}}"


def connect(port: int, place: Path, *options: str, user: str) -> BackgroundProgram:
    words = [*KDSRV, "connect", "--user", user, "-k", string(port), "--unix", str(place), *options]
    return BackgroundProgram(words, cwd=ROOT)


def test_a_target_is_asked_for_and_given_away(server: BackgroundProgram, port: int, tmp_path: Path) -> None:
    shown = f"kdsrv release '{string(port).replace(f',password={PASSWORD}', '')}'"
    with connect(port, tmp_path / "a", user="kim") as holder:
        holder.wait_for("halted")
        with connect(port, tmp_path / "b", "--take", "ask", user="lee") as asking:
            asking.wait_for("has been asked for target:name=rack1")
            holder.wait_for("lee .* asks for target:name=rack1: kdsrv release")
            holder.wait_for(f"^  {re.escape(shown)} --user kim  .with your password")
            given = run_program((*KDSRV, "release", "--user", "kim", string(port)))
            assert given.status == 0, given
            assert "lee" in given.text
            asking.wait_for("halted")
            holder.wait_for("^target:name=rack1 was given to lee")
            assert holder.process.wait(10) == 0
        assert "Traceback" not in server.text
