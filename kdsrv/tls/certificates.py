"""Certificates and keys: read from files, or made once and kept. A certificate is called by its sha256 fingerprint.

The server's own certificate is self-signed, and key and certificate are one file, so that there is never one without
the other. Its dates say nothing (RFC 5280, 4.1.2.5): a lab host's clock may be wrong, and what matters is the key.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kdsrv.errors import SetupError

__all__ = [
    "Identity",
    "PrivateKey",
    "fingerprint_of",
    "own_identity",
    "read_certificates",
    "read_fingerprint",
    "read_identity",
    "state_directory",
]

PrivateKey = (
    rsa.RSAPrivateKey
    | dsa.DSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

FILE: Final = "tls.pem"
_MAX_FILE: Final = 1 << 20
_NOT_BEFORE: Final = datetime(2020, 1, 1)
_NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59)
_MAX_COMMON_NAME: Final = 64
_HEX: Final = re.compile(r"(?:sha-?256[:=])?((?:[0-9a-f]{2}[:\s]?)+)", re.IGNORECASE)
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with the key that belongs to it, and the certificates between it and its authority."""

    key: PrivateKey
    chain: tuple[x509.Certificate, ...]
    """The certificate itself first."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.chain[0])


def fingerprint_of(certificate: x509.Certificate) -> str:
    """The sha256 of the certificate: 64 hexadecimal digits in lower case."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def read_fingerprint(text: str) -> str | None:
    """A fingerprint as people write it (capitals, ``:`` or spaces between bytes, ``sha256:`` before it), as
    `fingerprint_of` gives it; None if the text is none. SetupError for one that is not a sha256."""
    match = _HEX.fullmatch(text.strip())
    if match is None:
        return None
    digits = re.sub(r"[:\s]", "", match[1]).lower()
    if len(digits) == 64:
        return digits
    if len(digits) in (32, 40):
        raise SetupError(why="this is an md5 or sha1 fingerprint; give the certificate's sha256 (64 digits)")
    return None


def state_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Where the server keeps what it has made: ``/var/lib/kdsrv`` for root, else kdsrv's place in the user's state."""
    if uid == 0:
        return Path("/var/lib/kdsrv")
    state, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if state.startswith("/"):
        return Path(state) / "kdsrv"
    if home.startswith("/"):
        return Path(home) / ".local/state/kdsrv"
    raise SetupError(why="there is no place to keep the TLS certificate, for HOME is not set; give --state-dir")


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM file, at least one; SetupError if it has none or cannot be read."""
    return _certificates(_read(path), path)


def read_identity(certificate: Path, key: Path | None = None) -> Identity:
    """A certificate (its chain may follow) and its key, in one PEM file or two; SetupError says what is wrong."""
    chain = read_certificates(certificate)
    place = key or certificate
    _refuse_readable(place)
    private = _private_key(_read(place), place)
    if private.public_key() != chain[0].public_key():
        raise SetupError(why=f"the key in {place} does not belong to the certificate in {certificate}")
    return Identity(private, chain)


def own_identity(directory: Path, host: str) -> Identity:
    """The identity kept in ``directory``, made there if there is none yet. SetupError if that cannot be."""
    path = directory / FILE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_others_directory(directory)
        if not path.exists():
            _keep(path, _self_signed(host))
    except OSError as error:
        raise SetupError(why=f"cannot keep a TLS certificate in {directory}: {error.strerror}") from None
    try:
        return read_identity(path)
    except SetupError as error:
        raise SetupError(why=f"{error}; when {path} is moved away, the server makes a new one") from None


def _self_signed(host: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (host or "kdsrv")[:_MAX_COMMON_NAME])])
    names = [x509.DNSName(host)] if _HOST_NAME.fullmatch(host) and host != "localhost" else []
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), _NOT_BEFORE, _NOT_AFTER)
        .add_extension(x509.SubjectAlternativeName([*names, x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _keep(path: Path, pem: bytes) -> None:
    """Write the file whole and for us alone, unless somebody else was first: then theirs stays."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _certificates(pem: bytes, path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise SetupError(why=f"{path} holds no certificate in PEM form") from None


def _private_key(pem: bytes, path: Path) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise SetupError(why=f"the key in {path} has a passphrase; the server needs one without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SetupError(why=f"{path} holds no private key in PEM form") from None
    if not isinstance(key, PrivateKey):
        raise SetupError(why=f"the key in {path} is of a kind that signs nothing")
    return key


def _read(path: Path) -> bytes:
    """A regular file's bytes; what is no certificate's size is not read to its end."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SetupError(why=f"{path} is not a regular file")
            pem = file.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise SetupError(why=f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(pem) > _MAX_FILE:
        raise SetupError(why=f"{path} is too long for certificates")
    return pem


def _refuse_readable(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # reading it says why
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SetupError(why=f"everybody on this host can reach the private key in {path}: chmod 600 it")


def _refuse_others_directory(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SetupError(why=f"others can change {directory}, so no TLS key is kept there; chmod 700 it")
