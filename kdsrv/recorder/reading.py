"""Reads a recording from its file, also while it is being written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from kdsrv.errors import KdsrvError
from kdsrv.recorder.entries import Entry, EntryReader, Note
from kdsrv.recorder.pcapng import FormatError

__all__ = ["RecordingError", "read_recording"]

_AT_ONCE: Final = 1 << 18


class RecordingError(KdsrvError):
    """{file}: {why}"""

    code = "bad-recording"


def read_recording(path: Path, wait: Callable[[], None] | None = None) -> Iterator[Entry]:
    """The entries of a file, one after the other. An entry that its end cuts off is left out.

    ``wait``, if there is one, is called at the end of the file, and then reading goes on, until an entry says that the
    session has ended. Raises RecordingError where the file cannot be read or holds something else.
    """
    reader = EntryReader()
    found = False
    try:
        with path.open("rb") as file:
            while True:
                data = file.read(_AT_ONCE)
                for entry in reader.feed(data):
                    found = True
                    yield entry
                    if wait is not None and isinstance(entry, Note) and entry.kind == "ended":
                        return
                if not data:
                    if wait is None:
                        break
                    wait()
    except OSError as error:
        raise RecordingError(file=path, why=error.strerror) from None
    except FormatError as error:
        raise RecordingError(file=path, why=error) from None
    if not found:
        raise RecordingError(file=path, why="no recording of kdsrv: there is nothing in it")
