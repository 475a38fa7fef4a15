"""One key of the data channel, and the sequence numbers under it (KDNET, 5.2)."""

from __future__ import annotations

from typing import Final

from kdsrv.kdnet.control import Address, Offer
from kdsrv.kdnet.datagrams import Channel, Datagram, Seal

__all__ = ["DataChannel"]

_DATA: Final = int(Channel.DATA)


class DataChannel:
    """A host's data channel to ``peer`` under one key, which was made upon ``offer``.

    Every datagram has the next sequence number, whatever is in it. A receiver takes only what is newer than all before,
    so that a network that reorders or repeats datagrams looks to the link like one that loses some.
    """

    __slots__ = ("_high", "_seal", "_sent", "offer", "open", "peer", "version")

    def __init__(self, seal: Seal, offer: Offer, peer: Address, version: int) -> None:
        self.offer = offer
        self.peer = peer
        self.version = version
        self.open = seal.open
        self._seal = seal.seal
        self._sent = 0
        self._high = 0

    def seal(self, payload: bytes) -> bytes:
        """The next datagram to the target."""
        self._sent += 1
        return self._seal(self.version, _DATA, self._sent, True, payload)

    def is_newest(self, datagram: Datagram) -> bool:
        """Whether a datagram from the target, opened here, is newer than all before; it is the newest from now on."""
        if datagram.sequence <= self._high:
            return False
        self._high = datagram.sequence
        return True
