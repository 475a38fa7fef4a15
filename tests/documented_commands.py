"""What a Markdown document shows of commands and code, and what they find on a test machine in place of a lab."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from running_programs import KDSRV, ROOT, Simulation

from kdsrv.tls.certificates import own_identity

__all__ = [
    "PROGRAMS",
    "Block",
    "Piece",
    "Surroundings",
    "blocks",
    "commands",
    "inline_code",
    "shell",
    "takes_signals",
    "without_what_varies",
]

PROGRAMS = ("kdsrv", "twist", "twistd", "python", "python3", "openssl")
"""A line that begins with one of these is a command, wherever it stands."""

_FENCE = "```"
_INDENT = "    "
_MENTIONED = re.compile(r"--?[a-zA-Z][a-z-]*|[A-Z]+")
_OPEN_END = " ..."
_SERVER = ("twist kdsrv ", "twistd ")
_CERTIFICATE = " -in FILE "


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code. ``language`` is what its fence says; empty where it says nothing, or for an indented block.

    ``number`` is the line of the document on which ``lines`` begin, and ``before`` the last line of text above it.
    """

    document: Path
    number: int
    language: str
    lines: tuple[str, ...]
    before: str = ""

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)

    @property
    def place(self) -> str:
        return f"{self.document.name}:{self.number}"

    @property
    def is_script(self) -> bool:
        """Whether it is a whole program; pieces of examples name their file."""
        return self.language == "python" and not self.before.startswith("[examples/")


@dataclass(frozen=True, slots=True)
class Piece:
    """A command, or code in a line of text, and where it is shown."""

    document: Path
    number: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.document.name}:{self.number}"

    @property
    def words(self) -> list[str]:
        """As a shell splits it; none if its quotes do not pair."""
        try:
            return shlex.split(self.text, comments=True)
        except ValueError:
            return []

    @property
    def is_mention(self) -> bool:
        """Whether it only names a command or its options: ``kdsrv connect -k STRING``."""
        program, *command = self.words or [""]
        told = command[1:] if command and command[0].islower() else command
        return program in PROGRAMS and bool(command) and all(_MENTIONED.fullmatch(word) for word in told)

    @property
    def is_command(self) -> bool:
        """Whether code in a line of text is a whole command to be run."""
        return len(self.words) > 1 and self.words[0] in (*PROGRAMS, "ssh") and not self.is_mention


def blocks(document: Path) -> Iterator[Block]:
    """The blocks of code, in order; a run of indented lines behind an empty line is one as well."""
    lines = document.read_text(encoding="utf-8").splitlines()
    at, before = 0, ""
    while at < len(lines):
        line = lines[at]
        if line.lstrip().startswith(_FENCE):
            inside = list(takewhile(lambda each: each.strip() != _FENCE, lines[at + 1 :]))
            yield Block(document, at + 2, line.strip().removeprefix(_FENCE), tuple(inside), before)
            at += len(inside) + 2
        elif line.startswith(_INDENT) and (at == 0 or not lines[at - 1]):
            inside = list(takewhile(lambda each: each.startswith(_INDENT) or not each, lines[at:]))
            yield Block(document, at + 1, "", tuple(each.removeprefix(_INDENT) for each in inside), before)
            at += len(inside)
        else:
            before = line or before
            at += 1


def commands(block: Block) -> Iterator[Piece]:
    """The commands in it: all lines of a block of ``sh``, and in others those that begin with one of our programs.

    Lines that end with a backslash are joined; what ``&&`` joins is a command each. Comments are left out, and the
    ``&`` that a shell needs at the end.
    """
    if block.language not in ("sh", ""):
        return
    joined = ""
    for number, line in enumerate(block.lines, block.number):
        joined += line.removesuffix("\\").strip() + " "
        if line.endswith("\\"):
            continue
        for each in joined.split(" && "):
            text = each.strip().removesuffix(" &")
            if text and not text.startswith("#") and (block.language == "sh" or _is_ours(text.split())):
                yield Piece(block.document, number, text)
        joined = ""


def inline_code(document: Path) -> Iterator[Piece]:
    """Code between backticks, outside of blocks."""
    text = document.read_text(encoding="utf-8").splitlines()
    for block in blocks(document):
        text[block.number - 1 : block.number - 1 + len(block.lines)] = [""] * len(block.lines)
    whole = "\n".join("" if line.lstrip().startswith(_FENCE) else line for line in text)
    for paragraph in re.finditer(r"(?:^[^\n]+(?:\n|\Z))+", whole, re.MULTILINE):
        for code in re.finditer(r"`([^`]+)`", paragraph[0]):
            number = whole.count("\n", 0, paragraph.start() + code.start()) + 1
            yield Piece(document, number, " ".join(code[1].split()))


def _is_ours(words: Sequence[str]) -> bool:
    return len(words) > 1 and words[0] in PROGRAMS


class Surroundings:
    """What a document takes for granted, made of what a test machine has.

    | in the document                     | here                                                 |
    |-------------------------------------|------------------------------------------------------|
    | a serial port, ``/dev/ttyUSB0``     | the pty of a ``kdsrv sim`` of its own                |
    | all of them, ``/dev/ttyUSB*``       | ``/dev/pts/*``                                       |
    | a TCP port, ``tcp:1234``            | a free one, always the same for the same number      |
    | a host, ``server=lab``              | 127.0.0.1                                            |
    | a path in ``/etc``, ``/run`` ...    | the same path below a directory of the test's        |
    | ``[--option]``                      | the option                                           |
    | ``...`` at the end                  | nothing                                              |
    | PASSWORD, for a client              | what the server has made up, if it has               |
    | ``trans=@{...}``                    | a simulated target                                   |
    | a server with TLS                   | keeps its certificate in the test's directory        |
    | ``pipe=kd_1a2b``, a pipe of ``%x``  | the one of the server that runs                      |
    | a certificate, ``-in FILE``         | one made as a server makes it                        |
    | rows of benchmarks, minutes each    | are listed instead (``--list``), options are read    |
    """

    _DEVICE: Final = re.compile(r"/dev/tty(?:USB|ACM|S)\d+")
    _DEVICES: Final = re.compile(r"/dev/tty(?:USB|ACM|S)\*")
    _PORT: Final = re.compile(r"(?<=tcp:|ssl:)\d{4,5}\b|(?<=port=)\d{4,5}\b|(?<=--tcp )\d{4,5}\b|(?<=0\.1:)\d{4,5}\b")
    _HOST: Final = re.compile(r"(?<=server=|clicon=)[a-z][\w.-]*|(?<=tcp:|ssl:)[a-z][\w.-]*(?=:\d)")
    _PATH: Final = re.compile(r"(?<![\w./])/(?=(?:etc|run|srv|var|path)/)")
    _OPTIONAL: Final = re.compile(r"\[(--?\w[^\]]*)\]")
    _PIPE: Final = re.compile(r"(?<=pipe=kd_)[0-9a-f]{4}\b")
    _TLS: Final = re.compile(r"^(twist kdsrv\b)(?=.*(?:ssl|spipe):)(?!.*(?:--state-dir|--certificate|certuser=))")
    _ROWS: Final = re.compile(r"^(python3 -m benchmarks)\b(?!.*--list)")

    def __init__(self, room: Path, stack: ExitStack) -> None:
        self.room = room
        self.server_id = 0
        self.passwords: dict[str, str] = {}
        """Those of the document, and for each the one that the server has made up in its place."""
        self._stack = stack
        self._ports: dict[str, str] = {}
        self._lines: dict[str, str] = {}

    def apply(self, text: str) -> str:
        text = self._DEVICE.sub(lambda found: self._line(found[0]), text)
        text = self._DEVICES.sub("/dev/pts/*", text)
        text = self._HOST.sub("127.0.0.1", text)
        text = self._PORT.sub(lambda found: self._port(found[0]), text)
        text = self._PATH.sub(f"{self.room}/", text)
        text = self._OPTIONAL.sub(r"\1", text)
        text = self._TLS.sub(rf"\1 --state-dir {self.room}/state", text)
        text = self._PIPE.sub(f"{self.server_id:x}", text)
        text = text.removesuffix(_OPEN_END)
        if _CERTIFICATE in text:
            own_identity(self.room, "lab")
            text = text.replace(_CERTIFICATE, f" -in {self.room}/tls.pem ")
        if not text.startswith(_SERVER):
            for shown, here in self.passwords.items():
                text = re.sub(rf"\b{re.escape(shown)}\b", lambda _, here=here: here, text)
        text = text.replace("trans=@{...}", "trans=@{sim:}")
        return self._ROWS.sub(r"\1 --list", text)

    def as_shown(self, output: str) -> str:
        """What a program said, as the document would show it."""
        for shown, here in (*self._lines.items(), *self._ports.items(), *self.passwords.items()):
            output = re.sub(rf"{re.escape(here)}\b", shown, output)
        return output.replace(str(self.room), "")

    def _line(self, shown: str) -> str:
        if shown not in self._lines:
            self._lines[shown] = self._stack.enter_context(Simulation("--pty")).place
        return self._lines[shown]

    def _port(self, shown: str) -> str:
        if shown not in self._ports:
            self._ports[shown] = str(next(port for port in iter(_some_port, 0) if _is_free(port)))
        return self._ports[shown]


def _some_port() -> int:
    """Not one that the system gives to others meanwhile: those begin at 32768."""
    return random.randrange(20000, 32000)


def _is_free(port: int) -> bool:
    with socket.socket() as taken:
        return taken.connect_ex(("127.0.0.1", port)) != 0


_VARYING: Final = (
    (r"^\d{4}-\d\d-\d\dT[\d:]+[+-]\d{4} \[[^\]]*\] ", ""),
    (r"\b[0-9a-f]{8}`[0-9a-f]{8}\b", "ADDRESS"),
    (r"\bipport=\d+", "ipport=PORT"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"/[\w-]+-\d+\.sock\b", "/TARGET-PID.sock"),
)
"""What differs from run to run: the beginnings of lines in a log, addresses, ports that were free, process ids."""


def without_what_varies(text: str) -> list[str]:
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.splitlines()


def shell(room: Path) -> list[str]:
    """The words before a command line: a shell, in which the programs have the names they have once installed."""
    place = room / "bin"
    place.mkdir()
    here = shlex.quote(sys.executable)
    for name, line in {
        "kdsrv": shlex.join(KDSRV),
        "twist": f"{here} -m twisted --log-format=text",  # as it is at a terminal
        "twistd": f"{here} -c 'from twisted.scripts.twistd import run; run()'",
        "python": here,
        "python3": here,
    }.items():
        shim = place / name
        shim.write_text(f'#!/bin/sh\nexec {line} "$@"\n', encoding="ascii")
        shim.chmod(0o755)
    return [
        "env",
        *(f"--unset={name}" for name in os.environ if name.startswith(("_NT_DEBUG", "KDSRV_"))),
        f"PATH={place}:{os.environ['PATH']}",
        f"PYTHONPATH={ROOT}",
        f"HOME={room}",
        f"XDG_RUNTIME_DIR={room}/run/user/1000",
        f"XDG_STATE_HOME={room}/state",
        f"KDSRV_PIPE_DIR={room}/pipes",
        "bash",
        "-c",
    ]


def takes_signals(process: subprocess.Popen[str]) -> bool:
    """Whether it has ended, or its reactor runs and has taken over SIGINT and SIGTERM, in this order.

    A server says that it starts its reactor a moment before that.
    """
    if process.poll() is not None:
        return True
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    caught = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> signal.SIGTERM - 1 & 1)
