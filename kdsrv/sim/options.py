"""What kind of target to simulate: a frozen value with the defaults of a real kernel (KD protocol, 4.9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kdsrv.kd.packets import INITIAL_ID

__all__ = ["STATES", "SimOptions"]

STATES: Final = ("halted", "running", "boot")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimOptions:
    """Times are in seconds. ``state`` is how the target is found: stopped and saying so, running, or about to boot.

    ``read_cap``: the most data in one reply; radare2 needs 1992. ``context_ex``: GetContextEx is known.
    ``print_every``: a running target prints a line that often, 0 is never. ``boot_time``: how long a reboot takes.
    """

    state: str = "halted"
    cpus: int = 2
    build: int = 17134
    service_pack: int = 0
    pae_bit: bool = True
    read_cap: int = 3944
    context_ex: bool = True
    sync_on_boot: bool = True
    reset_reply_id: int = 0
    first_id_after_reset: int = INITIAL_ID
    hold_state_change_until_reset: bool = False
    drain_input_on_reset: bool = False
    byte_timeout: float = 1.0
    retries: int = 20
    print_every: float = 0.0
    boot_time: float = 0.5

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"a target is {', '.join(STATES[:-1])} or {STATES[-1]}, not {self.state}")
        if not 1 <= self.cpus <= 64:
            raise ValueError(f"a target has 1 to 64 processors, not {self.cpus}")
        if not 1 <= self.read_cap <= 3944:
            raise ValueError(f"a reply carries 1 to 3944 bytes of data, not {self.read_cap}")
