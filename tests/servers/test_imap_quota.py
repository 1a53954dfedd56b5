"""Quotas over IMAP and at every door; SETQUOTA by administrators."""

import smtplib
from collections.abc import Iterator

import pytest
from imap_raw import Imap, message

from pochta.testing import Server

ANNA, CHIEF = "anna@example.org", "Chief@example.org"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(administrators=("chief@EXAMPLE.org",)) as server:
        for address in (ANNA, CHIEF):
            server.add_account(address, "secret")
        yield server


def deliver(server: Server, *, body: bytes = b"body\r\n") -> None:
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        smtp.sendmail("b@example.net", [ANNA], message(9, body))


@pytest.mark.rfc(9208, "4.1.3")
def test_an_administrator_sets_quotas(server: Server) -> None:
    with Imap(server, user=CHIEF, mailbox=None) as chief, Imap(server, mailbox=None) as anna:
        assert chief.ok(f"SETQUOTA {ANNA} (STORAGE 100 MESSAGE 5)") == [
            b"* QUOTA anna@example.org (STORAGE 0 100 MESSAGE 0 5 MAILBOX 6 10000)"
        ]
        # what is not named has no limit any more
        assert chief.ok(f"SETQUOTA {ANNA} (mailbox 7)") == [b"* QUOTA anna@example.org (MAILBOX 6 7)"]
        assert anna.ok(f"GETQUOTA {ANNA}") == [b"* QUOTA anna@example.org (MAILBOX 6 7)"]
        assert chief.ok(f"GETQUOTA {ANNA}") == [b"* QUOTA anna@example.org (MAILBOX 6 7)"]
        assert anna.do(f"SETQUOTA {ANNA} ()")[-1].startswith(b"NO [NOPERM]")
        assert anna.do(f"GETQUOTA {CHIEF}")[-1].startswith(b"NO [NONEXISTENT]")


@pytest.mark.rfc(9208, "3.2")
@pytest.mark.parametrize(
    ("limits", "code"),
    [("STORAGE 0", b"NO [CANNOT]"), ("ANNOTATION-STORAGE 5", b"NO [CANNOT]"), ("STORAGE 9223372036854775808", b"BAD")],
)
def test_limits_that_cannot_be_set(server: Server, limits: str, code: bytes) -> None:
    with Imap(server, user=CHIEF, mailbox=None) as chief:
        assert chief.do(f"SETQUOTA {ANNA} ({limits})")[-1].startswith(code)
        assert chief.do("SETQUOTA nobody@example.org (MESSAGE 1)")[-1].startswith(b"NO [NONEXISTENT]")


@pytest.mark.rfc(9208, "4.3.1")
@pytest.mark.parametrize(("limits"), ["MESSAGE 2", "STORAGE 1"])
def test_limits_hold_at_every_door(server: Server, limits: str) -> None:
    with Imap(server, user=CHIEF, mailbox=None) as chief, Imap(server) as anna:
        assert anna.append(message(1, b"x" * 400))[-1].startswith(b"OK")
        assert anna.append(message(2, b"x" * 400))[-1].startswith(b"OK")
        chief.ok(f"SETQUOTA {ANNA} ({limits})")
        assert anna.append(message(3, b"x" * 400))[-1].startswith(b"NO [OVERQUOTA]")
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            deliver(server, body=b"x" * 400)
        assert refused.value.recipients[ANNA][0] == 552
        # a copy within the account costs nothing
        assert anna.do("COPY 1 Sent")[-1].startswith(b"OK [COPYUID")
        # one into it does
        chief.ok("CREATE Box")
        assert chief.append(message(4, b"x" * 400), "Box")[-1].startswith(b"OK")
        chief.ok("SELECT Box")
        anna.ok(f"SETACL INBOX {CHIEF} lri")
        assert chief.do(f'COPY 1 "Other Users/{ANNA}/INBOX"')[-1].startswith(b"NO [OVERQUOTA]")
        anna.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        anna.ok("EXPUNGE")
        anna.ok("SELECT Sent")
        anna.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        anna.ok("EXPUNGE")
        assert chief.do(f'COPY 1 "Other Users/{ANNA}/INBOX"')[-1].startswith(b"OK")


@pytest.mark.rfc(9208, "5.3")
def test_the_number_of_mailboxes(server: Server) -> None:
    with Imap(server, user=CHIEF, mailbox=None) as chief, Imap(server) as anna:
        chief.ok(f"SETQUOTA {ANNA} (MAILBOX 7)")
        anna.ok("CREATE One")
        assert anna.do("CREATE Two")[-1].startswith(b"NO [OVERQUOTA]")
        assert anna.do("RENAME One Three/One")[-1].startswith(b"NO [OVERQUOTA]")
        anna.ok("RENAME One Two")


@pytest.mark.rfc(9208, "4.3.1")
def test_a_copy_in_an_account_over_its_quota_is_told(server: Server) -> None:
    with Imap(server, user=CHIEF, mailbox=None) as chief, Imap(server) as anna:
        deliver(server)
        deliver(server)
        anna.ok("NOOP")
        assert anna.ok("COPY 1 Sent") == []
        chief.ok(f"SETQUOTA {ANNA} (MESSAGE 1)")
        (warning,) = anna.ok("COPY 1 Sent")
        assert warning.startswith(b"* NO [OVERQUOTA]")


@pytest.mark.rfc(9208, "4.3.1")
def test_the_quota_told_of_is_that_of_the_account_copied_into(server: Server) -> None:
    with Imap(server, user=CHIEF, mailbox=None) as chief, Imap(server) as anna:
        for _ in range(2):
            anna.append(message(1))
        anna.ok(f"SETACL INBOX {CHIEF} lri")
        chief.ok(f"SETQUOTA {ANNA} (MESSAGE 1)")
        chief.ok(f'SELECT "Other Users/{ANNA}/INBOX"')
        assert chief.ok("COPY 1 Sent") == []  # out of the full account, into one with room
        (warning,) = chief.ok(f'COPY 1 "Other Users/{ANNA}/INBOX"')[-1:]
        assert warning.startswith(b"* NO [OVERQUOTA]")


@pytest.mark.rfc(5464, "3.2.1.1")
def test_an_administrator_annotates_the_server(server: Server) -> None:
    with Imap(server, user=CHIEF, mailbox=None) as chief, Imap(server, mailbox=None) as anna:
        chief.ok('SETMETADATA "" (/shared/comment "Closed on Monday" /private/comment "mine")')
        entries = "(/shared/comment /private/comment)"
        assert anna.ok(f'GETMETADATA "" {entries}') == [
            b'* METADATA "" (/shared/comment "Closed on Monday")',
            b'* METADATA "" (/private/comment NIL)',
        ]
        assert chief.do('SETMETADATA "" (/shared/admin "mailto:me@example.org")')[-1].startswith(b"NO [CANNOT]")


@pytest.mark.rfc(5464, "4.3")
def test_limits_of_annotations(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from pochta.store import annotations

    monkeypatch.setattr(annotations, "VALUE_MAX_BYTES", 1024)
    monkeypatch.setattr(annotations, "ENTRIES_MAX", 10)
    with Imap(server, mailbox=None) as anna:
        too_large = b"SETMETADATA INBOX (/private/a {1025+}\r\n%b)" % (b"x" * 1025)
        assert anna.do(too_large)[-1].startswith(b"NO [METADATA MAXSIZE 1024]")
        for number in range(10):
            anna.ok(f'SETMETADATA INBOX (/private/{number} "x")')
        assert anna.do('SETMETADATA INBOX (/private/0 "y" /private/11 "x")')[-1].startswith(b"NO [METADATA TOOMANY]")
        assert anna.ok("GETMETADATA INBOX /private/0") == [b'* METADATA INBOX (/private/0 "x")']
