"""Imports point inward only: the pure ring knows no Twisted, no clock and no socket; nothing knows the command line.

The rings are those of the architecture document. A module is placed by the longest entry that names it or a package it
is in, so a new module inside a placed package needs no entry, and a new one beside them has to be given its ring here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PURE, TWISTED, OUTSIDE = 0, 1, 2

RINGS = {
    "kdsrv": PURE,
    "kdsrv.alarm": TWISTED,
    "kdsrv.auth": PURE,
    "kdsrv.backoff": PURE,
    "kdsrv.bridge": TWISTED,
    "kdsrv.cli": OUTSIDE,
    "kdsrv.client": TWISTED,
    "kdsrv.com_channel": PURE,
    "kdsrv.com_channel.endpoints": TWISTED,
    "kdsrv.com_channel.ports": TWISTED,
    "kdsrv.com_channel.shared_port": TWISTED,
    "kdsrv.com_channel.sharing": TWISTED,
    "kdsrv.com_channel.transport": TWISTED,
    "kdsrv.commands": OUTSIDE,
    "kdsrv.connection_strings": PURE,
    "kdsrv.direct_writer": TWISTED,
    "kdsrv.doctor": PURE,
    "kdsrv.doctor.examiner": TWISTED,
    "kdsrv.errors": PURE,
    "kdsrv.firewire": PURE,
    "kdsrv.first_free_port": TWISTED,
    "kdsrv.kd": PURE,
    "kdsrv.kdnet": PURE,
    "kdsrv.link_driver": TWISTED,
    "kdsrv.listen_failures": TWISTED,
    "kdsrv.local_pipes": TWISTED,
    "kdsrv.policy": PURE,
    "kdsrv.policy.places": TWISTED,
    "kdsrv.process_title": OUTSIDE,
    "kdsrv.recorder": PURE,
    "kdsrv.recorder.disk": TWISTED,
    "kdsrv.recorder.files": TWISTED,
    "kdsrv.recorder.service": TWISTED,
    "kdsrv.server": TWISTED,
    "kdsrv.server.listing": PURE,
    "kdsrv.sessions": PURE,
    "kdsrv.sessions.applications": TWISTED,
    "kdsrv.sessions.directory": TWISTED,
    "kdsrv.sessions.read_only_session": TWISTED,
    "kdsrv.sessions.session": TWISTED,
    "kdsrv.sessions.status_log": TWISTED,
    "kdsrv.sessions.target_side": TWISTED,
    "kdsrv.sim": PURE,
    "kdsrv.tap": OUTSIDE,
    "kdsrv.testing": TWISTED,
    "kdsrv.tls": TWISTED,
    "kdsrv.transports": TWISTED,
    "kdsrv.wire": PURE,
}

# Of the standard library, what the pure ring may not have: clocks, sockets, processes and whatever waits.
IMPURE_STDLIB = frozenset(
    {
        *("sched", "time"),
        *("http", "socket", "socketserver", "ssl", "urllib.request"),
        *("asyncio", "concurrent", "multiprocessing", "select", "selectors", "signal", "subprocess", "threading"),
        *("fcntl", "pty", "termios", "tty"),
    }
)
PURE_PACKAGES = frozenset({"cryptography"})


def ring_of(module: str) -> int | None:
    """The ring of a module's name, None for one that nobody placed."""
    for name in _prefixes(module):
        if name in RINGS and (name != "kdsrv" or module == "kdsrv"):
            return RINGS[name]
    return None


def _prefixes(module: str) -> Iterator[str]:
    while module:
        yield module
        module = module.rpartition(".")[0]


def imported_names(source: str, module: str, *, is_package: bool) -> Iterator[tuple[str, bool]]:
    """Yield every name that a module imports, and whether at module level.

    ``from a import b`` gives both ``a`` and ``a.b``, since ``b`` may be a module.
    """
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        at_top = id(node) not in inner
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + is_package]
                base = ".".join([*kept, base] if base else kept)
            yield base, at_top
            for alias in node.names:
                yield f"{base}.{alias.name}", at_top


def faults(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with a module's imports, in sentences."""
    ring = ring_of(module)
    if ring is None:
        return [f"{module} has no ring: give it one in RINGS"]
    found = []
    for name, at_top in imported_names(source, module, is_package=is_package):
        if name == "kdsrv" or name.startswith("kdsrv."):
            inner = ring_of(name)
            if inner is not None and inner > ring:
                found.append(f"{module} imports {name}, which is further out")
        elif ring == PURE and not _is_pure(name):
            found.append(f"{module} is in the pure ring and imports {name}")
        elif ring == TWISTED and at_top and name == "twisted.internet.reactor":
            found.append(f"{module} imports the reactor at module level")
    return found


def _is_pure(name: str) -> bool:
    if any(prefix in IMPURE_STDLIB for prefix in _prefixes(name)):
        return False
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names or top in PURE_PACKAGES


def module_files() -> list[Path]:
    return sorted((ROOT / "kdsrv").rglob("*.py"))


@pytest.mark.parametrize("path", module_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_inward(path: Path) -> None:
    is_package = path.name == "__init__.py"
    relative = path.relative_to(ROOT)
    module = ".".join(relative.parent.parts if is_package else relative.with_suffix("").parts)
    assert faults(path.read_text(encoding="utf-8"), module, is_package=is_package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kdsrv.kd.link", "import time"),
        ("kdsrv.kd.link", "from time import monotonic"),
        ("kdsrv.kd.link", "def later():\n    from twisted.internet.defer import Deferred"),
        ("kdsrv.kd.link", "import serial.tools"),
        ("kdsrv.auth.door", "import time"),
        ("kdsrv.auth.scram", "from twisted.internet.defer import Deferred"),
        ("kdsrv.kd.link", "from kdsrv.transports import opener"),
        ("kdsrv.kd.link", "from ..transports.opener import Opener"),
        ("kdsrv.sessions.lease", "from . import session"),
        ("kdsrv.sessions.lease", "from kdsrv.sessions.session import Session"),
        ("kdsrv.connection_strings", "import os, socket"),
        ("kdsrv.transports.opener", "from kdsrv import cli"),
        ("kdsrv.bridge", "import kdsrv.commands.connect"),
        ("kdsrv.server.service", "from twisted.internet import reactor"),
        ("kdsrv.newcomer", "import struct"),
    ],
)
def test_an_outward_import_is_seen(module: str, source: str) -> None:
    assert len(faults(source, module)) >= 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kdsrv.kd.link", "import struct, zlib\nfrom .packets import Packet\nfrom kdsrv.errors import PeerError"),
        ("kdsrv.auth.scram", "import hashlib, hmac\nfrom kdsrv.errors import PeerError"),
        ("kdsrv.kd.kdnet", "from cryptography.hazmat.primitives.ciphers import Cipher"),
        ("kdsrv.transports.opener", "import socket, time, serial\nfrom kdsrv.errors import SetupError"),
        ("kdsrv.server.service", "def run():\n    from twisted.internet import reactor"),
        ("kdsrv.cli", "from twisted.internet import reactor\nfrom kdsrv.server.service import service"),
    ],
)
def test_an_inward_import_is_not(module: str, source: str) -> None:
    assert faults(source, module) == []


def test_a_package_finds_its_own_modules() -> None:
    assert faults("from .session import Session", "kdsrv.sessions", is_package=True) == [
        "kdsrv.sessions imports kdsrv.sessions.session, which is further out",
        "kdsrv.sessions imports kdsrv.sessions.session.Session, which is further out",
    ]
