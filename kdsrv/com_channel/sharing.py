"""One serial port for several programs of a user: the one that has it open lets the others have channels of its cable.

Only one process can have a port open. While it does, it listens on a named pipe of the host, for its user and root:

    guest   "BAUD CHANNEL\\n"
    host    "ok\\n", and from then on the bytes of a stream on that channel in both directions; or "no WHY\\n"

When the host's process ends, its guests lose their connections. They connect again, and one of them is the host then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv.com_channel.channels import MAX_CHANNEL
from kdsrv.com_channel.transport import ComAddress
from kdsrv.errors import KdsrvError, SetupError, TargetError
from kdsrv.local_pipes import LocalPipe, local_pipe_client

__all__ = ["SharedCable", "connect_as_guest", "offer"]

_LONGEST_LINE: Final = 500
_PATIENCE: Final = 2.0
"""Seconds that the host has beyond the limit for opening a channel."""


class SharedCable(Protocol):
    """What guests use of a cable."""

    baud: int

    def connect(self, channel: int, factory: IProtocolFactory, limit: float) -> Deferred[IProtocol]: ...


def offer(reactor: Any, cable: SharedCable, device: str, pipes: Path, limit: float) -> IListeningPort | None:
    """Let others at the cable; what to stop listening on. None if there can be no pipe, which is no reason to fail."""
    found: list[IListeningPort] = []
    pipe = LocalPipe(reactor, _pipe_name(device), pipes)
    pipe.listen(_Hosts(cable, limit)).addCallbacks(found.append, lambda failure: failure.trap(SetupError))
    return found[0] if found else None


def connect_as_guest(
    reactor: Any, address: ComAddress, device: str, baud: int, factory: IProtocolFactory, pipes: Path, limit: float
) -> Deferred[IProtocol]:
    """A stream on a channel of the cable that another process has. SetupError at once if none offers it."""
    endpoint = local_pipe_client(reactor, ".", _pipe_name(device), pipes, "localhost")
    guest = _Guest(reactor, address, baud, factory, limit + _PATIENCE)
    endpoint.connect(_Once(guest)).addErrback(guest.failed)
    return guest.done


def _pipe_name(device: str) -> str:
    return "com" + device.replace("/", "-").replace("%", "-")


class _Once(Factory):
    noisy = False

    def __init__(self, protocol: TwistedProtocol) -> None:
        self._protocol = protocol

    @override
    def buildProtocol(self, addr: Any) -> TwistedProtocol:
        return self._protocol


class _Guest(TwistedProtocol):
    """Asks for a channel, and makes way for the protocol that uses it."""

    def __init__(self, reactor: Any, address: ComAddress, baud: int, factory: IProtocolFactory, limit: float) -> None:
        self.done: Deferred[IProtocol] = Deferred(self._cancelled)
        self._address = address
        self._baud = baud
        self._factory = factory
        self._line = b""
        self._limit: IDelayedCall | None = reactor.callLater(limit, self._fail, "the process that has the port is busy")

    @override
    def connectionMade(self) -> None:
        transport: Any = self.transport
        if self._limit is None:
            transport.abortConnection()
        else:
            transport.write(b"%d %d\n" % (self._baud, self._address.channel))

    @override
    def dataReceived(self, data: bytes) -> None:
        self._line += data
        line, end, rest = self._line.partition(b"\n")
        if not end and len(line) <= _LONGEST_LINE:
            return
        if line != b"ok":
            self._fail(line.removeprefix(b"no ").decode(errors="replace")[:_LONGEST_LINE])
            return
        self._settled()
        transport: Any = self.transport
        protocol = self._factory.buildProtocol(self._address)
        if protocol is None:
            transport.abortConnection()
            self.done.errback(SetupError(why=f"{self._address}: it is not wanted any more"))
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if rest:
            protocol.dataReceived(rest)
        self.done.callback(protocol)

    @override
    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self._fail("the process that has the port has left")

    def failed(self, failure: Failure) -> None:
        """The pipe cannot be reached."""
        self._fail("the process that has the port has left")

    def _fail(self, why: str) -> None:
        if self._settled():
            self.done.errback(TargetError(target=self._address, why=why))

    def _cancelled(self, done: Deferred[IProtocol]) -> None:
        self._settled()

    def _settled(self) -> bool:
        """Whether it was not yet."""
        limit, self._limit = self._limit, None
        if limit is None:
            return False
        if limit.active():
            limit.cancel()
        transport: Any = self.transport
        if transport is not None and not self._line.startswith(b"ok\n"):
            transport.abortConnection()
        return True


class _Hosts(Factory):
    noisy = False

    def __init__(self, cable: SharedCable, limit: float) -> None:
        self._cable = cable
        self._limit = limit

    @override
    def buildProtocol(self, addr: Any) -> _Host:
        return _Host(self._cable, self._limit)


class _Host(TwistedProtocol):
    """A guest's connection: opens the channel, then carries bytes between it and the guest."""

    def __init__(self, cable: SharedCable, limit: float) -> None:
        self._cable = cable
        self._limit = limit
        self._line = b""
        self._opening: Deferred[IProtocol] | None = None
        self._far: _Far | None = None

    @override
    def dataReceived(self, data: bytes) -> None:
        if self._far is not None:
            self._far.carry(data)
            return
        self._line += data
        if self._opening is None and (b"\n" in self._line or len(self._line) > _LONGEST_LINE):
            self._open()

    @override
    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        if self._far is not None:
            self._far.leave()
        elif self._opening is not None:
            self._opening.cancel()

    def _open(self) -> None:
        fields = self._line.split()
        if len(fields) != 2 or not all(field.isdigit() and len(field) < 10 for field in fields):
            self._refuse("what was asked for is no channel")
            return
        baud, channel = map(int, fields)
        if baud != self._cable.baud:
            self._refuse(f"the port is in use at {self._cable.baud} baud; all its channels have the same rate")
            return
        if channel > MAX_CHANNEL:
            self._refuse("there is no such channel")
            return
        self._opening = self._cable.connect(channel, _Once(_Far(self)), self._limit)
        self._opening.addCallbacks(self._opened, self._not_opened)

    def _opened(self, far: Any) -> None:
        near: Any = self.transport
        self._far = far
        near.write(b"ok\n")
        near.registerProducer(far.transport, True)
        far.transport.registerProducer(near, True)

    def _not_opened(self, failure: Failure) -> None:
        error = failure.value
        why = str(error.facts.get("why", error)) if isinstance(error, KdsrvError) else str(error)
        self._refuse(why)

    def _refuse(self, why: str) -> None:
        near: Any = self.transport
        near.write(b"no " + why.replace("\n", " ").encode() + b"\n")
        near.loseConnection()

    def carry(self, data: bytes) -> None:
        """Bytes for the guest."""
        near: Any = self.transport
        near.write(data)

    def leave(self) -> None:
        """The channel's stream has ended."""
        near: Any = self.transport
        near.unregisterProducer()
        near.loseConnection()


class _Far(TwistedProtocol):
    """The channel's end of it."""

    def __init__(self, host: _Host) -> None:
        self._host = host

    @override
    def dataReceived(self, data: bytes) -> None:
        self._host.carry(data)

    @override
    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self._host.leave()

    def carry(self, data: bytes) -> None:
        """Bytes of the guest."""
        transport: Any = self.transport
        transport.write(data)

    def leave(self) -> None:
        """The guest has left."""
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()
