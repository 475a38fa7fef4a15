"""The same as `python3 -m benchmarks`, from any directory."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

__all__: list[str] = []

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    runpy.run_module("benchmarks", run_name="__main__")
