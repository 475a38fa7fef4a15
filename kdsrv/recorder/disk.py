"""A thread for what may block: writing to a disk that is slow, or to a file server that is gone."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["Disk", "DiskThread"]

Result = TypeVar("Result")


class Disk(Protocol):
    """Does one thing after the other, somewhere else."""

    def run(self, act: Callable[[], Result]) -> Deferred[Result]:
        """Fires with what ``act`` returned, or fails with what it raised."""
        ...

    def stop(self) -> None:
        """Nothing more will be run. What runs is finished, but not waited for."""
        ...


class DiskThread:
    """A `Disk`. The thread begins with the first thing to do; it holds up no process that ends."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def run(self, act: Callable[[], Result]) -> Deferred[Result]:
        """See `Disk`."""
        done: Deferred[Result] = Deferred()

        def job() -> None:
            try:
                result: Result | Failure = act()
            except Exception:
                result = Failure()
            self._reactor.callFromThread(done.callback, result)

        if self._thread is None:
            self._thread = Thread(target=self._work, name="kdsrv recordings", daemon=True)
            self._thread.start()
        self._jobs.put(job)
        return done

    def stop(self) -> None:
        """See `Disk`."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
