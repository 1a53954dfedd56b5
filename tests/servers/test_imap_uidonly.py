"""UIDONLY: no sequence number in either direction. Source: RFC 9586."""

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, cast

import pytest
from imap_raw import Imap, fill, message

from pochta.proto.imap import commands as c
from pochta.servers.imap import uidonly
from pochta.servers.imap.table import HANDLERS
from pochta.testing import Server

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@pytest.fixture
def filled(pochta: Server) -> Server:
    """INBOX holds the messages 2, 3 and 4."""
    fill(pochta, 4)
    with Imap(pochta) as imap:
        imap.ok("STORE 1 +FLAGS (\\Deleted)")
        imap.ok("EXPUNGE")
    return pochta


@pytest.fixture
def imap(filled: Server) -> Iterator[Imap]:
    """A session with UIDONLY and INBOX selected."""
    with Imap(filled, mailbox=None) as made:
        assert made.ok("ENABLE UIDONLY") == [b"* ENABLED UIDONLY"]
        made.ok("SELECT INBOX")
        yield made


@pytest.mark.rfc(9586, "3.2")
@pytest.mark.parametrize(
    "command",
    [
        "FETCH 1 (UID)",
        "FETCH * (FLAGS)",
        "STORE 1 +FLAGS (\\Seen)",
        "COPY 1 Junk",
        "MOVE 1 Junk",
        "SEARCH ALL",
        "SEARCH UID 2",
        "SORT (DATE) UTF-8 ALL",
        "THREAD REFERENCES UTF-8 ALL",
        "UID SEARCH 1",
        "UID SEARCH NOT 1:*",
        "UID SEARCH OR SEEN (UNSEEN 2)",
        "UID SORT (DATE) UTF-8 1",
        "UID THREAD REFERENCES UTF-8 1",
    ],
)
def test_sequence_numbers_are_refused(imap: Imap, command: str) -> None:
    assert imap.do(command) == [b"BAD [UIDREQUIRED] Only UIDs name messages here"]


@pytest.mark.rfc(9586, "3.2")
def test_replace_by_sequence_number_is_refused(imap: Imap) -> None:
    data = message(9)
    [answer] = imap.do(b"REPLACE 1 INBOX {%d+}\r\n%b" % (len(data), data))
    assert answer.startswith(b"BAD [UIDREQUIRED] ")
    lines = imap.do(b"UID REPLACE 3 INBOX {%d+}\r\n%b" % (len(data), data))
    assert lines[-1].startswith(b"OK")
    assert b"* VANISHED 3" in lines


@pytest.mark.rfc(9586, "3.2")
def test_a_client_that_comes_back_names_no_numbers(imap: Imap) -> None:
    imap.ok("ENABLE QRESYNC")
    assert imap.do("SELECT INBOX (QRESYNC (1 1 1:4 (1 2)))")[-1].startswith(b"BAD [UIDREQUIRED]")
    [line] = [line for line in imap.ok("SELECT INBOX") if b"UIDVALIDITY" in line]
    uid_validity = re.findall(rb"\d+", line)[0].decode()
    lines = imap.ok(f"SELECT INBOX (QRESYNC ({uid_validity} 1 1:3))")
    assert lines[-3] == b"* VANISHED (EARLIER) 1"
    assert re.fullmatch(rb"\* 2 UIDFETCH \(FLAGS \([^)]*\) MODSEQ \(\d+\)\)", lines[-2])
    assert lines[-1].startswith(b"* 3 UIDFETCH (FLAGS (")


@pytest.mark.rfc(9586, "3.3")
@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("UID FETCH 2,4 (FLAGS)", [rb"\* 2 UIDFETCH \(FLAGS \(\)\)", rb"\* 4 UIDFETCH \(FLAGS \(\)\)"]),
        ("UID FETCH * (UID FLAGS)", [rb"\* 4 UIDFETCH \(UID 4 FLAGS \(\)\)"]),
        ("UID FETCH 3 (UID)", [rb"\* 3 UIDFETCH \(UID 3\)"]),
        ("UID FETCH 3 RFC822.SIZE", [rb"\* 3 UIDFETCH \(RFC822.SIZE \d+\)"]),
        ("UID FETCH 3 (BODY.PEEK[TEXT])", [rb"\* 3 UIDFETCH \(BODY\[TEXT\] \{6\}\r\nbody\r\n\)"]),
        ("UID FETCH 3 (BODY[TEXT])", [rb"\* 3 UIDFETCH \(FLAGS \(\\Seen\) BODY\[TEXT\] \{6\}\r\nbody\r\n\)"]),
        ("UID STORE 3 +FLAGS (\\Flagged)", [rb"\* 3 UIDFETCH \(FLAGS \(\\Flagged\)\)"]),
        ("UID STORE 3 +FLAGS.SILENT (\\Flagged)", []),
        ("UID SEARCH UID 2:3", [rb"\* SEARCH 2 3"]),
        ("UID COPY 2 Junk", []),
        ("UID MOVE 3:4 Junk", [rb"\* OK \[COPYUID \d+ 3:4 1:2\] .*", rb"\* VANISHED 3:4"]),
    ],
)
def test_answers_name_messages_by_uid(filled: Server, command: str, answer: list[bytes]) -> None:
    with Imap(filled, mailbox=None) as other:
        other.ok("SELECT INBOX")  # nothing is \Recent any more
        with Imap(filled, mailbox=None) as imap:
            imap.ok("ENABLE UIDONLY")
            imap.ok("SELECT INBOX")
            lines = imap.ok(command)
    assert len(lines) == len(answer), lines
    for line, pattern in zip(lines, answer, strict=True):
        assert re.fullmatch(pattern, line), lines


@pytest.mark.rfc(9586, "3.4")
def test_removals_and_news_come_by_uid(filled: Server, imap: Imap) -> None:
    with Imap(filled) as other:
        other.ok("STORE 2 +FLAGS (\\Flagged)")
        other.ok("STORE 1 +FLAGS (\\Deleted)")
        other.ok("EXPUNGE")
        other.append(message(5))
        lines = imap.ok("NOOP")
        assert lines[0] == b"* VANISHED 2"
        assert b"* 3 EXISTS" in lines
        assert re.fullmatch(rb"\* 3 UIDFETCH \(FLAGS \(\\Flagged( \\Recent)?\)\)", lines[-1])
        imap.ok("UID STORE 5 +FLAGS.SILENT (\\Deleted)")
        assert imap.ok("EXPUNGE") == [b"* VANISHED 5"]
        imap.ok("UID STORE 4 +FLAGS.SILENT (\\Deleted)")
        assert imap.ok("UID EXPUNGE 4") == [b"* VANISHED 4"]


@pytest.mark.rfc(9586, "3.3")
def test_with_mod_sequences(imap: Imap) -> None:
    imap.ok("ENABLE CONDSTORE")
    [line] = imap.ok("UID STORE 2 +FLAGS (\\Flagged)")
    assert re.fullmatch(rb"\* 2 UIDFETCH \(FLAGS \(\\Flagged[^)]*\) MODSEQ \(\d+\)\)", line)
    [line] = imap.ok("UID STORE 2 +FLAGS.SILENT (\\Seen)")
    assert re.fullmatch(rb"\* 2 UIDFETCH \(MODSEQ \(\d+\)\)", line)
    assert imap.do("UID STORE 2:3 (UNCHANGEDSINCE 1) +FLAGS.SILENT (\\Seen)")[-1].startswith(b"OK [MODIFIED 2:3]")
    [line] = imap.ok("UID FETCH 3 (BODY[TEXT])")
    assert re.match(rb"\* 3 UIDFETCH \(FLAGS \(\\Seen[^)]*\) MODSEQ \(\d+\) BODY\[TEXT\]", line)


def test_a_saved_result_is_no_sequence_number(imap: Imap) -> None:
    imap.ok("UID SEARCH RETURN (SAVE) UID 3:4")
    assert imap.ok("UID SEARCH $") == [b"* SEARCH 3 4"]
    assert len(imap.ok("UID FETCH $ (FLAGS)")) == 2


def test_every_command_that_could_name_numbers_is_in_the_table() -> None:
    by_fields = {
        command
        for command in HANDLERS
        if {one.name for one in fields(cast("type[DataclassInstance]", command))} & {"is_uid", "key", "seq_set"}
    }
    assert by_fields - {c.UidExpunge} <= uidonly._USES_NUMBERS.keys()
