"""Files with secrets in them: read whole, bounded, and only if nobody else can read them.

A password file holds one password in its first line. A user file holds a line for each user (``kdsrv.auth.users``).
Pipes will do as well: ``--password-file <(pass show lab)``. What systemd puts into ``$CREDENTIALS_DIRECTORY`` is taken
as it is, since that directory is for the service alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kdsrv.auth.passwords import digest, prepared
from kdsrv.auth.users import UserFileBroken, UserTable, read_users
from kdsrv.errors import SetupError

__all__ = ["CREDENTIAL", "find_credential", "read_password", "read_user_table"]

CREDENTIAL: Final = "kdsrv-password"
"""The name of systemd's credential: ``LoadCredential=kdsrv-password:/etc/kdsrv/password``."""

_MOST: Final = 1024 * 1024
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_HOST_SECRET: Final = Path("/etc/machine-id")


def find_credential(environ: Mapping[str, str]) -> Path | None:
    """The password that systemd holds ready for this service, if there is one."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    path = Path(directory, CREDENTIAL)
    return path if path.exists() else None


def read_password(path: Path, *, private: bool = True) -> str:
    """The password in a file; SetupError, a sentence, if there is none. If not ``private``, others may read it too."""
    password = _read(path, private=private).partition("\n")[0].rstrip("\r")
    if not password:
        raise SetupError(why=f"there is no password in the first line of {path}")
    prepared(password)
    return password


def read_user_table(path: Path) -> UserTable:
    """The users in a file; SetupError, a sentence, if it cannot be read or is not right."""
    try:
        users = read_users(_read(path, private=True))
    except UserFileBroken as broken:
        raise SetupError(why=f"{path}: {broken}") from None
    if not users:
        raise SetupError(why=f"there is no user in {path}; make one with 'kdsrv password NAME'")
    return UserTable(users, digest(_host_secret(), b"kdsrv: users that there are not"))


def _read(path: Path, *, private: bool) -> str:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if private and found.st_mode & _OTHERS:
                raise SetupError(why=f"others can read {path}; chmod 600 it")
            data = file.read(_MOST + 1)
    except OSError as error:
        raise SetupError(why=f"cannot read {path}: {error.strerror}") from None
    if len(data) > _MOST:
        raise SetupError(why=f"{path} is longer than {_MOST} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SetupError(why=f"{path} is not text in UTF-8") from None


def _host_secret() -> bytes:
    """Something that stays on this host and stays the same, to make up users from; nothing depends on it but that."""
    try:
        return _HOST_SECRET.read_bytes()
    except OSError:
        return os.urandom(32)
