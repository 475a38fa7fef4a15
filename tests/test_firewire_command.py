"""``kdsrv firewire``: what it shows of a bus without hardware, and of a host without a bus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from firewire_bus import FireWireBus, OtherNode
from firewire_desk import advance
from firewire_target import BASE, EMPTY, FULL, SEND, FireWireTarget
from running_programs import KDSRV, run_program
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kdsrv.commands import firewire
from kdsrv.errors import SetupError


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[FireWireBus]:
    bus = FireWireBus(Clock(), tmp_path)
    yield bus
    assert bus.is_at_rest
    assert bus.clock.getDelayedCalls() == []


def shown(bus: FireWireBus) -> list[dict[str, Any]]:
    """The nodes after the first, which is the host's own."""
    results: list[Any] = []
    Deferred.fromCoroutine(firewire.describe(bus.host)).addBoth(results.append)
    advance(bus.clock, 5.0)
    (nodes,) = results
    assert isinstance(nodes, list), nodes
    assert json.loads(json.dumps(nodes)) == nodes
    assert (nodes[0]["node"], nodes[0]["is_local"]) == ("fw0", True)
    return nodes[1:]


def text(bus: FireWireBus) -> str:
    return "".join(firewire._text(node) for node in shown(bus))


def test_a_target_and_something_else(bus: FireWireBus) -> None:
    target = FireWireTarget(3)
    bus.plug(target)
    bus.plug(OtherNode())
    before = bytes(target.memory[BASE : BASE + 0x2400])
    waiting, other = shown(bus)
    assert waiting["guid"] == "0x001106000000a1b2"
    assert waiting["vendor"] == "0x0050f2"
    assert (waiting["max_rec"], waiting["speed"], waiting["problem"]) == (10, 2, "")
    assert waiting["rom"] == [f"{quadlet:08x}" for quadlet in target.rom]
    assert waiting["descriptor_address"] == BASE + 0x3E0
    assert waiting["descriptor"]["channel"] == 3
    assert bytes.fromhex(waiting["send_box"]) == before[0x400:0x418]
    assert bytes.fromhex(waiting["receive_box"]) == bytes(24)
    assert "descriptor" not in other
    assert other["descriptor_address"] is None
    assert bytes(target.memory[BASE : BASE + 0x2400]) == before, "it only looks"


def test_in_words(bus: FireWireBus) -> None:
    target = FireWireTarget(3)
    bus.plug(target)
    assert text(bus) == (
        "fw1  guid 0x001106000000a1b2, vendor 0x0050f2, max_rec 10, S400\n"
        "     ROM          0404beef 31333934 0000a002 00110600 0000a1b2 " + f"{target.rom[5]:08x} 0c0083c0 030050f2\n"
        "                  1c0050f2 1d000002 1e0093e0\n"
        "     descriptor   at 0x93e0: babababa, version 1.0, channel 3, bus present 0, "
        "send box at 0x9400, receive box at 0xa400\n"
        "     send box     full, length 240, header " + target.memory[SEND + 4 : SEND + 20].hex(" ", 4) + "\n"
        "     receive box  status 0x0, length 0, header 00000000 00000000 00000000 00000000\n"
    )


def test_a_session_is_not_disturbed(bus: FireWireBus) -> None:
    bus.plug(FireWireTarget(3))
    descriptor = bus.open("/dev/fw1", exclusive=True)
    (waiting,) = shown(bus)
    assert waiting["problem"] == ""
    bus.close(descriptor)


def test_an_unknown_descriptor_is_shown_as_it_is(bus: FireWireBus) -> None:
    target = FireWireTarget(3)
    target.memory[BASE + 0x3E4] = 2
    bus.plug(target)
    (waiting,) = shown(bus)
    assert waiting["descriptor"]["major"] == 2
    assert waiting["problem"] == "its descriptor is of version 2.0, and kdsrv knows 1.0 only"
    assert waiting["send_box"] == ""
    assert "version 2.0" in text(bus)


def test_a_node_that_does_not_answer(bus: FireWireBus) -> None:
    target = FireWireTarget(3)
    target.looks = False
    bus.plug(target)
    (waiting,) = shown(bus)
    assert waiting["problem"] == "it has not answered for 2 s (no acknowledgement)"
    assert len(waiting["rom"]) == 11
    assert text(bus).endswith("     it has not answered for 2 s (no acknowledgement)\n")


def test_a_node_that_we_may_not_open(bus: FireWireBus) -> None:
    bus.plug(FireWireTarget(3))
    bus.denied.add("fw1")
    (waiting,) = shown(bus)
    assert "no permission to open" in waiting["problem"]
    assert 'ATTR{vendor}=="0x0050f2"' in waiting["problem"]
    assert len(waiting["rom"]) == 11, "Linux shows it to everybody"


def test_a_node_that_goes_while_it_is_looked_at(bus: FireWireBus) -> None:
    bus.plug(FireWireTarget(3))
    bus.clock.callLater(0.0003, bus.unplug, "fw1")
    (waiting,) = shown(bus)
    assert waiting["problem"] == "it is gone from the bus"


def test_a_host_without_firewire(bus: FireWireBus) -> None:
    bus.nodes.rename(bus.nodes.with_name("elsewhere"))
    failures: list[Any] = []
    Deferred.fromCoroutine(firewire.describe(bus.host)).addErrback(failures.append)
    with pytest.raises(SetupError, match="this host has no FireWire: no card, or the modules"):
        failures[0].raiseException()


def test_the_command_on_a_directory_of_nodes(bus: FireWireBus, tmp_path: Path) -> None:
    """The devices there are none, so it says so; and what is in the directory it shows."""
    bus.plug(FireWireTarget(3))
    bus.plug(OtherNode())
    line = (*KDSRV, "firewire", "--sysfs", str(bus.nodes), "--dev", str(bus.devices))
    told = run_program(line)
    assert told.status == 0
    assert "fw0  this host" in told.text
    assert f"{bus.devices}/fw1 cannot be opened: No such file or directory" in told.text
    assert "it does not wait for a debugger" in told.text
    (bus.devices / "fw1").touch()
    told = run_program((*line, "--json"))
    nodes = json.loads(told.text)["nodes"]
    assert nodes[1]["problem"] == f"{bus.devices}/fw1 cannot be opened: Inappropriate ioctl for device"


def test_the_command_on_a_host_without_firewire(tmp_path: Path) -> None:
    told = run_program((*KDSRV, "firewire", "--sysfs", str(tmp_path / "none")))
    assert told.status == 1
    assert told.text.startswith("kdsrv: this host has no FireWire: no card, or the modules")
    told = run_program((*KDSRV, "firewire", "--json", "--sysfs", str(tmp_path / "none")))
    assert (told.status, json.loads(told.text)["code"]) == (1, "setup")


def test_what_stands_in_a_box_is_told_in_its_order(bus: FireWireBus) -> None:
    target = FireWireTarget(3)
    receive = BASE + 0x1400
    target.memory[receive : receive + 12] = FULL + b"\x04\0\0\0bbbb"
    target.memory[SEND : SEND + 4] = EMPTY
    target.looks = False
    target.filters_open = True
    bus.plug(target)
    target.filters_open = True
    assert "receive box  full, length 4, header 62626262 00000000 00000000 00000000" in text(bus)
