"""FILE_IO, packet type 11: a booting target asks for files of the debugger's machine (KD protocol, 3).

A debugger must answer each with a packet, or the boot stalls; `FileIo.refusal` is the answer when it has no such file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

from kdsrv.kd.layout import Payload, row
from kdsrv.kd.statuses import Status

__all__ = ["CLOSE_FILE", "CREATE_FILE", "MAX_FILE_DATA", "READ_FILE", "WRITE_FILE", "FileIo"]

CREATE_FILE: Final = 0x3430
READ_FILE: Final = 0x3431
WRITE_FILE: Final = 0x3432
CLOSE_FILE: Final = 0x3433

MAX_FILE_DATA: Final = 4000 - 64
"""The most file data one packet carries."""

_HEADER: Final = row(0, 4, "api status")
_TRANSFER: Final = {**_HEADER, **row(0x08, 8, "handle offset"), "length": (0x18, 4)}


@dataclass(frozen=True, slots=True)
class FileIo(Payload):
    """One request of the target, or the debugger's answer to it."""

    NAME: ClassVar = "file I/O"
    SIZE: ClassVar = 64
    HEADER: ClassVar = _HEADER
    KINDS: ClassVar = {
        CREATE_FILE: {
            **_HEADER,
            **row(0x08, 4, "desired_access file_attributes share_access create_disposition create_options pad"),
            **row(0x20, 8, "handle length"),
        },
        READ_FILE: _TRANSFER,
        WRITE_FILE: _TRANSFER,
        CLOSE_FILE: {**_HEADER, "handle": (0x08, 8)},
    }

    @property
    def status(self) -> int:
        return self["status"]

    @property
    def name(self) -> str:
        """The file that a create asks for, up to the first NUL."""
        return self.data.decode("utf-16-le", "replace").partition("\0")[0]

    def reply(self, status: int = Status.SUCCESS, data: bytes = b"", **results: int | bytes) -> Self:
        """The answer: this request's 64 bytes with status and results changed, then ``data`` in place of the name."""
        return type(self)(self.replace(status=status, **results).fixed, data)

    def refusal(self) -> Self:
        """The answer "no such file"."""
        return self.reply(Status.NO_SUCH_FILE)

    @classmethod
    def create(
        cls,
        name: str,
        *,
        desired_access: int = 0x00120089,
        file_attributes: int = 0x80,
        share_access: int = 1,
        create_disposition: int = 1,
        create_options: int = 0,
    ) -> Self:
        """Open a file; the defaults, to read an existing one, are those of a booting Windows 10."""
        return cls.build(
            CREATE_FILE,
            (name + "\0").encode("utf-16-le"),
            desired_access=desired_access,
            file_attributes=file_attributes,
            share_access=share_access,
            create_disposition=create_disposition,
            create_options=create_options,
        )

    @classmethod
    def read(cls, handle: int, offset: int, length: int) -> Self:
        return cls.build(READ_FILE, handle=handle, offset=offset, length=length)

    @classmethod
    def write(cls, handle: int, offset: int, data: bytes) -> Self:
        return cls.build(WRITE_FILE, data, handle=handle, offset=offset, length=len(data))

    @classmethod
    def close(cls, handle: int) -> Self:
        return cls.build(CLOSE_FILE, handle=handle)
