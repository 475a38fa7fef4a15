"""A password is looked for wherever it could have got to: the network, logs, process titles, errors, tracebacks."""

from __future__ import annotations

import argparse
import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, TWIST, TWISTD, Client, Debugger, run_program
from twisted.python.failure import Failure

from kdsrv.auth.passwords import Credentials
from kdsrv.auth.scram import PLAIN
from kdsrv.client.admission import Admission
from kdsrv.commands.login_options import GivenLogin, given_login
from kdsrv.errors import PeerError
from kdsrv.wire.messages import Challenge, ServerHello

SECRET = "Hunter2Swordfish"
WRONG = "WrongGuess9Xyz"


def spellings(secret: str) -> set[bytes]:
    """A secret in the encodings in which it could be told, each with what base64 makes of it at any offset."""
    forms = {secret.encode(), secret.lower().encode(), secret.encode("utf-16-le"), secret.encode("utf-16-be")}
    for form in tuple(forms):
        forms |= {form.hex().encode(), form.hex().upper().encode(), form[::-1]}
        for offset in range(3):
            text = base64.b64encode(bytes(offset) + form)
            inner = text[4 if offset else 0 : len(text) - 4]
            forms |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


def check_hidden(data: bytes, where: str, *secrets: str) -> None:
    for secret in secrets:
        for form in spellings(secret):
            assert form not in data, f"{form!r} is in {where}"


def test_the_search_finds_what_it_looks_for() -> None:
    for coded in (
        SECRET.encode(),
        SECRET.encode("utf-16-le"),
        SECRET.encode().hex().encode(),
        base64.b64encode(f"n=,p={SECRET};".encode()),
        base64.b64encode(f"{SECRET}".encode()),
    ):
        with pytest.raises(AssertionError):
            check_hidden(b"xx" + coded + b"yy", "a test", SECRET)


class Recorder:
    """A TCP relay that keeps all that goes through it, in both directions."""

    def __init__(self, port: int) -> None:
        self.heard = bytearray()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with source, sink:
            while True:
                try:
                    data = source.recv(65536)
                    self.heard += data
                    sink.sendall(data)
                except OSError:
                    return
                if not data:
                    return

    def close(self) -> None:
        self._listener.close()


def command_line(program: BackgroundProgram) -> bytes:
    return Path(f"/proc/{program.process.pid}/cmdline").read_bytes()


@contextmanager
def server_with_a_password() -> Iterator[tuple[BackgroundProgram, Recorder]]:
    """Both kinds of string with the password in them; a recorder in front of the first."""
    words = [*TWIST, "-t", f"tcp:port=20000:60000,password={SECRET}"]
    words += ["--listen", f"tcp:0:password={SECRET}:interface=127.0.0.1"]
    with BackgroundProgram(words, cwd=ROOT) as server:
        server.wait_for("Starting reactor")
        port = int(server.wait_for(r"listens on 127\.0\.0\.1:(\d+)")[1])
        recorder = Recorder(port)
        try:
            yield server, recorder
        finally:
            recorder.close()


def string(port: int, password: str) -> str:
    return f"kdsrv:server=@{{tcp:server=127.0.0.1,port={port},password={password}}},trans=@{{sim:}}"


def test_a_session_from_beginning_to_end() -> None:
    with server_with_a_password() as (server, recorder):
        with Client(string(recorder.port, SECRET)) as client:
            client.wait_event("ready")
            for program in (server, client):
                line = command_line(program)
                check_hidden(line, "the command line", SECRET)
                assert b"password=*" in line
                check_hidden(Path(f"/proc/{program.process.pid}/comm").read_bytes(), "its name", SECRET)
            with Debugger(client.bridge) as debugger:
                debugger.halt()
        refused = run_program((*KDSRV, "connect", "-k", string(recorder.port, WRONG), "--tcp", "0"))
        assert refused.status == 1
        assert "login refused (0x80004005): wrong user or password" in refused.text
        server.wait_for("login refused")
        assert b"attach" in recorder.heard
        check_hidden(bytes(recorder.heard), "the network", SECRET, WRONG)
        check_hidden(server.text.encode(), "the server's log", SECRET, WRONG)
        check_hidden(client.text.encode() + refused.text.encode(), "what the client says", SECRET, WRONG)


@pytest.mark.parametrize(
    "words",
    [
        (*TWIST, "-t", f"tcp:port=1,pasword={SECRET}"),
        (*TWIST, "-t", f"tcp:prt=1,password={SECRET}"),
        (*TWIST, "--listen", f"tcp:x:password={SECRET}"),
        (*TWIST, "--listen", f"tcp:0:password={SECRET}", "--no-password"),
        (*TWIST, "--listen", f"tcp:1,password={SECRET}"),
        (*TWIST, "--connect", f"tcp:desk:1:Password={SECRET}"),
        (*TWIST, f"tcp:port=1,password={SECRET}"),
        (*TWIST, "-t", f"tcp:port=1,password={SECRET}", "--connect", f"carrier:password={SECRET}"),
        (*TWISTD, "-n", "kdsrv", "-t", f"tcp:port=0,password={SECRET}"),
        (*KDSRV, "connect", "-k", f"kdsrv:server=@{{tcp:server=x,prt=1,password={SECRET}}}"),
        (*KDSRV, "connect", "-k", f"kdsrv:server=@{{tcp:server=127.0.0.1,port=1,password={SECRET}}},trans=@{{sim:}}"),
    ],
    ids=lambda words: " ".join(words[-3:]).replace(SECRET, "SECRET"),
)
def test_mistakes_are_told_without_it(words: tuple[str, ...]) -> None:
    ended = run_program(words)
    assert ended.status != 0
    check_hidden(ended.text.encode(), "the error", SECRET)


def fails_at_the_door(password: str) -> None:
    admission = Admission(Credentials(password, "kim"))
    admission.greeted(ServerHello(1, "a server", (PLAIN,)), None)
    del password
    admission.challenged(Challenge(b"r=nothing"))


def test_tracebacks_hold_nothing() -> None:
    """Also those that show what all variables are, and so the globals of this file."""
    parts = ["Hunter3", "Octopus"]
    try:
        fails_at_the_door("".join(parts))
    except PeerError:
        failure = Failure(captureVars=True)
    for detail in ("default", "brief", "verbose"):
        text = failure.getTraceback(detail=detail).encode()
        assert b"challenge is none" in text
        check_hidden(text, "a traceback", "".join(parts))


def test_the_environment_is_used_up(tmp_path: Path) -> None:
    environ = {"KDSRV_PASSWORD": SECRET, "HOME": "/"}
    login = given_login(argparse.Namespace(user="kim", password_file=None), environ)
    assert login == GivenLogin("kim", SECRET)
    assert environ == {"HOME": "/"}
    check_hidden(repr(login).encode(), "its repr", SECRET)
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text("other\n")
    environ = {"KDSRV_PASSWORD": SECRET}
    assert given_login(argparse.Namespace(user="", password_file=path), environ) == ("", "other")
    assert environ == {}
    assert given_login(argparse.Namespace(user="", password_file=None), {}) == ("", None)


def test_files_and_the_environment_log_in(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text(f"{SECRET}\n")
    listen = ("--listen", "tcp:0:interface=127.0.0.1", "--password-file", str(path))
    with BackgroundProgram([*TWIST, *listen], cwd=ROOT) as server:
        port = int(server.wait_for(r"listens on 127\.0\.0\.1:(\d+)")[1])
        bare = f"kdsrv:server=@{{tcp:server=127.0.0.1,port={port}}},trans=@{{sim:}}"
        with Client(bare, "--tcp", "0", "--password-file", str(path), "--user", "kim") as client:
            client.wait_event("ready")
        server.wait_for("logged in as 'kim'")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KDSRV_PASSWORD", SECRET)
            client = Client(bare)
            with client:
                client.wait_event("ready")
        missing = run_program((*KDSRV, "connect", "-k", bare, "--tcp", "0"))
        assert (missing.status, "none was given (0x80004005)" in missing.text) == (1, True)
        check_hidden(server.text.encode(), "the server's log", SECRET)
