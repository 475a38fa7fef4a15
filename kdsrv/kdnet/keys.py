"""The key of a KDNET target: text <-> the bytes of the ciphers, and how good a key it is (KDNET, 3).

A key is written ``w.x.y.z``, four 64-bit numbers in base 36. From it come the key of the control channel, the key that
authenticates both channels, and with each RESPONSE of the host a new key of the data channel.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kdsrv.connection_strings.values import a_net_key

__all__ = ["NetKey", "make_key"]

_COMPONENTS: Final = struct.Struct("<4Q")
_ALL_ONES: Final = (1 << 256) - 1
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_SHORT: Final = 8
"""Characters; of the components that are made at random, one in 200 million is shorter than this."""

_FEW: Final = 4
"""Different characters in a component; hardly one that is made at random has fewer."""


@dataclass(frozen=True, slots=True)
class NetKey:
    """A key; what it says of itself never contains it."""

    text: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> NetKey:
        """The key that is written ``text``. Raises ValueError with a sentence that does not repeat the text."""
        return cls(a_net_key(text).lower())

    @property
    def control(self) -> bytes:
        """The 32-byte AES-256 key of the control channel."""
        return _COMPONENTS.pack(*(int(part, 36) for part in self.text.split(".")))

    @property
    def mac(self) -> bytes:
        """The 32-byte HMAC-SHA256 key of both channels."""
        return (int.from_bytes(self.control, "big") ^ _ALL_ONES).to_bytes(32, "big")

    def data_key(self, response_payload: bytes) -> bytes:
        """The 32-byte AES-256 key of the data channel after a RESPONSE with this payload (322 bytes)."""
        return hashlib.sha256(self.control + response_payload).digest()

    @property
    def weakness(self) -> str | None:
        """Why the key is easily found by trying, as a sentence for people; None for a good one.

        One recorded OFFER is enough to try keys against, as fast as a machine can (KDNET, 10).
        """
        parts = [part.lstrip("0") for part in self.text.split(".")]
        short = sum(len(part) < _SHORT for part in parts)
        if short:
            return f"{short} of the 4 components of the key are shorter than {_SHORT} characters"
        if len(set(parts)) < len(parts):
            return "components of the key repeat each other"
        if any(len(set(part)) < _FEW for part in parts):
            return f"a component of the key has fewer than {_FEW} different characters"
        return None


def make_key(random: Callable[[int], bytes]) -> str:
    """A new key as text. ``random`` gives that many bytes that nobody can guess, as ``secrets.token_bytes`` does."""
    return ".".join(_in_base_36(int.from_bytes(random(8), "big")) for _ in range(4))


def _in_base_36(number: int) -> str:
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits
