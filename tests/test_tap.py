"""The options of ``twist kdsrv``: what they make of the command line, and that a wrong one names the part at fault."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from twisted.application.app import ServerOptions as TwistdOptions
from twisted.application.twist._options import TwistOptions
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import capturedLogs, formatEvent
from twisted.python.usage import UsageError

from kdsrv import __version__
from kdsrv.auth.passwords import Verifier
from kdsrv.auth.users import User, UserBook, user_line
from kdsrv.errors import SetupError
from kdsrv.first_free_port import FirstFreePort
from kdsrv.server.made_password import show_password
from kdsrv.server.service import KdsrvService
from kdsrv.tap import Options, StartFailed, makeService


def parsed(*words: str) -> Options:
    options = Options()
    options.parseOptions(list(words))
    return options


REVERSE = "tcp:port=6,clicon=[::1]"
SERIAL = "com:port=/dev/ttyUSB0,baud=115200"
BRIDGE = "listen=@{tcp:0},trans=@{sim:}"


def test_each_option_may_be_repeated() -> None:
    options = parsed("--listen", "tcp:0", "--listen=unix:/tmp/x", "-t", "tcp:port=1", "--transport", "tcp:port=5:9")
    assert len(options.endpoints) == 4
    assert all(IStreamServerEndpoint.providedBy(endpoint.way) for endpoint in options.endpoints)
    assert isinstance(options.endpoints[-1].way, FirstFreePort)
    assert [str(bridge.trans) for bridge in parsed("--bridge", BRIDGE, "--bridge", BRIDGE).bridges] == ["sim:", "sim:"]
    assert isinstance(makeService(options), KdsrvService)


def test_listening_and_dialling_can_be_mixed() -> None:
    options = parsed("--listen", "tcp:0", "--connect", "tcp:localhost:5", "--connect", "unix:/tmp/x", "-t", REVERSE)
    assert len(options.endpoints) == 1
    assert [one.way.address for one in options.destinations] == ["localhost:5", "/tmp/x", "[::1]:6"]
    assert parsed("--connect", "tcp:host=127.0.0.1:port=5:timeout=3").destinations[0].way.address == "127.0.0.1:5"
    assert parsed("-t", REVERSE).endpoints == []
    far = parsed("--connect", "tcp:desk:5000", "-t", "tcp:port=1,clicon=desk", "--no-password").destinations
    assert [one.way.address for one in far] == ["desk:5000", "desk:1"]


PENCIL = "-t", "tcp:port=1,password=pencil"


def written(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def fits(book: UserBook | None, password: str, user: str = "") -> bool:
    assert book is not None
    found, verifier = book.find(user)
    return found is not None and verifier.fits(password)


def test_what_is_hidden_gives_no_listing_whoever_dials() -> None:
    options = parsed("-t", "tcp:port=5,hidden", "-t", "tcp:port=6,clicon=desk,hidden", "-t", "tcp:port=7,clicon=desk")
    assert [way.hidden for way in options.endpoints] == [True]
    assert [way.hidden for way in options.destinations] == [True, False]


def test_a_password_is_made_if_none_is_given() -> None:
    options = parsed("--listen", "tcp:0", "-t", "tcp:port=1", "--connect", "tcp:desk:5000")
    made = options.entry_keys.made
    assert made is not None
    assert {way.book for way in (*options.endpoints, *options.destinations)} == {options.endpoints[0].book}
    assert fits(options.endpoints[0].book, made)
    assert made != parsed("--listen", "tcp:0").entry_keys.made


def test_sockets_for_the_owner_alone_need_none() -> None:
    for text in ("unix:/tmp/x", "unix:/tmp/x:mode=600", "unix:/tmp/x:mode=660"):
        options = parsed("--listen", text)
        assert options.endpoints[0].book is None
        assert options.entry_keys.made is None
    assert parsed("--listen", "unix:/tmp/x:mode=666").entry_keys.made


def test_each_string_may_have_its_password() -> None:
    words = ("--listen", "tcp:0:password=a:interface=127.0.0.1", "--listen", r"unix:/tmp/x:password=b\:b", *PENCIL)
    options = parsed(*words, "--connect", "tcp:desk:5000:password=pencil", "--listen", "tcp:0")
    books = [way.book for way in (*options.endpoints, *options.destinations)]
    made = options.entry_keys.made
    assert made is not None
    for book, password in zip(books, ("a", "b:b", made, "pencil", "pencil"), strict=True):
        assert fits(book, password)
    assert books[3] is books[4]
    assert options.endpoints[0].way._interface == "127.0.0.1"  # type: ignore[attr-defined]
    assert "pencil" not in repr(options.endpoints) + repr(options.destinations)


def test_one_file_for_all_that_have_none(tmp_path: Path) -> None:
    path = written(tmp_path / "password", "secret\n")
    options = parsed("--listen", "tcp:0", "--listen", "unix:/tmp/x", *PENCIL, "--password-file", path)
    assert options.entry_keys.made is None
    for endpoint, password in zip(options.endpoints, ("secret", "secret", "pencil"), strict=True):
        assert fits(endpoint.book, password)


def test_users(tmp_path: Path) -> None:
    line = user_line(User("kim"), Verifier.of("secret", b"s" * 16))
    options = parsed("--listen", "tcp:0", "--users", written(tmp_path / "users", line))
    assert fits(options.endpoints[0].book, "secret", "kim")
    assert not fits(options.endpoints[0].book, "secret", "tom")


def test_the_password_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "kdsrv-password", "secret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    options = parsed("--listen", "tcp:0", "--listen", "unix:/tmp/x")
    assert options.entry_keys.made is None
    assert all(fits(endpoint.book, "secret") for endpoint in options.endpoints)
    assert parsed("--listen", "tcp:0", "--no-password").endpoints[0].book is None


def test_no_password_opens_it() -> None:
    options = parsed("--listen", "tcp:0", "-t", "tcp:port=1", "--connect", "tcp:desk:5000", "--no-password")
    assert [way.book for way in (*options.endpoints, *options.destinations)] == [None] * 3
    assert options.entry_keys.made is None


def test_a_password_that_was_made_is_shown_with_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    said, stream = os.fdopen(reading), os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "__stderr__", stream)
    options = parsed("--listen", "tcp:0:interface=127.0.0.1", "--listen", "tcp:0", *PENCIL[:1], "tcp:port=40000:60000")
    service = makeService(options)
    assert isinstance(service, KdsrvService)
    service.startService()
    try:
        made = options.entry_keys.made
        ports = [port.getHost().port for port in service.ports]
        stream.close()
        first, *commands, last = said.read().splitlines()
    finally:
        said.close()
        for port in service.ports:
            port.connectionLost(None)
    assert first == f"kdsrv: no password was given, so one was made for this run: {made}"
    assert last == "kdsrv: at each start it is another one; --password-file keeps one"
    assert [command.strip() for command in commands] == [
        f"kdsrv connect -k 'kdsrv:server=@{{tcp:server={host},port={port},password={made}}},trans=@{{{SERIAL}}}'"
        for host, port in zip(("127.0.0.1", socket.gethostname(), socket.gethostname()), ports, strict=True)
    ]


def test_what_clients_type_is_in_the_log_without_a_password(tmp_path: Path) -> None:
    line = user_line(User("kim"), Verifier.of("secret", b"s" * 16))
    users, one = written(tmp_path / "users", line), written(tmp_path / "one", "hunter2")
    for words, options in (
        (("--users", users), "--user NAME --password-file FILE "),
        (("--password-file", one), "--password-file FILE "),
        (("--no-password",), ""),
    ):
        targets = ("--target", "rack1=sim:", "--target", "rack2=sim:")
        service = makeService(parsed("--listen", "tcp:0:interface=127.0.0.1", *targets, *words))
        assert isinstance(service, KdsrvService)
        with capturedLogs() as logged:
            service.startService()
        (port,) = service.ports
        number = port.getHost().port
        port.connectionLost(None)
        said = [formatEvent(event) for event in logged if "command" in event]
        server = f"kdsrv:server=@{{tcp:server=127.0.0.1,port={number}}}"
        assert said == [f"clients come in with kdsrv connect {options}-k '{server},trans=@{{target:name=rack1}}'"]


def test_a_password_that_nobody_would_see_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w") as nowhere:
        monkeypatch.setattr(sys, "__stderr__", nowhere)
        service = makeService(parsed("--connect", "tcp:localhost:5000"))
        with pytest.raises(StartFailed, match="would be seen by nobody; say --password-file"):
            service.startService()
        assert isinstance(service, KdsrvService)
        for initiator in service._initiators:
            initiator.stopService()


def test_a_password_is_not_left_in_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd names the journal's end of stderr by its device and inode. Any other program that reads may have it."""
    reading, writing = os.pipe()
    with open(reading) as said, open(writing, "w") as journal:
        found = os.fstat(writing)
        monkeypatch.setattr(sys, "__stderr__", journal)
        with pytest.raises(SetupError, match="would stay in the journal; say --password-file"):
            show_password("made", [], {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        show_password("made", ["type this"], {"JOURNAL_STREAM": f"{found.st_dev}:1"})
        journal.close()
        assert said.read().splitlines()[1:-1] == ["    type this"]


def test_a_password_is_not_left_in_a_log_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "nohup.log", "w+") as log:
        monkeypatch.setattr(sys, "__stderr__", log)
        with pytest.raises(SetupError, match=r"would stay in a log file; say --password-file, .* at a terminal"):
            show_password("made", ["type this"], {})
        log.seek(0)
        assert log.read() == ""


WRONG: dict[tuple[str, ...], tuple[str, ...]] = {
    (): ("say where to listen", "--listen tcp:1234"),
    ("--no-password",): ("say where to listen",),
    ("--listen",): ("--listen", "requires argument"),
    ("--lsten", "tcp:1"): ("--lsten",),
    ("--no-password=yes", "--listen", "tcp:0"): ("--no-password",),
    ("--listen", "tcp:0", "tcp:1"): ("'tcp:1'", "belongs to no option"),
    ("--listen", "tcp:http"): ("--listen", "'tcp:http'", "tcp:1234", "unix:"),
    ("--listen", "tcp:"): ("'tcp:'", "it names no port", "tcp:1234"),
    ("--listen", "tcp::interface=::1"): ("it names no port",),
    ("--listen", "tcp:1300:lingr=3"): (
        "lingr= is no part of it; these are: port, interface, backlog, linger, password",
    ),
    ("--listen", "tcp:1300:::1:5:6"): ("has no name before it",),
    ("--listen", "tcp:1300:backlog=many"): ("the backlog is a number, not 'many'",),
    ("--listen", "unix:"): ("it names no address",),
    ("--listen", "unix:/tmp/x:mode=rw"): ("the mode is an octal number such as 600, not 'rw'",),
    ("--connect", "tcp:desk"): ("it names no port", "tcp:desk:5000"),
    ("--connect", "tcp:"): ("it names no host", "tcp:desk:5000"),
    ("--connect", "tcp:desk:5000:linge=3"): ("linge= is no part of it",),
    ("--connect", "unix:"): ("it names no path",),
    ("--listen", "tcp:99999"): ("--listen", "'tcp:99999'", "0 to 65535"),
    ("--listen", "carrier:pigeon"): ("--listen", "'carrier'", "tcp:1234"),
    ("--listen", ""): ("--listen", "tcp:1234"),
    ("--listen", "tcp:0", "--listen", "tcp:x"): ("'tcp:x'",),
    ("-t", "tcp:prt=1"): ("-t", "column 5", '"prt"', "port, clicon"),
    ("-t", "tcp:port=x"): ("-t", "column 10", "port"),
    ("-t", "tcp:port=0"): ("-t", "column 10", "port"),
    ("-t", "carrier:port=1"): ("-t", "column 1", "tcp"),
    ("tcp:port=1,password=hunter2",): ("belongs to no option",),
    ("--listen", "tcp:0:password="): ("--listen", "password= is empty"),
    ("--listen", "tcp:0:password=hunter2:password=hunter3"): ("--listen", "twice"),
    ("--listen", "tcp:x:password=hunter2"): ("--listen", "'tcp:x'"),
    ("-t", "tcp:port=1,password=hunter2", "--no-password"): ("-t", "contradict"),
    ("--listen", "tcp:0:password=hunter2", "--no-password"): ("--listen", "contradict"),
    ("--listen", "tcp:0", "--users", "/none"): ("cannot read /none",),
    ("--listen", "tcp:0", "--password-file", "/none"): ("cannot read /none",),
    ("--listen", "tcp:0", "--password-file", "/none", "--no-password"): ("exclude each other",),
    ("--listen", "tcp:0", "--password-file", "/none", "--users", "/none"): ("exclude each other",),
    ("--connect", "tcp:localhost"): ("--connect", "'tcp:localhost'", "tcp:desk:5000"),
    ("--connect", "tcp:localhost:x"): ("--connect", "'tcp:localhost:x'", "tcp:desk:5000"),
    ("--connect", "tcp:localhost:70000"): ("--connect", "1 to 65535"),
    ("--connect", "tls:localhost:1"): ("--connect", "ssl:"),
    ("--connect", "carrier:pigeon"): ("--connect", "'carrier'", "tcp:desk:5000"),
    ("--connect", ""): ("--connect", "tcp:desk:5000"),
    ("-t", "tcp:port=1:5,clicon=localhost"): ("-t", "one port"),
    ("-t", ""): ("-t", "column 1"),
    ("--bridge", "tcp:1"): ("--bridge", "column 4"),
    ("--bridge", "listen=@{tcp:1}"): ("--bridge", "trans"),
    ("--bridge", "trans=@{sim:}"): ("--bridge", "listen"),
    ("--bridge", "listen=@{tcp:1},trans=@{com:prt=1}"): ("--bridge", '"prt"', "port, baud, pipe"),
    ("--bridge", "listen=@{udp:1},trans=@{sim:}"): ("--bridge", "'udp:1'", "tcp:PORT", "unix:PATH"),
    ("--bridge", "listen=@{tcp:70000},trans=@{sim:}"): ("--bridge", "'tcp:70000'", "tcp:PORT"),
    ("--bridge", "listen=@{unix:},trans=@{sim:}"): ("--bridge", "unix"),
    ("--bridge", "listen=@{tcp:1:interface=0.0.0.0},trans=@{sim:}"): ("--bridge", "beyond this host", "--open-bridges"),
    ("--bridge", "listen=@{tcp:1:interface=lab},trans=@{sim:}"): ("--bridge", "beyond this host", "--open-bridges"),
}


@pytest.mark.parametrize("where", ["unix:/tmp/x", "tcp:1", "tcp:1:interface=localhost", r"tcp:1:interface=\:\:1"])
def test_bridges_on_this_host_need_no_leave(where: str) -> None:
    assert parsed("--bridge", f"listen=@{{{where}}},trans=@{{sim:}}").bridges


def test_bridges_may_be_opened_to_other_hosts() -> None:
    assert parsed("--open-bridges", "--bridge", "listen=@{tcp:1:interface=0.0.0.0},trans=@{sim:}").bridges


@pytest.mark.parametrize(("words", "wanted"), WRONG.items(), ids=" ".join)
def test_a_wrong_command_line(words: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refusal:
        parsed(*words)
    text = str(refusal.value)
    assert all(word in text for word in wanted), text
    assert "hunter2" not in text


def test_a_mistake_is_not_buried_under_all_options() -> None:
    for program, named in ((TwistdOptions(), "twistd"), (TwistOptions(), "twist")):
        options = Options()
        options.parent = program
        assert "--password-file" in options.getUsage()
        with pytest.raises(UsageError):
            options.parseOptions(["--listen", "tcp:x"])
        assert options.getUsage() == f"see {named} kdsrv --help"


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
