"""RFC 5321, what a server does that sends: the queue, reports, relaying. Where mail goes stands in tests/queue.

Three servers: a.test forwards what comes for out@a.test to b.test, c.test has senders whose SPF record vouches for
them, and forged.test is a domain that vouches for nobody.
"""

import imaplib
import os
import smtplib
import socket
import time
from collections.abc import Iterator

import pytest

from pochta import clock
from pochta.config import Checks, Outbound
from pochta.store import queue_view
from pochta.store.queue_view import Entry
from pochta.store.store import Store
from pochta.testing import Server
from pochta.testing.resolver import ZoneResolver

rfc = pytest.mark.rfc

WAIT_S = 8.0  # a bound for what never happens
MESSAGE = b"From: carl@c.test\r\nSubject: x\r\n\r\nhello\r\n"


class Servers:
    """Three servers under one roof."""

    def __init__(self) -> None:
        self.resolver = ZoneResolver()
        hosts = [f"127.{210 + place}.{os.getpid() % 250}.{os.getpid() // 250 % 250}" for place in range(3)]
        with socket.create_server((hosts[0], 0)) as free:
            self.port: int = free.getsockname()[1]
        self.a, self.b, self.c = (self._made(name, host) for name, host in zip("abc", hosts, strict=True))

    def _made(self, name: str, host: str) -> Server:
        domain = f"{name}.test"
        self.resolver.add(domain, "MX", (10, f"mx.{domain}"))
        self.resolver.add(f"mx.{domain}", "A", host)
        if name == "c":
            self.resolver.add(domain, "TXT", "v=spf1 ip4:127.0.0.0/8 -all")
        return Server(
            domain=domain,
            host=host,
            hostname=f"mx.{domain}",
            transfer_port=self.port,
            resolver=self.resolver,
            checks=Checks(enabled=name == "a"),
            outbound=Outbound(loopback=True, port=self.port, ipv6=False),
        )

    @property
    def events(self) -> list[str]:
        """The log of all three: one process has one log, that of who came last."""
        return self.c.events

    def transfer(self, data: bytes, *recipients: str, sender: str = "carl@c.test") -> None:
        """Bring a message to a.test as another server."""
        with smtplib.SMTP(self.a.host, self.port, local_hostname="other.test") as smtp:
            smtp.ehlo()
            assert smtp.docmd(f"MAIL FROM:<{sender}>")[0] == 250
            for one in recipients:
                assert smtp.rcpt(one)[0] == 250
            assert smtp.data(data)[0] == 250

    def submit(self, data: bytes, *recipients: str) -> None:
        """Submit a message as anna@a.test."""
        with smtplib.SMTP(self.a.host, self.a.submission_port) as smtp:
            smtp.login("anna@a.test", "secret")
            smtp.sendmail("anna@a.test", recipients, data)


@pytest.fixture
def servers() -> Iterator[Servers]:
    made = Servers()
    with made.a, made.b, made.c:
        for server, name in ((made.a, "anna"), (made.b, "bert"), (made.c, "carl")):
            server.add_account(f"{name}@{server.domain}", "secret")
        made.a.add_alias("out@a.test", ["bert@b.test"])
        made.a.add_alias("lost@a.test", ["nobody@b.test"])
        made.a.add_alias("both@a.test", ["nobody@b.test", "no.one@b.test", "bert@b.test"])
        yield made


def inbox(server: Server, user: str, count: int = 1) -> list[bytes]:
    """The messages in a user's INBOX, once there are so many."""
    deadline = time.monotonic() + WAIT_S
    reader = imaplib.IMAP4(server.host, server.imap_port)
    reader.login(user, "secret")
    while (exists := int(reader.select(readonly=True)[1][0] or b"0")) < count:
        assert time.monotonic() < deadline, "nothing came"
    found = []
    for number in range(1, exists + 1):
        _, parts = reader.fetch(str(number), "(BODY.PEEK[])")
        assert isinstance(parts[0], tuple)
        found.append(parts[0][1])
    reader.logout()
    return found


def queued(server: Server) -> list[Entry]:
    """What waits at a server after an attempt."""

    async def work(store: Store) -> list[Entry]:
        return await store.read(0, queue_view.listing)

    deadline = time.monotonic() + WAIT_S
    while True:
        found = server.run(work)
        is_idle = server.app.runner.is_idle  # a deliverer under way may claim anew with what it knows of the host
        if is_idle and found and all(one.recipient.last_reply and not one.recipient.state for one in found):
            return found
        assert time.monotonic() < deadline, "nothing came"


def try_again(server: Server) -> None:
    async def work(store: Store) -> None:
        await store.write(0, queue_view.retry, None, None, (0, 0), int(clock.now_s()))
        server.app.runner.wake()

    server.run(work)


@rfc(5321, "3.6.3")
@rfc(5321, "4.4")
@rfc(5321, "6.1")
def test_a_failure_is_reported_to_the_originator(servers: Servers) -> None:
    servers.submit(b"From: anna@a.test\r\n\r\nx\r\n", "nobody@b.test")
    (report,) = inbox(servers.a, "anna@a.test")
    assert report.startswith(b"Return-Path: <>\r\n")
    assert b"\r\nTo: <anna@a.test>\r\n" in report
    assert b"Final-Recipient: rfc822; nobody@b.test\r\nAction: failed\r\nStatus: 5.1.1\r\n" in report


@rfc(5321, "4.4")
@rfc(5321, "6.1")
def test_a_report_to_another_server_has_a_null_reverse_path(servers: Servers) -> None:
    servers.transfer(MESSAGE, "lost@a.test")
    (report,) = inbox(servers.c, "carl@c.test")
    assert report.startswith(b"Return-Path: <>\r\n")
    assert b"\r\nTo: <carl@c.test>\r\n" in report


@rfc(5321, "6.1")
def test_a_forged_sender_is_told_nothing(servers: Servers) -> None:
    """INV-10: the postmaster is, whose mailbox is the oldest account's."""
    servers.resolver.add("forged.test", "MX", (10, "mx.c.test"))
    servers.transfer(MESSAGE, "lost@a.test", sender="carl@forged.test")
    (report,) = inbox(servers.a, "anna@a.test")
    assert b"nobody@b.test" in report
    assert not [
        line for line in servers.events if "queue.attempt" in line and "carl@forged.test>" in line.split("to=")[1]
    ]


@rfc(5321, "3.6.3")
@rfc(5321, "4.5.4")
@rfc(5321, "6.1")
def test_no_report_about_a_report(servers: Servers) -> None:
    servers.transfer(MESSAGE, "lost@a.test", sender="")
    servers.transfer(MESSAGE, "anna@a.test")
    reports = inbox(servers.a, "anna@a.test", 2)  # the postmaster's: no report leaves
    assert len(reports) == 2
    assert [line for line in servers.events if "queue.attempt" in line and "to=<nobody@b.test>" in line]
    assert not [line for line in servers.events if "queue.attempt" in line and "to=<nobody@b.test>" not in line]


@rfc(5321, "4.4")
def test_every_failed_recipient_is_told_of(servers: Servers) -> None:
    servers.transfer(MESSAGE, "both@a.test")
    (report,) = inbox(servers.c, "carl@c.test")
    assert b"nobody@b.test" in report
    assert b"no.one@b.test" in report
    assert b"bert@b.test" not in report
    assert len(inbox(servers.b, "bert@b.test")) == 1


@rfc(5321, "6.1")
def test_a_source_route_in_the_reverse_path_is_stripped(servers: Servers) -> None:
    servers.transfer(MESSAGE, "lost@a.test", sender="@x.test,@y.test:carl@c.test")
    (report,) = inbox(servers.c, "carl@c.test")
    assert b"\r\nTo: <carl@c.test>\r\n" in report


ODD = [
    b"Return-Path: <x@y.test>\r\nsubject:none\r\n\r\nbody\r\n",
    b'Received: nonsense\r\nDate: never\r\nTo: "unclosed\r\n\r\nbody\r\n',
    b"no header at all\r\n",
    b"From: a\r\nFrom: b\r\nMIME-Version: 7\r\nContent-Type: multipart/mixed\r\n\r\n--\r\n..\r\n",
]


@rfc(5321, "3.6.3")
@rfc(5321, "4.4")
@rfc(5321, "4.5.3.1.8")
def test_a_relay_leaves_the_message_as_it_is(servers: Servers) -> None:
    for message in ODD:
        servers.transfer(message, "out@a.test")
    found = inbox(servers.b, "bert@b.test", len(ODD))
    for message in ODD:
        assert [one for one in found if one.endswith(b"\r\n" + message)], message
    assert all(one.count(b"by mx.a.test with") == 1 for one in found)


@rfc(5321, "4.5.4.1")
def test_what_waits_is_tried_again(servers: Servers) -> None:
    servers.resolver.fail("b.test")
    servers.submit(b"From: anna@a.test\r\n\r\nx\r\n", "bert@b.test")
    (entry,) = queued(servers.a)
    assert entry.recipient.next_at > clock.now_s()
    servers.resolver.recover("b.test")
    try_again(servers.a)
    assert len(inbox(servers.b, "bert@b.test")) == 1


@rfc(5321, "5.1")
def test_no_answer_of_the_dns_queues_the_message(servers: Servers) -> None:
    servers.resolver.fail("b.test")
    servers.transfer(MESSAGE, "out@a.test")
    (entry,) = queued(servers.a)
    assert (entry.recipient.last_reply or "").startswith("451 4.4.3 ")


@rfc(5321, "5.1")
def test_partial_names_are_not_completed(servers: Servers) -> None:
    servers.resolver.add("b.a.test", "MX", (10, "mx.b.test"))
    servers.submit(b"From: anna@a.test\r\n\r\nx\r\n", "bert@b")
    (report,) = inbox(servers.a, "anna@a.test")
    assert b"Status: 5.1.2" in report
    assert {name for name, _ in servers.resolver.queries} & {"b.a.test", "b.test", "mx.b.test"} == set()


@rfc(5321, "4.5.4.1")
def test_a_refused_sender_is_not_remembered(servers: Servers) -> None:
    """A message that b.test refuses says nothing about the next one of the same sender."""
    servers.submit(b"From: anna@a.test\r\n\r\nx\r\n", "nobody@b.test")
    inbox(servers.a, "anna@a.test")
    servers.submit(b"From: anna@a.test\r\n\r\nx\r\n", "bert@b.test")
    assert len(inbox(servers.b, "bert@b.test")) == 1
