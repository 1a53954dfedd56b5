"""SORT and THREAD over a connection: what is kept between commands, other sessions, removals, older messages."""

from collections.abc import Sequence

import apsw
import pytest
from imap_raw import Imap

from pochta.servers.imap.sort import columns as sort_columns
from pochta.store import sqlite
from pochta.testing import Server

CRITERIA = ("ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO")


def mail(number: int, *, subject: str = "", day: int = 0, refs: Sequence[int] = (), sender: str = "") -> bytes:
    """A message; `day` of January 2026, 0: no Date header."""
    lines = [f"Message-ID: <{number}@x>"]
    lines += [f"Subject: {subject}"] if subject else []
    lines += [f"Date: {day} Jan 2026 10:00:00 +0000"] if day else []
    lines += ["References: " + " ".join(f"<{ref}@x>" for ref in refs)] if refs else []
    lines += [f"From: {sender}"] if sender else []
    return ("\r\n".join(lines) + "\r\n\r\nbody" + "x" * number + "\r\n").encode("ascii")


def put(imap: Imap, message: bytes, day: int = 1) -> None:
    assert imap.append(message, f'INBOX "{day:02}-Feb-2026 00:00:00 +0000"')[-1].startswith(b"OK")


def one(imap: Imap, command: str) -> bytes:
    """The only untagged line of the answer."""
    [line] = imap.ok(command)
    return line


def fill(imap: Imap) -> None:
    put(imap, mail(1, subject="b", day=3, sender="Zed <a@x>"), 5)
    put(imap, mail(2, subject="Re: a", day=1, refs=[1], sender="c@x"), 4)
    put(imap, mail(3, subject="C", sender="Bob <b@x>"), 3)
    put(imap, mail(4, subject="re: B", day=2, sender="b@x"), 2)
    imap.ok("NOOP")


@pytest.mark.rfc(5256, "3")
@pytest.mark.parametrize(
    ("command", "want"),
    [
        pytest.param("SORT (ARRIVAL) UTF-8 ALL", b"* SORT 4 3 2 1", id="arrival"),
        pytest.param("SORT (REVERSE SIZE) UTF-8 ALL", b"* SORT 2 4 1 3", id="reverse size"),
        pytest.param("SORT (SUBJECT) UTF-8 ALL", b"* SORT 2 1 4 3", id="subject"),
        pytest.param("SORT (REVERSE SUBJECT) UTF-8 ALL", b"* SORT 3 1 4 2", id="reverse keeps equal ones"),
        pytest.param("SORT (SUBJECT DATE) UTF-8 ALL", b"* SORT 2 4 1 3", id="two criteria"),
        pytest.param("SORT (DATE) UTF-8 ALL", b"* SORT 2 4 1 3", id="the internal date in place of a date"),
        pytest.param("SORT (FROM) UTF-8 ALL", b"* SORT 1 3 4 2", id="from"),
        pytest.param("SORT (DISPLAYFROM) UTF-8 ALL", b"* SORT 4 3 2 1", id="displayfrom"),
        pytest.param("SORT (CC) UTF-8 ALL", b"* SORT 1 2 3 4", id="nobody has one"),
        pytest.param("UID SORT (DATE) UTF-8 2:3", b"* SORT 2 3", id="numbers among the keys"),
        pytest.param("SORT (DATE) UTF-8 SUBJECT nowhere", b"* SORT", id="nothing"),
        pytest.param('THREAD REFERENCES UTF-8 ALL', b"* THREAD (1 (2)(4))(3)", id="references"),
        pytest.param('THREAD REFS UTF-8 ALL', b"* THREAD (4)(1 2)(3)", id="refs"),
        pytest.param('UID THREAD ORDEREDSUBJECT UTF-8 ALL', b"* THREAD (2)(4 1)(3)", id="orderedsubject"),
        pytest.param('THREAD REFERENCES UTF-8 2:4', b"* THREAD (2)(4)(3)", id="some"),
        pytest.param('THREAD REFERENCES UTF-8 FROM nobody', b"* THREAD", id="no threads"),
    ],
)  # fmt: skip
def test_answer(pochta: Server, command: str, want: bytes) -> None:
    with Imap(pochta) as imap:
        fill(imap)
        assert one(imap, command) == want
        assert one(imap, command) == want  # as it was kept


@pytest.mark.rfc(5267, "3.1")
def test_return_options_mean_the_sorted_order(pochta: Server) -> None:
    with Imap(pochta) as imap:
        fill(imap)
        line = one(imap, "UID SORT RETURN (MIN MAX COUNT ALL) (SUBJECT DATE) UTF-8 ALL")
        assert line.partition(b") ")[2] == b"UID MIN 2 MAX 3 COUNT 4 ALL 2,4,1,3"
        line = one(imap, "SORT RETURN (PARTIAL -1:-2) (DATE) UTF-8 ALL")
        assert line.partition(b") ")[2] == b"PARTIAL (-1:-2 1,3)"
        line = one(imap, "SORT RETURN () (ARRIVAL) UTF-8 SUBJECT zzz")
        assert line.partition(b")")[2] == b""


@pytest.mark.rfc(5182, "2.1")
def test_saved_result(pochta: Server) -> None:
    with Imap(pochta) as imap:
        fill(imap)
        assert imap.ok("SORT RETURN (SAVE) (DATE) UTF-8 NOT 3") == []
        assert one(imap, "SEARCH $") == b"* SEARCH 1 2 4"
        imap.ok("SORT RETURN (SAVE MIN) (REVERSE DATE) UTF-8 ALL")
        assert one(imap, "SEARCH $") == b"* SEARCH 3"
        imap.ok("SORT RETURN (SAVE PARTIAL 1:2) (DATE) UTF-8 ALL")
        assert one(imap, "SORT (DATE) UTF-8 $") == b"* SORT 2 4"


@pytest.mark.rfc(7162, "3.1.9")
def test_mod_seq(pochta: Server) -> None:
    with Imap(pochta) as imap:
        fill(imap)
        imap.ok("SELECT INBOX (CONDSTORE)")
        imap.ok("STORE 1 +FLAGS.SILENT (\\Seen)")
        imap.ok("STORE 2 +FLAGS.SILENT (\\Seen)")
        [low] = [int(imap.fetch("FETCH 1 MODSEQ").split(b"(")[1][:-1])]
        [high] = [int(imap.fetch("FETCH 2 MODSEQ").split(b"(")[1][:-1])]
        assert one(imap, f"SORT (REVERSE DATE) UTF-8 MODSEQ {low}") == b"* SORT 1 2 (MODSEQ %d)" % high
        line = one(imap, f"SORT RETURN (MIN) (REVERSE DATE) UTF-8 MODSEQ {low}")
        assert line.partition(b") ")[2] == b"MIN 1 MODSEQ %d" % low
        assert one(imap, f"SORT (DATE) UTF-8 MODSEQ {high + 1}") == b"* SORT"
        # RFC 7162 §3.1.9: THREAD responses are unchanged
        assert one(imap, f"THREAD REFS UTF-8 MODSEQ {high}") == b"* THREAD (2)"


def test_new_messages_go_where_they_belong(pochta: Server) -> None:
    with Imap(pochta) as imap, Imap(pochta) as fresh:
        fill(imap)
        commands = [f"SORT ({before}{name}) UTF-8 ALL" for name in CRITERIA for before in ("", "REVERSE ")]
        commands += [
            "SORT (REVERSE FROM SUBJECT) UTF-8 ALL",
            "THREAD REFERENCES UTF-8 ALL",
            "UID THREAD REFS UTF-8 ALL",
        ]
        for number in range(5, 9):
            for command in commands[number::3]:
                imap.ok(command)
            put(imap, mail(number, subject=f"Re: {'abc'[number % 3]}", day=number % 4, refs=[number - 2], sender="b@x"))
            imap.ok("NOOP")
        known = [one(imap, command) for command in commands]
        with pytest.MonkeyPatch.context() as patch:
            # nothing is kept: all is read and sorted anew
            patch.setattr(sort_columns.MailboxColumns, "of", _forgetting)
            fresh.ok("NOOP")
            assert [one(fresh, command) for command in commands] == known


def _forgetting(columns: sort_columns.MailboxColumns, mailbox: object, snapshot: object) -> object:
    columns._columns.clear()
    return _OF(columns, mailbox, snapshot)  # type: ignore[arg-type]


_OF = sort_columns.MailboxColumns.of


@pytest.mark.rfc(5256, "3")
def test_a_removal_that_was_not_told_stays_in_the_order(pochta: Server) -> None:
    with Imap(pochta) as imap, Imap(pochta) as other:
        fill(imap)
        other.ok("NOOP")
        assert one(imap, "SORT (DATE) UTF-8 ALL") == b"* SORT 2 4 1 3"
        other.ok("STORE 2,4 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        assert one(other, "SORT (DATE) UTF-8 ALL") == b"* SORT 1 2"
        assert one(other, "THREAD REFERENCES UTF-8 ALL") == b"* THREAD (1)(2)"
        # no EXPUNGE in answer to SORT: the session keeps its numbers, and all that it knows
        assert one(imap, "SORT (SUBJECT) UTF-8 ALL") == b"* SORT 2 1 4 3"
        assert one(imap, "THREAD REFERENCES UTF-8 ALL") == b"* THREAD (1 (2)(4))(3)"
        assert one(imap, "SORT RETURN (ALL) (TO DATE) UTF-8 NOT FROM zzz").endswith(b" ALL 2,4,1,3")
        put(other, mail(5, subject="aa", day=9))
        lines = imap.ok("UID SORT (DATE) UTF-8 ALL")
        assert lines[0] == b"* SORT 2 4 1 3"
        assert b"* 4 EXPUNGE" in lines
        assert b"* 2 EXPUNGE" in lines
        assert one(imap, "UID SORT (DATE) UTF-8 ALL") == b"* SORT 1 5 3"
        assert one(imap, "SORT (DATE) UTF-8 ALL") == b"* SORT 1 3 2"


def test_a_session_that_selected_before_a_removal(pochta: Server) -> None:
    """The columns are made from the newer view; the older one needs messages that they do not hold."""
    with Imap(pochta) as imap:
        fill(imap)
        with Imap(pochta) as other:
            other.ok("STORE 2 +FLAGS.SILENT (\\Deleted)")
            other.ok("EXPUNGE")
            assert one(other, "SORT (DATE) UTF-8 ALL") == b"* SORT 3 1 2"
            assert one(imap, "SORT (DATE) UTF-8 ALL") == b"* SORT 2 4 1 3"
            assert one(other, "SORT (DATE) UTF-8 ALL") == b"* SORT 3 1 2"
            assert one(other, "THREAD REFS UTF-8 ALL") == b"* THREAD (3)(1)(2)"


def test_messages_of_older_stores_are_threaded_from_their_headers(pochta: Server) -> None:
    with Imap(pochta) as imap:
        fill(imap)
        with apsw.Connection(str(pochta.data_dir / sqlite.DATABASE_NAME)) as connection:
            connection.set_busy_timeout(5000)
            connection.execute("UPDATE message SET refs = NULL WHERE base_subject <> 'C'")
        assert one(imap, "THREAD REFERENCES UTF-8 ALL") == b"* THREAD (1 (2)(4))(3)"


def test_what_is_kept_is_counted_and_dropped(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[int] = []
    with Imap(pochta) as imap:
        fill(imap)
        init = sort_columns.MailboxColumns._drop_least_used

        def watched(columns: sort_columns.MailboxColumns) -> None:
            init(columns)
            rooms.append(columns.memory_bytes)

        monkeypatch.setattr(sort_columns.MailboxColumns, "_drop_least_used", watched)
        imap.ok("SORT (SUBJECT) UTF-8 ALL")
        imap.ok("THREAD REFERENCES UTF-8 ALL")
        assert 0 < rooms[0] < rooms[1]
        monkeypatch.setattr(sort_columns, "COLUMNS_BYTES", 1 << 40)
        assert one(imap, "SORT (SUBJECT) UTF-8 ALL") == b"* SORT 2 1 4 3"
        assert rooms[-1] == 0


def test_unknown_charset(pochta: Server) -> None:
    with Imap(pochta) as imap:
        for command in ("SORT (DATE) KLINGON ALL", "UID THREAD REFS KLINGON ALL"):
            assert imap.do(command)[-1].startswith(b"NO [BADCHARSET (")
        assert imap.do("THREAD BOGUS UTF-8 ALL")[-1].startswith(b"BAD")
        assert imap.do("SORT (BOGUS) UTF-8 ALL")[-1].startswith(b"BAD")
