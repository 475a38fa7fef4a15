"""What a target says and asks while it runs: prints, prompts, trace data, hardware breakpoints (KD protocol, 3).

Lengths inside these payloads are not trusted: text is what is present, and no more than its length says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

from kdsrv.kd.layout import Fields, Payload, row

__all__ = [
    "GET_STRING",
    "PRINT_STRING",
    "RELEASE_BREAKPOINT",
    "REQUEST_BREAKPOINT",
    "TRACE",
    "ControlRequest",
    "DebugIo",
    "TraceIo",
]

PRINT_STRING: Final = 0x3230
GET_STRING: Final = 0x3231
TRACE: Final = 0x3330
REQUEST_BREAKPOINT: Final = 0x4300
RELEASE_BREAKPOINT: Final = 0x4301

_DEBUG_HEADER: Final = {"api": (0, 4), "level": (4, 2), "processor": (6, 2), **row(8, 4, "length string_length")}
_TRACE_HEADER: Final = {"api": (0, 4), "level": (4, 2), "processor": (6, 2), "length": (8, 4)}
_CONTROL_HEADER: Final = row(0, 4, "api number available")


@dataclass(frozen=True, slots=True)
class DebugIo(Payload):
    """A print, a prompt, or the debugger's answer to a prompt. Text is bytes: its code page is the target's."""

    NAME: ClassVar = "debug I/O"
    SIZE: ClassVar = 16
    HEADER: ClassVar = _DEBUG_HEADER
    KINDS: ClassVar[dict[int, Fields]] = {}

    @property
    def is_prompt(self) -> bool:
        """The target waits for an answer."""
        return self.kind == GET_STRING

    @property
    def text(self) -> bytes:
        """What was printed, or the prompt."""
        return self.data[: self["length"]]

    @property
    def answer_text(self) -> bytes:
        """What an answer says."""
        return self.data[: self["string_length"]]

    @classmethod
    def print_string(cls, text: bytes, processor: int = 0) -> Self:
        return cls.build(PRINT_STRING, text, processor=processor, length=len(text))

    @classmethod
    def get_string(cls, prompt: bytes, most: int, processor: int = 0) -> Self:
        """A prompt for an answer of ``most`` bytes at the most."""
        return cls.build(GET_STRING, prompt, processor=processor, length=len(prompt), string_length=most)

    def answer(self, text: bytes) -> Self:
        """The debugger's answer to this prompt, cut to the length that the target takes."""
        text = text[: self["string_length"]]
        return type(self)(self.replace(string_length=len(text)).fixed, text)


@dataclass(frozen=True, slots=True)
class TraceIo(Payload):
    """Trace data of the target. It wants no answer."""

    NAME: ClassVar = "trace I/O"
    SIZE: ClassVar = 64
    HEADER: ClassVar = _TRACE_HEADER
    KINDS: ClassVar[dict[int, Fields]] = {}

    @property
    def trace(self) -> bytes:
        return self.data[: self["length"]]

    @classmethod
    def trace_data(cls, trace: bytes, processor: int = 0) -> Self:
        return cls.build(TRACE, trace, processor=processor, length=len(trace))


@dataclass(frozen=True, slots=True)
class ControlRequest(Payload):
    """The target asks for a hardware breakpoint register, or gives it back."""

    NAME: ClassVar = "control request"
    SIZE: ClassVar = 12
    HEADER: ClassVar = _CONTROL_HEADER
    KINDS: ClassVar[dict[int, Fields]] = {}

    @classmethod
    def request_breakpoint(cls, number: int) -> Self:
        return cls.build(REQUEST_BREAKPOINT, number=number)

    @classmethod
    def release_breakpoint(cls, number: int, released: bool = True) -> Self:
        return cls.build(RELEASE_BREAKPOINT, number=number, available=int(released))

    def answer(self, available: bool) -> Self:
        """The same with the debugger's decision."""
        return self.replace(available=int(available))
