"""REPLACE and UID REPLACE: both or neither, and nothing else. RFC 8508."""

import re

import pytest
from imap_raw import Imap, files_become, fill, message

from pochta.testing import Server

NEW = message(9, b"new\r\n")


def replace(imap: Imap, words: str, data: bytes = NEW) -> list[bytes]:
    return imap.do(words.encode() + b" {%d+}\r\n%b" % (len(data), data))


@pytest.mark.rfc(8508, "3.2")
@pytest.mark.rfc(8508, "4.3")
@pytest.mark.parametrize(
    ("words", "gone", "left"),
    [
        ("REPLACE 2 INBOX (\\Draft)", 2, b"1 3 4"),
        ("UID REPLACE 2 INBOX (\\Draft)", 2, b"1 3 4"),
        ("REPLACE * INBOX (\\Draft)", 3, b"1 2 4"),
        ("uid replace * inbox (\\draft)", 3, b"1 2 4"),
    ],
)
def test_replace_puts_a_message_in_the_place_of_another(pochta: Server, words: str, gone: int, left: bytes) -> None:
    fill(pochta, 3)
    with Imap(pochta) as imap, Imap(pochta) as other:
        imap.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")  # RFC 8508 §3.4: no other message that is \Deleted goes
        imap.ok("STORE 2:3 +FLAGS.SILENT (\\Flagged)")  # nothing of it is handed down
        lines = replace(imap, words)
        assert re.fullmatch(rb"\* OK \[APPENDUID \d+ 4\] .*", lines[0])
        assert lines[1:-1] == [b"* %d EXPUNGE" % gone, b"* 3 EXISTS", b"* 3 RECENT"]
        assert lines[-1] == b"OK REPLACE completed"
        assert imap.do("UID SEARCH ALL")[0] == b"* SEARCH " + left
        assert b"FLAGS (\\Draft \\Recent)" in imap.fetch("FETCH 3 (FLAGS)")
        assert b"* %d EXPUNGE" % gone in other.ok("NOOP")


@pytest.mark.rfc(8508, "3.4")
def test_into_another_mailbox(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as imap:
        lines = replace(imap, "REPLACE 1 Sent")
        assert lines[1:-1] == [b"* 1 EXPUNGE"]
        imap.ok("SELECT Sent")
        assert imap.literal("FETCH 1 BODY.PEEK[]") == NEW


@pytest.mark.rfc(8508, "3.4")
@pytest.mark.rfc(8508, "3.5")
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("REPLACE 3 INBOX", b"BAD "),
        ("REPLACE 0 INBOX", b"BAD "),
        ("UID REPLACE 9 INBOX", b"NO [EXPUNGEISSUED] "),
        ("REPLACE 1 nowhere", b"NO [TRYCREATE] "),
    ],
)
def test_what_is_refused_changes_nothing(pochta: Server, words: str, answer: bytes) -> None:
    fill(pochta, 2)
    with Imap(pochta) as imap:
        assert replace(imap, words, NEW + b"x" * 100_000)[-1].startswith(answer)
        assert imap.do("UID SEARCH ALL")[0] == b"* SEARCH 1 2"
    files_become(pochta, 0)


def test_only_where_a_mailbox_is_selected_to_write(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta, mailbox=None) as imap:
        assert replace(imap, "REPLACE 1 INBOX")[-1].startswith(b"BAD ")
        imap.ok("EXAMINE INBOX")
        assert replace(imap, "REPLACE 1 INBOX")[-1].startswith(b"NO [NOPERM] ")


def test_the_other_session_was_faster(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as imap, Imap(pochta) as other:
        tag = imap.begin(b"REPLACE 1 INBOX {%d+}\r\n%b" % (len(NEW), NEW[:-2]))
        other.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        imap.send(b"\r\n")
        assert imap.end(tag)[-1].startswith(b"NO [EXPUNGEISSUED] ")
        assert imap.ok("NOOP") == [b"* 1 EXPUNGE"]


@pytest.mark.rfc(8508, "3.4")
def test_only_the_net_quota_counts(pochta: Server) -> None:
    pochta.add_account("full@example.org", "secret", quota_bytes=100_000)
    with Imap(pochta, user="full@example.org") as imap:
        imap.append(message(1, b"x" * 90_000))
        assert imap.append(message(2, b"y" * 80_000))[-1].startswith(b"NO [OVERQUOTA] ")
        assert replace(imap, "REPLACE 1 INBOX", message(2, b"y" * 80_000))[-1].startswith(b"OK ")
        assert replace(imap, "REPLACE 1 INBOX", message(2, b"y" * 120_000))[-1].startswith(b"NO [OVERQUOTA] ")
        assert imap.do("UID SEARCH ALL")[0] == b"* SEARCH 2"


@pytest.mark.rfc(8508, "4.2")
def test_with_catenate_even_of_the_message_itself(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap:
        lines = imap.do(b'UID REPLACE 1 INBOX CATENATE (TEXT {7+}\r\nX: y\r\n\r URL ";UID=1/;PARTIAL=0.5")')
        assert lines[-1].startswith(b"OK ")
        assert imap.literal("FETCH 1 BODY.PEEK[]") == b"X: y\r\n\rFrom:"


@pytest.mark.rfc(8508, "4.5")
@pytest.mark.rfc(8508, "4.6")
def test_with_condstore_and_ids(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as imap:
        before = imap.fetch("FETCH 1 EMAILID")
        imap.ok("ENABLE QRESYNC")
        lines = replace(imap, "UID REPLACE 1 INBOX")
        assert b"* VANISHED 1" in lines
        assert lines[-1].startswith(b"OK [HIGHESTMODSEQ ")
        assert imap.fetch("FETCH 2 EMAILID") != before
        imap.ok("ENABLE UIDONLY")
        assert replace(imap, "REPLACE 1 INBOX")[-1].startswith(b"BAD [UIDREQUIRED] ")
        assert replace(imap, "UID REPLACE 2 INBOX")[-1].startswith(b"OK ")
