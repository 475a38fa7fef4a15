"""A TCP relay that cuts the connections through it: all at once when told, or each after some time."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Self

__all__ = ["CuttingProxy"]

_RESET = struct.pack("ii", 1, 0)
_TURN = 0.01
_OF_USE = 2048


@dataclass
class _Pair:
    """Both ends of a connection, and since when it has been of use."""

    client: socket.socket
    server: socket.socket
    relayed: int = 0
    since: float | None = None


class CuttingProxy:
    """Relays from ``port`` of loopback to the port ``to``. Each connection is cut ``life`` seconds after its first
    2 KiB, so that it is of use also on a slow machine (None: only by ``cut``). A cut is a reset in both directions,
    whatever is on its way. While not ``is_up`` nobody gets through. ``connections`` and ``relayed``, in bytes, count.
    """

    def __init__(self, to: int, life: float | None = None) -> None:
        self.to = to
        self.life = life
        self.is_up = True
        self.connections = 0
        self.relayed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._pairs: dict[socket.socket, _Pair] = {}
        self._ending = False
        self._cut_now = False
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join()

    def cut(self) -> None:
        """Cut every connection; returns when that is done."""
        self._cut_now = True
        while self._cut_now:
            time.sleep(_TURN / 2)

    def _run(self) -> None:
        while not self._ending:
            for key, _ in self._selector.select(_TURN):
                line = key.fileobj
                assert isinstance(line, socket.socket)
                if line is self._listener:
                    self._accept()
                elif line in self._pairs:
                    self._relay(line)
            self._cut_some()
        for line in (*self._pairs, self._listener):
            line.close()
        self._selector.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not self.is_up:
            self._reset(client)
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.to), 5)
        except OSError:
            self._reset(client)
            return
        self.connections += 1
        pair = _Pair(client, server)
        for line in (client, server):
            self._pairs[line] = pair
            self._selector.register(line, selectors.EVENT_READ)

    def _relay(self, line: socket.socket) -> None:
        pair = self._pairs[line]
        other = pair.server if line is pair.client else pair.client
        try:
            data = line.recv(65536)
            other.sendall(data)
            self.relayed += len(data)
            pair.relayed += len(data)
            if pair.since is None and pair.relayed >= _OF_USE:
                pair.since = time.monotonic()
        except OSError:
            data = b""
        if not data:
            for each in (line, other):
                self._forget(each)
                each.close()

    def _cut_some(self) -> None:
        now = time.monotonic()
        all_of_them, life = self._cut_now, self.life
        for line, pair in tuple(self._pairs.items()):
            if all_of_them or (life is not None and pair.since is not None and now >= pair.since + life):
                self._forget(line)
                self._reset(line)
        if all_of_them:
            self._cut_now = False

    def _forget(self, line: socket.socket) -> None:
        if self._pairs.pop(line, None) is not None:
            self._selector.unregister(line)

    def _reset(self, line: socket.socket) -> None:
        with suppress(OSError):
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        line.close()
