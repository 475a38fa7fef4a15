"""The soak, for as long as a run of all tests can bear; docs/reliability.md has the figures of longer ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS = int(os.environ.get("KDSRV_SOAK_SECONDS") or (120 if os.environ.get("CI") else 10))


@pytest.mark.timeout(SECONDS + 120)
def test_nothing_is_wrong_or_left_behind_after_a_while_of_everything_at_once() -> None:
    program = [sys.executable, str(ROOT / "tests" / "soak.py"), str(SECONDS)]
    ran = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ran.stdout, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["wrong"] == [], ran.stderr[-3000:]
    assert ran.returncode == 0
    for what in ("reads", "writes", "prints", "cuts", "unplugged", "spectators", "lines seen", "sessions"):
        assert told[what] > 0, told
    assert told["rss_mib_late"] <= told["rss_mib_early"] * 1.2 + 8, told
