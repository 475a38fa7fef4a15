"""Half-open connections and wrong passwords by the thousand, on real sockets, while sessions work."""

from __future__ import annotations

import secrets
import socket
import sys
import time
from pathlib import Path
from statistics import mean

from background_program import BackgroundProgram
from running_programs import ROOT, Server, until

from kdsrv.auth.passwords import Credentials
from kdsrv.client.admission import Admission
from kdsrv.wire.connection import Connection
from kdsrv.wire.messages import Challenge, ClientHello, Role, ServerHello, Welcome

HERE = Path(__file__).parent
SESSIONS = 8
PACE = 50
HALF_OPEN = 500
WRONG = 2000
SECONDS = 10.0
SECRET = "Hunter2Swordfish"
THIRD = "127.9.9.9"


def program(name: str, *words: str) -> BackgroundProgram:
    path = ":".join(map(str, (ROOT, HERE)))
    return BackgroundProgram(["env", f"PYTHONPATH={path}", sys.executable, HERE / name, *words], cwd=ROOT)


def log_in(port: int) -> float:
    """Seconds it takes to log in from an address that has done nothing so far."""
    begin = time.monotonic()
    talk, admission = Connection(Role.CLIENT), Admission(Credentials(SECRET), secrets.token_bytes)
    with socket.create_connection(("127.0.0.1", port), 20, (THIRD, 0)) as line:
        line.sendall(talk.send(ClientHello("a test")))
        while True:
            for event in talk.receive_data(line.recv(65536)):
                if isinstance(event, ServerHello):
                    login = admission.greeted(event, None)
                    assert login is not None
                    line.sendall(talk.send(login))
                elif isinstance(event, Challenge):
                    line.sendall(talk.send(admission.challenged(event)))
                else:
                    assert isinstance(event, Welcome), event
                    admission.welcomed(event)
                    return time.monotonic() - begin


def test_sessions_go_on_and_a_right_password_gets_in(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text(SECRET)
    with Server("--password-file", str(password)) as server:
        string = f"kdsrv:server=@{{tcp:server=127.0.0.1,port={server.port},password={SECRET}}},trans=@{{sim:name=NAME}}"
        with program("working_sessions.py", string, str(SESSIONS), str(PACE)) as work:
            work.wait_for(r"\A0 0\n(?:\d+ \d+\n){4}")
            before = [int(line.split()[0]) for line in work.text.splitlines()[2:]]
            descriptors = server.descriptors
            with program("flood.py", str(server.port), str(HALF_OPEN), str(WRONG), str(SECONDS)) as flood:
                time.sleep(SECONDS / 3)
                seconds = [log_in(server.port) for _ in range(3)]
                outcomes = flood.wait_for(r"^.*login=.*$", limit=SECONDS + 15)[0]
            during = [int(line.split()[0]) for line in work.text.splitlines()[1 + len(before) :]]
            assert max(seconds) < 2.0
            assert mean(during) > 0.8 * mean(before), (before, during, outcomes)
            counts = dict(each.split("=") for each in outcomes.split())
            assert sum(map(int, counts.values())) == WRONG
            assert int(counts["login"]) + int(counts["login-later"]) > WRONG / 2, outcomes
            until(lambda: server.descriptors <= descriptors, limit=15)
        assert server.text.count("failures from") < 40 * 12
        assert "Traceback" not in server.text
