"""Server and clients as users start them, with a serial cable between them: two pseudo terminals that are joined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from com_channel_rigs import BAUD, NullModem
from running_programs import KDSRV, ROOT, TWIST, Client, Debugger, run_program

from kdsrv.sim.kernel import KERNEL_BASE


@pytest.fixture
def cable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NullModem]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with NullModem(tmp_path) as modem:
        yield modem


def served(cable: NullModem, *channels: int, password: str = "") -> BackgroundProgram:
    words = [word for channel in channels for word in ("-t", f"com:port={cable.lab},baud={BAUD},channel={channel}")]
    if password:
        words = [f"{word},password={password}" if word.startswith("com:") else word for word in words]
    return BackgroundProgram([*TWIST, *words, *(() if password else ("--no-password",))], cwd=ROOT)


def string(cable: NullModem, channel: int, more: str = "", name: str = "sim") -> str:
    place = f"com:port={cable.desk},baud={BAUD},channel={channel}{more}"
    return f"kdsrv:server=@{{{place}}},trans=@{{sim:name={name}}}"


def read_kernel(client: Client) -> None:
    """A debugger on the client's bridge reads what the target has."""
    with Debugger(client.bridge) as debugger:
        debugger.halt()
        assert debugger.read(KERNEL_BASE, 2) == b"MZ"


def test_a_client_through_the_cable(cable: NullModem) -> None:
    with served(cable, 3) as server:
        server.wait_for(f"listens on channel 3 of {cable.lab}")
        server.wait_for("Starting reactor")
        with Client(string(cable, 3)) as client:
            read_kernel(client)
        server.wait_for(rf"channel 3 of {cable.lab} \(\S+\) has sim:")


def test_two_clients_on_two_channels_at_once(cable: NullModem) -> None:
    """They are two programs, of which one has the port; when that leaves, the other goes on by itself."""
    with served(cable, 3, 4) as server:
        server.wait_for("Starting reactor")
        with Client(string(cable, 3, name="one")) as first:
            first.wait_event("attached")
            with Client(string(cable, 4, name="two")) as second:
                second.wait_event("attached")
                read_kernel(second)
                read_kernel(first)
                first.stop()
                second.wait_event("resumed")
                read_kernel(second)


def test_the_cable_is_unplugged_and_plugged_in_again(cable: NullModem) -> None:
    with served(cable, 3) as server:
        server.wait_for("Starting reactor")
        with Client(string(cable, 3)) as client:
            client.wait_event("attached")
            cable.unplug()
            client.wait_event("lost")
            server.wait_for("waiting for it to come back")
            cable.plug_in()
            client.wait_event("resumed", 1, 30)
            read_kernel(client)


def test_a_login_through_the_cable(cable: NullModem) -> None:
    with served(cable, 3, password="secret1") as server:
        server.wait_for("Starting reactor")
        with Client(string(cable, 3, ",password=secret1")) as client:
            client.wait_event("attached")
        refused = run_program((*KDSRV, "connect", "-k", string(cable, 3, ",password=wrong1"), "--tcp", "0"))
        assert refused.status == 1
        assert "login refused" in refused.text


def test_refusals_are_sentences(cable: NullModem) -> None:
    with served(cable, 3) as server:
        server.wait_for("Starting reactor")
        done = run_program((*KDSRV, "connect", "-k", string(cable, 5), "--tcp", "0"))
    assert done.status == 1
    assert f"channel 5 of {cable.desk}: nobody listens on it" in done.text
    alone = run_program((*KDSRV, "connect", "-k", string(cable, 3), "--tcp", "0"))
    assert alone.status == 1
    assert "nobody answers; does the server run" in alone.text
