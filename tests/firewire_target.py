"""A target on FireWire without hardware: its memory, its mailboxes, and the polling of its kernel (KD over 1394, 1).

Written from the description of the target and not from kdsrv's side of it: layouts are spelled out here again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kdsrv.kd.link import Acknowledged, BreakIn, Event, GaveUp, ResendAsked, TargetRole
from kdsrv.kd.packets import Packet, PacketType, checksum
from kdsrv.kd.target_link import SMALLEST, may_be_given_up
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget, TargetState

__all__ = ["FireWireTarget", "MailboxTargetLink", "wrong_crc"]

MEMORY = 1 << 20
BASE = 0x9000
SEND, RECEIVE = BASE + 0x400, BASE + 0x1400
FULL, EMPTY = b"\x03\x01\0\0", bytes(4)
DATA, CONTROL = 0x30303030, 0x69696969
ROM = 0xFFFFF0000400

COMPLETE, TYPE_ERROR, ADDRESS_ERROR, NO_ACKNOWLEDGEMENT = 0, 6, 7, 0x14


def wrong_crc(quadlets: list[int]) -> int:
    """As the target computes that of its directory: over the entries with their bytes swapped."""
    crc = 0
    for quadlet in quadlets:
        swapped = int.from_bytes(quadlet.to_bytes(4, "big"), "little")
        for shift in range(28, -4, -4):
            total = (crc >> 12 ^ swapped >> shift) & 0xF
            crc = crc << 4 & 0xFFFF ^ total << 12 ^ total << 5 ^ total
    return crc


class MailboxTargetLink(TargetRole):
    """The target role of a link by mailboxes: `receive`, with no bytes, is one look at the two boxes in ``memory``.

    ``rounds`` is how many looks a packet that may be given up is waited for. ``is_loader``: as the boot loader does it,
    which throws away what the host puts in while its own packet is not taken.
    """

    def __init__(self, memory: bytearray, *, rounds: int = 100, is_loader: bool = False) -> None:
        super().__init__(frozenset(SMALLEST))
        self.memory = memory
        self.rounds = rounds
        self.is_loader = is_loader
        self.refused = 0
        """Packets that were answered with RESEND."""
        self._looks = 0
        self.restart()

    @property
    def missing(self) -> int:
        return 0

    def restart(self) -> None:
        self._queue.clear()
        self._unacknowledged = None
        self._next_id = 0
        self.break_pending = self.running = False
        self.memory[SEND : SEND + 0x2000] = bytes(0x2000)

    def receive(self, data: bytes, now: float) -> Iterator[Event]:
        if self._unacknowledged is not None:
            yield from self._look_after_ours(now)
        if self._unacknowledged is None and self.memory[RECEIVE : RECEIVE + 4] == FULL:
            yield from self._look_at_theirs()

    def expire(self, now: float) -> Iterator[Event]:
        yield from ()

    def _look_after_ours(self, now: float) -> Iterator[Event]:
        ours = self._unacknowledged
        assert ours is not None
        self._looks += 1
        if self.memory[SEND : SEND + 4] == EMPTY:
            self._unacknowledged = None
            yield Acknowledged(ours.type)
        elif self.memory[RECEIVE : RECEIVE + 4] == FULL:
            if self.is_loader:
                self.memory[RECEIVE : RECEIVE + 4] = EMPTY
                return
            self._unacknowledged = None  # the host's packet wins
            yield Acknowledged(ours.type)
        elif self._looks >= self.rounds and may_be_given_up(ours):
            self._unacknowledged = None
            self.memory[SEND : SEND + 4] = EMPTY
            self.debugger_absent = True
            yield GaveUp(ours.type, "the debugger does not take it")
        self._send_next(now)

    def _look_at_theirs(self) -> Iterator[Event]:
        (length,) = struct.unpack_from("<I", self.memory, RECEIVE + 4)
        body = bytes(self.memory[RECEIVE + 8 : RECEIVE + 8 + min(length, 4000)])
        is_break_in = body[:1] == b"b"
        if self.running:
            if is_break_in:
                self.memory[RECEIVE : RECEIVE + 4] = EMPTY
                self.running = self.debugger_absent = False
                yield BreakIn()
            return
        self.memory[RECEIVE : RECEIVE + 4] = EMPTY
        self.debugger_absent = False
        if length < 16:
            if is_break_in:
                self.break_pending = True
                yield ResendAsked()
            return
        leader, packet_type, count, _, wanted_sum = struct.unpack_from("<IHHII", body)
        payload = body[16:]
        if leader == CONTROL and packet_type == PacketType.RESEND:
            yield ResendAsked()
        elif (
            leader != DATA
            or packet_type not in self.want
            or not SMALLEST.get(packet_type, 0) <= count <= 4000
            or count != len(payload)
            or checksum(payload) != wanted_sum
        ):
            self.refused += 1
            self._post(CONTROL, PacketType.RESEND, b"")
        else:
            yield Packet(packet_type, payload)

    def _transmit(self, now: float) -> None:
        assert self._unacknowledged is not None
        self._looks = 0
        self._tries += 1
        self._post(DATA, self._unacknowledged.type, self._unacknowledged.payload)

    def _post(self, leader: int, packet_type: int, payload: bytes) -> None:
        header = struct.pack("<IHHII", leader, packet_type, len(payload), self._next_id, checksum(payload))
        self._next_id += 1
        self.memory[SEND : SEND + 4096] = bytes(4096)
        self.memory[SEND + 4 : SEND + 24] = header + struct.pack("<I", len(payload))
        self.memory[SEND + 24 : SEND + 24 + len(payload)] = payload
        self.memory[SEND : SEND + 4] = FULL

    def _may_send(self) -> bool:
        return True

    def _set_deadline(self, now: float) -> None:
        """There is none: a kernel counts its looks."""


class FireWireTarget:
    """A node with a kernel behind it. ``filters_open``: the controller lets requests in, as it does from one look of
    the kernel after a bus reset until the next reset. ``looks``: the kernel polls; one that hangs does not.
    """

    guid = 0x00110600_0000A1B2
    vendor = 0x0050F2
    speed = 2

    def __init__(
        self,
        channel: int = 0,
        options: SimOptions | None = None,
        *,
        now: float = 0.0,
        max_rec: int = 10,
        rounds: int = 100,
        is_loader: bool = False,
    ) -> None:
        self.channel = channel
        self.max_rec = max_rec
        self.memory = bytearray(MEMORY)
        self.filters_open = False
        self.looks = True
        self.reset_wanted = 0
        """Bus resets that the target forces."""
        self.link = MailboxTargetLink(self.memory, rounds=rounds, is_loader=is_loader)
        self.put_block()
        self.kernel = SimulatedTarget(options, now, self.link)
        self._was_off = False

    @property
    def rom(self) -> list[int]:
        """The quadlets of the configuration ROM."""
        options = 0x00000002 | self.max_rec << 12
        entries = [0x0C0083C0, 0x030050F2, 0x1C0050F2, 0x1D000002, 0x1E000000 | (BASE + 0x3E0) & 0xFFFFFF]
        directory = [len(entries) << 16 | wrong_crc(entries), *entries]
        return [0x0404BEEF, 0x31333934, options, self.guid >> 32, self.guid & 0xFFFFFFFF, *directory]

    def put_block(self) -> None:
        """Write the descriptor into memory."""
        descriptor = struct.pack("<IHHIIQQ", 0xBABABABA, 1, 0, self.channel, 0, SEND, RECEIVE)
        self.memory[BASE + 0x3E0 : BASE + 0x400] = descriptor

    def look(self, now: float) -> None:
        """One turn of the kernel's polling loop, or of its clock interrupt while it runs."""
        kernel = self.kernel
        while kernel.deadline is not None and now >= kernel.deadline:
            kernel.expire(now)
        is_off = kernel.state is TargetState.OFF
        if self._was_off and not is_off:
            self.put_block()
            self.reset_wanted += 2  # once by the loader, once by the kernel
        self._was_off = is_off
        if self.looks and not is_off:
            self.filters_open = True
            kernel.receive(b"", now)

    def bus_was_reset(self) -> None:
        self.filters_open = False

    def read(self, address: int, length: int) -> tuple[int, bytes]:
        """The response code, and bytes as they are on the bus."""
        if ROM <= address < ROM + 0x400:
            quadlets = self.rom
            index = (address - ROM) // 4
            if length != 4 or index >= len(quadlets):
                return ADDRESS_ERROR, b""
            return COMPLETE, quadlets[index].to_bytes(4, "big")
        if (code := self._judge(address, length)) != COMPLETE:
            return code, b""
        return COMPLETE, bytes(self.memory[address : address + length])

    def write(self, address: int, data: bytes) -> int:
        if (code := self._judge(address, len(data))) == COMPLETE:
            self.memory[address : address + len(data)] = data
        return code

    def _judge(self, address: int, length: int) -> int:
        if not self.filters_open:
            return NO_ACKNOWLEDGEMENT
        if length > 2 << self.max_rec:
            return TYPE_ERROR
        return COMPLETE if address + length <= MEMORY else ADDRESS_ERROR
