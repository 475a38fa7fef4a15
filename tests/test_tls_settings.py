"""What options and strings say about certificates, SIGHUP, and what openssl's own client sees of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tls_rig import Lab, issue, write
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import TestCase

from kdsrv.connection_strings import parse_client_string, parse_server_string
from kdsrv.errors import SetupError
from kdsrv.tls.contexts import ClientTls, Trust
from kdsrv.tls.hangup import HangupService
from kdsrv.tls.settings import ClientCertificates, ServerCertificates


def server_tls_of(certificates: ServerCertificates, text: str) -> Any:
    return certificates.server_tls_of_spec(parse_server_string(text))  # type: ignore[arg-type]


def client_tls_of(text: str, **options: Any) -> ClientTls:
    return ClientCertificates(**options).client_tls_of_spec(parse_client_string(text))  # type: ignore[arg-type]


def test_nothing_is_made_before_it_is_asked_for(tmp_path: Path) -> None:
    certificates = ServerCertificates(state=tmp_path / "s", host="lab")
    assert certificates.fingerprints == []
    assert not (tmp_path / "s").exists()
    tls = certificates.server_tls()
    assert certificates.fingerprints == [tls.fingerprint]
    assert certificates.server_tls() is tls


def test_the_servers_string(tmp_path: Path) -> None:
    mine, named = issue("mine"), issue("named")
    certificates = ServerCertificates(certificate=write(tmp_path / "mine.pem", mine), state=tmp_path / "s")
    path = write(tmp_path / "named.pem", named)
    own = f"ssl:proto=tls1,certuser={mine.fingerprint.upper()},port=5"
    assert server_tls_of(certificates, own).fingerprint == mine.fingerprint
    assert server_tls_of(certificates, "ssl:port=5").fingerprint == mine.fingerprint
    assert server_tls_of(certificates, f"ssl:machuser={path},port=5").fingerprint == named.fingerprint
    assert server_tls_of(certificates, f"spipe:certuser={path},pipe=x").fingerprint == named.fingerprint
    assert certificates.fingerprints == [mine.fingerprint, named.fingerprint]
    for text, words in {
        f"ssl:certuser={named.fingerprint},port=5": f"is not the server's, .* fingerprint {mine.fingerprint}",
        "ssl:certuser=lab.example,port=5": "'lab.example' is neither a file nor a sha256 fingerprint",
        f"ssl:certuser={tmp_path}/none,port=5": "cannot read",
    }.items():
        with pytest.raises(SetupError, match=words):
            server_tls_of(certificates, text)
    with pytest.raises(SetupError, match="belongs to a certificate"):
        ServerCertificates(key=path)


def test_a_broken_list_of_visitors_stops_the_start(tmp_path: Path) -> None:
    for text, words in {"ab" * 20: "sha1", str(tmp_path / "none"): "cannot read"}.items():
        with pytest.raises(SetupError, match=words):
            ServerCertificates(state=tmp_path / "s", visitors=[text]).server_tls()


def test_the_clients_string(tmp_path: Path) -> None:
    identity = issue("lab")
    public = write(tmp_path / "lab.pem", identity, key=False)
    pinned = Trust(pins=frozenset({identity.fingerprint}), name="lab")
    assert client_tls_of(f"ssl:server=lab,port=5,certuser={public}")._trust == pinned
    assert client_tls_of(f"ssl:clicon=lab,port=5,machuser={identity.fingerprint}")._trust == pinned
    assert client_tls_of("ssl:server=lab,port=5")._trust == Trust(name="lab")
    signed = client_tls_of("ssl:server=lab,port=5", authorities=(str(public),))
    assert signed._trust == Trust(authorities=identity.chain, name="lab")
    both = client_tls_of(f"ssl:server=lab,port=5,certuser={public}", authorities=(str(public),))
    assert both._trust == pinned, "a pin says more than an authority"
    with pytest.raises(SetupError, match="neither a file nor"):
        client_tls_of("ssl:server=lab,port=5,certuser=lab")
    with pytest.raises(SetupError, match="a certificate names a host"):
        client_tls_of("spipe:server=.,pipe=x", authorities=(str(public),))
    with pytest.raises(SetupError, match="belongs to a certificate"):
        ClientCertificates(key=public).client_tls("lab")


class LabCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.lab = Lab()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.lab.close()))


class Hangups(LabCase):
    async def test_sighup_reads_again_and_a_broken_file_changes_nothing(self) -> None:
        path = write(self.folder / "cert.pem", issue("old"))
        certificates = ServerCertificates(certificate=path)
        tls = certificates.server_tls()
        done: list[Deferred[None]] = []

        def reload() -> None:
            certificates.reload()
            done[-1].callback(None)

        async def hang_up() -> None:
            done.append(Deferred())
            os.kill(os.getpid(), signal.SIGHUP)
            assert not done[-1].called, "a handler of a signal may come in the middle of anything"
            await done[-1]

        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        service = HangupService(reactor, reload)
        service.startService()
        self.addCleanup(lambda: service.running and service.stopService())
        new = issue("new")
        write(path, new)
        await hang_up()
        assert tls.fingerprint == new.fingerprint
        sentences: list[Any] = []
        globalLogPublisher.addObserver(sentences.append)
        self.addCleanup(globalLogPublisher.removeObserver, sentences.append)
        path.write_text("half of a certif")
        await hang_up()
        assert tls.fingerprint == new.fingerprint
        (event,) = [event for event in sentences if event["log_level"] == LogLevel.error]
        assert event["log_format"] == "the TLS certificate stays as it is: {error}"
        port, _ = await self.lab.listen(tls)
        near = await self.lab.dial(port, ClientTls(Trust(pins=frozenset({new.fingerprint}))))
        await near.shaken
        service.stopService()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


class OpensslClient(LabCase):
    """A TLS implementation with nothing of ours in it."""

    if shutil.which("openssl") is None and os.environ.get("CI") != "true":
        skip = "openssl is not installed"

    async def ask(self, port: int, *options: str) -> str:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options]
        run = await deferToThread(
            subprocess.run, command, input=b"", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20
        )
        return str(run.stdout, "latin-1")

    async def test_it_cannot_get_in_below_tls_1_3(self) -> None:
        tls = ServerCertificates(state=self.folder / "s", host="lab").server_tls()
        port, factory = await self.lab.listen(tls)
        for version in ("-tls1_2", "-no_tls1_3"):
            seen = await self.ask(port, version, "-alpn", "kdsrv/1")
            assert "alert protocol version" in seen
            assert "no peer certificate available" in seen
        assert all(not end.shaken.called for end in factory.made)
        assert len(factory.made) == 2

    async def test_it_sees_the_certificate_meant_for_it(self) -> None:
        certificates = ServerCertificates(state=self.folder / "s", host="lab")
        other = write(self.folder / "other.pem", issue("other.example"))
        for tls in (certificates.server_tls(), certificates.server_tls_of_files(other)):
            port, _ = await self.lab.listen(tls)
            seen = await self.ask(port, "-tls1_3", "-alpn", "kdsrv/1")
            assert "New, TLSv1.3" in seen
            assert "ALPN protocol: kdsrv/1" in seen
            shown = subprocess.run(
                ["openssl", "x509", "-noout", "-fingerprint", "-sha256"],
                input=seen.encode("latin-1"),
                stdout=subprocess.PIPE,
                check=True,
            ).stdout.decode()
            assert shown.partition("=")[2].strip().replace(":", "").lower() == tls.fingerprint

    async def test_it_does_not_resume(self) -> None:
        port, _ = await self.lab.listen(ServerCertificates(state=self.folder / "s", host="lab").server_tls())
        session = self.folder / "session"
        await self.ask(port, "-alpn", "kdsrv/1", "-sess_out", str(session))
        again = await self.ask(port, "-alpn", "kdsrv/1", *(["-sess_in", str(session)] if session.exists() else []))
        assert "New, TLSv1.3" in again
        assert "Reused" not in again

    async def test_without_the_certificate_asked_for_it_gets_nothing(self) -> None:
        mine = issue("me")
        path = write(self.folder / "me.pem", mine)
        certificates = ServerCertificates(state=self.folder / "s", host="lab", visitors=[mine.fingerprint])
        port, factory = await self.lab.listen(certificates.server_tls())
        arrived = factory.arrived
        refused = self.ask(port, "-alpn", "kdsrv/1")
        await refused
        end = await arrived
        await end.lost
        assert not end.shaken.called
        arrived = factory.arrived
        await self.ask(port, "-alpn", "kdsrv/1", "-cert", str(path), "-key", str(path))
        end = await arrived
        await end.shaken
