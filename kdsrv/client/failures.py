"""What can go wrong in a session that a program drives, one error each; all are KdsrvErrors."""

from __future__ import annotations

from kdsrv.errors import KdsrvError
from kdsrv.kd.statuses import status_text

__all__ = [
    "MemoryUnreadable",
    "MemoryUnwritable",
    "RequestFailed",
    "RequestLost",
    "SessionEnded",
    "TargetRunning",
    "TookTooLong",
]


class SessionEnded(KdsrvError):
    """the session has ended: {why}"""

    code = "session-ended"

    def __init__(self, reason: KdsrvError | None = None) -> None:
        """``reason`` is what ended it; None if this side has left."""
        super().__init__(why="this side has left" if reason is None else reason.args[0])
        self.reason = reason


class TargetRunning(KdsrvError):
    """the target is not halted ({status}): break in, or wait for it to stop"""

    code = "running"


class RequestFailed(KdsrvError):
    """the target refuses {request}: {status_text}"""

    code = "refused"

    def __init__(self, request: str, status: int) -> None:
        """``status`` is the NTSTATUS in the reply."""
        super().__init__(request=request, status_text=status_text(status))
        self.request = request
        self.status = status


class RequestLost(KdsrvError):
    """{request} gets no answer: the target was reset or does not answer any more"""

    code = "request-lost"


class MemoryUnreadable(KdsrvError):
    """{kind} memory cannot be read at {place}"""

    code = "unreadable"

    def __init__(self, kind: str, address: int, read: bytes) -> None:
        """``address`` is the first that cannot be read, ``read`` what lies before it."""
        super().__init__(kind=kind, place=f"{address:#x}")
        self.address = address
        self.read = read


class MemoryUnwritable(KdsrvError):
    """{kind} memory cannot be written at {place}"""

    code = "unwritable"

    def __init__(self, kind: str, address: int, written: int) -> None:
        """``address`` is the first that cannot be written, ``written`` how many bytes before it were. Bytes behind it
        may have been written too."""
        super().__init__(kind=kind, place=f"{address:#x}")
        self.address = address
        self.written = written


class TookTooLong(KdsrvError):
    """{what} took longer than {seconds:g} s"""

    code = "too-long"
