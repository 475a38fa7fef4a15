"""What a server is asked without a session: what it has, that it end, that a target be given away."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, overload

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from typing_extensions import override

from kdsrv.auth.passwords import Credentials
from kdsrv.client.connecting import credentials_for, endpoint_of_client_spec, own_name, reach
from kdsrv.client.listening import AwaitedServer, Notice, Waiting
from kdsrv.client.protocol import ClientProtocol
from kdsrv.connection_strings.remoting import ClientSpec
from kdsrv.errors import KdsrvError
from kdsrv.tls.settings import ClientCertificates
from kdsrv.wire.connection import Event
from kdsrv.wire.messages import Bye, EndServer, ListEverything, Listing, Message, Release, Released, ServerHello

__all__ = ["CannotRelease", "QuestionProtocol", "ask"]

Question: TypeAlias = ListEverything | EndServer | Release
Answer: TypeAlias = Listing | Released | None


class CannotRelease(KdsrvError):
    """this server is of an older release of kdsrv, in which a target is only free when its holder leaves"""

    code = "too-old"


class QuestionProtocol(ClientProtocol):
    """Asks one question and leaves. ``answered`` fires with the answer, None if the server is about to end, or fails
    with a KdsrvError."""

    def __init__(self, clock: IReactorTime, question: Question, credentials: Credentials | None = None) -> None:
        super().__init__(clock, None, own_name(), credentials)
        self.answered: Deferred[Answer] = Deferred()
        self._question = question
        self.attached.addErrback(self._refused)

    @override
    def _request(self) -> Message:
        return self._question

    @override
    def _on_event(self, event: Event) -> None:
        if isinstance(event, Listing | Released):
            self._have(event)
        elif isinstance(event, ServerHello) and isinstance(self._question, Release) and not event.instance:
            self._fail(CannotRelease())
        elif isinstance(event, Bye) and isinstance(self._question, EndServer):
            self._have(None)
        else:
            super()._on_event(event)

    def _have(self, answer: Answer) -> None:
        self.leave("the client has its answer")
        self.answered.callback(answer)

    def _refused(self, failure: Failure) -> None:
        self.answered.errback(failure)


@overload
def ask(
    reactor: Any,
    spec: ClientSpec,
    question: ListEverything | EndServer,
    *,
    user: str = "",
    password: str | None = None,
    certificates: ClientCertificates | None = None,
    tell: Callable[[Notice], None] | None = None,
) -> Deferred[Listing | None]: ...


@overload
def ask(
    reactor: Any,
    spec: ClientSpec,
    question: Release,
    *,
    user: str = "",
    password: str | None = None,
    certificates: ClientCertificates | None = None,
    tell: Callable[[Notice], None] | None = None,
) -> Deferred[Released]: ...


def ask(
    reactor: Any,
    spec: ClientSpec,
    question: Question,
    *,
    user: str = "",
    password: str | None = None,
    certificates: ClientCertificates | None = None,
    tell: Callable[[Notice], None] | None = None,
) -> Deferred[Any]:
    """The answer of the server that ``spec`` leads to, after the connection to it has ended. None: it is about to end.

    Arguments and errors are those of ``kdsrv.client.connecting.connect``.
    """
    return Deferred.fromCoroutine(
        _ask(reactor, spec, question, credentials_for(spec, user, password), certificates, tell)
    )


async def _ask(
    reactor: Any,
    spec: ClientSpec,
    question: Question,
    credentials: Credentials | None,
    certificates: ClientCertificates | None,
    tell: Callable[[Notice], None] | None,
) -> Answer:
    endpoint, address = endpoint_of_client_spec(reactor, spec, certificates or ClientCertificates(), tell)

    def make() -> QuestionProtocol:
        protocol = QuestionProtocol(reactor, question, credentials)
        if tell is not None:
            protocol.waits = lambda: tell(Waiting(address))
        return protocol

    async def attempt() -> Answer:
        protocol = await reach(endpoint, address, make)
        try:
            answer = await protocol.answered
        except BaseException:
            protocol.leave()
            raise
        await protocol.disconnected
        return answer

    attempting: Coroutine[Any, Any, Answer] = (
        endpoint.first_of(attempt) if isinstance(endpoint, AwaitedServer) else attempt()
    )
    return await attempting
