"""Twisted endpoints for the channels of serial cables. What dials or listens on TCP does so on a channel as well."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from kdsrv.com_channel.cable import OPEN_LIMIT
from kdsrv.com_channel.ports import Cables
from kdsrv.com_channel.shared_port import ComCable
from kdsrv.com_channel.transport import ComAddress
from kdsrv.errors import KdsrvError, SetupError

__all__ = ["ComClientEndpoint", "ComServerEndpoint"]


@implementer(IStreamClientEndpoint)
class ComClientEndpoint:
    """Opens a stream on a channel of the cable at ``port``; failures are KdsrvErrors, sentences."""

    def __init__(self, cables: Cables, port: str, baud: int, channel: int, timeout: float = OPEN_LIMIT) -> None:
        self._cables = cables
        self._port = port
        self._baud = baud
        self._channel = channel
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        try:
            cable = self._cables.find(self._port, self._baud)
        except SetupError as error:
            return fail(error)
        return cable.connect(self._channel, protocolFactory, self._timeout)


@implementer(IStreamServerEndpoint)
class ComServerEndpoint:
    """Accepts streams on a channel of the cable at ``port``; failures are KdsrvErrors, sentences."""

    def __init__(self, cables: Cables, port: str, baud: int, channel: int) -> None:
        self._cables = cables
        self._port = port
        self._baud = baud
        self._channel = channel

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        try:
            cable = self._cables.find(self._port, self._baud)
            cable.listen(self._channel, protocolFactory)
        except KdsrvError as error:
            return fail(error)
        port: IListeningPort = _ComPort(cable, self._channel, protocolFactory)
        return succeed(port)


@implementer(IListeningPort)
class _ComPort:
    """A channel that is listened on."""

    def __init__(self, cable: ComCable, channel: int, factory: IProtocolFactory) -> None:
        self._cable = cable
        self._channel = channel
        self._factory = factory
        self._listening = True

    def startListening(self) -> None:  # noqa: N802  # the name is IListeningPort's
        if not self._listening:
            self._cable.listen(self._channel, self._factory)
            self._listening = True

    def stopListening(self) -> Deferred[None]:  # noqa: N802  # the name is IListeningPort's
        if self._listening:
            self._listening = False
            self._cable.stop_listening(self._channel)
        return succeed(None)

    def getHost(self) -> IAddress:  # noqa: N802  # the name is IListeningPort's
        return ComAddress(self._cable.path, self._channel)
