"""Rounds of KDNET, one after another: a request, its ACK and its reply, the ACK of that; four datagrams in all.

As a program it is either end: ``python3 -m benchmarks.kdnet peer SIZE ROUNDS``, and opposite to it

    echo        plain sockets, and nothing to do with what is in the datagrams
    sealed      the same, with each datagram sealed or opened
    transport   reactor, UDP port, KDNET; the KD packets are there already
    session     what a kdsrv server does: the same, with KD link and session

with the peer's port, SIZE and ROUNDS. SIZE is that of the memory in a reply. The peer seals all that it is going to say
before it is measured with, so that it does no more than an echo does. ``crypto SIZE`` has no peer: it seals and opens.
All but the peer say that they are ready, and when they are told to go answer with a line of JSON.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from kdsrv.connection_strings import NetSpec
from kdsrv.errors import KdsrvError, TargetError
from kdsrv.kd.manipulate import Manipulate
from kdsrv.kd.packets import HEADER, MANIPULATE, Packet, PacketType, encode_control, encode_data
from kdsrv.kdnet.control import ConnectCheck, Offer, Response
from kdsrv.kdnet.datagrams import Channel, Datagram, Seal
from kdsrv.kdnet.keys import NetKey
from kdsrv.sessions.directory import Directory
from kdsrv.sessions.session import Session
from kdsrv.sessions.status import Status
from kdsrv.transports.net import open_net
from kdsrv.transports.opener import Opener
from kdsrv.transports.transport import Transport

__all__: list[str] = []

KEY = NetKey.parse("1m770ts6ru0p.3671pemyie4i.2b8djy3wt5et.1p99ir125v4q")
ADDRESS = 0xFFFFF80002A00000
VERSION = 5
FIRST_ID, STEP = 0x80000000, 2
WARM_UP = 200
HERE = "127.0.0.1"
PATIENCE = 10.0
STOPPED = bytes.fromhex("30300000").ljust(240, b"\0")
"""A state change, an exception at 0."""


def _request(size: int) -> Manipulate:
    return Manipulate.read_virtual(ADDRESS, size)


def _reply(size: int) -> bytes:
    return _request(size).reply(data=random.Random(size).randbytes(size), actual=size).encode()


def _sealed_size(payload: int) -> int:
    return 22 + -(-(8 + payload) // 16) * 16


class Peer:
    """The target. It answers a datagram of the size of a request by two, whatever is in it, and nothing else.

    For one who authenticates there is more: OFFERs until one is answered, a stop, and what is said is sealed.
    """

    def __init__(self, size: int, rounds: int) -> None:
        self._size = size
        self._rounds = rounds
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HERE, 0))
        self.port: int = self._socket.getsockname()[1]
        self._request_size = _sealed_size(HEADER.size + len(_request(size).encode()))
        self._data: Seal | None = None
        self._sent = self._next_id = 0
        ack, reply = _sealed_size(HEADER.size), _sealed_size(HEADER.size + len(_reply(size)))
        self._answers = [(bytes(ack), bytes(reply))] * (rounds + WARM_UP)

    def echo(self) -> None:
        """For ever."""
        answers = iter(self._answers)
        while True:
            data, sender = self._socket.recvfrom(4096)
            if len(data) == self._request_size:
                for answer in next(answers):
                    self._socket.sendto(answer, sender)

    def meet(self, host_port: int) -> None:
        """Come to the point at which the host puts its first request, and answer that and the others."""
        control = Seal(KEY.control, KEY.mac)
        offer = control.seal(
            VERSION, Channel.CONTROL, 3, False, Offer(bytes(32), (HERE, self.port), (HERE, 1)).encode()
        )
        self._socket.settimeout(0.2)
        while True:
            self._socket.sendto(offer, (HERE, host_port))
            try:
                answer = control.open(self._socket.recv(4096))
                break
            except (TimeoutError, ConnectionRefusedError):
                continue
        assert answer is not None
        assert Response.decode(answer.payload) is not None
        self._data = Seal(KEY.data_key(answer.payload), KEY.mac)
        self._say(ConnectCheck(HERE).encode(), host_port)
        self._socket.settimeout(PATIENCE)
        while True:
            datagram = self._data.open(self._socket.recv(4096))
            if datagram is not None and not self._begin(datagram, host_port):
                return self.echo()

    def _begin(self, datagram: Datagram, host_port: int) -> bool:
        """Answer a RESET by a stop; a request is the first of all, and its end of the preparations."""
        _leader, kind, _size, packet_id, _sum = HEADER.unpack_from(datagram.payload)
        if kind == PacketType.RESET:
            self._say(encode_control(PacketType.RESET, self._next_id), host_port)
            self._say(encode_data(PacketType.STATE_CHANGE64, self._next_id, STOPPED, trailer=b""), host_port)
        elif kind == MANIPULATE:
            self._prepare(packet_id)
            for answer in self._answers.pop(0):
                self._socket.sendto(answer, (HERE, host_port))
        return kind != MANIPULATE

    def _prepare(self, host_id: int) -> None:
        reply = _reply(self._size)
        for number in range(len(self._answers)):
            self._next_id += STEP
            ack = self._sealed(encode_control(PacketType.ACKNOWLEDGE, host_id + STEP * number))
            self._answers[number] = ack, self._sealed(encode_data(MANIPULATE, self._next_id, reply, trailer=b""))

    def _sealed(self, payload: bytes) -> bytes:
        assert self._data is not None
        self._sent += 1
        return self._data.seal(VERSION, Channel.DATA, self._sent, False, payload)

    def _say(self, payload: bytes, host_port: int) -> None:
        self._socket.sendto(self._sealed(payload), (HERE, host_port))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _wait_to_go() -> None:
    _say("ready")
    sys.stdin.readline()


def _report(rounds: int, seconds: float, cpu: float) -> None:
    _say(json.dumps({"rounds": rounds, "seconds": seconds, "cpu_us": cpu * 1e6 / rounds}))


def measure(rounds: int, once: Callable[[], object]) -> None:
    """Do it so often, and before that a few times unmeasured."""
    for _ in range(WARM_UP):
        once()
    _wait_to_go()
    cpu, began = time.process_time(), time.monotonic()
    for _ in range(rounds):
        once()
    _report(rounds, time.monotonic() - began, time.process_time() - cpu)


def exchange(port: int, size: int, rounds: int, *, sealed: bool) -> None:
    """Rounds over plain sockets; with ``sealed`` all that is sent is sealed first, and what comes opened."""
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.connect((HERE, port))
    seal = Seal(bytes(32), bytes(range(32)))
    request = encode_data(MANIPULATE, 0, _request(size).encode(), trailer=b"")
    ack = encode_control(PacketType.ACKNOWLEDGE, 0)
    sent = [(each, bytes(_sealed_size(len(each))), answers) for each, answers in ((request, 2), (ack, 0))]
    wait = select.epoll()
    wait.register(line, select.EPOLLIN)

    def once() -> None:
        for payload, plain, answers in sent:
            line.send(seal.seal(VERSION, Channel.DATA, 1, True, payload) if sealed else plain)
            for _ in range(answers):
                wait.poll()
                data = line.recv(4096)
                if sealed:
                    seal.open(data)

    measure(rounds, once)


class Rounds:
    """Counts answers, and says when it is enough."""

    def __init__(self, rounds: int) -> None:
        self.done: Deferred[None] = Deferred()
        self._rounds = rounds
        self._answers = 0
        self._began = self._cpu = 0.0

    def answered(self) -> bool:
        """Whether there is more to ask."""
        self._answers += 1
        if self._answers == WARM_UP:
            _wait_to_go()
            self._cpu, self._began = time.process_time(), time.monotonic()
        if self._answers < WARM_UP + self._rounds:
            return True
        _report(self._rounds, time.monotonic() - self._began, time.process_time() - self._cpu)
        self.done.callback(None)
        return False


class Packets:
    """The receiver of a transport: sends packets made before, acknowledges what comes."""

    def __init__(self, size: int, rounds: int) -> None:
        self._rounds = Rounds(rounds)
        request = _request(size).encode()
        ids = range(STEP, STEP * (rounds + WARM_UP + 1), STEP)
        self._acks = iter([encode_control(PacketType.ACKNOWLEDGE, number) for number in ids])
        self._requests = iter([encode_data(MANIPULATE, FIRST_ID + number, request, trailer=b"") for number in ids])
        self._transport: Transport | None = None

    async def read(self, port: int) -> None:
        self._transport = await open_net(reactor, NetSpec(port, KEY.text))
        self._transport.start(self)
        await self._rounds.done
        self._transport.close()

    def bytes_received(self, data: bytes) -> int:
        assert self._transport is not None
        kind = HEADER.unpack_from(data)[1]
        if kind == PacketType.STATE_CHANGE64:
            self._transport.write(encode_control(PacketType.ACKNOWLEDGE, 0))
            self._transport.write(next(self._requests))
        elif kind == MANIPULATE:
            self._transport.write(next(self._acks))
            if self._rounds.answered():
                self._transport.write(next(self._requests))
        return 0

    def transport_interrupted(self, why: str | Status) -> None:
        pass

    def transport_resumed(self) -> None:
        assert self._transport is not None
        self._transport.write(encode_control(PacketType.RESET, FIRST_ID))

    def transport_lost(self, reason: TargetError) -> None:
        raise AssertionError(str(reason))


class Reader:
    """The user of a session: asks again as soon as it is answered."""

    def __init__(self, size: int, rounds: int) -> None:
        self._rounds = Rounds(rounds)
        self._request = _request(size).encode()
        self._wanted = len(_reply(size))
        self._session: Session | None = None

    async def read(self, port: int) -> None:
        directory = Directory(reactor, Opener(reactor), {})
        self._session = await directory.open(NetSpec(port, KEY.text), "a benchmark", "here", None)
        self._session.start(self)
        await self._rounds.done
        self._session.close()

    def packet_received(self, packet: Packet) -> None:
        assert self._session is not None
        if packet.type == MANIPULATE:
            assert len(packet.payload) == self._wanted
            if not self._rounds.answered():
                return
        self._session.send_packet(MANIPULATE, self._request)

    def status_changed(self, status: Status) -> None:
        pass

    def resynced(self) -> None:
        pass

    def requests_lost(self, count: int) -> None:
        raise AssertionError

    def session_lost(self, reason: KdsrvError) -> None:
        raise AssertionError(str(reason))


def react(reading: Reader | Packets, port: int) -> None:
    """Let the reactor run until all is read."""
    done = Deferred.fromCoroutine(reading.read(port))
    done.addErrback(lambda failure: failure.printTraceback())
    done.addBoth(lambda _: reactor.stop())
    reactor.run()


def crypto(size: int, rounds: int, *, bare: bool) -> None:
    """A datagram with ``size`` bytes sealed and opened; ``bare``: by ``cryptography`` with nothing of ours around."""
    key, mac_key, payload = bytes(range(32)), bytes(32), random.Random(size).randbytes(size)
    seal = Seal(key, mac_key)
    plain = bytes(8) + payload + bytes(-(8 + size) % 16)

    def ours() -> None:
        assert seal.open(seal.seal(VERSION, Channel.DATA, 1, True, payload)) is not None

    def theirs() -> None:
        mac = HMAC(mac_key, SHA256())
        mac.update(plain)
        tag = mac.finalize()[:16]
        encryptor = Cipher(AES256(key), CBC(tag)).encryptor()
        body = encryptor.update(plain) + encryptor.finalize()
        decryptor = Cipher(AES256(key), CBC(tag)).decryptor()
        opened = decryptor.update(body) + decryptor.finalize()
        mac = HMAC(mac_key, SHA256())
        mac.update(opened)
        assert mac.finalize()[:16] == tag

    measure(rounds, theirs if bare else ours)


def main(role: str, *numbers: str) -> None:
    first, *rest = map(int, numbers)
    if role == "peer":
        peer = Peer(first, rest[0])
        host_port = rest[1]
        _say(str(peer.port))
        if host_port:
            peer.meet(host_port)
        peer.echo()
    elif role == "session":
        react(Reader(*rest), first)
    elif role == "transport":
        react(Packets(*rest), first)
    elif role in ("seal", "bare"):
        crypto(first, *rest, bare=role == "bare")
    else:
        exchange(first, *rest, sealed=role == "sealed")


if __name__ == "__main__":
    main(*sys.argv[1:])
