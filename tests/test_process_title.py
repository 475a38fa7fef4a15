from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdsrv.process_title import without_secrets

ROOT = Path(__file__).resolve().parents[1]
SHOW = """
from kdsrv.process_title import hide_secrets
for _ in range(2):
    hide_secrets()
print(open("/proc/self/cmdline", "rb").read())
"""


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        (b"tcp:port=1234,password=hunter2,hidden", b"tcp:port=1234,password=*,hidden"),
        (b"tcp:port=1234,PassWord=hunter2", b"tcp:port=1234,PassWord=*"),
        (b"tcp:1234:password=hunter2:interface=::1", b"tcp:1234:password=*"),
        (b"-ttcp:port=1,password=hunter2", b"*"),
        (b"kdsrv:server=@{ssl:server=a,port=1,password=hunter2},trans=@{net:port=5,key=1.2.3.4}",
         b"kdsrv:server=@{ssl:server=a,port=1,password=*},trans=@{net:port=5,key=*}"),
        (b"tcp:port=1,password=\xff\xfehunter2", b"tcp:port=1,password=*"),
        (b"tcp:port=1,password = hunter2", b"tcp:port=1,password =*"),
        (b"sim\0--key\0001.2.3.4\0--net", b"sim\0--key\0*\0--net"),
        (b"--key=1.2.3.4", b"--key=*"),
        (b"--password-file=/run/secret", b"--password-file=/run/secret"),
        (b"\xff", b"\xff"),
        (b"", b""),
    ],
)  # fmt: skip
def test_only_secrets_are_hidden(argument: bytes, shown: bytes) -> None:
    line = b"twist\0kdsrv\0" + argument + b"\0--no-password\0"
    hidden = without_secrets(line)
    assert hidden.rstrip(b"\0") == (b"twist\0kdsrv\0" + shown + b"\0--no-password").rstrip(b"\0")
    assert len(hidden) == len(line)


def test_what_would_become_longer_is_cut() -> None:
    assert without_secrets(b"tcp:password=\0") == b"tcp:password=*"[:14]
    assert len(without_secrets(b"password=\0password=\0")) == 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="overwrites what Linux shows")
def test_a_process_hides_its_own() -> None:
    words = [sys.executable, "-c", SHOW, "--json", "-k", "tcp:server=lab,port=1,password=hunter2", "last"]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, check=True, timeout=30)
    assert b"hunter2" not in ran.stdout
    assert b"--json\\x00-k\\x00tcp:server=lab,port=1,password=*\\x00last\\x00" in ran.stdout
