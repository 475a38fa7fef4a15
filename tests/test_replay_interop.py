"""Both debuggers on a server that records, and then on the recording: they find there what they found on the target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from background_program import BackgroundProgram
from debugger_visits import visit_with_ntoseye, visit_with_radare2
from running_programs import KDSRV, ROOT, Server

from kdsrv.sim.kernel import Kernel
from kdsrv.sim.target import SimulatedTarget

pytestmark = pytest.mark.interop


@pytest.mark.parametrize(("visit", "state"), [(visit_with_ntoseye, "running"), (visit_with_radare2, "halted")])
def test_a_visit_is_played_back(visit: Callable[[Path, Kernel], None], state: str, tmp_path: Path) -> None:
    kernel = SimulatedTarget().machine.kernel
    bridge, played, records = tmp_path / "bridge", tmp_path / "played", tmp_path / "records"
    listen = f"listen=@{{unix:{bridge}}},trans=@{{sim:state={state}}}"
    with Server("--record", str(records), "--bridge", listen):
        visit(bridge, kernel)
    (recording,) = records.glob("*.pcapng")
    with BackgroundProgram([*KDSRV, "replay", recording, "--unix", played], cwd=ROOT) as replay:
        replay.wait_for("played back at")
        visit(played, kernel)
