"""How hypothesis runs: never judged by time, for machines are shared, and in CI with the same examples each time. And
how many tests run at once: most of them wait for programs, so there may be more than processors."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "desk")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For a run of all tests; a choice of them runs in one process, where a debugger can get at it."""
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return 2 * (os.cpu_count() or 1) if everything else 0
