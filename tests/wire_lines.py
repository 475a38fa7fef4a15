"""A session over network connections that break: a client and a server with a ledger each, and pipes between them.

A ``Line`` is one network connection, whose two directions hold the bytes that are under way. When the client has given
a line up, the server may still hear what was under way on it and say more into it, until the client comes back by
another.

Beside the line runs a twin: two ends on one line that never breaks, which are told each event when it is said or has
come on the broken lines. So at any time the books of the two pairs have to be the same.
"""

from __future__ import annotations

from collections import deque

from wire_talk import HALTED, pair

from kdsrv.errors import PeerError
from kdsrv.kd.packets import Packet
from kdsrv.wire.connection import Connection, Event, Sendable, State
from kdsrv.wire.frames import BreakIn, Resync
from kdsrv.wire.ledger import Ledger
from kdsrv.wire.messages import Attach, Attached, ClientHello, Dropped, Resume, Role, ServerHello
from kdsrv.wire.window import Window

__all__ = ["TOKEN", "BrokenSession", "Line"]

TOKEN = "0123456789abcdef" * 2

_NUMBERED = (Packet, BreakIn, Resync, Dropped)


class Line:
    """One network connection, from its first byte."""

    def __init__(self, client: Ledger) -> None:
        self.ends = {role: Connection(role, ledger=client if role is Role.CLIENT else None) for role in Role}
        self.under_way = {role: bytearray() for role in Role}
        """By who is to receive it."""
        self.said(Role.CLIENT, self.ends[Role.CLIENT].send(ClientHello("a client")))

    def said(self, role: Role, data: bytes) -> None:
        """These bytes go out from one end."""
        self.under_way[role.other] += data

    def is_attached(self, role: Role) -> bool:
        return self.ends[role].state is State.ATTACHED


class BrokenSession:
    """One session. ``said`` and ``seen`` are its numbered events, by who said them and by who has seen them."""

    def __init__(self, window: Window) -> None:
        self.ledgers = {role: Ledger() for role in Role}
        self.said: dict[Role, list[Sendable]] = {role: [] for role in Role}
        self.seen: dict[Role, list[Event]] = {role: [] for role in Role}
        self.lines_broken = 0
        self._window = window
        self._is_new = True
        self._twin = dict(zip((Role.CLIENT, Role.SERVER), pair(window=window), strict=True))
        self._twin_under_way: dict[Role, deque[bytes]] = {role: deque() for role in Role}
        self.client_line = self.server_line = Line(self.ledgers[Role.CLIENT])
        self.deliver_all()

    def line(self, role: Role) -> Line:
        """The network connection that this side takes for the session's."""
        return self.client_line if role is Role.CLIENT else self.server_line

    def can_say(self, role: Role) -> bool:
        return self.line(role).is_attached(role) and not self.ledgers[role].is_full

    def say(self, role: Role, event: Sendable) -> None:
        """One side says something."""
        line = self.line(role)
        line.said(role, line.ends[role].send(event))
        if isinstance(event, _NUMBERED):
            self.said[role].append(event)
            self._twin_under_way[role.other].append(self._twin[role].send(event))
        self.compare()

    def deliver(self, role: Role, size: int) -> None:
        """So many bytes come to one side, on the line that it listens to."""
        line = self.line(role)
        self._deliver(line, role, size)
        if role is Role.SERVER and line is not self.client_line:
            # the server listens to the new line as well
            self._deliver(self.client_line, role, size)

    def deliver_all(self) -> None:
        """All that is under way comes, and what that makes the ends say."""
        while any(self.line(role).under_way[role] for role in Role) or self.client_line.under_way[Role.SERVER]:
            for role in Role:
                self.deliver(role, 1 << 20)

    def cut(self) -> None:
        """The client gives its line up, and comes back by another. The server does not know yet."""
        self.lines_broken += 1
        self.client_line = Line(self.ledgers[Role.CLIENT])

    def compare(self) -> None:
        """The window accounts are those of two ends whose line never broke, and what is kept is what was not seen."""
        for role in Role:
            book, twin = self.ledgers[role].outstanding, self._twin[role].outstanding
            assert (len(book), book.bytes, book.echoes_missing) == (len(twin), twin.bytes, twin.echoes_missing)
            assert self.ledgers[role].sent == len(self.said[role])
            assert self.ledgers[role].received == len(self.seen[role])

    def _deliver(self, line: Line, role: Role, size: int) -> None:
        data = bytes(line.under_way[role][:size])
        del line.under_way[role][:size]
        if not data:
            return
        end = line.ends[role]
        for event in end.receive_data(data):
            self._on_event(line, role, event)
        line.said(role, end.confirmation())
        self.compare()

    def _on_event(self, line: Line, role: Role, event: Event) -> None:
        end = line.ends[role]
        if isinstance(event, ClientHello):
            line.said(role, end.send(ServerHello(1, "a server", instance="0" * 16)))
        elif isinstance(event, ServerHello):
            resume = None if self._is_new else Resume(TOKEN, self.ledgers[role].received)
            line.said(role, end.send(Attach("sim:", "kim@desk", resumable=True, resume=resume)))
        elif isinstance(event, Attach):
            self._attach(line, event.resume)
        elif isinstance(event, Attached):
            self._is_new = False
            if event.resumed:
                line.said(role, end.resume(event.received))
        elif isinstance(event, _NUMBERED):
            self.seen[role].append(event)
            assert self._twin[role].receive_data(self._twin_under_way[role].popleft()) == [event]

    def _attach(self, line: Line, resume: Resume | None) -> None:
        ledger, end = self.ledgers[Role.SERVER], line.ends[Role.SERVER]
        if resume is None and (self.seen[Role.SERVER] or self.said[Role.SERVER]):
            raise PeerError(why="it began anew")
        end.ledger = ledger
        received, resumed = ledger.received, resume is not None
        attached = Attached("sim:", "x", HALTED, self._window, TOKEN, 60.0, received=received, resumed=resumed)
        line.said(Role.SERVER, end.send(attached))
        if resume is not None:
            line.said(Role.SERVER, end.resume(resume.received))
        self.server_line = line
