from __future__ import annotations

import secrets
import time
from base64 import b64decode, b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramClient, ScramMechanism

from kdsrv.auth.passwords import (
    ITERATIONS,
    MOST_ITERATIONS,
    Credentials,
    PasswordUnfit,
    Verifier,
    digest,
    new_password,
    salted,
)
from kdsrv.auth.scram import (
    BOUND,
    MAX_DATA,
    PLAIN,
    ClientLogin,
    LoginNotOffered,
    LoginRefused,
    ServerLogin,
    ServerUnproven,
    method_for,
)
from kdsrv.auth.users import Entry, OnePassword, Role, User, UserTable
from kdsrv.errors import KdsrvError, PeerError

RFC_CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
RFC_SALT = "W22ZaJ0SNY7soEsUEjb6gQ=="
CHANNEL, OTHER_CHANNEL = bytes(range(32)), bytes(range(1, 33))

KIM = Entry(User("kim", Role.READ_ONLY, ("vm1",)), Verifier.of("pencil", b"s" * 16))
BOOK = UserTable({"kim": KIM}, b"a secret of the server")
ONE = OnePassword("pencil", secrets.token_bytes)


def client(password: str = "pencil", user: str = "kim", binding: bytes | None = None) -> ClientLogin:
    return ClientLogin(Credentials(password, user), binding=binding, random=secrets.token_bytes)


def server(book: UserTable | OnePassword = BOOK, binding: bytes | None = None) -> ServerLogin:
    return ServerLogin(book, binding=binding, random=secrets.token_bytes)


def talk(one: ClientLogin, other: ServerLogin) -> list[bytes]:
    said = [one.begin()]
    while not one.done:
        speaker = other if len(said) % 2 else one
        said.append(speaker.receive(said[-1]))
    return said


class RfcLogin(ClientLogin):
    def __init__(self) -> None:
        super().__init__(Credentials("pencil", "user"), binding=None, random=bytes, iterations=(4096, 4096))
        self._nonce = RFC_CLIENT_NONCE


class RfcServer(ServerLogin):
    def __init__(self) -> None:
        verifier = Verifier.of("pencil", b64decode(RFC_SALT), 4096)
        super().__init__(UserTable({"user": Entry(User("user"), verifier)}, b"x"), binding=None, random=bytes)
        self._nonce = RFC_SERVER_NONCE


RFC_7677_3 = [
    f"n,,n=user,r={RFC_CLIENT_NONCE}",
    f"r={RFC_CLIENT_NONCE}{RFC_SERVER_NONCE},s={RFC_SALT},i=4096",
    f"c=biws,r={RFC_CLIENT_NONCE}{RFC_SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    "",
]


def test_the_example_of_rfc_7677() -> None:
    assert [said.decode() for said in talk(RfcLogin(), RfcServer())] == RFC_7677_3


@pytest.mark.parametrize("binding", [None, CHANNEL])
def test_a_login(binding: bytes | None) -> None:
    one, other = client(binding=binding), server(binding=binding)
    talk(one, other)
    assert one.method == (PLAIN if binding is None else BOUND) == method_for(binding)
    assert other.user == User("kim", Role.READ_ONLY, ("vm1",))


def test_nobody_is_in_before_the_end() -> None:
    one, other = client(), server()
    final = one.receive(other.receive(one.begin()))
    assert other.user is None
    proof = other.receive(final)
    assert other.user is not None
    assert not one.done
    one.receive(proof)
    assert one.done


@pytest.mark.parametrize("name", ["", "kim", "a=b,c", "Ärger", "=2C", "n" * 80])
def test_one_password_takes_any_name(name: str) -> None:
    one, other = client(user=name), server(ONE)
    talk(one, other)
    assert other.user == User(name)


@pytest.mark.parametrize(
    ("typed", "kept"), [("I\u00adX", "IX"), ("\u2168", "IX"), ("p\u00a0w", "p w"), ("a\u0308", "\u00e4")]
)
def test_passwords_are_the_same_however_they_are_typed(typed: str, kept: str) -> None:
    talk(client(typed), server(OnePassword(kept, secrets.token_bytes)))


def refusal(one: ClientLogin, other: ServerLogin) -> LoginRefused:
    with pytest.raises(LoginRefused) as refused:
        talk(one, other)
    assert other.user is None
    assert not one.done
    return refused.value


@pytest.mark.parametrize("password", ["Pencil", "pencil ", "x", "pencilpencil"])
def test_a_wrong_password(password: str) -> None:
    error = refusal(client(password), server())
    assert (error.code, str(error)) == ("login", "login refused (0x80004005): wrong user or password")


def test_a_missing_password_is_none_at_all() -> None:
    one = client("")
    challenge = server().receive(one.begin())
    with pytest.raises(PasswordUnfit, match="the password cannot be used: it is empty"):
        one.receive(challenge)


def test_an_unknown_user_looks_like_a_wrong_password() -> None:
    shapes = set()
    for name, password in [("kim", "wrong"), ("tom", "pencil"), ("tom", "wrong"), ("", "pencil"), ("KIM", "pencil")]:
        one, other = client(password, name), server()
        challenge = other.receive(one.begin())
        with pytest.raises(LoginRefused) as refused:
            other.receive(one.receive(challenge))
        attributes = [part[:2] for part in challenge.split(b",")]
        shapes.add((len(challenge), bytes(b"".join(attributes)), challenge.rsplit(b",", 1)[1], str(refused.value)))
    assert len(shapes) == 1


def test_an_unknown_user_always_has_the_same_salt_and_each_another() -> None:
    salts = [server().receive(client(user=name).begin()).split(b",")[1] for name in ("tom", "tom", "ann", "kim")]
    assert salts[0] == salts[1]
    assert len(set(salts)) == 3


def test_even_the_key_of_an_unknown_user_opens_nothing() -> None:
    """Were a verifier of nobody ever matched, there is still no user to let in."""

    class Book:
        def find(self, name: str) -> Entry:
            return Entry(None, KIM.verifier)

    one = client()
    other = ServerLogin(Book(), binding=None, random=secrets.token_bytes)
    refusal(one, other)


def test_a_login_over_another_tls_channel_is_refused_by_the_server() -> None:
    refusal(client(binding=CHANNEL), server(binding=OTHER_CHANNEL))


def test_who_ends_tls_and_relays_gets_in_at_neither_side() -> None:
    """The one in between sees every message and may change them, but does not know the password."""
    one, other = client(binding=CHANNEL), server(binding=OTHER_CHANNEL)
    final = one.receive(other.receive(one.begin()))
    with pytest.raises(LoginRefused):
        other.receive(final)
    for forged in (b"v=" + b64encode(bytes(32)), b"v=", b"", b"e=other-error"):
        with pytest.raises(ServerUnproven):
            one.receive(forged)
        assert not one.done


def test_a_proof_is_bound_even_if_the_binding_in_it_is_changed() -> None:
    one, other = client(binding=CHANNEL), server(binding=OTHER_CHANNEL)
    final = one.receive(other.receive(one.begin()))
    for theirs in (OTHER_CHANNEL, CHANNEL + OTHER_CHANNEL, b""):
        forged = b"c=" + b64encode(b"p=tls-exporter,," + theirs) + b"," + final.split(b",", 1)[1]
        again = server(binding=OTHER_CHANNEL)
        again._entry, again._nonce, again._talk = other._entry, other._nonce, other._talk
        with pytest.raises(LoginRefused):
            again.receive(forged)


def test_a_replayed_login_is_refused() -> None:
    one = client()
    first, _, final, _, _ = talk(one, server())
    other = server()
    other.receive(first)
    with pytest.raises(LoginRefused):
        other.receive(final)


def test_a_replayed_answer_of_the_server_proves_nothing() -> None:
    said = talk(client(), server())
    one = client()
    one.begin()
    with pytest.raises(PeerError, match="its login challenge is none"):
        one.receive(said[1])
    one = client()
    one.receive(server().receive(one.begin()))
    with pytest.raises(ServerUnproven):
        one.receive(said[3])


def test_a_server_with_another_password_proves_nothing() -> None:
    """Somebody who took the server's address, and lets everybody in."""
    one, other = client(), server(OnePassword("guess", secrets.token_bytes))
    final = one.receive(other.receive(one.begin()))
    with pytest.raises(LoginRefused):
        other.receive(final)


@pytest.mark.parametrize(
    ("first", "binding"),
    [
        (b"n,,n=kim,r=abcdef", CHANNEL),
        (b"y,,n=kim,r=abcdef", CHANNEL),
        (b"y,,n=kim,r=abcdef", None),
        (b"p=tls-exporter,,n=kim,r=abcdef", None),
        (b"p=tls-unique,,n=kim,r=abcdef", CHANNEL),
        (b"p=tls-server-end-point,,n=kim,r=abcdef", CHANNEL),
    ],
)
def test_a_downgrade_is_refused_by_the_server(first: bytes, binding: bytes | None) -> None:
    with pytest.raises(LoginRefused):
        server(binding=binding).receive(first)


@pytest.mark.parametrize(
    ("binding", "offered", "says"),
    [
        (CHANNEL, (PLAIN,), "somebody may be in between"),
        (CHANNEL, ("SCRAM-SHA-1-PLUS", PLAIN), "somebody may be in between"),
        (CHANNEL, (), "the server wants no password"),
        (None, (), "the server wants no password"),
        (None, (BOUND,), "use ssl:"),
        (None, ("PLAIN",), "use ssl:"),
    ],
)
def test_a_downgrade_is_refused_by_the_client(binding: bytes | None, offered: tuple[str, ...], says: str) -> None:
    with pytest.raises(LoginNotOffered, match=says) as refused:
        client(binding=binding).check_offer(offered)
    assert refused.value.code == "login"


def test_the_right_offer_is_taken() -> None:
    client().check_offer([PLAIN])
    client(binding=CHANNEL).check_offer(["X", BOUND])


@pytest.mark.parametrize(
    "challenge",
    [
        "r={n},s=c2FsdHNhbHRzYWx0,i=60000",
        "r=x{n}x,s=c2FsdHNhbHRzYWx0,i=60000",
        "r={n}x,s=c2FsdHNhbHRzYWx0,i=59999",
        "r={n}x,s=c2FsdHNhbHRzYWx0,i=1",
        "r={n}x,s=c2FsdHNhbHRzYWx0,i=600001",
        "r={n}x,s=c2FsdHNhbHRzYWx0,i=999999999",
        "r={n}x,s=c2FsdHNhbHRzYWx0,i=99999999999999999999",
        "r={n}x,s=c2FsdHNhbHRzYWx0,i=-5",
        "r={n}x,s=c2Fs-HNhbHRzYWx0,i=60000",
        "r={n}x,s=c,i=60000",
        "r={n}x,s=,i=60000",
        "m=must,r={n}x,s=c2FsdHNhbHRzYWx0,i=60000",
        "e=other-error",
        "",
        "r={n}x,s=" + "QUFB" * 800 + ",i=60000",
    ],
)
def test_a_server_cannot_make_the_client_work_too_much_or_too_little(challenge: str) -> None:
    one = client()
    own = one.begin().decode().rpartition("r=")[2]
    started = time.perf_counter()
    with pytest.raises(PeerError):
        one.receive(challenge.format(n=own).encode())
    assert time.perf_counter() - started < 0.02


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=kim",
        b"n,,r=abc",
        b"n,a=kim,n=kim,r=abc",
        b"n,,n=kim,r=",
        b"n,,n=k=im,r=abc",
        b"n,,n=kim,r=abc,x=y",
        b"n,,m=x,n=kim,r=abc",
        b"n,,n=kim,r=" + b"a" * 129,
        b"n,,n=" + b"k" * 256 + b",r=abc",
        b"n,,n=k\0m,r=abc",
        b"n,,n=\xff,r=abc",
        b"n,,n=kim,r=\xc3\xa4",
        b"n,,n=kim,r=abc" + b" " * MAX_DATA,
    ],
)
def test_what_is_no_beginning_is_refused(first: bytes) -> None:
    other = server()
    with pytest.raises(LoginRefused):
        other.receive(first)
    with pytest.raises(LoginRefused):
        other.receive(client().begin())


def test_a_login_is_tried_once() -> None:
    one, other = client(), server()
    final = one.receive(other.receive(one.begin()))
    wrong = final[:-4] + b"AAA="
    for said in (wrong, final):
        with pytest.raises(LoginRefused):
            other.receive(said)
    assert other.user is None


def test_a_login_that_succeeded_is_over() -> None:
    other = server()
    said = talk(client(), other)
    for again in (said[2], said[0]):
        with pytest.raises(LoginRefused):
            other.receive(again)


def test_a_proof_over_another_nonce_is_refused() -> None:
    """By somebody who has the password, so that nothing else is wrong."""
    one, other = client(), server()
    first = one.begin()
    challenge = other.receive(first)
    final = b"c=biws,r=another"
    root = salted("pencil", KIM.verifier.salt, ITERATIONS)
    signature = digest(KIM.verifier.stored_key, b",".join((first[3:], challenge, final)))
    proof = bytes(a ^ b for a, b in zip(digest(root, b"Client Key"), signature, strict=True))
    with pytest.raises(LoginRefused):
        other.receive(final + b",p=" + b64encode(proof))


@pytest.mark.parametrize("change", range(6))
def test_every_part_of_the_last_message_counts(change: int) -> None:
    one, other = client(), server()
    c, r, p = one.receive(other.receive(one.begin())).split(b",")
    proof = b64decode(p[2:])
    forged = [
        b",".join((b"c=" + b64encode(b"y,,"), r, p)),
        b",".join((c, r + b"x", p)),
        b",".join((c, r, b"p=" + b64encode(bytes(32)))),
        b",".join((c, r, b"p=" + b64encode(proof[:31]))),
        b",".join((c, r, b"p=" + b64encode(proof + b"\0"))),
        b",".join((c, r)),
    ][change]
    with pytest.raises(LoginRefused):
        other.receive(forged)


@given(st.lists(st.binary(max_size=200), max_size=3), st.booleans())
@settings(deadline=None)
def test_nothing_but_a_refusal_comes_of_any_bytes(pieces: list[bytes], begun: bool) -> None:
    other = server()
    if begun:
        other.receive(b"n,,n=kim,r=abcdef")
    for piece in pieces:
        with pytest.raises(LoginRefused):
            other.receive(piece)
    assert other.user is None


@given(st.binary(max_size=200), st.booleans())
@settings(deadline=None, max_examples=50)
def test_nothing_but_an_error_comes_of_any_bytes_at_the_client(piece: bytes, begun: bool) -> None:
    one = client()
    first = one.begin()
    if begun:
        one._signature = bytes(32)
        first = b""
    with pytest.raises(KdsrvError):
        one.receive(piece if begun else first + piece)
    assert not one.done


def test_a_foreign_client_logs_in() -> None:
    other = server()
    foreign = ScramClient(["SCRAM-SHA-256"], "kim", "pencil")
    foreign.set_server_first(other.receive(foreign.get_client_first().encode()).decode())
    foreign.set_server_final(other.receive(foreign.get_client_final().encode()).decode())
    assert other.user is not None


def test_a_foreign_server_is_content() -> None:
    kept = KIM.verifier
    entry = (kept.salt, kept.stored_key, kept.server_key, kept.iterations)
    foreign = ScramMechanism("SCRAM-SHA-256").make_server(lambda name: entry if name == "kim" else None)
    one = client()
    foreign.set_client_first(one.begin().decode())
    foreign.set_client_final(one.receive(foreign.get_server_first().encode()).decode())
    one.receive(foreign.get_server_final().encode())
    assert one.done


def test_passwords_stay_out_of_what_is_shown() -> None:
    one, other = client("hunter2secret"), server()
    other.receive(one.begin())
    for thing in (Credentials("hunter2secret", "kim"), one, other, KIM, BOOK.find("kim")):
        assert "hunter2secret" not in repr(thing)
        assert repr(KIM.verifier.stored_key) not in repr(thing)


def test_the_servers_work_is_small() -> None:
    """What one login costs the server; a tenth of a millisecond is ten times what it takes."""
    one, other = client(), server()
    first = one.begin()
    final = one.receive(other.receive(first))
    best = 1.0
    for _ in range(20):
        again = server()
        again._nonce = other._nonce.removeprefix(first.decode().rpartition("r=")[2])
        started = time.perf_counter()
        again.receive(first)
        again.receive(final)
        best = min(best, time.perf_counter() - started)
        assert again.user is not None
    assert best < 1e-3


def test_the_clients_work_is_bounded() -> None:
    assert ITERATIONS <= MOST_ITERATIONS
    started = time.process_time()
    Verifier.of("x", b"s" * 16, MOST_ITERATIONS)
    assert time.process_time() - started < 2


def test_made_passwords_fit_into_any_string() -> None:
    made = {new_password(secrets.token_bytes) for _ in range(50)}
    assert len(made) == 50
    assert all(password.isalnum() and password.isascii() and len(password) == 20 for password in made)


@pytest.mark.parametrize("password", ["a\0b", "\ud800", "\u200e", "a\u06271", "x" * 1025, "", "\u00ad", "\u0221"])
def test_what_can_be_no_password(password: str) -> None:
    with pytest.raises(PasswordUnfit, match="the password cannot be used: ") as unfit:
        Verifier.of(password, b"s" * 16)
    assert password == "" or password not in str(unfit.value)


def test_a_verifier_knows_its_password() -> None:
    assert KIM.verifier.fits("pencil")
    assert not KIM.verifier.fits("Pencil")
    assert not KIM.verifier.fits("")
