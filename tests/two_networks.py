"""Two machines for a test: networks of their own, joined by a cable, with no way out. Only on Linux, where allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import pytest

__all__ = ["TwoNetworks"]

_UNSHARES = (("unshare", "-n"), ("unshare", "-rn"))
_PATIENCE = 10.0


class TwoNetworks:
    """Made on entering, gone on leaving. ``in_host`` and ``in_target`` are words that run a program in one of them.

    A test is skipped, or fails in CI, where the system does not allow this.
    """

    host = "10.0.0.1"
    target = "10.0.0.2"

    def __enter__(self) -> Self:
        self._holders: list[subprocess.Popen[bytes]] = []
        unshare = _allowed()
        try:
            self.in_host = self._make(unshare)
            self.in_target = self._make((*self.in_host, "unshare", "-n"))
            other_end = str(self._holders[1].pid)
            self._run(self.in_host, "ip link add cable type veth peer name cable netns", other_end)
            for words, address in ((self.in_host, self.host), (self.in_target, self.target)):
                self._run(words, "ip link set lo up")
                self._run(words, "ip addr add", f"{address}/24", "dev cable")
                self._run(words, "ip link set cable up")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        """With the last process in it a network goes too."""
        for holder in self._holders:
            holder.kill()
            holder.wait()

    def _make(self, unshare: Sequence[str]) -> tuple[str, ...]:
        """A network held by a process that sleeps in it; the words that run a program there."""
        holder = subprocess.Popen([*unshare, "sleep", "infinity"], stdin=subprocess.DEVNULL)
        self._holders.append(holder)
        end = time.monotonic() + _PATIENCE
        while _command(holder.pid) != "sleep":
            if holder.poll() is not None or time.monotonic() > end:
                pytest.fail(f"{' '.join(unshare)} does not make a network")
            time.sleep(0.01)
        user = ("-U", "--preserve-credentials") if os.geteuid() else ()
        return "nsenter", "-t", str(holder.pid), *user, "-n"

    def _run(self, within: Sequence[str], *words: str) -> None:
        subprocess.run([*within, *" ".join(words).split()], check=True, timeout=_PATIENCE)


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8") as comm:
        return comm.read().strip()


def _allowed() -> tuple[str, ...]:
    """How a network is made here, if it can be, and what is needed is installed."""
    if all(shutil.which(name) for name in ("unshare", "nsenter", "ip")):
        for words in _UNSHARES:
            probe = [*words, "ip", "link", "add", "probe", "type", "veth", "peer", "name", "eborp"]
            if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0:
                return words
    why = (
        "this system does not let a test make networks of its own (unshare, nsenter and ip of util-linux and iproute2)"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
