"""In which order baud rates are tried, if it is not known at which one a target speaks."""

from __future__ import annotations

from typing import Final

from kdsrv.doctor.bit_rates import likely_rates

__all__ = ["RateSearch"]

_ORDER: Final = (115200, 57600, 19200, 9600, 38400, 230400, 460800, 921600, 4800, 2400, 1200)
"""From the usual to the rare."""


class RateSearch:
    """Begins with ``asked``, the rate that was asked for, if one was. `next` gives one after another, None when all
    were ``tried`` and none is ``left``."""

    def __init__(self, asked: int | None) -> None:
        self.tried: list[int] = []
        self.left = [*([] if asked is None else [asked]), *(rate for rate in _ORDER if rate != asked)]

    def next(self) -> int | None:
        """The rate to try now."""
        if not self.left:
            return None
        self.tried.append(self.left.pop(0))
        return self.tried[-1]

    def note(self, noise: bytes) -> None:
        """What came at the last rate: those that it looks like are next."""
        likely = [rate for rate in likely_rates(noise, self.tried[-1]) if rate in self.left]
        self.left = likely + [rate for rate in self.left if rate not in likely]
