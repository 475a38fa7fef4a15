from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kdsrv.auth import secret_files
from kdsrv.auth.passwords import PasswordUnfit, Verifier
from kdsrv.auth.secret_files import find_credential, read_password, read_user_table
from kdsrv.auth.users import User, user_line
from kdsrv.errors import SetupError

LINE = user_line(User("kim"), Verifier(b"s" * 16, 60000, bytes(32), bytes(32)))


def written(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", ["secret", "secret\n", "secret\r\n", "secret\nmore\n"])
def test_the_first_line_is_the_password(tmp_path: Path, content: str) -> None:
    assert read_password(written(tmp_path / "file", content)) == "secret"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "there is no password in the first line of {path}"),
        ("\nsecret", "there is no password in the first line of {path}"),
        (b"\xff\xfe", "{path} is not text in UTF-8"),
        (b"x" * (1024 * 1024 + 1), "{path} is longer than 1048576 bytes"),
    ],
)
def test_what_is_no_password_file(tmp_path: Path, content: str | bytes, says: str) -> None:
    path = written(tmp_path / "file", content)
    with pytest.raises(SetupError) as error:
        read_password(path)
    assert str(error.value) == says.format(path=path)


def test_a_password_that_cannot_be_one_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(PasswordUnfit):
        read_password(written(tmp_path / "file", "a\0b"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "file", f"{LINE}\n", mode)
    for read in (read_password, read_user_table):
        with pytest.raises(SetupError, match=f"others can read {path}; chmod 600 it"):
            read(path)
    assert read_password(path, private=False) == LINE


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(SetupError, match=f"cannot read {path}: {why}"):
            read_password(path)


def test_a_pipe_will_do(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    thread = threading.Thread(target=lambda: (os.write(writing, b"secret\n"), os.close(writing)))
    thread.start()
    assert read_password(Path(f"/dev/fd/{reading}")) == "secret"
    thread.join()
    os.close(reading)


def test_users(tmp_path: Path) -> None:
    table = read_user_table(written(tmp_path / "users", f"# who\n{LINE}\n"))
    assert table.find("kim").user == User("kim")
    assert table.find("tom").user is None


def test_what_is_wrong_with_a_user_file_names_it(tmp_path: Path) -> None:
    path = written(tmp_path / "users", f"{LINE}\nkim\n")
    with pytest.raises(SetupError, match=f"^{path}: line 2 of the user file: it is not name:"):
        read_user_table(path)
    with pytest.raises(SetupError, match=f"there is no user in {path}; make one with"):
        read_user_table(written(path, "# nobody\n"))


def test_who_does_not_exist_is_made_up_the_same_at_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "users", LINE)
    monkeypatch.setattr(secret_files, "_HOST_SECRET", written(tmp_path / "id", "one host"))
    first = read_user_table(path).find("tom")
    assert read_user_table(path).find("tom") == first
    monkeypatch.setattr(secret_files, "_HOST_SECRET", written(tmp_path / "id2", "another"))
    other = read_user_table(path).find("tom")
    assert other.verifier.salt != first.verifier.salt
    monkeypatch.setattr(secret_files, "_HOST_SECRET", tmp_path / "none")
    assert read_user_table(path).find("tom").verifier.salt not in (first.verifier.salt, other.verifier.salt)


def test_the_credential_of_systemd(tmp_path: Path) -> None:
    assert find_credential({}) is None
    assert find_credential({"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None
    path = written(tmp_path / "kdsrv-password", "secret", 0o440)
    assert find_credential({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == path
    assert read_password(path, private=False) == "secret"
