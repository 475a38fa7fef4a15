"""Where the command line says to listen, and that what cannot be listened on is a sentence."""

from __future__ import annotations

import gc
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory

from kdsrv.connection_strings import parse_server_string
from kdsrv.errors import SetupError
from kdsrv.server.listening import endpoint_of_spec, endpoint_of_string
from kdsrv.server.service import KdsrvService
from kdsrv.tls.settings import ServerCertificates

ANYWHERE = ("0.0.0.0", "")
LOOPBACK = "127.0.0.1"


def listen(endpoint: Any) -> Any:
    """The address listened on, which is closed again."""
    results: list[Any] = []
    listening: Deferred[Any] = endpoint.listen(Factory())
    listening.addBoth(results.append)
    address = results[0].getHost()
    results[0].connectionLost(None)
    return address


def host_of(text: str) -> str:
    host = listen(endpoint_of_string(reactor, text)).host
    assert isinstance(host, str)
    return host


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("text", ["tcp:0", "tcp:port=0", "tcp:0:backlog=5"])
def test_no_interface_is_all_of_them(text: str) -> None:
    assert host_of(text) in ANYWHERE


@pytest.mark.parametrize(
    "text", ["tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.9", "tcp:interface=127.0.0.1:port=0"]
)
def test_an_interface_is_taken(text: str) -> None:
    assert host_of(text).startswith("127.")


WRONG = {
    "": "Unknown endpoint type",
    "TCP:0": "Unknown endpoint type",
    "foo:1": "Unknown endpoint type: 'foo'",
    "tcp": "not a Twisted endpoint",
    "tcp:": "not a Twisted endpoint",
    "tcp:http": "'http'",
    "tcp:70000": "0 to 65535",
    "tcp:-1": "0 to 65535",
    "tcp:1:2:3:4:5": "not a Twisted endpoint",
    "tcp:1:color=red": "color",
    "ssl:0:certKey=none.pem": "cannot read none.pem",
    "ssl:http:certKey=none.pem": "'http'",
    "ssl:0:sslmethod=SSLv23_METHOD": "TLS 1.3 is all that is spoken",
    "tls:/pems": "this TLS is not kdsrv's",
    "haproxy:ssl:0": "this TLS is not kdsrv's",
    "unix:": "names no address",
    "unix:mode=600": "not a Twisted endpoint",
    "unix:/tmp/x:mode=rw": "not a Twisted endpoint",
}


@pytest.mark.parametrize(("text", "words"), WRONG.items())
def test_a_wrong_string_is_a_sentence(text: str, words: str, tmp_path: Path) -> None:
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(SetupError) as refusal:
            endpoint_of_string(reactor, text)
    finally:
        os.chdir(before)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("folder", ["plain", "mode=777", "a:mode=777"])
def test_a_unix_socket_is_for_its_owner(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / "socket"
    text = "unix:" + re.sub("([=:])", r"\\\1", str(path))
    listening: Deferred[Any] = endpoint_of_string(reactor, text).listen(Factory())
    ports: list[Any] = []
    listening.addCallback(ports.append)
    assert path.stat().st_mode & 0o777 == 0o600
    ports[0].connectionLost(None)


def test_strings_of_kdsrv_exe(busy: int) -> None:
    endpoint = endpoint_of_spec(reactor, parse_server_string(f"tcp:port={busy}:{busy + 5}"))
    address = listen(endpoint)
    assert address.host in ANYWHERE
    assert busy < address.port <= busy + 5


@pytest.mark.skipif(not socket.has_ipv6, reason="this host has no IPv6")
def test_a_string_may_ask_for_ipv6(busy: int) -> None:
    endpoint = endpoint_of_spec(reactor, parse_server_string(f"tcp:port={busy}:{busy + 5},ipversion=6"))
    assert listen(endpoint).host == "::"


def test_tls_reaches_as_far_as_tcp(tmp_path: Path) -> None:
    certificates = ServerCertificates(state=tmp_path / "state", host="lab")
    for text in ("ssl:0", "ssl:port=0"):
        assert listen(endpoint_of_string(reactor, text, certificates=certificates)).host in ANYWHERE
    loopback = endpoint_of_string(reactor, "ssl:0:interface=127.0.0.1", certificates=certificates)
    assert listen(loopback).host == LOOPBACK
    (fingerprint,) = certificates.fingerprints
    spec = parse_server_string(f"ssl:proto=tls1,certuser={fingerprint},port=40000:60000")
    endpoint = endpoint_of_spec(reactor, spec, certificates=certificates)
    assert listen(endpoint).host in ANYWHERE
    with pytest.raises(SetupError, match="neither a file nor a sha256 fingerprint"):
        endpoint_of_spec(reactor, parse_server_string("ssl:certuser=x,port=1"))


def test_pipes_by_string(tmp_path: Path) -> None:
    certificates = ServerCertificates(state=tmp_path / "state", host="lab")
    for text in ("npipe:pipe=lab_%x", "spipe:proto=tls1,pipe=lab_%d"):
        endpoint = endpoint_of_spec(
            reactor, parse_server_string(text), certificates=certificates, pipes=tmp_path / "pipes"
        )
        assert os.path.dirname(os.fsdecode(listen(endpoint).name)) == str(tmp_path / "pipes")
    assert len(certificates.fingerprints) == 1
    with pytest.raises(SetupError, match="a pipe's name has no /"):
        endpoint_of_spec(reactor, parse_server_string("npipe:pipe=../x"), pipes=tmp_path)


def test_what_is_not_offered() -> None:
    with pytest.raises(SetupError, match="1394: is not offered by this version") as refusal:
        endpoint_of_spec(reactor, parse_server_string("1394:channel=1,password=hunter2"))
    assert "hunter2" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Twisted leaves its socket unclosed
def test_a_service_that_cannot_listen_says_where_and_why(busy: int, tmp_path: Path) -> None:
    places = {
        f"tcp:{busy}:interface=127.0.0.1": f"127.0.0.1:{busy}: Address already in use",
        f"unix:{tmp_path}/{'x' * 120}": "AF_UNIX path too long",
        f"unix:{tmp_path}/no/where": f"{tmp_path}/no/where: No such file or directory",
    }
    for text, words in places.items():
        service = KdsrvService(reactor, [endpoint_of_string(reactor, text)])
        with pytest.raises(SetupError) as refusal:
            service.privilegedStartService()
        assert words in str(refusal.value)
        assert "b'" not in str(refusal.value)
        del service, refusal
    gc.collect()


def test_a_service_may_be_started_again(busy: int) -> None:
    """What was in the way the first time is not held against it."""
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        port = other.getsockname()[1]
        service = KdsrvService(reactor, [endpoint_of_string(reactor, f"tcp:{port}")])
        with pytest.raises(SetupError):
            service.startService()
    service.startService()
    assert [each.getHost().port for each in service.ports] == [port]
    for each in service.ports:
        each.connectionLost(None)
