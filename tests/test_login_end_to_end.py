"""Logins as users meet them: programs, files and what is printed, without a test's help in between."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, TWIST, TWISTD, Client, Server, run_program

LOCAL = "tcp:0:interface=127.0.0.1"
REFUSED = "the server says: login refused (0x80004005): wrong user or password"
NAMELESS = f"{REFUSED} (no user name was given; a server with --users wants --user NAME)"


def secret_file(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def test_the_command_that_is_printed_works_as_it_is() -> None:
    with BackgroundProgram([*TWIST, "--listen", LOCAL, "--target", "rack1=sim:"], cwd=ROOT) as server:
        made = server.wait_for(r"^kdsrv: no password was given, so one was made for this run: (\w{20})$")[1]
        command = shlex.split(server.wait_for(r"^    (kdsrv connect .*)$")[1])
        server.wait_for("Starting reactor")
        assert command[0] == "kdsrv"
        with BackgroundProgram([*KDSRV, *command[1:], "--tcp", "0"], cwd=ROOT) as client:
            client.wait_for("^holding ")
        assert re.search(r"\d has logged in$", server.text, re.MULTILINE), "nobody has a name there"
        assert server.text.count(made) == 2, "in the two lines that are for whoever has started it, and in no log"


def test_a_daemon_does_not_make_a_password_that_nobody_sees(tmp_path: Path) -> None:
    place = ("--pidfile", str(tmp_path / "pid"), "--logfile", str(tmp_path / "log"))
    ended = run_program((*TWISTD, *place, "kdsrv", "--listen", LOCAL))
    assert ended.status == 1
    assert "say --password-file, --users or --no-password" in ended.text + (tmp_path / "log").read_text()


def test_a_made_password_does_not_go_into_a_log_file(tmp_path: Path) -> None:
    command = f"{shlex.join(TWIST)} --listen {LOCAL} >{tmp_path / 'log'} 2>&1"
    assert run_program(("sh", "-c", command)).status == 1
    log = (tmp_path / "log").read_text()
    assert "say --password-file, --users or --no-password, or start the server at a terminal" in log
    assert "made for this run" not in log


def test_users_of_a_file(tmp_path: Path) -> None:
    lines = []
    for name, password in (("kim", "pencil"), ("tom", "paper")):
        script = f"printf '%s\\n' {password} | {shlex.join(KDSRV)} password {name}"
        lines.append(run_program(("sh", "-c", script)).text)
    users = secret_file(tmp_path / "users", "".join(lines))
    kim = secret_file(tmp_path / "kim", "pencil")
    with Server("--users", users) as server:
        with Client(server.string(), "--tcp", "0", "--user", "kim", "--password-file", kim) as client:
            client.wait_event("ready")
            held = run_program(
                (*KDSRV, "connect", "-k", server.string().replace("},trans", ",password=paper},trans"), "--user", "tom")
            )
            assert "is held by kim (" in held.text
        for user in ((), ("--user", "tom"), ("--user", "ann")):
            refused = run_program((*KDSRV, "connect", "-k", server.string(), "--password-file", kim, *user))
            assert (refused.status, refused.text) == (1, f"kdsrv: {REFUSED if user else NAMELESS}\n")


def test_a_client_that_is_refused_when_it_comes_back_ends(tmp_path: Path) -> None:
    old, new = (secret_file(tmp_path / word, word) for word in ("old", "new"))
    with Server("--password-file", old) as server:
        client = Client(server.string(), "--tcp", "0", "--password-file", old)
        client.__enter__()
        client.wait_event("ready")
        port = server.port
    with Server("--password-file", new, port=port):
        assert client.process.wait(20) == 1
        client._reader.join(5)
        assert client.events("error")[-1]["message"] == NAMELESS


def test_a_firewall_is_left_to_the_host() -> None:
    """IcfEnable is a word of kdsrv.exe's strings; whoever types it is told that nothing was opened."""
    with Server("-t", "tcp:port=40000:60000,IcfEnable") as server:
        server.wait_for(r"IcfEnable: opening this host's firewall for the ports above is left to whoever runs it")
