"""Ways from the debugger to the target: nothing, socat, kdsrv with its bridge at the lab or at the debugger.

The network of a lab lies where the TCP connection of each chain is:

    direct        debugger =tcp= target
    socat         debugger =tcp= socat - target
    bridge        debugger =tcp= kdsrv server with --bridge - target
    socat pair    debugger - socat =tcp= socat - target
    connect       debugger - kdsrv connect =tcp= kdsrv server - target
    python api    program with kdsrv.client =tcp= kdsrv server - target
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.network import Network
from benchmarks.processes import Process, Run, UnavailableError

__all__ = ["CHAINS", "Chain", "Lab", "many"]

READY_SECONDS = 60.0


@dataclass(slots=True)
class Chain:
    """A started way: where the debugger connects, and which processes are the relays (their processor time counts).

    `program` is what measures in place of debugger.c, with its arguments.
    """

    name: str
    connect: str
    near: list[Process] = field(default_factory=list)
    far: list[Process] = field(default_factory=list)
    program: list[str] | None = None

    @property
    def relays(self) -> list[Process]:
        return self.near + self.far


@dataclass(slots=True)
class Lab:
    """Targets of one kind in one network; each chain uses a target of its own, so that they can stand side by side."""

    run: Run
    network: Network
    baud: int = 0
    prints: int = 0
    count: int = 8
    prefix: str = ""
    tcp_port: int = 0
    target: Process | None = None
    used: int = 0

    def start(self) -> None:
        self.prefix = self.run.path("t")
        self.tcp_port = self.network.port()
        where = ["--pty", self.prefix, "--baud", str(self.baud)] if self.baud else ["--unix", self.prefix]
        where += ["--tcp", f"{self.network.address}:{self.tcp_port}", "--count", str(self.count)]
        where += ["--prints", str(self.prints)]
        self.target = self.run.start([self.run.program("target"), *where], self.network.far)
        self.target.line(5)

    def next_target(self) -> str:
        self.used += 1
        return f"{self.prefix}.{self.used - 1}"

    def socat_address(self, target: str) -> str:
        return f"FILE:{target},raw,echo=0" if self.baud else f"UNIX-CONNECT:{target}"

    def kd_string(self, target: str) -> str:
        return f"com:port={target},baud={self.baud}" if self.baud else f"com:pipe,port={target}"


def _server_arguments(lab: Lab, port: int, bridges: dict[str, str]) -> list[str]:
    """The kdsrv server's command line; bridges: Twisted endpoint -> target."""
    arguments = ["-m", "twisted", "kdsrv", "--listen", f"tcp:{port}:interface={lab.network.address}"]
    arguments += ["--no-password", "--open-bridges"]
    for endpoint, target in bridges.items():
        arguments += ["--bridge", f"listen=@{{{endpoint}}},trans=@{{{lab.kd_string(target)}}}"]
    return arguments


def _server(lab: Lab, bridges: dict[str, str]) -> tuple[Process, int]:
    if not (Path(__file__).resolve().parent.parent / "kdsrv" / "cli.py").exists():
        raise UnavailableError("this tree has no kdsrv commands")
    port = lab.network.port()
    return lab.run.python(_server_arguments(lab, port, bridges), lab.network.far, quiet=True), port


def _direct(lab: Lab) -> Chain:
    if lab.baud:
        return Chain("direct", f"tty:{lab.next_target()}")
    return Chain("direct", f"tcp:{lab.network.address}:{lab.tcp_port}")


def _far_socat(lab: Lab) -> tuple[Process, int]:
    port = lab.network.port()
    listen = f"TCP-LISTEN:{port},bind={lab.network.address},reuseaddr,nodelay,fork"
    return lab.run.start(["socat", "-t0", listen, lab.socat_address(lab.next_target())], lab.network.far), port


def _socat(lab: Lab) -> Chain:
    process, port = _far_socat(lab)
    return Chain("socat", f"tcp:{lab.network.address}:{port}", far=[process])


def _bridge(lab: Lab) -> Chain:
    port = lab.network.port()
    process, _ = _server(lab, {f"tcp:{port}:interface={lab.network.address}": lab.next_target()})
    return Chain("bridge", f"tcp:{lab.network.address}:{port}", far=[process])


def _socat_pair(lab: Lab) -> Chain:
    far, port = _far_socat(lab)
    path = lab.run.path("socat")
    uplink = f"TCP:{lab.network.address}:{port},nodelay"
    near = lab.run.start(["socat", "-t0", f"UNIX-LISTEN:{path},fork", uplink], lab.network.near)
    return Chain("socat pair", f"unix:{path}", [near], [far])


def _kdsrv_string(lab: Lab, port: int) -> str:
    uplink = f"tcp:server={lab.network.address},port={port}"
    return f"kdsrv:server=@{{{uplink}}},trans=@{{{lab.kd_string(lab.next_target())}}}"


def _connect(lab: Lab) -> Chain:
    server, port = _server(lab, {})
    path = lab.run.path("bridge")
    string = _kdsrv_string(lab, port)
    command = "import sys; from kdsrv.cli import main; sys.exit(main())"
    near = _retried(lab, server, ["-c", command, "connect", "-k", string, "--unix", path, "--json"])
    return Chain("connect", f"unix:{path}", [near], [server])


def _retried(lab: Lab, server: Process, arguments: list[str]) -> Process:
    """The bridge, once its server listens; one that came too early is started again."""
    last = UnavailableError("kdsrv connect did not start")
    for _ in range(20):
        server.check()
        process = lab.run.python(arguments, lab.network.near)
        try:
            while True:
                said = json.loads(process.line(READY_SECONDS))
                if said.get("event") == "bridge":
                    return process
        except (UnavailableError, json.JSONDecodeError) as error:
            last = UnavailableError(f"kdsrv connect: {error}")
            lab.run.stop([process])
    raise last


def many(lab: Lab, name: str) -> Chain:
    """As many sessions as the lab has targets, over unix sockets; %u in the address is the session's number."""
    path = lab.run.path("many")
    targets = [f"{lab.prefix}.{number}" for number in range(lab.count)]
    if name == "direct":
        return Chain(name, f"unix:{lab.prefix}.%u")
    if name == "socat":
        process = lab.run.start(["socat", "-t0", f"UNIX-LISTEN:{path},fork,backlog=512", f"UNIX-CONNECT:{targets[0]}"])
        return Chain(name, f"unix:{path}", far=[process])
    process, _ = _server(lab, {f"unix:{path}.{number}": target for number, target in enumerate(targets)})
    return Chain(name, f"unix:{path}.%u", far=[process])


def _python_api(lab: Lab) -> Chain:
    server, port = _server(lab, {})
    program = [sys.executable, "-m", "benchmarks.bulk", _kdsrv_string(lab, port)]
    return Chain("python api", "", far=[server], program=program)


CHAINS: dict[str, Callable[[Lab], Chain]] = {
    "direct": _direct,
    "socat": _socat,
    "bridge": _bridge,
    "socat pair": _socat_pair,
    "connect": _connect,
    "python api": _python_api,
}
