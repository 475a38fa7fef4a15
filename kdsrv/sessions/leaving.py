"""What becomes of a target when its session ends."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["OnLeave"]


class OnLeave(StrEnum):
    """STAY: the target stays as it is, halted or running, with its breakpoints. CONTINUE: breakpoints that its user has
    set are removed, as far as the target lets them, and it runs."""

    STAY = "stay"
    CONTINUE = "continue"
