"""What a server lets its clients open (docs/policy.md).

    how the server was started      what a client may open
    nothing said                    serial devices, pipes, TCP on the server's own host, KDNET on the UDP ports of
                                    Windows, simulated targets
    --target NAME=KDSTRING          that target, by its name
    --allow PATTERN                 what the pattern matches

With ``--target`` or ``--allow`` given, nothing else opens. A user who is bound to targets opens those by name only. The
server's own bridges are the operator's and ask nobody.

What comes out of here is what is opened: a path is made plain (no ``..``) before it is judged, and a serial port that
was judged by where its links lead is opened there, so that a link that is turned round in between leads nowhere else.
"""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final, NamedTuple, Protocol

from kdsrv.auth.users import User
from kdsrv.connection_strings import (
    KdSpec,
    NetSpec,
    PipeSpec,
    SerialSpec,
    TargetSpec,
    TcpSerialSpec,
    fill_in,
    parse_kd_string,
)
from kdsrv.connection_strings.values import UnfitValueError, a_published_name
from kdsrv.errors import KdsrvError, SetupError
from kdsrv.policy.patterns import Pattern

__all__ = ["Device", "NotAllowed", "Permit", "Places", "Policy", "TargetUnnamed", "parse_target"]

_DEVICES: Final = "/dev/"
_NO_DEVICES: Final = ("/dev/shm/", "/dev/mqueue/", "/dev/hugepages/")
"""Where everybody may put files and links."""
_NET_PORTS: Final = range(49152, 65536)
"""UDP ports that Windows takes for KDNET (KDNET, 9). Below are those of other services."""
_NAMED: Final = 8


class NotAllowed(KdsrvError):
    """{target} is not open to you on this server: {why}"""

    code = "not-allowed"


class TargetUnnamed(NotAllowed):
    """name a target: trans=@{{target:name={first}}}; {offer}"""


class Device(NamedTuple):
    """``path`` is what a port's name means on the host, ``real`` where that leads when every link is followed."""

    path: str
    real: str


class Places(Protocol):
    """What a policy has to know about the host."""

    def device(self, port: str) -> Device:
        """The device that a port's name (``com1``, a path) stands for; it need not exist."""
        ...

    def is_terminal(self, path: str) -> bool:
        """Whether the device is the controlling terminal of somebody's processes: a login, a shell, an editor."""
        ...


class Permit(NamedTuple):
    """``spec`` is what to open, complete; ``name`` what clients, listings and logs call it, without secrets."""

    spec: KdSpec
    name: str


class Policy:
    """The rules of one server. ``targets`` are the published ones by name, ``allowed`` the patterns of the rest."""

    def __init__(
        self, places: Places, targets: Mapping[str, KdSpec] | None = None, allowed: Sequence[Pattern] = ()
    ) -> None:
        self._places = places
        self._targets = dict(targets or {})
        self._allowed = tuple(allowed)

    def names(self, user: User | None) -> list[str]:
        """The published targets that a user may open, in the order in which they were published."""
        return [name for name in self._targets if _may(user, name)]

    def permit(self, wanted: KdSpec | None, user: User | None, environ: Mapping[str, str]) -> Permit:
        """What is opened for a user (None: the operator) who asks for this; NotAllowed is a sentence.

        ``environ`` fills in what is left open. Where targets are published and nothing is asked for, the one that the
        user may open is meant; where they may open several, they have to name one.
        """
        names = self.names(user)
        if wanted is None and len(names) == 1:
            wanted = TargetSpec(names[0])
        if wanted is None and user is not None and names:
            raise TargetUnnamed(first=names[0], offer=self._offer(user))
        if isinstance(wanted, TargetSpec):
            if wanted.name not in names:
                raise NotAllowed(target=wanted, why=self._offer(user))
            return Permit(fill_in(self._targets[wanted.name], environ), str(wanted))
        if user is None:
            spec = fill_in(wanted, environ)
        elif user.targets is not None:
            raise NotAllowed(target=wanted or "a target of no name", why=self._offer(user))
        else:
            spec = self._judged(_plain(fill_in(wanted, environ)), user)
        return Permit(spec, str(spec))

    def _judged(self, spec: KdSpec, user: User) -> KdSpec:
        """What to open for this string, if a client may write it."""
        if not self._targets and not self._allowed:
            return self._by_default(spec)
        for variant in self._variants(spec):
            if any(pattern.matches(variant) for pattern in self._allowed):
                return variant
        raise NotAllowed(target=spec, why=self._offer(user))

    def _variants(self, spec: KdSpec) -> list[KdSpec]:
        """A serial port under each of its names: as written, as the path of a device, as that device."""
        if not isinstance(spec, SerialSpec) or spec.port is None:
            return [spec]
        device = self._places.device(spec.port)
        return [spec, replace(spec, port=device.path), replace(spec, port=device.real)]

    def _by_default(self, spec: KdSpec) -> KdSpec:
        if isinstance(spec, SerialSpec) and spec.port is not None:
            return self._serial_by_default(spec, spec.port)
        if isinstance(spec, NetSpec) and spec.port not in _NET_PORTS:
            ports = f"{_NET_PORTS[0]} to {_NET_PORTS[-1]}"
            why = f"a client can make it listen on UDP ports {ports} only, for others its operator has to say"
            raise NotAllowed(target=spec, why=f"{why} --allow 'net:port={spec.port}'")
        away = spec.host if isinstance(spec, TcpSerialSpec) else spec.target if isinstance(spec, NetSpec) else None
        if away is not None and not _is_loopback(away):
            why = "a client can make it connect to its own host (127.0.0.1) only, for others its operator has to say"
            raise NotAllowed(target=spec, why=f"{why} --allow '{_allow_example(spec)}' or --target NAME=KDSTRING")
        return spec

    def _serial_by_default(self, spec: SerialSpec, port: str) -> KdSpec:
        device = self._places.device(port)
        if not device.real.startswith(_DEVICES) or device.real.startswith(_NO_DEVICES):
            raise NotAllowed(target=spec, why="a serial port is a device in /dev, or a link to one")
        if self._places.is_terminal(device.real):
            raise NotAllowed(target=spec, why="this is the terminal of somebody who works on the server's host")
        return spec if device.real == device.path else replace(spec, port=device.real)

    def _offer(self, user: User | None) -> str:
        names = self.names(user)
        if not names:
            return "ask its operator what is (--target, --allow)"
        more = f" and {len(names) - _NAMED} more, see kdsrv list" if len(names) > _NAMED else ""
        return f"it offers {', '.join(f'target:name={name}' for name in names[:_NAMED])}{more}"


def parse_target(text: str) -> tuple[str, KdSpec]:
    """``NAME=KDSTRING`` of ``--target``. SetupError or ConnectionStringError, and no other, say what is wrong."""
    name, equals, string = text.partition("=")
    try:
        name = a_published_name(name)
    except UnfitValueError as unfit:
        raise SetupError(why=f"{unfit}; write NAME=KDSTRING") from None
    if not equals:
        raise SetupError(why=f"'{name}' is a name alone; write NAME=KDSTRING, {name}=com:port=/dev/ttyUSB0,baud=115200")
    spec = parse_kd_string(string)
    if isinstance(spec, TargetSpec):
        raise SetupError(why=f"'{name}' is to be published as another name; write the kd-string that stands behind it")
    return name, spec


def _may(user: User | None, name: str) -> bool:
    if user is None or user.targets is None:
        return True
    return any(fnmatchcase(name, pattern) for pattern in user.targets)


def _plain(spec: KdSpec) -> KdSpec:
    """The same with its path made plain, so that what is judged is what is opened."""
    if isinstance(spec, SerialSpec) and spec.port is not None:
        return replace(spec, port=_plain_path(spec.port))
    if isinstance(spec, PipeSpec):
        return replace(spec, path=_plain_path(spec.path))
    return spec


def _plain_path(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/") if path.startswith("/") else path


def _is_loopback(host: str) -> bool:
    """A name but localhost may mean any address, and another one the next time."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _allow_example(spec: KdSpec) -> str:
    return f"com:ipport={spec.port},port={spec.host}" if isinstance(spec, TcpSerialSpec) else f"{spec.transport}:*"
