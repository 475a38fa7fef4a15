"""The key of a KDNET target is looked for wherever it could have got to: logs, listings, statuses, process titles."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from running_programs import KDSRV, ROOT, Client, Debugger, Server, run_program
from test_secrets_stay_hidden import command_line, spellings
from transport_rigs import free_udp_port
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from kdsrv.connection_strings import NetSpec
from kdsrv.errors import TargetError
from kdsrv.kdnet.host import NetHost
from kdsrv.kdnet.keys import NetKey, make_key
from kdsrv.transports.net import net_target_key, open_net

KEY = "2KJFQ8ZW1XN4T.1b7d0m5v9s3hy.3C6p2r8u4w0ag.0x9e5q1o7i3lz"
WRONG_KEY = "1zt5n9c3k7m2b.2y8w4u6s0q1oe.1d3f5h7j9l2x4.3v6r8p0g2i4a1"


def forms(key: str) -> list[bytes]:
    """The key as people write it, each of its numbers, and the keys of the ciphers, in every encoding."""
    parts = [key, *key.split(".")]
    found = {form for part in parts for form in spellings(part)}
    for secret in (NetKey.parse(key).control, NetKey.parse(key).mac):
        found |= {secret, secret.hex().encode(), repr(secret).encode(), secret[::-1]}
    return sorted(found | {str(int(part, 36)).encode() for part in key.split(".")})


def check_no_key(data: bytes, where: str, *keys: str) -> None:
    for key in keys or (KEY, WRONG_KEY):
        for form in forms(key):
            assert form not in data, f"{form!r} is in {where}"
            assert form.lower() not in data.lower(), f"{form!r} is in {where}"


def test_the_search_finds_what_it_looks_for() -> None:
    number = int(KEY.split(".")[1], 36)
    for coded in (KEY.lower(), KEY.split(".")[2], KEY.encode().hex(), str(number), repr(NetKey.parse(KEY).control)):
        with pytest.raises(AssertionError):
            check_no_key(b"xx" + coded.encode() + b"yy", "a test")


def test_a_session_from_beginning_to_end() -> None:
    """A published target, clients with its key and with a wrong one, and the machine itself."""
    port = free_udp_port()
    options = ("--target", f"rack=net:port={port},key={KEY}", "--allow", "net:*")
    sim = [*KDSRV, "sim", "--net", f"127.0.0.1:{port}", "--key", KEY, "--offer-every", "0.3"]
    with Server(*options) as server, BackgroundProgram(sim, cwd=ROOT) as machine:
        with Client(server.string(f"net:port={port},key={KEY}")) as client:
            client.wait_event("status", kind="halted")
            with Debugger(client.bridge) as debugger:
                debugger.halt()
            listed = run_program((*KDSRV, "list", f"tcp:server=127.0.0.1,port={server.port}", "--json"))
            assert '"held"' in listed.text
            held = run_program((*KDSRV, "connect", "--tcp", "0", "-k", server.string("target:name=rack")))
            assert "is held by" in held.text
            for program in (server, client, machine):
                check_no_key(command_line(program), "a command line")
                check_no_key(Path(f"/proc/{program.process.pid}/comm").read_bytes(), "a name")
        with Client(server.string(f"net:port={port},key={WRONG_KEY}")) as other:
            other.wait_event("status", kind="net-wrong-key")
        broken = run_program((*KDSRV, "connect", "-k", server.string(f"net:prt={port},key={KEY}"), "--tcp", "0"))
        assert broken.status != 0
    shown = "".join(program.text for program in (client, listed, held, other, broken))
    assert b"key=*" in server.text.encode()
    check_no_key(server.text.encode(), "the server's log")
    check_no_key(machine.text.encode(), "what the machine says")
    check_no_key(shown.encode(), "what clients say")


def test_values_that_hold_it_do_not_show_it() -> None:
    key, spec = NetKey.parse(KEY), NetSpec(50000, KEY)
    host = NetHost(key, random=bytes)
    for value in (key, spec, host, host.__dict__, net_target_key(spec), str(spec)):
        check_no_key(repr(value).encode(), "a repr")


def test_tracebacks_hold_nothing() -> None:
    """Also those that show what all variables are: here of an opening that fails, for the port is taken."""
    spec = NetSpec(free_udp_port(), make_key(secrets.token_bytes))
    failures: list[Failure] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", spec.port))
        Deferred.fromCoroutine(open_net(reactor, spec)).addErrback(failures.append)
    try:
        failures[0].raiseException()
    except TargetError:
        failures.append(Failure(captureVars=True))
    texts = [each.getTraceback(detail=detail) for each in failures for detail in ("default", "brief", "verbose")]
    assert any("spec : NetSpec(" in text and "open_net" in text for text in texts)
    for text in texts:
        assert f"UDP port {spec.port}: it is held by this kdsrv itself" in text
        check_no_key(text.encode(), "a traceback", spec.key)
