"""The ``kdsrv`` command: one subcommand a module of ``kdsrv.commands``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any, Final, NoReturn

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv import __version__
from kdsrv.commands import connect, demo, doctor, end, firewire, key, log, password, release, replay, sim, watch
from kdsrv.commands import list as list_command
from kdsrv.commands.string_option import complaint
from kdsrv.errors import KdsrvError, WrongOption
from kdsrv.process_title import hide_secrets

__all__ = ["main"]

_COMMANDS: Final[dict[str, tuple[ModuleType, str]]] = {
    "connect": (connect, "hold a target of a server and let a local debugger at it"),
    "watch": (watch, "look on at a target that others debug"),
    "release": (release, "give a target to who has asked for it"),
    "list": (list_command, "show what a server has, and who holds it"),
    "end": (end, "end a server, for everybody who uses it"),
    "doctor": (doctor, "say what is wrong with the line to a target, on the host that it is at"),
    "demo": (demo, "show the whole path on a simulated target, without hardware"),
    "sim": (sim, "run a simulated target"),
    "log": (log, "print what a server has recorded"),
    "replay": (replay, "play a recording back as a target"),
    "password": (password, "make or check a user's line in a user file"),
    "firewire": (firewire, "show the FireWire nodes of this host, and which targets wait there"),
    "key": (key, "make or check the key of a target that is debugged over the network (KDNET)"),
}
_WITHOUT_REACTOR: Final = frozenset({"key", "log", "password"})
"""Commands that read and wait, which a reactor would not let Ctrl-C end."""
_QR: Final = ("-qr", "/qr")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 for an error that has been told, 2 for a wrong option."""
    hide_secrets()
    words = _spelled(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(as_json="--json" in words)
    if words and words[0].lower() in _QR:
        parser.error(f"{words[0]} needs a host: kdsrv {words[0]} HOST")
    if words and words[0] not in _COMMANDS and ":" in words[0]:
        # argparse would show the string, with the password in it
        parser.error("a connection string needs a command before it: kdsrv connect -k '...'")
    options, unknown = parser.parse_known_args(words)
    if (wrong := complaint(options, unknown)) is not None:
        options.parser.error(wrong)
    if options.command in _WITHOUT_REACTOR:
        return _run_without_reactor(options)
    from twisted.internet import reactor

    return _run(reactor, options)


def _spelled(arguments: Sequence[str]) -> list[str]:
    r"""``-QR HOST`` (``\\HOST``), as Microsoft's debuggers spell it, is a way to say ``list``."""
    if len(arguments) > 1 and arguments[0].lower() in _QR and not arguments[1].startswith("-"):
        return ["list", list_command.qr_string(arguments[1]), *arguments[2:]]
    return list(arguments)


class _Parser(argparse.ArgumentParser):
    """One whose complaints are a sentence, not behind lines of usage, and JSON where everything is to be."""

    as_json = False

    @override
    def error(self, message: str) -> NoReturn:
        if not self.as_json:
            self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")
        with suppress(OSError):
            sys.stdout.write(_as_json("usage", message))
            sys.stdout.flush()
        self.exit(2)


def _parser(*, as_json: bool) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kdsrv",
        description="Kernel debugging over the network. The server is started by: twist kdsrv --listen tcp:1234",
    )
    parser.as_json = as_json
    parser.add_argument("--version", action="version", version=f"kdsrv {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, purpose) in _COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        command.as_json = as_json
        command.set_defaults(run=module.run, parser=command)
        module.configure(command)
    return parser


def _run_without_reactor(options: argparse.Namespace) -> int:
    try:
        return _status(options.run(None, options), as_json=False)
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write("\n")
        return 1
    except KdsrvError:
        return _status(Failure(), as_json=getattr(options, "json", False))


def _run(reactor: Any, options: argparse.Namespace) -> int:
    """Let the command run until it is done; Ctrl-C and SIGTERM cancel it, and it may tidy up."""
    status = 0

    def begin() -> None:
        running: Deferred[int] = maybeDeferred(options.run, reactor, options)

        def cancel() -> Deferred[int]:
            running.cancel()
            return running

        def end(result: int | Failure) -> None:
            nonlocal status
            status = _status(result, as_json=getattr(options, "json", False))
            with suppress(ReactorNotRunning):
                reactor.stop()

        reactor.addSystemEventTrigger("before", "shutdown", cancel)
        running.addBoth(end)

    reactor.callWhenRunning(begin)
    reactor.run()
    return status


def _status(result: int | Failure, *, as_json: bool) -> int:
    if not isinstance(result, Failure):
        return result
    if result.check(CancelledError):
        return 0
    if result.check(BrokenPipeError):
        return 1
    stream = sys.stderr
    if as_json and isinstance(error := result.value, KdsrvError):
        stream = sys.stdout
        text = _as_json(error.code, str(error.args[0]))
    elif result.check(KdsrvError):
        text = f"kdsrv: {result.value}\n"
    else:
        text = f"kdsrv: an error inside kdsrv; please report it:\n{result.getTraceback()}"
    with suppress(OSError):  # nobody reads it any more
        stream.write(text)
        stream.flush()
    return 2 if result.check(WrongOption) else 1


def _as_json(code: str, message: str) -> str:
    return json.dumps({"event": "error", "code": code, "message": message}) + "\n"


if __name__ == "__main__":
    sys.exit(main())
