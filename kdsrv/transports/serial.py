"""Serial ports: pyserial opens and configures, `DescriptorTransport` carries.

Twisted's own ``SerialPort`` is not used. Its holes, and what closes each here:

1. ``getHost`` and ``getPeer`` raise: a transport has a ``description`` instead.
2. ``loseConnection`` waits for a stuck peer: ``close`` drops what is unsent, here and (TCOFLUSH) in the kernel, where
   the last close of a port would wait up to 30 s for output to drain.
3. It starts reading by itself, undoing an earlier pause: nothing is read before ``start``.
4. Losing the device looks like a clean end: a closed flag of our own tells them apart.
5. Two processes can open one port and steal each other's bytes: ``exclusive=True``.
6. A failing ``connectionMade`` leaks the port and four helper pipe ends: only a duplicate of the descriptor outlives
   the opening, and an error in a receiver closes it.
"""

from __future__ import annotations

import os
import termios
from contextlib import suppress
from typing import Final

import serial
from typing_extensions import override

from kdsrv.errors import TargetError
from kdsrv.transports.descriptor import DescriptorTransport, Reactor
from kdsrv.transports.devices import device_path, refusal, refuse_other_files

__all__ = ["SerialTransport", "open_serial"]

_BITS_PER_BYTE: Final = 10
"""8N1: a start bit, eight data bits, a stop bit (KD protocol, 1.1)."""


class SerialTransport(DescriptorTransport):
    """A serial line."""

    @override
    def _release(self) -> None:
        with suppress(termios.error):
            termios.tcflush(self._descriptor, termios.TCOFLUSH)
        super()._release()


def open_serial(reactor: Reactor, port: str, baud: int) -> SerialTransport:
    """Open ``port`` (a device, ``com2`` ...) at any ``baud`` the hardware has; errors are `TargetError` sentences.

    What had arrived or waited to be sent before is thrown away: it belongs to an earlier conversation.
    """
    if baud <= 0:
        raise TargetError(target=port, why=f"{baud} is no baud rate")
    refuse_other_files(port)
    path = device_path(port)
    try:
        descriptor = _open_line(path, baud)
    except (OSError, ValueError, OverflowError, termios.error) as error:
        raise refusal(port, error) from error
    return SerialTransport(
        reactor,
        f"{path} at {baud} baud",
        descriptor,
        byte_time=_BITS_PER_BYTE / baud,
        ended="unplugged or its other end closed",
    )


def _open_line(path: str, baud: int) -> int:
    # inter_byte_timeout=0 makes pyserial set VMIN to 1. With its usual 0 an empty read means both "nothing there" and
    # "hung up". DTR and RTS are raised by pyserial's defaults; the lock stays with the duplicate.
    with serial.Serial(path, baud, timeout=0, exclusive=True, inter_byte_timeout=0) as line:
        # Wished for and not needed: without it a driver that collects bytes hands them over some milliseconds later.
        # pyserial says ValueError where the driver has no such mode (a pty, most of them), NotImplementedError where
        # the platform has none; that the port itself is in order was seen when it was opened.
        with suppress(ValueError, NotImplementedError):
            line.set_low_latency_mode(True)
        descriptor = line.fileno()
        termios.tcflush(descriptor, termios.TCIOFLUSH)
        return os.dup(descriptor)
