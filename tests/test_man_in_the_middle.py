"""Somebody between a client and a server: ends TLS with a certificate of its own, and passes on what it likes."""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, TWIST, Client, run_program
from tls_rig import issue, write

SECRET = "Hunter2Swordfish"
ALPN = ["kdsrv/1"]
Change = Callable[[bytes], bytes]


def as_it_is(data: bytes) -> bytes:
    return data


def offering(login: bytes) -> Change:
    """Puts other login methods into the server's hello."""

    def change(data: bytes) -> bytes:
        if b'"type":"hello"' not in data:
            return data
        body = re.sub(rb'"login":\[[^]]*\]', b'"login":[' + login + b"]", data[4:])
        return len(body).to_bytes(4, "big") + body

    return change


class Middle:
    """Takes TLS clients on ``port`` and is a TLS client of the server for each. ``seen`` is all it has read."""

    def __init__(self, server: int, certificate: Path, change: Change) -> None:
        self.seen = bytearray()
        self._server = server
        self._change = change
        self._inner = ssl.create_default_context()
        self._inner.check_hostname = False
        self._inner.verify_mode = ssl.CERT_NONE
        self._outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._outer.load_cert_chain(certificate)
        for context in (self._inner, self._outer):
            context.set_alpn_protocols(ALPN)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._stand_between, args=(raw,), daemon=True).start()

    def _stand_between(self, raw: socket.socket) -> None:
        """One thread for both ways, since two may not use one TLS socket at the same time."""
        ends: list[ssl.SSLSocket] = []
        with suppress(OSError):
            ends.append(self._outer.wrap_socket(raw, server_side=True))
            ends.append(self._inner.wrap_socket(socket.create_connection(("127.0.0.1", self._server))))
            near, far = ends
            while self._pass_on(near, far, as_it_is) and self._pass_on(far, near, self._change):
                if not near.pending() and not far.pending():
                    select.select(ends, [], [], 1)
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _pass_on(self, source: ssl.SSLSocket, sink: ssl.SSLSocket, change: Change) -> bool:
        """Pass on what has come. False at the end."""
        source.settimeout(0)
        try:
            data = source.recv(65536)
        except ssl.SSLWantReadError:
            return True
        self.seen += data
        sink.settimeout(10)
        sink.sendall(change(data))
        return bool(data)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def tls_server(tmp_path: Path, *options: str) -> Iterator[tuple[BackgroundProgram, int]]:
    words = (*TWIST, "--listen", "ssl:0:interface=127.0.0.1", "--state-dir", str(tmp_path / "state"), *options)
    with BackgroundProgram(words, cwd=ROOT) as server:
        yield server, int(server.wait_for(r"listens on 127\.0\.0\.1:(\d+)")[1])


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write(tmp_path / "middle.pem", issue("lab", hosts=("localhost",)))


def string(port: int, password: str | None = SECRET) -> str:
    login = "" if password is None else f",password={password}"
    return f"kdsrv:server=@{{ssl:server=127.0.0.1,port={port}{login}}},trans=@{{sim:}}"


def connect(text: str) -> tuple[int, str]:
    done = run_program((*KDSRV, "connect", "--no-reconnect", "--tcp", "0", "-k", text))
    return done.status, done.text.strip()


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text(SECRET)
    return str(path)


def test_logins_pass_nobody_in_between(tmp_path: Path, certificate: Path, password_file: str) -> None:
    with tls_server(tmp_path, "--password-file", password_file) as (server, port):
        with Client(string(port)) as client:
            client.wait_event("ready")
        server.wait_for("logged in")
        middle = Middle(port, certificate, as_it_is)
        status, said = connect(string(middle.port))
        assert status == 1
        assert said.startswith("kdsrv: the server says: login refused (0x80004005): wrong user or password")
        server.wait_for("login refused")
        assert server.text.count("logged in") == 1
        assert b"attach" not in middle.seen
        middle.close()


@pytest.mark.parametrize(
    ("login", "says"),
    [
        (b'"SCRAM-SHA-256"', "the server offers no login bound to this TLS connection"),
        (b"", "the server wants no password and proves nothing"),
    ],
)
def test_weaker_logins_are_not_taken(
    tmp_path: Path, certificate: Path, password_file: str, login: bytes, says: str
) -> None:
    with tls_server(tmp_path, "--password-file", password_file) as (server, port):
        middle = Middle(port, certificate, offering(login))
        status, said = connect(string(middle.port))
        assert status == 1
        assert says in said
        assert b"SCRAM" in middle.seen
        assert b"attach" not in middle.seen
        assert b'"type":"login"' not in middle.seen
        middle.close()
        assert "logged in" not in server.text


def test_the_middle_itself_works(tmp_path: Path, certificate: Path) -> None:
    """Where nobody has to log in, nothing stops it: so what is refused above is not refused for another reason."""
    with tls_server(tmp_path, "--no-password") as (_, port):
        middle = Middle(port, certificate, as_it_is)
        with Client(string(middle.port, None)) as client:
            client.wait_event("ready")
        assert b"attach" in middle.seen
        middle.close()
