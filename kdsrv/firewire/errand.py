"""A script of transactions at work on one node, begun again whenever the bus disturbs it.

The owner does the ``operation`` on the bus, one at a time, and says how it ended by `completed` or `failed`; where
there is none it calls `expire` at ``deadline``. Each of these gives the events there are. What a bus does to scripts:

    a bus reset          the operation under way still ends, one way or the other; then the script begins again
    a passing failure    it begins again after a while, 2 ms at first, then twice as long up to 250 ms; and
                         when the node has been silent for ``patience`` seconds that is told, and its answer too
    any other failure    it ends, saying why

So a script has to keep what must outlast it in its errand, and may be left at any ``yield``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, NamedTuple, TypeAlias

from kdsrv.firewire.descriptor import Block, NoBlock
from kdsrv.firewire.transactions import TRANSIENT, Operation, Script, TransactionFailed

__all__ = ["Answers", "Came", "Disturbed", "Ended", "Errand", "Event", "Found", "Silent", "Taken"]

_FIRST_WAIT: Final = 0.002
_LONGEST_WAIT: Final = 0.25
PATIENCE: Final = 3.0
"""Seconds: Linux itself tries a node that does not answer again after 3 s."""


class Found(NamedTuple):
    """The node has a block, read just now."""

    block: Block


class Came(NamedTuple):
    """A KD packet of the target, header and body, which has left its mailbox."""

    packet: bytes


class Taken(NamedTuple):
    """The target has taken this packet of ours."""

    packet: bytes


class Disturbed(NamedTuple):
    """Nobody can tell what the target has got: both ends have to begin again. ``why`` is half a sentence."""

    why: str


class Silent(NamedTuple):
    """The node has not answered for a while; it is tried further. ``why`` is half a sentence."""

    why: str


class Answers(NamedTuple):
    """The node that was silent answers again."""


class Ended(NamedTuple):
    """The script is at its end: ``why``, half a sentence, if something came in between, and it never will get there."""

    why: str = ""


Event: TypeAlias = Found | Came | Taken | Disturbed | Silent | Answers | Ended


class Errand(ABC):
    """Begins with `expire`, which it wants to be called at once. ``patience`` is in seconds."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.operation: Operation | None = None
        self.deadline: float | None = 0.0
        self._patience = patience
        self._now = 0.0
        self._block: Block | None = None
        """What was found at the node; a bus reset makes it a thing of the past."""
        self._running: Script[None] | None = None
        self._events: list[Event] = []
        self._failures = 0
        self._silent_since: float | None = None
        self._is_silent = False
        self._begin_again = False

    @abstractmethod
    def _script(self) -> Script[None]:
        """What there is to do; ``_now`` is the time, ``_events`` takes what there is to tell."""

    def completed(self, data: bytes, now: float) -> list[Event]:
        """The operation succeeded; ``data`` is what was read, as many bytes as were asked for."""
        return self._go_on(data, now)

    def failed(self, code: int, now: float) -> list[Event]:
        """The operation ended with this response code."""
        return self._go_on(TransactionFailed(code), now)

    def expire(self, now: float) -> list[Event]:
        """``deadline`` has come."""
        if self.operation is None and self.deadline is not None:
            return self._go_on(b"", now)
        return []

    def bus_was_reset(self, now: float) -> list[Event]:
        """Whatever was known about the node has to be read again."""
        if self.operation is None and self.deadline is None:
            return []
        self._begin_again = True
        return [] if self.operation is not None else self._go_on(b"", now)

    def _go_on(self, outcome: bytes | TransactionFailed, now: float) -> list[Event]:
        self._now = now
        self.operation = self.deadline = None
        try:
            self._advance(outcome)
        except TransactionFailed as failure:
            self._running = None
            if failure.code in TRANSIENT:
                self._wait(failure)
            else:
                self._end(f"it answers with an error: {failure}")
        except (StopIteration, NoBlock) as end:
            self._end(str(end) if isinstance(end, NoBlock) else "")
        events, self._events = self._events, []
        return events

    def _advance(self, outcome: bytes | TransactionFailed) -> None:
        if self._running is None:
            step = self._anew()
        elif isinstance(outcome, TransactionFailed):
            step = self._running.throw(outcome)
        else:
            step = self._running.send(outcome)
        if self._begin_again and self._running is not None:
            self._running.close()
            step = self._anew()
        self.operation = step
        if step is None and self.deadline is None:
            self.deadline = self._now

    def _anew(self) -> Operation | None:
        if self._begin_again:
            self._begin_again = False
            self._block = None
        self.deadline = None
        self._running = self._script()
        return next(self._running)

    def _heard(self) -> None:
        """For scripts: the target itself has answered, and not only the chip that it has on the bus."""
        self._failures = 0
        self._silent_since = None
        if self._is_silent:
            self._is_silent = False
            self._events.append(Answers())

    def _wait(self, failure: TransactionFailed) -> None:
        if self._silent_since is None:
            self._silent_since = self._now
        silence = self._now - self._silent_since
        if silence >= self._patience and not self._is_silent:
            self._is_silent = self._begin_again = True
            self._events.append(Silent(f"it has not answered for {silence:.0f} s ({failure})"))
        self.deadline = self._now + min(_FIRST_WAIT * (1 << min(self._failures, 10)), _LONGEST_WAIT)
        self._failures += 1

    def _end(self, why: str) -> None:
        self._running = self.operation = self.deadline = None
        self._events.append(Ended(why))
