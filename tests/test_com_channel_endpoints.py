"""Connections through channels of a serial cable, as Twisted's protocols and endpoints see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from com_channel_rigs import BAUD, ClockedCable, Collector, Collectors
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from kdsrv.com_channel.channels import HIGH_WATER
from kdsrv.com_channel.endpoints import ComClientEndpoint, ComServerEndpoint
from kdsrv.com_channel.ports import Cables
from kdsrv.errors import KdsrvError, TargetError
from kdsrv.transports.serial import open_serial


class Producer:
    """Counts what it is told; as a pull producer it writes when it is asked to."""

    def __init__(self, transport: Any = None, pieces: int = 0) -> None:
        self.told: list[str] = []
        self.transport = transport
        self.pieces = pieces

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")
        if self.transport is None:
            return
        if not self.pieces:
            self.transport.unregisterProducer()
            return
        self.pieces -= 1
        self.transport.write(b"p" * 1000)

    def stopProducing(self) -> None:
        self.told.append("stop")


class ConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.cable = ClockedCable()
        self.port = self.cable.listen()

    def failed(self, waiting: Deferred[Any], seconds: float = 0.5) -> str:
        """The sentence that it fails with."""
        found: list[Any] = []
        waiting.addErrback(found.append)
        self.cable.run(seconds)
        assert isinstance(found[0].value, KdsrvError)
        return str(found[0].value)

    def test_talk_and_close(self) -> None:
        desk, lab = self.cable.connect()
        desk.transport.write(b"question")
        desk.transport.writeSequence([b" ", b"?"])
        lab.transport.write(b"answer")
        self.cable.run(0.1)
        assert (bytes(desk.data), bytes(lab.data)) == (b"answer", b"question ?")
        desk.transport.write(b"x" * 20_000)
        desk.transport.loseConnection()
        desk.transport.write(b"too late")
        self.cable.run(3)
        assert bytes(lab.data[10:]) == b"x" * 20_000
        for end in (desk, lab):
            assert end.reason is not None
            assert end.reason.type is ConnectionDone

    def test_what_the_transport_provides(self) -> None:
        desk, lab = self.cable.connect()
        for interface in (ITransport, IPushProducer, IConsumer):
            assert verifyObject(interface, desk.transport)
        assert str(desk.transport.getPeer()) == "channel 3 of /desk"
        assert str(lab.transport.getHost()) == "channel 3 of /lab"
        assert self.cable.factory.addresses == ["channel 3 of /lab"]
        assert str(self.port.getHost()) == "channel 3 of /lab"

    def test_several_channels(self) -> None:
        self.cable.listen(4)
        pairs = [self.cable.connect(3), self.cable.connect(4)]
        for number, (desk, _) in enumerate(pairs):
            desk.transport.write(b"channel %d" % number)
        self.cable.run(0.1)
        assert [bytes(lab.data) for _, lab in pairs] == [b"channel 0", b"channel 1"]
        assert len(self.cable.open_ports) == 2

    def test_abort(self) -> None:
        desk, lab = self.cable.connect()
        lab.transport.write(b"x" * 3000)
        desk.transport.abortConnection()
        assert desk.reason is None
        desk.transport.abortConnection()
        self.cable.run(0.5)
        assert desk.reason is not None
        assert desk.reason.type is ConnectionAborted
        assert bytes(desk.data) == b""
        assert lab.reason is not None
        assert lab.reason.type is ConnectionLost
        again, _ = self.cable.connect()
        assert again.reason is None

    def test_refusals_are_sentences(self) -> None:
        assert self.failed(self.cable.dial(9)) == "channel 9 of /desk: nobody listens on it"
        self.cable.connect()
        assert self.failed(self.cable.dial(3)) == "channel 3 of /desk: it is in use here already"
        other = ComClientEndpoint(self.cable.desk, "/desk", 9600, 4).connect(Collectors())
        assert self.failed(other) == "/desk is in use at 115200 baud; all its channels have the same rate"
        twice = ComServerEndpoint(self.cable.lab, "/lab", BAUD, 3).listen(Collectors())
        assert self.failed(twice) == "channel 3 of /lab: the server listens there already"

    def test_a_port_that_is_not_there(self) -> None:
        self.cable.is_there = False
        factory = Collectors()
        assert self.failed(self.cable.dial(3, factory)) == "/desk: there is no such device"
        assert factory.started == 0

    def test_nobody_at_the_other_end(self) -> None:
        self.port.stopListening()
        self.cable.run(0.2)
        assert "/lab" not in self.cable.open_ports
        factory = Collectors()
        assert "nobody answers" in self.failed(self.cable.dial(3, factory), 6)
        assert factory.started == 0
        assert self.cable.open_ports == {}
        assert self.cable.clock.getDelayedCalls() == []

    def test_a_connection_that_is_given_up(self) -> None:
        waiting = self.cable.dial()
        waiting.cancel()
        self.failureResultOf(waiting, ConnectingCancelledError)
        self.cable.run(1)
        assert self.cable.factory.made == []
        assert "/desk" not in self.cable.open_ports

    def test_the_port_is_closed_after_the_last_and_opened_for_the_next(self) -> None:
        desk, lab = self.cable.connect()
        desk.transport.loseConnection()
        self.cable.run(0.5)
        assert list(self.cable.open_ports) == ["/lab"]
        desk, lab = self.cable.connect()
        desk.transport.write(b"again")
        self.cable.run(0.1)
        assert bytes(lab.data) == b"again"
        desk.transport.loseConnection()
        self.cable.run(0.03)
        assert "/desk" in self.cable.open_ports
        at_once, lab = self.cable.connect()
        at_once.transport.write(b"still open")
        self.cable.run(0.1)
        assert bytes(lab.data) == b"still open"

    def test_all_is_closed_when_nobody_listens_any_more(self) -> None:
        desk, _ = self.cable.connect()
        self.port.stopListening()
        self.cable.run(0.2)
        desk.transport.write(b"still there")
        self.cable.run(0.2)
        assert bytes(self.cable.factory.made[0].data) == b"still there"
        desk.transport.loseConnection()
        self.cable.run(0.5)
        assert self.cable.open_ports == {}
        assert self.cable.clock.getDelayedCalls() == []
        assert self.cable.factory.started == 0

    def test_a_reader_that_pauses(self) -> None:
        desk, lab = self.cable.connect()
        lab.transport.pauseProducing()
        desk.transport.write(b"x" * 40_000)
        desk.transport.loseConnection()
        self.cable.run(10)
        assert bytes(lab.data) == b""
        assert desk.reason is None
        lab.transport.resumeProducing()
        assert bytes(lab.data) == b""
        self.cable.run(4)
        assert bytes(lab.data) == b"x" * 40_000
        assert lab.reason is not None

    def test_a_reader_that_pauses_while_it_reads(self) -> None:
        desk, lab = self.cable.connect()
        lab.on_data = lambda _: lab.transport.pauseProducing()
        for _ in range(3):
            desk.transport.write(b"x" * 500)
        self.cable.run(1)
        assert 0 < len(lab.data) <= 500
        lab.on_data = None
        lab.transport.resumeProducing()
        self.cable.run(1)
        assert len(lab.data) == 1500

    def test_a_writer_is_told_to_wait_and_to_go_on(self) -> None:
        desk, lab = self.cable.connect()
        producer = Producer()
        desk.transport.registerProducer(producer, True)
        with pytest.raises(RuntimeError):
            desk.transport.registerProducer(producer, True)
        desk.transport.write(b"x" * 1000)
        assert producer.told == []
        desk.transport.write(b"x" * HIGH_WATER * 2)
        assert producer.told == ["pause"]
        self.cable.run(2)
        assert producer.told == ["pause", "resume"]
        assert len(lab.data) == 1000 + HIGH_WATER * 2
        desk.transport.loseConnection()
        self.cable.run(0.2)
        assert producer.told == ["pause", "resume", "stop"]

    def test_the_end_waits_for_a_writer_that_waits(self) -> None:
        desk, lab = self.cable.connect()
        producer = Producer()
        desk.transport.registerProducer(producer, True)
        desk.transport.write(b"x" * 10_000)
        desk.transport.loseConnection()
        desk.transport.write(b"the rest")
        desk.transport.unregisterProducer()
        self.cable.run(2)
        assert bytes(lab.data) == b"x" * 10_000 + b"the rest"
        assert desk.reason is not None
        assert desk.reason.type is ConnectionDone

    def test_a_pull_producer(self) -> None:
        desk, lab = self.cable.connect()
        producer = Producer(desk.transport, 30)
        desk.transport.registerProducer(producer, False)
        desk.transport.loseConnection()
        self.cable.run(0.05)
        assert producer.pieces > 20
        self.cable.run(4)
        assert bytes(lab.data) == b"p" * 30_000
        assert desk.reason is not None

    def test_an_error_in_one_protocol_ends_no_other(self) -> None:
        self.cable.listen(4)
        (bad, bad_lab), (good, good_lab) = self.cable.connect(3), self.cable.connect(4)

        def fail(_: bytes) -> None:
            raise ZeroDivisionError

        bad_lab.on_data = fail
        bad.transport.write(b"x")
        good.transport.write(b"y")
        self.cable.run(0.5)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        assert bad.reason is not None
        assert bad_lab.reason is not None
        assert bad_lab.reason.type is ZeroDivisionError
        assert bytes(good_lab.data) == b"y"
        assert good.reason is None

    def test_a_factory_that_makes_no_protocol(self) -> None:
        self.cable.factory.buildProtocol = lambda addr: None  # type: ignore[method-assign]
        found: list[Collector] = []
        self.cable.dial().addCallback(found.append)
        self.cable.run(0.5)
        assert found[0].reason is not None
        assert found[0].reason.type is ConnectionLost

    def test_the_other_end_leaves(self) -> None:
        desk, lab = self.cable.connect()
        self.cable.unplug("/desk")
        assert desk.reason is not None
        assert desk.reason.type is ConnectionLost
        assert "unplugged" in str(desk.reason.value)
        assert lab.reason is None
        self.cable.run(11)
        assert lab.reason is not None
        assert "nothing has come for 10 s" in str(lab.reason.value)

    def test_a_servers_port_goes_away_and_comes_back(self) -> None:
        desk, lab = self.cable.connect()
        logged: list[Any] = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        self.cable.is_there = False
        self.cable.unplug("/lab")
        assert lab.reason is not None
        desk.transport.abortConnection()
        self.cable.run(30)
        assert "/lab" not in self.cable.open_ports
        refused = ComServerEndpoint(self.cable.lab, "/lab", BAUD, 5).listen(Collectors())
        assert self.failureResultOf(refused, TargetError).getErrorMessage() == "/lab: the port is away at the moment"
        self.cable.is_there = True
        self.cable.run(6)
        again, fresh = self.cable.connect()
        again.transport.write(b"back")
        self.cable.run(0.1)
        assert bytes(fresh.data) == b"back"
        texts = [event["log_format"] for event in logged if "com_channel" in event["log_namespace"]]
        assert texts == ["{reason}; waiting for it to come back", "{path} is back"]

    def test_a_server_that_stops_while_its_port_is_away(self) -> None:
        self.cable.is_there = False
        self.cable.unplug("/lab")
        self.port.stopListening()
        self.port.stopListening()
        assert self.cable.clock.getDelayedCalls() == []

    def test_listening_again(self) -> None:
        self.port.stopListening()
        self.port.startListening()
        desk, _ = self.cable.connect()
        assert desk.reason is None


def test_a_device_has_one_cable_by_whatever_name(tmp_path: Path) -> None:
    clock = ClockedCable().clock
    cables = Cables.of(clock)
    assert Cables.of(clock) is cables
    (tmp_path / "link").symlink_to("/dev/ttyS0")
    assert cables.find("com1", BAUD) is cables.find(str(tmp_path / "link"), BAUD)
    assert cables.find("com1", BAUD) is not cables.find("com2", BAUD)


def test_a_file_is_no_cable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    cable = Cables(ClockedCable().clock, open_port=open_serial).find(str(tmp_path / "file"), BAUD)
    with pytest.raises(TargetError, match="regular file"):
        cable.listen(3, Collectors())
