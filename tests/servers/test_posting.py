"""Mail for account+Mailbox@domain: into that mailbox, for who has the right to post there. RFC 4314 §2.1, "p"."""

import smtplib

import pytest
from imap_raw import Imap, message

from pochta.accounts import sharing
from pochta.clock import now_s
from pochta.testing import Server

ANNA, BEN, SALES = "anna@example.org", "ben@example.org", "sales@example.org"


@pytest.fixture
def server(pochta: Server) -> Server:
    pochta.add_account(BEN, "secret")
    with Imap(pochta, mailbox=None) as anna:
        for name in ("Lists", "Lists/Pochta"):
            anna.ok(f"CREATE {name}")
    return pochta


def counts(server: Server, user: str = ANNA, *names: str) -> list[int]:
    with Imap(server, user=user, mailbox=None) as imap:
        lines = [imap.ok(f'STATUS "{name}" (MESSAGES)')[0] for name in names or ("INBOX", "Lists", "Lists/Pochta")]
    return [int(line.rpartition(b" ")[2].rstrip(b")")) for line in lines]


def deliver(server: Server, *recipients: str, login: str | None = None) -> None:
    port = server.submission_port if login else server.smtp_port
    with smtplib.SMTP(server.host, port) as smtp:
        if login:
            smtp.login(login, "secret")
        smtp.sendmail(
            login or "b@example.net",
            list(recipients),
            message(1).replace(b"a1@example.net", (login or "b@example.net").encode()),
        )


@pytest.mark.rfc(4314, "2.1")
def test_anyone(server: Server) -> None:
    deliver(server, "anna+Lists@example.org")
    assert counts(server) == [1, 0, 0]
    with Imap(server, mailbox=None) as anna:
        anna.ok("SETACL Lists anyone p")
    deliver(server, "anna+lists@example.org")
    deliver(server, "anna+Lists/Pochta@example.org")
    deliver(server, "anna+none@example.org")
    deliver(server, ANNA)
    assert counts(server) == [4, 1, 0]


def test_one_account_that_signed_in(server: Server) -> None:
    with Imap(server, mailbox=None) as anna:
        anna.ok(f"SETACL Lists/Pochta {BEN} p")
    deliver(server, "anna+Lists/Pochta@example.org")  # ben is not known by what MAIL says
    deliver(server, "anna+Lists/Pochta@example.org", login=BEN)
    assert counts(server) == [1, 0, 1]
    deliver(server, "anna+lists@example.org", login=ANNA)  # the owner has every right
    assert counts(server) == [1, 1, 1]


def test_several_mailboxes_of_one_account_get_one_message(server: Server) -> None:
    with Imap(server, mailbox=None) as anna:
        anna.ok("SETACL Lists anyone p")
        anna.ok("SETACL Lists/Pochta anyone p")
    deliver(server, "anna+Lists@example.org", "anna+Lists/Pochta@example.org", "anna+LISTS@example.org", ANNA)
    assert counts(server) == [1, 1, 1]
    with Imap(server, mailbox=None) as anna:
        anna.ok("SETACL Lists anyone p")
        assert b"MESSAGE" not in anna.ok("GETQUOTAROOT INBOX")[1]


def test_a_shared_account(server: Server) -> None:
    server._write(sharing.add, SALES, 0, int(now_s()))
    edited = sharing.parse_rights("all")
    server._write(sharing.grant, SALES, "*", BEN, edited, False, int(now_s()))
    deliver(server, SALES)
    name = f"Shared/{SALES}"
    with Imap(server, user=BEN, mailbox=None) as ben:
        ben.ok(f'CREATE "{name}/INBOX/Orders"')
        ben.ok(f'SETACL "{name}/INBOX/Orders" anyone p')
        assert ben.do(f"LOGIN {SALES} secret")[-1].startswith(b"BAD")
    deliver(server, "sales+inbox/orders@example.org")
    assert counts(server, BEN, f"{name}/INBOX", f"{name}/INBOX/Orders") == [1, 1]
    with Imap(server, login=False) as stranger:
        assert stranger.do(f"LOGIN {SALES} secret")[-1].startswith(b"NO")
