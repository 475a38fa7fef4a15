"""A serial port whose cable carries channels: for all streams and listeners of a process that need it.

It is opened for the first that needs it and closed after the last. A server's port that goes away is opened again when
it is back. A port that another program of the same user has open is used through that one (sharing.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectingCancelledError, ConnectionDone, ConnectionLost, NoProtocol
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocol, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from kdsrv.alarm import Alarm
from kdsrv.com_channel.cable import OPEN_LIMIT, Cable
from kdsrv.com_channel.channels import Channels
from kdsrv.com_channel.sharing import connect_as_guest, offer
from kdsrv.com_channel.stream import Arrived, Closed, Event, Lost, Opened, Readable, Stream
from kdsrv.com_channel.transport import ComAddress, ComStream
from kdsrv.errors import KdsrvError, SetupError, TargetError
from kdsrv.sessions.status import Status
from kdsrv.transports.transport import Transport

__all__ = ["ComCable", "Means"]

_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 5.0
_LINGER: Final = 0.05
"""Seconds beyond the line's own time that the last words have before the port is closed."""


@dataclass(frozen=True, slots=True)
class Means:
    """What cables work with: a reactor, random bytes, how a port is opened at a baud rate, and the directory where
    programs that share a port find each other (None: they do not)."""

    reactor: Any
    random: Callable[[int], bytes]
    open_port: Callable[[Any, str, int], Transport]
    pipes: Path | None


class ComCable:
    """A serial port and the streams that share it. ``path`` is the port's, ``is_used`` whether anybody needs it."""

    _log: ClassVar[Logger] = Logger()

    def __init__(self, means: Means, path: str, device: str, baud: int) -> None:
        self.path = path
        self._device = device
        self.baud = baud
        self._means = means
        self._reactor = means.reactor
        self._transport: Transport | None = None
        self._cable = self._new_cable()
        self._alarm = Alarm(self._reactor, self._expire)
        self._listeners: dict[int, IProtocolFactory] = {}
        self._streams: dict[Stream, ComStream] = {}
        self._openings: dict[Stream, _Opening] = {}
        self._linger: IDelayedCall | None = None
        self._again: IDelayedCall | None = None
        self._pumping = False
        self._offer: IListeningPort | None = None

    @property
    def channels(self) -> Channels:
        return self._cable.channels

    @property
    def is_used(self) -> bool:
        return bool(self._listeners or self._streams or self._openings)

    # What endpoints want

    def listen(self, channel: int, factory: IProtocolFactory) -> None:
        """Accept streams on a channel. KdsrvErrors: there is no such port, or somebody listens there."""
        if channel in self._listeners:
            raise SetupError(why=f"{ComAddress(self.path, channel)}: the server listens there already")
        self._open()
        self._listeners[channel] = factory
        self.channels.listening.add(channel)
        factory.doStart()

    def stop_listening(self, channel: int) -> None:
        """Accept no more; the streams there are stay."""
        factory = self._listeners.pop(channel)
        self.channels.listening.discard(channel)
        factory.doStop()
        self._close_unused()

    def connect(self, channel: int, factory: IProtocolFactory, limit: float) -> Deferred[IProtocol]:
        """Open a stream on a channel, within ``limit`` seconds; fails with KdsrvErrors."""
        now = self._reactor.seconds()
        address = ComAddress(self.path, channel)
        try:
            self._open()
        except TargetError as error:
            return self._connect_as_guest(address, factory, limit) or fail(error)
        self._offer_to_others()
        try:
            stream = self.channels.open(channel, now + limit)
        except SetupError as error:
            return fail(TargetError(target=address, why=str(error)))
        opening = self._openings[stream] = _Opening(address, factory, lambda: self._cancel(stream))
        factory.doStart()
        self._cable.opened(now)
        self.flush()
        return opening.done

    def close(self) -> None:
        """Close the port now."""
        self._stop_lingering()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._alarm.stop()
        self._offer_no_more()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    # What its streams want

    def flush(self) -> None:
        """Write what is to be written. Whoever is to be told of something is told later."""
        if self._transport is None:
            return
        output = self._cable.take_output(self._reactor.seconds())
        if output:
            self._transport.write(output)
        self._alarm.set(self._cable.deadline)
        if self.channels.events and not self._pumping:
            self.call_soon(self._pump)

    def call_soon(self, function: Any, *arguments: object) -> IDelayedCall:
        """Call in the reactor's next turn."""
        call: IDelayedCall = self._reactor.callLater(0, function, *arguments)
        return call

    def forget(self, stream: Stream) -> None:
        self._streams.pop(stream, None)
        self._close_unused()

    # What the port tells

    def bytes_received(self, data: bytes) -> int:
        self._cable.receive(data, self._reactor.seconds())
        self._pump()
        return 0

    def transport_interrupted(self, why: str | Status) -> None:
        """Comes from pipes only."""

    def transport_resumed(self) -> None:
        """Comes from pipes only."""

    def transport_lost(self, reason: TargetError) -> None:
        self._transport = None
        self._alarm.stop()
        self._offer_no_more()
        if self._listeners:
            self._log.info("{reason}; waiting for it to come back", reason=str(reason))
            self._open_again(_FIRST_WAIT)
        self._cable = self._new_cable()
        self._cable.channels.listening.update(self._listeners)
        openings, self._openings = self._openings, {}
        for opening in openings.values():
            opening.failed(reason)
        for stream in list(self._streams.values()):
            stream.lost(Failure(ConnectionLost(str(reason))))
        self._close_unused()

    # How it works

    def _new_cable(self) -> Cable:
        return Cable(self.baud, self._means.random)

    def _open(self) -> None:
        self._stop_lingering()
        if self._transport is not None:
            return
        if self._again is not None:
            raise TargetError(target=self.path, why="the port is away at the moment")
        transport = self._means.open_port(self._reactor, self.path, self.baud)
        self._transport = transport
        transport.start(self)

    def _connect_as_guest(
        self, address: ComAddress, factory: IProtocolFactory, limit: float
    ) -> Deferred[IProtocol] | None:
        """Through another program that has the port; None if there is none."""
        pipes = self._means.pipes
        if pipes is None:
            return None
        try:
            return connect_as_guest(self._reactor, address, self._device, self.baud, factory, pipes, limit)
        except SetupError:
            return None

    def _offer_to_others(self) -> None:
        if self._offer is None and self._means.pipes is not None:
            self._offer = offer(self._reactor, self, self._device, self._means.pipes, OPEN_LIMIT)

    def _offer_no_more(self) -> None:
        if self._offer is not None:
            self._offer.stopListening()
            self._offer = None

    def _open_again(self, wait: float) -> None:
        self._again = self._reactor.callLater(wait, self._try_again, wait)

    def _try_again(self, wait: float) -> None:
        self._again = None
        if not self._listeners:
            return
        try:
            self._open()
        except KdsrvError:
            self._open_again(min(wait * 2, _LONGEST_WAIT))
        else:
            self._log.info("{path} is back", path=self.path)

    def _expire(self) -> None:
        self._cable.expire(self._reactor.seconds())
        self._pump()

    def _pump(self) -> None:
        """Tell everybody what has happened, and write what comes of it."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while True:
                events = self.channels.events
                while events:
                    self._handle(events.popleft())
                self.flush()
                if not self.channels.events:
                    break
        finally:
            self._pumping = False

    def _handle(self, event: Event) -> None:
        stream = event.stream
        opening = self._openings.pop(stream, None)
        if opening is not None:
            if isinstance(event, Opened):
                self._start(stream, opening.factory, opening.address, opening)
            elif isinstance(event, Lost):
                opening.failed(TargetError(target=opening.address, why=event.why))
                self._close_unused()
            return
        if isinstance(event, Arrived):
            factory = self._listeners.get(stream.number)
            if factory is None:
                self.channels.abort(stream)
            else:
                self._start(stream, factory, ComAddress(self.path, stream.number), None)
            return
        transport = self._streams.get(stream)
        if transport is None:
            return
        if isinstance(event, Readable):
            transport.readable()
        elif isinstance(event, Closed):
            transport.lost(Failure(ConnectionDone()))
        elif isinstance(event, Lost):
            transport.lost(Failure(ConnectionLost(event.why)))
        else:
            transport.writable()

    def _start(self, stream: Stream, factory: IProtocolFactory, address: ComAddress, opening: _Opening | None) -> None:
        try:
            protocol = factory.buildProtocol(address)
        except Exception as error:  # whatever it is, it concerns this stream only
            self._log.failure("an error while starting a connection through {address}", address=str(address))
            protocol, refusal = None, error
        else:
            refusal = NoProtocol()
        if protocol is None:
            self.channels.abort(stream)
            if opening is not None:
                opening.failed(refusal)
            self._close_unused()
            return
        transport = self._streams[stream] = ComStream(self, stream, address)
        transport.start(protocol)
        if opening is not None:
            opening.done.callback(protocol)

    def _cancel(self, stream: Stream) -> None:
        opening = self._openings.pop(stream, None)
        if opening is not None:
            self.channels.abort(stream)
            opening.factory.doStop()
            self.flush()
            self._close_unused()

    def _close_unused(self) -> None:
        """Say that we leave, and close when that has gone."""
        if self.is_used or self._linger is not None:
            return
        if self._transport is None:
            self.close()
            return
        now = self._reactor.seconds()
        self._cable.leave(now)
        self.flush()
        if self._transport is not None:
            self._linger = self._reactor.callLater(max(0.0, self._cable.free_at - now) + _LINGER, self._close_lingering)

    def _close_lingering(self) -> None:
        self._linger = None
        self.close()

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None


class _Opening:
    """A connection that is not there yet."""

    def __init__(self, address: ComAddress, factory: IProtocolFactory, cancel: Callable[[], None]) -> None:
        self.address = address
        self.factory = factory
        self.done: Deferred[IProtocol] = Deferred(lambda done: self._cancelled(done, cancel))

    def failed(self, reason: Exception) -> None:
        self.factory.doStop()
        self.done.errback(reason)

    def _cancelled(self, done: Deferred[IProtocol], cancel: Callable[[], None]) -> None:
        cancel()
        done.errback(ConnectingCancelledError(self.address))
