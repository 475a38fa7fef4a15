"""KDNET keys: their bytes, what they say of themselves, and which are weak."""

from __future__ import annotations

import secrets
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdnet_vectors import CONTROL_KEY, DATA_KEY, KEY, MAC_KEY, VECTORS

from kdsrv.kdnet.keys import NetKey, make_key

words = st.integers(0, (1 << 64) - 1)


def test_the_keys_that_follow_from_the_text() -> None:
    key = NetKey.parse(KEY)
    assert key.control == CONTROL_KEY
    assert key.mac == MAC_KEY
    assert key.data_key(VECTORS["RESPONSE"].payload) == DATA_KEY


def test_components_of_many_digits_are_little_endian() -> None:
    key = NetKey.parse("1m770ts6ru0p.3671pemyie4i.2b8djy3wt5et.1p99ir125v4q")
    assert key.control.hex().upper() == "B9569FCC7CF9F30202B242B33852CB05A5AC940B08223904DA42F63667B01B03"


def test_capitals_make_no_difference() -> None:
    assert NetKey.parse(KEY.upper()) == NetKey.parse(KEY)


@pytest.mark.parametrize(
    "text",
    ["", "1.2.3", "1.2.3.4.5", "1..3.4", "1.2.3.12345678901234", "1.2.3.x_y", "1.2.3.3w5e11264sgsg", "1.2.3.\u0661"],
)
def test_what_is_no_key_is_refused_with_a_sentence_that_does_not_repeat_it(text: str) -> None:
    with pytest.raises(ValueError, match="component") as caught:
        NetKey.parse(text)
    assert not text or text not in str(caught.value)


def test_a_key_is_not_shown() -> None:
    key = NetKey.parse("secretw.secretx.secrety.secretz")
    assert "secret" not in f"{key!r} {key}"
    assert "secret" not in "".join(traceback.TracebackException.from_exception(ValueError(key)).format())


@given(st.tuples(words, words, words, words))
def test_every_key_reads_as_it_was_made(numbers: tuple[int, ...]) -> None:
    parts = iter(numbers)
    text = make_key(lambda size: next(parts).to_bytes(size, "big"))
    assert NetKey.parse(text).control == b"".join(number.to_bytes(8, "little") for number in numbers)


@pytest.mark.parametrize(
    "text",
    [
        "1.2.3.4",
        "8.8.8.8",
        KEY,
        "1m770ts6ru0p.3671pemyie4i.2b8djy3wt5et.short",
        "1m770ts6ru0p.3671pemyie4i.2b8djy3wt5et.2b8djy3wt5et",
        "1m770ts6ru0p.3671pemyie4i.2b8djy3wt5et.1111111111111",
        "1m770ts6ru0p.3671pemyie4i.2b8djy3wt5et.0000000000abc",
    ],
)
def test_a_weak_key_is_told_why(text: str) -> None:
    weakness = NetKey.parse(text).weakness
    assert weakness is not None
    assert not any(part in weakness.split() for part in text.split(".") if len(part) > 1)


def test_a_key_that_is_made_is_not_weak() -> None:
    made = {make_key(secrets.token_bytes) for _ in range(200)}
    assert len(made) == 200
    assert [NetKey.parse(text).weakness for text in made] == [None] * 200
