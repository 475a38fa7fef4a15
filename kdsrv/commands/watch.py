"""``kdsrv watch``: look on at what others do with a target."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from kdsrv.auth.scram import LoginRefused
from kdsrv.backoff import Backoff
from kdsrv.client.listening import Notice, Waiting
from kdsrv.client.watching import SeenLine, ServerTooOld, WatchingProtocol, watch
from kdsrv.commands.certificate_options import add_certificate_options, given_certificates
from kdsrv.commands.login_options import GivenLogin, add_login_options, given_login
from kdsrv.commands.screen import Screen
from kdsrv.commands.string_option import add_string_option
from kdsrv.connection_strings import KdsrvSpec, parse_kdsrv_string
from kdsrv.errors import KdsrvError, SetupError
from kdsrv.policy.policy import NotAllowed
from kdsrv.sessions.decoded import printable
from kdsrv.sessions.status import Status
from kdsrv.tls.contexts import CertificateRefused
from kdsrv.tls.settings import ClientCertificates
from kdsrv.wire.messages import Watching

__all__ = ["configure", "run"]

_LONGEST_WAIT: Final = 15.0
_HOPELESS: Final = (LoginRefused.code, CertificateRefused.code, ServerTooOld.code, NotAllowed.code)
_WIDTH: Final = len("module-unload")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of ``kdsrv watch``."""
    parser.description = (
        "Look on at a target of a kdsrv server, whoever debugs it: what it prints, its stops, and what it is asked. "
        "While nobody has the target this waits. Times are those of this machine's zone, by the server's clock. "
        "Ctrl-C ends it."
    )
    add_string_option(
        parser, "'kdsrv:server=@{tcp:server=HOST,port=1234},trans=@{com:port=/dev/ttyUSB0,baud=115200}' (in quotes)"
    )
    add_login_options(parser)
    add_certificate_options(parser)
    parser.add_argument("--json", action="store_true", help="say what happens as JSON, one object a line")
    parser.add_argument(
        "--no-reconnect", action="store_true", help="end with status 1 when the server is lost, do not connect again"
    )


def run(reactor: Any, options: argparse.Namespace) -> Deferred[int]:
    """Look on until cancelled; fires with the exit status, or fails with a KdsrvError."""
    return Deferred.fromCoroutine(_run(reactor, options, Screen(as_json=options.json, people=sys.stdout)))


async def _run(reactor: Any, options: argparse.Namespace, screen: Screen) -> int:
    seat: Seat | None = None
    try:
        spec = parse_kdsrv_string(options.string)
        seat = Seat(reactor, spec, screen, given_login(options, os.environ), given_certificates(options))
        await seat.take()
        while True:
            reason = await seat.left
            if options.no_reconnect or seat.is_unread:
                raise reason
            sentence = f"the server is lost: {str(reason).rstrip('.')}; trying again"
            screen.report("lost", sentence, code=reason.code, message=str(reason))
            await seat.take_again()
    except CancelledError:
        return 0
    finally:
        if seat is not None:
            seat.leave()
        screen.end()


class Seat:
    """A Viewer who says what it sees. ``left`` fires with the reason when the connection has ended; ``is_unread`` if
    that is because nobody reads what is said."""

    def __init__(
        self, reactor: Any, spec: KdsrvSpec, screen: Screen, login: GivenLogin, certificates: ClientCertificates
    ) -> None:
        self.left: Deferred[KdsrvError] = Deferred()
        self.is_unread = False
        self._has_begun = False
        self._reactor = reactor
        self._spec = spec
        self._screen = screen
        self._login = login
        self._certificates = certificates
        self._connection: WatchingProtocol | None = None
        self._backoff = Backoff(random.random, longest=_LONGEST_WAIT)
        screen.gone = self._unread

    async def take(self) -> None:
        """Connect, and begin to look on."""
        user, password = self._login
        self._connection, watching = await watch(
            self._reactor,
            self._spec,
            self,
            user=user,
            password=password,
            certificates=self._certificates,
            tell=self._waits,
        )
        self._backoff.reset()
        self._begin(watching)

    async def take_again(self) -> None:
        """The same as often as it takes, with growing waits. Fails with a KdsrvError that no waiting helps against."""
        self.left = Deferred()
        while True:
            await deferLater(self._reactor, self._backoff.next())
            try:
                await self.take()
            except KdsrvError as error:
                if error.code in _HOPELESS:
                    raise
            else:
                return

    def leave(self) -> None:
        """Look on no more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave()

    # As the viewer

    def seen(self, missed: int, lines: list[SeenLine]) -> None:
        if missed:
            sentence = f"{missed} lines are missing here or among the next: too much happened, or this was too slow"
            self._screen.report("missed", sentence, lines=missed)
        for line in lines:
            facts = {"time": _iso(line.time), "kind": line.kind, "text": line.text, **line.data}
            self._screen.report("seen", _as_text(line), line=facts)

    def status_changed(self, status: Status) -> None:
        self._screen.live(status)

    def lost(self, reason: KdsrvError) -> None:
        self._connection = None
        if not self.left.called:
            self.left.callback(reason)

    # What else there is to say

    def _begin(self, watching: Watching) -> None:
        self._has_begun = True
        line = f" ({watching.description})" if watching.description else ""
        sentence = f"looking on at {watching.target}{line}"
        self._screen.report("watching", sentence, target=watching.target, description=watching.description)
        self._screen.live(watching.status)

    def _waits(self, notice: Notice) -> None:
        """With clicon=: where the server has to connect to, and who else did. A server that was there before and
        is slow to answer is no news."""
        if isinstance(notice, Waiting) and self._has_begun:
            return
        self._screen.report("notice", str(notice), text=str(notice))

    def _unread(self) -> None:
        self.is_unread = True
        if not self.left.called:
            self.left.callback(SetupError(why="nobody reads what is said here any more"))


def _as_text(line: SeenLine) -> str:
    seconds = int(line.time)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    kind, text = printable(line.kind), printable(line.text)
    return f"{when}.{int((line.time - seconds) * 1000):03} {kind:{_WIDTH}} {text}".rstrip()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
