"""What is said of a target on KDNET that is not connected."""

from __future__ import annotations

import json

import pytest

from kdsrv.errors import PeerError
from kdsrv.sessions.net_status import (
    NET_READERS,
    NetRebooted,
    NetSilent,
    NetTakenOver,
    NetUnanswered,
    NetWaiting,
    NetWrongKey,
)
from kdsrv.sessions.status import RunState, Status, status_from_json

PLACE = "192.0.2.7:50000"

EACH = [
    (NetWaiting(50000, 5.9), "waiting for an OFFER on UDP port 50000"),
    (
        NetWaiting(50000, 1.0, foreign=7, address=PLACE),
        "no OFFER of the target on UDP port 50000 for 1 s; 7 datagrams came that are not KDNET's, last from "
        "192.0.2.7:50000: something else uses this port",
    ),
    (
        NetWaiting(50000, 12.0),
        "no OFFER of the target on UDP port 50000 for 12 s, and nothing else either: is it up, does its "
        "bcdedit /dbgsettings name this host and port, does a firewall drop UDP here?",
    ),
    (
        NetWaiting(50000, 12.0, foreign=7, address=PLACE),
        "no OFFER of the target on UDP port 50000 for 12 s; 7 datagrams came that are not KDNET's, last from "
        "192.0.2.7:50000: something else uses this port",
    ),
    (
        NetWaiting(50000, 12.0, foreign=7, data=3, address=PLACE),
        "no OFFER of the target on UDP port 50000 for 12 s; 3 datagrams of another debug session came, last from "
        "192.0.2.7:50000: if that is the target, compare the key, or reboot it",
    ),
    (
        NetWrongKey(50000, PLACE, 2),
        "wrong key? 2 OFFERs on UDP port 50000 did not authenticate, the last from 192.0.2.7:50000: compare key= with "
        "what bcdedit /dbgsettings shows on the target",
    ),
    (
        NetUnanswered(PLACE, 3),
        "3 OFFERs of the target at 192.0.2.7:50000 were answered, and it does not go on: do datagrams from this host "
        "reach it? a firewall may be in between",
    ),
    (
        NetTakenOver(PLACE, "192.0.2.8:50000"),
        "the target at 192.0.2.7:50000 was taken over by the debugger at 192.0.2.8:50000: it is back when it reboots; "
        "to have it sooner, end that one and attach again, with target=",
    ),
    (
        NetSilent(PLACE, 15.0),
        "nothing from the target at 192.0.2.7:50000 for 15 s, not even its OFFER every 3 s: it is off, starts, or has "
        "lost the network; waiting for it",
    ),
    (
        NetRebooted(PLACE),
        "the target at 192.0.2.7:50000 has started anew: breakpoints and what was asked are gone",
    ),
]


@pytest.mark.parametrize(("status", "sentence"), EACH)
def test_each_status(status: Status, sentence: str) -> None:
    assert status.run_state is RunState.UNKNOWN
    assert status.sentence() == sentence
    value = json.loads(json.dumps(status.to_json()))
    assert value["sentence"] == sentence
    assert status_from_json(value) == status


def test_every_kind_is_among_them() -> None:
    assert {type(status).kind for status, _ in EACH} == set(NET_READERS)


@pytest.mark.parametrize(("status", "sentence"), EACH)
def test_a_field_that_does_not_fit_is_refused(status: Status, sentence: str) -> None:
    good = status.to_json()
    for name in good.keys() - {"kind", "run_state", "sentence"}:
        with pytest.raises(PeerError, match=f"'{name}' in its status"):
            status_from_json({**good, name: ["wrong"]})
