"""``ssl:`` among Twisted's endpoint strings: the same as ``tcp:`` with TLS 1.3 around it, as kdsrv speaks it.

Twisted's own ``ssl:`` and ``tls:`` speak TLS 1.2 as well and know no ALPN, so they are not used.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from kdsrv.errors import SetupError
from kdsrv.tls.contexts import ServerTls
from kdsrv.tls.settings import ServerCertificates

__all__ = ["SslString", "refuse_other_tls", "split_ssl_string"]

_FIELD: Final = re.compile(r"(?:\\.|[^:\\])*", re.DOTALL)
_NO_MORE: Final = {
    "sslmethod": "TLS 1.3 is all that is spoken",
    "dhParameters": "TLS 1.3 has none",
    "extraCertChain": "put the chain behind the certificate in the file of certKey=",
}
_OTHER: Final = re.compile(r"(?:^|:)(ssl|tls):", re.IGNORECASE)


class SslString(NamedTuple):
    """An ``ssl:`` string taken apart: the ``tcp:`` string inside, and the PEM files it names."""

    tcp: str
    certificate: Path | None
    key: Path | None

    def server_tls(self, certificates: ServerCertificates) -> ServerTls:
        """The server's end with these files, or with the options' certificate if there are none."""
        if self.certificate is None:
            return certificates.server_tls()
        return certificates.server_tls_of_files(self.certificate, self.key)


def split_ssl_string(text: str) -> SslString | None:
    """``ssl:1234:certKey=c.pem:privateKey=k.pem:interface=..`` (or, to dial, ``ssl:host:1234:..``), None if the text is
    no ``ssl:`` string. SetupError if it asks for what TLS 1.3 has not."""
    kind, *fields = _split(text)
    if kind.lower() != "ssl":
        return None
    kept, files = ["tcp"], dict[str, Path]()
    for field in fields:
        name, equals, value = field.partition("=")
        if equals and name in ("certKey", "privateKey"):
            if not value:
                raise SetupError(why=f"'{text}': {name}= is the path of a PEM file")
            files[name] = Path(re.sub(r"\\(.)", r"\1", value))
        elif equals and name in _NO_MORE:
            raise SetupError(why=f"'{text}': {name}= is not for this server: {_NO_MORE[name]}")
        else:
            kept.append(field)
    if "privateKey" in files and "certKey" not in files:
        raise SetupError(why=f"'{text}': privateKey= needs certKey=, the certificate that it belongs to")
    return SslString(":".join(kept), files.get("certKey"), files.get("privateKey"))


def refuse_other_tls(text: str) -> None:
    """Raise SetupError for a string with a TLS in it that is Twisted's: ``tls:``, or ``ssl:`` within another."""
    if _OTHER.search(text):
        raise SetupError(
            why=f"'{text}': this TLS is not kdsrv's; write ssl:PORT, with certKey=FILE:privateKey=FILE if you have them"
        )


def _split(text: str) -> list[str]:
    """The fields, with what is escaped in them left so."""
    fields, start = [], 0
    while True:
        match = _FIELD.match(text, start)
        assert match is not None
        fields.append(match[0])
        if match.end() >= len(text):
            return fields
        if text[match.end()] != ":":
            raise SetupError(why=f"'{text}' ends in the middle of an escape")
        start = match.end() + 1
