"""A small debugger on a simulated KDNET target: sealed datagrams under a clock, and of KD what WinDbg does.

It answers the OFFERs that call for it, acknowledges, and asks anew under the next id when a reply does not come in
0.5 s. That is written here from the description of KDNET, apart from the server's own host end.
"""

from __future__ import annotations

from itertools import count

from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import BREAK_IN, HEADER, Packet, PacketType, encode_control, encode_data
from kdsrv.kdnet.control import POKE, Address, ConnectCheck, Offer, Response
from kdsrv.kdnet.datagrams import Channel, Datagram, Seal
from kdsrv.kdnet.keys import NetKey
from kdsrv.kdnet.target_faults import NetEnd

__all__ = ["HOST", "KEY", "NetDebugger", "control", "request"]

KEY = NetKey.parse("10.zz.3w5e11264sgsf.1")
HOST: Address = ("10.0.0.1", 50000)

_FIRST_ID = 0x80000000
_PATIENCE = 0.5
_TRIES = 40


def control(packet_type: int, packet_id: int = 0) -> bytes:
    """A control packet as the payload of a datagram."""
    return encode_control(packet_type, packet_id)


def request(packet_id: int, payload: bytes) -> bytes:
    """A request as the payload of a datagram."""
    return encode_data(PacketType.STATE_MANIPULATE, packet_id, payload, trailer=b"")


class NetDebugger:
    """``offers``, ``checks`` and ``packets`` are what came and nobody has asked for yet; ``heard`` are the payloads of
    all data datagrams, and ``foreign`` counts what is for this address and cannot be opened or is late.

    With ``answers`` off it leaves OFFERs alone, with ``acknowledges`` off packets, with ``repeats`` off RESENDs.
    ``high`` is the number of the last data datagram.
    """

    def __init__(
        self, line: NetEnd, now: float, *, key: NetKey = KEY, address: Address = HOST, answers: bool = True
    ) -> None:
        self.line = line
        self.now = now
        self.key = key
        self.address = address
        self.answers = answers
        self.acknowledges = self.repeats = True
        self.offers: list[tuple[Datagram, Offer]] = []
        self.checks: list[ConnectCheck] = []
        self.packets: list[Packet] = []
        self.heard: list[bytes] = []
        self.elsewhere: list[tuple[bytes, Address]] = []
        self.foreign = 0
        self.version = 5
        self.next_id = _FIRST_ID
        self._control = Seal(key.control, key.mac)
        self._data: Seal | None = None
        self.high = self._sent = 0
        self._taken = -1
        self._pending = b""
        self._host_keys = (number.to_bytes(32, "big") for number in count(1))
        self.pump()

    @property
    def offer(self) -> Offer:
        """The last OFFER."""
        return self.offers[-1][1]

    @property
    def last(self) -> tuple[int, Offer]:
        """Sequence number and content of the last OFFER."""
        datagram, offer = self.offers[-1]
        return datagram.sequence, offer

    def pump(self) -> None:
        """Let the target say what is due now, and answer."""
        while True:
            deadline = self.line.deadline
            if deadline is not None and deadline <= self.now:
                self.line.expire(self.now)
            said = self.line.take_output()
            if said is None:
                deadline = self.line.deadline
                if deadline is None or deadline > self.now:
                    return
            elif said[1] == self.address:
                self._receive(said[0])
            else:
                self.elsewhere.append(said)

    def wait(self, seconds: float) -> None:
        """Let time pass, with every deadline of the target kept."""
        end = self.now + seconds
        while True:
            self.pump()
            deadline = self.line.deadline
            self.now = end if deadline is None else min(end, deadline)
            if self.now >= end:
                self.pump()
                return

    def respond(self, sequence: int, offer: Offer, host_key: bytes | None = None) -> None:
        """Answer an OFFER; what comes from now on has to be sealed with the key from it."""
        response = Response(offer.client_key, host_key or next(self._host_keys)).encode()
        self.use(response)
        self._send(self._control, Channel.CONTROL, sequence, response)

    def use(self, response: bytes) -> None:
        """Take the data key from a RESPONSE."""
        self._data = Seal(self.key.data_key(response), self.key.mac)
        self.high = self._sent = 0

    def poke(self) -> None:
        self._send(self._control, Channel.CONTROL, 1, POKE)
        self.pump()

    def say(self, payload: bytes) -> None:
        """A datagram on the data channel."""
        assert self._data is not None
        self._sent += 1
        self._send(self._data, Channel.DATA, self._sent, payload)
        self.pump()

    def break_in(self) -> None:
        self.say(BREAK_IN)

    def ask(self, asked: Manipulate) -> Manipulate:
        """The reply to a request, which is made anew under another id until it is answered."""
        for _ in range(_TRIES):
            self.send(asked)
            for _ in range(10):
                while self.packets:
                    packet = self.packets.pop(0)
                    if packet.type == PacketType.STATE_MANIPULATE and packet.payload[:4] == asked.encode()[:4]:
                        reply = Manipulate.decode(packet.payload)
                        # who asks anew gets two answers, of which the second comes with the next question
                        if "address" not in asked.fields or reply["address"] == asked["address"]:
                            return reply
                self.wait(_PATIENCE / 10)
        raise AssertionError("no reply")

    def send(self, asked: Manipulate) -> None:
        """A request, once, and again only where the target refuses it."""
        data = request(self.next_id, asked.encode())
        self.next_id += 2
        self._pending = data
        self.say(data)

    def _send(self, seal: Seal, channel: int, sequence: int, payload: bytes) -> None:
        data = seal.seal(self.version, channel, sequence, True, payload)
        self.line.receive(data, self.address, self.now)

    def _receive(self, data: bytes) -> None:
        seal = self._control if data[5] == Channel.CONTROL else self._data
        datagram = None if seal is None else seal.open(data)
        if datagram is None or datagram.from_host:
            self.foreign += 1
        elif datagram.channel == Channel.CONTROL:
            self._on_offer(datagram)
        elif datagram.sequence <= self.high:
            self.foreign += 1
        else:
            self.high = datagram.sequence
            self.heard.append(datagram.payload)
            self._on_data(datagram.payload)

    def _on_offer(self, datagram: Datagram) -> None:
        offer = Offer.decode(datagram.payload)
        assert offer is not None
        self.version = datagram.version
        self.offers.append((datagram, offer))
        if self.answers and (self._data is None or not offer.is_bound):
            self.respond(datagram.sequence, offer)

    def _on_data(self, payload: bytes) -> None:
        check = ConnectCheck.decode(payload)
        if check is not None:
            self.checks.append(check)
            self._taken = -1
            return
        leader, packet_type, length, packet_id, _ = HEADER.unpack_from(payload)
        assert len(payload) == HEADER.size + length
        if leader == b"0000":
            if not self.acknowledges:
                return
            self.say(control(PacketType.ACKNOWLEDGE, packet_id))
            if packet_id > self._taken:
                self._taken = packet_id
                self.packets.append(Packet(packet_type, payload[HEADER.size :]))
        elif packet_type == PacketType.RESEND and self.repeats and self._pending:
            self.say(self._pending)
