"""Everything that can go wrong, by who is at fault.

The docstring of each error is the sentence its user reads: ``{fields}`` in it are filled from the keyword arguments the
error is raised with. ``code`` names the error on the wire and in ``--json`` output; it never changes once published.
"""

from __future__ import annotations

import inspect
from typing import ClassVar

__all__ = [
    "ConnectionStringError",
    "KdsrvError",
    "LinkLost",
    "PeerError",
    "SetupError",
    "TargetError",
    "TargetHeld",
    "WrongOption",
]


class KdsrvError(Exception):
    """Something went wrong in kdsrv: {why}."""

    code: ClassVar[str] = "error"

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        super().__init__(inspect.cleandoc(type(self).__doc__ or "").replace("\n", " ").format(**facts))


class ConnectionStringError(KdsrvError):
    """column {column}: {why}"""

    code = "bad-string"

    def __init__(self, *, column: int, why: str, text: str, caret: int, expected: tuple[str, ...] = ()) -> None:
        """``column`` counts from 1 in the text that was given; ``text`` is that text with its secrets masked and
        ``caret`` the offset in it; ``expected`` are the names that would have been right there, if there is a list."""
        super().__init__(column=column, why=why)
        self.column = column
        self.text = text
        self.caret = caret
        self.expected = expected

    @property
    def sentence(self) -> str:
        """The sentence alone, on one line."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.sentence}\n    {self.text}\n    {' ' * self.caret}^"


class SetupError(KdsrvError):
    """{why}"""

    code = "setup"


class WrongOption(SetupError):
    """{why}"""


class PeerError(KdsrvError):
    """The other end does not keep to the kdsrv protocol: {why}."""

    code = "protocol"


class TargetError(KdsrvError):
    """{target}: {why}"""

    code = "target"


class LinkLost(TargetError):
    """{target}: the link is lost: {why}"""

    code = "link-lost"


class TargetHeld(TargetError):
    """{target} is held by {holder} from {address} since {since}; it is free again when they leave"""

    code = "held"
