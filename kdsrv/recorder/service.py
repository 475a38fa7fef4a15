"""Records sessions: gives each a recorder when it opens, and brings what they take in to the disk."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv.connection_strings import TargetSpec
from kdsrv.recorder.disk import Disk, DiskThread
from kdsrv.recorder.files import Folder, OutputFile, Recording, open_file
from kdsrv.recorder.limits import RecordLimits
from kdsrv.recorder.recorder import Piece, Recorder
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.session import Session

__all__ = ["RecordingService"]

_PUBLISHED: Final = "target:name="
"""What the names of sessions on published targets begin with."""
_INTERVAL: Final = 0.5
"""Seconds that a packet waits at the most before it is handed to the disk."""
_RETRY: Final = 30.0
"""Seconds between attempts to write where writing has failed."""
_PATIENCE: Final = 3.0
"""Seconds that the end of the server waits for the sessions to end and the disk to take what is left."""


class RecordingService(Service):
    """``everything`` is where sessions are recorded, ``by_target`` where those on published targets of these names are.

    ``watch`` a server's directory before sessions open. Starting makes the directories, and raises SetupError where
    nothing can be put into one. ``wall_clock`` gives nanoseconds since 1970.

    Where the disk fails, recording stops, the log says so once, and each half minute it is tried again. Sessions go on.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        everything: Path | None,
        by_target: Mapping[str, Path] | None = None,
        limits: RecordLimits | None = None,
        *,
        disk: Disk | None = None,
        wall_clock: Callable[[], int] = time.time_ns,
        open_file: Callable[[Path], OutputFile] = open_file,
    ) -> None:
        by_target = by_target or {}
        limits = limits or RecordLimits()
        paths = [path for path in (everything, *by_target.values()) if path is not None]
        self._folders = {path: Folder(path, limits, open_file) for path in dict.fromkeys(paths)}
        self._everything = everything
        self._by_target = {str(TargetSpec(name)): path for name, path in by_target.items()}
        self._reactor = reactor
        self._disk = disk or DiskThread(reactor)
        self._wall_clock = wall_clock
        self._at_work: deque[_Work] = deque()
        self._looks = LoopingCall(self._write_next)
        self._looks.clock = reactor
        self._soon: IDelayedCall | None = None
        self._is_writing = self._is_over = False
        self._stopped: Deferred[None] | None = None
        self._patience: IDelayedCall | None = None

    def watch(self, directory: Directory) -> None:
        """Record the sessions that open from now on."""
        directory.opened.append(self._opened)

    def _opened(self, session: Session) -> None:
        path = self._by_target.get(session.name, self._everything)
        if path is None or self._is_over:
            return
        target = session.name.removeprefix(_PUBLISHED)
        recorder = Recorder(target, session.description, session.lease, self._wall_clock, self._wake)
        work = _Work(recorder, Recording(self._folders[path], target))
        work.stop = session.observe(recorder)
        self._at_work.append(work)

    @override
    def startService(self) -> None:
        for path, folder in self._folders.items():
            folder.prepare()
            self._log.info("sessions are recorded in {path}", path=str(path))
        super().startService()
        self._looks.start(_INTERVAL, now=False)

    @override
    def stopService(self) -> Deferred[None]:
        """Fires when all is on the disk; the sessions are to be ended meanwhile."""
        super().stopService()
        stopped: Deferred[None] = Deferred()
        self._stopped = stopped
        self._patience = self._reactor.callLater(_PATIENCE, self._end)
        self._wake()
        return stopped

    def _end(self) -> None:
        stopped, self._stopped = self._stopped, None
        if stopped is None:
            return
        self._is_over = True
        for call in (self._patience, self._soon):
            if call is not None and call.active():
                call.cancel()
        for work in self._at_work:
            work.stop()
            self._disk.run(work.recording.close)
        self._at_work.clear()
        self._looks.stop()
        self._disk.stop()
        stopped.callback(None)

    def _wake(self) -> None:
        if self._soon is None and self._looks.running:
            self._soon = self._reactor.callLater(0, self._woken)

    def _woken(self) -> None:
        self._soon = None
        self._write_next()

    def _write_next(self) -> None:
        """Hand over one piece, of each recording in its turn; the next when that is written."""
        if self._is_writing:
            return
        now = self._reactor.seconds()
        for _ in range(len(self._at_work)):
            work = self._at_work[0]
            self._at_work.rotate(-1)
            piece = work.next_piece(now)
            if piece is not None:
                self._is_writing = True
                writing = self._disk.run(partial(work.recording.append, piece))
                writing.addCallbacks(self._written, self._failed, callbackArgs=(work,), errbackArgs=(work,))
                return
        if not self._at_work:
            self._end()

    def _written(self, _: None, work: _Work) -> None:
        if work.failed_at is not None:
            self._log.info("the session on {target} is recorded again", target=work.recorder.target)
        work.failed_at = None
        piece, work.piece = work.piece, None
        self._go_on(work, ended=piece is not None and piece.ends)

    def _failed(self, failure: Failure, work: _Work) -> None:
        target, is_news = work.recorder.target, work.failed_at is None
        work.failed_at = self._reactor.seconds()
        ended = work.recorder.has_ended
        if not failure.check(OSError):
            self._log.failure("the recording of {target} ends by an error inside kdsrv", failure, target=target)
            work.stop()
            ended = True
        elif is_news:
            self._log.warn(
                "the session on {target} is not recorded now: {why}. The session goes on, its recording when it can",
                target=target,
                why=getattr(failure.value, "strerror", None) or failure.getErrorMessage(),
            )
        if ended:
            self._disk.run(work.recording.close)
        self._go_on(work, ended=ended)

    def _go_on(self, work: _Work, *, ended: bool) -> None:
        self._is_writing = False
        if ended and work in self._at_work:
            self._at_work.remove(work)
        self._wake()


class _Work:
    """One session that is recorded."""

    def __init__(self, recorder: Recorder, recording: Recording) -> None:
        self.recorder = recorder
        self.recording = recording
        self.stop: Callable[[], None] = lambda: None
        self.piece: Piece | None = None
        """What is being written, or could not be."""
        self.failed_at: float | None = None

    def next_piece(self, now: float) -> Piece | None:
        """What is to be written now, if anything is."""
        waits = self.failed_at is not None and now < self.failed_at + _RETRY
        if waits and not self.recorder.has_ended:
            return None
        if self.piece is None:
            self.piece = self.recorder.take()
        return self.piece
