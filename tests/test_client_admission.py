"""A client at the door: what it says to which server, and that it says nothing more to a wrong one."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure as TwistedFailure

from kdsrv.auth.door import Door
from kdsrv.auth.passwords import Credentials
from kdsrv.auth.scram import BOUND, PLAIN, LoginNotOffered, ServerLogin, ServerUnproven
from kdsrv.auth.users import OnePassword
from kdsrv.client.admission import LoginNeeded
from kdsrv.client.connecting import credentials_for
from kdsrv.client.protocol import ClientProtocol, ServerRefused
from kdsrv.connection_strings import parse_client_string
from kdsrv.errors import PeerError
from kdsrv.testing import MemoryLab
from kdsrv.wire.connection import Connection, Event, Sendable
from kdsrv.wire.messages import Attach, Bye, Challenge, ClientHello, Login, Ping, Response, Role, ServerHello, Welcome

BOOK = OnePassword("pencil", secrets.token_bytes)
KIM = Credentials("pencil", "kim")
BINDING = bytes(range(32))


class Talk:
    """A client on a transport of strings, and the server's end of its connection, played by hand."""

    def __init__(self, credentials: Credentials | None, binding: bytes | None = None) -> None:
        self.transport = StringTransport()
        self.protocol = ClientProtocol(Clock(), "sim:", "a desk", credentials, binding_of=lambda transport: binding)
        self.outcome: list[Any] = []
        self.protocol.attached.addBoth(self.outcome.append)
        self.server = Connection(Role.SERVER)
        self.protocol.makeConnection(self.transport)
        assert [type(event) for event in self.heard()] == [ClientHello]

    def heard(self) -> list[Event]:
        data = self.transport.value()
        self.transport.clear()
        return self.server.receive_data(data) if data else []

    def say(self, event: Sendable) -> list[Event]:
        self.protocol.dataReceived(self.server.send(event))
        return self.heard()

    def failure(self, said: list[Event]) -> Any:
        """Why the client left; it has said goodbye, with the reason, and nothing else."""
        (failure,) = self.outcome
        assert isinstance(failure, TwistedFailure)
        assert said == [Bye(str(failure.value))]
        assert self.transport.disconnecting
        return failure.value


def begun(talk: Talk, method: str = PLAIN, binding: bytes | None = None) -> tuple[ServerLogin, list[Event]]:
    """The login up to the client's proof."""
    (login,) = talk.say(ServerHello(1, "a server", (method,)))
    assert isinstance(login, Login)
    assert login.method == method
    machine = ServerLogin(BOOK, binding=binding, random=secrets.token_bytes)
    return machine, talk.say(Challenge(machine.receive(login.data)))


@pytest.mark.parametrize(("method", "binding"), [(PLAIN, None), (BOUND, BINDING)])
def test_a_client_asks_for_its_target_once_the_server_has_proved_itself(method: str, binding: bytes | None) -> None:
    talk = Talk(KIM, binding)
    machine, (response,) = begun(talk, method, binding)
    assert isinstance(response, Response)
    assert talk.say(Welcome(machine.receive(response.data))) == [Attach("sim:", "a desk")]


def test_no_login_is_needed() -> None:
    assert Talk(None).say(ServerHello(1, "a server")) == [Attach("sim:", "a desk")]


def test_a_missing_password_is_said_so() -> None:
    talk = Talk(None)
    error = talk.failure(talk.say(ServerHello(1, "a server", (PLAIN,))))
    assert isinstance(error, LoginNeeded)
    where = "put password= into the string, or give --password-file or KDSRV_PASSWORD"
    sentence = f"the server wants a password, and none was given (0x80004005): {where}"
    assert (error.code, str(error)) == ("login", sentence)


@pytest.mark.parametrize(("offered", "binding"), [((), None), ((), BINDING), ((PLAIN,), BINDING), ((BOUND,), None)])
def test_a_server_that_offers_the_wrong_login_learns_nothing(offered: tuple[str, ...], binding: bytes | None) -> None:
    talk = Talk(KIM, binding)
    assert isinstance(talk.failure(talk.say(ServerHello(1, "a server", offered))), LoginNotOffered)


@pytest.mark.parametrize("proof", [b"", b"v=AAAA", b"v=" + b"A" * 43 + b"="])
def test_a_server_that_proves_nothing_is_not_told_what_is_wanted(proof: bytes) -> None:
    talk = Talk(KIM)
    begun(talk)
    assert isinstance(talk.failure(talk.say(Welcome(proof))), ServerUnproven)


def test_what_comes_after_a_wrong_proof_is_not_looked_at() -> None:
    talk = Talk(KIM)
    begun(talk)
    talk.protocol.dataReceived(talk.server.send(Welcome(b"v=AAAA")) + talk.server.send(Ping(1)))
    assert isinstance(talk.failure(talk.heard()), ServerUnproven)


def test_a_challenge_that_is_none() -> None:
    talk = Talk(KIM)
    talk.say(ServerHello(1, "a server", (PLAIN,)))
    assert isinstance(talk.failure(talk.say(Challenge(b"i=1"))), PeerError)


def test_a_transport_without_its_binding_is_left() -> None:
    def none(transport: object) -> bytes | None:
        raise PeerError(why="the TLS handshake is not complete")

    talk = Talk(KIM)
    talk.protocol._binding_of = none
    assert "handshake" in str(talk.failure(talk.say(ServerHello(1, "a server", (BOUND,)))))


def lab() -> MemoryLab:
    made = MemoryLab()
    made.server.door = Door(BOOK)
    return made


def test_sessions_log_in() -> None:
    with_password = lab()
    target = with_password.run(with_password.open_session(user="kim", password="pencil"))
    (session,) = with_password.directory
    assert session.lease.holder == "kim (a test)"
    with_password.run(target.leave())
    with_password.close()


def test_sessions_are_refused() -> None:
    for password, error in (("pen", ServerRefused), (None, LoginNeeded)):
        with_password = lab()
        with pytest.raises(error) as refused:
            with_password.run(with_password.open_session(password=password))
        assert refused.value.code == "login"
        assert "0x80004005" in str(refused.value)
        assert list(with_password.directory) == []
        with_password.close()


def test_a_password_for_a_server_without_one_is_no_login() -> None:
    without = MemoryLab()
    with pytest.raises(LoginNotOffered, match="leave the password out"):
        without.run(without.open_session(password="pencil"))
    without.close()


def test_the_password_in_a_string_goes_first() -> None:
    spec = parse_client_string("tcp:server=lab,port=1,password=pencil")
    assert credentials_for(spec) == Credentials("pencil")
    assert credentials_for(spec, "kim", "other") == Credentials("pencil", "kim")
    bare = parse_client_string("tcp:server=lab,port=1")
    assert credentials_for(bare, "kim") is None
    assert credentials_for(bare, "kim", "other") == Credentials("other", "kim")
