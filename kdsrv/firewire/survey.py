"""What a node shows of a waiting target: read and kept as it is, for people (KD over 1394, 6)."""

from __future__ import annotations

from typing import Final

from kdsrv.firewire.configuration_rom import ConfigurationRom, read_rom
from kdsrv.firewire.descriptor import DESCRIPTOR_SIZE, Descriptor, NoBlock
from kdsrv.firewire.errand import Errand
from kdsrv.firewire.mailbox import HEAD_SIZE
from kdsrv.firewire.transactions import Script, read

__all__ = ["Survey"]

_PATIENCE: Final = 2.0


class Survey(Errand):
    """Reads ROM, descriptor and the first 24 bytes of both mailboxes, and changes nothing.

    What was not reached is None or empty; the errand's end says why.
    """

    def __init__(self, bus_limit: int) -> None:
        super().__init__(_PATIENCE)
        self.rom: ConfigurationRom | None = None
        self.descriptor: Descriptor | None = None
        self.send_box = b""
        self.receive_box = b""
        self._bus_limit = bus_limit

    def _script(self) -> Script[None]:
        self.rom = yield from read_rom()
        address = self.rom.descriptor_address
        if address is None:
            raise NoBlock("it does not wait for a debugger")
        limit = self._bus_limit
        self.descriptor = Descriptor.decode((yield from read(address, DESCRIPTOR_SIZE, limit)))
        if self.descriptor.problem:
            raise NoBlock(self.descriptor.problem)
        self.send_box = yield from read(self.descriptor.send, HEAD_SIZE, limit)
        self.receive_box = yield from read(self.descriptor.receive, HEAD_SIZE, limit)
