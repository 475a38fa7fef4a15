"""Datagrams of strangers at a UDP port, as a program of its own: ``python net_flood.py PORT RATE SECONDS``.

They come from many addresses of loopback, among them that of the targets of a test, and look like what a target sends,
but for the key: OFFERs, data, and some that are nothing. At the end it prints how many were sent.
"""

from __future__ import annotations

import os
import socket
import sys
import time

SOURCES = [f"127.0.{high}.{low}" for high in (0, 1) for low in range(2, 34)]
STEP = 0.002


def junk() -> list[bytes]:
    offers = [b"MDBG\x05\x01" + os.urandom(368) for _ in range(6)]
    data = [b"MDBG\x05\x00" + os.urandom(48) for _ in range(6)]
    return [*offers, *data, b"GET / HTTP/1.1\r\n\r\n", b""]


def flood(port: int, rate: int, seconds: float) -> int:
    """How many were sent."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in SOURCES]
    for line, source in zip(sockets, SOURCES, strict=True):
        line.bind((source, 0))
        line.connect(("127.0.0.1", port))
    kinds = junk()
    sent = 0
    begin = time.monotonic()
    while (elapsed := time.monotonic() - begin) < seconds:
        while sent < rate * elapsed:
            sockets[sent % len(sockets)].send(kinds[sent % len(kinds)])
            sent += 1
        time.sleep(STEP)
    return sent


if __name__ == "__main__":
    sys.stdout.write(f"sent {flood(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))}\n")
