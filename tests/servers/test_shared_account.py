"""Shared accounts: made of one that somebody used, shown to everybody, posted to. docs/sharing.md."""

import smtplib
from collections.abc import Iterator

import pytest
from imap_raw import Imap, message

from pochta.accounts import sharing
from pochta.clock import now_s
from pochta.testing import Server

ANNA, BEN, CHIEF, SALES = "anna@example.org", "ben@example.org", "chief@example.org", "sales@example.org"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(administrators=(CHIEF,)) as running:
        for address in (ANNA, BEN, CHIEF):
            running.add_account(address, "secret")
        yield running


def grant(server: Server, owner: str, mailbox: str, whom: str, rights: str) -> None:
    server._write(sharing.grant, owner, mailbox, whom, sharing.parse_rights(rights), False, int(now_s()))


def names(client: Imap) -> set[bytes]:
    """What LIST shows of others' mailboxes."""
    listed = {line.partition(b' "/" ')[2].strip(b'"') for line in client.ok('LIST "" "*"')}
    return {one for one in listed if one.startswith((b"Shared/", b"Other Users/")) and one.count(b"/") > 1}


def test_an_account_becomes_a_shared_one_and_back(server: Server) -> None:
    with Imap(server, mailbox=None) as anna, Imap(server, user=BEN, mailbox=None) as ben:
        anna.append(message(1))
        anna.ok(f"SETACL INBOX {BEN} lr")
        assert names(ben) == {b"Other Users/anna@example.org/INBOX"}
        ben.ok('NOTIFY SET (subtree (Shared "Other Users") (MailboxName))')
        server._write(sharing.convert, ANNA, True)
        assert anna.line().startswith(b"* BYE")
        assert ben.line().endswith(
            b'"/" Shared/anna@example.org/INBOX ("OLDNAME" ("Other Users/anna@example.org/INBOX"))'
        )
        assert names(ben) == {b"Shared/anna@example.org/INBOX"}
        ben.ok('SELECT "Shared/anna@example.org/INBOX"')
        assert ben.do('SELECT "Other Users/anna@example.org/INBOX"')[-1].startswith(b"NO [NONEXISTENT]")
    with Imap(server, login=False, mailbox=None) as stranger:
        assert stranger.do(f"LOGIN {ANNA} secret")[-1].startswith(b"NO [AUTHENTICATIONFAILED]")
    server._write(sharing.convert, ANNA, False)
    with Imap(server, mailbox="INBOX") as anna:
        assert b"* 1 EXISTS" in anna.ok("SELECT INBOX")


@pytest.mark.rfc(4314, "3.1")
@pytest.mark.rfc(4314, "3.4")
def test_who_shows_a_mailbox_to_everybody(server: Server) -> None:
    server._write(sharing.add, SALES, 0, int(now_s()))
    grant(server, SALES, "INBOX", BEN, "all")
    with (
        Imap(server, mailbox=None) as anna,
        Imap(server, user=BEN, mailbox=None) as ben,
        Imap(server, user=CHIEF, mailbox=None) as chief,
    ):
        for rights in ("lr", "+l", "lrswipkxtea"):
            assert ben.do(f"SETACL INBOX anyone {rights}")[-1].startswith(b"NO [NOPERM]")
        ben.ok("SETACL INBOX anyone p")
        ben.ok("SETACL INBOX -anyone lr")
        assert ben.ok("LISTRIGHTS INBOX anyone")[0].endswith(b'anyone "" r s w i p k x t e a c d')
        assert ben.ok("LISTRIGHTS INBOX -anyone")[0].endswith(b'-anyone "" l r s w i p k x t e a c d')
        assert names(anna) == set()
        chief.ok("SETACL INBOX anyone lr")
        assert chief.ok("LISTRIGHTS INBOX anyone")[0].endswith(b'anyone "" l r s w i p k x t e a c d')
        ben.ok('SETACL "Shared/sales@example.org/INBOX" anyone lr')
        assert names(anna) == {b"Other Users/chief@example.org/INBOX", b"Shared/sales@example.org/INBOX"}


@pytest.mark.rfc(4314, "2.1")
def test_mail_goes_where_its_sender_may_post(server: Server) -> None:
    server._write(sharing.add, SALES, 0, int(now_s()))
    grant(server, SALES, "INBOX", BEN, "all")
    with Imap(server, user=BEN, mailbox=None) as ben:
        ben.ok('CREATE "Shared/sales@example.org/INBOX/Orders"')
        grant(server, SALES, "INBOX/Orders", ANNA, "post")
        for login, expected in ((None, 0), (ANNA, 1), (CHIEF, 1), (BEN, 2)):
            with smtplib.SMTP(server.host, server.submission_port if login else server.smtp_port) as smtp:
                if login:
                    smtp.login(login, "secret")
                sender = login or "b@example.net"
                text = message(1).replace(b"a1@example.net", sender.encode())
                smtp.sendmail(sender, ["sales+inbox/orders@example.org"], text)
            [line] = ben.ok('STATUS "Shared/sales@example.org/INBOX/Orders" (MESSAGES)')[:1]
            assert line.endswith(b"(MESSAGES %d)" % expected), login
        assert ben.ok('STATUS "Shared/sales@example.org/INBOX" (MESSAGES)')[0].endswith(b"(MESSAGES 2)")
    # the right lets nobody see what was posted
    with Imap(server, mailbox=None) as anna:
        assert names(anna) == set()
        assert anna.do('SELECT "Shared/sales@example.org/INBOX/Orders"')[-1].startswith(b"NO [NONEXISTENT]")
