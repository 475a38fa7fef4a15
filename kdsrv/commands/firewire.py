"""``kdsrv firewire``: the FireWire nodes of this host, and what those show that wait for a debugger."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred

from kdsrv.commands.list import show
from kdsrv.errors import SetupError
from kdsrv.firewire.configuration_rom import ConfigurationRom
from kdsrv.firewire.errand import Ended, Event, Silent
from kdsrv.firewire.mailbox import FULL
from kdsrv.firewire.nodes import Node, list_nodes
from kdsrv.firewire.search import NO_FIREWIRE, UDEV_RULE
from kdsrv.firewire.survey import Survey
from kdsrv.transports.firewire_device import FireWireDevice, FireWireHost, Visit

__all__ = ["configure", "describe", "run"]

_NODES: Final = "/sys/bus/firewire/devices"
_DEVICES: Final = "/dev"
_QUADLETS_A_LINE: Final = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv firewire``."""
    parser.description = (
        "Show the FireWire nodes of this host and, of each that waits for a debugger, its ROM, its descriptor and the "
        "headers of its mailboxes. Nothing is changed. Please send the output with any report about 1394: targets."
    )
    parser.add_argument("--json", action="store_true", help="say it as one JSON object, an error as well")
    parser.add_argument("--sysfs", metavar="DIR", default=_NODES, help="where the nodes are (default: %(default)s)")
    parser.add_argument("--dev", metavar="DIR", default=_DEVICES, help="where their devices are (default: %(default)s)")


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Show the nodes; fires with the exit status, or fails with a SetupError."""
    host = FireWireHost(reactor, nodes=Path(options.sysfs), devices=Path(options.dev))
    return Deferred.fromCoroutine(_run(host, options.json))


async def _run(host: FireWireHost, as_json: bool) -> int:
    nodes = await describe(host)
    return show(json.dumps({"nodes": nodes}) + "\n" if as_json else "".join(map(_text, nodes)))


async def describe(host: FireWireHost) -> list[dict[str, Any]]:
    """The nodes as JSON objects. SetupError: this host has no FireWire."""
    nodes = list_nodes(host.nodes)
    if not nodes:
        raise SetupError(why=NO_FIREWIRE)
    return [await _describe(host, node) for node in nodes]


async def _describe(host: FireWireHost, node: Node) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "node": node.name,
        "is_local": node.is_local,
        "guid": node.guid,
        "vendor": node.vendor,
        "units": node.units,
        **_rom(node.rom),
    }
    if not node.may_wait:
        return facts
    path = str(host.devices / node.name)
    try:
        device = FireWireDevice(host.calls, path, exclusive=False)
    except PermissionError:
        return {**facts, "problem": f"no permission to open {path}; a udev rule that gives it: {UDEV_RULE}"}
    except OSError as error:
        return {**facts, "problem": f"{path} cannot be opened: {error.strerror}"}
    facts |= {"speed": device.speed, "card": device.card, "interface": device.version}
    survey = Survey(device.bus_limit)
    why = await _surveyed(host, device, survey)
    if survey.rom is not None:
        facts |= _rom(survey.rom)
    if survey.descriptor is not None:
        facts["descriptor"] = asdict(survey.descriptor)
    return {**facts, "send_box": survey.send_box.hex(), "receive_box": survey.receive_box.hex(), "problem": why}


def _rom(rom: ConfigurationRom) -> dict[str, Any]:
    return {
        "max_rec": rom.max_rec,
        "rom": [f"{quadlet:08x}" for quadlet in rom.quadlets],
        "descriptor_address": rom.descriptor_address,
    }


def _surveyed(host: FireWireHost, device: FireWireDevice, survey: Survey) -> Deferred[str]:
    """Fires with what went wrong, half a sentence, or with nothing."""
    done: Deferred[str] = Deferred(lambda _: visit.close())

    def on_event(event: Event) -> None:
        if isinstance(event, Ended | Silent):
            visit.close()
            done.callback(event.why)

    visit = Visit(host.clock, device, survey, on_event)
    return done


def _text(facts: dict[str, Any]) -> str:
    """A node for people."""
    if facts["is_local"]:
        return f"{facts['node']}  this host, guid {facts['guid']}\n"
    speed = f", S{100 << facts['speed']}" if "speed" in facts else ""
    vendor = facts["vendor"] or "unknown"
    lines = [f"{facts['node']}  guid {facts['guid']}, vendor {vendor}, max_rec {facts['max_rec']}{speed}"]
    rom = facts["rom"]
    for at in range(0, len(rom), _QUADLETS_A_LINE):
        lines.append(f"{'ROM' if at == 0 else '':13}{' '.join(rom[at : at + _QUADLETS_A_LINE])}")
    if facts["descriptor_address"] is None:
        lines.append("it does not wait for a debugger")
    elif "descriptor" in facts:
        lines.append(_descriptor(facts["descriptor_address"], facts["descriptor"]))
        lines += [f"{name:13}{_box(bytes.fromhex(facts[key]), key)}" for name, key in _BOXES.items() if facts[key]]
    if facts.get("problem"):
        lines.append(facts["problem"])
    return "\n     ".join(lines) + "\n"


_BOXES: Final = {"send box": "send_box", "receive box": "receive_box"}


def _descriptor(address: int, descriptor: dict[str, int]) -> str:
    kind = f"{descriptor['tag']:08x}, version {descriptor['major']}.{descriptor['minor']}"
    boxes = f"send box at {descriptor['send']:#x}, receive box at {descriptor['receive']:#x}"
    state = f"channel {descriptor['channel']}, bus present {descriptor['bus_present']}"
    return f"{'descriptor':13}at {address:#x}: {kind}, {state}, {boxes}"


def _box(head: bytes, key: str) -> str:
    """The status, then the header and the length, in the order in which they stand there."""
    state = "full" if head.startswith(FULL) else f"status {int.from_bytes(head[:4], 'little'):#x}"
    cut = (4, 20) if key == "send_box" else (8, 24)
    header = head[slice(*cut)]
    length = head[20:24] if key == "send_box" else head[4:8]
    return f"{state}, length {int.from_bytes(length, 'little')}, header {header.hex(' ', 4)}"
