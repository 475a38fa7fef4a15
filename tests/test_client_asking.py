"""Questions to a server, with the server's side played by hand."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure as TwistedFailure

from kdsrv.client.asking import CannotRelease, QuestionProtocol
from kdsrv.client.protocol import ServerRefused
from kdsrv.wire.connection import Connection, Event, Sendable
from kdsrv.wire.messages import (
    Bye,
    EndServer,
    Failure,
    ListEverything,
    Listing,
    Release,
    Released,
    Role,
    ServerHello,
)

HELLO = ServerHello(1, "a server", instance="1" * 16)


class Talk:
    """One question, and the server's end of its connection."""

    def __init__(self, question: ListEverything | EndServer | Release) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        self.protocol = QuestionProtocol(self.clock, question)
        self.outcome: list[Any] = []
        self.protocol.answered.addBoth(self.outcome.append)
        self.server = Connection(Role.SERVER)
        self.protocol.makeConnection(self.transport)

    def heard(self) -> list[Event]:
        data = self.transport.value()
        self.transport.clear()
        return self.server.receive_data(data)

    def say(self, *events: Sendable) -> None:
        self.protocol.dataReceived(b"".join(self.server.send(event) for event in events))

    def end(self) -> None:
        """Nothing of it is left."""
        assert self.transport.disconnecting
        self.protocol.connectionLost(TwistedFailure(ConnectionDone()))
        assert self.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (ListEverything(), Listing({}, [], [])),
        (Release("sim:"), Released("sim:", "jo@lab")),
    ],
)
def test_a_question_is_answered_and_the_client_leaves(question: Any, answer: Any) -> None:
    talk = Talk(question)
    talk.heard()
    talk.say(HELLO)
    assert talk.heard() == [question]
    talk.say(answer)
    assert talk.outcome == [answer]
    assert [type(event) for event in talk.heard()] == [Bye]
    talk.end()


def test_a_server_that_ends_says_goodbye() -> None:
    talk = Talk(EndServer())
    talk.heard()
    talk.say(HELLO)
    talk.heard()
    talk.say(Bye("the server ends"))
    assert talk.outcome == [None]
    talk.end()


def test_a_refusal_is_the_servers_sentence() -> None:
    talk = Talk(Release("sim:"))
    talk.heard()
    talk.say(HELLO)
    talk.heard()
    talk.say(Failure("setup", "nobody asks for sim:: it stays with you"))
    (failure,) = talk.outcome
    assert isinstance(failure.value, ServerRefused)
    assert str(failure.value) == "the server says: nobody asks for sim:: it stays with you"
    talk.end()


def test_a_server_that_knows_no_releasing_is_not_asked() -> None:
    talk = Talk(Release("sim:"))
    talk.heard()
    talk.say(ServerHello(1, "an older server"))
    (failure,) = talk.outcome
    assert isinstance(failure.value, CannotRelease)
    (bye,) = talk.heard()
    assert isinstance(bye, Bye)
    assert "older release of kdsrv" in bye.reason
    talk.end()
    talk = Talk(ListEverything())
    talk.heard()
    talk.say(ServerHello(1, "an older server"))
    assert talk.heard() == [ListEverything()]
