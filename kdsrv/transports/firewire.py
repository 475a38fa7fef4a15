"""Targets on FireWire, by channel: the node that waits there is looked for, used, and looked for again.

    searching    all nodes that Linux shows with the three entries are visited, one after another, until one waits on
                 the channel; if none does, that is told, and a second later it begins again. So a target may come
                 whenever it likes, and a bus reset needs no special care here;
    working      packets go through the mailboxes of the node, whatever the bus does meanwhile. If the node is silent
                 for long, that is told; if it goes, or waits no longer, the search begins again.

What crosses the contract is one KD packet at a time, header and body, or the break-in byte; a packet that the target
has taken comes back as an ACK under its id. All of this is experimental: it was never tried on hardware.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import ClassVar, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from kdsrv.connection_strings.kd import FireWireSpec
from kdsrv.errors import TargetError
from kdsrv.firewire.descriptor import Block
from kdsrv.firewire.errand import Answers, Came, Disturbed, Ended, Event, Found, Silent, Taken
from kdsrv.firewire.mailbox import Mailbox
from kdsrv.firewire.nodes import Node, list_nodes
from kdsrv.firewire.search import NO_FIREWIRE, Search
from kdsrv.kd.packets import HEADER, PacketType, encode_control
from kdsrv.transports.firewire_device import FireWireDevice, FireWireHost, Visit
from kdsrv.transports.holders import holders
from kdsrv.transports.transport import AbsentError, Receiver, ReceiverFailed

__all__ = ["FireWireTransport", "open_firewire"]

_SEARCH_EVERY: Final = 1.0
"""Seconds between two looks at the bus; one costs a few files and, for each target that waits, twenty transactions."""


class FireWireTransport:
    """A `Transport` to whatever waits on ``channel``."""

    _log: ClassVar[Logger] = Logger()

    byte_time = 0.0

    def __init__(self, host: FireWireHost, channel: int) -> None:
        self.description = f"1394 channel {channel}"
        self._host = host
        self._channel = channel
        self._receiver: Receiver | None = None
        self._is_closed = False
        self._search = Search(channel, [])
        self._left: list[Node] = []
        self._next: IDelayedCall | None = None
        self._node: Node | None = None
        self._mailbox: Mailbox | None = None
        self._visit: Visit | None = None
        self._is_found = False
        self._why = ""
        self._rom: tuple[int, ...] = ()

    def start(self, receiver: Receiver) -> None:
        """Begin to search. See `Transport`."""
        self._receiver = receiver
        self._search_in(0.0)

    def write(self, data: bytes) -> None:
        """One packet, or a break-in byte, dropped while there is no target. See `Transport`."""
        if self._is_found and self._visit is not None and self._mailbox is not None:
            self._visit.pursue(self._mailbox.give(data, self._host.clock.seconds()))

    def close(self) -> None:
        """Close now, silently; what the target has not taken is taken back. See `Transport`."""
        self._is_closed = True
        self._receiver = None
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._end_visit()

    def _search_in(self, seconds: float) -> None:
        if not self._is_closed:
            self._next = self._host.clock.callLater(seconds, self._begin)

    def _begin(self) -> None:
        self._next = None
        self._search = Search(self._channel, list_nodes(self._host.nodes))
        self._left = self._search.candidates
        self._visit_next()

    def _visit_next(self) -> None:
        while self._left:
            node = self._left.pop(0)
            path = str(self._host.devices / node.name)
            try:
                device = FireWireDevice(self._host.calls, path)
            except OSError as error:
                self._note(node, path, error)
                continue
            self._node = node
            self._mailbox = Mailbox(self._channel, device.bus_limit)
            self._visit = Visit(self._host.clock, device, self._mailbox, self._on_event)
            return
        self._interrupt(self._search.sentence())
        self._search_in(_SEARCH_EVERY)

    def _note(self, node: Node, path: str, error: OSError) -> None:
        if error.errno in (errno.EACCES, errno.EPERM):
            self._search.note_denied(path)
        elif isinstance(error, BlockingIOError):
            self._search.note(node, f"it is held by {holders(path)}")
        else:
            self._search.note(node, f"it cannot be opened: {error.strerror}")

    def _on_event(self, event: Event) -> None:
        match event:
            case Came(packet):
                self._tell(lambda receiver: receiver.bytes_received(packet))
            case Taken(packet):
                packet_id = HEADER.unpack_from(packet)[3]
                ack = encode_control(PacketType.ACKNOWLEDGE, packet_id)
                self._tell(lambda receiver: receiver.bytes_received(ack))
            case Found(block):
                self._on_found(block)
            case Disturbed(why):
                self._interrupt(why)
                self._resume()
            case Silent(why):
                self._on_silent(why)
            case Answers():
                self._resume()
            case Ended(why):
                self._on_ended(why)

    def _on_found(self, block: Block) -> None:
        channel = block.descriptor.channel
        if channel != self._channel:
            if not self._is_found:
                self._search.note_channel(channel)
                self._end_visit()
                self._visit_next()
            return
        if block.rom.quadlets != self._rom:
            self._rom = block.rom.quadlets
            rom = " ".join(f"{quadlet:08x}" for quadlet in self._rom)
            name = self._node.name if self._node is not None else ""
            self._log.info("{line} is {node}; its ROM: {rom}", line=self.description, node=name, rom=rom)
        if not self._is_found:
            self._is_found = True
            self._resume()

    def _on_silent(self, why: str) -> None:
        assert self._node is not None
        if self._is_found:
            self._interrupt(f"{self._node.name}: {why}")
        else:
            self._search.note(self._node, why)
            self._end_visit()
            self._visit_next()

    def _on_ended(self, why: str) -> None:
        node, was_found = self._node, self._is_found
        assert node is not None
        self._end_visit()
        if was_found:
            self._interrupt(f"{node.name}: {why}")
            self._search_in(_SEARCH_EVERY)
        else:
            self._search.note(node, why)
            self._visit_next()

    def _end_visit(self) -> None:
        if self._visit is not None and self._mailbox is not None:
            self._visit.close(self._mailbox.withdrawal())
        self._visit = self._mailbox = self._node = None
        self._is_found = False

    def _interrupt(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._tell(lambda receiver: receiver.transport_interrupted(why))

    def _resume(self) -> None:
        self._why = ""
        self._tell(lambda receiver: receiver.transport_resumed())

    def _tell(self, call: Callable[[Receiver], object]) -> None:
        """Tell the receiver; if it fails, that ends the line."""
        receiver = self._receiver
        if receiver is None:
            return
        try:
            call(receiver)
        except Exception as error:  # whatever it is, it concerns this line only
            self._log.failure("an error while telling about {line}", line=self.description)
            self._lose(ReceiverFailed(target=self.description, why=type(error).__name__))

    def _lose(self, reason: TargetError) -> None:
        receiver = self._receiver
        self.close()
        if receiver is not None:
            receiver.transport_lost(reason)


def open_firewire(host: FireWireHost, spec: FireWireSpec) -> FireWireTransport:
    """A transport to what waits, or will wait, on the channel of ``spec``. AbsentError: this host has no FireWire."""
    channel = spec.channel or 0
    transport = FireWireTransport(host, channel)
    if list_nodes(host.nodes) is None:
        raise AbsentError(target=transport.description, why=NO_FIREWIRE)
    if spec.symlink is not None:
        FireWireTransport._log.info(
            "{line}: symlink={symlink} chooses between drivers of Windows, and means nothing here",
            line=transport.description,
            symlink=spec.symlink,
        )
    return transport
