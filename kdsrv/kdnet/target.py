"""The simulated target on KDNET: a machine whose KD link is on UDP, and that offers itself to its host (KDNET, 7).

A target sends an OFFER to its configured host every 3 s, for ever. While it has a data channel ("is bound") the OFFERs
name the other end of that; they go there, and are not to be answered. A RESPONSE to one of the latest OFFERs starts a
new data channel, whoever sends it: the target shows with a connect check that it has the key, and says again what is
not acknowledged. A POKE is answered by an OFFER to who sent it.

A machine that boots has a new client key, no data channel, and counts its OFFERs and packets from the start.

`NetTarget` owns no socket and no clock. Its owner passes in each datagram and its sender, calls ``expire`` when
``deadline`` has come, and sends what ``take_output`` gives after each of these.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Final

from kdsrv.kdnet.control import NOWHERE, Address, ConnectCheck, Offer, Response
from kdsrv.kdnet.datagrams import Channel, Datagram, Seal, channel_of
from kdsrv.kdnet.keys import NetKey
from kdsrv.kdnet.target_link import NetTargetLink
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget, TargetState

__all__ = ["NetTarget", "OfferingCounters"]

_CLIPPING_VERSION: Final = 5
_CLIPPED_REPLY: Final = 1152
"""Bytes of payload. A CONTEXT is sent whole all the same where it is asked for whole, as ntoseye relies on."""
_FRAMED_REPLY: Final = 1416
"""Bytes of payload in the largest datagram that an Ethernet frame holds; a target lets none be cut in pieces."""

_STEP: Final = 3
_RECENT: Final = 10
_BASE_SIZE: Final = 28
_NO_CHECK: Final = bytes(12)
"""The connect check to an IPv6 address: nothing is known of it but that it begins with zeros."""


@dataclass(slots=True)
class OfferingCounters:
    """What went between a target and its host so far.

    ``responses`` are those that made a data channel. ``foreign`` datagrams were not sealed by a host with the key in
    force; ``stale`` ones had a sequence number that had been passed already.
    """

    offers: int = 0
    pokes: int = 0
    responses: int = 0
    foreign: int = 0
    stale: int = 0


class NetTarget:
    """Made at ``now``, its first deadline; it offers itself to ``host``, or to nobody but who pokes it if that is None.

    ``own`` is the address that OFFERs name as the target's; ``random`` makes client keys, which are no secret. Both
    addresses, ``offer_period`` (seconds) and ``offer_size`` (bytes of an OFFER; some targets send 34) may be changed at
    any time. From ``version`` 5 on, memory comes in replies of at most 1152 bytes. Raises ValueError for a version that
    is none.
    """

    def __init__(
        self,
        key: NetKey,
        host: Address | None,
        *,
        own: Address = NOWHERE,
        version: int = 5,
        options: SimOptions | None = None,
        random: Random | None = None,
        offer_period: float = 3.0,
        now: float = 0.0,
    ) -> None:
        if not 0 <= version <= 0xFF:
            raise ValueError(f"a KDNET version is a number from 0 to 255, not {version}")
        options = SimOptions() if options is None else options
        self.host = host
        self.own = own
        self.version = version
        self.offer_period = offer_period
        self.offer_size: int | None = None
        self.counters = OfferingCounters()
        self.link = NetTargetLink(
            max_reply=_CLIPPED_REPLY if version >= _CLIPPING_VERSION else _FRAMED_REPLY,
            timeout=options.byte_timeout,
            retries=options.retries,
        )
        self.target = SimulatedTarget(options, now, self.link)
        self._key = key
        self._control = Seal(key.control, key.mac)
        self._random = Random(0) if random is None else random
        self._output: deque[tuple[bytes, Address]] = deque()
        self._offer_at: float | None = None
        self._begin()
        self._settle(now)

    @property
    def deadline(self) -> float | None:
        """When `expire` is wanted next."""
        times = (self.target.deadline, self._offer_at)
        return min((time for time in times if time is not None), default=None)

    def receive(self, data: bytes, sender: Address, now: float) -> None:
        """A datagram came. What is not authentic changes nothing but a counter."""
        if self.target.state is TargetState.OFF:
            return
        channel = channel_of(data)
        if channel == Channel.CONTROL:
            self._on_control(self._control.open(data), sender, now)
        elif channel == Channel.DATA and self._data is not None:
            self._on_data(self._data.open(data), now)
        else:
            self.counters.foreign += 1
        self._settle(now)

    def expire(self, now: float) -> None:
        """``deadline`` has come."""
        self.target.expire(now)
        self._settle(now)
        if self._offer_at is not None and now >= self._offer_at:
            self._offer_at = now + self.offer_period
            self.offer()

    def take_output(self) -> tuple[bytes, Address] | None:
        """A datagram to be sent and where to; None if there is none."""
        self._collect()
        return self._output.popleft() if self._output else None

    def offer(self, to: Address | None = None) -> None:
        """Send an OFFER; without an address to the other end of the data channel, or else to the host."""
        sequence, client_key = self._offers.next()
        destination = to or self.bound or self.host
        if destination is not None:
            self.counters.offers += 1
            offer = Offer(client_key, self.own, self.host or NOWHERE, self.bound or NOWHERE)
            payload = offer.encode()[: self.offer_size]
            datagram = self._control.seal(self.version, Channel.CONTROL, sequence, False, payload)
            self._output.append((datagram, destination))

    def delay_offers(self, until: float) -> None:
        """Send no OFFER before ``until`` but to who asks for it."""
        self._offer_at = until

    def _begin(self) -> None:
        """A new debugger transport, as after a boot."""
        self._boots = self.link.boots
        self._offers = _Offers(self._random)
        self._offer_at = None
        self.bound: Address | None = None
        self._data: Seal | None = None
        self._sent = self._heard = 0

    def _on_control(self, datagram: Datagram | None, sender: Address, now: float) -> None:
        if datagram is None or not datagram.from_host:
            self.counters.foreign += 1
            return
        response = Response.decode(datagram.payload)
        if response is None:
            self.counters.pokes += 1
            self.offer(sender)
        elif not self._offers.accept(response):
            self.counters.stale += 1
        else:
            self._bind(datagram.payload, sender, now)

    def _bind(self, response: bytes, sender: Address, now: float) -> None:
        """Start a data channel; our packet ids go on."""
        self._collect()
        self.counters.responses += 1
        self.bound = sender
        self._data = Seal(self._key.data_key(response), self._key.mac)
        self._sent = self._heard = 0
        self._send_data(_connect_check(sender))
        self.link.connected(now)

    def _on_data(self, datagram: Datagram | None, now: float) -> None:
        if datagram is None or not datagram.from_host:
            self.counters.foreign += 1
        elif datagram.sequence <= self._heard:
            self.counters.stale += 1
        else:
            self._heard = datagram.sequence
            self.target.receive(datagram.payload, now)

    def _settle(self, now: float) -> None:
        """Put in datagrams what the machine has said, and see whether it was switched off or on."""
        self._collect()
        if self._offer_at is None and self.target.state is not TargetState.OFF:
            self._offer_at = now

    def _collect(self) -> None:
        while payload := self.target.take_output():
            self._send_data(payload)
        if self._boots != self.link.boots:
            self._begin()

    def _send_data(self, payload: bytes) -> None:
        """What is said while there is no data channel is lost."""
        if self._data is not None and self.bound is not None:
            self._sent += 1
            self._output.append((self._data.seal(self.version, Channel.DATA, self._sent, False, payload), self.bound))


class _Offers:
    """The client keys and sequence numbers of one boot, and what was answered to them."""

    def __init__(self, random: Random) -> None:
        self._base = random.randbytes(_BASE_SIZE)
        self._counter = random.getrandbits(32)
        self._sequence = 0
        self._latest: deque[bytes] = deque(maxlen=_RECENT)
        self._accepted: deque[Response] = deque(maxlen=_RECENT)

    def next(self) -> tuple[int, bytes]:
        """Sequence number and client key of the next OFFER."""
        self._sequence += _STEP
        self._counter = (self._counter + 1) & 0xFFFFFFFF
        client_key = self._counter.to_bytes(4, "little") + self._base
        self._latest.append(client_key)
        return self._sequence, client_key

    def accept(self, response: Response) -> bool:
        """Whether this answers one of the latest OFFERs; the same RESPONSE once more is none."""
        if response.client_key not in self._latest or response in self._accepted:
            return False
        self._accepted.append(response)
        return True


def _connect_check(host: Address) -> bytes:
    return _NO_CHECK if ":" in host[0] else ConnectCheck(host[0]).encode()
