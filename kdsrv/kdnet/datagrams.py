"""KDNET datagrams: sealed and opened (KDNET, 2).

A datagram is a header in clear (magic, version, channel), a body encrypted with AES-256-CBC, and a tag of 16 bytes,
which is the start of an HMAC-SHA256 over header and plaintext and also the IV. The plaintext is 8 bytes of metadata
(sequence number, direction, padding), the payload and zeros to fill the last block.
"""

from __future__ import annotations

from enum import IntEnum
from hmac import compare_digest
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

__all__ = ["MAX_DATAGRAM", "MIN_DATAGRAM", "Channel", "Datagram", "Seal", "channel_of"]

_MAGIC: Final = b"MDBG"
_HEADER_SIZE: Final = 6
_META_SIZE: Final = 8
_BLOCK: Final = 16
_OVERHEAD: Final = _HEADER_SIZE + _BLOCK
_FROM_HOST: Final = 0x80
_PADDING: Final = 0x0F
_ZEROS: Final = tuple(bytes(count) for count in range(_BLOCK))

MIN_DATAGRAM: Final = _OVERHEAD + _BLOCK
MAX_DATAGRAM: Final = _OVERHEAD + 4032
"""Bytes: a KD packet with 4000 bytes of payload, metadata and padding."""


class Channel(IntEnum):
    """What a datagram is about, and which key it is sealed with."""

    DATA = 0
    CONTROL = 1


_CONTROL: Final = int(Channel.CONTROL)
"""A name for the hot path: to look a member up in an enumeration takes five times as long."""


class Datagram(NamedTuple):
    """An authentic datagram. ``sequence`` has 56 bits; ``from_host`` is the direction that its sender gave it."""

    version: int
    channel: int
    sequence: int
    from_host: bool
    payload: bytes


def channel_of(data: bytes) -> int | None:
    """The channel of what may be a KDNET datagram, None for what is none by its size or header. Not yet authentic."""
    size = len(data)
    if MIN_DATAGRAM <= size <= MAX_DATAGRAM and (size - _OVERHEAD) % _BLOCK == 0 and data.startswith(_MAGIC):
        channel = data[5]
        if channel <= _CONTROL:
            return channel
    return None


class Seal:
    """Seals and opens the datagrams of one channel and key; both keys are 32 bytes.

    To set up a cipher with a new IV costs as much as to encrypt 4 KB, so one cipher is kept going for each direction.
    CBC joins each block with the encrypted block before it. A decrypter that is fed the IV first therefore decrypts
    what follows with this IV; an encrypter does so when its first block is joined with the IV and with the block that
    it gave last. The datagrams are the same, to the bit, as with a cipher for each.
    """

    __slots__ = ("_decrypt", "_encrypt", "_last", "_mac")

    def __init__(self, key: bytes, mac_key: bytes) -> None:
        cipher = Cipher(AES256(key), CBC(bytes(_BLOCK)))
        self._encrypt = cipher.encryptor().update
        self._decrypt = cipher.decryptor().update
        self._last = 0
        self._mac = HMAC(mac_key, SHA256())

    def seal(self, version: int, channel: int, sequence: int, from_host: bool, payload: bytes) -> bytes:
        """The datagram as it goes on the network."""
        padding = -(_META_SIZE + len(payload)) % _BLOCK
        meta = sequence << 8 | (_FROM_HOST if from_host else 0) | padding
        plain = b"".join((meta.to_bytes(_META_SIZE, "big"), payload, _ZEROS[padding]))
        header = b"MDBG%c%c" % (version, channel)
        mac = self._mac.copy()
        mac.update(header)
        mac.update(plain)
        tag = mac.finalize()[:_BLOCK]
        first = int.from_bytes(plain[:_BLOCK], "big") ^ int.from_bytes(tag, "big") ^ self._last
        body = self._encrypt(first.to_bytes(_BLOCK, "big") + plain[_BLOCK:])
        self._last = int.from_bytes(body[-_BLOCK:], "big")
        return b"".join((header, body, tag))

    def open(self, data: bytes) -> Datagram | None:
        """What is in a datagram; None for anything that this key did not seal."""
        if channel_of(data) is None:
            return None
        tag = data[-_BLOCK:]
        self._decrypt(tag)
        plain = self._decrypt(data[_HEADER_SIZE:-_BLOCK])
        mac = self._mac.copy()
        mac.update(data[:_HEADER_SIZE])
        mac.update(plain)
        if not compare_digest(mac.finalize()[:_BLOCK], tag):
            return None
        low = plain[_META_SIZE - 1]
        end = len(plain) - (low & _PADDING)
        if end < _META_SIZE:
            return None
        sequence = int.from_bytes(plain[: _META_SIZE - 1], "big")
        return Datagram(data[4], data[5], sequence, bool(low & _FROM_HOST), plain[_META_SIZE:end])
