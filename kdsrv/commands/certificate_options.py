"""The options by which commands say which servers they take over TLS, and what they show to them."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdsrv.tls.settings import ClientCertificates

__all__ = ["add_certificate_options", "given_certificates"]


def add_certificate_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--ca``, ``--certificate`` and ``--key``."""
    parser.add_argument(
        "--ca",
        metavar="FILE",
        action="append",
        default=[],
        help="over TLS, take only a server whose certificate names it and has one of the authorities in this PEM file "
        "behind it; certuser=FINGERPRINT in the string says which very certificate to take",
    )
    parser.add_argument("--certificate", metavar="FILE", type=Path, help="a PEM file to show to a server that asks")
    parser.add_argument("--key", metavar="FILE", type=Path, help="its key, if that is in another file")


def given_certificates(options: argparse.Namespace) -> ClientCertificates:
    """What the options say; the files are read when a connection is made."""
    return ClientCertificates(tuple(options.ca), options.certificate, options.key)
