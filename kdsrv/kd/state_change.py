"""STATE_CHANGE64, packet type 7: a target stopped and says why (KD protocol, 2.1).

The fixed part is the same on every machine but for the last 48 bytes, the control report, whose layout is that of
`kdsrv.kd.amd64.ControlReport` or `kdsrv.kd.x86.ControlReport`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from kdsrv.kd.layout import Payload, Record, row

__all__ = ["ALTERNATE", "COMMAND_STRING", "EXCEPTION", "LOAD_SYMBOLS", "ControlReport", "StateChange", "is_stop"]

EXCEPTION: Final = 0x3030
LOAD_SYMBOLS: Final = 0x3031
COMMAND_STRING: Final = 0x3032
ALTERNATE: Final = 0x10000
"""Added to a NewState in its "alternate" form."""

_SIZE: Final = 0xF0
_REPORT: Final = slice(0xC0, _SIZE)
_FIRST: Final = struct.Struct("<I")
_MAX_PARAMETERS: Final = 15
_ALL_ONES: Final = 0xFFFFFFFFFFFFFFFF
_REBOOTS: Final = (_ALL_ONES, 0xFFFFFFFF)
_HIBERNATES: Final = (_ALL_ONES - 1, 0xFFFFFFFE)

_HEADER: Final = {
    "new_state": (0x00, 4),
    "level": (0x04, 2),
    "processor": (0x06, 2),
    "processors": (0x08, 4),
    "pad": (0x0C, 4),
    **row(0x10, 8, "thread program_counter"),
    "report": (_REPORT.start, _REPORT.stop - _REPORT.start),
}


def is_stop(payload: bytes) -> bool:
    """Whether the target that sent this as type 7 now waits for a Continue, found without decoding it.

    True for all three kinds in either form, also for the notice that it reboots.
    """
    return len(payload) >= _SIZE and EXCEPTION <= _FIRST.unpack_from(payload)[0] & ~ALTERNATE <= COMMAND_STRING


@dataclass(frozen=True, slots=True)
class ControlReport(Record):
    """What the registers that matter for going on were at the stop; each machine has a subclass with its fields."""

    NAME: ClassVar = "control report"
    SIZE: ClassVar = _REPORT.stop - _REPORT.start

    @property
    def instructions(self) -> bytes:
        """The memory at the program counter, with the debugger's breakpoints taken out; 16 bytes at most."""
        offset, size = self.FIELDS["instruction_stream"]
        return self.raw[offset : offset + min(size, self["instruction_count"])]


@dataclass(frozen=True, slots=True)
class StateChange(Payload):
    """One state change; which fields it has besides those of the header depends on ``kind``."""

    NAME: ClassVar = "state change"
    SIZE: ClassVar = _SIZE
    HEADER: ClassVar = _HEADER
    KINDS: ClassVar = {
        EXCEPTION: {
            **_HEADER,
            **row(0x20, 4, "exception_code exception_flags"),
            **row(0x28, 8, "exception_record exception_address"),
            **row(0x38, 4, "number_parameters parameters_pad"),
            "information": (0x40, 8 * _MAX_PARAMETERS),
            **row(0xB8, 4, "first_chance first_chance_pad"),
        },
        LOAD_SYMBOLS: {
            **_HEADER,
            **row(0x20, 4, "path_length path_pad"),
            **row(0x28, 8, "base process_id"),
            **row(0x38, 4, "check_sum image_size"),
            "unload": (0x40, 1),
        },
        COMMAND_STRING: {**_HEADER, "command_flags": (0x20, 4)},
    }

    @property
    def kind(self) -> int:
        """`EXCEPTION`, `LOAD_SYMBOLS`, `COMMAND_STRING` or a number unknown here, without the `ALTERNATE` bit."""
        return int(_FIRST.unpack_from(self.fixed)[0]) & ~ALTERNATE

    @property
    def is_alternate(self) -> bool:
        return bool(self["new_state"] & ALTERNATE)

    @property
    def processor(self) -> int:
        return self["processor"]

    @property
    def program_counter(self) -> int:
        return self["program_counter"]

    @property
    def report(self) -> bytes:
        """The 48 bytes of the control report."""
        return self.fixed[_REPORT]

    @property
    def parameters(self) -> tuple[int, ...]:
        """ExceptionInformation, as much of it as NumberParameters says and fits."""
        count = min(self["number_parameters"], _MAX_PARAMETERS)
        return struct.unpack_from(f"<{count}Q", self.fixed, 0x40)

    @property
    def path(self) -> bytes:
        """The image a load-symbols notice is about, as the target spelled it, without the NUL."""
        return self.data[: self["path_length"]].partition(b"\0")[0]

    @property
    def command(self) -> tuple[bytes, bytes]:
        """Name and command of a command string."""
        name, _, rest = self.data.partition(b"\0")
        return name, rest.partition(b"\0")[0]

    @property
    def is_reboot(self) -> bool:
        """The notice of a target that reboots or shuts down; its packet ids start again with SYNC."""
        return self._goes_down(_REBOOTS)

    @property
    def is_hibernation(self) -> bool:
        return self._goes_down(_HIBERNATES)

    def _goes_down(self, bases: tuple[int, int]) -> bool:
        if self.kind != LOAD_SYMBOLS or self["path_length"]:
            return False
        return bool(self["unload"]) and self["base"] in bases

    @classmethod
    def exception(
        cls,
        code: int,
        address: int,
        *,
        report: bytes | Record,
        program_counter: int | None = None,
        processor: int = 0,
        processors: int = 1,
        thread: int = 0,
        parameters: Sequence[int] = (),
        first_chance: bool = True,
        **values: int | bytes,
    ) -> Self:
        """``program_counter`` is ``address`` when not given; further fields by their names."""
        if len(parameters) > _MAX_PARAMETERS:
            raise ValueError(f"an exception has at most {_MAX_PARAMETERS} parameters")
        return cls.build(
            EXCEPTION,
            report=_report(report),
            program_counter=address if program_counter is None else program_counter,
            processor=processor,
            processors=processors,
            thread=thread,
            exception_code=code,
            exception_address=address,
            number_parameters=len(parameters),
            information=struct.pack(f"<{_MAX_PARAMETERS}Q", *parameters, *[0] * (_MAX_PARAMETERS - len(parameters))),
            first_chance=int(first_chance),
            **values,
        )

    @classmethod
    def load_symbols(
        cls, path: bytes, base: int, *, report: bytes | Record, unload: bool = False, **values: int | bytes
    ) -> Self:
        """Further fields by their names: program_counter, image_size, check_sum, process_id, processors ..."""
        data = path + b"\0" if path else b""
        return cls.build(
            LOAD_SYMBOLS,
            data,
            report=_report(report),
            path_length=len(data),
            base=base,
            unload=int(unload),
            **{"process_id": _ALL_ONES, "processors": 1, **values},
        )

    @classmethod
    def reboot(cls, *, report: bytes | Record, **values: int | bytes) -> Self:
        """The notice "all symbols are unloaded, this machine goes down"."""
        return cls.load_symbols(b"", _ALL_ONES, report=report, unload=True, **values)

    @classmethod
    def command_string(cls, name: bytes, command: bytes, *, report: bytes | Record, **values: int | bytes) -> Self:
        data = name + b"\0" + command + b"\0"
        return cls.build(COMMAND_STRING, data, report=_report(report), **{"processors": 1, **values})


def _report(report: bytes | Record) -> bytes:
    return ControlReport.from_bytes(bytes(report)).raw
