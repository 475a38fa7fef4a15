"""The files of recordings: their names, their bounds, and a disk that fails."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import pytest
from recordings import BEGIN, Script, printed, stopped

from kdsrv.errors import SetupError
from kdsrv.recorder.entries import EntryReader, Note, PacketSeen
from kdsrv.recorder.files import Folder, OutputFile, Recording, open_file
from kdsrv.recorder.limits import RecordLimits, parse_age, parse_size
from kdsrv.recorder.reading import read_recording
from kdsrv.recorder.recorder import Growth, Piece

SECOND = 10**9
MEGABYTE = 1 << 20


def piece(size: int = 1000, *, time: int = BEGIN, ends: bool = False) -> Piece:
    """One with a body of about this size."""
    script = Script()
    script.says(stopped(), *[printed("x" * 3900)] * (size // 12_000))
    bodies, head = [], Growth()
    while (each := script.recorder.take()) is not None:
        head = head or each.head
        bodies.append(each.body)
    return Piece(time, head, sum(bodies, Growth()), ends)


def packets(path: Path) -> int:
    """How many packets there are in a file, which is whole."""
    reader = EntryReader()
    found = list(reader.feed(path.read_bytes()))
    assert not reader.is_torn
    return sum(isinstance(entry, PacketSeen) for entry in found)


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


Folders = Callable[..., Folder]


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Folders]:
    """Makes folders for recordings in the directory of the test, whose files are closed at its end."""
    made: list[Folder] = []

    def make(opener: Callable[[Path], OutputFile] = open_file, **limits: int) -> Folder:
        made.append(Folder(tmp_path, RecordLimits(**limits), opener))
        return made[-1]

    yield make
    for folder in made:
        for recording in tuple(folder.open_recordings):
            recording.close()


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_two_files_named_after_target_and_time(tmp_path: Path, folders: Folders) -> None:
    folder = folders()
    for target in ("com:port=/dev/ttyUSB0,baud=115200", "rack1", "rack1", "../../etc/\x1b[31m", ""):
        Recording(folder, target).append(piece(ends=True))
    assert files(tmp_path) == sorted(
        f"{stem}{end}"
        for stem in (
            "com-port-dev-ttyUSB0-baud-115200-2026-08-01-100000",
            "rack1-2026-08-01-100000",
            "rack1-2026-08-01-100000-2",
            "etc-31m-2026-08-01-100000",
            "target-2026-08-01-100000",
        )
        for end in (".pcapng", ".jsonl")
    )
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_pieces_grow_the_files_and_only_the_first_has_a_head(tmp_path: Path, folders: Folders) -> None:
    recording = Recording(folders(), "rack1")
    for _ in range(3):
        recording.append(piece())
    assert recording.path is not None
    found = list(read_recording(recording.path))
    assert sum(isinstance(entry, Note) for entry in found) == 1
    assert packets(recording.path) == 3
    recording.close()
    assert recording.path is None


def test_a_new_file_before_one_is_too_large_and_when_it_is_old(tmp_path: Path, folders: Folders) -> None:
    recording = Recording(folders(size=MEGABYTE, age=60), "rack1")
    for number in range(6):
        recording.append(piece(300_000, time=BEGIN + number))
    assert len(list(tmp_path.glob("*.pcapng"))) == 2
    recording.append(piece(time=BEGIN + 59 * SECOND))
    assert len(list(tmp_path.glob("*.pcapng"))) == 2
    recording.append(piece(time=BEGIN + 60 * SECOND + 3))
    assert recording.path == tmp_path / "rack1-2026-08-01-100100.pcapng"
    assert packets(recording.path) == 1
    recording.close()
    found = list(tmp_path.glob("*.pcapng"))
    assert len(found) == 3
    for path in found:
        assert path.stat().st_size + path.with_suffix(".jsonl").stat().st_size <= MEGABYTE


def sizes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_the_oldest_recordings_go_and_nothing_else_does(tmp_path: Path, folders: Folders) -> None:
    foreign = {
        "notes.txt": b"mine",
        "my-capture.pcapng": piece().head.packets,
        "rack1-2026-08-01-095959.jsonl": b"{}",
        "other-2020-01-01-000000.pcapng": b"\x0a\x0d\x0d\x0a of another program",
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "link-2020-01-01-000000.pcapng").symlink_to(tmp_path / "my-capture.pcapng")
    folder = folders(size=MEGABYTE, space=2 * MEGABYTE)
    own = sizes(tmp_path)
    for number in range(8):
        recording = Recording(folder, f"rack{number}")
        recording.append(piece(600_000, ends=True))
        for path in tmp_path.glob(f"rack{number}-*"):
            os.utime(path, (1000 + number, 1000 + number))
        assert sizes(tmp_path) - own <= 2 * MEGABYTE
    left = files(tmp_path)
    assert foreign.keys() | {"link-2020-01-01-000000.pcapng"} <= set(left)
    recordings = [name for name in left if name.startswith("rack") and name not in foreign]
    assert recordings == [f"rack{n}-2026-08-01-100000.{end}" for n in (5, 6, 7) for end in ("jsonl", "pcapng")]


def test_a_recording_that_somebody_writes_is_not_removed(tmp_path: Path, folders: Folders) -> None:
    """Also that of another process in the same directory, which holds a lock."""
    other = folders(size=MEGABYTE, space=2 * MEGABYTE)
    held = Recording(other, "held")
    held.append(piece(500_000))
    os.utime(tmp_path / "held-2026-08-01-100000.pcapng", (0, 0))
    folder = folders(size=MEGABYTE, space=2 * MEGABYTE)
    for number in range(8):
        Recording(folder, f"rack{number}").append(piece(600_000, ends=True))
    assert "held-2026-08-01-100000.pcapng" in files(tmp_path)
    held.close()
    Recording(folder, "last").append(piece(900_000, ends=True))
    assert "held-2026-08-01-100000.pcapng" not in files(tmp_path)


def test_many_sessions_at_once_keep_the_bound_as_well(tmp_path: Path, folders: Folders) -> None:
    folder = folders(size=MEGABYTE, space=2 * MEGABYTE)
    recordings = [Recording(folder, f"rack{number}") for number in range(10)]
    for _ in range(3):
        for recording in recordings:
            recording.append(piece(300_000))
            assert sizes(tmp_path) <= 2 * MEGABYTE
    for path in tmp_path.glob("*.pcapng"):
        list(read_recording(path))


def test_space_that_cannot_be_had_is_an_error(tmp_path: Path, folders: Folders) -> None:
    folder = folders(size=MEGABYTE, space=2 * MEGABYTE)
    for number in range(3):
        Recording(folder, f"rack{number}").append(piece(600_000, ends=True))
    with ExitStack() as locks:
        for path in tmp_path.glob("*.pcapng"):
            fcntl.flock(locks.enter_context(path.open("rb")), fcntl.LOCK_SH)
        with pytest.raises(OSError, match="all the space they may"):
            Recording(folder, "another").append(piece(600_000))
    Recording(folder, "another").append(piece(600_000, ends=True))


class FullDisk:
    """Takes ``room`` bytes in all its files together."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.opened: list[Path] = []

    def open(self, path: Path) -> OutputFile:
        self.opened.append(path)
        return FullDiskFile(self, path)


class FullDiskFile(FileIO):
    def __init__(self, disk: FullDisk, path: Path) -> None:
        super().__init__(path, "xb")
        self._disk = disk

    def write(self, data: memoryview, /) -> int:  # type: ignore[override]
        if not self._disk.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = super().write(data[: min(len(data), self._disk.room, 5000)])
        self._disk.room -= taken
        return taken


def test_a_full_disk_leaves_whole_files_and_takes_the_piece_later(tmp_path: Path, folders: Folders) -> None:
    disk = FullDisk(70_000)
    recording = Recording(folders(disk.open), "rack1")
    recording.append(piece(50_000))
    (path,) = disk.opened[:1]
    before = packets(path)
    again = piece(50_000)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            recording.append(again)
        assert packets(path) == before
        assert path.with_suffix(".jsonl").read_bytes().endswith(b"}\n")
        disk.room = 20_000
    disk.room = MEGABYTE
    recording.append(again)
    assert packets(path) == 2 * before
    assert len(disk.opened) == 2


def test_a_full_disk_gets_no_empty_files(tmp_path: Path, folders: Folders) -> None:
    disk = FullDisk(100)
    recording = Recording(folders(disk.open), "rack1")
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            recording.append(piece())
        assert files(tmp_path) == []
    disk.room = MEGABYTE
    recording.append(piece())
    recording.close()
    assert len(files(tmp_path)) == 2


def test_no_descriptor_left_for_the_second_file(tmp_path: Path, folders: Folders) -> None:
    def open_one(path: Path) -> OutputFile:
        if path.suffix == ".jsonl":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_file(path)

    recording = Recording(folders(open_one), "rack1")
    with pytest.raises(OSError, match="Too many open files"):
        recording.append(piece())
    assert files(tmp_path) == []


def test_what_cannot_be_taken_back_now_is_later(tmp_path: Path, folders: Folders) -> None:
    broken = True

    class BrokenFile(FileIO):
        def write(self, data: memoryview, /) -> int:  # type: ignore[override]
            written = super().write(data[:100] if broken else data)
            if broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return written

        def truncate(self, size: int | None = None, /) -> int:
            if broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().truncate(size)

    broken = False
    recording = Recording(folders(lambda path: BrokenFile(path, "xb")), "rack1")
    recording.append(piece())
    broken = True
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            recording.append(piece())
    broken = False
    recording.append(piece())
    assert recording.path is not None
    assert packets(recording.path) == 2


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    Folder(path, RecordLimits()).prepare()
    assert path.stat().st_mode & 0o777 == 0o700
    Folder(path, RecordLimits()).prepare()
    file = tmp_path / "file"
    file.touch()
    for wrong, why in ((file, "File exists"), (file / "x", "Not a directory")):
        with pytest.raises(SetupError, match=f"cannot put recordings into {wrong}: {why}"):
            Folder(wrong, RecordLimits()).prepare()


@pytest.mark.parametrize(("text", "size"), [("1000", 1000), ("64M", 64 << 20), ("2g", 2 << 30), ("1T", 1 << 40)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90m", 5400), ("12H", 43200), ("7d", 604800)])
def test_ages(text: str, seconds: int) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5M", "64 M", "64MB", "1e9", "\u0661", "9" * 13])
def test_no_sizes(text: str) -> None:
    with pytest.raises(SetupError, match="is not a size: 64M, 1G"):
        parse_size(text)


def test_no_age() -> None:
    with pytest.raises(SetupError, match="'1w' is not a time: 90m, 12h, 7d"):
        parse_age("1w")


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"size": 1000}, "a recording of 1000 bytes is too small: 1M or more"),
        ({"age": 0}, "a recording has to last a second at the least"),
        ({"size": 600 << 20}, "there has to be room for two"),
    ],
)
def test_limits_that_do_not_fit(limits: dict[str, int], why: str) -> None:
    with pytest.raises(SetupError, match=why):
        RecordLimits(**limits)
