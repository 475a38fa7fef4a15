from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from wire_transcript import login, resumed_transcript, transcript, watch_transcript

from kdsrv.auth.passwords import LEAST_ITERATIONS, MOST_ITERATIONS
from kdsrv.kd.api import NO_REPLY
from kdsrv.sessions import status
from kdsrv.sessions.decoded import SeenKind
from kdsrv.sessions.link_status import LINK_READERS
from kdsrv.sessions.net_status import NET_READERS
from kdsrv.wire import messages
from kdsrv.wire.connection import State
from kdsrv.wire.frames import FrameKind
from kdsrv.wire.ledger import CONFIRM_BYTES, CONFIRM_FRAMES, MAX_KEPT_BYTES, MAX_KEPT_FRAMES
from kdsrv.wire.members import MAX_BASE64

DOCUMENT = (Path(__file__).parent.parent / "docs" / "wire-protocol.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "made"),
    [("transcript", transcript), ("resumed-transcript", resumed_transcript), ("watch-transcript", watch_transcript)],
)
def test_the_examples_are_what_the_implementation_says(name: str, made: Callable[[], str]) -> None:
    example = re.search(f"```{name}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert example is not None
    assert example[1] == made()


def test_the_login_in_it_is_spelt_out() -> None:
    example = re.search("```login\n(.*?)```", DOCUMENT, re.DOTALL)
    assert example is not None
    assert example[1].splitlines() == [f"{role}  {data.decode()}" for role, data in login()]


def test_the_bounds_of_a_login_are_described() -> None:
    assert f"Iterations are {LEAST_ITERATIONS} to {MOST_ITERATIONS}" in DOCUMENT
    assert f"*base64* is a text of at most {MAX_BASE64} characters" in DOCUMENT


@pytest.mark.parametrize(
    "kind",
    sorted(
        {each.kind for each in status.Status.__subclasses__() if hasattr(each, "kind")} | {*LINK_READERS, *NET_READERS}
    ),
)
def test_every_kind_of_status_is_described(kind: str) -> None:
    assert f"\n| `{kind}` |" in DOCUMENT


@pytest.mark.parametrize("kind", [*SeenKind, "holder", "end"])
def test_every_kind_of_line_is_described(kind: str) -> None:
    assert re.search(rf"\n\| (`[a-z-]+`, )*`{kind}`(, `[a-z-]+`)* \|", DOCUMENT)


@pytest.mark.parametrize("kind", FrameKind)
def test_every_kind_of_frame_is_described(kind: FrameKind) -> None:
    assert f"\n| {kind} | {kind.name.lower().replace('_', '-')} |" in DOCUMENT


def test_the_bounds_of_what_is_kept_are_described() -> None:
    assert f"{CONFIRM_FRAMES} numbered frames, or {CONFIRM_BYTES // 1024} KiB" in DOCUMENT
    assert "has not confirmed twice as much is an error" in DOCUMENT
    assert f"more than {MAX_KEPT_BYTES >> 20} MiB, or more than {MAX_KEPT_FRAMES} frames" in DOCUMENT


@pytest.mark.parametrize("reason", status.HaltReason)
def test_every_reason_of_a_stop_is_described(reason: str) -> None:
    assert f"`{reason}`" in DOCUMENT


@pytest.mark.parametrize("kind", sorted({each.type for each in messages.Message.__subclasses__()}))
def test_every_message_is_described(kind: str) -> None:
    assert f"\n| `{kind}` |" in DOCUMENT


@pytest.mark.parametrize("state", [state.value for state in State if state is not State.ERROR])
def test_every_state_is_described(state: str) -> None:
    assert f"\n| {state} |" in DOCUMENT


@pytest.mark.parametrize("api", sorted(NO_REPLY))
def test_every_request_that_does_not_count_is_named(api: int) -> None:
    assert f"0x{api:04X}" in DOCUMENT
