"""KD payloads: layouts against the protocol document's tables and recorded bytes, and that no byte gets lost."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsrv.kd import amd64, x86
from kdsrv.kd.debug_io import GET_STRING, PRINT_STRING
from kdsrv.kd.machine import sign_extend, to_32_bit
from kdsrv.kd.messages import (
    CHANGES_TARGET,
    MAX_TRANSFER,
    NO_REPLY,
    PAYLOADS,
    RUNS_TARGET,
    Api,
    ControlRequest,
    DebugIo,
    FileIo,
    Machine,
    Manipulate,
    PacketTypeError,
    PayloadError,
    StateChange,
    Status,
    TraceIo,
    Version,
    api_name,
    api_number,
    changes_target,
    decode,
    is_stop,
    is_success,
    status_text,
)
from kdsrv.kd.packets import MAX_PAYLOAD, PacketType, checksum
from kdsrv.kd.state_change import COMMAND_STRING, EXCEPTION, LOAD_SYMBOLS

CAPTURES = Path(__file__).resolve().parents[2] / "shared" / "spec" / "captures"
MINUS_ONE = 0xFFFFFFFFFFFFFFFF
BLANK_REPORT = bytes(48)

KINDS = {
    PacketType.STATE_CHANGE64: [0x3030, 0x3031, 0x3032, 0x13030, 0x13031, 0x13032],
    PacketType.STATE_MANIPULATE: [*Api, 0x3199],
    PacketType.DEBUG_IO: [0x3230, 0x3231],
    PacketType.TRACE_IO: [0x3330],
    PacketType.CONTROL_REQUEST: [0x4300, 0x4301],
    PacketType.FILE_IO: [0x3430, 0x3431, 0x3432, 0x3433],
}
FIXED = {
    PacketType.STATE_CHANGE64: 240,
    PacketType.STATE_MANIPULATE: 56,
    PacketType.DEBUG_IO: 16,
    PacketType.TRACE_IO: 64,
    PacketType.CONTROL_REQUEST: 12,
    PacketType.FILE_IO: 64,
}


@st.composite
def payloads(draw: st.DrawFn) -> tuple[int, bytes]:
    """A packet type and a payload of it: mostly of a known kind, everything else garbage."""
    packet_type = draw(st.sampled_from(sorted(FIXED)))
    size = FIXED[PacketType(packet_type)]
    kind = draw(st.sampled_from(KINDS[PacketType(packet_type)]) | st.integers(0, 0xFFFFFFFF))
    rest = draw(st.binary(min_size=size - 4, max_size=size - 4))
    return packet_type, kind.to_bytes(4, "little") + rest + draw(st.binary(max_size=64))


def manipulate(api: int, union: str = "", data: bytes = b"", processor: int = 0) -> bytes:
    """The bytes of a request: ``union`` is hex from 0x10 on, the unused rest of it zero."""
    header = struct.pack("<IHHII", api, 0, processor, 0x103, 0)
    return header + bytes.fromhex(union).ljust(40, b"\0") + data


def recorded(name: str) -> list[bytes]:
    """The payloads of the data packets in a recording."""
    if not CAPTURES.is_dir():
        pytest.skip("the recordings are not beside this checkout")
    frames = [bytes.fromhex(frame["hex"]) for frame in json.loads((CAPTURES / name).read_text())["frames"]]
    return [frame[16:-1] for frame in frames if frame.startswith(b"0000")]


# All families


@given(payloads())
def test_every_byte_survives(case: tuple[int, bytes]) -> None:
    packet_type, payload = case
    assert decode(packet_type, payload).encode() == payload


@given(payloads())
def test_every_field_can_be_read_and_written_back(case: tuple[int, bytes]) -> None:
    value = decode(*case)
    assert list(value) == list(value.values())
    assert value.replace(**value.values()) == value


@given(payloads(), st.data())
def test_a_changed_field_changes_no_other_byte(case: tuple[int, bytes], data: st.DataObject) -> None:
    value = decode(*case)
    name = data.draw(st.sampled_from(sorted(value)))
    offset, size = value.fields[name]
    number = data.draw(st.integers(0, 256**size - 1))
    changed = value.replace(**{name: number}).encode()
    assert changed[offset : offset + size] == number.to_bytes(size, "little")
    assert changed[:offset] + changed[offset + size :] == case[1][:offset] + case[1][offset + size :]


@pytest.mark.parametrize("packet_type", FIXED)
def test_a_payload_without_its_whole_fixed_part_is_refused(packet_type: PacketType) -> None:
    size = FIXED[packet_type]
    assert decode(packet_type, bytes(size)).data == b""
    with pytest.raises(PayloadError, match=rf"payload has {size - 1} bytes where {size} are needed") as caught:
        decode(packet_type, bytes(size - 1))
    assert caught.value.facts["given"] == size - 1


@given(payloads())
def test_no_kind_has_a_field_outside_its_fixed_part(case: tuple[int, bytes]) -> None:
    value = decode(*case)
    assert all(offset + size <= value.SIZE for offset, size in value.fields.values())


@pytest.mark.parametrize("packet_type", [0, 1, 4, 5, 6, 8, 12])
def test_other_packet_types_are_refused(packet_type: int) -> None:
    with pytest.raises(PacketTypeError, match=f"type {packet_type} "):
        decode(packet_type, bytes(300))
    assert packet_type not in PAYLOADS


def test_values_that_do_not_fit_are_refused() -> None:
    request = Manipulate.read_virtual(0, 1)
    for wrong in ({"transfer_count": 1 << 32}, {"transfer_count": -1}, {"transfer_count": b"\0"}):
        with pytest.raises(ValueError, match="transfer_count"):
            request.replace(**wrong)
    with pytest.raises(KeyError):
        request.replace(handle=1)
    with pytest.raises(KeyError):
        Manipulate.build(0x3199)["address"]


# Requests

BUILT: list[tuple[Manipulate, bytes]] = [
    (
        Manipulate.read_virtual(0x1122334455667788, 0x10, processor=3),
        manipulate(0x3130, "8877665544332211 10000000 00000000", processor=3),
    ),
    (Manipulate.write_virtual(0x1000, b"abc"), manipulate(0x3131, "0010000000000000 03000000", b"abc")),
    (Manipulate.get_context(1, flags=0x1003F), manipulate(0x3132, "3f000100", processor=1)),
    (Manipulate.set_context(b"\x01" * 1232), manipulate(0x3133, "00000000", b"\x01" * 1232)),
    (Manipulate.write_breakpoint(0x1000), manipulate(0x3134, "0010000000000000 00000000")),
    (Manipulate.restore_breakpoint(32), manipulate(0x3135, "20000000")),
    (Manipulate.continue_(), manipulate(0x3136, "02000100")),
    (Manipulate.read_control_space(2, 0xE0), manipulate(0x3137, "0200000000000000 e0000000")),
    (Manipulate.write_control_space(2, b"ab"), manipulate(0x3138, "0200000000000000 02000000", b"ab")),
    (Manipulate.read_io(0x3F8, 1), manipulate(0x3139, "f803000000000000 01000000 00000000")),
    (Manipulate.write_io(0x3F8, 1, 0x41), manipulate(0x313A, "f803000000000000 01000000 41000000")),
    (Manipulate.reboot(), manipulate(0x313B)),
    (
        Manipulate.continue2(),
        manipulate(0x313C, "02000100 00000000 0004000000000000 0100000000000000 0000000000000000"),
    ),
    (
        Manipulate.continue2(0x10001, True, 0x455, (7, 9), machine=Machine.X86),
        manipulate(0x313C, "01000100 01000000 55040000 07000000 09000000"),
    ),
    (Manipulate.read_physical(0x1000, 8, caching=2), manipulate(0x313D, "0010000000000000 08000000 02000000")),
    (
        Manipulate.write_physical(0x1000, b"abc", caching=1),
        manipulate(0x313E, "0010000000000000 03000000 01000000", b"abc"),
    ),
    (Manipulate.query_special_calls(), manipulate(0x313F)),
    (Manipulate.set_special_call(0x1000), manipulate(0x3140, "0010000000000000")),
    (Manipulate.clear_special_calls(), manipulate(0x3141)),
    (Manipulate.set_internal_breakpoint(0x1000, 1), manipulate(0x3142, "0010000000000000 01000000")),
    (Manipulate.get_internal_breakpoint(0x1000), manipulate(0x3143, "0010000000000000")),
    (
        Manipulate.read_io_extended(0x3F8, 2, bus=5),
        manipulate(0x3144, "02000000 01000000 05000000 01000000 f803000000000000"),
    ),
    (
        Manipulate.write_io_extended(0x3F8, 4, 0xAABBCCDD, bus=5),
        manipulate(0x3145, "04000000 01000000 05000000 01000000 f803000000000000 ddccbbaa"),
    ),
    (Manipulate.get_version(), manipulate(0x3146)),
    (
        Manipulate.write_breakpoints([0x1000, 0x2000]),
        manipulate(
            0x3147, "02000000 02000100", bytes.fromhex("0010000000000000 0000000000000000 0020000000000000") + bytes(8)
        ),
    ),
    (
        Manipulate.restore_breakpoints([1, 2], 0x10001),
        manipulate(0x3148, "02000000 01000100", b"\x01\0\0\0\x02\0\0\0"),
    ),
    (Manipulate.cause_bug_check(0xE2), manipulate(0x3149, "e2000000")),
    (Manipulate.switch_processor(1), manipulate(0x3150, processor=1)),
    (Manipulate.read_msr(0xC0000082), manipulate(0x3152, "820000c0")),
    (Manipulate.write_msr(0xC0000082, 0x1122334455667788), manipulate(0x3153, "820000c0 88776655 44332211")),
    (
        Manipulate.search_memory(0x1000, 0x2000, b"MZ"),
        manipulate(0x3156, "0010000000000000 0020000000000000 02000000", b"MZ"),
    ),
    (Manipulate.get_bus_data(4, 1, 2, 3, 5), manipulate(0x3157, "04000000 01000000 02000000 03000000 05000000")),
    (
        Manipulate.set_bus_data(4, 1, 2, 3, b"ab"),
        manipulate(0x3158, "04000000 01000000 02000000 03000000 02000000", b"ab"),
    ),
    (Manipulate.check_low_memory(), manipulate(0x3159)),
    (Manipulate.clear_all_internal_breakpoints(), manipulate(0x315A)),
    (
        Manipulate.fill_memory(0x1000, 0x20, b"\xcc\x90"),
        manipulate(0x315B, "0010000000000000 20000000 0100 0200", b"\xcc\x90"),
    ),
    (
        Manipulate.fill_memory(0x1000, 0x20, b"\xcc", physical=True),
        manipulate(0x315B, "0010000000000000 20000000 0200 0100", b"\xcc"),
    ),
    (Manipulate.query_memory(0x1000), manipulate(0x315C, "0010000000000000")),
    (Manipulate.switch_partition(7), manipulate(0x315D, "07000000")),
    (
        Manipulate.write_custom_breakpoint(0x1000, 0xCC, 1, 4),
        manipulate(0x315E, "0010000000000000 cc00000000000000 00000000 01 04"),
    ),
    (Manipulate.get_context_ex(0x448, 0x88), manipulate(0x315F, "48040000 88000000")),
    (Manipulate.set_context_ex(0x448, b"ab", 0x4D0), manipulate(0x3160, "48040000 02000000 d0040000", b"ab")),
]


@pytest.mark.parametrize(("request_", "wanted"), BUILT, ids=[built.name for built, _ in BUILT])
def test_requests_have_the_documented_bytes(request_: Manipulate, wanted: bytes) -> None:
    assert request_.encode() == wanted


def test_every_request_that_is_not_obsolete_can_be_built() -> None:
    assert set(Api) - {built.api for built, _ in BUILT} == {Api.PAGE_IN, Api.OLD_VLM1, Api.OLD_VLM2}


@pytest.mark.parametrize(
    ("api", "name", "offset", "size"),
    [
        (0x3130, "actual", 0x1C, 4),
        (0x3134, "handle", 0x18, 4),
        (0x3139, "value", 0x1C, 4),
        (0x313F, "count", 0x10, 4),
        (0x3143, "calls", 0x1C, 4),
        (0x3143, "max_calls_per_period", 0x20, 4),
        (0x3143, "min_instructions", 0x24, 4),
        (0x3143, "max_instructions", 0x28, 4),
        (0x3143, "total_instructions", 0x2C, 4),
        (0x3144, "value", 0x28, 4),
        (0x3152, "low", 0x14, 4),
        (0x3152, "high", 0x18, 4),
        (0x315C, "reserved", 0x18, 8),
        (0x315C, "address_space", 0x20, 4),
        (0x315C, "flags", 0x24, 4),
        (0x315E, "handle", 0x20, 4),
        (0x315F, "bytes_copied", 0x18, 4),
    ],
)
def test_result_fields_are_where_the_document_has_them(api: int, name: str, offset: int, size: int) -> None:
    payload = bytearray(manipulate(api))
    payload[offset : offset + size] = bytes(range(1, size + 1))
    assert Manipulate.decode(bytes(payload))[name] == int.from_bytes(bytes(range(1, size + 1)), "little")


@given(st.sampled_from([*Api, 0x3199]), st.binary(min_size=52, max_size=52), st.binary(max_size=20))
def test_a_reply_is_the_request_with_status_changed(api: int, garbage: bytes, data: bytes) -> None:
    request = Manipulate.decode(int(api).to_bytes(4, "little") + garbage + b"request data")
    reply = request.reply(Status.UNSUCCESSFUL, data).encode()
    assert reply[:8] + reply[12:] == int(api).to_bytes(4, "little") + garbage[:4] + garbage[8:] + data
    assert reply[8:12] == bytes.fromhex("010000c0")


def test_a_reply_takes_results_and_drops_the_data_of_the_request() -> None:
    reply = Manipulate.write_virtual(0x1000, b"abc", processor=2).reply(actual=3)
    assert reply.encode() == struct.pack("<IHHII", 0x3131, 0, 2, 0, 0) + bytes.fromhex(
        "0010000000000000 03000000 03000000"
    ) + bytes(24)
    assert (reply.processor, reply.status, reply.succeeded) == (2, 0, True)
    assert not Manipulate.build(0x3199).reply_unknown().succeeded


def test_which_requests_get_no_reply_or_let_the_target_run() -> None:
    assert sorted(NO_REPLY) == [0x3136, 0x313B, 0x313C, 0x3149, 0x3150, 0x315A]
    assert sorted(RUNS_TARGET) == [0x3136, 0x313B, 0x313C, 0x3149]


def test_which_requests_only_look() -> None:
    looking = {"3130", "3132", "3137", "313d", "313f", "3143", "3146", "3152", "3156", "3157", "315c", "315f"}
    assert {f"{api:x}" for api in Api if not changes_target(api)} == looking
    assert {f"{api:x}" for api in set(Api) - CHANGES_TARGET} == looking
    assert changes_target(0x3199)


def test_api_number_and_name() -> None:
    assert api_number(manipulate(0x3146)) == Api.GET_VERSION
    assert api_number(b"\x46\x31\0\0") == Api.GET_VERSION
    with pytest.raises(PayloadError):
        api_number(b"\x46\x31\0")
    assert [api_name(api) for api in (0x3130, 0x313C, 0x3199)] == ["ReadVirtualMemory", "Continue2", "0x3199"]


def test_lists_of_breakpoints() -> None:
    reply = Manipulate.write_breakpoints([0x1000, 0x2000]).reply(
        data=struct.pack("<QIIQII", 0x1000, 1, 0, 0x2000, 2, 0)
    )
    assert reply.breakpoints() == [(0x1000, 1), (0x2000, 2)]
    assert Manipulate.restore_breakpoints([3, 4]).handles() == [3, 4]
    for cut in (Manipulate.restore_breakpoints([3, 4]), Manipulate.restore_breakpoints([]).replace(count=0xFFFFFFFF)):
        with pytest.raises(PayloadError):
            Manipulate(cut.fixed, cut.data[:-1]).handles()


def test_an_msr_has_two_halves() -> None:
    assert Manipulate.write_msr(1, 0x1122334455667788).msr_value == 0x1122334455667788
    assert Manipulate.read_msr(1).reply(low=1, high=2).msr_value == 0x200000001


def test_one_packet_carries_3944_bytes() -> None:
    assert len(Manipulate.write_virtual(0, bytes(MAX_TRANSFER)).encode()) == MAX_PAYLOAD


# GetVersion


def test_version_of_the_windows_10_boot_debugger() -> None:
    block = bytes.fromhex(
        "0F04 5A29 06 02 0200 6486 0C 32 59 00 0000 00F0960000000000 605EAD0000000000 0000000000000000"
    )
    version = Manipulate.get_version().reply_version(Version.from_bytes(block)).version
    assert bytes(version) == block
    assert (version.kind, version.build_number, version.is_checked_build) == (4, 0x295A, False)
    assert (version["protocol_version"], version["secondary_version"], version["flags"]) == (6, 2, 2)
    assert (version.machine, version.is_64bit, version.is_multiprocessor) == (Machine.AMD64, True, False)
    assert [version[f"max_{name}"] for name in ("packet_type", "state_change", "manipulate")] == [12, 0x32, 0x59]
    assert (version.kernel_base, version.loaded_module_list, version.debugger_data_list) == (0x96F000, 0xAD5E60, 0)


@pytest.mark.parametrize(
    ("machine", "flags", "wanted"),
    [(0x14C, 0, False), (0x14C, 3, False), (0x8664, 3, True), (0xAA64, 0, True), (0x1234, 4, True), (0x1234, 0, False)],
)
def test_64_bits_are_told_by_flag_or_machine(machine: int, flags: int, wanted: bool) -> None:
    assert Version.build(machine_type=machine, flags=flags).is_64bit is wanted


def test_a_version_without_the_data_flag_has_no_debugger_data() -> None:
    version = Version.build(machine_type=0x1234, debugger_data_list=0x1000, flags=5, major_version=0x0C)
    assert (version.debugger_data_list, version.machine) == (None, None)
    assert (version.is_multiprocessor, version.is_checked_build) == (True, True)
    assert version.replace(flags=2).debugger_data_list == 0x1000


# State changes


def test_exception_of_a_recorded_windows_10() -> None:
    (payload,) = recorded("win10-x64-exception-syzkaller.json")
    change = StateChange.decode(payload)
    assert change.encode() == payload
    assert checksum(payload) == 0x1FE6
    assert is_stop(payload)
    assert (change.kind, change.is_alternate, change.processor, change["processors"]) == (EXCEPTION, False, 1, 2)
    assert (change["exception_code"], change["first_chance"]) == (Status.BREAKPOINT, 1)
    assert change.program_counter == change["exception_address"] == 0xFFFFF802C55E3380
    assert change["thread"] == 0xFFFF8C85BC229800
    assert change.parameters == (0,)
    report = amd64.ControlReport.from_bytes(change.report)
    assert (report["dr6"], report["dr7"], report["eflags"]) == (0xFFFE0FF0, 0x400, 0x86)
    assert (report["cs"], report["ds"], report["es"], report["fs"]) == (0x10, 0x2B, 0x2B, 0x53)
    assert (report["instruction_count"], report["report_flags"]) == (16, 3)
    assert report.instructions == bytes.fromhex("ccc3cccccccccccc0f1f840000000000")


def test_load_symbols_of_a_recorded_windows_xp() -> None:
    first, second = recorded("winxp-sp3-x86-serial-boot.json")
    change = StateChange.decode(first)
    assert change.encode() == first == second
    assert len(first) == 271
    assert is_stop(first)
    assert (change.kind, change.path) == (LOAD_SYMBOLS, rb"\WINDOWS\system32\ntkrnlpa.exe")
    assert (change["base"], change["process_id"]) == (sign_extend(0x804D8000), 0xFFFFFFFF)
    assert (change["check_sum"], change["image_size"], change["unload"]) == (0x2050D3, 0x1F8480, 0)
    assert change.program_counter == 0xFFFFFFFF8052F4C4
    assert not change.is_reboot
    report = x86.ControlReport.from_bytes(change.report)
    assert (report["dr6"], report["dr7"], report["eflags"]) == (0xFFFF0FF0, 0x400, 0x82)
    assert (report["cs"], report["ds"], report["es"], report["fs"]) == (8, 0x23, 0x23, 0x30)
    assert report.instructions == bytes.fromhex("cc5dc20c00cccccccccc8bff558becff")


def test_a_built_exception_has_the_documented_bytes() -> None:
    report = amd64.ControlReport.build(dr7=0x400, cs=0x10)
    change = StateChange.exception(
        0xC0000005,
        0x1111,
        program_counter=0x2222,
        report=report,
        processor=1,
        processors=2,
        thread=0x3333,
        parameters=(0, 0xDEAD),
        first_chance=False,
        exception_flags=1,
    )
    assert change.encode() == (
        struct.pack("<IHHII", 0x3030, 0, 1, 2, 0)
        + struct.pack("<QQ", 0x3333, 0x2222)
        + struct.pack("<IIQQII", 0xC0000005, 1, 0, 0x1111, 2, 0)
        + struct.pack("<15QII", 0, 0xDEAD, *[0] * 13, 0, 0)
        + bytes(report)
    )
    assert change.parameters == (0, 0xDEAD)
    assert StateChange.exception(0x80000003, 0x1111, report=report).program_counter == 0x1111
    with pytest.raises(ValueError, match="15"):
        StateChange.exception(0x80000003, 0x1111, report=report, parameters=range(16))
    with pytest.raises(PayloadError, match="control report has 47 bytes"):
        StateChange.exception(0x80000003, 0x1111, report=bytes(47))


def test_a_built_load_symbols_has_the_documented_bytes() -> None:
    change = StateChange.load_symbols(
        b"a.sys", 0x1000, report=BLANK_REPORT, unload=True, image_size=0x5000, check_sum=0x77, program_counter=0x2222
    )
    assert change.encode() == (
        struct.pack("<IHHIIQQ", 0x3031, 0, 0, 1, 0, 0, 0x2222)
        + struct.pack("<IIQQIIB", 6, 0, 0x1000, MINUS_ONE, 0x77, 0x5000, 1)
        + bytes(0x7F + 48)
        + b"a.sys\0"
    )
    assert (change.path, change.is_reboot) == (b"a.sys", False)


def test_a_path_is_cut_to_what_is_there() -> None:
    change = StateChange.load_symbols(b"a.sys", 0x1000, report=BLANK_REPORT)
    assert StateChange(change.replace(path_length=0xFFFFFFFF).fixed, b"a.s").path == b"a.s"
    assert StateChange(change.replace(path_length=3).fixed, b"a.sys\0").path == b"a.s"


@pytest.mark.parametrize(
    ("base", "unload", "path", "reboots", "hibernates"),
    [
        (MINUS_ONE, 1, b"", True, False),
        (0xFFFFFFFF, 1, b"", True, False),
        (MINUS_ONE - 1, 1, b"", False, True),
        (MINUS_ONE, 0, b"", False, False),
        (MINUS_ONE, 1, b"a", False, False),
        (0x1000, 1, b"", False, False),
    ],
)
def test_notices_of_a_target_that_goes_down(
    base: int, unload: int, path: bytes, reboots: bool, hibernates: bool
) -> None:
    change = StateChange.load_symbols(path, base, report=BLANK_REPORT, unload=bool(unload))
    assert (change.is_reboot, change.is_hibernation) == (reboots, hibernates)
    assert is_stop(change.encode())


def test_a_built_reboot_notice_is_one() -> None:
    assert StateChange.reboot(report=BLANK_REPORT).is_reboot


def test_a_command_string_has_two_texts() -> None:
    change = StateChange.command_string(b"name", b".echo hi", report=BLANK_REPORT)
    assert change.encode()[0xF0:] == b"name\0.echo hi\0"
    assert (change.kind, change.command) == (COMMAND_STRING, (b"name", b".echo hi"))


@pytest.mark.parametrize("kind", [0x3030, 0x3031, 0x3032])
def test_the_alternate_form_is_read_alike(kind: int) -> None:
    change = StateChange.build(kind).replace(new_state=kind | 0x10000)
    assert (change.kind, change.is_alternate) == (kind, True)
    assert change.fields == StateChange.build(kind).fields
    assert is_stop(change.encode())


@pytest.mark.parametrize("kind", [0, 0x302F, 0x3033, 0x23030, 0x13033])
def test_an_unknown_state_is_no_stop(kind: int) -> None:
    assert not is_stop(StateChange.build(kind).encode())


def test_a_short_state_change_is_no_stop() -> None:
    assert not is_stop(StateChange.build(EXCEPTION).encode()[:-1])
    assert not is_stop(b"")


@pytest.mark.parametrize("extra", [b"", b"\0" * 4, b"trace data"])
def test_trace_data_after_an_exception_is_kept(extra: bytes) -> None:
    payload = StateChange.exception(0x80000003, 0x1000, report=BLANK_REPORT).encode() + extra
    assert StateChange.decode(payload).data == extra


# Prints, prompts, trace data, hardware breakpoints


def test_prints_and_prompts_have_the_documented_bytes() -> None:
    assert DebugIo.print_string(b"hello\n", processor=1).encode() == bytes.fromhex(
        "30320000 0000 0100 06000000 00000000"
    ) + (b"hello\n")
    assert DebugIo.get_string(b"Break? ", 80).encode() == bytes.fromhex("31320000 0000 0000 07000000 50000000") + (
        b"Break? "
    )


def test_an_answer_says_how_long_it_is_and_is_cut_to_what_was_asked() -> None:
    prompt = DebugIo.get_string(b"Break? ", 2, processor=1)
    assert prompt.is_prompt
    assert prompt.answer(b"b").encode() == bytes.fromhex("31320000 0000 0100 07000000 01000000") + b"b"
    assert prompt.answer(b"boip").answer_text == b"bo"


@given(st.integers(0, 0xFFFFFFFF), st.binary(max_size=20))
def test_a_length_beyond_the_text_is_cut(length: int, text: bytes) -> None:
    payload = struct.pack("<IHHII", PRINT_STRING, 6, 0, length, 0x7FF) + text
    message = DebugIo.decode(payload)
    assert message.text == text[:length]
    assert not message.is_prompt
    assert message.encode() == payload


def test_prompt_text_is_cut_the_same_way() -> None:
    assert DebugIo.decode(struct.pack("<IHHII", GET_STRING, 6, 0, 99, 16) + b"Break").text == b"Break"


def test_trace_data_and_control_requests() -> None:
    trace = TraceIo.trace_data(b"abc", processor=1)
    assert trace.encode() == bytes.fromhex("30330000 0000 0100 03000000") + bytes(52) + b"abc"
    assert TraceIo(trace.replace(length=99).fixed, b"abc").trace == b"abc"
    assert ControlRequest.request_breakpoint(2).encode() == bytes.fromhex("00430000 02000000 00000000")
    assert ControlRequest.request_breakpoint(2).answer(True).encode() == bytes.fromhex("00430000 02000000 01000000")
    assert ControlRequest.release_breakpoint(2).encode() == bytes.fromhex("01430000 02000000 01000000")


# Files

MUI = r"\Windows\system32\en-GB\winload.efi.MUI"


def test_a_create_has_the_documented_bytes() -> None:
    create = FileIo.create(MUI)
    assert create.encode() == (
        bytes.fromhex("30340000 00000000 89001200 80000000 01000000 01000000 00000000")
        + bytes(36)
        + (MUI + "\0").encode("utf-16-le")
    )
    assert create.name == MUI
    assert FileIo(create.fixed, b"a\0b\0c").name == "ab\N{REPLACEMENT CHARACTER}"


@given(st.binary(min_size=60, max_size=60), st.sampled_from([0x3430, 0x3431, 0x3432, 0x3433, 0x3499]))
def test_a_refusal_is_the_same_64_bytes_with_a_status(garbage: bytes, api: int) -> None:
    request = FileIo.decode(api.to_bytes(4, "little") + garbage + MUI.encode("utf-16-le"))
    refusal = request.refusal()
    assert refusal.encode() == request.fixed[:4] + bytes.fromhex("0f0000c0") + request.fixed[8:]
    assert refusal.status == Status.NO_SUCH_FILE


def test_transfers_of_files_have_the_documented_bytes() -> None:
    transfer = bytes.fromhex("00000000 1100000000000000 2200000000000000 03000000") + bytes(36)
    assert FileIo.read(0x11, 0x22, 3).encode() == b"\x31\x34\0\0" + transfer
    assert FileIo.write(0x11, 0x22, b"abc").encode() == b"\x32\x34\0\0" + transfer + b"abc"
    assert FileIo.close(0x11).encode() == b"\x33\x34\0\0" + bytes(4) + b"\x11" + bytes(55)
    assert FileIo.read(1, 2, 3).reply(data=b"abc", length=3).encode()[64:] == b"abc"
    opened = FileIo.create(MUI).reply(handle=0x11, length=0x22).encode()
    assert opened[0x20:0x30] == struct.pack("<QQ", 0x11, 0x22)


# Small things


def test_statuses() -> None:
    good = [Status.SUCCESS, Status.PENDING, Status.DBG_CONTINUE, Status.DBG_EXCEPTION_HANDLED]
    assert all(is_success(status) for status in good)
    assert not any(is_success(status) for status in set(Status) - set(good))
    assert status_text(0xC000000F) == "C000000F no such file"
    assert status_text(0xC0FFEE) == "00C0FFEE"


def test_addresses_of_32_bit_targets() -> None:
    assert sign_extend(0x8052F4C4) == 0xFFFFFFFF8052F4C4
    assert sign_extend(0x7FFFFFFF) == 0x7FFFFFFF
    assert to_32_bit(0xFFFFFFFF8052F4C4) == 0x8052F4C4
    assert [machine.pointer_size for machine in (Machine.X86, Machine.AMD64, Machine.ARM, Machine.ARM64)] == [
        4,
        8,
        4,
        8,
    ]


def test_payloads_are_values() -> None:
    changed: Any = Manipulate.get_version()
    with pytest.raises(AttributeError):
        changed.data = b"x"
    assert Manipulate.get_version() == changed
    assert {changed: 1}[Manipulate.get_version()] == 1
