"""The descriptor of a waiting target: 32 bytes in its memory that say where the mailboxes are, and how it is called.

And the way there: from the configuration ROM to the descriptor, with a reason where it ends (KD over 1394, 1.3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kdsrv.firewire.configuration_rom import ConfigurationRom, read_rom
from kdsrv.firewire.transactions import Script, read

__all__ = ["DESCRIPTOR_SIZE", "Block", "Descriptor", "NoBlock", "find_block"]

_LAYOUT: Final = struct.Struct("<IHHIIQQ")
DESCRIPTOR_SIZE: Final = _LAYOUT.size
TAG: Final = 0xBABABABA
_MAJOR: Final = 1
_BOX_SIZE: Final = 4096
_END_OF_MEMORY: Final = 0xFFFF_0000_0000
"""From here on the 48-bit addresses of a node are no memory."""


class NoBlock(Exception):
    """Raised within a script: the node has nothing that a debugger could use. The text is half a sentence."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """``channel`` is its number; ``send`` and ``receive`` are the addresses of the mailboxes, seen from the target."""

    tag: int
    major: int
    minor: int
    channel: int
    bus_present: int
    send: int
    receive: int

    @classmethod
    def decode(cls, data: bytes) -> Descriptor:
        """The descriptor in 32 bytes, whatever they are; see ``problem``."""
        return cls(*_LAYOUT.unpack(data))

    @property
    def problem(self) -> str:
        """Why this is no descriptor that we understand, half a sentence; empty: it is one."""
        if self.tag != TAG:
            return f"its descriptor begins with {self.tag:08x}, not with {TAG:08x}"
        if self.major != _MAJOR:
            return f"its descriptor is of version {self.major}.{self.minor}, and kdsrv knows {_MAJOR}.0 only"
        for box in (self.send, self.receive):
            if not box or box % 4 or box + _BOX_SIZE > _END_OF_MEMORY:
                return f"its descriptor names {box:#x} as the place of a mailbox"
        return ""


@dataclass(frozen=True, slots=True)
class Block:
    """What a waiting target has for its debugger. ``limit`` is the longest transaction with it, in bytes."""

    rom: ConfigurationRom
    address: int
    descriptor: Descriptor
    limit: int


def find_block(bus_limit: int) -> Script[Block]:
    """The block of a node, read anew; raises `NoBlock`. ``bus_limit`` is the longest transaction of bus and system."""
    rom = yield from read_rom()
    address = rom.descriptor_address
    if address is None:
        raise NoBlock("it does not wait for a debugger")
    limit = min(bus_limit, rom.max_payload) & ~3 or 4
    descriptor = Descriptor.decode((yield from read(address, DESCRIPTOR_SIZE, limit)))
    if descriptor.problem:
        raise NoBlock(descriptor.problem)
    return Block(rom, address, descriptor, limit)
