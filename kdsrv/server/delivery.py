"""What goes to a client: at once as long as it reads, else in order and bounded.

Prints that wait are bounded by the ``Outbox``, which drops the oldest of them; replies by the client's window, and what
a client has asked for otherwise by a limit past which it is cut off, since it does not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from kdsrv.direct_writer import DirectWriter
from kdsrv.errors import KdsrvError
from kdsrv.kd.packets import Packet
from kdsrv.sessions.outbox import DroppedPrints, LostRequests, Outbox
from kdsrv.wire.connection import Connection, State
from kdsrv.wire.frames import Resync
from kdsrv.wire.messages import Dropped, Message, Notice

__all__ = ["MAX_UNREAD", "MAX_UNREAD_PACKETS", "Delivery"]

MAX_UNREAD: Final = 256 * 1024
"""Bytes of pongs, statuses and echoes that may wait for a client that does not read."""
MAX_UNREAD_NOTICES: Final = 64 * 1024
"""What others make the server say may not be what a client is cut off for."""
MAX_UNREAD_PACKETS: Final = 2000
"""Packets that may: the prints that are kept, the replies to a full window, and some stops."""


class Delivery:
    """Says on ``transport`` what ``connection`` allows. ``outbox`` has what waits, perhaps from before there was a
    connection. ``too_much`` is called when more waits than a client may leave unread, perhaps more than once;
    ``drained`` when nothing waits for the network any more."""

    def __init__(self, connection: Connection, transport: Any, too_much: Callable[[], None]) -> None:
        self._connection = connection
        self._too_much = too_much
        self.outbox = Outbox()
        self.drained: Callable[[], None] = _nothing
        self._unread = 0
        self._writer = DirectWriter(transport, self._drained)

    @property
    def is_ready(self) -> bool:
        """Whether nothing waits for the network."""
        return not self._writer.queued

    def say(self, message: Message | Resync) -> None:
        """Say it, unless the client's last word came in the segment that is being looked at."""
        if self._connection.state is not State.CLOSED:
            self._write(self._connection.send(message))

    def say_seen(self, missed: int, lines: Sequence[bytes]) -> None:
        """Say what a spectator has seen: lines that are JSON objects."""
        if self._connection.state is not State.CLOSED:
            self._write(self._connection.send_seen(missed, lines))

    def notify(self, text: str, *, asks: bool = False) -> bool:
        """Say a line about other users, if this is a client that knows of such lines, and reads. Whether it is.
        ``asks``: one of them asks for the target."""
        told = self._connection.takes_notices and self._unread < MAX_UNREAD_NOTICES
        if told:
            self.say(Notice(text, asks))
        return told

    def give_up(self, error: KdsrvError) -> None:
        """Say why this connection ends, if that has not been said."""
        self._write(self._connection.give_up(error))

    def detach(self) -> None:
        """Nothing more is said: the transport can close."""
        self._writer.detach()

    def packet_received(self, packet: Packet) -> None:
        """A packet of the target."""
        writer = self._writer
        if self._connection.state is not State.ATTACHED:
            return
        if writer.queued or len(self.outbox) or self._connection.ledger.is_full:
            self.outbox.put(packet)
            if len(self.outbox) > MAX_UNREAD_PACKETS:
                self._too_much()
        else:
            writer.write(self._connection.send_packet(packet.type, packet.payload))

    def resynced(self) -> None:
        """The echo of a resync. Of what waits only the prints still count."""
        self.outbox.keep_prints()
        self.say(Resync())

    def requests_lost(self, count: int) -> None:
        """The ``count`` oldest requests get no reply."""
        # the client counts from the oldest request it has no reply to, so the replies that wait go first
        self.outbox.lose_requests(count)
        self.go_on()

    def _drained(self) -> None:
        """The network takes bytes again: what waited goes first."""
        self._unread = 0
        self.go_on()
        self.drained()

    def go_on(self) -> None:
        """Say what waits, as far as the network and the client take it."""
        writer, connection = self._writer, self._connection
        if connection.state is not State.ATTACHED:
            return
        while not writer.queued and not connection.ledger.is_full:
            packet = self.outbox.take()
            if packet is None:
                return
            if type(packet) is Packet:
                writer.write(connection.send_packet(packet.type, packet.payload))
            elif isinstance(packet, DroppedPrints):
                writer.write(connection.send(Dropped(prints=packet.number)))
            elif isinstance(packet, LostRequests):
                writer.write(connection.send(Dropped(requests=packet.number)))

    def confirm(self) -> None:
        """Say how much has come, if it is time for that; go on, if the client has just confirmed something."""
        confirmation = self._connection.confirmation()
        if confirmation:
            self._write(confirmation)
        if len(self.outbox):
            self.go_on()

    def write_again(self, frames: bytes) -> None:
        """Say first what the client's last connection has lost."""
        if frames:
            self._writer.write(frames)

    def _write(self, data: bytes) -> None:
        writer = self._writer
        writer.write(data)
        if writer.queued:
            self._unread += len(data)
            if self._unread > MAX_UNREAD:
                self._too_much()


def _nothing() -> None:
    """Nobody has more to say."""
