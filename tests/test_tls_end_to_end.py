"""TLS and pipes as users have them: ``twist kdsrv`` and ``kdsrv connect`` as processes."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from running_programs import KDSRV, Client, Server, run_program
from tls_rig import issue, write

PRINT = r"fingerprint sha256:([0-9a-f]{64})"


def string(port: int, more: str = "") -> str:
    return f"kdsrv:server=@{{ssl:server=127.0.0.1,port={port}{more}}},trans=@{{sim:}}"


def tls_port(server: Server) -> int:
    """The port of the second listener; the first is tcp."""
    return int(re.findall(r"listens on 127\.0\.0\.1:(\d+)", server.text)[1])


def connect_once(text: str, *options: str) -> tuple[int, str]:
    done = run_program((*KDSRV, "connect", "--no-reconnect", "--tcp", "0", *options, "-k", text))
    return done.status, done.text.strip()


def test_a_certificate_is_made_once_printed_and_can_be_pinned(tmp_path: Path) -> None:
    options = ("--listen", "ssl:0:interface=127.0.0.1", "--state-dir", str(tmp_path / "s"))
    prints = []
    for _ in range(2):
        with Server(*options) as server:
            prints.append(server.wait_for(PRINT)[1])
            with Client(string(tls_port(server), f",proto=tls1,certuser={prints[0]}")) as client:
                client.wait_event("ready")
            status, text = connect_once(string(tls_port(server), f",certuser={'0' * 64}"))
            assert status == 1
            assert text == (
                "kdsrv: the server's certificate is not the one to expect: its fingerprint is sha256:" + prints[0]
            )
            assert "Traceback" not in server.text
    assert prints[0] == prints[1]


def test_sighup_brings_a_new_certificate_and_ends_no_session(tmp_path: Path) -> None:
    authority = issue("ca", authority=True)
    ca = write(tmp_path / "ca.pem", authority, key=False)
    path = write(tmp_path / "lab.pem", issue("lab", authority, hosts=("localhost",)))
    with Server("--listen", "ssl:0:interface=127.0.0.1", "--certificate", str(path)) as server:
        text = string(tls_port(server)).replace("127.0.0.1", "localhost")
        with Client(text, "--tcp", "0", "--ca", str(ca)) as client:
            client.wait_event("ready")
            new = issue("new")
            write(path, new)
            server.process.send_signal(signal.SIGHUP)
            server.wait_for(f"new connections get the certificate sha256:{new.fingerprint}")
            status, said = connect_once(text.replace("sim:", "sim:name=b"), "--ca", str(ca))
            assert status == 1
            assert "none of the authorities given stands behind it" in said
            path.write_text("half a file")
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("the TLS certificate stays as it is: .*lab.pem holds no certificate")
            pinned = string(tls_port(server), f",certuser={new.fingerprint}").replace("sim:", "sim:name=b")
            with Client(pinned) as other:
                other.wait_event("ready")
            assert not client.events("interrupted")
            assert client.process.poll() is None


def test_a_server_that_asks_for_client_certificates(tmp_path: Path) -> None:
    mine = issue("me")
    shown = write(tmp_path / "me.pem", mine)
    options = ("--state-dir", str(tmp_path / "s"), "--client-ca", mine.fingerprint)
    with Server("--listen", "ssl:0:interface=127.0.0.1", *options) as server:
        with Client(string(tls_port(server)), "--tcp", "0", "--certificate", str(shown)) as client:
            client.wait_event("ready")
        status, said = connect_once(string(tls_port(server)))
        assert status == 1
        assert "the other end asks for a client certificate" in said


@pytest.mark.parametrize("kind", ["npipe", "spipe"])
def test_pipes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSRV_PIPE_DIR", str(tmp_path / "pipes"))
    with Server("-t", f"{kind}:pipe=kd_%x", "--state-dir", str(tmp_path / "s")) as server:
        name = server.wait_for(rf"listens on {tmp_path}/pipes/(\S+)")[1]
        assert name == f"kd_{server.process.pid:x}"
        with Client(f"kdsrv:server=@{{{kind}:server=.,pipe={name}}},trans=@{{sim:}}") as client:
            client.wait_event("ready")
    status, said = connect_once(f"kdsrv:server=@{{{kind}:server=.,pipe={name}}},trans=@{{sim:}}")
    assert status == 1
    assert f"there is no pipe {name} in {tmp_path}/pipes; is the server running" in said


def test_tls_and_plain_do_not_mix(tmp_path: Path) -> None:
    with Server("--listen", "ssl:0:interface=127.0.0.1", "--state-dir", str(tmp_path / "s")) as server:
        status, said = connect_once(string(server.port))
        assert status == 1
        assert "\n" not in said
        status, said = connect_once(string(tls_port(server)).replace("ssl:", "tcp:"))
        assert status == 1
        assert "\n" not in said
        assert "Traceback" not in server.text
