from __future__ import annotations

import secrets
from base64 import b64encode
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramMechanism

from kdsrv.auth.passwords import Verifier
from kdsrv.auth.users import Entry, OnePassword, Role, User, UserFileBroken, UserTable, read_users, user_line
from kdsrv.errors import SetupError

VERIFIER = Verifier.of("pencil", b"0123456789abcdef")
KIM = User("kim", Role.READ_ONLY, ("vm1", "vm2"))
LINE = user_line(KIM, VERIFIER)


def test_the_line_of_a_user() -> None:
    """The keys are what another implementation of SCRAM makes of the password."""
    salt, stored_key, server_key, _ = ScramMechanism("SCRAM-SHA-256").make_auth_info("pencil", 60000, VERIFIER.salt)
    keys = "$".join(b64encode(part).decode() for part in (salt, stored_key, server_key))
    assert f"kim:read-only:vm1,vm2:scram-sha-256$60000${keys}" == LINE


@pytest.mark.parametrize(
    "user",
    [
        KIM,
        User("a"),
        User("x.y_z@lab-1", Role.FULL, ()),
        User("b", Role.READ_ONLY, None),
        User("c", Role.FULL, ("rack*", "?m1")),
    ],
)
def test_a_line_gives_the_user_back(user: User) -> None:
    assert read_users(user_line(user, VERIFIER)) == {user.name: Entry(user, VERIFIER)}


def test_a_file() -> None:
    text = f"# who may come\n\n  {LINE}  \r\n{user_line(User('tom'), VERIFIER)}\n"
    assert list(read_users(text)) == ["kim", "tom"]
    assert read_users("") == read_users("# nobody\n") == {}


GOOD = LINE.split(":")
KEYS = GOOD[3].split("$")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("kim", "it is not name:role:targets:verifier"),
        (LINE + ":more", "it is not name:role:targets:verifier"),
        (LINE.replace("kim", "k m"), "the name is not"),
        (LINE.replace("kim", ""), "the name is not"),
        (LINE.replace("kim", "k" * 65), "the name is not"),
        (LINE.replace("read-only", "reader"), "the role is not one of full, read-only"),
        (LINE.replace("vm1", "v m"), "the targets are neither"),
        (LINE.replace("vm1,vm2", "*,vm2"), "the targets are neither"),
        (LINE.replace("scram-sha-256", "md5"), "the verifier is not scram-sha-256"),
        (LINE + "$x", "the verifier is not scram-sha-256"),
        (LINE.replace("60000", "many"), "the number of iterations is no number"),
        (LINE.replace("60000", "\u0666\u0666"), "the number of iterations is no number"),
        (LINE.replace("60000", "4096"), "4096 iterations are not 60000 to 600000"),
        (LINE.replace("60000", "600001"), "600001 iterations are not 60000 to 600000"),
        (LINE.replace(KEYS[2], "MDEy"), "a part of the verifier is not 16 bytes in base64"),
        (LINE.replace(KEYS[3], "%%%"), "a part of the verifier is not 32 bytes in base64"),
        (LINE.replace(KEYS[4], ""), "a part of the verifier is not 32 bytes in base64"),
        (LINE, "there is a user kim already"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_without_what_is_in_it(line: str, says: str) -> None:
    with pytest.raises(UserFileBroken) as broken:
        read_users(f"# users\n{LINE}\n{line}\n")
    assert str(broken.value).startswith(f"line 3 of the user file: {says}")
    for secret in KEYS[2:]:
        assert secret not in str(broken.value)


@given(st.text(max_size=200) | st.lists(st.sampled_from([*GOOD, *KEYS, ":", "$", "\n", ","])).map("".join))
@settings(deadline=None)
def test_any_text_is_users_or_a_sentence(text: str) -> None:
    with suppress(UserFileBroken):
        assert all(name == entry.user.name for name, entry in read_users(text).items() if entry.user)


@pytest.mark.parametrize("user", [User(""), User("a:b"), User("a", targets=("v,m",)), User("a", targets=("*",))])
def test_what_would_break_the_file_is_not_written(user: User) -> None:
    with pytest.raises(SetupError, match="up to 64 letters"):
        user_line(user, VERIFIER)


def test_the_table_finds_users_and_makes_up_the_rest() -> None:
    table = UserTable({"kim": Entry(KIM, VERIFIER)}, b"secret")
    assert table.find("kim") == (KIM, VERIFIER)
    nobody, verifier = table.find("tom")
    assert nobody is None
    assert verifier == table.find("tom").verifier == UserTable({}, b"secret").find("tom").verifier
    assert (len(verifier.salt), verifier.iterations) == (16, 60000)
    assert len({verifier.salt, verifier.stored_key[:16], verifier.server_key[:16], VERIFIER.salt}) == 4
    for other in (table.find("tim"), UserTable({}, b"another").find("tom")):
        assert other.verifier.salt != verifier.salt
        assert other.verifier.stored_key != verifier.stored_key


def test_who_is_made_up_has_as_many_iterations_as_most() -> None:
    many = Verifier(b"s" * 16, 100000, bytes(32), bytes(32))
    entries = {name: Entry(User(name), many) for name in "abc"} | {"kim": Entry(KIM, VERIFIER)}
    assert UserTable(entries, b"x").find("tom").verifier.iterations == 100000


def test_one_password_is_salted_anew_each_time() -> None:
    one, other = (OnePassword("pencil", secrets.token_bytes).find("x").verifier for _ in range(2))
    assert one.salt != other.salt
    assert one.fits("pencil")
    assert other.fits("pencil")


def test_one_password_gives_full_rights() -> None:
    assert OnePassword("x", secrets.token_bytes).find("kim").user == User("kim", Role.FULL, None)
