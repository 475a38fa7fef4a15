"""The files of recordings: written piece by piece, and the oldest removed when all take too much room.

Everything here may block, and so runs in a thread of its own. A recording is two files of one name, ``NAME.pcapng`` and
``NAME.jsonl``, where NAME tells target and local time. Only their owner may read them: what a debugger reads of a
target is in them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Final, Protocol

from kdsrv.errors import SetupError
from kdsrv.recorder.limits import RecordLimits
from kdsrv.recorder.recorder import Growth, Piece

__all__ = ["Folder", "OutputFile", "Recording", "open_file"]

_PACKETS: Final = ".pcapng"
_LINES: Final = ".jsonl"
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,80}-\d{4}-\d\d-\d\d-\d{6}(?:-\d+)?\.pcapng")
_MOST_NAMES: Final = 1000
_NANOSECONDS: Final = 10**9
_SECTION: Final = b"\x0a\x0d\x0d\x0a"
_PROGRAM: Final = b"kdsrv "
_HEAD: Final = 64
"""So many bytes of a file have in them the name of the program that wrote it."""


class OutputFile(Protocol):
    """What is wanted of an open file, as an `io.FileIO` has it. All but ``close`` raise OSError."""

    def write(self, data: memoryview, /) -> int | None: ...

    def seek(self, position: int, /) -> int: ...

    def truncate(self, size: int, /) -> int: ...

    def close(self) -> None: ...


def open_file(path: Path) -> OutputFile:
    """A new file, marked as being in use as long as it is open. Raises FileExistsError or another OSError."""
    file = FileIO(path, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600))
    with suppress(OSError):  # on a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return file


class _GrowingFile:
    """Grows by the whole data of each call of ``append``; what could not be written whole is taken back."""

    def __init__(self, path: Path, file: OutputFile) -> None:
        self.path = path
        self.file = file
        self.size = 0
        self._is_torn = False

    def append(self, data: bytes) -> None:
        """Raises OSError."""
        if self._is_torn:
            self.cut(self.size)
        self._is_torn = True
        rest = memoryview(data)
        while rest:
            rest = rest[self.file.write(rest) or 0 :]
        self._is_torn = False
        self.size += len(data)

    def cut(self, size: int) -> None:
        """Take back what is behind ``size``. Raises OSError; ``append`` tries it again then."""
        self.size = size
        self._is_torn = True
        self.file.truncate(size)
        self.file.seek(size)
        self._is_torn = False

    def close(self) -> None:
        with suppress(OSError):
            self.file.close()


class Folder:
    """The recordings in a directory, and what they may take."""

    def __init__(
        self, directory: Path, limits: RecordLimits, open_file: Callable[[Path], OutputFile] = open_file
    ) -> None:
        self.limits = limits
        self.open_recordings: list[Recording] = []
        """Those that files are open for, the oldest files first."""
        self._directory = directory
        self._open_file = open_file
        self._taken: int | None = None

    def prepare(self) -> None:
        """Make the directory if it is missing. Raises SetupError if nothing can be recorded there."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(why=f"cannot put recordings into {self._directory}: {error.strerror}") from None
        if not os.access(self._directory, os.W_OK | os.X_OK):
            raise SetupError(why=f"cannot put recordings into {self._directory}: Permission denied")

    def create(self, target: str, began: int) -> tuple[_GrowingFile, _GrowingFile]:
        """New files, of packets and of lines, for a recording that begins at this time. Raises OSError."""
        stem = f"{_file_name(target)}-{time.strftime('%Y-%m-%d-%H%M%S', time.localtime(began // _NANOSECONDS))}"
        for number in range(1, _MOST_NAMES):
            path = self._directory / f"{stem}{f'-{number}' if number > 1 else ''}{_PACKETS}"
            with suppress(FileExistsError):
                return self._create(path)
        raise FileExistsError(errno.EEXIST, "there are too many recordings of this second", str(self._directory))

    def _create(self, path: Path) -> tuple[_GrowingFile, _GrowingFile]:
        packets = _GrowingFile(path, self._open_file(path))
        beside = path.with_suffix(_LINES)
        try:
            return packets, _GrowingFile(beside, self._open_file(beside))
        except OSError:
            packets.close()
            with suppress(OSError):
                path.unlink()
            raise

    def make_room(self, wanted: int) -> None:
        """See that so many bytes more fit into the space. Raises OSError if they do not.

        With very many sessions the oldest file may be one that is being written; its session then begins another.
        """
        if self._taken is None or self._taken + wanted > self.limits.space:
            self._taken = self._clear(wanted)
        self._taken += wanted

    def _clear(self, wanted: int) -> int:
        """The bytes that all recordings take, once enough of them are removed."""
        space = self.limits.space
        while True:
            found = sorted(_recordings(self._directory))
            taken = sum(size for _, size, _ in found)
            for _, size, path in found:
                if taken + wanted > space and _remove(path):
                    taken -= size
            if taken + wanted <= space:
                return taken
            if not self.open_recordings:
                raise OSError(errno.EDQUOT, "the recordings there take all the space they may and cannot be removed")
            self.open_recordings[0].close()


class Recording:
    """The recording of one session on ``target``, in one pair of files after the other."""

    def __init__(self, folder: Folder, target: str) -> None:
        self._folder = folder
        self._target = target
        self._files: tuple[_GrowingFile, _GrowingFile] | None = None
        self._began = 0

    @property
    def path(self) -> Path | None:
        """The file of packets that is being written."""
        return None if self._files is None else self._files[0].path

    def append(self, piece: Piece) -> None:
        """Write all of a piece or, if that raises OSError, nothing, so that it can be tried again."""
        if self._files is not None and self._is_over(piece):
            self.close()
        self._folder.make_room(len(piece.head) + len(piece.body))
        if self._files is None:
            self._begin(piece)
        else:
            self._grow(self._files, piece.body)
        if piece.ends:
            self.close()

    def close(self) -> None:
        """Nothing more is written into these files."""
        if self._files is not None:
            for file in self._files:
                file.close()
            self._files = None
            self._folder.open_recordings.remove(self)

    def _is_over(self, piece: Piece) -> bool:
        """Whether the files would become too large by this piece, or are too old."""
        limits, size = self._folder.limits, sum(file.size for file in self._files or ())
        return size + len(piece.body) > limits.size or piece.time - self._began >= limits.age * _NANOSECONDS

    def _begin(self, piece: Piece) -> None:
        self._files = files = self._folder.create(self._target, piece.time)
        self._folder.open_recordings.append(self)
        self._began = piece.time
        try:
            self._grow(files, piece.head + piece.body)
        except OSError:
            self.close()
            for file in files:
                with suppress(OSError):
                    file.path.unlink()
            raise

    def _grow(self, files: tuple[_GrowingFile, _GrowingFile], growth: Growth) -> None:
        before = [file.size for file in files]
        try:
            for file, data in zip(files, (growth.packets, growth.lines), strict=True):
                file.append(data)
        except OSError:
            for file, size in zip(files, before, strict=True):
                with suppress(OSError):
                    file.cut(size)
            raise


def _file_name(target: str) -> str:
    """``com:port=/dev/ttyUSB0`` as ``com-port-dev-ttyUSB0``."""
    return "-".join(re.findall(r"[A-Za-z0-9][A-Za-z0-9._@]*", target))[:60] or "target"


def _recordings(directory: Path) -> list[tuple[int, int, Path]]:
    """Those of kdsrv: when last written to, bytes with the file of lines, and the file of packets. Raises OSError."""
    found = []
    for entry in os.scandir(directory):
        if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            path = Path(entry.path)
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if status.st_uid == os.geteuid() and _is_ours(path):
                    found.append((status.st_mtime_ns, status.st_size + _size(path.with_suffix(_LINES)), path))
    return found


def _is_ours(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    return head.startswith(_SECTION) and _PROGRAM in head


def _size(path: Path) -> int:
    """Of a regular file; 0 if it is none."""
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _remove(path: Path) -> bool:
    """Remove a recording that nobody is writing to; whether it is gone."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        with suppress(FileNotFoundError):
            path.with_suffix(_LINES).unlink()
    except OSError:
        return False
    return True
