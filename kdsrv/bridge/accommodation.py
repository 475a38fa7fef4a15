"""What a bridge does for one debugger that cannot take what every target sends.

radare2 rejects payloads over 0x800 bytes without reading past them and loses the thread, though it asks for 0x800 bytes
of data (KD protocol, 4.6). It is known by its GetContext, whose unused first word is always 0x1003F; from then on its
larger reads are cut, and it asks again for the rest, as after any short read.
"""

from __future__ import annotations

import struct
from typing import Final

from kdsrv.kd.api import Api

__all__ = ["Accommodation"]

_READS: Final = frozenset(
    {
        Api.READ_VIRTUAL_MEMORY.to_bytes(4, "little"),
        Api.READ_PHYSICAL_MEMORY.to_bytes(4, "little"),
    }
)
_GET_CONTEXT: Final = Api.GET_CONTEXT.to_bytes(4, "little")
_FIRST_WORD: Final = slice(0x10, 0x14)
_RADARE2_WORD: Final = b"\x3f\x00\x01\x00"
_COUNT: Final = slice(0x18, 0x1C)
_RADARE2_READ: Final = 0x800 - 56


class Accommodation:
    """Looks at a debugger's requests and changes those that it could not stand the answer to."""

    __slots__ = ("_most",)

    def __init__(self) -> None:
        self._most: int | None = None

    def adapt(self, request: bytes) -> bytes:
        """The request to forward: nearly always the same object."""
        api = request[:4]
        if api == _GET_CONTEXT and request[_FIRST_WORD] == _RADARE2_WORD:
            self._most = _RADARE2_READ
        elif self._most is not None and api in _READS and int.from_bytes(request[_COUNT], "little") > self._most:
            return request[: _COUNT.start] + struct.pack("<I", self._most) + request[_COUNT.stop :]
        return request
