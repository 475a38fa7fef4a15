"""The breakpoints that the users of a session have set in its target, as far as the target has told their handles."""

from __future__ import annotations

from typing import Final

from kdsrv.kd.api import Api
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.manipulate import Manipulate

__all__ = ["BREAKPOINT_REQUESTS", "Breakpoints"]

BREAKPOINT_REQUESTS: Final = frozenset(
    map(
        int,
        (Api.WRITE_BREAKPOINT, Api.RESTORE_BREAKPOINT, Api.WRITE_BREAKPOINT_EX, Api.RESTORE_BREAKPOINT_EX, Api.REBOOT),
    )
)
"""The ApiNumbers of the requests to ``note``."""

_MAX_HANDLES: Final = 64
"""So many are kept: twice as many as a target has."""


class Breakpoints:
    """Is told of requests and what came of them. Breakpoints that a debugger sets by writing memory are not seen."""

    def __init__(self) -> None:
        self._handles: dict[int, None] = {}

    @property
    def handles(self) -> list[int]:
        """Those that are set, in the order in which they were."""
        return list(self._handles)

    def note(self, request: bytes, reply: bytes = b"") -> None:
        """The target has answered ``request``, one of ``BREAKPOINT_REQUESTS``; a reboot has no reply."""
        try:
            self._note(Manipulate.decode(request), reply)
        except PayloadError:
            return
        while len(self._handles) > _MAX_HANDLES:
            del self._handles[next(iter(self._handles))]

    def _note(self, request: Manipulate, reply: bytes) -> None:
        if request.api == Api.REBOOT:
            self._handles.clear()
            return
        answer = Manipulate.decode(reply)
        match request.api:
            case Api.WRITE_BREAKPOINT if answer.succeeded:
                self._set(answer["handle"])
            case Api.RESTORE_BREAKPOINT if answer.succeeded:
                self._handles.pop(request["handle"], None)
            case Api.WRITE_BREAKPOINT_EX:
                # entries that had a handle are set anew, and those that cannot be set have none afterwards
                for _, handle in request.breakpoints():
                    self._handles.pop(handle, None)
                for _, handle in answer.breakpoints():
                    self._set(handle)
            case Api.RESTORE_BREAKPOINT_EX if answer.succeeded:
                for handle in request.handles():
                    self._handles.pop(handle, None)

    def _set(self, handle: int) -> None:
        if handle:
            self._handles[handle] = None
