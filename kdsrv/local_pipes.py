"""Named pipes between programs of one host: unix sockets in a directory that is kdsrv's own, for one user and root.

Windows has them across hosts; here they end at this one. A name is taken by binding its socket under a lock, so that
of two servers one gets it, and a socket whose server is dead is replaced.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from typing_extensions import override
from zope.interface import implementer

from kdsrv.errors import SetupError
from kdsrv.listen_failures import why_not

__all__ = ["MAX_PATH", "LocalPipe", "local_pipe_client", "peer_uid", "pipe_directory", "pipe_name"]

_LOCK: Final = ".lock"
MAX_PATH: Final = 107
"""Bytes that the path of a unix socket has room for."""
_CODE: Final = re.compile(r"%([xXdiu])")
_CREDENTIALS: Final = struct.Struct("iII")


def pipe_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Where the pipes of this user are: where ``KDSRV_PIPE_DIR`` says, else ``/run/kdsrv/pipes`` for root, and for
    others a place in the user's runtime directory."""
    if told := environ.get("KDSRV_PIPE_DIR"):
        return Path(told)
    if uid == 0:
        return Path("/run/kdsrv/pipes")
    runtime = environ.get("XDG_RUNTIME_DIR") or environ.get("RUNTIME_DIRECTORY", "")
    if runtime.startswith("/"):
        return Path(runtime) / "kdsrv/pipes"
    raise SetupError(why="there is no place for pipes, for XDG_RUNTIME_DIR is not set; set KDSRV_PIPE_DIR")


def pipe_name(text: str, pid: int, tid: int) -> str:
    """The name with its integer codes filled in: the first is the process id, the second the thread id (connection
    strings, 2.3). SetupError if it is no name of a file."""
    ids = iter((pid, tid))

    def fill_in(code: re.Match[str]) -> str:
        number = next(ids, None)
        if number is None:
            raise SetupError(why=f"pipe={text}: the name has two integer codes at most, process id and thread id")
        return f"{number:{code[1] if code[1] in 'xX' else 'd'}}"

    name = _CODE.sub(fill_in, text)
    if not name or name.startswith(".") or any(char in "/\\\0" for char in name):
        raise SetupError(why=f"pipe={text}: a pipe's name has no / and no \\ in it, and does not begin with a dot")
    return name


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end of a unix socket, as of when it connected or listened."""
    uid: int = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
    return uid


@implementer(IStreamServerEndpoint)
class LocalPipe:
    """Listens on the pipe of that name; its codes are filled in then. Failures are SetupErrors."""

    def __init__(self, reactor: Any, name: str, directory: Path) -> None:
        pipe_name(name, 0, 0)
        self._reactor = reactor
        self._name = name
        self._directory = directory

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        try:
            name = pipe_name(self._name, os.getpid(), threading.get_native_id())
            return succeed(self._listen(name, protocolFactory))
        except SetupError as error:
            return fail(error)

    def _listen(self, name: str, factory: IProtocolFactory) -> IListeningPort:
        path = _path(self._directory, name)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_others_directory(self._directory)
            with _locked(self._directory):
                _replace_stale(path, name)
                port: IListeningPort = self._reactor.listenUNIX(str(path), _Doorkeeper(factory), mode=0o600)
        except CannotListenError as error:
            raise SetupError(why=f"cannot listen on pipe {name}: {why_not(error)}") from None
        except OSError as error:
            raise SetupError(why=f"cannot listen on pipe {name} in {self._directory}: {error.strerror}") from None
        return port


def local_pipe_client(reactor: Any, host: str, name: str, directory: Path, own_host: str) -> IStreamClientEndpoint:
    """The endpoint that dials pipe ``name`` of ``host``, which has to be this one; SetupError if not."""
    short = own_host.partition(".")[0]
    here = {".", "localhost", "127.0.0.1", "::1", own_host.lower(), short.lower()}
    if host.lower() not in here:
        raise SetupError(
            why=f"pipes do not cross hosts here, and '{host}' is not this one ('{own_host}'); write tcp: or ssl:"
        )
    if _CODE.search(name):
        raise SetupError(why=f"pipe={name}: write the name that the server shows, with the numbers in it")
    path = _path(directory, pipe_name(name, 0, 0))
    try:
        _refuse_others_directory(directory)
        there = path.is_socket()
    except OSError:
        there = False
    if not there:
        raise SetupError(why=f"there is no pipe {name} in {directory}; is the server running, as the same user?")
    endpoint: IStreamClientEndpoint = UNIXClientEndpoint(reactor, str(path))
    return endpoint


def _path(directory: Path, name: str) -> Path:
    path = directory / name
    if len(os.fsencode(path)) > MAX_PATH:
        raise SetupError(why=f"the name of a pipe is too long: {path} has more than {MAX_PATH} bytes")
    return path


def _refuse_others_directory(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SetupError(why=f"{directory} is open to other users, and pipes are not: chmod 700 it")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process at a time; held only for the few system calls in which a name is taken."""
    handle = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace_stale(path: Path, name: str) -> None:
    """Remove a socket that nobody listens on; SetupError if somebody does, or if it is something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SetupError(why=f"{path} is there and is not a pipe")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(str(path))
    if answer != errno.ECONNREFUSED:
        raise SetupError(why=f"pipe {name} is in use; pipe names are unique, and %x in one stands for the process id")
    path.unlink()


class _Doorkeeper(Factory):
    """Lets in our own user and root; what it lets in belongs to the factory inside and no longer passes here."""

    noisy = False
    _log = Logger()

    def __init__(self, inner: IProtocolFactory) -> None:
        self._inner = inner

    @override
    def doStart(self) -> None:
        self._inner.doStart()

    @override
    def doStop(self) -> None:
        self._inner.doStop()

    @override
    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Knock(self, addr)

    def admit(self, transport: Any, address: Any) -> None:
        uid = peer_uid(transport.getHandle())
        if uid not in (os.geteuid(), 0):
            self._log.warn("uid {uid} tried to use a pipe that is not theirs", uid=uid)
            transport.abortConnection()
            return
        protocol: IProtocol | None = self._inner.buildProtocol(address)
        if protocol is None:
            transport.abortConnection()
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)


class _Knock(Protocol):
    """A connection before it is known whose it is."""

    def __init__(self, keeper: _Doorkeeper, address: IAddress | None) -> None:
        self._keeper = keeper
        self._address = address

    @override
    def connectionMade(self) -> None:
        self._keeper.admit(self.transport, self._address)
