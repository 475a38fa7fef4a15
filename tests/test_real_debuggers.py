"""What the interop tests rely on: a debugger's output is read rightly, and a missing debugger is not passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from real_debuggers import (
    Transcript,
    ntoseye_bytes,
    ntoseye_registers,
    radare2_bytes,
    radare2_registers,
    run_ntoseye,
    run_radare2,
)

Run = Callable[[Path, list[str]], Transcript]


def test_ntoseye_registers() -> None:
    answer = """
rax 0000000000000000   rbx 3333333333333333   rcx 1111111111111111
r8  8888888888888888   r9  9999999999999999   r10 aaaaaaaaaaaaaaaa
r14 eeeeeeeeeeeeeeee   r15 0000000000000001   rfl 0000000000000246 [PF ZF IF]

cs  0010   ds  002b   es  002b
"""
    registers = ntoseye_registers(answer)
    assert len(registers) == 12
    assert registers["rbx"] == 0x3333333333333333
    assert (registers["r8"], registers["r15"], registers["rfl"]) == (0x8888888888888888, 1, 0x246)
    assert (registers["cs"], registers["es"]) == (0x10, 0x2B)
    assert ntoseye_registers("rip=fffff80000101020") == {"rip": 0xFFFFF80000101020}


def test_ntoseye_bytes() -> None:
    answer = """
fffff80000101000  41 42 90 90 90 90 90 90-90 90 90 90 90 90 90 90  AB..............
fffff80000101010  cc 00 ?? ?? ?? ?? ?? ??-?? ?? ?? ?? ?? ?? ?? ??  ..??????????????
"""
    assert ntoseye_bytes(answer) == b"AB" + b"\x90" * 14 + b"\xcc\x00"
    assert ntoseye_bytes("0000000000000000  ?? ?? ?? ?? ?? ?? ?? ??-?? ?? ?? ?? ?? ?? ?? ??  ????????????????") == b""


def test_radare2_registers() -> None:
    assert radare2_registers("rflags = 0x00000246\nrax = 0x00000000\nr15 = 0xfffff80000101010") == {
        "rflags": 0x246,
        "rax": 0,
        "r15": 0xFFFFF80000101010,
    }


def test_radare2_bytes() -> None:
    assert radare2_bytes("4d5a9000") == b"MZ\x90\0"


@pytest.mark.parametrize("run", [run_ntoseye, run_radare2])
def test_a_missing_debugger_skips_the_test_and_fails_it_in_ci(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSRV_PEERS", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="is not in the environment that KDSRV_PEERS names"):
        run(tmp_path / "socket", ["r"])
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="is not in the environment that KDSRV_PEERS names"):
        run(tmp_path / "socket", ["r"])


@pytest.mark.interop
@pytest.mark.parametrize("run", [run_ntoseye, run_radare2])
def test_a_debugger_that_attaches_to_nothing_fails_the_test(run: Run, tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="answered 0 commands of 1"):
        run(tmp_path / "socket", ["r"])
