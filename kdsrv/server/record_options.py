"""The options of a server that say which sessions are recorded, and where (docs/recording.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from twisted.python.usage import UsageError

from kdsrv.connection_strings.values import UnfitValueError, a_published_name
from kdsrv.errors import SetupError
from kdsrv.recorder.limits import RecordLimits, parse_age, parse_size
from kdsrv.recorder.service import RecordingService

__all__ = ["RecordOptions"]


class RecordOptions:
    """``--record`` and its limits, and the service they come to. To be mixed into Twisted's options."""

    def __init__(self) -> None:
        super().__init__()
        self._record_all: Path | None = None
        self._record_target: dict[str, Path] = {}
        self._record_limits: dict[str, int] = {}

    def opt_record(self, text: str) -> None:
        """Record every session in this directory, or with NAME=DIR those on the published target NAME (repeatable)"""
        name, path = _target_and_directory(text)
        if not path:
            raise UsageError(f"kdsrv: --record: '{text}' names no directory")
        if name is None:
            self._record_all = Path(path).absolute()
        else:
            self._record_target[name] = Path(path).absolute()

    def opt_record_size(self, text: str) -> None:
        """Begin a new file when one has this size: 64M (the default)"""
        self._record_limits["size"] = _limit("--record-size", parse_size, text)

    def opt_record_age(self, text: str) -> None:
        """Begin a new file when one is that old: 24h (the default), 90m, 7d"""
        self._record_limits["age"] = _limit("--record-age", parse_age, text)

    def opt_record_space(self, text: str) -> None:
        """Remove the oldest recordings when all in a directory take more than this: 1G (the default)"""
        self._record_limits["space"] = _limit("--record-space", parse_size, text)

    def recording(self, reactor: Any, published: Collection[str]) -> RecordingService | None:
        """The service that records, None if nothing is to be recorded. ``published`` are the names of targets.

        Raises UsageError for limits that do not fit, and for a target that is not published.
        """
        for name in self._record_target:
            if name not in published:
                raise UsageError(
                    f"kdsrv: --record: '{name}' is no published target ({', '.join(published) or 'none is'}); "
                    f"see --target. A directory of that name is ./{name}=..."
                )
        try:
            limits = RecordLimits(**self._record_limits)
        except SetupError as error:
            raise UsageError(f"kdsrv: --record: {error}") from None
        if self._record_all is None and not self._record_target:
            if self._record_limits:
                raise UsageError("kdsrv: there are limits of recordings, but no --record DIR that says where they go")
            return None
        return RecordingService(reactor, self._record_all, self._record_target, limits)


def _target_and_directory(text: str) -> tuple[str | None, str]:
    """``NAME=DIR``, or a directory alone, which may have ``=`` in it behind a ``/``."""
    name, equals, path = text.partition("=")
    if equals:
        try:
            return a_published_name(name), path
        except UnfitValueError:
            pass
    return None, text


def _limit(option: str, parse: Callable[[str], int], text: str) -> int:
    try:
        return parse(text)
    except SetupError as error:
        raise UsageError(f"kdsrv: {option}: {error}") from None
