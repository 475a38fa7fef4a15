"""The host's end of KDNET for one target: which datagrams count, and which key is in force (KDNET, 6).

``NetHost`` owns no socket and no clock. Its owner passes in each datagram with its source (``receive``), calls
``expire`` when ``now`` reaches ``deadline``, handles the events of both in order, and after each of these and after
``send`` sends what ``take_output`` returns. What crosses it upwards and downwards is the payload of one data datagram:
a KD packet without trailer, or downwards the break-in byte.

    nobody      No data channel. An authentic OFFER is answered, whatever it says of a data channel, for it may have
                that with a debugger which is gone.
    answered    Each RESPONSE makes a key. It comes into force, and the event Connected comes, with the first authentic
                datagram under it; until then the channel before it, if there is one, goes on. So neither a RESPONSE
                that got lost nor an OFFER that somebody recorded ends a channel that works.
    connected   An OFFER of the target that names a data channel only says that it lives: to answer it would replace
                the key of a channel that works. One that names none is answered; the target has booted. One that
                names a channel with somebody else says that another debugger has taken the target.

A recorded OFFER is told by its counter, which does not move forward. It is answered all the same when nothing has come
from the target for a while, since a virtual machine may have been set back to an earlier time. Data under a key that
nobody has (this program was started again) is answered by a POKE, upon which the target offers itself at once. The
connect check ends here. The host does not send anything on a new data channel by itself: the RESET of the link does
what a RESEND would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from kdsrv.kdnet.control import POKE, Address, ConnectCheck, NewestOffers, Offer, Response
from kdsrv.kdnet.data_channel import DataChannel
from kdsrv.kdnet.datagrams import Channel, Datagram, Seal, channel_of
from kdsrv.kdnet.events import (
    AddressChanged,
    Connected,
    Heard,
    NetCounters,
    NetEvent,
    Payload,
    Silent,
    Stranger,
    TakenOver,
)
from kdsrv.kdnet.keys import NetKey

__all__ = ["NetHost"]

_DATA: Final = int(Channel.DATA)
_CONTROL: Final = int(Channel.CONTROL)
_CHECK_START: Final = bytes(4)
_LATEST_VERSION: Final = 5
_KEPT_ANSWERS: Final = 2
"""RESPONSEs that may still come into force: the last one, and the one before it whose check is under way."""

_TRIAL_INTERVAL: Final = 1.0
"""Seconds between two looks at what other machines send while the target is there."""


class NetHost:
    """The host machine for the target with this key.

    ``random(n)`` gives n bytes that nobody can guess. ``target``, an IP address and a port, is asked for OFFERs by a
    POKE each ``poke_interval`` while it is not connected or silent. All times are seconds: a target is ``Silent`` after
    ``silent_after``; OFFERs come each ``offer_period``, and after two periods without a word from the target one that
    does not fit may be its own: from another address, if it says that it has just booted, or from the past.
    ``response_interval`` lies at least between two RESPONSEs, ``patience`` between a RESPONSE and a POKE.
    """

    def __init__(
        self,
        key: NetKey,
        *,
        random: Callable[[int], bytes],
        target: Address | None = None,
        poke_interval: float = 0.5,
        offer_period: float = 3.0,
        silent_after: float = 10.0,
        response_interval: float = 0.2,
        patience: float = 1.0,
    ) -> None:
        self.counters = NetCounters()
        self._key = key
        self._random = random
        self._target = target
        self._poke_interval = poke_interval
        self._quiet_after = 2 * offer_period
        self._silent_after = silent_after
        self._response_interval = response_interval
        self._patience = patience
        self._control = Seal(key.control, key.mac)
        self._current: DataChannel | None = None
        self._answered: deque[DataChannel] = deque(maxlen=_KEPT_ANSWERS)
        self._newest = NewestOffers()
        self._base: bytes | None = None
        self._version = _LATEST_VERSION
        self._known_as = ""
        self._bound: Address | None = None
        self._taken_by: Address | None = None
        self._stranger: Address | None = None
        self._silent = False
        self._heard_at = 0.0
        self._response_at = self._poked_at = self._trial_at = -float("inf")
        self._pokes = 0
        self._output: list[tuple[bytes, Address]] = []

    @property
    def peer(self) -> Address | None:
        """Where the connected target sends from, None while none is connected."""
        return None if self._current is None else self._current.peer

    @property
    def version(self) -> int | None:
        """The protocol version of the connected target, None while none is connected."""
        return None if self._current is None else self._current.version

    @property
    def deadline(self) -> float | None:
        """When to call ``expire``. With ``target`` the first time is at once. A datagram may move it either way."""
        silent = None if self._current is None or self._silent else self._heard_at + self._silent_after
        if not self._wants_offer:
            return silent
        return self._poke_due if silent is None else min(self._poke_due, silent)

    def is_mine(self, source: Address) -> bool:
        """Whether ``source`` is the target as far as is known; cheap. Such datagrams are worth a ``receive`` each.

        On a port that several targets share, the others are for the host that ``recognises`` them, to be tried only so
        often; data (``channel_of`` is 0) that belongs to nobody is for each host without ``peer``, which then POKEs.
        """
        host = source[0]
        return (
            (self._current is not None and self._current.peer[0] == host)
            or any(channel.peer[0] == host for channel in self._answered)
            or (self._target is not None and self._target[0] == host)
        )

    def recognises(self, data: bytes) -> bool:
        """Whether a datagram is an OFFER under our key. Costs an opening, and changes nothing."""
        datagram = self._control.open(data) if channel_of(data) == _CONTROL else None
        return datagram is not None and not datagram.from_host and Offer.decode(datagram.payload) is not None

    def receive(self, data: bytes, source: Address, now: float) -> Iterable[NetEvent]:
        """A datagram came from ``source``. What the events say has been done already, whether they are read or not."""
        channel = channel_of(data)
        if channel == _DATA:
            return self._on_data(data, source, now)
        if channel == _CONTROL:
            return self._on_control(data, source, now)
        self.counters.malformed += 1
        return ()

    def expire(self, now: float) -> Iterable[NetEvent]:
        """``deadline`` has come. What the events say has been done already, as with ``receive``."""
        events: tuple[NetEvent, ...] = ()
        if self._current is not None and not self._silent and now >= self._heard_at + self._silent_after:
            self._silent = True
            events = (Silent(now - self._heard_at),)
        if self._target is not None and self._wants_offer and now >= self._poke_due:
            self._poke(self._target, now)
        return events

    def send(self, payload: bytes) -> None:
        """Send one KD packet or the break-in byte to the connected target; dropped while none is connected."""
        channel = self._current
        if channel is None:
            self.counters.unsent += 1
            return
        self.counters.sent += 1
        self._output.append((channel.seal(payload), channel.peer))

    def take_output(self) -> list[tuple[bytes, Address]]:
        """The datagrams to send now, each with its destination."""
        output, self._output = self._output, []
        return output

    # The data channel

    def _on_data(self, data: bytes, source: Address, now: float) -> Iterable[NetEvent]:
        current = self._current
        if current is not None and source[0] == current.peer[0]:
            datagram = current.open(data)
            if datagram is not None:
                return self._on_current(current, datagram, source, now)
        for channel in self._answered:
            if source[0] == channel.peer[0]:
                datagram = channel.open(data)
                if datagram is not None:
                    return self._on_confirmed(channel, datagram, source, now)
        if current is None:
            self.counters.refused_data += 1
            self._nudge(source, now)
        elif source[0] == current.peer[0]:
            self.counters.refused_data += 1
        else:
            self.counters.foreign += 1
        return ()

    def _on_current(self, channel: DataChannel, datagram: Datagram, source: Address, now: float) -> Iterable[NetEvent]:
        if not self._is_next(channel, datagram):
            return ()
        payload = datagram.payload
        events = self._on_heard(source, now) if self._silent or source != channel.peer else ()
        self._heard_at = now
        if not payload or payload.startswith(_CHECK_START):
            return events
        self.counters.received += 1
        return (*events, Payload(payload)) if events else (Payload(payload),)

    def _on_confirmed(
        self, channel: DataChannel, datagram: Datagram, source: Address, now: float
    ) -> Iterable[NetEvent]:
        """The target has a key that we answered with: it is in force from now on."""
        if not self._is_next(channel, datagram):
            return ()
        channel.peer = source
        self._current = channel
        self._answered.clear()
        is_new = self._base is not None and channel.offer.base != self._base
        self._base = channel.offer.base
        self._newest.restart(channel.offer)
        check = ConnectCheck.decode(datagram.payload)
        self._known_as = "" if check is None else check.host
        self._bound = self._taken_by = None
        self._silent = False
        self._heard_at = now
        connected = Connected(source, channel.version, is_new)
        if check is not None or not datagram.payload:
            return (connected,)
        self.counters.received += 1
        return connected, Payload(datagram.payload)

    def _is_next(self, channel: DataChannel, datagram: Datagram) -> bool:
        """Whether an authentic datagram comes from the target and is newer than all before it."""
        self.counters.authenticated += 1
        if datagram.from_host:
            self.counters.reflected += 1
        elif channel.is_newest(datagram):
            return True
        else:
            self.counters.replayed += 1
        return False

    def _on_heard(self, source: Address, now: float) -> tuple[NetEvent, ...]:
        """The connected target has said something; it was silent, or sends from another port."""
        events: tuple[NetEvent, ...] = ()
        if self._silent:
            self._silent = False
            events = (Heard(now - self._heard_at),)
        self._heard_at = now
        if self._current is not None and source != self._current.peer:
            self._current.peer = source
            events = (*events, AddressChanged(source))
        return events

    # The control channel

    def _on_control(self, data: bytes, source: Address, now: float) -> Iterable[NetEvent]:
        current = self._current
        at_home = current is None or source[0] == current.peer[0]
        if not at_home and now < self._heard_at + self._quiet_after:
            if now < self._trial_at + _TRIAL_INTERVAL:
                self.counters.foreign += 1
                return ()
            self._trial_at = now
        datagram = self._control.open(data)
        if datagram is None:
            self.counters.refused_control += 1
            return ()
        self.counters.authenticated += 1
        if datagram.from_host:
            self.counters.reflected += 1
            return ()
        offer = Offer.decode(datagram.payload)
        return () if offer is None else self._on_offer(offer, datagram, source, now)

    def _on_offer(self, offer: Offer, datagram: Datagram, source: Address, now: float) -> Iterable[NetEvent]:
        self.counters.offers += 1
        current = self._current
        is_newer = self._newest.add(offer)
        if current is None:
            if not offer.is_bound or self._taken_by is None:
                self._answer(offer, datagram, source, now)
            return ()
        at_home = source[0] == current.peer[0]
        is_quiet = now >= self._heard_at + self._quiet_after
        if not (is_newer or is_quiet):
            self.counters.replayed += 1
        elif is_quiet and (not offer.is_bound or (at_home and not is_newer)):
            self._answer(offer, datagram, source, now)
        elif at_home:
            return self._on_home_offer(current, offer, datagram, source, now)
        elif source != self._stranger:
            self._stranger = source
            return (Stranger(source),)
        return ()

    def _on_home_offer(
        self, current: DataChannel, offer: Offer, datagram: Datagram, source: Address, now: float
    ) -> Iterable[NetEvent]:
        """A new OFFER from the machine that is connected.

        One with a data channel, of a boot that we have answered and heard nothing of, lost its connect check. One of a
        boot that we know nothing of may be recorded, and counts only when the boot that we know is silent.
        """
        unheard = any(channel.offer.base == offer.base for channel in self._answered)
        known = offer.base == current.offer.base
        if not offer.is_bound or (unheard and not known):
            self._answer(offer, datagram, source, now)
        elif known or now >= self._heard_at + self._quiet_after:
            if self._bound is None and self._known_as in ("", offer.bound[0]):
                self._bound = offer.bound
            if offer.bound != self._bound:
                self._current = None
                self._taken_by = offer.bound
                return (TakenOver(offer.bound),)
            if known and not unheard:
                return self._on_heard(source, now)
            self._answer(offer, datagram, source, now)
        return ()

    def _answer(self, offer: Offer, datagram: Datagram, source: Address, now: float) -> None:
        if now < self._response_at + self._response_interval:
            return
        self._response_at = now
        self._version = datagram.version
        payload = Response(offer.client_key, self._random(32)).encode()
        seal = Seal(self._key.data_key(payload), self._key.mac)
        self._answered.append(DataChannel(seal, offer, source, datagram.version))
        sealed = self._control.seal(datagram.version, _CONTROL, datagram.sequence, True, payload)
        self._output.append((sealed, source))
        self.counters.responses += 1

    @property
    def _wants_offer(self) -> bool:
        """Whether the target is to be asked for OFFERs. One that somebody else took is left to them."""
        return self._target is not None and self._taken_by is None and (self._current is None or self._silent)

    @property
    def _poke_due(self) -> float:
        return max(self._poked_at + self._poke_interval, self._response_at + self._patience, 0.0)

    def _nudge(self, source: Address, now: float) -> None:
        """Somebody sends data under a key that is gone; if it is our target, a POKE makes it offer itself."""
        if self._taken_by is None and now >= max(self._poked_at, self._response_at) + self._patience:
            self._poke(source, now)

    def _poke(self, destination: Address, now: float) -> None:
        self._poked_at = now
        self._pokes += 1
        self.counters.pokes += 1
        self._output.append((self._control.seal(self._version, _CONTROL, self._pokes, True, POKE), destination))
