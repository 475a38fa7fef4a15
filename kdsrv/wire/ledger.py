"""What a session of the kdsrv protocol remembers beyond one network connection (docs/wire-protocol.md, "Resuming").

Packets, break-ins, resyncs and ``dropped`` are numbered frames: each side counts those it has sent and those that have
come, over all connections of the session, and says now and then how many have come. What was sent and is not confirmed
yet is kept, as the bytes of its frames, and sent again when the session goes on over a new connection. So each numbered
frame arrives once and in order, and the window account, which follows these frames alone, goes on as if nothing had
happened.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from kdsrv.errors import PeerError
from kdsrv.wire.window import Outstanding

__all__ = ["CONFIRM_BYTES", "CONFIRM_FRAMES", "MAX_KEPT_BYTES", "MAX_KEPT_FRAMES", "Ledger"]

CONFIRM_FRAMES: Final = 64
"""So many numbered frames that have come are confirmed at the latest,"""
CONFIRM_BYTES: Final = 128 * 1024
"""or so many bytes."""
MAX_KEPT_BYTES: Final = 4 * 1024 * 1024
"""What is kept may be so much,"""
MAX_KEPT_FRAMES: Final = 32768
"""or so many frames, which matters if they are small."""


class Ledger:
    """One side's book of one session. As long as ``keeping`` is false, sent frames are counted and not kept.

    ``outstanding`` is the window account, ``sent`` and ``received`` are numbers of numbered frames.
    """

    __slots__ = (
        "_bytes_to_confirm",
        "_confirmed_to_peer",
        "_kept",
        "keeping",
        "kept_bytes",
        "outstanding",
        "received",
        "sent",
    )

    def __init__(self) -> None:
        self.outstanding = Outstanding()
        self.keeping = False
        self.sent = 0
        self.received = 0
        self.kept_bytes = 0
        self._kept: deque[bytes] = deque()
        self._confirmed_to_peer = 0
        self._bytes_to_confirm = 0

    # What is sent

    def keep(self, frame: bytes) -> None:
        """A numbered frame is sent."""
        self.sent += 1
        if self.keeping:
            self._kept.append(frame)
            self.kept_bytes += len(frame)

    @property
    def is_full(self) -> bool:
        """Whether so much is kept that no more numbered frames should be sent until the peer confirms."""
        return self.kept_bytes > MAX_KEPT_BYTES or len(self._kept) > MAX_KEPT_FRAMES

    @property
    def is_overfull(self) -> bool:
        """Whether it is twice as much, which only a peer that asks without end and confirms nothing brings about."""
        return self.kept_bytes > 2 * MAX_KEPT_BYTES or len(self._kept) > 2 * MAX_KEPT_FRAMES

    def confirmed(self, count: int) -> None:
        """The peer says that ``count`` numbered frames have come. PeerError if that cannot be."""
        before = self.sent - len(self._kept)
        if count > self.sent:
            raise PeerError(why=f"it says that it received {count} frames, where {self.sent} were sent")
        if count < before:
            raise PeerError(why=f"it says that it received {count} frames, and before it said {before}")
        for _ in range(count - before):
            self.kept_bytes -= len(self._kept.popleft())

    def kept_after(self, received: int) -> bytes:
        """The frames to send again to a peer that has received so many, which confirms those. PeerError if that cannot
        be."""
        self.confirmed(received)
        return b"".join(self._kept)

    # What comes

    def came(self, size: int) -> None:
        """A numbered frame with a body of about this size has come."""
        self.received += 1
        self._bytes_to_confirm += size

    @property
    def confirm_due(self) -> bool:
        """Whether it is time to tell the peer what has come."""
        return self.received - self._confirmed_to_peer >= CONFIRM_FRAMES or self._bytes_to_confirm >= CONFIRM_BYTES

    def confirm(self) -> int:
        """The number to tell the peer now."""
        self._confirmed_to_peer = self.received
        self._bytes_to_confirm = 0
        return self.received
