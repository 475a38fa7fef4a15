"""A bad network between a simulated target and its host: datagrams lost, damaged, doubled, late and played back.

`FaultyNet` has the face of the `NetTarget` it wraps. Chance comes from the `random.Random` given in, so a run can be
repeated; tests that leave nothing to chance lose exactly what they name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from random import Random
from typing import Final, NamedTuple, Protocol

from kdsrv.kdnet.control import Address

__all__ = ["Carried", "FaultyNet", "NetEnd", "NetFaultRates"]

_LATE: Final = 0.02
_MAX_RECORDED: Final = 1000


class NetEnd(Protocol):
    """What a target on KDNET and a network to it have in common. Times are seconds."""

    @property
    def deadline(self) -> float | None: ...

    def receive(self, data: bytes, sender: Address, now: float) -> None: ...

    def expire(self, now: float) -> None: ...

    def take_output(self) -> tuple[bytes, Address] | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NetFaultRates:
    """Chances from 0 to 1 for each datagram in either direction. What is reordered comes 20 ms late."""

    loss: float = 0.0
    damage: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(f"{field.name} is a chance from 0 to 1, not {getattr(self, field.name)}")


class Carried(NamedTuple):
    """A datagram on its way; ``address`` is the host's, whose sender or receiver it is."""

    to_target: bool
    data: bytes
    address: Address


class FaultyNet:
    """A network to ``target``.

    ``rates`` may be replaced while it runs, and so may ``loses``, which is asked of each datagram whether it is lost.
    ``recorded`` holds the latest 1000 that were put on the network, whatever became of them.
    """

    def __init__(self, target: NetEnd, rates: NetFaultRates, random: Random) -> None:
        self.target = target
        self.rates = rates
        self.loses: Callable[[Carried], bool] = _loses_nothing
        self.recorded: deque[Carried] = deque(maxlen=_MAX_RECORDED)
        self._random = random
        self._late: deque[tuple[float, Carried]] = deque()
        self._output: deque[tuple[bytes, Address]] = deque()
        self._silent_until: float | None = None
        self._drop_input = self._drop_output = 0

    @property
    def deadline(self) -> float | None:
        times = (self.target.deadline, self._late[0][0] if self._late else None)
        return min((time for time in times if time is not None), default=None)

    def silence(self, until: float) -> None:
        """Nothing gets through in either direction before ``until``; the target itself goes on."""
        self._silent_until = until

    def drop_next(self, *, to_target: int = 0, from_target: int = 0) -> None:
        """Lose exactly so many of the next datagrams."""
        self._drop_input += to_target
        self._drop_output += from_target

    def replay(self, carried: Carried, now: float) -> None:
        """A datagram comes once more, just as it was."""
        self._arrive(carried, now)
        self._move(now)

    def receive(self, data: bytes, sender: Address, now: float) -> None:
        self._carry(Carried(True, data, sender), now)
        self._move(now)

    def expire(self, now: float) -> None:
        while self._late and self._late[0][0] <= now:
            self._arrive(self._late.popleft()[1], now)
        deadline = self.target.deadline
        if deadline is not None and now >= deadline:
            self.target.expire(now)
        self._move(now)

    def take_output(self) -> tuple[bytes, Address] | None:
        return self._output.popleft() if self._output else None

    def _move(self, now: float) -> None:
        """Put on the network what the target says."""
        while (said := self.target.take_output()) is not None:
            self._carry(Carried(False, *said), now)

    def _carry(self, carried: Carried, now: float) -> None:
        self.recorded.append(carried)
        if self._is_lost(carried, now):
            return
        rates, chance = self.rates, self._random.random
        if rates.damage and chance() < rates.damage:
            data = carried.data
            at = self._random.randrange(len(data))
            damaged = data[:at] + bytes((data[at] ^ self._random.randrange(1, 256),)) + data[at + 1 :]
            carried = carried._replace(data=damaged)
        if rates.duplicate and chance() < rates.duplicate:
            self._arrive(carried, now)
        if rates.reorder and chance() < rates.reorder:
            self._late.append((now + _LATE, carried))
        else:
            self._arrive(carried, now)

    def _is_lost(self, carried: Carried, now: float) -> bool:
        if self.loses(carried):
            return True
        if carried.to_target and self._drop_input:
            self._drop_input -= 1
            return True
        if not carried.to_target and self._drop_output:
            self._drop_output -= 1
            return True
        if self._silent_until is not None and now >= self._silent_until:
            self._silent_until = None
        return self._silent_until is not None or self._random.random() < self.rates.loss

    def _arrive(self, carried: Carried, now: float) -> None:
        if carried.to_target:
            self.target.receive(carried.data, carried.address, now)
        else:
            self._output.append((carried.data, carried.address))


def _loses_nothing(_: Carried) -> bool:
    return False
