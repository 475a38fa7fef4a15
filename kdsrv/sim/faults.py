"""A bad line between a debugger and a simulated target: frames lost, damaged and doubled, silence, a slow baud rate.

`FaultyLine` has the face of the target it wraps. Faults strike whole frames, as far as a piece of input holds them
whole; chance comes from the `random.Random` given in, so a run can be repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from kdsrv.kd.packets import CONTROL_LEADER, DATA_LEADER, HEADER

__all__ = ["FaultRates", "FaultyLine", "Line"]

_BITS_PER_BYTE: Final = 10
_BURST: Final = 0.002


class Line(Protocol):
    """What a target and a line to it have in common. Times are seconds."""

    @property
    def deadline(self) -> float | None: ...

    def receive(self, data: bytes, now: float) -> None: ...

    def expire(self, now: float) -> None: ...

    def take_output(self) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """``loss``, ``damage`` and ``duplicate`` are chances from 0 to 1 for each frame in either direction.

    ``baud`` paces both directions, 10 bits a byte; 0 is as fast as can be.
    """

    loss: float = 0.0
    damage: float = 0.0
    duplicate: float = 0.0
    baud: int = 0

    def __post_init__(self) -> None:
        for name in ("loss", "damage", "duplicate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a chance from 0 to 1, not {getattr(self, name)}")
        if self.baud < 0:
            raise ValueError(f"{self.baud} is no baud rate")


class _SlowWire:
    """Bytes of one direction that take their time. They come out in bursts of about 2 ms, to save wake-ups."""

    def __init__(self, baud: int) -> None:
        self._byte_time = _BITS_PER_BYTE / baud if baud else 0.0
        self._burst = max(1, round(_BURST / self._byte_time)) if baud else 0
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._free_at = 0.0

    @property
    def deadline(self) -> float | None:
        return self._pieces[0][0] if self._pieces else None

    def put(self, data: bytes, now: float) -> None:
        step = self._burst or max(1, len(data))
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            self._free_at = max(self._free_at, now) + len(piece) * self._byte_time
            self._pieces.append((self._free_at, piece))

    def due(self, now: float) -> bytes:
        pieces = []
        while self._pieces and self._pieces[0][0] <= now:
            pieces.append(self._pieces.popleft()[1])
        return b"".join(pieces)


class FaultyLine:
    """A line to ``target``. `rates` may be replaced while it runs, but for the baud rate."""

    def __init__(self, target: Line, rates: FaultRates, random: Random) -> None:
        self.target = target
        self.rates = rates
        self._random = random
        self._to_target = _SlowWire(rates.baud)
        self._from_target = _SlowWire(rates.baud)
        self._output: list[bytes] = []
        self._silent_until: float | None = None
        self._drop_input = self._drop_output = 0

    @property
    def deadline(self) -> float | None:
        times = (self.target.deadline, self._to_target.deadline, self._from_target.deadline)
        return min((time for time in times if time is not None), default=None)

    def silence(self, until: float) -> None:
        """Nothing gets through in either direction before ``until``; the target itself goes on."""
        self._silent_until = until

    def drop_next(self, *, to_target: int = 0, from_target: int = 0) -> None:
        """Lose exactly so many of the next frames, for tests that leave nothing to chance."""
        self._drop_input += to_target
        self._drop_output += from_target

    def receive(self, data: bytes, now: float) -> None:
        kept = []
        for frame in _frames(data):
            if self._drop_input:
                self._drop_input -= 1
            elif not self._is_silent(now):
                kept.append(self._strike(frame))
        self._to_target.put(b"".join(kept), now)
        self._move(now)

    def expire(self, now: float) -> None:
        deadline = self.target.deadline
        if deadline is not None and now >= deadline:
            self.target.expire(now)
        self._move(now)

    def take_output(self) -> bytes:
        output = b"".join(self._output)
        self._output.clear()
        return output

    def _move(self, now: float) -> None:
        """Let arrive what is due, and put on the wire what the target says to it."""
        data = self._to_target.due(now)
        if data:
            self.target.receive(data, now)
        said = self.target.take_output()
        for frame in _frames(said):
            if self._drop_output:
                self._drop_output -= 1
            elif not self._is_silent(now):
                self._from_target.put(self._strike(frame), now)
        arrived = self._from_target.due(now)
        if arrived:
            self._output.append(arrived)

    def _is_silent(self, now: float) -> bool:
        if self._silent_until is not None and now >= self._silent_until:
            self._silent_until = None
        return self._silent_until is not None

    def _strike(self, frame: bytes) -> bytes:
        """The frame as it comes out at the other end."""
        rates, chance = self.rates, self._random.random
        if rates.loss and chance() < rates.loss:
            return b""
        if rates.damage and chance() < rates.damage:
            at = self._random.randrange(len(frame))
            frame = frame[:at] + bytes((frame[at] ^ self._random.randrange(1, 256),)) + frame[at + 1 :]
        if rates.duplicate and chance() < rates.duplicate:
            frame += frame
        return frame


def _frames(data: bytes) -> Iterator[bytes]:
    """Cut ``data`` at the frames in it; what is no whole frame comes as it lies between them."""
    at = 0
    while at < len(data):
        end = _frame_end(data, at)
        if end is None:
            starts = [place for leader in (DATA_LEADER, CONTROL_LEADER) if (place := data.find(leader, at + 1)) > 0]
            end = min(starts, default=len(data))
        yield data[at:end]
        at = end


def _frame_end(data: bytes, at: int) -> int | None:
    """Where the frame that starts at ``at`` ends, None if none starts there or it is not whole."""
    leader = data[at : at + 4]
    if leader not in (DATA_LEADER, CONTROL_LEADER) or len(data) - at < HEADER.size:
        return None
    end = at + HEADER.size
    if leader == DATA_LEADER:
        end += HEADER.unpack_from(data, at)[2] + 1
    return end if end <= len(data) else None
