"""The requests of STATE_MANIPULATE: their numbers, their fields, what they do to a target (KD protocol, 2.3 to 2.6).

Requests and replies of one number share a layout, so there is one table for both.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from kdsrv.kd.layout import Fields, PayloadError, row

__all__ = [
    "CHANGES_TARGET",
    "FIELDS",
    "HEADER",
    "NO_REPLY",
    "RUNS_TARGET",
    "VERSION_FIELDS",
    "Api",
    "api_name",
    "api_number",
    "changes_target",
]


class Api(IntEnum):
    """ApiNumber (KD protocol, 2.4)."""

    READ_VIRTUAL_MEMORY = 0x3130
    WRITE_VIRTUAL_MEMORY = 0x3131
    GET_CONTEXT = 0x3132
    SET_CONTEXT = 0x3133
    WRITE_BREAKPOINT = 0x3134
    RESTORE_BREAKPOINT = 0x3135
    CONTINUE = 0x3136
    READ_CONTROL_SPACE = 0x3137
    WRITE_CONTROL_SPACE = 0x3138
    READ_IO_SPACE = 0x3139
    WRITE_IO_SPACE = 0x313A
    REBOOT = 0x313B
    CONTINUE2 = 0x313C
    READ_PHYSICAL_MEMORY = 0x313D
    WRITE_PHYSICAL_MEMORY = 0x313E
    QUERY_SPECIAL_CALLS = 0x313F
    SET_SPECIAL_CALL = 0x3140
    CLEAR_SPECIAL_CALLS = 0x3141
    SET_INTERNAL_BREAKPOINT = 0x3142
    GET_INTERNAL_BREAKPOINT = 0x3143
    READ_IO_SPACE_EXTENDED = 0x3144
    WRITE_IO_SPACE_EXTENDED = 0x3145
    GET_VERSION = 0x3146
    WRITE_BREAKPOINT_EX = 0x3147
    RESTORE_BREAKPOINT_EX = 0x3148
    CAUSE_BUG_CHECK = 0x3149
    SWITCH_PROCESSOR = 0x3150
    PAGE_IN = 0x3151
    READ_MACHINE_SPECIFIC_REGISTER = 0x3152
    WRITE_MACHINE_SPECIFIC_REGISTER = 0x3153
    OLD_VLM1 = 0x3154
    OLD_VLM2 = 0x3155
    SEARCH_MEMORY = 0x3156
    GET_BUS_DATA = 0x3157
    SET_BUS_DATA = 0x3158
    CHECK_LOW_MEMORY = 0x3159
    CLEAR_ALL_INTERNAL_BREAKPOINTS = 0x315A
    FILL_MEMORY = 0x315B
    QUERY_MEMORY = 0x315C
    SWITCH_PARTITION = 0x315D
    WRITE_CUSTOM_BREAKPOINT = 0x315E
    GET_CONTEXT_EX = 0x315F
    SET_CONTEXT_EX = 0x3160


NO_REPLY: Final = frozenset(
    {
        Api.CONTINUE,
        Api.CONTINUE2,
        Api.REBOOT,
        Api.CAUSE_BUG_CHECK,
        Api.CLEAR_ALL_INTERNAL_BREAKPOINTS,
        Api.SWITCH_PROCESSOR,
    }
)
"""These are acknowledged and get no manipulate packet back; SwitchProcessor is answered by a new state change."""

RUNS_TARGET: Final = frozenset({Api.CONTINUE, Api.CONTINUE2, Api.REBOOT, Api.CAUSE_BUG_CHECK})
"""After these a stopped target runs."""

_ONLY_READS: Final = frozenset(
    {
        Api.READ_VIRTUAL_MEMORY,
        Api.READ_PHYSICAL_MEMORY,
        Api.READ_CONTROL_SPACE,
        Api.READ_MACHINE_SPECIFIC_REGISTER,
        Api.GET_CONTEXT,
        Api.GET_CONTEXT_EX,
        Api.GET_VERSION,
        Api.GET_BUS_DATA,
        Api.GET_INTERNAL_BREAKPOINT,
        Api.QUERY_MEMORY,
        Api.QUERY_SPECIAL_CALLS,
        Api.SEARCH_MEMORY,
    }
)

CHANGES_TARGET: Final = frozenset(Api) - _ONLY_READS
"""The known requests that are not mere looking. Reading an I/O port counts as a change: devices react to it."""


def changes_target(api: int) -> bool:
    """Whether a read-only user must not send this request. What a number unknown here does cannot be told, so: yes."""
    return api not in _ONLY_READS


def api_number(payload: bytes) -> int:
    """The ApiNumber of a manipulate payload, without decoding it. Raises `PayloadError` below four bytes."""
    try:
        return int(_FIRST.unpack_from(payload)[0])
    except struct.error:
        raise PayloadError(message="manipulate payload", wanted=4, given=len(payload)) from None


def api_name(api: int) -> str:
    """For people: ``ReadVirtualMemory``, or ``0x3199`` when there is no such request."""
    try:
        return Api(api).name.title().replace("_", "")
    except ValueError:
        return f"{api:#x}"


_FIRST: Final = struct.Struct("<I")

HEADER: Final = {"api": (0x00, 4), "level": (0x04, 2), "processor": (0x06, 2), "status": (0x08, 4), "pad": (0x0C, 4)}

VERSION_FIELDS: Final = {
    **row(0x00, 2, "major_version minor_version"),
    **row(0x04, 1, "protocol_version secondary_version"),
    **row(0x06, 2, "flags machine_type"),
    **row(0x0A, 1, "max_packet_type max_state_change max_manipulate simulation"),
    **row(0x0E, 2, "unused"),
    **row(0x10, 8, "kernel_base loaded_module_list debugger_data_list"),
}
"""The union of GetVersion, counted from its own start at 0x10."""

# "actual" is the result of a transfer, but in a request for physical memory it is an input: how to map the page.
_TRANSFER: Final = {"address": (0x10, 8), "transfer_count": (0x18, 4), "actual": (0x1C, 4)}
_CONTEXT: Final = {"context_flags": (0x10, 4)}
_CONTEXT_SLICE: Final = row(0x10, 4, "offset byte_count bytes_copied")
_MSR: Final = row(0x10, 4, "msr low high")
_BREAKPOINTS: Final = row(0x10, 4, "count continue_status")
_INTERNAL_BREAKPOINT: Final = {"address": (0x10, 8), "flags": (0x18, 4)}
_IO_SPACE: Final = {"address": (0x10, 8), "size": (0x18, 4), "value": (0x1C, 4)}
_IO_SPACE_EXTENDED: Final = {
    **row(0x10, 4, "size interface_type bus address_space"),
    "address": (0x20, 8),
    "value": (0x28, 4),
}
_BUS_DATA: Final = row(0x10, 4, "bus_data_type bus slot offset length")
_CONTINUE2: Final = {
    **row(0x10, 4, "continue_status trace_flag"),
    **row(0x18, 8, "dr7 symbol_start symbol_end"),
    **row(0x18, 4, "dr7_x86 symbol_start_x86 symbol_end_x86"),
}

_UNIONS: Final[Mapping[Api, Fields]] = {
    Api.READ_VIRTUAL_MEMORY: _TRANSFER,
    Api.WRITE_VIRTUAL_MEMORY: _TRANSFER,
    Api.GET_CONTEXT: _CONTEXT,
    Api.SET_CONTEXT: _CONTEXT,
    Api.WRITE_BREAKPOINT: {"address": (0x10, 8), "handle": (0x18, 4)},
    Api.RESTORE_BREAKPOINT: {"handle": (0x10, 4)},
    Api.CONTINUE: {"continue_status": (0x10, 4)},
    Api.READ_CONTROL_SPACE: _TRANSFER,
    Api.WRITE_CONTROL_SPACE: _TRANSFER,
    Api.READ_IO_SPACE: _IO_SPACE,
    Api.WRITE_IO_SPACE: _IO_SPACE,
    Api.CONTINUE2: _CONTINUE2,
    Api.READ_PHYSICAL_MEMORY: _TRANSFER,
    Api.WRITE_PHYSICAL_MEMORY: _TRANSFER,
    Api.QUERY_SPECIAL_CALLS: {"count": (0x10, 4)},
    Api.SET_SPECIAL_CALL: {"address": (0x10, 8)},
    Api.SET_INTERNAL_BREAKPOINT: _INTERNAL_BREAKPOINT,
    Api.GET_INTERNAL_BREAKPOINT: {
        **_INTERNAL_BREAKPOINT,
        **row(0x1C, 4, "calls max_calls_per_period min_instructions max_instructions total_instructions"),
    },
    Api.READ_IO_SPACE_EXTENDED: _IO_SPACE_EXTENDED,
    Api.WRITE_IO_SPACE_EXTENDED: _IO_SPACE_EXTENDED,
    Api.GET_VERSION: {name: (0x10 + offset, size) for name, (offset, size) in VERSION_FIELDS.items()},
    Api.WRITE_BREAKPOINT_EX: _BREAKPOINTS,
    Api.RESTORE_BREAKPOINT_EX: _BREAKPOINTS,
    Api.CAUSE_BUG_CHECK: {"code": (0x10, 4)},
    Api.READ_MACHINE_SPECIFIC_REGISTER: _MSR,
    Api.WRITE_MACHINE_SPECIFIC_REGISTER: _MSR,
    Api.SEARCH_MEMORY: {**row(0x10, 8, "address length"), "pattern_length": (0x20, 4)},
    Api.GET_BUS_DATA: _BUS_DATA,
    Api.SET_BUS_DATA: _BUS_DATA,
    Api.FILL_MEMORY: {"address": (0x10, 8), "length": (0x18, 4), "flags": (0x1C, 2), "pattern_length": (0x1E, 2)},
    Api.QUERY_MEMORY: {**row(0x10, 8, "address reserved"), **row(0x20, 4, "address_space flags")},
    Api.SWITCH_PARTITION: {"partition": (0x10, 4)},
    Api.WRITE_CUSTOM_BREAKPOINT: {
        **row(0x10, 8, "address instruction"),
        "handle": (0x20, 4),
        "size": (0x24, 1),
        "alignment": (0x25, 1),
    },
    Api.GET_CONTEXT_EX: _CONTEXT_SLICE,
    Api.SET_CONTEXT_EX: _CONTEXT_SLICE,
}

FIELDS: Final[Mapping[int, Fields]] = {api: HEADER | dict(_UNIONS.get(api, {})) for api in Api}
"""All fields of a manipulate payload by ApiNumber, counted from the start of the payload."""
