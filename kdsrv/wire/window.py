"""How much a client may have asked without having been answered (docs/wire-protocol.md, "Window").

Both sides keep the same account of the requests on their connection. A STATE_MANIPULATE packet is outstanding until its
reply comes; replies come in the order of the requests. Requests that are only acknowledged (Continue and others) do not
count. A resync ends all that was outstanding before it, and replies that are still under way until the server's echo
count for nothing. As the server sees every reply earlier and every request later than the client, its account never
shows more than the client's: a client that keeps to its own account is never refused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from kdsrv.kd.api import NO_REPLY

__all__ = ["DEFAULT_WINDOW", "Outstanding", "Window"]

_UNCOUNTED: Final = frozenset(api.to_bytes(4, "little") for api in NO_REPLY)


@dataclass(frozen=True, slots=True)
class Window:
    """The most requests and bytes of requests (payloads) that may be outstanding."""

    packets: int = 512
    bytes: int = 262144


DEFAULT_WINDOW: Final = Window()


class Outstanding:
    """The account of one connection. Payloads are those of STATE_MANIPULATE packets."""

    __slots__ = ("_sizes", "bytes", "echoes_missing", "window")

    def __init__(self) -> None:
        self.window = DEFAULT_WINDOW
        self.bytes = 0
        self.echoes_missing = 0
        self._sizes: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._sizes)

    def has_room(self, payload: bytes) -> bool:
        """Whether this request may be sent now. One request alone always may, however small the window is."""
        if not self._sizes or payload[:4] in _UNCOUNTED:
            return True
        return len(self._sizes) < self.window.packets and self.bytes + len(payload) <= self.window.bytes

    def asked(self, payload: bytes) -> None:
        """A request went from client to server."""
        if payload[:4] not in _UNCOUNTED:
            self._sizes.append(len(payload))
            self.bytes += len(payload)

    def answered(self) -> None:
        """A reply went from server to client."""
        if self._sizes and not self.echoes_missing:
            self.bytes -= self._sizes.popleft()

    def resync(self) -> None:
        """A resync went from client to server."""
        self.echoes_missing += 1
        self.forget()

    def echo(self) -> None:
        """The echo went from server to client."""
        self.echoes_missing -= 1

    def forget(self) -> None:
        """What is outstanding will not be answered any more."""
        self._sizes.clear()
        self.bytes = 0
