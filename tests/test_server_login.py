"""Coming in, as the server sees it, in memory: logins, refusals and how they are slowed down, questions, limits."""

from __future__ import annotations

import secrets
from typing import Any

from server_callers import Caller, ServerInMemory
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from kdsrv.auth.door import MOST_WAITING
from kdsrv.auth.passwords import Credentials, Verifier
from kdsrv.auth.scram import PLAIN, ClientLogin
from kdsrv.auth.users import Entry, OnePassword, Role, User, UserTable
from kdsrv.errors import PeerError, SetupError
from kdsrv.server.factory import MAX_WAITING
from kdsrv.server.protocol import GREETING_LIMIT, KdsrvServerProtocol
from kdsrv.wire.connection import State
from kdsrv.wire.messages import (
    Attach,
    Attached,
    Bye,
    Challenge,
    ClientHello,
    EndServer,
    Failure,
    ListEverything,
    Listing,
    Login,
    Ping,
    Pong,
    Response,
    ServerHello,
    Welcome,
)

KIM = User("kim", Role.READ_ONLY)
TABLE = UserTable({"kim": Entry(KIM, Verifier.of("pencil", b"s" * 16))}, b"secret")
ONE = OnePassword("pencil", secrets.token_bytes)


class Desk:
    """Answers questions, and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, User]] = []

    def listing(self, user: User) -> Listing:
        self.asked.append(("list", user))
        return Listing({"version": "1"}, [], [])

    def end(self, user: User) -> None:
        self.asked.append(("end", user))
        if user.role is not Role.FULL:
            raise SetupError(why="you may not end this server")


REFUSED = Failure("login", "login refused (0x80004005): wrong user or password")


class LoginCase(SynchronousTestCase):
    """A server with users; at the end nothing may be left in its clock."""

    book: Any = TABLE

    def setUp(self) -> None:
        self.server = ServerInMemory(book=self.book)
        self.desk = Desk()
        self.server.factory.questions = self.desk
        self.logged: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)
        self.addCleanup(self.check_rest)

    def check_rest(self) -> None:
        for protocol in tuple(self.server.factory._connected):
            protocol.connectionLost()
        self.server.wait(1.2)
        assert self.server.end() == []
        assert len(self.server.factory.door.crowd) == 0

    def greet(self, host: str = "192.0.2.7") -> Caller:
        caller = self.server.call(host)
        caller.say(ClientHello("a test"))
        instance = caller.server.factory.instance
        assert caller.hear() == [ServerHello(1, caller.said[0].software, (PLAIN,), instance)]
        return caller

    def begin(self, password: str = "pencil", user: str = "kim", host: str = "192.0.2.7") -> tuple[Caller, ClientLogin]:
        caller = self.greet(host)
        login = ClientLogin(Credentials(password, user), binding=None, random=secrets.token_bytes)
        caller.say(Login(PLAIN, login.begin()))
        return caller, login

    def prove(self, password: str = "pencil", user: str = "kim", host: str = "192.0.2.7") -> tuple[Caller, ClientLogin]:
        """A login up to the client's proof."""
        caller, login = self.begin(password, user, host)
        (challenge,) = caller.hear(Challenge)
        caller.say(Response(login.receive(challenge.data)))
        return caller, login

    def log_in(self, user: str = "kim", host: str = "192.0.2.7") -> Caller:
        caller, login = self.prove(user=user, host=host)
        (welcome,) = caller.hear()
        login.receive(welcome.data)
        assert login.done
        return caller

    def refused(self, caller: Caller) -> Failure:
        (failure,) = caller.hear()
        assert not caller.is_connected
        assert isinstance(failure, Failure)
        return failure


class LoginTests(LoginCase):
    def test_who_logs_in_gets_a_target_and_is_named(self) -> None:
        caller = self.log_in()
        caller.say(Attach("sim:", "kim@desk"))
        self.server.wait()
        assert caller.hear(Attached)
        (session,) = self.server.directory
        assert session.lease.holder == "kim (kim@desk)"

    def test_nothing_is_served_before(self) -> None:
        for early in (Attach("sim:", "x"), ListEverything(), EndServer(), Ping(1)):
            for stage in (self.greet, lambda: self.begin()[0]):
                caller = stage()
                caller.hear()
                caller.connection.state = State.READY
                caller.say(early)
                assert self.refused(caller).code == "protocol"
                caller.leave()
        assert self.desk.asked == []
        assert list(self.server.directory) == []

    def test_wrong_passwords_and_unknown_users_are_refused_alike(self) -> None:
        heard = []
        for password, user in (("pen", "kim"), ("pencil", "tom"), ("pencil", ""), ("", "x")):
            caller, login = self.begin(password or "x", user, host=f"192.0.2.{len(heard)}")
            (challenge,) = caller.hear(Challenge)
            caller.say(Response(login.receive(challenge.data)))
            assert caller.hear() == []
            self.server.wait(0.45)
            assert caller.hear() == []
            self.server.wait(0.1)
            heard.append((len(challenge.data), self.refused(caller)))
        assert {refusal for _, refusal in heard} == {REFUSED}

    def test_broken_logins_are_refused_alike(self) -> None:
        for number, data in enumerate((b"", b"n,,n=kim,r=", b"p=tls-exporter,,n=kim,r=abc", b"\xff" * 3000)):
            caller = self.greet(f"192.0.2.{number}")
            caller.say(Login(PLAIN, data))
            assert caller.hear() == []
            self.server.wait(0.6)
            assert self.refused(caller) == REFUSED

    def test_the_answer_to_a_failure_is_held_and_the_next_challenge_too(self) -> None:
        for hold in (0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0):
            caller, login = self.begin("wrong")
            while not (challenge := caller.hear(Challenge)):
                self.server.wait(0.05)
            caller.say(Response(login.receive(challenge[0].data)))
            self.server.wait(hold - 0.1)
            assert caller.hear() == []
            self.server.wait(0.2)
            self.refused(caller)
            caller.leave()
        first, second = self.begin()[0], self.begin()[0]
        self.server.wait(0.05)
        waits = [bool(first.hear(Challenge)), bool(second.hear(Challenge))]
        assert waits in ([False, False], [True, False])
        for _ in range(50):
            caller, _ = self.begin()
            if not caller.is_connected:
                break
        refusal = self.refused(caller)
        assert refusal.code == "login-later"
        assert "try again in" in refusal.message
        assert self.log_in(host="198.51.100.1").is_connected, "another place never waits"

    def test_a_client_that_leaves_while_something_is_held_leaves_nothing(self) -> None:
        for _ in range(7):
            self.server.factory.door.slowdown.failed("192.0.2.7", 0.0)
        self.prove("wrong")[0].leave()
        waiting, _ = self.begin()
        assert waiting.hear() == []
        waiting.leave()
        self.server.wait(5.0)
        assert waiting.hear() == []

    def test_a_right_password_works_after_wrong_ones(self) -> None:
        for _ in range(2):
            caller, _ = self.prove("wrong")
            self.server.wait(1.1)
            self.refused(caller)
        self.log_in()

    def test_a_login_has_its_time(self) -> None:
        for stage in (self.greet, lambda: self.begin()[0]):
            caller = stage()
            caller.hear()
            self.server.wait(GREETING_LIMIT - 0.2)
            assert caller.is_connected
            self.server.wait(0.3)
            assert "within 10 s" in self.refused(caller).message

    def test_after_the_login_there_is_time_again(self) -> None:
        caller, login = self.begin()
        (challenge,) = caller.hear(Challenge)
        self.server.wait(GREETING_LIMIT - 0.2)
        caller.say(Response(login.receive(challenge.data)))
        caller.hear()
        self.server.wait(GREETING_LIMIT - 0.2)
        assert caller.is_connected
        self.server.wait(0.3)
        assert "did not ask for a target" in self.refused(caller).message

    def test_who_is_in_is_not_crowded_out(self) -> None:
        inside = self.log_in()
        crowd = [self.server.call(f"192.0.2.{number % 40}", number) for number in range(2 * MOST_WAITING)]
        assert sum(caller.is_connected for caller in crowd) == MOST_WAITING
        assert inside.is_connected
        assert self.log_in(host="198.51.100.1").is_connected

    def test_shutting_down_tells_those_who_log_in_too(self) -> None:
        callers = [self.server.call(), self.greet(), self.begin()[0], self.prove("wrong")[0], self.log_in()]
        self.server.factory.stopFactory()
        for caller in callers:
            assert "shutting down" in caller.hear()[-1].message
            assert not caller.is_connected

    def test_the_log_of_failures_grows_slowly_and_holds_no_name_and_no_password(self) -> None:
        for _ in range(3):
            caller, _ = self.prove("hunter2hunter2", "secretname")
            self.server.wait(2.1)
            assert self.refused(caller)
        for _ in range(30):
            self.server.factory.door.slowdown.failed("192.0.2.7", self.server.clock.seconds())
        lines = [event for event in self.logged if "failures from" in event.get("log_format", "")]
        assert [line["total"] for line in lines] == [1, 2]
        assert {line["place"] for line in lines} == {"192.0.2.7"}
        for word in ("hunter2", "secretname"):
            assert word not in str(self.logged)


class OnePasswordTests(LoginCase):
    book = ONE

    def test_any_name_will_do(self) -> None:
        for number, name in enumerate(("", "kim", "x" * 200)):
            caller = self.log_in(name, host=f"192.0.2.{number}")
            caller.say(Attach(f"sim:name=t{number}", "a desk"))
            self.server.wait()
            assert caller.hear(Attached)
        holders = [session.lease.holder for session in self.server.directory]
        assert holders == ["a desk", "kim (a desk)", "x" * 64 + " (a desk)"]

    def test_names_are_made_fit_to_be_shown(self) -> None:
        caller, login = self.begin()
        login._bare = login._bare.replace("kim", "k\x1b[31mm\nx")
        caller.leave()
        caller = self.greet()
        caller.say(Login(PLAIN, b"n,," + login._bare.encode()))
        (challenge,) = caller.hear(Challenge)
        caller.say(Response(login.receive(challenge.data)))
        assert caller.hear(Welcome)
        assert "\x1b" not in str([event.get("name") for event in self.logged])
        (protocol,) = [each for each in self.server.factory._connected if each._reception.name]
        assert protocol._reception.name == "k?[31mm?x"


class QuestionTests(LoginCase):
    def test_a_listing_is_for_the_user_who_asks(self) -> None:
        caller = self.log_in()
        caller.say(ListEverything())
        assert caller.hear() == [Listing({"version": "1"}, [], [])]
        caller.say(Ping(7), ListEverything())
        assert caller.hear() == [Pong(7), Listing({"version": "1"}, [], [])]
        assert self.desk.asked == [("list", KIM)] * 2
        assert caller.is_connected
        caller.say(Attach("sim:", "x"))
        self.server.wait()
        assert caller.hear(Attached)

    def test_who_may_not_end_the_server_is_told(self) -> None:
        caller = self.log_in()
        caller.say(EndServer())
        assert self.refused(caller) == Failure("setup", "you may not end this server")

    def test_a_server_without_answers_says_so(self) -> None:
        plain = ServerInMemory()
        for question in (ListEverything(), EndServer()):
            caller = plain.call()
            caller.say(ClientHello("a test"))
            caller.hear()
            caller.say(question)
            assert self.refused(caller).code == "setup"
            caller.leave()
        assert plain.end() == []


class EndTests(LoginCase):
    book = ONE

    def test_who_may_end_the_server_is_told_goodbye(self) -> None:
        caller = self.log_in()
        caller.say(EndServer())
        assert caller.hear() == [Bye("the server ends")]
        assert not caller.is_connected
        assert self.desk.asked == [("end", User("kim"))]

    def test_users_who_ask_for_nothing_are_bounded_too(self) -> None:
        callers = [self.log_in(host=f"192.0.2.{number % 50}") for number in range(3)]
        assert len(self.server.factory._connected) == 3
        for caller in callers:
            caller.say(ListEverything())
        assert len(self.server.factory._waiting) == 3 <= MAX_WAITING


class BindingTests(LoginCase):
    def test_the_binding_is_asked_for_when_the_client_has_spoken(self) -> None:
        asked: list[object] = []
        self.server.factory.binding_of = lambda transport: asked.append(transport) or bytes(32)
        caller = self.server.call()
        assert asked == []
        caller.say(ClientHello("a test"))
        assert asked == [caller.transport]
        assert caller.hear(ServerHello)[0].login == ("SCRAM-SHA-256-PLUS",)

    def test_a_connection_that_has_none_though_it_should_is_refused(self) -> None:
        def none(transport: object) -> bytes | None:
            raise PeerError(why="the TLS handshake is not complete")

        self.server.factory.binding_of = none
        caller = self.server.call()
        caller.say(ClientHello("a test"))
        assert "handshake" in self.refused(caller).message

    def test_listeners_beside_each_other_have_their_own_books_and_count_together(self) -> None:
        open_one = self.server.factory.beside(None)
        assert isinstance(open_one.buildProtocol(None), KdsrvServerProtocol)
        assert open_one.door.crowd is self.server.factory.door.crowd
        assert open_one.door.book is None
        assert open_one.questions is self.desk
