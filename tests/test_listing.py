"""What a server tells of itself: to whom, and never more than fits into a message."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from kdsrv.auth.users import ANYBODY, Role, User
from kdsrv.kd.link import LinkCounters
from kdsrv.server.listing import make_listing
from kdsrv.sessions.lease import Lease
from kdsrv.sessions.status import Running, RunState, Status
from kdsrv.wire.frames import FrameKind, encode
from kdsrv.wire.messages import Listing, decode
from kdsrv.wire.messages import Role as Side
from kdsrv.wire.messages import encode as encoded

SINCE = 1_764_079_200.0
"""2025-11-25, 14:00 UTC."""


@dataclass
class Link:
    counters: LinkCounters = field(default_factory=LinkCounters)
    noise: int = 0


@dataclass
class Session:
    name: str
    lease: Lease
    link: Link = field(default_factory=Link)
    run_state: RunState = RunState.RUNNING
    status: Status = field(default_factory=Running)
    read_only: bool = False
    description: str = "/dev/ttyS0 at 9600 baud"


def session(name: str, key: str, holder: str = "kim@desk") -> Session:
    return Session(name, Lease(key, holder, "192.0.2.7:4000", SINCE))


def listing(user: User, published: dict[str, str | None], *sessions: Session) -> Listing:
    made = make_listing("kdsrv 0.1.0", user, published, sessions, SINCE + 61.5)
    sent = decode(encoded(made), Side.SERVER)
    assert sent == made, "it crosses the network as it is"
    return made


PUBLISHED: dict[str, str | None] = {"rack1": "serial:/dev/ttyUSB0", "rack2": "serial:/dev/ttyUSB1", "rack3": None}


def test_everything_there_is_to_tell() -> None:
    busy = session("com:port=/dev/ttyS0,baud=9600", "serial:/dev/ttyS0")
    busy.link.counters.packets_received = 12
    busy.link.counters.repeats_sent = 3
    busy.link.counters.damaged = 2
    busy.link.noise = 5
    busy.read_only = True
    told = listing(User("kim"), PUBLISHED, busy, session("target:name=rack2", "serial:/dev/ttyUSB1"))
    assert told.server == {"software": "kdsrv 0.1.0", "user": "kim", "role": "full", "left_out": 0}
    assert told.targets == [
        {"name": "rack1", "state": "free"},
        {"name": "rack2", "state": "held"},
        {"name": "rack3", "state": "free"},
    ]
    assert [entry["target"] for entry in told.sessions] == ["com:port=/dev/ttyS0,baud=9600", "target:name=rack2"]
    assert told.sessions[1]["description"] is None, "it is published, and goes by its name"
    counters = told.sessions[0].pop("counters")
    assert isinstance(counters, dict)
    assert {name: count for name, count in counters.items() if count} == {
        "packets_received": 12,
        "repeats_sent": 3,
        "damaged": 2,
        "noise": 5,
    }
    assert told.sessions[0] == {
        "target": "com:port=/dev/ttyS0,baud=9600",
        "description": "/dev/ttyS0 at 9600 baud",
        "holder": "kim@desk",
        "address": "192.0.2.7:4000",
        "absence": None,
        "since": "2025-11-25T14:00:00+00:00",
        "seconds": 61,
        "read_only": True,
        "run_state": "running",
        "status": "running",
    }


def test_a_published_target_is_never_listed_by_what_stands_behind_it() -> None:
    """Not even where the server's own bridge has opened it by its kd-string."""
    told = listing(ANYBODY, PUBLISHED, session("com:port=/dev/ttyUSB0,baud=9600", "serial:/dev/ttyUSB0"))
    assert told.sessions[0]["target"] == "target:name=rack1"
    assert "/dev/" not in json.dumps(told.members())


def test_a_user_bound_to_targets_sees_no_other_session() -> None:
    kim = User("kim", Role.READ_ONLY, ("rack1",))
    mine, other, adhoc = (session("", key) for key in ("serial:/dev/ttyUSB0", "serial:/dev/ttyUSB1", "sim:a"))
    told = listing(kim, {"rack1": "serial:/dev/ttyUSB0"}, mine, other, adhoc)
    assert [entry["target"] for entry in told.sessions] == ["target:name=rack1"]
    assert told.server["role"] == "read-only"
    assert len(listing(ANYBODY, {}, mine, other, adhoc).sessions) == 3


@pytest.mark.parametrize("char", ["x", "\u20ac", "\N{PILE OF POO}", '"', "\x1b", "\ud800", "\u202e"])
def test_a_listing_fits_into_a_message_whatever_people_call_themselves(char: str) -> None:
    sessions = [session(f"sim:name={n}", f"sim:{n}", holder=char * 5000) for n in range(300)]
    told = listing(User(char * 5000), {f"rack{n}": None for n in range(300)}, *sessions)
    assert len(encode(FrameKind.CONTROL, encoded(told))) < 65536
    left_out = told.server["left_out"]
    assert isinstance(left_out, int)
    assert len(told.targets) == 300
    assert 0 < len(told.sessions) == 300 - left_out
