"""Clients whose sessions outlive connections, where somebody means ill or everything comes at once."""

from __future__ import annotations

import gc
from typing import Any
from weakref import ref

from server_callers import Caller
from test_attachment import LEAVING, RUNNING, AttachmentCase, Lasting, prints, read

from kdsrv.errors import LinkLost
from kdsrv.server import attachment, delivery
from kdsrv.server.attachment import LINGER, Attachment
from kdsrv.server.delivery import MAX_UNREAD_PACKETS
from kdsrv.sessions.applications import ASK_LIMIT
from kdsrv.sessions.tenant import Take
from kdsrv.wire.frames import BreakIn
from kdsrv.wire.ledger import CONFIRM_FRAMES
from kdsrv.wire.messages import Attach, Attached, Bye, ClientHello, Failure, Notice, Ping, Release, Resume


class HalfDeadTests(AttachmentCase):
    """The old connection is still there."""

    def test_what_the_old_network_still_takes_is_not_given_to_it(self) -> None:
        client = Lasting(self.server, RUNNING)
        old = client.caller
        for number in range(300):
            self.server.print(f"{number:5} " + "x" * 400 + "\n")
            self.server.wait(0.005)
        assert old.transport.full
        client.come_back()
        new = client.caller
        for number in range(300, 700):
            self.server.print(f"{number:5} " + "x" * 400 + "\n")
            self.server.wait(0.005)
        old.transport.take()  # the socket of the old connection drains after all
        said: list[Any] = [*new.said]
        for _ in range(20):
            self.server.wait()
            said += new.hear()
        numbers = [int(text.split()[0]) for text in prints(new.said)]
        assert numbers == list(range(700))

    def test_who_lost_its_target_while_half_dead_is_told_who_has_it(self) -> None:
        client = Lasting(self.server)
        Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.FORCE)
        client.caller.transport.clear()  # the goodbye does not arrive
        (failure,) = client.come_back()
        assert failure.code == "taken"
        assert "lee@sofa" in failure.message


class BadClientTests(AttachmentCase):
    def test_resuming_without_being_resumable_is_a_sentence(self) -> None:
        client = Lasting(self.server)
        client.caller.leave()
        caller = self.server.call()
        caller.say(ClientHello("a test"))
        caller.hear()
        assert client.token is not None
        caller.send(caller.connection.send(Attach("sim:", "kim@desk", resumable=False, resume=Resume(client.token, 0))))
        (failure,) = caller.hear(Failure)
        assert failure.code == "protocol"
        assert isinstance(client.come_back()[0], Attached)

    def test_who_comes_back_to_a_lost_session_again_and_again_leaves_nothing_behind(self) -> None:
        client = Lasting(self.server)
        client.caller.leave()
        for session in self.server.directory:
            session.transport_lost(LinkLost(target="sim", why="unplugged"))
        connections = []
        for _ in range(20):
            (failure,) = client.come_back()
            assert "unplugged" in failure.message
            connections.append(ref(client.caller.protocol))
            client.caller.leave()
        gc.collect()
        assert len([connection for connection in connections if connection() is not None]) < 3

    def test_what_a_session_kept_goes_with_it(self) -> None:
        for _ in range(3):
            client = Lasting(self.server)
            for offset in range(100):
                client.caller.say(read(offset))
            self.server.wait()
            client.caller.leave()
            self.server.wait()
        kept = [hold.ledger.kept_bytes for hold in self.holds()]
        assert len(kept) > 1
        assert kept.count(0) == len(kept) - 1

    def test_sessions_that_are_over_are_remembered_in_a_bounded_number(self) -> None:
        self.patch(attachment, "MOST_HOLDS", 5)
        clients = []
        for _ in range(9):
            clients.append(Lasting(self.server))
            clients[-1].caller.leave()
        assert len(self.server.factory.attachments) == 5
        assert isinstance(clients[-1].come_back()[0], Attached)
        assert [client.come_back()[0].code for client in clients[3:5]] == ["unknown-session", "taken"]

    def holds(self) -> list[Attachment]:
        return list(self.server.factory.attachments._by_token.values())

    def test_a_target_that_stops_without_end_does_not_fill_the_memory_of_who_is_away(self) -> None:
        client = Lasting(self.server)
        client.caller.leave()
        (hold,) = self.holds()
        assert hold.session.stop is not None
        for _ in range(3 * MAX_UNREAD_PACKETS):
            hold.packet_received(hold.session.stop)
        assert len(hold.outbox) <= MAX_UNREAD_PACKETS + 1
        self.server.wait(LEAVING)
        (failure,) = client.come_back()
        assert failure.code == "unknown-session"
        assert "more than is kept" in failure.message

    def test_confirmations_that_nobody_reads_are_bounded(self) -> None:
        client = Lasting(self.server, RUNNING)
        network = client.caller.transport
        network.write(b"\0" * 70000)  # it does not read
        assert network.full
        self.patch(delivery, "MAX_UNREAD", 100)
        for _ in range(6):
            client.caller.send(client.caller.connection.send(BreakIn()) * CONFIRM_FRAMES)
        assert client.caller.is_connected
        for _ in range(6):
            client.caller.send(client.caller.connection.send(BreakIn()) * CONFIRM_FRAMES)
        assert not client.caller.is_connected

    def test_who_asks_again_and_again_does_not_get_a_holder_cut_off_that_does_not_read_just_now(self) -> None:
        holder = Lasting(self.server)
        holder.caller.transport.write(b"\0" * 70000)
        holder.caller.transport.full = True
        for _ in range(400):
            caller = self.server.call("192.0.2.8")
            caller.say(ClientHello("a test"))
            caller.hear()
            caller.say(Attach("sim:", "lee" * 600, take=Take.ASK), Bye("no"))
            caller.leave()
        assert holder.caller.is_connected
        assert next(iter(self.server.directory)).lease.holder == "kim@desk"


class ApplicantTests(AttachmentCase):
    def ask(self, client: str, host: str) -> Lasting:
        return Lasting(self.server, client=client, host=host, take=Take.ASK)

    def release(self, host: str) -> Caller:
        caller = self.server.call(host)
        caller.say(ClientHello("a test"))
        caller.hear()
        caller.say(Release("sim:"))
        return caller

    def test_the_next_holder_is_told_who_still_asks(self) -> None:
        Lasting(self.server)
        lee = self.ask("lee@sofa", "192.0.2.8")
        pat = self.ask("pat@lab", "192.0.2.9")
        self.server.wait(ASK_LIMIT / 2)
        lee.caller.say(Ping(1))
        pat.caller.say(Ping(1))
        self.release("192.0.2.7")
        heard = lee.caller.hear()
        assert [event for event in heard if isinstance(event, Attached)]
        (asked,) = [event for event in heard if isinstance(event, Notice)]
        assert "pat@lab" in asked.text
        for _ in range(6):
            self.server.wait(ASK_LIMIT / 6)
            pat.caller.say(Ping(1))
            lee.caller.say(Ping(1))
        (failure,) = pat.caller.hear(Failure)
        assert "lee@sofa" in failure.message
        assert lee.caller.is_connected

    def test_an_applicant_that_is_gone_without_a_sign_is_not_given_the_target(self) -> None:
        holder = Lasting(self.server)
        lee = self.ask("lee@sofa", "192.0.2.8")
        for _ in range(5):
            self.server.wait(11.5)
            holder.caller.say(Ping(1))
        assert lee.caller.is_aborted
        lee.caller.leave()
        assert "nobody asks" in self.release("192.0.2.7").hear(Failure)[0].message

    def test_what_the_holder_has_not_read_is_for_who_takes_it(self) -> None:
        holder = Lasting(self.server, RUNNING)
        holder.caller.transport.write(b"\0" * 70000)
        holder.caller.transport.full = True
        self.server.print("unread\n")
        self.server.wait()
        other = Lasting(self.server, client="lee@sofa", host="192.0.2.8", take=Take.FORCE)
        self.server.wait()
        other.caller.hear()
        assert prints(other.caller.said) == ["unread\n"]


class ShuttingDownTests(AttachmentCase):
    def test_each_session_is_left_once(self) -> None:
        client = Lasting(self.server)
        client.caller.leave()
        (session,) = self.server.directory
        left = []
        leave = session.leave
        session.leave = lambda then: (left.append(1), leave(then))[1]  # type: ignore[method-assign]
        self.server.directory.close_all()
        self.server.wait(LEAVING)
        assert left == [1]
        assert self.server.factory.attachments._by_token
        self.server.wait(LINGER)
