"""What can go wrong with a session, one error each; all are KdsrvErrors."""

from __future__ import annotations

from typing import Final

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from kdsrv.errors import KdsrvError
from kdsrv.kd.statuses import status_text
from kdsrv.tls.binding import tls_failure

__all__ = [
    "MemoryUnreadable",
    "MemoryUnwritable",
    "RequestFailed",
    "RequestLost",
    "ServerGone",
    "ServerRefused",
    "SessionEnded",
    "TargetRunning",
    "TooManyRequests",
    "TookTooLong",
    "why_lost",
]


class ServerRefused(KdsrvError):
    """the server says: {message}"""

    def __init__(self, *, code: str, message: str) -> None:
        super().__init__(message=message)
        self.code = code  # type: ignore[misc]  # the server's code, not that of a class here


class ServerGone(KdsrvError):
    """the connection to the server has ended: {why}"""

    code = "server-gone"


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


class TooManyRequests(KdsrvError):
    """so many requests wait for the target that there is no room for one more: await some of them first"""

    code = "too-many"


_CLOSED: Final = "it closed the connection"
_NO_HELLO: Final = " before it said hello: is it a kdsrv server, and does it want tcp: or ssl:?"


def why_lost(reason: Failure, *, is_greeted: bool) -> KdsrvError:
    """Why a connection is lost. A server that is not the expected one says so by itself."""
    if isinstance(reason.value, KdsrvError):
        return reason.value
    if reason.check(ConnectionDone):
        return ServerGone(why=_CLOSED if is_greeted else _CLOSED + _NO_HELLO)
    if (why := tls_failure(reason)) is None:
        return ServerGone(why=reason.getErrorMessage().rstrip("."))
    return ServerGone(why=f"{why}; write tcp: if it has no TLS" if "does not speak TLS (" in why else why)
