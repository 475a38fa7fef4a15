"""Opening a session: by a connection string, over a Twisted endpoint, or within a server's own process."""

from __future__ import annotations

import random as chance
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint

from kdsrv.auth.passwords import Credentials
from kdsrv.client.connecting import Route, own_name, route_of_spec
from kdsrv.client.conversation import Conversation
from kdsrv.client.lasting import Endurance, LastingSession
from kdsrv.client.target import Target
from kdsrv.client.terms import Terms
from kdsrv.connection_strings import KdSpec, KdsrvSpec, parse_kd_string, parse_kdsrv_string
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.leaving import OnLeave
from kdsrv.sessions.status import Quiet
from kdsrv.sessions.tenant import Take

__all__ = ["Opening", "open_session", "open_session_in_process", "open_session_over"]


class Opening(Awaitable[Target]):
    """A session about to be opened: ``async with opening as target:``, which leaves the target at the end, or
    ``target = await opening``. Nothing happens before that."""

    def __init__(self, opener: Callable[[], Coroutine[Any, Any, Target]]) -> None:
        self._opener = opener
        self._target: Target | None = None

    def __await__(self) -> Generator[Any, Any, Target]:
        return self._opener().__await__()

    async def __aenter__(self) -> Target:
        self._target = await self._opener()
        return self._target

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._target is not None
        await self._target.leave()


def open_session(
    reactor: Any,
    string: str | KdsrvSpec,
    *,
    client: str | None = None,
    user: str = "",
    password: str | None = None,
    resume: bool = True,
    take: Take | str | None = None,
    on_leave: OnLeave | str | None = None,
    continue_modules: bool = False,
    continue_reboots: bool = False,
) -> Opening:
    """A session on the target that a kdsrv string names:
    ``kdsrv:server=@{tcp:server=lab,port=1234},trans=@{com:port=/dev/ttyUSB0,baud=115200}``.

    ``client`` says who we are, for whoever else wants the target; by default ``user@host``. ``user`` and ``password``
    are for the login, if the string holds no password. With ``resume`` the session outlives a connection that breaks,
    for as long as the server waits. ``take`` says what to do if somebody else has the target: ``"ask"`` them for it, or
    take it by ``"force"``. ``on_leave`` says what becomes of the target in the end: it is to ``"stay"`` as it is, or to
    ``"continue"`` without its breakpoints. For the last two see ``Target``.

    Fails with ConnectionStringError, ServerUnreachable, ServerRefused (by ``code``: login, held, setup, target ...),
    LoginNeeded, LoginNotOffered, ServerUnproven, ServerGone or PeerError.
    """
    terms = Terms.of_words(take, on_leave)

    def opener() -> Coroutine[Any, Any, Target]:
        spec = parse_kdsrv_string(string) if isinstance(string, str) else string
        route = route_of_spec(reactor, spec, client, user=user, password=password)
        return _open(LastingSession(route, terms, _endurance(resume)), reactor, continue_modules, continue_reboots)

    return Opening(opener)


def open_session_over(
    reactor: Any,
    endpoint: IStreamClientEndpoint,
    trans: str | KdSpec | None = None,
    *,
    client: str | None = None,
    user: str = "",
    password: str | None = None,
    resume: bool = True,
    take: Take | str | None = None,
    on_leave: OnLeave | str | None = None,
    continue_modules: bool = False,
    continue_reboots: bool = False,
    random: Callable[[], float] = chance.random,
) -> Opening:
    """The same with any Twisted client endpoint that leads to a server. ``trans`` is a kd-string, None for the target
    that the server has as its default. ``random``, from 0 to below 1, is for the times of trying again."""
    terms = Terms.of_words(take, on_leave)

    def opener() -> Coroutine[Any, Any, Target]:
        text = trans.to_string() if isinstance(trans, KdSpec) else trans
        credentials = None if password is None else Credentials(password, user)
        route = Route(reactor, endpoint, "the endpoint", text, client, credentials)
        session = LastingSession(route, terms, _endurance(resume), random=random)
        return _open(session, reactor, continue_modules, continue_reboots)

    return Opening(opener)


def open_session_in_process(
    reactor: Any,
    directory: Directory,
    trans: str | KdSpec | None = None,
    *,
    client: str | None = None,
    take: Take | str | None = None,
    on_leave: OnLeave | str | None = None,
    continue_modules: bool = False,
    continue_reboots: bool = False,
) -> Opening:
    """A session of a server in this process, without a network: ``directory`` is that of a KdsrvService.

    Fails with ConnectionStringError, TargetHeld or another TargetError, or SetupError.
    """

    terms = Terms.of_words(take, on_leave)

    async def opener() -> Target:
        spec = parse_kd_string(trans) if isinstance(trans, str) else trans
        session = await directory.open(spec, client or own_name(), "this process", user=None, take=terms.take)
        session.on_leave = terms.on_leave or OnLeave.STAY
        conversation = Conversation(reactor, session, session.status)

        def leave() -> Deferred[None]:
            directory.close(session)
            return succeed(None)

        conversation.see_end = lambda: directory.close(session)
        target = Target(
            conversation,
            session.name,
            session.transport.description,
            leave,
            continue_modules=continue_modules,
            continue_reboots=continue_reboots,
        )
        session.start(conversation)
        return target

    return Opening(opener)


def _endurance(resume: bool) -> Endurance:
    return Endurance.BREAKS if resume else Endurance.NOTHING


async def _open(session: LastingSession, reactor: Any, continue_modules: bool, continue_reboots: bool) -> Target:
    conversation = Conversation(reactor, session, Quiet(0.0))
    session.user = conversation
    session.prints_dropped = conversation.prints_dropped
    attached = await session.open()
    conversation.status = attached.status
    return Target(
        conversation,
        attached.target,
        attached.description,
        session.leave,
        continue_modules=continue_modules,
        continue_reboots=continue_reboots,
    )
