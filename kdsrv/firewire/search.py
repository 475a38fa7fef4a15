"""The search for the node that waits on a channel: what was seen on the way, as one sentence for who waits."""

from __future__ import annotations

from typing import Final

from kdsrv.firewire.nodes import Node

__all__ = ["NO_FIREWIRE", "UDEV_RULE", "Search"]

NO_FIREWIRE: Final = "this host has no FireWire: no card, or the modules firewire-core and firewire-ohci are not loaded"
UDEV_RULE: Final = 'SUBSYSTEM=="firewire", ATTR{vendor}=="0x0050f2", GROUP="plugdev", MODE="0660"'
_NAMED: Final = 8


class Search:
    """``nodes`` are those that Linux has shown (None: it shows no bus); what was seen at them is to be noted."""

    def __init__(self, channel: int, nodes: list[Node] | None) -> None:
        self._channel = channel
        self._nodes = nodes
        self._channels: list[int] = []
        self._denied = ""
        self._notes: list[str] = []

    @property
    def candidates(self) -> list[Node]:
        """The nodes to look at."""
        return [node for node in self._nodes or () if node.may_wait]

    def note_channel(self, channel: int) -> None:
        """One of them waits on this channel."""
        self._channels.append(channel)

    def note_denied(self, path: str) -> None:
        """We may not open this device."""
        self._denied = path

    def note(self, node: Node, why: str) -> None:
        """This one cannot be used for another reason."""
        self._notes.append(f"{node.name}: {why}")

    def sentence(self) -> str:
        """Why there is none yet, and what to do about it: one line."""
        if self._nodes is None or not self._nodes:
            return NO_FIREWIRE
        others = sum(not node.is_local for node in self._nodes)
        if not others:
            return "there is no other node on the FireWire bus: is the cable in, and the target on?"
        found = f"{others} node{'s' * (others > 1)} on the FireWire bus, none waits on channel {self._channel}"
        if self._channels:
            names = ", ".join(map(str, sorted(self._channels)[:_NAMED]))
            found += f": found channel{'s' * (len(self._channels) > 1)} {names}"
        elif not self.candidates:
            found += " or on any other"
        parts = [found, *self._notes[:_NAMED]]
        if self._denied:
            rule = f"as root, put {UDEV_RULE} into /etc/udev/rules.d/60-kdsrv.rules and run udevadm trigger"
            parts.append(f"no permission to open {self._denied}: {rule}")
        return "; ".join(parts)
