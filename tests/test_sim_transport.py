"""Simulated targets in memory under a clock, and the transports to them."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kdsrv.connection_strings.kd import SimSpec
from kdsrv.errors import SetupError, TargetError
from kdsrv.kd.host_link import HostLink
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.transports.simulated import SimulatedTargets
from kdsrv.transports.transport import Transport


class Host:
    """A receiver with a host link behind it."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self.link = HostLink()
        self.packets: list[Packet] = []
        self.lost: list[TargetError] = []
        self._transport = transport
        self._clock = clock
        self._busy = False

    def bytes_received(self, data: bytes) -> int:
        assert not self._busy
        assert data
        events = self.link.receive(data, self._clock.seconds())
        self.packets += [event for event in events if isinstance(event, Packet)]
        self.flush()
        return self.link.missing

    def flush(self) -> None:
        """Write what the link wants; the transport must not answer from inside."""
        self._busy = True
        self._transport.write(self.link.take_output())
        self._busy = False

    def send(self, request: Manipulate) -> None:
        self.link.send(PacketType.STATE_MANIPULATE, request.encode(), self._clock.seconds())
        self.flush()

    def transport_interrupted(self, why: str) -> None:
        raise AssertionError(why)

    def transport_resumed(self) -> None:
        raise AssertionError

    def transport_lost(self, reason: TargetError) -> None:
        self.lost.append(reason)


class SimulatedTargetsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.targets = SimulatedTargets(self.clock)
        self.addCleanup(self.check_that_nothing_is_left)

    def check_that_nothing_is_left(self) -> None:
        self.targets.stop()
        assert not self.clock.getDelayedCalls()

    def open(self, spec: SimSpec | None = None) -> tuple[Transport, Host]:
        transport = self.successResultOf(self.targets.open(spec or SimSpec()))
        host = Host(transport, self.clock)
        transport.start(host)
        return transport, host

    def advance(self, seconds: float) -> None:
        for _ in range(20):
            self.clock.advance(seconds / 20)

    def test_a_target_answers_through_a_transport(self) -> None:
        transport, host = self.open()
        self.advance(1.0)
        assert [packet.type for packet in host.packets] == [PacketType.STATE_CHANGE64]
        host.send(Manipulate.get_version())
        assert len(host.packets) == 1
        self.clock.advance(0)
        assert Manipulate.decode(host.packets[1].payload).version.build_number == 17134
        assert (transport.description, transport.byte_time) == ("simulated target sim", 0.0)
        transport.close()
        assert not host.lost

    def test_a_target_lives_on_when_its_transport_is_closed(self) -> None:
        transport, host = self.open()
        self.advance(1.0)
        place = self.targets["sim"].target.machine.kernel.worker_routines["WorkerCounter"]
        host.send(Manipulate.write_virtual(place, b"note"))
        self.clock.advance(0)
        transport.close()
        transport.close()
        transport.write(b"unheard")
        transport, host = self.open()
        host.link.resync(self.clock.seconds())
        host.flush()
        self.clock.advance(0)
        host.send(Manipulate.read_virtual(place, 4))
        self.clock.advance(0)
        assert Manipulate.decode(host.packets[-1].payload).data == b"note"

    def test_nothing_arrives_after_closing(self) -> None:
        transport, host = self.open()
        self.advance(1.0)
        host.send(Manipulate.get_version())
        transport.close()
        self.clock.advance(0)
        assert len(host.packets) == 1

    def test_what_a_target_does_by_itself_is_heard(self) -> None:
        _, host = self.open(SimSpec(state="running"))
        live = self.targets["sim"]
        live.target.stop(self.clock.seconds())
        live.flush()
        self.clock.advance(0)
        assert StateChange.decode(host.packets[0].payload)["exception_code"] == 0x80000003

    def test_one_holder_at_a_time(self) -> None:
        transport, _ = self.open()
        failure = self.failureResultOf(self.targets.open(SimSpec()), TargetError)
        assert str(failure.value) == "simulated target sim: it is in use already"
        self.open(SimSpec(name="other"))
        transport.close()
        self.open()

    def test_names_without_end_do_not_fill_the_memory(self) -> None:
        """Each name that a client makes up is a machine; those that nobody has open go, oldest first."""
        _, held = self.open(SimSpec(name="held"))
        self.advance(1.0)
        for number in range(200):
            transport, _ = self.open(SimSpec(name=f"made-up-{number}"))
            transport.close()
        assert self.targets["made-up-199"].target
        assert self.targets["made-up-136"].target
        for gone in ("made-up-0", "made-up-135"):
            with pytest.raises(KeyError):
                self.targets[gone]
        held.send(Manipulate.get_version())
        self.clock.advance(0)
        assert held.packets[-1].type == PacketType.STATE_MANIPULATE

    def test_a_spec_that_cannot_be_is_refused(self) -> None:
        self.failureResultOf(self.targets.open(SimSpec(cpus=0)), SetupError)
        with pytest.raises(KeyError):
            self.targets["sim"]

    def test_specs_reach_the_target_and_its_line(self) -> None:
        transport, host = self.open(SimSpec(state="running", cpus=4, read_cap=100, baud=115200, loss=1.0))
        assert transport.byte_time == 10 / 115200
        target = self.targets["sim"].target
        assert (target.options.cpus, target.options.read_cap, target.options.state) == (4, 100, "running")
        host.link.break_in(self.clock.seconds())
        host.flush()
        self.advance(5)
        assert not host.packets
        transport.close()
        transport, host = self.open(SimSpec(baud=115200))
        host.link.break_in(self.clock.seconds())
        host.flush()
        self.clock.advance(0.01)
        assert not host.packets
        self.advance(1)
        assert host.packets[0].type == PacketType.STATE_CHANGE64

    def test_opening_is_done_at_once(self) -> None:
        opening = self.targets.open(SimSpec())
        assert isinstance(opening, Deferred)
        assert opening.called
