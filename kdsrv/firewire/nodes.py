"""The FireWire nodes of this host, as Linux shows them in a directory: one entry a node (KD over 1394, 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kdsrv.firewire.configuration_rom import ConfigurationRom

__all__ = ["Node", "list_nodes"]

_PREFIX: Final = "fw"
_MOST_ROM: Final = 1024


@dataclass(frozen=True, slots=True)
class Node:
    """``name`` is that of its device; ``vendor`` and ``units`` are as Linux writes them, empty if it does not."""

    name: str
    is_local: bool
    guid: str
    vendor: str
    units: str
    rom: ConfigurationRom

    @property
    def may_wait(self) -> bool:
        """Whether, as far as Linux knows, a target at this node waits for its debugger."""
        return not self.is_local and self.rom.descriptor_address is not None


def list_nodes(directory: Path) -> list[Node] | None:
    """All nodes, this host's own included, in the order of their numbers; None: this host has no FireWire."""
    try:
        entries = [entry for entry in directory.iterdir() if entry.name.removeprefix(_PREFIX).isdecimal()]
    except OSError:
        return None
    return [_node(entry) for entry in sorted(entries, key=lambda entry: int(entry.name.removeprefix(_PREFIX)))]


def _node(entry: Path) -> Node:
    return Node(
        name=entry.name,
        is_local=_text(entry / "is_local") == "1",
        guid=_text(entry / "guid"),
        vendor=_text(entry / "vendor"),
        units=_text(entry / "units"),
        rom=ConfigurationRom.from_host_order(_bytes(entry / "config_rom")),
    )


def _text(path: Path) -> str:
    return _bytes(path).decode("ascii", "replace").strip()


def _bytes(path: Path) -> bytes:
    """What the file holds; b"" for one that is not there, or goes while it is read, as its node may."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_ROM)
    except OSError:
        return b""
