"""Every command that README and docs show is run as it is written, each document from top to bottom.

A command that no rule of ``RULES`` knows fails, so that what is new in a document is run too. To extend this, add a
rule for a new command, to ``PRESUPPOSED`` what has to run before it, and to ``Surroundings`` what a test machine lacks.
The output that a document shows (the block of ``text`` behind a command) has to be what the command says.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from background_program import BackgroundProgram
from documented_commands import (
    Block,
    Piece,
    Surroundings,
    blocks,
    commands,
    inline_code,
    shell,
    takes_signals,
    without_what_varies,
)
from running_programs import KDSRV, ROOT, run_each, run_program, until

from kdsrv import connection_strings
from kdsrv.errors import KdsrvError

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TESTS = Path(__file__).parent
PATIENCE: Final = 30.0
CONNECTED: Final = "holding "
MOST_LINES: Final = 12
"""Of what there is to say about one command."""


# How a command is run


@dataclass(frozen=True)
class Ends:
    """It ends by itself with status 0. ``keys`` is what somebody types."""

    keys: str = ""


@dataclass(frozen=True)
class Stays:
    """It runs until Ctrl-C and then ends with ``status``. Going on makes sense as soon as its output has ``ready``, and
    before it is ended it has to come as far as ``reaches``.

    One of a kind runs at a time: another program of the same kind begins where this one ends.
    """

    kind: str
    ready: str
    reaches: str = ""
    status: int = 0


@dataclass(frozen=True)
class Elsewhere:
    """It is not run here, for this reason; a test in this file, if one is named, runs it."""

    why: str
    file: str = ""
    test: str = ""


RULES: Final[tuple[tuple[str, Ends | Stays | Elsewhere], ...]] = (
    (
        r"python3 -m pip install \S+$",
        Elsewhere("needs a fresh environment", "test_packaging.py", "test_the_installed_command_tells_its_version"),
    ),
    (r"python3 -m pytest$", Elsewhere("it is what runs this")),
    (r"ssh -L ", Elsewhere("needs a second host with an SSH server")),
    (r"python3 -m benchmarks\b", Ends()),
    (r"python3? \w+\.py\b", Ends()),
    (r"kdsrv demo --once$", Ends()),
    (r"kdsrv (list|end) ", Ends()),
    (
        r"kdsrv release ",
        Elsewhere("needs two", "test_release_command.py", "test_a_target_is_asked_for_and_given_away"),
    ),
    (r"kdsrv log ", Ends()),
    (r"kdsrv doctor ", Ends()),
    (r"kdsrv replay ", Stays("target", r"Ctrl-C ends it")),
    (r"tshark ", Elsewhere("needs a recording", "test_record_end_to_end.py", "test_tshark_opens_a_recorded_session")),
    (r"(touch|chmod) ", Ends()),
    (r"kdsrv password ", Ends(keys="PASSWORD\n")),
    (r"kdsrv key ", Ends()),
    (r"kdsrv sim ", Stays("machine", r"Ctrl-C ends it")),
    (r"kdsrv -QR ", Elsewhere("asks TCP port 1234 of another host")),
    (r"openssl x509 ", Ends()),
    (
        r"(twist kdsrv|kdsrv connect) .*,channel=",
        Elsewhere("needs a serial cable", "test_com_channel_programs.py", "test_a_login_through_the_cable"),
    ),
    (
        r"kdsrv connect .*1394:",
        Elsewhere("needs a FireWire card", "test_firewire_session.py", "test_attaching_to_a_halted_target"),
    ),
    (
        r"kdsrv firewire$",
        Elsewhere("needs a FireWire card", "test_firewire_command.py", "test_the_command_on_a_directory_of_nodes"),
    ),
    (r"kdsrv connect ", Stays("client", r"Ctrl-C ends the session|listens on port ", reaches=CONNECTED)),
    (r"kdsrv watch ", Stays("spectator", r"looking on at ")),
    (r"twist kdsrv ", Stays("server", r"Starting reactor", status=-signal.SIGINT)),  # Twisted's way to end on a signal
)
"""The first that matches the beginning of a command, as the document has it, says how it is run."""

PRESUPPOSED: Final[tuple[tuple[str, str, str], ...]] = (
    ("connection-strings.md", r"kdsrv connect ", "twist kdsrv --listen tcp:1234 --no-password"),
    ("policy.md", r"kdsrv list ", "twist kdsrv --listen tcp:1234"),
    (
        "reliability.md",
        r"kdsrv connect --take ",
        "twist kdsrv -t tcp:port=1234,password=PASSWORD --target rack1=com:port=/dev/ttyUSB0,baud=115200",
    ),
)
"""What has to be run before such a command of a document, which shows one end and takes the other for granted."""

LANGUAGES: Final = {
    "sh": "run here",
    "": "what begins with one of our programs is run here",
    "text": "output, compared here",
    "python": "run here, or part of an example that test_embedding.py runs",
    "login": "test_wire_docs.py",
    "transcript": "test_wire_docs.py",
    "resumed-transcript": "test_wire_docs.py",
    "watch-transcript": "test_wire_docs.py",
}
"""What a fence may say, and who looks at the block."""

MADE: Final = r"one was made for this run: (\S+)"

PLACEHOLDERS: Final = ("...", "<", "*", "?")
"""A string with one of these is talked about, or a pattern."""


class Wrong(Exception):
    """A document shows something that is not so."""


class Running(NamedTuple):
    """A program that stays, and what started it."""

    place: str
    line: str
    rule: Stays
    program: BackgroundProgram

    @property
    def listens(self) -> bool:
        """Whether it is a client that waits for servers, whichever comes."""
        return "listens on port" in self.program.text and self.rule.kind == "client"

    def press_ctrl_c(self) -> None:
        if self.rule.reaches:
            self.program.wait_for(self.rule.reaches, limit=PATIENCE)
        until(lambda: takes_signals(self.program.process), PATIENCE)
        self.program.process.send_signal(signal.SIGINT)
        status = self.program.process.wait(PATIENCE)
        if status not in (0, self.rule.status):
            raise Wrong(f"{self.line}\nended with status {status} after Ctrl-C and said:\n{self.program.text}")
        if "Traceback" in self.program.text:
            raise Wrong(f"{self.line}\nsaid a traceback:\n{self.program.text}")


class Reader:
    """Somebody at a shell who does what a document shows, in a directory with the examples in it."""

    def __init__(self, document: Path, room: Path, stack: ExitStack) -> None:
        self.wrong: list[str] = []
        self._document = document
        self._desk = room / "desk"
        self._stack = stack
        self._around = Surroundings(room, stack)
        self._running: list[Running] = []
        self._presupposed = [each[1:] for each in PRESUPPOSED if each[0] == document.name]
        shutil.copytree(ROOT / "docs" / "examples", self._desk)
        (room / "run/user/1000").mkdir(mode=0o700, parents=True)
        self._shell = shell(room)

    def read(self) -> list[str]:
        """What is wrong, a sentence each."""
        shown = list(blocks(self._document))
        steps: list[tuple[Block | Piece, tuple[str, ...]]] = [(block, ()) for block in shown if block.is_script]
        for block, behind in zip(shown, [*shown[1:], None][: len(shown)], strict=True):
            found = list(commands(block))
            output = behind.lines if behind and behind.language == "text" and behind.before == block.before else ()
            steps += [(piece, output if piece is found[-1] else ()) for piece in found]
        steps += [(piece, ()) for piece in inline_code(self._document) if piece.is_command]
        for step, output in sorted(steps, key=lambda each: each[0].number):
            self._attempt(step.place, lambda step=step, output=output: self._do(step, output))
        self._end(lambda _: True)
        return self.wrong

    def _attempt(self, place: str, act: Callable[[], None]) -> None:
        try:
            act()
        except (Wrong, pytest.fail.Exception, AssertionError, subprocess.TimeoutExpired) as error:
            self.wrong.append("\n".join(f"{place}: {error}".splitlines()[:MOST_LINES]))

    def _do(self, step: Block | Piece, output: tuple[str, ...]) -> None:
        if isinstance(step, Block):
            script = self._desk / "script.py"
            script.write_text(self._around.apply(step.text), encoding="utf-8")
            self._run(f"python3 {script}", Ends())
            return
        for before in [each for each in self._presupposed if re.match(each[0], step.text)]:
            self._presupposed.remove(before)
            self._follow(step.place, before[1], ())
        self._follow(step.place, step.text, output)

    def _follow(self, place: str, text: str, output: tuple[str, ...]) -> None:
        rule = next((rule for pattern, rule in RULES if re.match(pattern, text)), None)
        match rule:
            case None:
                raise Wrong(f"no rule of test_documentation.py says how to run this command: {text}")
            case Elsewhere():
                if rule.test and f"def {rule.test}(" not in (TESTS / rule.file).read_text(encoding="utf-8"):
                    raise Wrong(f"{rule.file} has no {rule.test}, which should run this command: {text}")
            case Ends():
                said = self._run(self._around.apply(text), rule)
                self._compare(output, said)
            case Stays():
                program = self._begin(place, self._around.apply(text), rule)
                if rule.kind == "server":
                    self._meet(program, output)
                self._watch(program, rule, output)

    def _run(self, line: str, rule: Ends) -> str:
        done = subprocess.run(
            [*self._shell, line],
            cwd=self._desk,
            input=rule.keys,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=PATIENCE * 2,
            check=False,
        )
        if done.returncode:
            raise Wrong(f"{line}\nended with status {done.returncode} and said:\n{done.stdout}")
        return done.stdout

    def _begin(self, place: str, line: str, rule: Stays) -> BackgroundProgram:
        """Whatever is of its kind ends first; and before a server, clients of the last one, if they do not listen.

        Those that do have to get in.
        """
        self._end(lambda other: other.rule is rule or (rule.kind == "server" and not other.listens))
        waiting = [(each.program, each.program.text.count(CONNECTED)) for each in self._running]
        program = self._stack.enter_context(BackgroundProgram([*self._shell, line], cwd=self._desk))
        try:
            program.wait_for(rule.ready, limit=PATIENCE)
        except pytest.fail.Exception:
            raise Wrong(f"{line}\ndid not say '{rule.ready}', but:\n{program.text}") from None
        self._running.append(Running(place, line, rule, program))
        if rule.kind == "server":
            for client, before in waiting:
                until(lambda client=client, before=before: client.text.count(CONNECTED) > before, PATIENCE)
        return program

    def _watch(self, program: BackgroundProgram, rule: Stays, output: tuple[str, ...]) -> None:
        """Wait for all the lines that are shown; of what a server says, its log, a document shows some."""
        shown = without_what_varies("\n".join(output))

        def said() -> list[str]:
            lines = without_what_varies(self._around.as_shown(program.text))
            return [line for line in lines if line in shown] if rule.kind == "server" else lines

        with suppress(AssertionError):  # the comparison says it better
            until(lambda: len(said()) >= len(shown))
        self._compare(output, "\n".join(said()))

    def _meet(self, server: BackgroundProgram, output: tuple[str, ...]) -> None:
        """Remember what is needed of a server: its process id, and the password that it has made up."""
        self._around.server_id = server.process.pid
        made = [re.search(MADE, text) for text in ("\n".join(output), server.text)]
        names = [found[1] for found in made[:1] if found] + ["PASSWORD"]
        self._around.passwords = dict.fromkeys(names, made[1][1]) if made[1] else {}

    def _compare(self, output: tuple[str, ...], said: str) -> None:
        expected = without_what_varies("\n".join(output))
        found = without_what_varies(self._around.as_shown(said))[: len(expected)]
        for number, line in enumerate(expected):
            if found[number : number + 1] != [line]:
                real = found[number] if number < len(found) else "nothing"
                raise Wrong(f"line {number + 1} of the output shown is\n  {line}\nand really\n  {real}")

    def _end(self, ends: Callable[[Running], bool]) -> None:
        """The youngest first."""
        for each in [each for each in reversed(self._running) if ends(each)]:
            self._running.remove(each)
            self._attempt(each.place, each.press_ctrl_c)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_does_what_is_shown(document: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with ExitStack() as stack:
        wrong = Reader(document, tmp_path_factory.mktemp("doc"), stack).read()
    if wrong:
        pytest.fail("\n\n".join(wrong), pytrace=False)


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    document = tmp_path / "wrong.md"
    shown = (
        "It is `twist kdsrv --listen nonsense`.\n",
        "```sh\nfrobnicate\npython3 -m benchmarks --list \\\n    no-such-row && python3 -m benchmarks --list\n```",
        "```text\nrounds-1\n```\n",
        "```python\nraise SystemExit(3)\n```",
    )
    document.write_text("\n".join(shown), encoding="utf-8")
    with ExitStack() as stack:
        wrong = Reader(document, tmp_path, stack).read()
    patterns = (
        r"wrong\.md:1: twist kdsrv .*\n?did not say 'Starting reactor', but:\nError: kdsrv: --listen",
        r"wrong\.md:4: no rule .* frobnicate",
        r"wrong\.md:6: python3 -m benchmarks --list no-such-row\nended with status 2",
        r"wrong\.md:6: line 1 of the output shown is\n  rounds-1\nand really\n  rounds-0 ",
        r"wrong\.md:13: python3 .*script\.py\nended with status 3",
    )
    assert len(wrong) == len(patterns)
    for pattern, sentence in zip(patterns, wrong, strict=True):
        assert re.match(pattern, sentence), sentence


def test_the_language_of_every_block_is_known() -> None:
    shown = [block for document in DOCUMENTS for block in blocks(document)]
    assert [f"{block.place}: {block.language}" for block in shown if block.language not in LANGUAGES] == []


def test_every_command_and_option_that_is_mentioned_exists(tmp_path: Path) -> None:
    """Such as ``kdsrv connect -k`` in a line of text."""
    found = [piece for document in DOCUMENTS for piece in inline_code(document)]
    mentions = [piece for piece in found if piece.is_mention]
    ours = sorted({piece.words[1] for piece in mentions if piece.words[0] == "kdsrv" and piece.words[1][0] != "-"})
    helps = dict(zip(ours, run_each([(name, "--help") for name in ours], tmp_path), strict=True))
    server = run_program((sys.executable, "-m", "twisted", "kdsrv", "--help"))
    own = run_program((*KDSRV, "--help"))
    wrong = []
    for piece in mentions:
        program, command, *_ = words = piece.words
        told = server if program.startswith("twist") else helps.get(command, own)
        options = {word for word in words if word.startswith("-")}
        known = set(re.findall(r"(?<![\w-])--?\w[\w-]*", told.text))
        if told.status != 0 or not options <= known:
            wrong.append(f"{piece.place}: {piece.text}")
    assert not wrong, f"there is no such command or option: {wrong}"


def test_every_connection_string_can_be_read() -> None:
    """One alone between backticks, or in ``server=@{}`` or ``trans=@{}`` there."""
    string = r"(?:com|sim|target|net|1394|usb2?|tcp|ssl|npipe|spipe|hyperv|kdsrv):\S+=\S*"
    shape = re.compile(rf"(?:server|trans)=@\{{(?P<inner>{string})\}}|(?P<whole>{string})")
    wrong = [
        f"{piece.place}: {piece.text}"
        for document in DOCUMENTS
        for piece in inline_code(document)
        if (found := shape.fullmatch(piece.text))
        and not any(each in piece.text for each in PLACEHOLDERS)
        and not can_be_read(found["inner"] or found["whole"])
    ]
    assert not wrong, f"no parser takes these strings: {wrong}"


def can_be_read(text: str) -> bool:
    for name in connection_strings.__all__:
        if name.startswith("parse_"):
            with suppress(KdsrvError):
                getattr(connection_strings, name)(text)
                return True
    return False


def test_every_import_works() -> None:
    """Also in blocks that are no whole program."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for line in re.findall(r"^ *(from kdsrv[\w.]* import .+|import kdsrv.*)$", text, re.MULTILINE):
            exec(line, {})
