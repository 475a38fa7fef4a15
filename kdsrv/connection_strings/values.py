"""The text of one value -> the value: numbers, ports, hosts, devices, names and keys, with the limits of each
(connection strings, 2.3 to 2.6).

Each reader takes the text as it stands and raises :class:`UnfitValueError` with what would have been right. The
sentence never repeats the text, which may be a secret in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = [
    "PortRange",
    "UnfitValueError",
    "a_fraction",
    "a_host",
    "a_net_key",
    "a_number",
    "a_password",
    "a_pipe_name",
    "a_pipe_path",
    "a_port",
    "a_port_range",
    "a_protocol",
    "a_published_name",
    "a_serial_port",
    "a_target_name",
    "a_text",
    "one_of",
]

_MAX_DIGITS: Final = 20
_RANGE: Final = re.compile(r"([0-9]+):([0-9]+)")
_FRACTION: Final = re.compile(r"[0-9]{0,20}\.?[0-9]{1,30}(e-[0-9]{1,3})?")
_SERIAL_PORT: Final = re.compile(r"(\\\\\.\\)?com[0-9]{1,5}|/.+", re.IGNORECASE)
_PIPE_PATH: Final = re.compile(r"\\\\[^\\]+\\pipe\\.+|/.+", re.IGNORECASE)
_HOST: Final = re.compile(r"""[^\s\\/,={}@"'?*<>|]+""")
_TARGET_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,24}")
_PUBLISHED_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_BASE_36: Final = re.compile(r"[0-9A-Za-z]{1,13}")


class UnfitValueError(ValueError):
    """The value is not what its parameter takes; the text of the error says what it takes."""


class PortRange(NamedTuple):
    """TCP ports from ``low`` to ``high``, both included; one port if they are the same."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"


def a_number(called: str, low: int, high: int) -> Callable[[str], int]:
    """A reader of decimal numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and low <= int(text) <= high):
            raise UnfitValueError(f"{called} must be a number, {low} to {high}")
        return int(text)

    return read


a_port: Final = a_number("port", 1, 65535)


def a_port_range(text: str) -> PortRange:
    """``51`` or ``51:60``."""
    if ":" not in text:
        port = a_port(text)
        return PortRange(port, port)
    ends = _RANGE.fullmatch(text)
    if ends is None:
        raise UnfitValueError("a port range is written low:high")
    low, high = a_port(ends[1]), a_port(ends[2])
    if low > high:
        raise UnfitValueError(f"port range {low}:{high} is empty; write low:high")
    return PortRange(low, high)


def a_fraction(text: str) -> float:
    """A probability."""
    if not _FRACTION.fullmatch(text) or float(text) > 1:
        raise UnfitValueError("a share must be a number from 0 to 1, such as 0.05")
    return float(text)


def one_of(*choices: str) -> Callable[[str], str]:
    """A reader of words from a list, in any case."""

    def read(text: str) -> str:
        if text.lower() not in choices:
            raise UnfitValueError(f"the value must be {' or '.join(choices)}")
        return text.lower()

    return read


def a_text(text: str) -> str:
    """Anything."""
    return text


def a_password(text: str) -> str:
    """Any text but ``*``, which is how a password is shown."""
    if text == "*":
        raise UnfitValueError('"*" stands for a password that is not shown; write the password itself')
    return text


def a_host(text: str) -> str:
    """A name or an address; the ``\\\\`` before it and the ``[]`` around an IPv6 address are dropped."""
    host = text[2:] if text.startswith("\\\\") else text
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not _HOST.fullmatch(host) or "[" in host or "]" in host:
        raise UnfitValueError("this must be the name or the IP address of a machine")
    return host


def a_serial_port(text: str) -> str:
    """``com2``, ``\\\\.\\com2`` or the path of a device; a bare number is that COM port."""
    if text.isascii() and text.isdigit():
        text = f"com{text}"
    if not _SERIAL_PORT.fullmatch(text):
        if _PIPE_PATH.fullmatch(text):
            raise UnfitValueError(r"this is a pipe; write com:pipe,port=\\HOST\pipe\NAME")
        raise UnfitValueError(r"port must be a serial port: com2, \\.\com2, or a device such as /dev/ttyUSB0")
    return text


def a_pipe_path(text: str) -> str:
    """``\\\\HOST\\pipe\\NAME``, or the path of a socket or FIFO."""
    if not _PIPE_PATH.fullmatch(text):
        raise UnfitValueError(r"port must be the path of a pipe: \\.\pipe\NAME, or a socket such as /run/vm/com1.sock")
    return text


def a_pipe_name(text: str) -> str:
    """The last part of ``\\\\HOST\\pipe\\NAME``."""
    if any(char in " \"'" for char in text):
        raise UnfitValueError("a pipe name holds no space and no quotation mark")
    return text


def a_protocol(text: str) -> str:
    """``tls1`` and the later spellings; TLS 1.3 is what is spoken."""
    name = text.lower()
    if name in ("ssl2", "ssl3", "pct1"):
        raise UnfitValueError(f"{name} is obsolete and not offered; write proto=tls1, modern TLS is spoken")
    if name not in ("tls1", "tls1.1", "tls1.2", "tls1.3"):
        raise UnfitValueError("proto must be tls1; modern TLS is spoken")
    return name


def a_net_key(text: str) -> str:
    """Four numbers of 64 bits in base 36, with dots between."""
    parts = text.split(".")
    if len(parts) != 4 or not all(_BASE_36.fullmatch(part) for part in parts):
        raise UnfitValueError("a key is four components with dots between, each 1 to 13 characters of 0-9 and a-z")
    if any(int(part, 36) >= 1 << 64 for part in parts):
        raise UnfitValueError("a component of the key is greater than 3w5e11264sgsf, the greatest 64-bit number")
    return text


def a_published_name(text: str) -> str:
    """The name under which a server publishes a target."""
    if not _PUBLISHED_NAME.fullmatch(text):
        raise UnfitValueError("the name of a target is up to 64 letters, digits and any of . _ @ -")
    return text


def a_target_name(text: str) -> str:
    """The name of a USB debug target."""
    if not _TARGET_NAME.fullmatch(text) or "debug" in text.lower():
        raise UnfitValueError('targetname is 1 to 24 characters of A-Z, a-z, 0-9, "_" and "-", without the word debug')
    return text
