"""What a target says of itself: the reply to GetVersion (KD protocol, 2.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from kdsrv.kd.api import VERSION_FIELDS
from kdsrv.kd.layout import Record
from kdsrv.kd.machine import Machine

__all__ = ["Version"]

_FLAG_MULTIPROCESSOR: Final = 1
_FLAG_DATA: Final = 2
_FLAG_64_BIT: Final = 4


@dataclass(frozen=True, slots=True)
class Version(Record):
    """The 40 bytes that GetVersion returns, as protocol 6 has them, which every kernel since XP speaks."""

    NAME: ClassVar = "GetVersion block"
    SIZE: ClassVar = 40
    FIELDS: ClassVar = VERSION_FIELDS

    @property
    def machine(self) -> Machine | None:
        """None for a MachineType unknown here."""
        number = self["machine_type"]
        return Machine(number) if number in set(Machine) else None

    @property
    def is_64bit(self) -> bool:
        """Boot debuggers of AMD64 machines do not set the flag, so the machine type counts too."""
        return bool(self["flags"] & _FLAG_64_BIT) or (self.machine is not None and self.machine.pointer_size == 8)

    @property
    def is_multiprocessor(self) -> bool:
        return bool(self["flags"] & _FLAG_MULTIPROCESSOR)

    @property
    def is_checked_build(self) -> bool:
        return self["major_version"] & 0xFF == 0x0C

    @property
    def kind(self) -> int:
        """Who answers: 0 an NT kernel, 4 the boot debugger, 8 the hypervisor ... (high byte of MajorVersion)."""
        return self["major_version"] >> 8

    @property
    def build_number(self) -> int:
        return self["minor_version"]

    @property
    def kernel_base(self) -> int:
        return self["kernel_base"]

    @property
    def loaded_module_list(self) -> int:
        return self["loaded_module_list"]

    @property
    def debugger_data_list(self) -> int | None:
        """Address of the LIST_ENTRY that leads to KDDEBUGGER_DATA; None when the target has none."""
        return self["debugger_data_list"] if self["flags"] & _FLAG_DATA else None
