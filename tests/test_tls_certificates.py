"""The certificate a server makes for itself, and what becomes of files that are wrong."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519
from tls_rig import issue, write

from kdsrv.errors import SetupError
from kdsrv.tls import certificates
from kdsrv.tls.certificates import (
    fingerprint_of,
    own_identity,
    read_certificates,
    read_fingerprint,
    read_identity,
    state_directory,
)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    place = tmp_path / "state" / "kdsrv"
    before = os.umask(0)
    try:
        made = own_identity(place, "lab.example")
    finally:
        os.umask(before)
    assert mode_of(place) == 0o700
    assert [path.name for path in place.iterdir()] == ["tls.pem"]
    assert mode_of(place / "tls.pem") == 0o600
    assert own_identity(place, "another.name").fingerprint == made.fingerprint


def test_it_names_its_host_and_is_for_servers(tmp_path: Path) -> None:
    (certificate,) = own_identity(tmp_path / "s", "lab.example").chain
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lab.example", "localhost"]
    assert certificate.subject.rfc4514_string() == "CN=lab.example"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("host", ["", "localhost", "x" * 64, "a.b." * 40, "höst", "a b", "-", "under_score"])
def test_any_host_name_will_do(tmp_path: Path, host: str) -> None:
    assert own_identity(tmp_path / "s", host).fingerprint


def test_who_comes_second_takes_what_the_first_has_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "other.pem", issue("first"))

    def meanwhile(host: str) -> bytes:
        os.link(first, tmp_path / "tls.pem")
        return b"never to be seen"

    tmp_path.chmod(0o700)
    monkeypatch.setattr(certificates, "_self_signed", meanwhile)
    assert own_identity(tmp_path, "lab").fingerprint == read_identity(first).fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.pem", "tls.pem"]


def test_many_servers_start_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from kdsrv.tls.certificates import own_identity;"
        "sys.stdin.read(); print(own_identity(Path(sys.argv[1]), 'lab').fingerprint)"
    )
    place = tmp_path / "s"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    prints = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert prints == {own_identity(place, "lab").fingerprint}


def test_a_directory_that_others_can_write_to_is_no_place_for_a_key(tmp_path: Path) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(SetupError, match=r"others can change .*open, so no TLS key is kept there"):
        own_identity(place, "lab")
    assert not list(place.iterdir())


def test_a_place_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"cannot keep a TLS certificate in .*: Not a directory"):
        own_identity(tmp_path / "file" / "s", "lab")


def test_a_broken_one_stays_and_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "tls.pem").write_text("nonsense")
    with pytest.raises(SetupError, match=r"holds no certificate.*when .*tls\.pem is moved away, the server makes"):
        own_identity(tmp_path, "lab")
    assert (tmp_path / "tls.pem").read_text() == "nonsense"


def test_one_file_or_two(tmp_path: Path) -> None:
    identity = issue("lab")
    both = write(tmp_path / "both.pem", identity)
    certificate = write(tmp_path / "cert.pem", identity, key=False, mode=0o644)
    key = write(tmp_path / "key.pem", identity, certificate=False)
    assert read_identity(both).fingerprint == read_identity(certificate, key).fingerprint == identity.fingerprint
    assert [fingerprint_of(one) for one in read_certificates(certificate)] == [identity.fingerprint]


def test_wrong_files_are_sentences(tmp_path: Path) -> None:
    identity = issue("lab")
    both = write(tmp_path / "both.pem", identity)
    certificate = write(tmp_path / "cert.pem", identity, key=False)
    other = write(tmp_path / "other.pem", issue("other"), certificate=False)
    loose = write(tmp_path / "loose.pem", identity, mode=0o644)
    (tmp_path / "long.pem").write_bytes(bytes(2 << 20))
    os.mkfifo(tmp_path / "fifo")
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        identity.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    signless = tmp_path / "x25519.pem"
    signless.write_bytes(
        x25519.X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    locked.chmod(0o600)
    signless.chmod(0o600)
    for arguments, words in {
        (both, other): "does not belong to the certificate",
        (certificate, None): "holds no private key in PEM form",
        (other, None): "holds no certificate in PEM form",
        (loose, None): "everybody on this host can reach the private key",
        (tmp_path / "none.pem", None): "cannot read .*none.pem: No such file",
        (tmp_path, None): "is not a regular file|Is a directory",
        (tmp_path / "fifo", None): "is not a regular file",
        (tmp_path / "long.pem", None): "too long",
        (certificate, locked): "has a passphrase",
        (certificate, signless): "signs nothing",
        (Path("a\0b"), None): "cannot read",
    }.items():
        with pytest.raises(SetupError, match=words) as refusal:
            read_identity(*arguments)
        assert "secret" not in str(refusal.value)
        assert "\n" not in str(refusal.value)


HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        HEX,
        HEX.upper(),
        f"sha256:{HEX}",
        f"SHA-256={HEX}",
        ":".join(HEX[i : i + 2] for i in range(0, 64, 2)),
        " " + " ".join(HEX[i : i + 2] for i in range(0, 64, 2)),
    ],
)
def test_fingerprints_as_people_write_them(text: str) -> None:
    assert read_fingerprint(text) == HEX


@pytest.mark.parametrize("text", ["", "lab", "/etc/cert.pem", "abc", "abcd", HEX + "00", HEX[:-1] + "g", "sha256:"])
def test_what_is_no_fingerprint(text: str) -> None:
    assert read_fingerprint(text) is None


def test_a_sha1_thumbprint_is_a_sentence() -> None:
    with pytest.raises(SetupError, match="md5 or sha1 fingerprint"):
        read_fingerprint("ab " * 20)


def test_where_state_is_kept() -> None:
    assert state_directory({"XDG_STATE_HOME": "/x", "HOME": "/h"}, 5) == Path("/x/kdsrv")
    assert state_directory({"XDG_STATE_HOME": "relative", "HOME": "/h"}, 5) == Path("/h/.local/state/kdsrv")
    assert state_directory({"HOME": "/h"}, 0) == Path("/var/lib/kdsrv")
    with pytest.raises(SetupError, match="--state-dir"):
        state_directory({}, 5)
