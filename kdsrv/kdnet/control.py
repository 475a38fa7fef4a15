"""The messages that make a KDNET data channel: OFFER, RESPONSE, POKE, and the connect check (KDNET, 4).

A target offers itself to its host every few seconds, for ever; the host answers one OFFER with a RESPONSE, from which
both compute the key of the data channel; the first datagram there is the target's connect check. A POKE asks for an
OFFER at once. All but the check travel on the control channel.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

__all__ = ["NOWHERE", "POKE", "Address", "ConnectCheck", "NewestOffers", "Offer", "Response"]

Address: TypeAlias = tuple[str, int]
"""An IP address as text and a UDP port."""

NOWHERE: Final[Address] = ("0.0.0.0", 0)
"""What an OFFER names as the other end of the data channel where there is none."""

POKE: Final = b""
"""The payload of a POKE."""

_OFFER: Final = struct.Struct(">2s32s16sH16sH16sH256x")
_RESPONSE: Final = struct.Struct("2s32s32s256x")
_CHECK: Final = struct.Struct("<8xI")
_OFFER_START: Final = b"\x01\x01"
_RESPONSE_START: Final = b"\x01\x02"
_KEY_END: Final = 34
"""Bytes of the shortest OFFER in use, one that ends after the client key."""

_KEPT_BOOTS: Final = 8
_COUNTERS: Final = 1 << 32

_MAPPED: Final = 0xFFFF << 32
"""In front of an IPv4 address that is written as an IPv6 address."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A target says that it is there. ``client_key`` is 32 bytes, new with each OFFER.

    ``own`` is the target's address, ``host`` the debugger's as configured there, ``bound`` where its data channel
    goes to; its port is 0 while there is none.
    """

    client_key: bytes = field(repr=False)
    own: Address
    host: Address
    bound: Address = NOWHERE

    @property
    def counter(self) -> int:
        """The part of the client key that counts OFFERs (32 bits)."""
        return int.from_bytes(self.client_key[:4], "little")

    @property
    def base(self) -> bytes:
        """The part of the client key that stays while the target's debugger transport lives (28 bytes)."""
        return self.client_key[4:]

    @property
    def is_bound(self) -> bool:
        """Whether the target has a data channel, and this OFFER only says that it still lives."""
        return self.bound[1] != 0

    def encode(self) -> bytes:
        """344 bytes. Raises ValueError for an address that is none."""
        places = (part for host, port in (self.own, self.host, self.bound) for part in (_packed(host), port))
        return _OFFER.pack(_OFFER_START, self.client_key, *places)

    @classmethod
    def decode(cls, payload: bytes) -> Offer | None:
        """The OFFER in a payload of 34 bytes or more, None if it holds none; what is missing reads as zero."""
        if len(payload) < _KEY_END or not payload.startswith(_OFFER_START):
            return None
        parts = _OFFER.unpack_from(payload.ljust(_OFFER.size, b"\0"))
        _, client_key, own, own_port, host, host_port, bound, bound_port = parts
        return cls(client_key, (_text(own), own_port), (_text(host), host_port), (_text(bound), bound_port))


class NewestOffers:
    """How far the OFFERs have come, of the last boots of a target: one that is not newer may be recorded and replayed.

    OFFERs carry nothing of the host's, so their own counter is all there is to tell them by (KDNET, 10).
    """

    __slots__ = ("_newest",)

    def __init__(self) -> None:
        self._newest: dict[bytes, int] = {}

    def add(self, offer: Offer) -> bool:
        """Whether an OFFER is newer than all others of the same boot."""
        newest = self._newest.pop(offer.base, None)
        is_newer = newest is None or 0 < (offer.counter - newest) % _COUNTERS < _COUNTERS // 2
        self._newest[offer.base] = offer.counter if newest is None or is_newer else newest
        if len(self._newest) > _KEPT_BOOTS:
            del self._newest[next(iter(self._newest))]
        return is_newer

    def restart(self, offer: Offer) -> None:
        """An OFFER has shown to be of now, so its boot counts on from there. A virtual machine can be set back."""
        self._newest[offer.base] = offer.counter


@dataclass(frozen=True, slots=True)
class Response:
    """A host answers the OFFER with this client key. ``host_key`` is 32 bytes, random and never used before."""

    client_key: bytes = field(repr=False)
    host_key: bytes = field(repr=False)

    def encode(self) -> bytes:
        """322 bytes, from which the data key is computed too."""
        return _RESPONSE.pack(_RESPONSE_START, self.client_key, self.host_key)

    @classmethod
    def decode(cls, payload: bytes) -> Response | None:
        """The RESPONSE in a payload, None if it holds none."""
        if len(payload) != _RESPONSE.size or not payload.startswith(_RESPONSE_START):
            return None
        _, client_key, host_key = _RESPONSE.unpack(payload)
        return cls(client_key, host_key)


@dataclass(frozen=True, slots=True)
class ConnectCheck:
    """A target shows that it has the data key. ``host`` is the IPv4 address it talks to, "" where that is not known."""

    host: str

    def encode(self) -> bytes:
        """12 bytes. Raises ValueError for anything but an IPv4 address."""
        return _CHECK.pack(int(IPv4Address(self.host)))

    @classmethod
    def decode(cls, payload: bytes) -> ConnectCheck | None:
        """The check in a payload of the data channel, None if it is something else, such as a KD packet.

        For IPv6 nothing is known of it but that it begins with zeros, as nothing else there does.
        """
        if len(payload) < 4 or any(payload[:4]):
            return None
        return cls(str(IPv4Address(*_CHECK.unpack(payload))) if len(payload) == _CHECK.size else "")


def _packed(host: str) -> bytes:
    address = ip_address(host)
    return (IPv6Address(_MAPPED | int(address)) if isinstance(address, IPv4Address) else address).packed


def _text(packed: bytes) -> str:
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)
