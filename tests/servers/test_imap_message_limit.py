"""MESSAGELIMIT: one command touches so many messages, the newest first. RFC 9738."""

import re
from collections.abc import Iterator

import pytest
from imap_raw import USER, Imap, fill, message

from pochta.config import Limits
from pochta.testing import Server

LIMIT = 3
COUNT = 5


@pytest.fixture
def limited() -> Iterator[Server]:
    with Server(limits=Limits(imap_message_limit=LIMIT)) as server:
        server.add_account(USER, "secret")
        fill(server, COUNT)
        yield server


def uids(imap: Imap, keys: str = "ALL") -> bytes:
    return imap.ok(f"UID SEARCH {keys}")[0].removeprefix(b"* SEARCH").strip()


@pytest.mark.rfc(9738, "3")
def test_messagelimit_is_told_only_where_it_is_set(pochta: Server, limited: Server) -> None:
    with Imap(pochta) as imap, Imap(limited) as other:
        assert b"MESSAGELIMIT" not in imap.ok("CAPABILITY")[0]
        assert b" MESSAGELIMIT=3" in other.ok("CAPABILITY")[0]


@pytest.mark.rfc(9738, "3.1")
def test_fetch(limited: Server) -> None:
    with Imap(limited) as imap:
        *lines, last = imap.do("FETCH 1:* (UID FLAGS)")
        assert [re.findall(rb"UID (\d+)", line)[0] for line in lines] == [b"3", b"4", b"5"]
        assert last.startswith(b"OK [MESSAGELIMIT 3 3] ")
        *lines, last = imap.do("UID FETCH 1:2,4:5 (ENVELOPE)")
        assert len(lines) == LIMIT
        assert last.startswith(b"OK [MESSAGELIMIT 3 2] ")
        assert imap.do("FETCH 1:3 FLAGS")[-1] == b"OK FETCH completed"
        *lines, last = imap.do("FETCH 1:* BODY[]")
        assert last.startswith(b"OK [MESSAGELIMIT 3 3] ")
        assert uids(imap, "UNSEEN") == b"1 2"


@pytest.mark.rfc(9738, "3.1")
def test_fetch_of_a_range_that_is_too_large(limited: Server) -> None:
    with Imap(limited) as imap:
        assert imap.do("UID FETCH 1:* (FLAGS) (PARTIAL -1:-4)")[-1].startswith(b"NO [MESSAGELIMIT 3] ")
        assert len(imap.ok("UID FETCH 1:* (FLAGS) (PARTIAL -1:-3)")) == LIMIT


@pytest.mark.rfc(9738, "3.1")
@pytest.mark.parametrize("is_aware", [False, True])
def test_store_and_uid_expunge(limited: Server, is_aware: bool) -> None:
    with Imap(limited) as imap:
        if is_aware:
            imap.ok("ENABLE CONDSTORE")
        *lines, last = imap.do("UID STORE 1:* +FLAGS (\\Deleted)")
        assert len(lines) == LIMIT
        assert last.startswith(b"OK [MESSAGELIMIT 3 3] ")
        assert uids(imap, "DELETED") == b"3 4 5"
        imap.ok("UID STORE 1:2 +FLAGS (\\Deleted)")
        answer = imap.do("UID EXPUNGE 1:*")
        assert any(b"[MESSAGELIMIT 3 3] " in line for line in answer)
        assert uids(imap) == b"1 2"


@pytest.mark.rfc(9738, "3.1")
def test_copy_is_all_or_nothing(limited: Server) -> None:
    with Imap(limited) as imap:
        assert imap.do("COPY 1:* Archive")[-1].startswith(b"NO [MESSAGELIMIT 3 3] ")
        assert imap.ok("STATUS Archive (MESSAGES)") == [b"* STATUS Archive (MESSAGES 0)"]
        imap.ok("COPY 1:3 Archive")


@pytest.mark.rfc(9738, "3.1")
def test_move_takes_the_last(limited: Server) -> None:
    with Imap(limited) as imap:
        assert imap.do("UID MOVE 1:* Archive")[-1].startswith(b"OK [MESSAGELIMIT 3 3] ")
        assert uids(imap) == b"1 2"
        assert imap.do("UID MOVE 1:* Archive")[-1] == b"OK MOVE completed"


@pytest.mark.rfc(9738, "3.1")
def test_expunge_and_close_have_no_limit(limited: Server) -> None:
    with Imap(limited) as imap:
        imap.ok("STORE 1:3 +FLAGS.SILENT (\\Deleted)")
        imap.ok("STORE 4:5 +FLAGS.SILENT (\\Deleted)")
        assert imap.do("EXPUNGE")[-1] == b"OK EXPUNGE completed"
        assert uids(imap) == b""


@pytest.mark.rfc(9738, "3.1")
def test_append_of_too_many(limited: Server) -> None:
    literal = b" {%d+}\r\n%b" % (len(message(1)), message(1))
    with Imap(limited) as imap:
        assert imap.do(b"APPEND Archive" + literal * (LIMIT + 1))[-1].startswith(b"NO [MESSAGELIMIT 3] ")
        assert imap.ok("STATUS Archive (MESSAGES)") == [b"* STATUS Archive (MESSAGES 0)"]
        assert imap.do(b"APPEND Archive" + literal * LIMIT)[-1].startswith(b"OK ")


@pytest.mark.rfc(9738, "3.2")
@pytest.mark.parametrize(
    ("keys", "want"),
    [
        ("UIDAFTER 3", b"4 5"),
        ("UIDAFTER 5", b""),
        ("UIDAFTER 4294967295", b""),
        ("UIDBEFORE 3", b"1 2"),
        ("UIDBEFORE 1", b""),
        ("UIDBEFORE 4 NOT UIDBEFORE 2", b"2 3"),
    ],
)
def test_uids_on_one_side(limited: Server, keys: str, want: bytes) -> None:
    with Imap(limited) as imap:
        assert uids(imap, keys) == want
