"""Simulated targets kept in memory, and transports to them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kdsrv.alarm import Alarm
from kdsrv.connection_strings.kd import SimSpec
from kdsrv.errors import SetupError, TargetError
from kdsrv.sim.faults import FaultRates, FaultyLine, Line
from kdsrv.sim.options import SimOptions
from kdsrv.sim.target import SimulatedTarget
from kdsrv.transports.transport import Receiver, Transport

__all__ = ["LiveLine", "LiveTarget", "SimulatedTargets", "SimulatedTransport"]

_BITS_PER_BYTE: Final = 10
_MOST_ALONE: Final = 64
"""Targets that live on while nobody has them open. Names are the clients' choice, and each target takes a megabyte."""


class LiveLine:
    """A machine at the end of ``line``, under a clock: its timers ring whether somebody is connected or not.

    One listener at a time gets what it says; what it says to nobody is lost, as on a serial line.
    """

    def __init__(self, clock: IReactorTime, line: Line) -> None:
        self.line = line
        self._clock = clock
        self._alarm = Alarm(clock, self._expire)
        self._listener: Callable[[bytes], None] | None = None
        self.flush()

    @property
    def is_heard(self) -> bool:
        return self._listener is not None

    def listen(self, listener: Callable[[bytes], None] | None) -> None:
        """Who is told from now on what the machine says; None: nobody."""
        self._listener = listener

    def feed(self, data: bytes) -> None:
        """Bytes for the machine."""
        self.line.receive(data, self._clock.seconds())
        self.flush()

    def flush(self) -> None:
        """Pass on what the machine has to say; to be called after its own methods (print, stop ...) were."""
        output = self.line.take_output()
        self._alarm.set(self.line.deadline)
        if output and self._listener is not None:
            self._listener(output)

    def stop(self) -> None:
        """The end of the machine; no timer is left in the clock."""
        self._alarm.stop()
        self._listener = None

    def _expire(self) -> None:
        self.line.expire(self._clock.seconds())
        self.flush()


class LiveTarget(LiveLine):
    """A simulated target under a clock."""

    def __init__(self, clock: IReactorTime, target: SimulatedTarget, rates: FaultRates, seed: int) -> None:
        self.target = target
        super().__init__(clock, _line(target, rates, seed))

    def set_faults(self, rates: FaultRates, seed: int) -> None:
        """A new line to the same target; what was under way on the old one is lost."""
        self.line = _line(self.target, rates, seed)


def _line(target: SimulatedTarget, rates: FaultRates, seed: int) -> Line:
    return target if rates == FaultRates() else FaultyLine(target, rates, Random(seed))


class SimulatedTransport:
    """A `Transport` to a live target, which hears what is written at once; its answer comes from the reactor."""

    def __init__(self, clock: IReactorTime, live: LiveTarget, description: str, byte_time: float) -> None:
        self.description = description
        self.byte_time = byte_time
        self._clock = clock
        self._live: LiveTarget | None = live
        self._receiver: Receiver | None = None
        self._arrived: list[bytes] = []
        self._delivery: IDelayedCall | None = None
        live.listen(self._arrive)

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver. See `Transport`."""
        self._receiver = receiver
        self._schedule()

    def write(self, data: bytes) -> None:
        """See `Transport`."""
        if self._live is not None and data:
            self._live.feed(data)

    def close(self) -> None:
        """Leave the target as it is. See `Transport`."""
        if self._live is not None:
            self._live.listen(None)
        self._live = self._receiver = None
        self._arrived.clear()
        if self._delivery is not None:
            self._delivery.cancel()
            self._delivery = None

    def _arrive(self, data: bytes) -> None:
        if self._receiver is not None:
            self._arrived.append(data)
            self._schedule()

    def _schedule(self) -> None:
        if self._arrived and self._delivery is None:
            self._delivery = self._clock.callLater(0, self._deliver)

    def _deliver(self) -> None:
        self._delivery = None
        data = b"".join(self._arrived)
        self._arrived.clear()
        if self._receiver is not None:
            self._receiver.bytes_received(data)


class SimulatedTargets:
    """The simulated targets of one process by name.

    A target is made when it is first opened and lives on when its transport is closed, so the next one to open it finds
    it as it was. Of those that nobody has open the oldest go when there are more than 64.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._live: dict[str, LiveTarget] = {}

    def __getitem__(self, name: str) -> LiveTarget:
        """The target of this name. Raises KeyError if it was never opened."""
        return self._live[name]

    def open(self, spec: SimSpec) -> Deferred[Transport]:
        """A transport to the target ``spec`` names. Its faults are those of ``spec`` from now on; state, processors and
        cap count only when the target is made. Fails with `TargetError` when somebody has it open.
        """
        try:
            rates = FaultRates(loss=spec.loss, damage=spec.damage, duplicate=spec.duplicate, baud=spec.baud)
            live = self._live.get(spec.name)
            if live is None:
                options = SimOptions(state=spec.state, cpus=spec.cpus, read_cap=spec.read_cap)
                target = SimulatedTarget(options, self._clock.seconds())
                self._make_room()
                live = self._live[spec.name] = LiveTarget(self._clock, target, rates, spec.seed)
            elif live.is_heard:
                return fail(TargetError(target=f"simulated target {spec.name}", why="it is in use already"))
            else:
                live.set_faults(rates, spec.seed)
        except ValueError as error:
            return fail(SetupError(why=str(error)))
        byte_time = _BITS_PER_BYTE / spec.baud if spec.baud else 0.0
        return succeed(SimulatedTransport(self._clock, live, f"simulated target {spec.name}", byte_time))

    def _make_room(self) -> None:
        alone = [name for name, live in self._live.items() if not live.is_heard]
        for name in alone[: max(0, len(alone) - _MOST_ALONE + 1)]:
            self._live.pop(name).stop()

    def stop(self) -> None:
        """End all targets, leaving no timer in the clock."""
        for live in self._live.values():
            live.stop()
        self._live.clear()
