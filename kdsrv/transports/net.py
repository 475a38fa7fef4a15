"""KDNET: a target that calls a UDP port of this host. What crosses is one KD packet a call, in clear.

The ``NetHost`` knows which datagrams count; the ``NetPort`` has the socket; here they meet the ``Transport`` contract.
The line is away until the target has shown that it has the data key, and again while it is silent or somebody else has
it: that is told with the evidence there is, anew every two seconds as long as it changes, and at once when an OFFER
comes that nobody's key opens.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, ClassVar, Final

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from kdsrv.alarm import Alarm
from kdsrv.connection_strings import NetSpec
from kdsrv.errors import TargetError
from kdsrv.kdnet.control import Address
from kdsrv.kdnet.events import AddressChanged, Connected, Heard, NetEvent, Payload, Silent, Stranger, TakenOver
from kdsrv.kdnet.host import NetHost
from kdsrv.kdnet.keys import NetKey
from kdsrv.sessions.net_status import NetRebooted, NetSilent, NetTakenOver, NetUnanswered, NetWaiting, NetWrongKey
from kdsrv.sessions.status import Status
from kdsrv.transports.net_port import NetPort, place
from kdsrv.transports.transport import Receiver, ReceiverFailed

__all__ = ["NetTransport", "net_target_key", "open_net"]

_TAG_SECRET: Final = secrets.token_bytes(16)
_TAG_SIZE: Final = 8

_TELL_EVERY: Final = 2.0
_TELL_LEAST: Final = 0.5
"""Seconds between two words on a line that is away: as a rule, and when there is something new."""
_PATIENCE: Final = 1.0
"""Seconds that a target may take to go on once it was answered; it takes a millisecond."""
_RECENT: Final = 10.0
"""Seconds for which an OFFER that nobody could open is worth a word. OFFERs come every three."""
_STRANGERS_TOLD: Final = 4
"""Machines with the same key that the log names."""


async def open_net(reactor: Any, spec: NetSpec, interface: str = "") -> NetTransport:
    """Listen for the target on the UDP port of ``interface`` ("": of all there are). `TargetError` says why not.

    A ``target`` of the spec is looked up here, and asked to call.
    """
    key = NetKey.parse(spec.key)
    target = None if spec.target is None else (await _address_of(reactor, spec.target), spec.port)
    host = NetHost(key, random=secrets.token_bytes, target=target)
    return NetTransport(reactor, NetPort.open(reactor, interface, spec.port), host, weakness=key.weakness)


async def _address_of(reactor: Any, host: str) -> str:
    """An IP address of ``host``, which is one or a name; IPv4 if there is one. The reactor goes on meanwhile."""
    with suppress(ValueError):
        return str(ip_address(host))
    pool = reactor.getThreadPool()
    try:
        found = await deferToThreadPool(reactor, pool, socket.getaddrinfo, host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise TargetError(target=f"target={host}", why="there is no host of this name") from error
    *_, (address, *_) = min(found, key=lambda each: each[0] != socket.AF_INET)
    return str(address)


def net_target_key(spec: NetSpec) -> str:
    """The same for the same port and key. It tells nothing of the key: the secret keeps weak ones from being tried."""
    tag = hashlib.blake2b(NetKey.parse(spec.key).control, key=_TAG_SECRET, digest_size=_TAG_SIZE).hexdigest()
    return f"net:{spec.port}:{tag}"


class NetTransport:
    """A `Transport` to the target of ``host``, by way of ``port``, of which it lets go when it is closed.

    ``weakness`` says what is wrong with the key, if something is.
    """

    _log: ClassVar[Logger] = Logger()

    byte_time = 0.0

    def __init__(self, reactor: Any, port: NetPort, host: NetHost, *, weakness: str | None = None) -> None:
        self._reactor = reactor
        self._port = port
        self._host = host
        self._warning = "" if weakness is None else ", its key is easily guessed: see kdsrv key"
        self._alarm = Alarm(reactor, self._ring)
        self._receiver: Receiver | None = None
        self._closed = False
        self._is_up = False
        self._why: Status | None = None
        self._away_since = self._told_at = self._refused_at = 0.0
        self._tell_at: float | None = None
        self._heard_before = replace(port.heard)
        self._answered: Address | None = None
        self._answered_at = 0.0
        self._known_as = ""
        self._strangers: set[str] = set()
        if weakness is not None:
            self._log.warn("{line}: the key is easily guessed: {weakness}", line=port.logPrefix(), weakness=weakness)

    @property
    def description(self) -> str:
        """With address and version of the target, once it has called. See `Transport`."""
        peer, version = self._host.peer, self._host.version
        target = "" if peer is None else f", target {place(peer)}, version {version}"
        return f"KDNET on UDP port {self._port.port}{target}{self._warning}"

    def start(self, receiver: Receiver) -> None:
        """Begin to listen. See `Transport`; that no target has called yet is told as an interruption."""
        self._receiver = receiver
        self._away_since = self._tell_at = self._reactor.seconds()
        self._port.join(self)
        self._set_alarm()

    def write(self, data: bytes) -> None:
        """Send one KD packet or the break-in byte; dropped while the target is away. See `Transport`."""
        if not self._closed:
            self._host.send(data)
            self._flush()

    def close(self) -> None:
        """Let go of the port; the target is left as it is. See `Transport`."""
        self._receiver = None
        if not self._closed:
            self._closed = True
            self._alarm.stop()
            self._port.leave(self)
            self._port.release()

    # What the port brings

    @property
    def peer(self) -> Address | None:
        return self._host.peer

    def is_mine(self, source: Address) -> bool:
        return self._host.is_mine(source)

    def recognises(self, data: bytes) -> bool:
        return self._host.recognises(data)

    def datagram_received(self, data: bytes, source: Address) -> bool:
        now = self._reactor.seconds()
        counters = self._host.counters
        refused, answers = counters.refused_control, counters.responses
        events = self._host.receive(data, source, now)
        if counters.responses != answers:
            self._answered = source
            if not answers:
                self._answered_at = now
        if events:
            self._handle(events)
        self._flush()
        return counters.refused_control == refused

    def evidence_changed(self) -> None:
        self._refused_at = self._reactor.seconds()
        if not self._is_up and not isinstance(self._why, NetWrongKey | NetTakenOver | NetSilent):
            self._tell_at = self._told_at + _TELL_LEAST
            self._set_alarm()

    def port_lost(self, reason: TargetError) -> None:
        self._end(reason)

    # What the host says

    def _handle(self, events: Iterable[NetEvent]) -> None:
        receiver = self._receiver
        try:
            for event in events:
                if receiver is None or self._closed:
                    return
                if type(event) is Payload:
                    receiver.bytes_received(event.data)
                else:
                    self._on_change(event, receiver)
        except Exception as error:
            self._fail(error)

    def _on_change(self, event: NetEvent, receiver: Receiver) -> None:
        match event:
            case Connected():
                self._known_as = place(event.peer)
                self._say("the target at {peer} is connected, KDNET version {version}", version=event.version)
                if event.is_new_instance:
                    self._interrupt(NetRebooted(self._known_as), receiver)
                self._resume(receiver)
            case Heard():
                self._say("the target at {peer} is there again after {seconds:.0f} s", seconds=event.seconds)
                self._resume(receiver)
            case Silent():
                self._say("nothing from the target at {peer} for {seconds:.0f} s", seconds=event.seconds)
                self._away_since = self._reactor.seconds() - event.seconds
                self._interrupt(NetSilent(self._known_as, round(event.seconds)), receiver)
            case TakenOver():
                self._say("the target at {peer} was taken over by the debugger at {by}", by=place(event.by))
                self._interrupt(NetTakenOver(self._known_as, place(event.by)), receiver)
            case AddressChanged():
                self._known_as = place(event.peer)
                self._say("the target calls from {peer} now")
            case Stranger() if len(self._strangers) < _STRANGERS_TOLD and event.address[0] not in self._strangers:
                self._strangers.add(event.address[0])
                self._say("another machine, at {other}, has the key of {peer}", other=place(event.address))
        self._set_alarm()

    def _resume(self, receiver: Receiver) -> None:
        self._is_up, self._why, self._tell_at = True, None, None
        receiver.transport_resumed()

    def _interrupt(self, why: Status, receiver: Receiver) -> None:
        now = self._reactor.seconds()
        self._is_up, self._why, self._told_at, self._tell_at = False, why, now, now + _TELL_EVERY
        receiver.transport_interrupted(why)

    # What there is to say while the line is away

    def _ring(self) -> None:
        now = self._reactor.seconds()
        self._handle(self._host.expire(now))
        if self._receiver is not None and self._tell_at is not None and now >= self._tell_at:
            try:
                self._interrupt(self._status(now), self._receiver)
            except Exception as error:
                self._fail(error)
        self._flush()
        self._set_alarm()

    def _status(self, now: float) -> Status:
        """Why the line is away, by what is known of it now."""
        heard, before = self._port.heard, self._heard_before
        away = round(now - self._away_since)
        if isinstance(self._why, NetTakenOver):
            return self._why
        if isinstance(self._why, NetSilent):
            return NetSilent(self._known_as, away)
        if self._answered is not None and now >= self._answered_at + _PATIENCE:
            return NetUnanswered(place(self._answered), self._host.counters.responses)
        if heard.offers > before.offers and now < self._refused_at + _RECENT:
            return NetWrongKey(self._port.port, place(heard.offers_from), heard.offers - before.offers)
        foreign, data = heard.foreign - before.foreign, heard.data - before.data
        last = heard.data_from if data else heard.foreign_from
        return NetWaiting(self._port.port, away, foreign, data, place(last) if data or foreign else "")

    def _say(self, text: str, **facts: object) -> None:
        self._log.info("{line}: " + text, line=self._port.logPrefix(), peer=self._known_as, **facts)

    def _flush(self) -> None:
        for data, destination in self._host.take_output():
            self._port.send(data, destination)

    def _set_alarm(self) -> None:
        if self._closed:
            return
        deadline = self._host.deadline
        if self._tell_at is not None and (deadline is None or self._tell_at < deadline):
            deadline = self._tell_at
        self._alarm.set(deadline)

    def _fail(self, error: Exception) -> None:
        """The receiver failed. Whatever it is, it concerns this line only."""
        self._log.failure("an error while taking what comes from {line}", line=self.description)
        self._end(ReceiverFailed(target=self.description, why=type(error).__name__))

    def _end(self, reason: TargetError) -> None:
        receiver = self._receiver
        self.close()
        if receiver is not None:
            receiver.transport_lost(reason)
