"""A program that runs while a test does, and whose output the test can wait for."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

__all__ = ["BackgroundProgram"]

_ENDING = 10.0


class BackgroundProgram:
    """Starts a program on entering and ends it with SIGTERM on leaving, which it has to obey in 10 s.

    Its output, errors included, is kept as ``text``.
    """

    def __init__(self, words: Sequence[str | Path], *, cwd: Path) -> None:
        self.words = [str(word) for word in words]
        self._cwd = cwd
        self._grown = threading.Condition()
        self._text = ""
        self._ended = False

    @property
    def text(self) -> str:
        with self._grown:
            return self._text

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.words,
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self._end()
        if error is not None:
            print(f"\n{self}")  # noqa: T201
        elif not ended:
            pytest.fail(f"did not end on SIGTERM in {_ENDING} s: {self}")

    def stop(self) -> None:
        """End it before the test ends."""
        if not self._end():
            pytest.fail(f"did not end on SIGTERM in {_ENDING} s: {self}")

    def _end(self) -> bool:
        """Whether it ended when told to; it is gone in any case."""
        self.process.terminate()
        try:
            self.process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        finally:
            self._reader.join(_ENDING)
        return True

    def wait_for(self, pattern: str, *, limit: float = 20) -> re.Match[str]:
        """Wait until the output has a match. The test fails when the limit is over, or the program, before that."""
        expression = re.compile(pattern, re.MULTILINE)
        found: list[re.Match[str]] = []

        def is_done() -> bool:
            found.extend(expression.finditer(self._text))
            return bool(found) or self._ended

        with self._grown:
            self._grown.wait_for(is_done, limit)
        if not found:
            pytest.fail(f"no {pattern!r} in {limit} s from {self}")
        return found[0]

    def __str__(self) -> str:
        return f"{' '.join(self.words)}\n{self.text}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._grown:
                    self._text += line
                    self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()
