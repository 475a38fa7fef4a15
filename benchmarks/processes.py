"""Processes of a run: started, measured from /proc, and ended by their own ids whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

__all__ = ["Process", "Run", "UnavailableError", "cpu_seconds", "memory_kb"]

SOURCES = Path(__file__).resolve().parent
PROGRAMS = ("target", "debugger", "delay")
STOP_SECONDS = 3.0


class UnavailableError(Exception):
    """A part of a row cannot run here; the text says why."""


class Process:
    """A running child; its standard output is read line by line, its errors go to a file.

    A quiet one has its output in that file too: nobody reads it, and a full pipe would stop the child.
    """

    def __init__(self, argv: list[str], errors: IO[bytes], quiet: bool) -> None:
        self.name = Path(argv[0]).name
        self._errors = errors
        pipe = subprocess.PIPE
        self._popen = subprocess.Popen(
            argv,
            stdin=pipe,
            stdout=errors if quiet else pipe,
            stderr=errors,
            start_new_session=True,
            cwd=SOURCES.parent,
        )
        self._pending = b""

    @property
    def pid(self) -> int:
        return self._popen.pid

    def line(self, seconds: float) -> str:
        """The next line of output; raises UnavailableError with the child's last words when there is none in time."""
        assert self._popen.stdout is not None
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._popen.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise UnavailableError(f"{self.name} said nothing in {seconds:.0f} s{self._last_words()}")
                data = os.read(self._popen.stdout.fileno(), 65536)
                if not data:
                    self._popen.wait(STOP_SECONDS)
                    raise UnavailableError(f"{self.name} ended{self._last_words()}")
                self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def go(self) -> None:
        """Lets a child that waits for a line go on."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(b"\n")
        self._popen.stdin.flush()

    def stop(self) -> str:
        """Ends the child and what it forked (its own process group); gives what it still had to say."""
        self._signal(signal.SIGTERM)
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._popen.wait()
        rest = b""
        if self._popen.stdout:
            os.set_blocking(self._popen.stdout.fileno(), False)
            rest = self._popen.stdout.read() or b""
        for stream in (self._popen.stdin, self._popen.stdout, self._errors):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()
        return (self._pending + rest).decode(errors="replace")

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def check(self) -> None:
        """Raises UnavailableError if the child has ended."""
        if self._popen.poll() is not None:
            raise UnavailableError(f"{self.name} ended{self._last_words()}")

    def _last_words(self) -> str:
        lines = Path(self._errors.name).read_bytes().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""


class Run:
    """A temporary directory with the compiled programs, and all children; leaving it ends what it started."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="kdsrv-bench-")
        self.directory = Path(self._directory.name)
        self._children: list[Process] = []
        self._count = 0

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(self._children)
        self._directory.cleanup()

    def compile(self) -> None:
        """Builds the C programs; raises UnavailableError without a compiler."""
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if not compiler:
            raise UnavailableError("no C compiler here")
        for name in PROGRAMS:
            command = [compiler, "-O3", "-o", str(self.directory / name), str(SOURCES / f"{name}.c")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UnavailableError(f"{name}.c does not compile: {done.stderr.strip().splitlines()[-1]}")

    def program(self, name: str) -> str:
        return str(self.directory / name)

    def path(self, stem: str) -> str:
        """A new name in the run's directory."""
        self._count += 1
        return str(self.directory / f"{stem}{self._count}")

    def start(self, argv: list[str], namespace: str | None = None, quiet: bool = False) -> Process:
        """A child in a network namespace (None: this one), which also dies when this process is killed."""
        if not shutil.which(argv[0]):
            raise UnavailableError(f"no {argv[0]} here")
        around = ["nsenter", f"--net={namespace}", "--"] if namespace else []
        if shutil.which("setpriv"):
            around += ["setpriv", "--pdeathsig", "TERM", "--"]
        child = Process([*around, *argv], open(self.path("errors"), "wb"), quiet)  # noqa: SIM115
        child.name = Path(argv[0]).name
        self._children.append(child)
        return child

    def python(self, arguments: list[str], namespace: str | None = None, quiet: bool = False) -> Process:
        return self.start([sys.executable, *arguments], namespace, quiet)

    def stop(self, children: Iterable[Process]) -> list[str]:
        """Ends these children, last first; gives what each still said."""
        said = []
        for child in reversed(list(children)):
            self._children.remove(child)
            said.append(child.stop())
        return said


def _tree(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _tree(int(child))
    except OSError:
        return found
    return found


def cpu_seconds(processes: Iterable[Process]) -> float:
    """Processor time used so far by these processes and their living children, user and system."""
    total = 0
    for process in processes:
        for pid in _tree(process.pid):
            try:
                tasks = list(Path(f"/proc/{pid}/task").iterdir())
                total += sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
            except OSError:
                continue
    return total / 1e9


def memory_kb(processes: Iterable[Process]) -> int:
    """Proportional set size of these processes and their children, in KB: shared pages count once over all."""
    total = 0
    for process in processes:
        for pid in _tree(process.pid):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            found = re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)
            total += int(found.group(1)) if found else 0
    return total
