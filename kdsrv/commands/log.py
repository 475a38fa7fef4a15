"""``kdsrv log``: prints recordings of a server as people read them, or as JSON lines."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from kdsrv.commands.recording_files import add_recordings
from kdsrv.errors import SetupError
from kdsrv.recorder.entries import Entry
from kdsrv.recorder.log_lines import LogLine, Topic, log_lines
from kdsrv.recorder.reading import find_recordings, read_recording

__all__ = ["configure", "run"]

_USUAL: Final = frozenset(Topic) - {Topic.REQUESTS}
_LOOK_AGAIN: Final = 0.25
"""Seconds."""
_WIDTH: Final = len("module-unload")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv log``."""
    parser.description = (
        "Print recordings that a server made with --record: what the target printed, in whole lines; modules, stops, "
        "bugchecks; who held it. Times are those of this machine's zone."
    )
    add_recordings(parser)
    parser.add_argument(
        "--only",
        metavar="TOPIC",
        choices=[str(topic) for topic in Topic],
        action="append",
        help=f"print nothing but this: {', '.join(Topic)} (repeatable)",
    )
    parser.add_argument("--all", action="store_true", help="also requests and replies")
    parser.add_argument("--follow", action="store_true", help="go on as long as it is being written")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each line")


def run(_: object, options: argparse.Namespace) -> int:
    """Print all of it; gives the exit status. Raises RecordingError at the place from which on it is no recording."""
    files = find_recordings(options.file)
    if options.follow and len(files) > 1:
        raise SetupError(why="--follow goes on with one recording; name one file")
    topics = frozenset(map(Topic, options.only)) if options.only else frozenset(Topic) if options.all else _USUAL
    shown = _as_json if options.json else _as_text
    try:
        for line in log_lines(_entries(files, follow=options.follow), topics):
            sys.stdout.write(shown(line))
            if options.follow:
                sys.stdout.flush()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 0 if options.follow else 1
    except BrokenPipeError:
        # what is left in the stream would fail again at the end of the program
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _entries(files: Sequence[Path], *, follow: bool) -> Iterator[Entry]:
    for path in files:
        yield from read_recording(path, _grows if follow else None)


def _grows(file: BinaryIO) -> bool:
    """Whether a server has the file open, a moment later."""
    time.sleep(_LOOK_AGAIN)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _as_text(line: LogLine) -> str:
    seconds, rest = divmod(line.time, 10**9)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return f"{when}.{rest // 10**6:03} {line.kind:{_WIDTH}} {line.text}".rstrip() + "\n"


def _as_json(line: LogLine) -> str:
    when = datetime.fromtimestamp(line.time // 1000 / 1e6, UTC).isoformat(timespec="microseconds")
    return json.dumps({"time": when, "kind": line.kind, "text": line.text, **line.data}) + "\n"
