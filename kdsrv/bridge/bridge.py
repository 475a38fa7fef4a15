"""The end of a session that a debugger sees: the link in the target role, over whatever line the debugger is on.

The bridge acknowledges at once, answers RESET, turns a break-in byte into ``break_in`` and hands packets on. It never
closes the debugger's line when the target or the network is away; it is silent until they are back.

A debugger that comes, comes back, or sends RESET has lost the thread: the session is asked for a resync, and replies
and state changes that come before the echo of it are to somebody else's requests and go no further. What waits for an
answer (a stop, a prompt) is held until the debugger says its first word, also when a debugger before it left without
answering; file requests of a booting target, which would wait with it, are refused as a debugger refuses them.

A web page can make its reader's browser send what it likes to a port of loopback, but not without a request line in
front. So a line that begins with one is closed, before a packet behind it is taken for a debugger's.
"""

from __future__ import annotations

from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime

from kdsrv.bridge.accommodation import Accommodation
from kdsrv.errors import KdsrvError, LinkLost, PeerError, TargetError
from kdsrv.kd.debug_io import DebugIo
from kdsrv.kd.file_io import FileIo
from kdsrv.kd.layout import PayloadError
from kdsrv.kd.link import Acknowledged, BreakIn, Event, GaveUp, ResendAsked, ResetSeen
from kdsrv.kd.packets import MANIPULATE, MAX_PAYLOAD, Packet, PacketType
from kdsrv.kd.target_link import TargetLink
from kdsrv.link_driver import HeldAcks, LinkDriver
from kdsrv.sessions.outbox import DroppedPrints, Outbox, is_print
from kdsrv.sessions.status import RunState, Status
from kdsrv.sessions.uplink import Uplink
from kdsrv.transports.transport import Transport

__all__ = ["Bridge", "BridgeObserver"]

_STOPS: Final = frozenset({PacketType.STATE_CHANGE64, PacketType.STATE_CHANGE32})
_QUESTIONS: Final = frozenset({PacketType.DEBUG_IO, PacketType.FILE_IO})
_FOR_OLD_REQUESTS: Final = _STOPS | {MANIPULATE}
_REQUEST_LINES: Final = tuple(f"{method} ".encode() for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"))


class BridgeObserver(Protocol):
    """Who is told what happens at a bridge."""

    def debugger_came(self, line: str) -> None: ...

    def debugger_left(self, line: str) -> None: ...

    def printed_unseen(self, packet: Packet) -> None:
        """The target printed, and no debugger is there to show it."""
        ...

    def status_changed(self, status: Status) -> None: ...

    def session_lost(self, reason: KdsrvError) -> None: ...


class Bridge:
    """One session's bridge: a SessionUser towards ``uplink``, a Receiver towards the debugger's line."""

    def __init__(
        self, clock: IReactorTime, uplink: Uplink, observer: BridgeObserver, acks: HeldAcks | None = None
    ) -> None:
        self._clock = clock
        self._uplink = uplink
        self._observer = observer
        self._acks = acks
        self._line: Transport | None = None
        self._driver = self._new_driver()
        self._accommodation = Accommodation()
        self._outbox = Outbox()
        self._sending: Packet | None = None
        self._talking = False
        self._held: Packet | None = None
        self._announced: Packet | None = None
        self._echoes_missing = 0

    @property
    def debugger(self) -> str | None:
        """The line that a debugger is on, if one is."""
        return None if self._line is None else self._line.description

    @property
    def is_behind(self) -> bool:
        """Whether a debugger is there and does not keep up."""
        return self._line is not None and self._outbox.is_filling

    def attach(self, line: Transport) -> bool:
        """A debugger has come on ``line``. False, and nothing happens, if another one is here."""
        if self._line is not None:
            return False
        self._line = line
        self._driver = self._new_driver()
        self._accommodation = Accommodation()
        self._talking = False
        self._forget_requests()
        self._observer.debugger_came(line.description)
        line.start(self)
        return True

    def use(self, uplink: Uplink) -> None:
        """The session was lost and this one is in its place: what was asked of the old one is forgotten."""
        self._uplink = uplink
        self._echoes_missing = 0
        self._announced = self._held = None
        if self._line is not None:
            self._forget_requests()

    def close(self) -> None:
        """Let the debugger go; the session is the caller's."""
        self._driver.stop()
        if self._line is not None:
            self._line.close()
            self._line = None

    # What the debugger's line brings

    def bytes_received(self, data: bytes) -> int:
        if not self._talking and data.startswith(_REQUEST_LINES):
            self._turn_away("a web browser, and no debugger, is there")
            return 0
        return self._driver.bytes_received(data)

    def transport_interrupted(self, why: str | Status) -> None:
        """A debugger's line does not come back by itself; see ``transport_lost``."""

    def transport_resumed(self) -> None:
        """Nothing to do: what matters is the debugger's next word."""

    def transport_lost(self, reason: TargetError) -> None:
        line, self._line = self._line, None
        self._driver.stop()
        self._talking = False
        if self._sending is not None and is_print(self._sending):
            self._outbox.put_back(self._sending)
        self._sending = None
        announced = self._announced
        if announced is not None and announced.type == PacketType.FILE_IO:
            self._refuse_file(announced)
        elif self._held is None:
            self._held = announced
        if line is not None:
            self._observer.debugger_left(line.description)

    def _turn_away(self, why: str) -> None:
        """Close the debugger's line, as if it had left."""
        line = self._line
        if line is not None:
            line.close()
            self.transport_lost(LinkLost(target=line.description, why=why))

    # What the session brings

    def packet_received(self, packet: Packet) -> None:
        if self._echoes_missing and packet.type in _FOR_OLD_REQUESTS:
            return
        if packet.type in _STOPS or (packet.type in _QUESTIONS and not is_print(packet)):
            self._announced = packet
        if self._talking:
            if self._sending is None and not len(self._outbox):
                self._send(packet)
            else:
                self._outbox.put(packet)
                self._send_next()
            self._driver.flush()
        elif self._line is None and is_print(packet):
            self._observer.printed_unseen(packet)
        elif is_print(packet):
            self._outbox.put(packet)
        elif packet.type == PacketType.FILE_IO:
            self._refuse_file(packet)
        elif packet.type != MANIPULATE:
            self._held = packet

    def resynced(self) -> None:
        self._echoes_missing = max(0, self._echoes_missing - 1)

    def requests_lost(self, count: int) -> None:
        """The debugger notices by itself, and asks again."""

    def status_changed(self, status: Status) -> None:
        if status.run_state is not RunState.HALTED:
            if self._announced is not None and self._announced.type in _STOPS:
                self._announced = None
            if self._held is not None and self._held.type in _STOPS:
                self._held = None
        self._observer.status_changed(status)

    def session_lost(self, reason: KdsrvError) -> None:
        self._announced = self._held = None
        self._observer.session_lost(reason)

    def _refuse_file(self, packet: Packet) -> None:
        self._announced = None
        try:
            answer = FileIo.decode(packet.payload).refusal()
        except PayloadError:
            return
        self._uplink.send_packet(PacketType.FILE_IO, answer.encode())

    # The link's events

    def _new_driver(self) -> LinkDriver:
        link = TargetLink(break_at_once=True, forget_on_reset=True, retries=None)
        return LinkDriver(self._clock, link, self._on_event, self._write, self._acks)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Packet):
            self._on_request(event)
        elif isinstance(event, Acknowledged):
            self._sending = None
            self._send_next()
        elif isinstance(event, BreakIn):
            self._on_break_in()
        elif isinstance(event, ResetSeen):
            self._on_reset()
        elif isinstance(event, ResendAsked):
            self._on_resend_asked()
        elif isinstance(event, GaveUp):
            self._on_gave_up()

    def _write(self, data: bytes) -> None:
        if self._line is not None:
            self._line.write(data)

    def _on_request(self, packet: Packet) -> None:
        self._talking = True
        if self._held is not None:
            self._announce(but_stops=True)
        if self._announced is not None and self._announced.type == packet.type:
            self._announced = None
        payload = self._accommodation.adapt(packet.payload) if packet.type == MANIPULATE else packet.payload
        try:
            self._uplink.send_packet(packet.type, payload)
        except PeerError as error:
            self._turn_away(str(error))

    def _on_break_in(self) -> None:
        self._talking = True
        if self._held is not None:
            self._announce()
        else:
            self._uplink.break_in()

    def _on_reset(self) -> None:
        self._talking = True
        self._forget_requests()
        self._announce(but_stops=True)

    def _on_resend_asked(self) -> None:
        self._talking = True
        self._announce()

    def _on_gave_up(self) -> None:
        if self._sending is not None and is_print(self._sending):
            self._outbox.put_back(self._sending)
        self._sending = None

    def _forget_requests(self) -> None:
        self._outbox.keep_prints()
        self._echoes_missing += 1
        self._uplink.resync()

    def _announce(self, *, but_stops: bool = False) -> None:
        """Say what the target waits for, held back so far or not; no stop that a resync under way brings again."""
        announced = self._announced if self._held is None else self._held
        self._held = None
        if announced is not None and not (but_stops and announced.type in _STOPS):
            self._outbox.put(announced)
        self._send_next()

    def _send_next(self) -> None:
        if self._sending is None and self._talking:
            packet = self._outbox.take()
            if isinstance(packet, DroppedPrints):
                text = f"[kdsrv: {packet.number} prints of the target were dropped here]\n".encode()
                packet = Packet(PacketType.DEBUG_IO, DebugIo.print_string(text).encode())
            if type(packet) is Packet:
                self._send(packet)

    def _send(self, packet: Packet) -> None:
        self._sending = packet
        # some targets send more than a debugger takes; what sticks out has no use there
        self._driver.link.send(packet.type, packet.payload[:MAX_PAYLOAD], self._clock.seconds())
