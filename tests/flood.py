"""A crowd at a server's door, as a program of its own: ``python flood.py PORT HALF_OPEN WRONG SECONDS``.

It opens so many connections that say nothing, and makes so many logins with wrong passwords, evenly over the seconds
and from many addresses of loopback. The proofs are made up, so that guessing costs the server more than the guesser. At
the end it prints what came of the logins: how many were refused by which code, or cut off.
"""

from __future__ import annotations

import asyncio
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

from kdsrv.auth.scram import PLAIN
from kdsrv.wire.connection import Connection
from kdsrv.wire.messages import Challenge, ClientHello, Failure, Login, Response, Role, ServerHello

ADDRESSES = 40
NO_PROOF = b64encode(bytes(32)).decode()


def addresses() -> Iterator[str]:
    """Addresses that are not those of the sessions."""
    return (f"127.0.{1 + number % ADDRESSES}.1" for number in count())


async def stand_there(port: int, address: str, until: float) -> None:
    """A connection that says nothing."""
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        await asyncio.sleep(until)
        writer.close()


async def guess(port: int, address: str) -> str:
    """One login; what came of it."""
    talk = Connection(Role.CLIENT)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    except OSError:
        return "unreachable"
    outcome = "cut off"
    with suppress(OSError):
        writer.write(talk.send(ClientHello("a flood")))
        while data := await reader.read(65536):
            for event in talk.receive_data(data):
                if isinstance(event, ServerHello):
                    writer.write(talk.send(Login(PLAIN, b"n,,n=,r=abcdefgh")))
                elif isinstance(event, Challenge):
                    nonce = event.data.decode().partition(",")[0]
                    writer.write(talk.send(Response(f"c=biws,{nonce},p={NO_PROOF}".encode())))
                elif isinstance(event, Failure):
                    outcome = event.code
    writer.close()
    return outcome


async def flood(port: int, half_open: int, wrong: int, seconds: float) -> None:
    where = addresses()
    standing = [asyncio.create_task(stand_there(port, next(where), seconds)) for _ in range(half_open)]
    begin = asyncio.get_running_loop().time()
    guesses = []
    for number in range(wrong):
        await asyncio.sleep(max(0.0, begin + seconds * number / wrong - asyncio.get_running_loop().time()))
        guesses.append(asyncio.create_task(guess(port, next(where))))
    outcomes = Counter(await asyncio.gather(*guesses))
    await asyncio.gather(*standing)
    sys.stdout.write(" ".join(f"{outcome.replace(' ', '-')}={number}" for outcome, number in outcomes.items()) + "\n")


if __name__ == "__main__":
    asyncio.run(flood(*map(int, sys.argv[1:4]), float(sys.argv[4])))
