"""Datagrams of KDNET made for tests: a key, what follows from it, and each kind of datagram with its payload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

__all__ = ["CLIENT_KEY", "CONTROL_KEY", "DATA_KEY", "HOST_KEY", "KEY", "MAC_KEY", "VECTORS", "Vector"]


class Vector(NamedTuple):
    """One datagram, open and sealed."""

    name: str
    version: int
    channel: int
    sequence: int
    from_host: bool
    payload: bytes
    datagram: bytes


_SET = json.loads(Path(__file__).with_name("kdnet_vectors.json").read_text(encoding="utf-8"))

KEY: str = _SET["key"]
CONTROL_KEY = bytes.fromhex(_SET["control_key"])
MAC_KEY = bytes.fromhex(_SET["hmac_key"])
CLIENT_KEY = bytes.fromhex(_SET["client_key"])
HOST_KEY = bytes.fromhex(_SET["host_key"])
DATA_KEY = bytes.fromhex(_SET["data_key"])
VECTORS = {
    entry["name"]: Vector(
        entry["name"],
        entry["version"],
        entry["channel"],
        entry["sequence"],
        entry["from_host"],
        bytes.fromhex(entry["payload"]),
        bytes.fromhex(entry["datagram"]),
    )
    for entry in _SET["vectors"]
}
