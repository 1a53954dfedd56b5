"""What RFC 3501 requires of mailboxes, names, UIDs and selections. The list: tests/requirements/rfc3501.toml."""

import re

import msgspec
import pytest
from imap_raw import Imap, fill, message

from pochta.config import Limits
from pochta.testing import Server

rfc = pytest.mark.rfc

SYSTEM_FLAGS = (b"\\Answered", b"\\Flagged", b"\\Deleted", b"\\Seen", b"\\Draft")

# Registered at https://www.iana.org/assignments/imap-capabilities; AUTH= takes any mechanism registered for SASL
# https://www.iana.org/assignments/imap-capabilities
REGISTERED = (
    "IMAP4rev1 IMAP4rev2 ACL BINARY CATENATE CHILDREN COMPRESS=DEFLATE CONDSTORE CONTEXT=SEARCH CONTEXT=SORT"
    " CREATE-SPECIAL-USE ENABLE ESEARCH ESORT I18NLEVEL=1 ID IDLE INPROGRESS LIST-EXTENDED LIST-METADATA LIST-MYRIGHTS"
    " LIST-STATUS LITERAL+ LOGINDISABLED METADATA MOVE MULTIAPPEND MULTISEARCH NAMESPACE NOTIFY OBJECTID PARTIAL"
    " PREVIEW QRESYNC QUOTA QUOTASET QUOTA=RES-MAILBOX QUOTA=RES-MESSAGE QUOTA=RES-STORAGE REPLACE RIGHTS=texk SASL-IR"
    " SAVEDATE SEARCH=FUZZY SEARCHRES SORT SORT=DISPLAY SPECIAL-USE STARTTLS STATUS=SIZE THREAD=ORDEREDSUBJECT"
    " THREAD=REFERENCES THREAD=REFS UIDONLY UIDPLUS UNAUTHENTICATE UNSELECT UTF8=ACCEPT WITHIN"
    " AUTH=PLAIN AUTH=LOGIN AUTH=SCRAM-SHA-256"
)


def number(lines: list[bytes], code: bytes) -> int:
    """The number of the one response code of that name."""
    [found] = re.findall(rb"\[%b (\d+)\]" % code, b"\n".join(lines))
    return int(found)


def status(imap: Imap, mailbox: str, item: str) -> int:
    """One number of STATUS."""
    [line] = imap.ok(f"STATUS {mailbox} ({item})")
    return int(line[line.rindex(b" ") + 1 : -1])


def listed(imap: Imap, command: str) -> list[tuple[bytes, bytes, bytes]]:
    """(attributes, delimiter, name) of each line of LIST or LSUB."""
    matches = [re.fullmatch(rb'\* L(?:IST|SUB) \((.*)\) "(.)" (.+)', line) for line in imap.ok(command)]
    return [(one[1], one[2], one[3]) for one in matches if one]


@rfc(3501, "6.3.1")
@rfc(3501, "6.3.2")
@pytest.mark.parametrize("command", ["SELECT", "EXAMINE"])
def test_a_selection_says_all_that_is_required(pochta: Server, command: str) -> None:
    fill(pochta, 3)
    with Imap(pochta, mailbox=None) as imap:
        *lines, last = imap.do(f"{command} INBOX")
        assert last.startswith(b"OK [READ-WRITE] " if command == "SELECT" else b"OK [READ-ONLY] ")
        [flags] = [line for line in lines if line.startswith(b"* FLAGS (")]
        assert set(SYSTEM_FLAGS) <= set(flags[len(b"* FLAGS (") : -1].split())
        assert b"* 3 EXISTS" in lines
        assert b"* 3 RECENT" in lines
        assert b"[PERMANENTFLAGS (" in b"".join(lines)
        assert number(lines, b"UIDVALIDITY") > 0
        assert number(lines, b"UIDNEXT") == 4


@rfc(3501, "6.3.1")
def test_a_selection_never_counts_up_to_the_first_unseen(pochta: Server) -> None:
    fill(pochta, 3)
    with Imap(pochta) as imap:
        imap.ok("STORE 1 +FLAGS (\\Seen)")
        assert b"UNSEEN" not in b"".join(imap.ok("SELECT INBOX"))
        assert imap.ok("SEARCH UNSEEN") == [b"* SEARCH 2 3"]


@rfc(3501, "2.3.1.1")
def test_uidnext_moves_with_new_messages_only(pochta: Server) -> None:
    fill(pochta, 3)
    with Imap(pochta) as imap:
        for command in ("STORE 1 +FLAGS (\\Deleted)", "NOOP", "EXPUNGE", "COPY 1 Archive", "SELECT INBOX", "CLOSE"):
            imap.ok(command)
            assert status(imap, "INBOX", "UIDNEXT") == 4
        imap.append(message(4))
        imap.ok("SELECT INBOX")
        imap.ok("UID STORE 4 +FLAGS (\\Deleted)")
        imap.ok("EXPUNGE")
        assert status(imap, "INBOX", "UIDNEXT") == 5
        assert number(imap.ok("SELECT INBOX"), b"UIDNEXT") == 5


@rfc(3501, "2.3.1.1")
@rfc(3501, "2.3.1.2")
def test_uids_rise_however_messages_come(pochta: Server) -> None:
    fill(pochta, 4)
    with Imap(pochta) as imap:
        for command in ("STORE 2 +FLAGS (\\Deleted)", "EXPUNGE", "COPY 1,3 INBOX", "MOVE 2 Archive"):
            imap.ok(command)
        imap.append(message(5), 'INBOX "01-Jan-2001 00:00:00 +0000"')
        imap.ok("NOOP")
        imap.ok("UID COPY 1 INBOX")
        found = [
            [int(digits) for digits in re.findall(rb"\d+", line)] for line in imap.ok("FETCH 1:* UID")
        ]  # (sequence number, uid)
        assert [seq for seq, _ in found] == list(range(1, len(found) + 1))
        uids = [uid for _, uid in found]
        assert uids == [1, 4, 5, 6, 7, 8]


@rfc(3501, "6.3.3")
@rfc(3501, "6.3.4")
@rfc(3501, "6.3.5")
@pytest.mark.parametrize("command", ["DELETE box", "RENAME box other"])
def test_a_name_made_again_has_a_higher_uid_validity(pochta: Server, command: str) -> None:
    with Imap(pochta, mailbox=None) as imap:
        imap.ok("CREATE box")
        fill(pochta, 2, mailbox="box")
        before = status(imap, "box", "UIDVALIDITY")
        imap.ok(command)
        imap.ok("CREATE box")
        assert status(imap, "box", "UIDVALIDITY") > before
        if command.startswith("RENAME"):  # the messages keep what they were known by
            assert status(imap, "other", "UIDVALIDITY") == before
            assert status(imap, "other", "UIDNEXT") == 3


@rfc(3501, "6.3.10")
def test_status_changes_nothing(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta, mailbox="Archive") as imap:
        for _ in range(2):
            assert imap.ok("STATUS INBOX (MESSAGES RECENT UNSEEN)") == [
                b"* STATUS INBOX (MESSAGES 2 RECENT 2 UNSEEN 2)"
            ]
        imap.ok("CHECK")  # a mailbox is still selected
        assert b"* 2 RECENT" in imap.ok("SELECT INBOX")


@rfc(3501, "5.1.1")
@rfc(3501, "6.3.8")
@rfc(3501, "7.2.2")
def test_listed_names_have_one_delimiter_and_can_be_used(pochta: Server) -> None:
    with Imap(pochta, mailbox=None) as imap:
        for name in ("a/b/c", '"two words/below"', '"Entw&APw-rfe/x"', '"quo\\"te"', "INBOX/below"):
            imap.ok(f"CREATE {name}")
        names = listed(imap, 'LIST "" *')
        assert len(names) == 6 + 3 + 2 + 2 + 1 + 1
        assert {delimiter for _, delimiter, _ in names} == {b"/"}
        for attributes, _, name in names:
            assert b"\\Noselect" not in attributes
            assert name in [one for _, _, one in listed(imap, f'LIST "" {name.decode()}')]
            for command in ("LIST {} %", "LSUB {} *", "SELECT {}", "STATUS {} (MESSAGES)", "SUBSCRIBE {}"):
                imap.ok(command.format(name.decode()))
        assert [name for _, _, name in listed(imap, "LIST a/b/ %")] == [b"a/b/c"]


@rfc(3501, "5.1")
@rfc(3501, "9")
def test_only_inbox_is_the_same_in_any_case(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta, mailbox=None) as imap:
        for name in ("INBOX", "inbox", '"iNbOx"', "InboX"):
            assert b"* 1 EXISTS" in imap.ok(f"SELECT {name}")
            assert imap.do(f"CREATE {name}")[-1].startswith(b"NO [ALREADYEXISTS]")
        for name in ("Box", "box", "&AMk-t&AOk-", "&AOk-t&AOk-"):
            imap.ok(f"CREATE {name}")
        names = [name for _, _, name in listed(imap, 'LIST "" *')]
        assert {b"INBOX", b"Box", b"box", b"&AMk-t&AOk-", b"&AOk-t&AOk-"} <= set(names)
        assert [name.lower() for name in names].count(b"inbox") == 1


@rfc(3501, "5.1.3")
def test_names_that_look_alike_are_one(pochta: Server) -> None:
    decomposed, composed = "Cafe&AwE-", "Caf&AOk-"
    with Imap(pochta, mailbox=None) as imap:
        imap.ok(f"CREATE {decomposed}")
        assert imap.do(f"CREATE {composed}")[-1].startswith(b"NO [ALREADYEXISTS]")
        for name in (decomposed, composed):
            imap.ok(f"SELECT {name}")
        for name in (decomposed, composed):
            assert [one for _, _, one in listed(imap, f'LIST "" {name}')] == [composed.encode()]


@rfc(3501, "6.3.11")
@rfc(3501, "6.4.7")
def test_nothing_makes_a_mailbox_but_create(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap:
        before = listed(imap, 'LIST "" *')
        for command in ("COPY 1 new", "UID COPY 1 new", "MOVE 1 new"):
            assert imap.do(command)[-1].startswith(b"NO [TRYCREATE] ")
        assert imap.append(message(1), "new")[-1].startswith(b"NO [TRYCREATE] ")
        assert imap.do("APPEND new {10}")[-1].startswith(b"NO [TRYCREATE] ")
        assert listed(imap, 'LIST "" *') == before


@rfc(3501, "6.1.1")
@rfc(3501, "7.2.1")
def test_capabilities_are_registered_and_told_once(pochta: Server) -> None:
    with Imap(pochta, login=False) as imap:
        for _ in range(2):
            [line] = imap.ok("CAPABILITY")
            assert line.startswith(b"* CAPABILITY IMAP4rev1 ")
            words = line.decode().split()[2:]
            words = [word for word in words if not word.startswith("APPENDLIMIT=")]
            assert set(words) <= set(REGISTERED.split())
            assert len(words) == len(set(words))
            imap.do("LOGIN anna@example.org secret")


@rfc(3501, "6.5.1")
def test_experimental_commands_are_unknown(pochta: Server) -> None:
    with Imap(pochta) as imap:
        for command in ("XLIST", 'XLIST "" *', "X-PING 1", "XATOM"):
            assert [line[:4] for line in imap.do(command)] == [b"BAD "]


@rfc(3501, "5.4")
@pytest.mark.parametrize("minutes", [29, 30])
def test_a_signed_in_client_has_30_minutes_at_least(minutes: int) -> None:
    assert Limits().idle_timeout_s >= 30 * 60
    given = {"idle_timeout_s": minutes * 60}
    if minutes < 30:
        with pytest.raises(msgspec.ValidationError, match="idle_timeout_s"):
            msgspec.convert(given, Limits)
    else:
        assert msgspec.convert(given, Limits).idle_timeout_s == 1800
