"""SIGHUP: read again what can be read again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from typing_extensions import override

__all__ = ["HangupService"]


class HangupService(Service):
    """Calls ``reload`` in the reactor's next turn when the process gets a SIGHUP, as long as the service runs."""

    def __init__(self, reactor: Any, reload: Callable[[], object]) -> None:
        self._reactor = reactor
        self._reload = reload
        self._before: Any = None

    @override
    def startService(self) -> None:
        super().startService()
        self._before = signal.signal(signal.SIGHUP, self._hung_up)

    @override
    def stopService(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL if self._before is None else self._before)
        super().stopService()

    def _hung_up(self, *_: object) -> None:
        self._reactor.callFromThread(self._reload)
