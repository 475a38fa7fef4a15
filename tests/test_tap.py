"""The options of ``twist kdsrv``: what they make of the command line, and that a wrong one names the part at fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python.usage import UsageError

from kdsrv import __version__
from kdsrv.server.listening import FirstFreePort
from kdsrv.server.service import KdsrvService
from kdsrv.tap import Options, StartFailed, makeService


def parsed(*words: str) -> Options:
    options = Options()
    options.parseOptions(list(words))
    return options


REVERSE = "tcp:port=6,clicon=[::1]"
BRIDGE = "listen=@{tcp:0},trans=@{sim:}"


def test_each_option_may_be_repeated() -> None:
    options = parsed("--listen", "tcp:0", "--listen=unix:/tmp/x", "-t", "tcp:port=1", "--transport", "tcp:port=5:9")
    assert len(options.endpoints) == 4
    assert all(IStreamServerEndpoint.providedBy(endpoint) for endpoint in options.endpoints)
    assert isinstance(options.endpoints[-1], FirstFreePort)
    assert [str(bridge.trans) for bridge in parsed("--bridge", BRIDGE, "--bridge", BRIDGE).bridges] == ["sim:", "sim:"]
    assert isinstance(makeService(options), KdsrvService)


def test_listening_and_dialling_can_be_mixed() -> None:
    options = parsed("--listen", "tcp:0", "--connect", "tcp:localhost:5", "--connect", "unix:/tmp/x", "-t", REVERSE)
    assert len(options.endpoints) == 1
    assert [one.address for one in options.destinations] == ["localhost:5", "/tmp/x", "[::1]:6"]
    assert parsed("--connect", "tcp:host=127.0.0.1:port=5:timeout=3").destinations[0].address == "127.0.0.1:5"
    assert parsed("-t", REVERSE).endpoints == []
    far = parsed("--connect", "tcp:desk:5000", "-t", "tcp:port=1,clicon=desk", "--no-password").destinations
    assert [one.address for one in far] == ["desk:5000", "desk:1"]


def test_no_password_opens_it() -> None:
    parsed("--listen", "tcp:0:interface=0.0.0.0", "--no-password")
    with pytest.raises(UsageError, match="say --no-password to allow it"):
        parsed("--listen", "tcp:0:interface=0.0.0.0")


WRONG: dict[tuple[str, ...], tuple[str, ...]] = {
    (): ("say where to listen", "--listen tcp:1234"),
    ("--no-password",): ("say where to listen",),
    ("--listen",): ("--listen", "requires argument"),
    ("--lsten", "tcp:1"): ("--lsten",),
    ("--no-password=yes", "--listen", "tcp:0"): ("--no-password",),
    ("--listen", "tcp:0", "tcp:1"): ("'tcp:1'", "belongs to no option"),
    ("--listen", "tcp:http"): ("--listen", "'tcp:http'", "tcp:1234", "unix:"),
    ("--listen", "tcp:99999"): ("--listen", "'tcp:99999'", "0 to 65535"),
    ("--listen", "carrier:pigeon"): ("--listen", "'carrier'", "tcp:1234"),
    ("--listen", ""): ("--listen", "tcp:1234"),
    ("--listen", "tcp:0", "--listen", "tcp:x"): ("'tcp:x'",),
    ("-t", "tcp:prt=1"): ("-t", "column 5", '"prt"', "port, clicon"),
    ("-t", "tcp:port=x"): ("-t", "column 10", "port"),
    ("-t", "tcp:port=0"): ("-t", "column 10", "port"),
    ("-t", "carrier:port=1"): ("-t", "column 1", "tcp"),
    ("-t", "npipe:pipe=x"): ("-t", "npipe:", "tcp:port=1234"),
    ("-t", "tcp:port=1,password=hunter2"): ("-t", "password="),
    ("-t", "tcp:port=1,clicon=lab"): ("-t", "'lab'", "--no-password"),
    ("--connect", "tcp:lab:1"): ("--connect", "'lab'", "--no-password"),
    ("--connect", "ssl:192.0.2.1:1"): ("--connect", "'192.0.2.1'", "--no-password"),
    ("--connect", "tcp:localhost"): ("--connect", "'tcp:localhost'", "tcp:desk:5000"),
    ("--connect", "tcp:localhost:x"): ("--connect", "'tcp:localhost:x'", "tcp:desk:5000"),
    ("--connect", "tcp:localhost:70000"): ("--connect", "1 to 65535"),
    ("--connect", "tls:localhost:1"): ("--connect", "ssl:"),
    ("--connect", "carrier:pigeon"): ("--connect", "'carrier'", "tcp:desk:5000"),
    ("--connect", "tcp:localhost:1:password=hunter2"): ("--connect", "password="),
    ("--connect", ""): ("--connect", "tcp:desk:5000"),
    ("-t", "tcp:port=1:5,clicon=localhost"): ("-t", "one port"),
    ("-t", "tcp:port=1,clicon=localhost,password=hunter2"): ("-t", "password="),
    ("-t", ""): ("-t", "column 1"),
    ("--bridge", "tcp:1"): ("--bridge", "column 4"),
    ("--bridge", "listen=@{tcp:1}"): ("--bridge", "trans"),
    ("--bridge", "trans=@{sim:}"): ("--bridge", "listen"),
    ("--bridge", "listen=@{tcp:1},trans=@{com:prt=1}"): ("--bridge", '"prt"', "port, baud, pipe"),
    ("--bridge", "listen=@{udp:1},trans=@{sim:}"): ("--bridge", "'udp:1'", "tcp:PORT", "unix:PATH"),
    ("--bridge", "listen=@{tcp:70000},trans=@{sim:}"): ("--bridge", "'tcp:70000'", "tcp:PORT"),
    ("--bridge", "listen=@{unix:},trans=@{sim:}"): ("--bridge", "unix"),
}


@pytest.mark.parametrize(("words", "wanted"), WRONG.items(), ids=" ".join)
def test_a_wrong_command_line(words: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refusal:
        parsed(*words)
    text = str(refusal.value)
    assert all(word in text for word in wanted), text
    assert "hunter2" not in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed("--version")
    assert end.value.code == 0
    assert capsys.readouterr().out == f"kdsrv {__version__}\n"


@pytest.mark.parametrize("begin", ["privilegedStartService", "startService"])
def test_a_failed_start_ends_the_program_with_a_sentence(begin: str, tmp_path: Path) -> None:
    """It is an Exception too: twistd tells the waiting parent of those only."""
    service = makeService(parsed("--listen", f"unix:{tmp_path}/no/where"))
    with pytest.raises(StartFailed) as failure:
        getattr(service, begin)()
    assert failure.value.code == f"kdsrv: the server cannot listen: {tmp_path}/no/where: No such file or directory"
    assert isinstance(failure.value, Exception)
    assert not os.path.lexists(tmp_path / "no")
