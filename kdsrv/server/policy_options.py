"""The options of a server that say what its clients may open (docs/policy.md)."""

from __future__ import annotations

from twisted.python.usage import UsageError

from kdsrv.connection_strings import KdSpec, TargetSpec
from kdsrv.errors import KdsrvError
from kdsrv.policy.patterns import Pattern, parse_pattern
from kdsrv.policy.places import HostPlaces
from kdsrv.policy.policy import Policy, parse_target
from kdsrv.server.keeper import StopPolicy

__all__ = ["PolicyOptions"]


class PolicyOptions:
    """``--target``, ``--allow`` and ``--watch``, and what they come to. To be mixed into Twisted's options."""

    def __init__(self) -> None:
        super().__init__()
        self._targets: dict[str, KdSpec] = {}
        self._allowed: list[Pattern] = []
        self.watched: dict[str, StopPolicy] = {}

    def opt_target(self, text: str) -> None:
        """Publish a target under a name, NAME=KDSTRING; clients then open only what is published or allowed, here by
        trans=@{target:name=NAME} (repeatable)"""
        try:
            name, spec = parse_target(text)
        except KdsrvError as error:
            raise UsageError(f"kdsrv: --target: {error}") from None
        if name in self._targets:
            raise UsageError(f"kdsrv: --target: there is a target {name} already")
        self._targets[name] = spec

    def opt_allow(self, text: str) -> None:
        """Let clients open what matches this kd-string with * in it, and nothing else that is not published:
        'com:port=/dev/ttyUSB*,*' (repeatable)"""
        try:
            self._allowed.append(parse_pattern(text))
        except KdsrvError as error:
            raise UsageError(f"kdsrv: --allow: {error}") from None

    def opt_watch(self, text: str) -> None:
        """Hold a published target while no client does, and keep what it prints for the next: NAME, which leaves a stop
        for a client, or NAME=continue, which goes on after it (repeatable)"""
        name, _, stops = text.partition("=")
        if (stops or StopPolicy.HOLD) not in tuple(StopPolicy):
            raise UsageError(f"kdsrv: --watch: {stops!r} is neither hold nor continue; write NAME or NAME=continue")
        self.watched[name] = StopPolicy(stops or StopPolicy.HOLD)

    def check_watched(self) -> None:
        """UsageError if one is to be watched that is not published."""
        for name in self.watched:
            if name not in self._targets:
                published = ", ".join(self._targets) or "none is"
                raise UsageError(f"kdsrv: --watch: '{name}' is no published target ({published}); see --target")

    def example(self) -> str:
        """A kd-string as clients may write it: a published target, else a serial port."""
        return next((str(TargetSpec(name)) for name in self._targets), "com:port=/dev/ttyUSB0,baud=115200")

    def policy(self) -> Policy:
        """What these options come to."""
        return Policy(HostPlaces(), self._targets, self._allowed)
