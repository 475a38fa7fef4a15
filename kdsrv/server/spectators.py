"""Who looks on at targets that others debug.

A spectator of a target that nobody has waits; it goes on when a session changes hands, and from one session to the
next. What it is told is made once for all spectators of the target, by the ``Scene``, and told when its network takes
it: one that is too slow loses the oldest lines and is told how many. No debugger waits for a spectator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime

from kdsrv.auth.users import User
from kdsrv.connection_strings import KdSpec
from kdsrv.errors import SetupError
from kdsrv.server.scene import Scene
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.session import Session
from kdsrv.transports.opener import target_key
from kdsrv.wire.messages import Message, StatusReport, Watching

__all__ = ["MAX_SPECTATORS", "Audience", "Spectator", "Spectators"]

MAX_SPECTATORS: Final = 32


class Audience(Protocol):
    """The connection of a spectator, as far as what it sees has to do with it."""

    @property
    def is_ready(self) -> bool:
        """Whether nothing waits for the network."""
        ...

    def say(self, message: Message) -> None:
        """Send a message."""
        ...

    def say_seen(self, missed: int, lines: Sequence[bytes]) -> None:
        """Send a Seen with these lines, which are JSON objects."""
        ...


class Spectator:
    """One that looks on at ``target``, as it is called for this one."""

    def __init__(self, scene: Scene, target: str, audience: Audience, left: Callable[[Spectator], None]) -> None:
        self._scene = scene
        self.target = target
        self._audience = audience
        self._left = left
        self._place, self._number = scene.place, scene.number
        self._status = scene.status

    def start(self) -> None:
        """Say how things are, and from now on what happens."""
        scene = self._scene
        self._audience.say(Watching(self.target, scene.description, self._status))
        holder = scene.holder_line()
        if holder is not None:
            self._audience.say_seen(0, [holder])

    def drained(self) -> None:
        """The network takes more: say what there is, as far as it does."""
        audience, scene = self._audience, self._scene
        while audience.is_ready:
            batch = scene.after(self._place, self._number)
            if batch is None:
                break
            self._place, self._number = batch.place, batch.number
            audience.say_seen(batch.missed, batch.lines)
        if audience.is_ready and scene.status != self._status:
            self._status = scene.status
            audience.say(StatusReport(self._status))

    def stop(self) -> None:
        """It has gone. May be called again."""
        self._left(self)


class Spectators:
    """All spectators of a server."""

    def __init__(self, clock: IReactorTime, directory: Directory) -> None:
        self._clock = clock
        self._directory = directory
        self._scenes: dict[str, Scene] = {}
        self._of: dict[str, list[Spectator]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def watch(self, spec: KdSpec | None, user: User | None, audience: Audience) -> Spectator:
        """A spectator of what ``spec`` names, to be started by the caller. NotAllowed, or a SetupError: sentences."""
        permit = self._directory.permit(spec, user)
        if len(self) >= MAX_SPECTATORS:
            raise SetupError(
                why=f"{MAX_SPECTATORS} look on at targets of this server, and no more can; try again later"
            )
        key = target_key(permit.spec)
        scene = self._scenes.get(key) or self._scene(key)
        spectator = Spectator(scene, permit.name, audience, lambda spectator: self._leave(key, spectator))
        self._of[key].append(spectator)
        return spectator

    def _scene(self, key: str) -> Scene:
        if not self._scenes:
            self._directory.opened.append(self._opened)
        scene = self._scenes[key] = Scene(self._clock, self._directory.wall_clock, lambda: self._tell(key))
        self._of[key] = []
        for session in self._directory:
            if session.lease.target == key:
                scene.join(session)
        return scene

    def _opened(self, session: Session) -> None:
        scene = self._scenes.get(session.lease.target)
        if scene is not None:
            scene.begin(session)

    def _tell(self, key: str) -> None:
        for spectator in tuple(self._of[key]):
            spectator.drained()

    def _leave(self, key: str, spectator: Spectator) -> None:
        spectators = self._of.get(key, [])
        if spectator in spectators:
            spectators.remove(spectator)
            if not spectators:
                del self._of[key]
                self._scenes.pop(key).close()
                if not self._scenes:
                    self._directory.opened.remove(self._opened)
