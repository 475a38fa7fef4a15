"""Speed of kdsrv against socat on the same targets, in the same run: `python3 -m benchmarks`."""

from __future__ import annotations

__all__: list[str] = []
