"""IMAP4rev2 beside IMAP4rev1: what ENABLE IMAP4rev2 changes, and what it does not. Source: RFC 9051, appendix E."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from imap_raw import Imap, fill, message

from pochta.testing import Server

NFC, NFD = "Caf\N{LATIN SMALL LETTER E WITH ACUTE}", "Cafe\N{COMBINING ACUTE ACCENT}"


class Difference(NamedTuple):
    """A line of appendix E: a command on INBOX of three messages, and what is in the answer of each revision."""

    line: int
    command: str
    rev1: str  # a pattern; empty: as in rev2
    rev2: str
    absent: str = r"\A\Z"  # a pattern that rev2 has not


DIFFERENCES = {
    "namespace": Difference(2, "NAMESPACE", "", r'\* NAMESPACE \(\("" "/"\)\)'),
    "unselect": Difference(2, "UNSELECT", "", "OK"),
    "uid expunge": Difference(2, "UID EXPUNGE 1", "", "OK"),
    "appenduid": Difference(2, "APPEND INBOX {6+}\r\nA: b\r\n", "", r"OK \[APPENDUID \d+ 4\]"),
    "search return": Difference(2, "SEARCH RETURN (MIN COUNT) ALL", "", r"ESEARCH \(TAG \"t\d+\"\) MIN 1 COUNT 3"),
    "searchres": Difference(2, "SEARCH RETURN (SAVE) 2", "", r"\AOK SEARCH"),
    "list extended": Difference(2, 'LIST (SUBSCRIBED) "" %', "", r'\* LIST \([^)]*\\Subscribed\) "/" INBOX'),
    "list status": Difference(2, 'LIST "" INBOX RETURN (STATUS (MESSAGES))', "", r"\* STATUS INBOX \(MESSAGES 3\)"),
    "special use": Difference(2, 'LIST (SPECIAL-USE) "" %', "", r'\\Archive\) "/" Archive'),
    "literal-": Difference(2, "LIST {0+}\r\n {1+}\r\n%", "", "OK LIST"),
    "binary": Difference(2, "FETCH 1 BINARY.SIZE[1]", "", r"\* 1 FETCH \(BINARY.SIZE\[1\] 6\)"),
    "status size": Difference(3, "STATUS INBOX (SIZE DELETED)", "", r"\(SIZE \d+ DELETED 0\)"),
    "search": Difference(4, "SEARCH ALL", r"\* SEARCH 1 2 3\n", r"\* ESEARCH \(TAG \"t\d+\"\) ALL 1:3", r"\* SEARCH"),
    "uid search": Difference(
        4, "UID SEARCH 2", r"\* SEARCH 2\n", r"\* ESEARCH \(TAG \"t\d+\"\) UID ALL 2", r"\* SEARCH"
    ),
    "search nothing": Difference(4, "SEARCH DELETED", r"\* SEARCH\n", r"\* ESEARCH \(TAG \"t\d+\"\)\n"),
    "move copyuid": Difference(7, "MOVE 1 Junk", "", r"\* OK \[COPYUID \d+ 1 1\]"),
    "uid move copyuid": Difference(7, "UID MOVE 1 Junk", "", r"\* OK \[COPYUID \d+ 1 1\]"),
    "copy trycreate": Difference(8, "COPY 1 Nowhere", "", r"NO \[TRYCREATE\]"),
    "move trycreate": Difference(8, "MOVE 1 Nowhere", "", r"NO \[TRYCREATE\]"),
    "closed": Difference(9, "SELECT Junk", "", r"\A\* OK \[CLOSED\]"),
    "select list": Difference(
        10, "SELECT Drafts", r"\A((?!\* LIST)[^\n]*\n)*\Z", r'\* LIST \(.*\\Drafts\) "/" Drafts\n'
    ),
    "examine list": Difference(10, "EXAMINE INBOX", r"READ-ONLY", r'\* LIST \(\\HasNoChildren\) "/" INBOX\n'),
    "no unseen code": Difference(11, "SELECT INBOX", r"\A((?!.*UNSEEN)[^\n]*\n)*\Z", "OK", "UNSEEN"),
    "no recent": Difference(12, "SELECT INBOX", r"\* \d RECENT", r"\* 3 EXISTS", "RECENT"),
    "no recent flag": Difference(12, "FETCH 3 FLAGS", r"FLAGS \(\\Recent\)", r"FLAGS \(\)", "Recent"),
    "no recent status": Difference(12, "STATUS INBOX (RECENT)", r"\(RECENT \d\)", "BAD"),
    "no recent list status": Difference(12, 'LIST "" INBOX RETURN (STATUS (RECENT))', r"\(RECENT \d\)", "BAD"),
    "new flag names": Difference(
        15, "STORE 1 +FLAGS ($Phishing $Forwarded $MDNSent $Junk $NotJunk)", "", r"\$Phishing"
    ),
    "check": Difference(17, "CHECK", "", "OK"),
    "rfc822.text": Difference(18, "FETCH 1 RFC822.TEXT", "", r"RFC822.TEXT \{6\}\r\nbody\r\n\)"),
    "rfc822.size": Difference(18, "FETCH 1 RFC822.SIZE", "", r"\* 1 FETCH \(RFC822.SIZE \d+\)"),
    "lsub": Difference(19, 'LSUB "" INBOX', "", r'\* LSUB \(\) "/" INBOX'),
    "nonexistent": Difference(2, "SELECT Nowhere", "", r"NO \[NONEXISTENT\]"),
    "already exists": Difference(2, "CREATE Junk", "", r"NO \[ALREADYEXISTS\]"),
}


@pytest.fixture
def filled(pochta: Server) -> Server:
    """INBOX holds three messages."""
    fill(pochta, 3)
    return pochta


@pytest.fixture
def rev2(filled: Server) -> Iterator[Imap]:
    """A session with IMAP4rev2 and INBOX selected."""
    with Imap(filled, mailbox=None) as imap:
        assert imap.ok("ENABLE IMAP4rev2") == [b"* ENABLED IMAP4rev2"]
        imap.ok("SELECT INBOX")
        yield imap


def _answer(imap: Imap, command: str) -> str:
    return "".join(line.decode() + "\n" for line in imap.do(command))


@pytest.mark.rfc(9051, "E")
@pytest.mark.parametrize("case", DIFFERENCES.values(), ids=DIFFERENCES.keys())
@pytest.mark.parametrize("revision", [1, 2])
def test_each_line_of_the_appendix(filled: Server, case: Difference, revision: int) -> None:
    with Imap(filled, mailbox=None) as imap:
        if revision == 2:
            imap.ok("ENABLE IMAP4rev2")
        imap.ok("SELECT INBOX")
        answer = _answer(imap, case.command)
    assert re.search(case.rev2 if revision == 2 else case.rev1 or case.rev2, answer), answer
    assert revision == 1 or not re.search(case.absent, answer), answer


@pytest.mark.rfc(9051, "6.3.1")
def test_the_capability_list_stays_as_it_is(filled: Server) -> None:
    with Imap(filled, mailbox=None) as imap:
        before = imap.ok("CAPABILITY")
        assert b"IMAP4rev1" in before[0].split()
        assert b"IMAP4rev2" in before[0].split()
        assert imap.ok("enable imap4REV2 condstore X-NOTHING imap4rev2") == [b"* ENABLED IMAP4rev2 CONDSTORE"]
        assert imap.ok("CAPABILITY") == before


@pytest.mark.rfc(9051, "E")
def test_news_come_with_uid_and_without_recent(filled: Server, rev2: Imap) -> None:
    with Imap(filled) as other:
        other.append(message(4))
        other.ok("STORE 2 +FLAGS (\\Flagged)")
        assert rev2.ok("NOOP") == [b"* 4 EXISTS", b"* 2 FETCH (UID 2 FLAGS (\\Flagged))"]
        other.ok("STORE 4 +FLAGS (\\Answered)")
        assert rev2.ok("FETCH 1 (UID)")[1:] == [b"* 4 FETCH (UID 4 FLAGS (\\Answered))"]
        other.ok("STORE 1 +FLAGS (\\Deleted)")
        other.ok("EXPUNGE")
        assert rev2.ok("NOOP") == [b"* 1 EXPUNGE"]


@pytest.mark.rfc(9051, "E")
def test_recent_ends_with_enable_in_a_selected_mailbox(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(message(1))
        assert imap.ok("FETCH 1 FLAGS") == [b"* 1 FETCH (FLAGS (\\Recent))"]
        imap.ok("ENABLE IMAP4rev2")
        assert imap.ok("FETCH 1 FLAGS") == [b"* 1 FETCH (FLAGS ())"]
        assert imap.ok("STORE 1 +FLAGS (\\Seen)") == [b"* 1 FETCH (FLAGS (\\Seen))"]
        lines = imap.append(message(2))
        assert lines[0] == b"* 2 EXISTS"
        assert not [line for line in lines if b"RECENT" in line]


def test_a_session_of_rev2_leaves_recent_to_others(filled: Server, rev2: Imap) -> None:
    with Imap(filled, mailbox=None) as other:
        assert b"* 3 RECENT" in other.ok("SELECT INBOX")


@pytest.mark.rfc(9051, "5.1")
@pytest.mark.rfc(9051, "A.1")
def test_names_are_utf8_in_both_directions_and_modified_utf7_without(rev2: Imap, filled: Server) -> None:
    rev2.ok(f'CREATE "{NFC}/B&B"')
    assert f'* LIST (\\HasNoChildren) "/" "{NFC}/B&B"'.encode() in rev2.ok('LIST "" *')
    assert rev2.ok(f'STATUS "{NFC}" (MESSAGES)') == [f'* STATUS "{NFC}" (MESSAGES 0)'.encode()]
    [*_, listed] = [line for line in rev2.ok(f'SELECT "{NFC}"') if line.startswith(b"* LIST")]
    assert listed == f'* LIST (\\HasChildren) "/" "{NFC}"'.encode()
    name = f"{NFC}/B&B".encode()
    rev2.ok(b"SUBSCRIBE {%d+}\r\n%b" % (len(name), name))
    assert [line for line in rev2.ok('LSUB "" *') if b"B&B" in line] == [f'* LSUB () "/" "{NFC}/B&B"'.encode()]
    with Imap(filled) as imap:
        assert b'* LIST (\\HasNoChildren) "/" Caf&AOk-/B&-B' in imap.ok('LIST "" *')
        assert imap.do(f'STATUS "{NFC}" (MESSAGES)')[-1].startswith(b"BAD")
        assert imap.ok("STATUS Caf&AOk- (MESSAGES)") == [b"* STATUS Caf&AOk- (MESSAGES 0)"]
    # to rev2 this is another name, which nobody has
    assert rev2.do("STATUS Caf&AOk- (MESSAGES)")[-1].startswith(b"NO [NONEXISTENT]")


@pytest.mark.rfc(9051, "6.3.9.7")
def test_a_name_spelled_otherwise_is_told_by_its_old_name(rev2: Imap) -> None:
    def named(command: str) -> list[bytes]:
        return [line for line in rev2.ok(command) if line.startswith(b"* LIST")]

    old_name = f'("OLDNAME" ("{NFD}"))'
    assert named(f'CREATE "{NFD}"') == [f'* LIST (\\HasNoChildren) "/" "{NFC}" {old_name}'.encode()]
    assert named(f'SELECT "{NFD}"') == [f'* LIST (\\HasNoChildren) "/" "{NFC}" {old_name}'.encode()]
    assert named(f'SELECT "{NFC}"') == [f'* LIST (\\HasNoChildren) "/" "{NFC}"'.encode()]
    assert named(f'RENAME "{NFD}" Plain') == [f'* LIST (\\HasNoChildren) "/" Plain {old_name}'.encode()]
    assert named(f'RENAME Plain "{NFC}"') == []
    assert named(f'DELETE "{NFD}"') == [f'* LIST (\\NonExistent) "/" "{NFC}" {old_name}'.encode()]
    assert named("CREATE Above/") == []


@pytest.mark.rfc(9051, "8")
@pytest.mark.parametrize("command", ["SELECT", "EXAMINE"])
@pytest.mark.parametrize("name", ["inbox", '"Inbox"', "{5+}\r\niNBOX"])
def test_inbox_in_another_case_is_told_by_its_old_name(rev2: Imap, command: str, name: str) -> None:
    [line] = [line for line in rev2.ok(f"{command} {name}") if line.startswith(b"* LIST")]
    written = name.rpartition("\n")[2].strip('"').encode()
    assert line == b'* LIST (\\HasNoChildren) "/" INBOX ("OLDNAME" (%b))' % written
    assert b"OLDNAME" not in b"".join(rev2.ok(f"{command} INBOX"))


@pytest.mark.rfc(9051, "6.3.12")
@pytest.mark.rfc(9051, "6.3.9.7")
def test_append_tells_the_name_that_it_found(rev2: Imap) -> None:
    told = f'* LIST (\\HasNoChildren) "/" "{NFC}" ("OLDNAME" ("{NFD}"))'.encode()
    rev2.ok(f'CREATE "{NFC}"')
    *lines, last = rev2.append(message(1), f'"{NFD}"')
    assert lines == [told]
    assert last.startswith(b"OK [APPENDUID ")
    assert told not in rev2.append(message(2), f'"{NFC}"')
    rev2.ok("SELECT INBOX")
    assert told in rev2.append(message(2), f'"{NFD}"')
    assert told in rev2.do(f'REPLACE 1 "{NFD}" '.encode() + b"{%d+}\r\n" % len(message(3)) + message(3))


def test_without_rev2_no_old_name_is_told(filled: Server) -> None:
    with Imap(filled) as imap:
        name = "Cafe&AwE-"
        assert not [line for line in imap.ok(f"CREATE {name}") if line.startswith(b"* LIST")]
        assert not [line for line in imap.ok(f"SELECT {name}") if line.startswith(b"* LIST")]
        assert not [line for line in imap.append(message(1), name) if line.startswith(b"* LIST")]
        assert not [line for line in imap.ok(f"DELETE {name}") if line.startswith(b"* LIST")]


@pytest.mark.rfc(9051, "A")
def test_a_session_of_rev1_never_hears_utf8(filled: Server, rev2: Imap) -> None:
    rev2.ok(f'CREATE "{NFC}"')
    with Imap(filled) as imap:
        for command in ('LIST "" *', 'LSUB "" *', 'LIST "" * RETURN (STATUS (MESSAGES))', "SELECT Caf&AOk-"):
            assert b"".join(imap.ok(command)).isascii()
