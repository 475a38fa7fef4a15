"""Runs debuggers that nobody in this project wrote, ntoseye and radare2, and reads what they print.

They attach to a unix socket, as virtual machines offer their serial port, or to a target on KDNET.

They live in an environment of their own, named by ``KDSRV_PEERS`` and filled from ``peers.txt``. A test that wants one
which is not there is skipped with the reason; where ``CI=true`` it fails. Each run is a process of its own under a
limit that kills, since radare2 waits for ever on silence. ntoseye would like to fetch symbols, so it runs without a
network where the system allows that; a unix socket is reached all the same.

What they cannot do even with a real target:

ntoseye
    speaks serial only over a unix socket; lists no modules without symbols.
radare2
    leaves without letting the target run; sends SetContext for the first 444 bytes only; refuses to write memory; loses
    its way in a reply over 2048 bytes, so one command must not read more than 1992; does not ask on for what a short
    reply leaves out, so on KDNET it must not read more than 1096; stops again on the ``int3`` of a break-in unless
    ``rip`` is moved past it; sees only the kernel versions of its own table.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import pytest

__all__ = [
    "RADARE2_READ_LIMIT",
    "NetPlace",
    "Transcript",
    "ntoseye_bytes",
    "ntoseye_registers",
    "radare2_bytes",
    "radare2_registers",
    "run_ntoseye",
    "run_radare2",
]

RADARE2_READ_LIMIT = 1992
RADARE2_NET_READ_LIMIT = 1096

# A debugger says that it goes before it waits, so the break-in is given a little later.
_SETTLE = 0.5

_CALL_RADARE2 = """
import ctypes, sys
words = [word.encode() for word in sys.argv[2:]]
main = ctypes.CDLL(sys.argv[1]).r_main_radare2
sys.exit(main(len(words), (ctypes.c_char_p * (len(words) + 1))(*words, None)))
"""


@dataclass(frozen=True)
class NetPlace:
    """A target on KDNET.

    ``address`` is the debugger's own for ntoseye, the target's for radare2, which takes any of its own. ``within`` are
    the words that run a program in another network than ours.
    """

    address: str
    port: int
    key: str
    within: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """What a debugger printed: first on attaching, then an answer to each command, and apart its complaints."""

    opening: str
    answers: tuple[str, ...]
    complaints: str
    status: int

    def __str__(self) -> str:
        answers = "\n".join(f"[{number}] {answer}" for number, answer in enumerate(self.answers))
        return f"{self.opening}\n{answers}\n{self.complaints}\nexit status {self.status}"


def run_radare2(
    place: Path | NetPlace, commands: Sequence[str], *, break_in_at: Collection[int] = (), limit: float = 60
) -> Transcript:
    """Attach radare2, run the commands, leave the target as it is; break in during those numbered (from 0)."""
    library = _only(_peers().glob("lib/python3*/site-packages/libr/libr/libr_main.so"), "radare2 (r2libr)")
    python = _only(_peers().glob("bin/python"), "a Python to load radare2 with")
    options = ["-N", "-e", "scr.color=0", "-a", "x86", "-b", "64", "-D", "winkd", "-q", "-c", "e dbg.bpinmaps=false"]
    for number, command in enumerate(commands):
        options += ["-c", f"?e answer-{number}:", "-c", command]
    words = [str(python), "-c", _CALL_RADARE2, str(library), "radare2", *options]
    if isinstance(place, Path):
        words += [f"winkd://{place}"]
    else:
        words = [*place.within, *words, f"winkd://{place.address}:{place.port}:{place.key}"]
    prompt = re.compile(r"answer-\d+:$")
    dialect = _Dialect(prompt=prompt, waiting=prompt)
    transcript = _run(words, len(commands), dialect, break_in_at, limit)
    if not re.search(r"Sync done! \([1-9]", transcript.complaints):
        pytest.fail(f"radare2 did not attach\n{transcript}")
    return transcript


def run_ntoseye(
    place: Path | NetPlace, commands: Sequence[str], *, break_in_at: Collection[int] = (), limit: float = 60
) -> Transcript:
    """Attach ntoseye, run the commands, let the target run again; break in during those numbered (from 0)."""
    program = _only(_peers().glob("bin/ntoseye"), "ntoseye")
    options = ["--memory-source", "kd", "--kd-handshake-timeout", "20", "--plain-repl", "--batch"]
    for command in commands:
        options += ["-c", command]
    if isinstance(place, Path):
        words = [*_without_network(), str(program), *options, "--backend", "kd", "--connect", str(place)]
    else:
        words = [*place.within, str(program), *options, "--backend", "kdnet", "--kdnet-key", place.key]
        words += ["--connect", f"{place.address}:{place.port}"]
    dialect = _Dialect(prompt=re.compile(r"\d+: kd(net)?> "), waiting=re.compile("VM running"))
    return _run(words, len(commands), dialect, break_in_at, limit)


@dataclass(frozen=True)
class _Dialect:
    """How the lines begin that announce a command and that say it waits for the target."""

    prompt: re.Pattern[str]
    waiting: re.Pattern[str]


def _run(words: list[str], commands: int, dialect: _Dialect, break_in_at: Collection[int], limit: float) -> Transcript:
    with tempfile.TemporaryDirectory() as home, open(f"{home}/complaints", "w+", encoding="utf-8") as complaints:
        running = subprocess.Popen(
            ["timeout", "--foreground", "-s", "KILL", str(limit), *words],
            cwd=home,
            env=_environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            encoding="utf-8",
            errors="replace",
        )
        spoken: list[list[str]] = [[]]
        with running, cast("IO[str]", running.stdout) as lines:
            for line in lines:
                if dialect.prompt.match(line):
                    spoken.append([])
                else:
                    spoken[-1].append(line)
                if len(spoken) - 2 in break_in_at and dialect.waiting.match(line):
                    time.sleep(_SETTLE)
                    running.send_signal(signal.SIGINT)
        complaints.seek(0)
        opening, *answers = ["".join(part).strip() for part in spoken]
        transcript = Transcript(opening, tuple(answers), complaints.read(), running.returncode)
    if running.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}:
        pytest.fail(f"the debugger was killed after {limit} s\n{transcript}")
    if len(answers) != commands:
        pytest.fail(f"the debugger answered {len(answers)} commands of {commands}\n{transcript}")
    return transcript


def _environment(home: str) -> dict[str, str]:
    """No settings of whoever runs the tests, and no way to a network by a proxy."""
    nowhere = "http://127.0.0.1:9"
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": home, "http_proxy": nowhere, "https_proxy": nowhere, "ALL_PROXY": nowhere}


@functools.cache
def _without_network() -> tuple[str, ...]:
    if shutil.which("unshare"):
        for words in (("unshare", "-n"), ("unshare", "-rn")):
            if subprocess.run([*words, "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                return words
    return ()


def _peers() -> Path:
    return Path(os.environ.get("KDSRV_PEERS") or "/nonexistent")


def _only(found: Iterable[Path], what: str) -> Path:
    """The first of the paths; without one the test is skipped, or fails in CI."""
    for path in found:
        return path
    why = f"{what} is not in the environment that KDSRV_PEERS names (see tests/peers.txt)"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def ntoseye_registers(answer: str) -> dict[str, int]:
    """The registers that ``r`` or ``r NAME`` showed; flags are ``rfl``."""
    return {name: int(value, 16) for name, value in re.findall(r"\b([a-z]\w{1,2}) *[ =]([0-9a-f]{4,16})\b", answer)}


def ntoseye_bytes(answer: str) -> bytes:
    """The bytes that ``db`` showed, up to the first it could not read."""
    rows = re.findall(r"^[0-9a-f]{16}  ((?:[0-9a-f]{2}[ -])+)", answer, re.MULTILINE)
    return bytes.fromhex("".join(rows).replace("-", " "))


def radare2_registers(answer: str) -> dict[str, int]:
    """The registers that ``dr`` showed; flags are ``rflags``."""
    return {name: int(value, 16) for name, value in re.findall(r"^(\w+) = (0x[0-9a-f]+)$", answer, re.MULTILINE)}


def radare2_bytes(answer: str) -> bytes:
    """The bytes that ``p8`` showed; what it cannot read it shows as ``ff``."""
    return bytes.fromhex(answer)
