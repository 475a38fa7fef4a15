"""``ssl:`` strings taken apart, and the TLS that is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tls_rig import issue, write

from kdsrv.errors import SetupError
from kdsrv.tls.endpoint_strings import SslString, refuse_other_tls, split_ssl_string
from kdsrv.tls.settings import ServerCertificates

TAKEN = {
    "ssl:1234": SslString("tcp:1234", None, None),
    "SSL:port=1234": SslString("tcp:port=1234", None, None),
    r"ssl:0:interface=\:\:1": SslString(r"tcp:0:interface=\:\:1", None, None),
    "ssl:desk:5000": SslString("tcp:desk:5000", None, None),
    "ssl:1234:certKey=c.pem": SslString("tcp:1234", Path("c.pem"), None),
    r"ssl:privateKey=/k\:1.pem:1234:certKey=c\\d.pem": SslString("tcp:1234", Path("c\\d.pem"), Path("/k:1.pem")),
    "ssl:": SslString("tcp:", None, None),
    "ssl": SslString("tcp", None, None),
}


@pytest.mark.parametrize(("text", "parts"), TAKEN.items())
def test_ssl_strings(text: str, parts: SslString) -> None:
    assert split_ssl_string(text) == parts


@pytest.mark.parametrize("text", ["tcp:1234", "unix:/ssl", "", "tls:/pems", "haproxy:ssl:1", r"ssl\:1"])
def test_other_strings(text: str) -> None:
    assert split_ssl_string(text) is None


REFUSED = {
    "ssl:1:sslmethod=TLSv1_2_METHOD": "TLS 1.3 is all that is spoken",
    "ssl:1:dhParameters=x": "TLS 1.3 has none",
    "ssl:1:certKey=a:extraCertChain=b": "put the chain behind",
    "ssl:1:privateKey=k.pem": "privateKey= needs certKey=",
    "ssl:1:certKey=": "certKey= is the path of a PEM file",
    "ssl:1:certKey=a\\": "ends in the middle of an escape",
}


@pytest.mark.parametrize(("text", "words"), REFUSED.items())
def test_what_tls_1_3_has_not(text: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        split_ssl_string(text)


@pytest.mark.parametrize("text", ["tls:/pems", "TLS:/pems:port=4", "haproxy:ssl:1234", "haproxy:tls:/pems"])
def test_twisteds_own_tls_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="this TLS is not kdsrv's"):
        refuse_other_tls(text)


@pytest.mark.parametrize("text", ["tcp:1234", "unix:/run/ssl.sock", "unix:/run/tls", "systemd:domain=INET:name=ssl"])
def test_others_are_not(text: str) -> None:
    refuse_other_tls(text)


def test_files_and_options(tmp_path: Path) -> None:
    mine, named = issue("mine"), issue("named")
    certificates = ServerCertificates(certificate=write(tmp_path / "mine.pem", mine))
    path = write(tmp_path / "named.pem", named)
    assert SslString("tcp:1", None, None).server_tls(certificates).fingerprint == mine.fingerprint
    assert SslString("tcp:1", path, None).server_tls(certificates).fingerprint == named.fingerprint
    assert SslString("tcp:1", path, path).server_tls(certificates).fingerprint == named.fingerprint


@given(st.text(alphabet="sl:t\\=acpKeyrivt1 \n\0é", max_size=40))
def test_any_text_is_a_string_or_a_sentence(text: str) -> None:
    for candidate in (text, f"ssl:{text}"):
        with contextlib.suppress(SetupError):
            split_ssl_string(candidate)
            refuse_other_tls(candidate)
