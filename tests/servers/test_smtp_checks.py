"""Mail from other servers: what is asked about it, what is written on top of it, and what becomes of it."""

import asyncio
import smtplib
from collections.abc import Iterator

import pytest
from imap_raw import Imap

from pochta import clock
from pochta.accounts import srs
from pochta.config import Checks, Limits
from pochta.config.transfer import DmarcObedience
from pochta.delivery import record
from pochta.policy.dkim.keys import SigningKey
from pochta.policy.dkim.sign import sign
from pochta.store import trails
from pochta.store.store import Store
from pochta.store.trails import Trail
from pochta.testing import Server
from pochta.testing.resolver import ZoneResolver

ANNA = "anna@example.org"
KEY = SigningKey.generate("ed25519-sha256")
HEADER = (
    b"From: Carol <carol@sender.test>\r\nTo: anna@example.org\r\nSubject: hi\r\n"
    b"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\n"
)
BODY = b"body\r\n"


def zones() -> ZoneResolver:
    """`sender.test` sends from here; mail of the other two is forged: to be rejected, and to be set aside."""
    return ZoneResolver(
        {
            "sender.test": {"TXT": ["v=spf1 ip4:127.0.0.1 -all"]},
            "_dmarc.sender.test": {"TXT": ["v=DMARC1; p=reject"]},
            "sel._domainkey.sender.test": {"TXT": [KEY.public_record()]},
            "strict.test": {"TXT": ["v=spf1 -all"]},
            "_dmarc.strict.test": {"TXT": ["v=DMARC1; p=reject"]},
            "soft.test": {"TXT": ["v=spf1 -all"]},
            "_dmarc.soft.test": {"TXT": ["v=DMARC1; p=quarantine"]},
            "1.0.0.127.list.test": {"A": ["127.0.0.2"], "TXT": ["sends spam"]},
        }
    )


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(resolver=zones(), checks=Checks(), limits=Limits(min_free_bytes=0)) as made:
        made.add_account(ANNA, "secret")
        yield made


def send(server: Server, message: bytes, *, sender: str, to: str = ANNA) -> tuple[int, bytes]:
    """The last reply."""
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        smtp.ehlo("mx.sender.test")
        smtp.mail(sender)
        code, text = smtp.rcpt(to)
        return smtp.data(message) if code == 250 else (code, text)


def read(server: Server, mailbox: str = "INBOX") -> bytes:
    with Imap(server, mailbox=mailbox) as imap:
        return imap.literal("FETCH 1 BODY.PEEK[]")


def forged(domain: str) -> bytes:
    return HEADER.replace(b"carol@sender.test", f"carol@{domain}".encode()) + b"\r\n" + BODY


def trail_of(server: Server, address: str) -> Trail:
    async def work(store: Store) -> Trail:
        return (await store.read(0, trails.by_address, address))[0]

    return server.run(work)


@pytest.mark.rfc(8617, "4.1.1")
def test_results_stand_on_top(server: Server) -> None:
    signature = sign(HEADER, (BODY,), [("sel", "sender.test", KEY)], now_s=clock.now_s())
    assert send(server, signature + HEADER + b"\r\n" + BODY, sender="carol@sender.test")[0] == 250
    message = read(server)
    results = message.partition(b"Return-Path:")[0]
    assert results.startswith(b"Authentication-Results: localhost;")
    for word in (b"spf=pass", b"dkim=pass", b"header.d=sender.test", b"dmarc=pass", b"header.from=sender.test"):
        assert word in results
    assert message.endswith(HEADER + b"\r\n" + BODY)


def test_forged_results_are_removed(server: Server) -> None:
    claim = b"Authentication-Results: LOCALHOST; dmarc=pass header.from=bank.test\r\n"
    other = b"Authentication-Results: mx.elsewhere.test; dmarc=pass header.from=bank.test\r\n"
    assert send(server, claim + other + HEADER + b"\r\n" + BODY, sender="carol@sender.test")[0] == 250
    message = read(server)
    assert b"LOCALHOST" not in message
    assert other in message
    assert message.endswith(HEADER + b"\r\n" + BODY)


def test_a_forgery_is_refused_and_the_trail_says_so(server: Server) -> None:
    code, text = send(server, forged("strict.test"), sender="x@nowhere.test")
    assert (code, text[:6]) == (550, b"5.7.26")
    facts = record.decode(trail_of(server, ANNA).facts)
    assert facts["refused"].startswith("550 5.7.26")
    assert facts["checks"]["dmarc"] == "fail"
    with Imap(server) as imap:
        assert imap.ok("STATUS INBOX (MESSAGES)") == [b"* STATUS INBOX (MESSAGES 0)"]


def test_a_doubtful_message_goes_into_junk(server: Server) -> None:
    assert send(server, forged("soft.test"), sender="x@nowhere.test")[0] == 250
    assert b"dmarc=fail" in read(server, "Junk")


@pytest.mark.parametrize(
    ("checks", "code", "mailbox"),
    [
        (Checks(dmarc=DmarcObedience.OBSERVE), 250, "INBOX"),
        (Checks(dmarc=DmarcObedience.JUNK), 250, "Junk"),
        (Checks(accept_from=("strict.test",)), 250, "INBOX"),
        (Checks(accept_from=("127.0.0.0/8",)), 250, "INBOX"),
        (Checks(junk_from=("strict.test",)), 250, "Junk"),
        (Checks(reject_from=("127.0.0.1",)), 550, ""),
    ],
    ids=["observe", "junk", "accept domain", "accept network", "junk domain", "reject network"],
)
def test_overrides(checks: Checks, code: int, mailbox: str) -> None:
    with Server(resolver=zones(), checks=checks) as server:
        server.add_account(ANNA, "secret")
        assert send(server, forged("strict.test"), sender="x@nowhere.test")[0] == code
        if mailbox:
            assert b"dmarc=fail" in read(server, mailbox)


def test_a_listed_address_reaches_the_postmaster_alone() -> None:
    with Server(resolver=zones(), checks=Checks(blocklists=("list.test",))) as server:
        server.add_account(ANNA, "secret")
        code, text = send(server, HEADER + b"\r\n" + BODY, sender="carol@sender.test")
        assert (code, text) == (550, b"5.7.1 Your address is listed by list.test: sends spam")
        assert send(server, HEADER + b"\r\n" + BODY, sender="carol@sender.test", to="postmaster@example.org")[0] == 250


def test_mail_that_goes_into_junk_is_recorded_there(server: Server) -> None:
    send(server, forged("soft.test"), sender="x@nowhere.test")
    (to,) = record.decode(trail_of(server, ANNA).facts)["to"]
    assert to["mailbox"] == "junk"


def test_the_postmaster_of_the_host_itself_is_there(server: Server) -> None:
    assert send(server, HEADER + b"\r\n" + BODY, sender="carol@sender.test", to="postmaster@localhost")[0] == 250
    assert b"body" in read(server)


def test_greylisting(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(resolver=zones(), checks=Checks(greylist=True, greylist_delay_s=60)) as server:
        server.add_account(ANNA, "secret")
        assert send(server, HEADER + b"\r\n" + BODY, sender="carol@sender.test")[0] == 451
        later = clock.now_s() + 61
        monkeypatch.setattr(clock.current(), "now", lambda: later)
        assert send(server, HEADER + b"\r\n" + BODY, sender="carol@sender.test")[0] == 250
        assert send(server, HEADER + b"\r\n" + BODY, sender="carol@sender.test")[0] == 250


def test_a_header_without_end_is_refused(server: Server) -> None:
    large = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 900) for number in range(400))
    code, text = send(server, large + HEADER + b"\r\n" + BODY, sender="carol@sender.test")
    assert (code, text[:5]) == (552, b"5.3.4")


def test_held_headers_count_as_memory_of_the_spool() -> None:
    limits = Limits(min_free_bytes=0, spool_memory_bytes=1024 * 1024)
    half = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 900) for number in range(220))
    with Server(resolver=zones(), checks=Checks(), limits=limits) as server:
        server.add_account(ANNA, "secret")
        waiting = [smtplib.SMTP(server.host, server.smtp_port) for _ in range(5)]
        for smtp in waiting:
            smtp.ehlo("mx.sender.test")
            smtp.mail("carol@sender.test")
            smtp.rcpt(ANNA)
            smtp.docmd("DATA")
            smtp.send(half)
        while server.app.intake.memory_bytes < 5 * len(half):
            pass
        code, text = send(server, half + HEADER + b"\r\n" + BODY, sender="carol@sender.test")
        assert (code, text[:5]) == (452, b"4.3.1")
        for smtp in waiting:
            smtp.close()
        while server.app.intake.memory_bytes:
            pass
        assert send(server, half + HEADER + b"\r\n" + BODY, sender="carol@sender.test")[0] == 250


def test_more_fields_than_anybody_looks_at_are_refused(server: Server) -> None:
    code, text = send(server, b"a:\r\n" * 10_001 + HEADER + b"\r\n" + BODY, sender="carol@sender.test")
    assert (code, text[:5]) == (552, b"5.3.4")


def test_mail_for_an_address_of_srs_has_no_sender(server: Server) -> None:
    async def path(store: Store) -> str:
        return srs.forward(server.app.submitter.srs_secret, "carol@sender.test", "example.org", now_s=clock.now_s())

    rewritten = server.run(path)
    assert send(server, HEADER + b"\r\n" + BODY, sender="carol@sender.test", to=rewritten)[0] == 550
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        smtp.ehlo("mx.sender.test")
        smtp.mail("")
        assert smtp.rcpt(rewritten)[0] == 250


def test_a_sender_that_no_return_address_can_hold_is_refused_at_rcpt(server: Server) -> None:
    server.add_alias("away@example.org", ["carol@elsewhere.test"])
    sender = f"{'a' * 230}@sender.test"
    assert send(server, HEADER + b"\r\n" + BODY, sender=sender, to="away@example.org")[0] == 550
    assert send(server, HEADER + b"\r\n" + BODY, sender=sender)[0] == 250


@pytest.mark.parametrize("size", [100, 200_000], ids=["in memory", "in a file"])
def test_bytes_and_facts_of_large_messages(server: Server, size: int) -> None:
    body = b"x" * 76 + b"\r\n"
    message = HEADER + b"\r\n" + body * (size // len(body) + 1)
    assert send(server, message, sender="carol@sender.test")[0] == 250
    stored = read(server)
    assert stored.endswith(message)
    with Imap(server) as imap:
        assert imap.fetch("FETCH 1 (RFC822.SIZE)") == b"RFC822.SIZE %d" % len(stored)
        assert imap.literal("FETCH 1 BODY.PEEK[TEXT]") == message.partition(b"\r\n\r\n")[2]


def test_users_and_what_is_off_are_not_asked_about() -> None:
    resolver = zones()
    with Server(resolver=resolver) as server:
        server.add_account(ANNA, "secret")
        assert send(server, forged("strict.test"), sender="x@nowhere.test")[0] == 250
        assert b"Authentication-Results" not in read(server)
        assert resolver.queries == []


@pytest.mark.rfc(5321, "4.5.3.2")
def test_a_transaction_given_up_asks_no_longer(server: Server) -> None:
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        smtp.ehlo("mx.sender.test")
        for _ in range(50):
            smtp.mail("carol@sender.test")
            smtp.rset()

    async def tasks(_: Store) -> int:
        return sum("check" in repr(one.get_coro()) for one in asyncio.all_tasks())

    assert server.run(tasks) == 0
