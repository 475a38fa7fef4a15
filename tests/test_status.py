from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsrv.errors import PeerError
from kdsrv.sessions.status import (
    BreakingIn,
    Connected,
    Halted,
    HaltReason,
    Interrupted,
    Lost,
    Noise,
    Opening,
    Quiet,
    Rebooting,
    Refused,
    Running,
    RunState,
    Status,
    UnknownStatus,
    status_from_json,
)

RIP = 0xFFFFF80312345678

EACH = [
    (Opening("com:port=com1,baud=19200"), "unknown", "opening com:port=com1,baud=19200"),
    (Quiet(5.2), "unknown", "no byte from the target for 5 s: it is running, off, or nothing is connected"),
    (Connected(5.2), "unknown", "the target is connected and has said nothing yet"),
    (Connected(6.2), "unknown", "the target is connected and has said nothing for 6 s: it is running"),
    (Noise(17), "unknown", "17 bytes came but no KD packet: wrong baud rate?"),
    (
        Noise(17, 115200, (57600,)),
        "unknown",
        "17 bytes came but no KD packet: at 115200 baud they look like KD at 57600",
    ),
    (
        Noise(17, 115200, (57600, 9600)),
        "unknown",
        "17 bytes came but no KD packet: at 115200 baud they look like KD at 57600 or 9600",
    ),
    (BreakingIn(3.0), "unknown", "break-in sent 3 s ago, no answer yet"),
    (BreakingIn(3.0, 9), "unknown", "break-in sent 3 s ago, no answer yet (9 bytes came)"),
    (Running(), "running", "running"),
    (
        Halted(0, HaltReason.BREAKPOINT, 0x80000003, RIP),
        "halted",
        "halted: breakpoint at fffff803`12345678 on processor 0",
    ),
    (
        Halted(1, HaltReason.SINGLE_STEP, 0x80000004, RIP),
        "halted",
        "halted: single step at fffff803`12345678 on processor 1",
    ),
    (Halted(3, HaltReason.PROCESSOR_SWITCH, 0x80000007, RIP), "halted", "halted: switched to processor 3"),
    (
        Halted(0, HaltReason.EXCEPTION, 0xC0000005, 0x1000),
        "halted",
        "halted: exception c0000005 at 00000000`00001000 on processor 0",
    ),
    (
        Halted(0, HaltReason.MODULE_LOAD, address=RIP, text="\\SystemRoot\\x.sys"),
        "halted",
        "halted: module load \\SystemRoot\\x.sys",
    ),
    (Halted(0, HaltReason.MODULE_UNLOAD, text="x.sys"), "halted", "halted: module unload x.sys"),
    (Halted(0, HaltReason.COMMAND, text="!help"), "halted", "halted: command !help"),
    (Rebooting(), "running", "the target reboots"),
    (Interrupted("the VM is off"), "unknown", "waiting: the VM is off"),
    (Lost("unplugged"), "unknown", "the line is lost: unplugged"),
    (
        Refused("Continue", RunState.HALTED),
        "halted",
        "you may only look (read-only): Continue does not reach the target",
    ),
    (UnknownStatus("melting", "it melts", RunState.HALTED), "halted", "it melts"),
]


@pytest.mark.parametrize(("status", "run_state", "sentence"), EACH)
def test_each_status(status: Status, run_state: str, sentence: str) -> None:
    assert status.run_state == run_state
    assert status.sentence() == sentence
    value = json.loads(json.dumps(status.to_json()))
    assert value["sentence"] == sentence
    assert value["run_state"] == run_state
    assert status_from_json(value) == status


def test_every_kind_is_among_them() -> None:
    every = (*Status.__subclasses__(), *Quiet.__subclasses__())
    own = {each.__name__ for each in every if each.__module__ == Status.__module__}
    assert {type(status).__name__ for status, _, _ in EACH} == own


def test_every_halt_reason_is_among_them() -> None:
    assert {status.reason for status, _, _ in EACH if isinstance(status, Halted)} == set(HaltReason)


def test_json_of_a_stop() -> None:
    assert Halted(0, HaltReason.BREAKPOINT, 0x80000003, RIP).to_json() == {
        "kind": "halted",
        "processor": 0,
        "reason": "breakpoint",
        "code": "0x80000003",
        "address": "0xfffff80312345678",
        "text": "",
        "run_state": "halted",
        "sentence": "halted: breakpoint at fffff803`12345678 on processor 0",
    }


def test_exception_codes_that_have_a_name() -> None:
    reasons = [HaltReason.of_exception(code) for code in (0x80000003, 0x80000004, 0x80000007, 0xC0000005)]
    assert reasons == ["breakpoint", "single-step", "processor-switch", "exception"]


def test_noise_of_a_peer_that_tells_no_rates() -> None:
    value = {"kind": "noise", "bytes": 9, "run_state": "unknown", "sentence": "noise"}
    assert status_from_json(value) == Noise(9)


def test_what_a_target_says_cannot_reach_a_terminal_raw() -> None:
    status = Halted(0, HaltReason.MODULE_LOAD, text="x\x1b[2J\r\n.sys")
    assert status.sentence() == "halted: module load x?[2J??.sys"
    assert status_from_json(status.to_json()) == Halted(0, HaltReason.MODULE_LOAD, text="x?[2J??.sys")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"kind": 1},
        {"kind": "quiet"},
        {"kind": "quiet", "seconds": float("inf")},
        {"kind": "quiet", "seconds": 10**400},
        {"kind": "quiet", "seconds": True},
        {"kind": "noise", "bytes": -1},
        {"kind": "noise", "bytes": 1, "baud": 9600, "rates": 19200},
        {"kind": "halted", "processor": 0, "reason": "boredom", "code": "0x1", "address": "0x1", "text": ""},
        {"kind": "halted", "processor": 0, "reason": "breakpoint", "code": 1, "address": "0x1", "text": ""},
        {"kind": "halted", "processor": 0, "reason": "breakpoint", "code": "0x1", "address": "1", "text": ""},
        {
            "kind": "halted",
            "processor": 0,
            "reason": "breakpoint",
            "code": "0x1",
            "address": "0x" + "1" * 17,
            "text": "",
        },
        {"kind": "melting", "sentence": "it melts"},
        {"kind": "melting", "sentence": "it melts", "run_state": "molten"},
        {"kind": "melting", "run_state": "halted"},
    ],
)
def test_what_is_no_status_is_refused(value: object) -> None:
    with pytest.raises(PeerError):
        status_from_json(value)


@given(
    st.builds(
        Halted,
        st.integers(0, 2**16),
        st.sampled_from(HaltReason),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**64 - 1),
    )
)
@settings(deadline=None)
def test_stops_survive(status: Halted) -> None:
    assert status_from_json(json.loads(json.dumps(status.to_json()))) == status
