"""The NTSTATUS values that occur in KD packets (KD protocol, 2.5 and 2.7)."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Status", "is_success", "status_text"]


class Status(IntEnum):
    """Result of a request, code of an exception, or how a target shall continue."""

    SUCCESS = 0
    PENDING = 0x00000103
    DBG_EXCEPTION_HANDLED = 0x00010001
    DBG_CONTINUE = 0x00010002
    MISALIGNED = 0x80000002
    BREAKPOINT = 0x80000003
    SINGLE_STEP = 0x80000004
    BUFFER_OVERFLOW = 0x80000005
    WAKE_DEBUGGER = 0x80000007
    NO_MORE_ENTRIES = 0x8000001A
    DBG_EXCEPTION_NOT_HANDLED = 0x80010001
    UNSUCCESSFUL = 0xC0000001
    NOT_IMPLEMENTED = 0xC0000002
    ACCESS_VIOLATION = 0xC0000005
    INVALID_HANDLE = 0xC0000008
    INVALID_PARAMETER = 0xC000000D
    NO_SUCH_DEVICE = 0xC000000E
    NO_SUCH_FILE = 0xC000000F
    ACCESS_DENIED = 0xC0000022
    NOT_FOUND = 0xC0000225


def is_success(status: int) -> bool:
    """Success or information; warnings and errors are failures. In a Continue: the exception counts as handled."""
    return status < 0x80000000


def status_text(status: int) -> str:
    """For people: ``C000000F no such file``."""
    try:
        return f"{status:08X} {Status(status).name.lower().replace('_', ' ')}"
    except ValueError:
        return f"{status:08X}"
