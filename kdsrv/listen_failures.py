"""Why a port or a unix socket cannot be listened on, in words for people."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from twisted.internet.error import CannotListenError

__all__ = ["why_not"]


def why_not(error: CannotListenError) -> str:
    """Half a sentence, without the place."""
    reason = error.socketError
    if str(reason) == "Cannot acquire lock":
        return "another process listens there"
    if isinstance(error.port, str | bytes) and getattr(reason, "errno", None) == errno.EADDRINUSE:
        with suppress(OSError):
            if not stat.S_ISSOCK(os.lstat(error.port).st_mode):
                return "something that is no socket is there already"
    return getattr(reason, "strerror", None) or str(reason)
