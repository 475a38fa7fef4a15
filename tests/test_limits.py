"""What docs/limits.md promises: its numbers are those of the program, and its proofs exist."""

from __future__ import annotations

import ast
import re
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from server_callers import ServerInMemory
from test_attachment import Lasting
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kdsrv.auth import door
from kdsrv.client import backlog
from kdsrv.connection_strings import grammar
from kdsrv.connection_strings.kd import SimSpec
from kdsrv.recorder.limits import RecordLimits
from kdsrv.server import attachment, delivery, factory, protocol, scene, spectators
from kdsrv.sessions import applications, directory
from kdsrv.sessions.tenant import Take
from kdsrv.transports.descriptor import MAX_UNSENT
from kdsrv.transports.simulated import SimulatedTargets
from kdsrv.wire import frames, ledger
from kdsrv.wire.messages import Failure
from kdsrv.wire.window import DEFAULT_WINDOW

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
MIB = 1024 * 1024

ROWS = {
    "a frame": (frames.MAX_CONTROL, frames.MAX_PACKET_PAYLOAD),
    "requests under way for one client": (DEFAULT_WINDOW.packets, DEFAULT_WINDOW.bytes),
    "requests that wait at a client": (backlog.MOST_BYTES // MIB,),
    "other packets that wait for a client that does not read": (
        delivery.MAX_UNREAD_PACKETS,
        delivery.MAX_UNREAD // 1024,
    ),
    "what was sent and is not confirmed": (ledger.MAX_KEPT_BYTES // MIB, ledger.MAX_KEPT_FRAMES),
    "a client whose connection broke": (int(attachment.LINGER),),
    "a silent client": (int(protocol.SILENCE_LIMIT),),
    "connections that have not come in": (
        door.MOST_WAITING_PER_PLACE,
        door.MOST_WAITING,
        int(protocol.GREETING_LIMIT),
    ),
    "clients that have come in and have no target": (factory.MAX_WAITING, int(protocol.GREETING_LIMIT)),
    "sessions": (directory.MAX_SESSIONS,),
    "spectators": (spectators.MAX_SPECTATORS,),
    "lines that wait for a spectator": (scene.MAX_LINES, scene.MAX_LINE_BYTES // MIB),
    "a connection string": (grammar.MAX_LENGTH,),
    "bytes that a target's line does not take": (MAX_UNSENT // 1024,),
    "one recording": (RecordLimits().size // MIB,),
    "all of a directory": (RecordLimits().space // (1024 * MIB),),
}


def rows() -> dict[str, str]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TEXT.splitlines() if line.startswith("| ")]
    return {first: limit for first, limit, *_ in cells if first != "what"}


@pytest.mark.parametrize("name", ROWS)
def test_the_numbers_are_those_of_the_program(name: str) -> None:
    assert tuple(map(int, re.findall(r"[0-9]+", rows()[name]))) == ROWS[name]


def test_the_other_numbers_too() -> None:
    told = rows()["those who ask for a target that somebody has"]
    assert told == f"{applications.MOST_ASKING} for each, {applications.ASK_LIMIT:.0f} s"


@pytest.mark.parametrize("proof", re.findall(r"`(test_\w+\.py::\w+)`", TEXT))
def test_its_proofs_exist(proof: str) -> None:
    file, _, name = proof.partition("::")
    nodes = ast.walk(ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")))
    assert any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in nodes)


def test_every_row_has_a_proof() -> None:
    for line in TEXT.splitlines():
        if line.startswith("| ") and not line.startswith("| what"):
            assert "`test_" in line, line


class AskingTests(SynchronousTestCase):
    def test_so_many_may_ask_for_a_target(self) -> None:
        server = ServerInMemory()
        Lasting(server)
        asking = [
            Lasting(server, client=f"lee{number}@sofa", host=f"192.0.2.{number}", take=Take.ASK)
            for number in range(20, 20 + applications.MOST_ASKING)
        ]
        one_more = Lasting(server, client="sam@shed", host="192.0.2.99", take=Take.ASK)
        refusal = one_more.heard[-1]
        assert isinstance(refusal, Failure)
        assert f"{applications.MOST_ASKING} others have asked" in refusal.message
        assert all(each.caller.is_connected for each in asking)
        for caller in tuple(server.factory._connected):
            caller.connectionLost()
        server.wait(attachment.LINGER + 2)
        assert server.end() == []


def test_targets_that_nobody_has_open_are_bounded() -> None:
    clock = Clock()
    targets = SimulatedTargets(clock)
    for number in range(80):
        opened = targets.open(SimSpec(name=f"t{number}"))
        opened.addCallback(lambda transport: transport.close())
    assert len(targets._live) <= 65
    assert targets["t79"] is not None
    with pytest.raises(KeyError):
        targets["t0"]
    targets.stop()


def test_a_server_without_descriptors_goes_on_and_recovers(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    few = 40
    starter = (
        f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, ({few}, {few}));"
        "runpy.run_module('twisted', run_name='__main__', alter_sys=True)"
    )
    server = [sys.executable, "-c", starter, "--log-format", "text", "kdsrv", "--no-password"]
    listen = ["--listen", f"tcp:{port}:interface=127.0.0.1"]
    asked = f"tcp:server=127.0.0.1,port={port}"
    with BackgroundProgram([*server, *listen], cwd=ROOT) as running:
        running.wait_for("listens on")
        with ExitStack() as stack:
            holder = stack.enter_context(_connect(port, "sim:name=first", tmp_path / "first"))
            holder.wait_for("halted")
            crowd = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2 * few)]
            second = stack.enter_context(_connect(port, "sim:name=second", tmp_path / "second"))
            for each in crowd:
                each.close()
            second.wait_for("halted", limit=40)
            assert holder.process.poll() is None
        with BackgroundProgram([sys.executable, "-m", "kdsrv.cli", "list", asked], cwd=ROOT) as listing:
            listing.wait_for("no sessions|sim:name=")
        assert "Traceback" not in running.text, running.text


def _connect(port: int, trans: str, socket_path: Path) -> BackgroundProgram:
    string = f"kdsrv:server=@{{tcp:server=127.0.0.1,port={port}}},trans=@{{{trans}}}"
    words = [sys.executable, "-m", "kdsrv.cli", "connect", "-k", string, "--unix", str(socket_path)]
    return BackgroundProgram(words, cwd=ROOT)
