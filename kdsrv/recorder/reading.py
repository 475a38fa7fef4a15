"""Finds recordings, and reads one from its file, also while it is being written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from kdsrv.errors import KdsrvError
from kdsrv.recorder.entries import Entry, EntryReader
from kdsrv.recorder.pcapng import FormatError

__all__ = ["RecordingError", "find_recordings", "read_recording"]

_AT_ONCE: Final = 1 << 18
_RECORDING: Final = ".pcapng"
_INDEX: Final = ".jsonl"


class RecordingError(KdsrvError):
    """{file}: {why}"""

    code = "bad-recording"


def find_recordings(paths: Sequence[Path]) -> list[Path]:
    """The files in this order; a directory stands for the recordings in it, by their names. RecordingError if it has
    none, or for the index of a recording."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob(f"*{_RECORDING}"))
            if not inside:
                raise RecordingError(file=path, why=f"there is no recording (*{_RECORDING}) in this directory")
            found += inside
        elif path.suffix == _INDEX:
            packets = path.with_suffix(_RECORDING)
            raise RecordingError(file=path, why=f"these are the events alone; give the recording, {packets}")
        else:
            found.append(path)
    return found


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
