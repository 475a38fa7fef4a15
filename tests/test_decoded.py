"""What packets say, for people and for programs."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdsrv.kd.amd64 import ControlReport
from kdsrv.kd.bug_checks import BugCheck, bug_check_name, find_bug_check
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.machine import Machine
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import MAX_PAYLOAD, Packet, PacketType
from kdsrv.kd.state_change import StateChange
from kdsrv.kd.statuses import Status
from kdsrv.kd.version import Version
from kdsrv.sessions.decoded import BREAK_IN_SEEN, Direction, Seen, SeenKind, seen, seen_from_target, seen_to_target

KERNEL = 0xFFFFF80210000000
REPORT = ControlReport.build()


def asked(request: Manipulate) -> Seen:
    return seen_to_target(Packet(PacketType.STATE_MANIPULATE, request.encode()))


def replied(reply: Manipulate) -> Seen:
    return seen_from_target(Packet(PacketType.STATE_MANIPULATE, reply.encode()))


def printed(text: str) -> Seen:
    return seen_from_target(Packet(PacketType.DEBUG_IO, DebugIo.print_string(text.encode("cp1252")).encode()))


def stopped(change: StateChange) -> Seen:
    return seen_from_target(Packet(PacketType.STATE_CHANGE64, change.encode()))


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Manipulate.read_virtual(KERNEL, 504), "ReadVirtualMemory fffff802`10000000 length 504"),
        (Manipulate.write_physical(0x1000, b"abc"), "WritePhysicalMemory 00000000`00001000 length 3"),
        (Manipulate.read_msr(0xC0000080), "ReadMachineSpecificRegister register 0xc0000080"),
        (Manipulate.write_breakpoint(KERNEL), "WriteBreakpoint fffff802`10000000"),
        (Manipulate.restore_breakpoint(3), "RestoreBreakpoint handle 0x3"),
        (Manipulate.switch_processor(1), "SwitchProcessor to 1"),
        (Manipulate.get_version(), "GetVersion"),
        (Manipulate.get_context_ex(0x10, 0x20), "GetContextEx offset 0x10 length 32"),
        (Manipulate.reboot(), "Reboot"),
        (Manipulate.request(0x3199), "0x3199"),
    ],
)
def test_requests_are_told_by_name_and_place(request_: Manipulate, text: str) -> None:
    found = asked(request_)
    assert (found.kind, found.direction, found.text) == (SeenKind.REQUEST, Direction.TO_TARGET, text)


def test_numbers_of_64_bits_are_texts() -> None:
    assert asked(Manipulate.read_virtual(KERNEL, 504)).to_json() == {
        "kind": "request",
        "direction": "to-target",
        "text": "ReadVirtualMemory fffff802`10000000 length 504",
        "api": "ReadVirtualMemory",
        "processor": 0,
        "address": "0xfffff80210000000",
        "length": 504,
    }


def test_continuing_is_a_kind_of_its_own() -> None:
    found = asked(Manipulate.continue_(Status.DBG_EXCEPTION_NOT_HANDLED))
    assert (found.kind, found.text) == (SeenKind.CONTINUE, "continue: 80010001 dbg exception not handled")
    found = asked(Manipulate.continue2(trace=True))
    assert (found.text, found.data["step"]) == ("single step: 00010002 dbg continue", True)


def test_replies_have_their_status() -> None:
    read = Manipulate.read_virtual(KERNEL, 504)
    found = replied(read.reply(Status.SUCCESS, bytes(504), actual=504))
    assert (found.kind, found.text) == (SeenKind.REPLY, "ReadVirtualMemory: 00000000 success, 504 bytes")
    assert (found.data["address"], found.data["status"], found.data["bytes"]) == (f"{KERNEL:#x}", "0x0", 504)
    assert replied(read.reply(Status.UNSUCCESSFUL)).text == "ReadVirtualMemory: C0000001 unsuccessful"
    assert replied(Manipulate.write_breakpoint(KERNEL).reply(handle=5)).text == (
        "WriteBreakpoint: 00000000 success, handle 0x5"
    )
    version = Version.build(minor_version=17134, machine_type=Machine.AMD64, kernel_base=KERNEL)
    assert replied(Manipulate.get_version().reply_version(version)).text == (
        "GetVersion: 00000000 success, build 17134 on AMD64"
    )


def test_prints_keep_their_line_ends_apart() -> None:
    found = printed("half a \x1b[31mline\ngr\u00fcn\r\n")
    assert (found.kind, found.text) == (SeenKind.PRINT, r"half a \x1b[31mline\ngr" + "\u00fcn")
    assert found.data["printed"] == "half a \x1b[31mline\ngr\u00fcn\r\n"


CRASH = (
    "\n*** Fatal System Error: 0x000000d1\n"
    "                       (0x0000000000000028,0x0000000000000002,0x0000000000000000,0xFFFFF80210001020)\n\n"
)


def test_a_crash_is_told_by_name() -> None:
    found = printed(CRASH)
    assert found.kind is SeenKind.BUG_CHECK
    assert found.text == "bugcheck 0xd1 DRIVER_IRQL_NOT_LESS_OR_EQUAL (0x28, 0x2, 0x0, 0xfffff80210001020)"
    assert (found.data["code"], found.data["name"]) == ("0xd1", "DRIVER_IRQL_NOT_LESS_OR_EQUAL")
    assert found.data["parameters"] == ["0x28", "0x2", "0x0", "0xfffff80210001020"]
    assert printed("*** Fatal System Error: 0x00004711\n").text == "bugcheck 0x4711 (unknown code)"
    assert printed("*** Fatal System Error: none\n").kind is SeenKind.PRINT


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x0A, "IRQL_NOT_LESS_OR_EQUAL"),
        (0x1000007E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED"),
        (0xC000021A, "WINLOGON_FATAL_ERROR"),
        (0xDEADDEAD, "MANUALLY_INITIATED_CRASH1"),
        (0x4711, None),
    ],
)
def test_names_of_crashes(code: int, name: str | None) -> None:
    assert bug_check_name(code) == name


def test_parameters_of_32_bits() -> None:
    text = b"\n*** Fatal System Error: 0x0000007b\n (0xF789EA94,0xC0000034,0x00000000,0x00000000)\n\n"
    assert find_bug_check(text) == BugCheck(0x7B, (0xF789EA94, 0xC0000034, 0, 0))


def test_stops() -> None:
    found = stopped(StateChange.exception(0x80000003, KERNEL, report=REPORT, processor=1))
    assert (found.kind, found.text) == (SeenKind.STOP, "halted: breakpoint at fffff802`10000000 on processor 1")
    assert found.data == {"processor": 1, "reason": "breakpoint", "code": "0x80000003", "address": f"{KERNEL:#x}"}
    found = stopped(StateChange.load_symbols(b"\\driver\x1b.sys", KERNEL, report=REPORT, image_size=0x7000))
    assert (found.kind, found.text) == (SeenKind.MODULE_LOAD, r"loaded fffff802`10000000 \driver\x1b.sys")
    assert (found.data["base"], found.data["size"]) == (f"{KERNEL:#x}", 0x7000)
    found = stopped(StateChange.load_symbols(b"driver.sys", KERNEL, report=REPORT, unload=True))
    assert (found.kind, found.text) == (SeenKind.MODULE_UNLOAD, "unloaded fffff802`10000000 driver.sys")
    found = stopped(StateChange.reboot(report=REPORT))
    assert (found.kind, found.text) == (SeenKind.STOP, "halted: the target goes down (reboot)")
    found = stopped(StateChange.command_string(b"x", b".echo hello", report=REPORT))
    assert (found.kind, found.data["command"]) == (SeenKind.STOP, ".echo hello")
    assert seen_from_target(Packet(PacketType.STATE_CHANGE32, bytes(100))).kind is SeenKind.STOP


def test_prompts_and_files() -> None:
    prompt = DebugIo.get_string(b"Break, Ignore? ", 2)
    found = seen_from_target(Packet(PacketType.DEBUG_IO, prompt.encode()))
    assert (found.kind, found.text, found.data["most"]) == (SeenKind.PROMPT, "prompt: Break, Ignore? ", 2)
    found = seen_to_target(Packet(PacketType.DEBUG_IO, prompt.answer(b"i").encode()))
    assert (found.kind, found.text) == (SeenKind.PROMPT, "answer: i")
    create = FileIo.create("\\SystemRoot\\x.sys")
    found = seen_from_target(Packet(PacketType.FILE_IO, create.encode()))
    assert (found.kind, found.text) == (SeenKind.FILE, "file asked for: \\SystemRoot\\x.sys")
    found = seen_to_target(Packet(PacketType.FILE_IO, create.refusal().encode()))
    assert (found.kind, found.text) == (SeenKind.FILE, "file open answered: C000000F no such file")
    found = seen_from_target(Packet(PacketType.FILE_IO, FileIo.read(7, 0x1000, 512).encode()))
    assert found.text == "file read: handle 0x7 offset 0x1000 length 512"


def test_a_break_in() -> None:
    assert BREAK_IN_SEEN.to_json() == {"kind": "break-in", "direction": "to-target", "text": "break in"}


@given(
    st.sampled_from(Direction),
    st.sampled_from([*map(int, PacketType), 0, 8, 0xFFFF]),
    st.one_of(
        st.binary(max_size=300),
        st.builds(
            lambda kind, rest: kind.to_bytes(4, "little") + rest,
            st.one_of(st.integers(0x3030, 0x3440), st.integers(0x13030, 0x13032)),
            st.binary(min_size=40, max_size=300),
        ),
    ),
)
@example(Direction.FROM_TARGET, 3, DebugIo.print_string(b"\x1b" * (MAX_PAYLOAD - 16)).encode())
@example(Direction.FROM_TARGET, 3, DebugIo.print_string(b"\x81" * (MAX_PAYLOAD - 16)).encode())
@example(Direction.TO_TARGET, 3, DebugIo.print_string(b"").encode() + bytes(MAX_PAYLOAD - 16))
@example(Direction.FROM_TARGET, 11, FileIo.create("\x85" * 1900).encode())
def test_every_payload_comes_out_as_something(direction: Direction, kind: int, payload: bytes) -> None:
    found = seen(direction, Packet(kind, payload))
    assert found.direction is direction
    assert found.text.isprintable()
    assert len(json.dumps(found.to_json())) <= 48 * 1024
