"""Recordings as files: what is written comes back, in whatever pieces it is read; what is none is refused."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import BEGIN, printed, stopped

from kdsrv.kd.packets import Packet
from kdsrv.recorder.entries import BreakInSent, Entry, EntryReader, Note, PacketSeen, entry_block, head_blocks
from kdsrv.recorder.pcapng import (
    CapturedPacket,
    FormatError,
    Interface,
    PcapngReader,
    Section,
    interface_block,
    packet_block,
    section_block,
)
from kdsrv.recorder.reading import RecordingError, read_recording
from kdsrv.sessions.decoded import Direction

TIMES = st.integers(0, (1 << 63) - 1)
JSON = st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=20), st.integers()), max_size=4)
PACKETS = st.builds(Packet, st.integers(0, 0xFFFF), st.binary(max_size=300))
ENTRIES = st.one_of(
    st.builds(PacketSeen, TIMES, st.sampled_from(Direction), PACKETS),
    st.builds(BreakInSent, TIMES),
    st.builds(Note, TIMES, st.text(max_size=8), st.text(max_size=40), JSON),
)


def head() -> bytes:
    return head_blocks("kdsrv 1", "rack1", "a line")


def read(data: bytes, piece: int | None = None) -> list[Entry]:
    reader = EntryReader()
    size = piece or max(1, len(data))
    return [entry for at in range(0, len(data), size) for entry in reader.feed(data[at : at + size])]


@given(st.lists(ENTRIES, max_size=6), st.text(max_size=20), st.integers(1, 50))
def test_entries_come_back_in_any_pieces(entries: list[Entry], comment: str, piece: int) -> None:
    written = [e for e in entries if not isinstance(e, Note) or not {"kind", "text"} & e.data.keys()]
    data = head() + b"".join(entry_block(entry, comment) for entry in written)
    assert read(data) == written
    assert read(data, piece) == written


@given(TIMES, st.binary(max_size=40), st.sampled_from([True, False, None]), st.text())
def test_blocks_come_back(time: int, data: bytes, inbound: bool | None, comment: str) -> None:
    comment = comment.encode("utf-8", "replace").decode()
    blocks = section_block("kdsrv 1") + interface_block("a", "b")
    blocks += packet_block(0, time, data, inbound=inbound, comment=comment)
    assert list(PcapngReader().feed(blocks)) == [
        Section("kdsrv 1"),
        Interface(252, "a", "b"),
        CapturedPacket(0, time, data, inbound, comment),
    ]


def test_a_long_comment_is_cut_between_characters() -> None:
    block = packet_block(0, 0, b"", comment="x" + "\u20ac" * 40_000)
    *_, packet = PcapngReader().feed(section_block("") + interface_block("", "") + block)
    assert isinstance(packet, CapturedPacket)
    assert packet.comment == "x" + "\u20ac" * 21844


def test_times_of_other_writers_are_understood() -> None:
    """Microseconds, where nothing is said of it, and powers of two."""
    plain = bytes.fromhex("01000000 14000000 fc00 0000 00000000 14000000")
    powers = bytes.fromhex("01000000 1c000000 fc00 0000 00000000 0900 0100 8a000000 1c000000")
    blocks = section_block("") + plain + powers + packet_block(0, 5, b"") + packet_block(1, 512, b"")
    times = [block.time for block in PcapngReader().feed(blocks) if isinstance(block, CapturedPacket)]
    assert times == [5000, 500_000_000]


@given(st.data())
def test_what_is_cut_off_anywhere_is_good_up_to_there(data: st.DataObject) -> None:
    entries: list[Entry] = [PacketSeen(BEGIN, Direction.FROM_TARGET, printed("a")), BreakInSent(BEGIN + 1)]
    blocks = [head(), *map(entry_block, entries)]
    whole = b"".join(blocks)
    end = data.draw(st.integers(len(blocks[0]), len(whole)))
    reader = EntryReader()
    found = list(reader.feed(whole[:end]))
    assert found == entries[: len(found)]
    assert reader.is_torn == (end != len(b"".join(blocks[: 1 + len(found)])))


@given(st.data())
def test_damage_does_no_harm(data: st.DataObject) -> None:
    whole = bytearray(head() + entry_block(PacketSeen(BEGIN, Direction.FROM_TARGET, stopped()), "a stop"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    with suppress(FormatError):
        read(bytes(whole))


@given(st.binary(max_size=200))
def test_no_bytes_do_any_harm(data: bytes) -> None:
    for begin in (b"", section_block("x"), section_block("x") + interface_block("x", "y")):
        with suppress(FormatError):
            read(begin + data)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no recording of kdsrv: there is nothing in it"),
        (b"# A text\n", "no pcapng file, or a damaged one: it does not begin as one"),
        (b"\xd4\xc3\xb2\xa1\x02\x00", "no pcapng file, or a damaged one: it does not begin as one"),
        (
            section_block("dumpcap") + interface_block("eth0", "", 1),
            "it holds packets of link type 1, those of KD have 252",
        ),
        (
            bytes.fromhex("0a0d0d0a 1c000000 1a2b3c4d") + bytes(12) + b"\x1c\0\0\0",
            "its byte order is not that of kdsrv",
        ),
        (section_block("x") + bytes.fromhex("06000000 ffffff7f 00000000"), "a block of 2147483647 bytes"),
    ],
)
def test_other_files_are_refused(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(RecordingError) as caught:
        list(read_recording(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert why in str(caught.value)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(RecordingError, match=why):
            list(read_recording(path))
