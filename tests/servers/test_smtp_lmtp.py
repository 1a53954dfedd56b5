"""LMTP: one reply for each recipient. Source: RFC 2033."""

import smtplib

import pytest
from imap_raw import Imap, message

from pochta.testing import Server

ANNA, BORIS, FULL = "anna@example.org", "boris@example.org", "full@example.org"


@pytest.fixture
def server(pochta: Server) -> Server:
    pochta.add_account(BORIS, "secret")
    pochta.add_account(FULL, "secret", quota_bytes=2000)
    return pochta


def opened(server: Server) -> smtplib.LMTP:
    lmtp = smtplib.LMTP(server.host, server.lmtp_port)
    assert lmtp.ehlo()[0] == 250
    return lmtp


def count(server: Server, user: str) -> int:
    with Imap(server, user=user, mailbox=None) as imap:
        return int(imap.ok("STATUS INBOX (MESSAGES)")[0].split()[-1].rstrip(b")"))


@pytest.mark.rfc(2033, "4.1")
@pytest.mark.parametrize("command", ["EHLO x", "HELO x"])
def test_the_greeting_is_lhlo(server: Server, command: str) -> None:
    with opened(server) as lmtp:
        assert lmtp.docmd(command)[0] == 500


def send(server: Server, recipients: list[str], data: bytes) -> list[int]:
    with opened(server) as lmtp:
        lmtp.mail("a@example.net")
        accepted = [one for one in recipients if lmtp.rcpt(one)[0] == 250]
        assert lmtp.docmd("DATA")[0] == 354
        lmtp.send(data + b".\r\n")
        return [lmtp.getreply()[0] for _ in accepted]


@pytest.mark.rfc(2033, "4.2")
def test_each_recipient_has_a_reply(server: Server) -> None:
    server.add_alias("team@example.org", [BORIS, FULL])
    large = message(1, b"x" * 70 + b"\r\n") * 40
    assert send(server, [ANNA, FULL, "nobody@example.org", "team@example.org", ANNA], large) == [250, 552, 552, 250]
    assert [count(server, one) for one in (ANNA, BORIS, FULL)] == [1, 0, 0]
    assert send(server, [FULL], large) == [552]
    assert send(server, ["team@example.org", BORIS], message(2)) == [250, 250]
    assert [count(server, one) for one in (ANNA, BORIS, FULL)] == [1, 1, 1]


def test_the_trace_tells_the_protocol(server: Server) -> None:
    send(server, [ANNA], message(1))
    with Imap(server, user=ANNA) as imap:
        header = imap.literal("FETCH 1 BODY.PEEK[HEADER]")
    assert header.startswith(b"Return-Path: <a@example.net>\r\nReceived: from ")
    assert b"with LMTP id" in header


def test_a_circle_is_refused_for_each(server: Server) -> None:
    circle = b"Received: from x by y; Mon, 23 Nov 2026 12:00:00 +0000\r\n" * 150 + message(1)
    assert send(server, [ANNA, BORIS], circle) == [554, 554]


@pytest.mark.parametrize("recipient", ["carol@example.net", "anna%example.org@example.net"])
def test_no_way_to_other_servers(server: Server, recipient: str) -> None:
    with opened(server) as lmtp:
        lmtp.mail("a@example.net")
        assert lmtp.rcpt(recipient)[0] == 550
        # RFC 2033 §4.2: 503 when there is no recipient to reply for
        assert lmtp.docmd("DATA")[0] == 503


def test_commands_behind_the_message_wait_for_all_replies(server: Server) -> None:
    with opened(server) as lmtp:
        lmtp.send(b"MAIL FROM:<>\r\nRCPT TO:<anna@example.org>\r\nRCPT TO:<boris@example.org>\r\nDATA\r\n")
        assert [lmtp.getreply()[0] for _ in range(4)] == [250, 250, 250, 354]
        lmtp.send(message(1) + b".\r\nNOOP\r\nMAIL FROM:<>\r\n")
        assert [lmtp.getreply()[0] for _ in range(4)] == [250, 250, 250, 250]
