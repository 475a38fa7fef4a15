"""FireWire nodes as devices of Linux: the system calls behind one narrow seam, and errands run on a node.

A device is told of transactions by an ioctl and tells how they ended, and of bus resets, by events to be read one at a
time. It has no non-blocking mode, so it is read only when the reactor has seen that there is something.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from kdsrv.alarm import Alarm
from kdsrv.firewire import cdev
from kdsrv.firewire.errand import Ended, Errand, Event
from kdsrv.firewire.transactions import Operation, Read, ResponseCode, Write

__all__ = ["Calls", "FireWireDevice", "FireWireHost", "SystemCalls", "Visit"]

_DEVICES: Final = Path("/sys/bus/firewire/devices")
_GONE: Final = "it is gone from the bus"


class Calls(Protocol):
    """The system calls that a FireWire device takes. A simulated bus has the same."""

    def open(self, path: str, *, exclusive: bool) -> int:
        """Open for reading and writing. OSError; EAGAIN if another has it open exclusively."""
        ...

    def close(self, descriptor: int) -> None: ...

    def ioctl(self, descriptor: int, number: int, argument: bytearray) -> int:
        """``argument`` is a structure that the call may change."""
        ...

    def read(self, descriptor: int, size: int) -> bytes:
        """One event."""
        ...

    def watch(self, descriptor: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` from the reactor, again and again, while there is something to read."""
        ...

    def unwatch(self, descriptor: int) -> None: ...


class SystemCalls:
    """Those of this system. ``reactor`` is a Twisted reactor with descriptors."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._watched: dict[int, _Readable] = {}

    def open(self, path: str, *, exclusive: bool) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if exclusive:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def ioctl(self, descriptor: int, number: int, argument: bytearray) -> int:
        return int(fcntl.ioctl(descriptor, number, argument, True))

    def read(self, descriptor: int, size: int) -> bytes:
        return os.read(descriptor, size)

    def watch(self, descriptor: int, ready: Callable[[], None]) -> None:
        readable = self._watched[descriptor] = _Readable(descriptor, ready)
        self._reactor.addReader(readable)

    def unwatch(self, descriptor: int) -> None:
        readable = self._watched.pop(descriptor, None)
        if readable is not None:
            self._reactor.removeReader(readable)


@implementer(IReadDescriptor)
class _Readable:
    """A descriptor as the reactor sees it."""

    def __init__(self, descriptor: int, ready: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._ready = ready

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "FireWire"

    def doRead(self) -> None:
        self._ready()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw a hang-up: the next read says what it is."""
        self._ready()


class FireWireHost:
    """Where the FireWire of this host is to be found: the nodes in ``nodes``, their devices in ``devices``."""

    def __init__(
        self, reactor: Any, *, calls: Calls | None = None, nodes: Path = _DEVICES, devices: Path = Path("/dev")
    ) -> None:
        self.clock: IReactorTime = reactor
        self.calls: Calls = SystemCalls(reactor) if calls is None else calls
        self.nodes = nodes
        self.devices = devices


class FireWireDevice:
    """An open node. OSError if it cannot be opened, or is none.

    ``bus_limit`` is the longest transaction with it, in bytes; ``speed`` its speed code, ``card`` the index of the
    card. `submit` may be given any address of the node, its memory included.
    """

    def __init__(self, calls: Calls, path: str, *, exclusive: bool = True) -> None:
        self._calls = calls
        self._is_closed = False
        self._descriptor = calls.open(path, exclusive=exclusive)
        try:
            state = ctypes.create_string_buffer(cdev.BUS_RESET_SIZE)
            info = cdev.pack_get_info(ctypes.addressof(state))
            calls.ioctl(self._descriptor, cdev.GET_INFO, info)
            self.version, self.card = cdev.parse_get_info(info)
            now = cdev.parse_event(state.raw)
            self._generation = now.generation if isinstance(now, cdev.BusReset) else 0
            self.speed = calls.ioctl(self._descriptor, cdev.GET_SPEED, bytearray())
        except BaseException:
            self.close()
            raise
        self.bus_limit = cdev.longest_transaction(self.speed)

    def watch(self, ready: Callable[[], None]) -> None:
        """Call ``ready`` whenever there is something for `next_event`."""
        self._calls.watch(self._descriptor, ready)

    def submit(self, operation: Operation) -> None:
        """Begin a transaction. OSError if the system refuses it; how it ends is an event."""
        data = operation.data if isinstance(operation, Write) else b""
        buffer = ctypes.create_string_buffer(data, len(data)) if data else None
        pointer = 0 if buffer is None else ctypes.addressof(buffer)
        request = cdev.pack_request(operation, pointer, self._generation)
        self._calls.ioctl(self._descriptor, cdev.SEND_REQUEST, bytearray(request))

    def next_event(self) -> cdev.BusReset | cdev.Response | None:
        """What the device has to say: the end of the last transaction, or a bus reset. OSError: it is gone."""
        event = cdev.parse_event(self._calls.read(self._descriptor, cdev.EVENT_SIZE))
        if isinstance(event, cdev.BusReset):
            self._generation = event.generation
        return event

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._calls.unwatch(self._descriptor)
            self._calls.close(self._descriptor)


class Visit:
    """Runs ``errand`` on ``device``, which it owns; begins in the next turn of the reactor.

    ``handle`` gets the events of the errand, `Ended` last. It is never called from inside `pursue` if that gets none.
    """

    def __init__(self, clock: IReactorTime, device: FireWireDevice, errand: Errand, handle: Callable[[Event], None]):
        self._clock = clock
        self._device = device
        self._errand = errand
        self._handle = handle
        self._under_way: Operation | None = None
        self._alarm = Alarm(clock, self._expire)
        self._failure: IDelayedCall | None = None
        self._is_closed = False
        device.watch(self._read)
        self._alarm.set(clock.seconds())

    def pursue(self, events: Iterable[Event]) -> None:
        """Hand on what the errand has to tell, and go on with what it wants."""
        for event in events:
            if not self._is_closed:
                self._handle(event)
        if self._is_closed:
            return
        wanted = self._errand.operation
        if wanted is not None and self._under_way is None:
            self._under_way = wanted
            try:
                self._device.submit(wanted)
            except OSError as error:
                self._fail(error)
        self._alarm.set(self._errand.deadline)

    def close(self, last: Operation | None = None) -> None:
        """End it, after one more operation that nobody waits for."""
        if self._is_closed:
            return
        self._is_closed = True
        self._alarm.stop()
        if self._failure is not None:
            self._failure.cancel()
        if last is not None:
            with suppress(OSError):
                self._device.submit(last)
        self._device.close()

    def _expire(self) -> None:
        self.pursue(self._errand.expire(self._clock.seconds()))

    def _read(self) -> None:
        if self._is_closed or self._failure is not None:
            return
        try:
            event = self._device.next_event()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        now = self._clock.seconds()
        if isinstance(event, cdev.BusReset):
            self.pursue(self._errand.bus_was_reset(now))
        elif event is not None and self._under_way is not None:
            done, self._under_way = self._under_way, None
            wanted = done.length if isinstance(done, Read) else 0
            code = event.code
            if code == ResponseCode.COMPLETE and len(event.data) < wanted:
                code = ResponseCode.DATA_ERROR
            if code == ResponseCode.COMPLETE:
                self.pursue(self._errand.completed(event.data[:wanted], now))
            else:
                self.pursue(self._errand.failed(code, now))

    def _fail(self, error: OSError) -> None:
        """The device is of no use any more; told in the next turn, for nobody expects it while he writes."""
        why = _GONE if error.errno == errno.ENODEV else str(error.strerror)
        self._alarm.stop()
        if self._failure is None:
            self._failure = self._clock.callLater(0, self._tell_failure, why)

    def _tell_failure(self, why: str) -> None:
        self._failure = None
        self._handle(Ended(why))
