"""Reads a recording from its file, also while it is being written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from kdsrv.errors import KdsrvError
from kdsrv.recorder.entries import Entry, EntryReader
from kdsrv.recorder.pcapng import FormatError

__all__ = ["RecordingError", "read_recording"]

_AT_ONCE: Final = 1 << 18


class RecordingError(KdsrvError):
    """{file}: {why}"""

    code = "bad-recording"


def read_recording(path: Path, grows: Callable[[BinaryIO], bool] | None = None) -> Iterator[Entry]:
    """The entries of a file, one after the other. An entry that its end cuts off is left out.

    ``grows``, if there is one, is called at the end of the file. It may wait, and says whether somebody still writes;
    reading goes on until nobody does. Raises RecordingError where the file cannot be read or holds something else.
    """
    reader = EntryReader()
    found, growing = False, grows is not None
    try:
        with path.open("rb") as file:
            while True:
                data = file.read(_AT_ONCE)
                for entry in reader.feed(data):
                    found = True
                    yield entry
                if not data:
                    if not growing:
                        break
                    growing = grows is not None and grows(file)
    except OSError as error:
        raise RecordingError(file=path, why=error.strerror) from None
    except FormatError as error:
        raise RecordingError(file=path, why=error) from None
    if not found:
        raise RecordingError(file=path, why="no recording of kdsrv: there is nothing in it")
