"""Takes secrets off the command line that ``ps`` shows.

The kernel shows a process's arguments straight out of its memory, so they are overwritten there. Until that has
happened, in the first moments of the process, they can be seen: a password file has no such moments.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from kdsrv.connection_strings.masking import masked

__all__ = ["hide_secrets", "without_secrets"]

_SECRET: Final = re.compile(r"(password|key)\s*=", re.IGNORECASE)
_SECRET_OPTION: Final = b"--key"
_ARG_START, _ARG_END = 47, 48
"""Places in /proc/self/stat, from 0."""


def without_secrets(arguments: bytes) -> bytes:
    """A command line as the kernel has it, arguments with a NUL behind each, made fit to be seen and no longer."""
    shown: list[bytes] = []
    for argument in arguments.split(b"\0"):
        text = argument.decode(errors="surrogateescape")
        if shown and shown[-1] == _SECRET_OPTION:
            shown.append(b"*")
        else:
            shown.append(masked(text).text.encode(errors="replace") if _SECRET.search(text) else argument)
    return b"\0".join(shown)[: len(arguments)].ljust(len(arguments), b"\0")


def hide_secrets() -> None:
    """Overwrite the secrets in this process's command line; does nothing where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        start, end = int(fields[_ARG_START - 2]), int(fields[_ARG_END - 2])
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            hidden = without_secrets(arguments)
            if hidden != arguments:
                memory.seek(start)
                memory.write(hidden)
