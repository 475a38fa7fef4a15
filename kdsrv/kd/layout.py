"""Fields at fixed offsets inside bytes, and frozen values over such bytes.

KD structures are handed on mostly unread: what lies between the known fields, padding and garbage included, has to come
back as it was sent (KD protocol, 2.3). So a value here *is* its bytes. Fields are little-endian unsigned integers, read
when asked for, and changing one gives a new value in which every other byte is the same.

A table of fields maps names to ``(offset, size)``, both in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self, TypeAlias

from kdsrv.errors import PeerError

__all__ = ["Fields", "Payload", "PayloadError", "Record", "read_field", "row", "write_fields"]

Fields: TypeAlias = Mapping[str, tuple[int, int]]

_KIND: Final = (0, 4)


class PayloadError(PeerError):
    """The {message} has {given} bytes where {wanted} are needed."""

    code = "bad-payload"


def row(offset: int, size: int, names: str) -> dict[str, tuple[int, int]]:
    """Fields of ``size`` bytes each, one behind the other from ``offset`` on."""
    return {name: (offset + size * index, size) for index, name in enumerate(names.split())}


def read_field(raw: bytes, place: tuple[int, int]) -> int:
    offset, size = place
    return int.from_bytes(raw[offset : offset + size], "little")


def write_fields(raw: bytes, fields: Fields, values: Mapping[str, int | bytes]) -> bytes:
    """``raw`` with some fields changed. Bytes are written as they are and must have the field's size.

    Raises KeyError for an unknown name and ValueError for a value that does not fit.
    """
    changed = bytearray(raw)
    for name, value in values.items():
        offset, size = fields[name]
        if isinstance(value, int):
            if not 0 <= value < 1 << 8 * size:
                raise ValueError(f"{value:#x} does not fit the {size} bytes of {name}")
            value = int(value).to_bytes(size, "little")
        elif len(value) != size:
            raise ValueError(f"{name} takes {size} bytes, not {len(value)}")
        changed[offset : offset + size] = value
    return bytes(changed)


@dataclass(frozen=True, slots=True)
class Record:
    """A structure of fixed size, such as a CONTEXT. ``from_bytes`` checks the length, and keeps what is longer."""

    NAME: ClassVar[str]
    SIZE: ClassVar[int]
    FIELDS: ClassVar[Fields]

    raw: bytes

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Raises `PayloadError` when ``raw`` is shorter than the structure."""
        if len(raw) < cls.SIZE:
            raise PayloadError(message=cls.NAME, wanted=cls.SIZE, given=len(raw))
        return cls(bytes(raw))

    @classmethod
    def build(cls, **values: int | bytes) -> Self:
        """All zero but for these fields."""
        return cls(write_fields(bytes(cls.SIZE), cls.FIELDS, values))

    def __bytes__(self) -> bytes:
        return self.raw

    def __getitem__(self, name: str) -> int:
        return read_field(self.raw, self.FIELDS[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.FIELDS)

    def values(self) -> dict[str, int]:
        return {name: read_field(self.raw, place) for name, place in self.FIELDS.items()}

    def replace(self, **values: int | bytes) -> Self:
        return type(self)(write_fields(self.raw, self.FIELDS, values))

    def overlay(self, part: bytes, offset: int = 0) -> Self:
        """``part`` laid over this value; the length stays, so what sticks out at the end is cut off."""
        raw = self.raw
        return type(self)((raw[:offset] + part + raw[offset + len(part) :])[: len(raw)])


@dataclass(frozen=True, slots=True)
class Payload:
    """A packet's payload: a fixed part, whose fields depend on the number in its first four bytes, then data.

    ``decode(p).encode() == p`` for every ``p`` that holds the fixed part.
    """

    NAME: ClassVar[str]
    SIZE: ClassVar[int]
    HEADER: ClassVar[Fields]
    """The fields of every payload of this family, also of an unknown kind."""
    KINDS: ClassVar[Mapping[int, Fields]]
    """All fields, those of the header included, by kind."""

    fixed: bytes
    data: bytes = b""

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Raises `PayloadError` when the fixed part is cut short."""
        if len(payload) < cls.SIZE:
            raise PayloadError(message=f"{cls.NAME} payload", wanted=cls.SIZE, given=len(payload))
        return cls(bytes(payload[: cls.SIZE]), bytes(payload[cls.SIZE :]))

    @classmethod
    def build(cls, kind: int, data: bytes = b"", /, **values: int | bytes) -> Self:
        """A payload of this kind, zero but for these fields."""
        fixed = int(kind).to_bytes(4, "little") + bytes(cls.SIZE - 4)
        return cls(fixed, data).replace(**values)

    def encode(self) -> bytes:
        return self.fixed + self.data

    @property
    def kind(self) -> int:
        """The number that says what this payload is: API number, or NewState without its "alternate" bit."""
        return read_field(self.fixed, _KIND)

    @property
    def fields(self) -> Fields:
        return self.KINDS.get(self.kind, self.HEADER)

    def __getitem__(self, name: str) -> int:
        return read_field(self.fixed, self.fields[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def values(self) -> dict[str, int]:
        return {name: read_field(self.fixed, place) for name, place in self.fields.items()}

    def replace(self, **values: int | bytes) -> Self:
        """The same payload, data included, with some fields of its kind changed."""
        return type(self)(write_fields(self.fixed, self.fields, values), self.data)
