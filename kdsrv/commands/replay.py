"""``kdsrv replay``: plays a recording back, as a target at the end of a pty, FIFOs, a unix socket or a TCP port."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from kdsrv.commands.machine_place import add_places, kd_string, offer
from kdsrv.commands.recording_files import add_recordings
from kdsrv.errors import SetupError
from kdsrv.recorder.reading import RecordingError, find_recordings, read_recording
from kdsrv.recorder.replay import ReplayedTarget
from kdsrv.recorder.timeline import Timeline
from kdsrv.sessions.decoded import printable
from kdsrv.transports.simulated import LiveLine

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv replay``."""
    parser.description = (
        "Play a recording back until Ctrl-C: a target that a debugger finds as the recorded one was, and that answers "
        "what was asked then. What was never asked it refuses."
    )
    add_recordings(parser)
    add_places(parser.add_mutually_exclusive_group(required=True))


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Offer the target and say where; fires with 0 when the reactor is shut down.

    Raises `RecordingError` or `SetupError`.
    """
    timeline = Timeline(entry for path in find_recordings(options.file) for entry in read_recording(path))
    stops = len(timeline.scenes) - 1
    if not stops and not timeline.scenes[0].said:
        raise RecordingError(file=options.file[0], why="the target says nothing in it, so there is nothing to play")
    live = LiveLine(reactor, ReplayedTarget(timeline))
    try:
        where, close = offer(reactor, live, options)
    except SetupError:
        live.stop()
        raise
    sys.stdout.write(f"recording of {printable(timeline.title)}: {stops} stops, {timeline.answers} answers\n")
    sys.stdout.write(f"played back at {where}; Ctrl-C ends it\n")
    sys.stdout.write(f"a server on this host reaches it as trans=@{{{kd_string(where, options)}}}\n")
    sys.stdout.flush()
    done: Deferred[int] = Deferred()

    def shut_down() -> Deferred[None]:
        live.stop()
        ended = maybeDeferred(close)
        ended.addBoth(lambda _: done.callback(0))
        return ended

    reactor.addSystemEventTrigger("before", "shutdown", shut_down)
    return done
