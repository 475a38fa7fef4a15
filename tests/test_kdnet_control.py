"""OFFER, RESPONSE and connect check of KDNET, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdnet_vectors import CLIENT_KEY, HOST_KEY, VECTORS

from kdsrv.kdnet.control import NOWHERE, ConnectCheck, NewestOffers, Offer, Response

keys = st.binary(min_size=32, max_size=32)
addresses = st.tuples(st.ip_addresses().map(str), st.integers(0, 0xFFFF)).filter(lambda at: "%" not in at[0])


def test_the_known_offer() -> None:
    payload = VECTORS["OFFER"].payload
    offer = Offer.decode(payload)
    assert offer == Offer(CLIENT_KEY, ("10.0.0.2", 50000), ("10.0.0.1", 50000), NOWHERE)
    assert not offer.is_bound
    assert offer.counter == 0x03020100
    assert offer.base == CLIENT_KEY[4:]
    assert offer.encode() == payload
    assert len(payload) == 344


def test_the_known_response() -> None:
    payload = VECTORS["RESPONSE"].payload
    assert Response.decode(payload) == Response(CLIENT_KEY, HOST_KEY)
    assert Response(CLIENT_KEY, HOST_KEY).encode() == payload
    assert len(payload) == 322


def test_the_known_check() -> None:
    payload = VECTORS["CONNECT_CHECK"].payload
    assert ConnectCheck.decode(payload) == ConnectCheck("10.0.0.1")
    assert ConnectCheck("10.0.0.1").encode() == payload


@given(keys, addresses, addresses, addresses)
def test_every_offer_reads_as_it_was_written(
    key: bytes, own: tuple[str, int], host: tuple[str, int], bound: tuple[str, int]
) -> None:
    offer = Offer(key, own, host, bound)
    read = Offer.decode(offer.encode())
    assert read is not None
    assert read.encode() == offer.encode()
    assert (read.client_key, read.bound[1]) == (key, bound[1])


@given(st.integers(34, 343))
def test_of_a_short_offer_what_is_missing_is_zero(size: int) -> None:
    whole = Offer(CLIENT_KEY, ("10.0.0.2", 50000), ("10.0.0.1", 50000), ("10.0.0.1", 50000)).encode()
    offer = Offer.decode(whole[:size])
    assert offer is not None
    assert offer.client_key == CLIENT_KEY
    assert offer == Offer.decode(whole[:size].ljust(344, b"\0"))
    assert offer.is_bound == (size > 86)


def offer_of(boot: int, counter: int) -> Offer:
    return Offer(counter.to_bytes(4, "little") + boot.to_bytes(28, "big"), NOWHERE, NOWHERE)


def test_which_offers_are_newer_than_all_before() -> None:
    newest = NewestOffers()
    counters = [5, 6, 6, 5, 9, 8, 0x80000008, 0xFFFFFFFF, 2, 0xFFFFFFFF]
    newer = [True, True, False, False, True, False, True, True, True, False]
    assert [newest.add(offer_of(1, counter)) for counter in counters] == newer
    assert newest.add(offer_of(2, 1)), "another boot counts for itself"
    assert not newest.add(offer_of(1, 2))
    newest.restart(offer_of(1, 2))
    assert newest.add(offer_of(1, 3))


def test_of_boots_only_the_last_are_remembered() -> None:
    newest = NewestOffers()
    assert all(newest.add(offer_of(boot, 7)) for boot in range(100))
    assert [newest.add(offer_of(boot, 7)) for boot in (99, 92, 91)] == [False, False, True]


@pytest.mark.parametrize("payload", [b"", b"\x01\x01", VECTORS["OFFER"].payload[:33], VECTORS["RESPONSE"].payload])
def test_what_is_no_offer(payload: bytes) -> None:
    assert Offer.decode(payload) is None


@pytest.mark.parametrize(
    "payload", [b"", VECTORS["OFFER"].payload, VECTORS["RESPONSE"].payload[:-1], VECTORS["RESPONSE"].payload + b"\0"]
)
def test_what_is_no_response(payload: bytes) -> None:
    assert Response.decode(payload) is None


@given(st.binary(max_size=400))
def test_anything_at_all_can_be_read(payload: bytes) -> None:
    for message in (Offer.decode(payload), Response.decode(payload), ConnectCheck.decode(payload)):
        assert message is None or message.__class__ is ConnectCheck or payload[:1] == b"\x01"


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"b", VECTORS["ACK"].payload, VECTORS["GETVERSION_REQ"].payload])
def test_what_is_no_check(payload: bytes) -> None:
    assert ConnectCheck.decode(payload) is None


@pytest.mark.parametrize("payload", [bytes(4), bytes(16), bytes(40)])
def test_a_check_of_unknown_form(payload: bytes) -> None:
    assert ConnectCheck.decode(payload) == ConnectCheck("")


def test_keys_are_not_shown() -> None:
    shown = repr((Offer(CLIENT_KEY, NOWHERE, NOWHERE), Response(CLIENT_KEY, HOST_KEY)))
    assert "x08" not in shown
    assert "x88" not in shown
