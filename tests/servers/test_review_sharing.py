"""What a reader of one mailbox finds out of, or does to, the rest of another's account."""

import re
from collections.abc import Iterator

import pytest
from imap_raw import Imap, message

from pochta.store import annotations, flags, mailboxes
from pochta.testing import Server

OWNER, READER, OTHER = "owner@example.org", "reader@example.org", "other@example.org"
BOX = f'"Other Users/{OWNER}/Box"'


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        for address in (OWNER, READER, OTHER):
            running.add_account(address, "secret")
        yield running


@pytest.fixture
def owner(server: Server) -> Iterator[Imap]:
    with Imap(server, user=OWNER, mailbox=None) as client:
        client.ok("CREATE Box")
        client.ok("CREATE Private")
        client.append(message(1), "Box (Open)")
        client.append(message(2), "Private (Divorce)")
        yield client


@pytest.fixture
def reader(server: Server, owner: Imap) -> Iterator[Imap]:
    with Imap(server, user=READER, mailbox=None) as client:
        yield client


def keywords_told(lines: list[bytes]) -> set[bytes]:
    """Those of the last FLAGS response."""
    lists = [line for line in lines if line.startswith(b"* FLAGS ")]
    return set(re.findall(rb"[^\\ (]+", lists[-1][len(b"* FLAGS ") :].replace(b")", b""))) - {
        *(b"Answered", b"Flagged", b"Deleted", b"Seen", b"Draft")
    }


def test_keywords_of_private_mailboxes_are_not_told(owner: Imap, reader: Imap) -> None:
    owner.ok(f"SETACL Box {READER} lrsw")
    lines = reader.ok(f"SELECT {BOX}")
    assert b"Divorce" not in b"".join(lines)
    lines = reader.ok("FETCH 1 FLAGS")
    assert keywords_told(lines) == {b"Open"}
    owner.append(message(3), "Private (Lawyer)")
    lines = reader.ok("STORE 1 +FLAGS (Mine)")
    assert keywords_told(lines) == {b"Open", b"Mine"}
    owner.append(message(4), "Box (Later)")
    lines = reader.ok("NOOP") + reader.ok("FETCH 1:* (UID FLAGS)")
    assert keywords_told(lines) == {b"Open", b"Mine", b"Later"}
    assert keywords_told(owner.ok("SELECT Box")) == {b"Open", b"Divorce", b"Mine", b"Lawyer", b"Later"}


def test_keywords_set_in_silence_are_told(owner: Imap, reader: Imap) -> None:
    owner.ok(f"SETACL Box {READER} lrsw")
    reader.ok(f"SELECT {BOX}")
    assert keywords_told(reader.ok("STORE 1 +FLAGS.SILENT (Mine)")) >= {b"Mine"}


def test_a_rendering_of_the_owners_tells_the_reader_its_keywords(owner: Imap, reader: Imap) -> None:
    owner.ok('SETMETADATA Box (/shared/vendor/pochta/seen "common")')
    owner.ok(f"SETACL Box {READER} lr")
    owner.ok("SELECT Box")
    owner.ok("FETCH 1:* FLAGS")
    owner.ok("FETCH 1:* FLAGS")
    reader.ok(f"EXAMINE {BOX}")
    assert keywords_told(reader.ok("FETCH 1:* FLAGS")) == {b"Open"}


def test_annotations_of_a_reader_leave_room_for_the_owners(
    owner: Imap, reader: Imap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotations, "ACCOUNT_MAX_BYTES", 5000)
    owner.ok(f"SETACL Box {READER} lr")
    owner.ok(f"SETACL Box {OTHER} lr")
    value = '"' + "x" * 1000 + '"'
    answers = [reader.do(f"SETMETADATA {BOX} (/private/vendor/test/a{n} {value})")[-1] for n in range(10)]
    assert [one[:2] for one in answers].count(b"OK") == 5
    assert b"METADATA TOOMANY" in answers[-1]
    owner.ok(f"SETMETADATA Box (/private/comment {value})")
    owner.ok(f"SETMETADATA Private (/shared/comment {value})")


@pytest.mark.parametrize(
    "command", ["CREATE {}", "RENAME Mine {}", "RENAME INBOX {}", "DELETE {}", "RENAME {} Mine2", "SELECT {}"]
)
@pytest.mark.parametrize("below", ["", "/", "/x", "//x", "/x/", "/Box", "/Private"])
def test_no_answer_tells_whether_an_account_is_there(reader: Imap, command: str, below: str) -> None:
    reader.do("CREATE Mine")
    answers = {
        reader.do(command.format(f'"{top}/{address}{below}"'))[-1]
        for top in ("Other Users", "Shared")
        for address in (OWNER, "nobody@example.org")
    }
    assert len(answers) == 1, answers


@pytest.mark.parametrize("name", ["INBOX", "Private", "Absent"])
@pytest.mark.parametrize(
    "command",
    [
        *("SELECT {}", "EXAMINE {}", "STATUS {} (MESSAGES)", "DELETE {}", "RENAME {} Elsewhere", "GETACL {}"),
        *("MYRIGHTS {}", "SETACL {} " + READER + " lr", "DELETEACL {} " + READER, "LISTRIGHTS {} " + READER),
        *("GETQUOTAROOT {}", "GETMETADATA {} /private/comment", 'SETMETADATA {} (/private/comment "x")'),
        *("COPY 1 {}", "MOVE 1 {}", "APPEND {} {{1+}}\r\nx", "ESEARCH IN (mailboxes {}) ALL"),
        'APPEND INBOX CATENATE (URL "/Other%20Users/' + OWNER + '/{plain}/;UID=1")',
    ],
)
def test_a_mailbox_one_may_not_look_up_is_not_there(reader: Imap, owner: Imap, command: str, name: str) -> None:
    reader.append(message(1))
    answers = []
    for one in (name, "Absent2"):
        reader.ok("SELECT INBOX")
        lines = reader.do(command.format(f'"Other Users/{OWNER}/{one}"', plain=one))
        assert not lines[-1].startswith(b"BAD"), lines
        answers.append([line.replace(one.encode(), b"NAME") for line in lines])
    assert answers[0] == answers[1]


def test_an_identifier_of_a_message_of_another_account_finds_nothing(owner: Imap, reader: Imap) -> None:
    owner.ok("SELECT Private")
    [line] = owner.ok("FETCH 1 (EMAILID THREADID)")
    email_id, thread_id = re.findall(rb"\(([MT][0-9-]+)\)", line)
    owner.ok(f"SETACL Box {READER} lr")
    reader.append(message(1))
    for where in ("INBOX", BOX):
        reader.ok(f"SELECT {where}")
        for key in (b"EMAILID " + email_id, b"THREADID " + thread_id, b"NOT NOT EMAILID " + email_id):
            assert reader.ok(b"SEARCH " + key) == [b"* SEARCH"]


def test_the_next_user_of_a_connection_finds_nothing_of_the_last(owner: Imap, server: Server) -> None:
    with Imap(server, user=OWNER, mailbox="Private") as client:
        client.ok("ENABLE QRESYNC IMAP4rev2 UIDONLY")
        client.ok("UID SEARCH RETURN (SAVE ALL UPDATE) ALL")
        client.ok("NOTIFY SET (selected (MessageNew MessageExpunge)) (personal (MessageNew MessageExpunge))")
        client.ok("UNAUTHENTICATE")
        for command in ("FETCH 1 BODY[]", "SEARCH $", 'LIST "" "*"', "UID FETCH 1 FLAGS", "IDLE", "NOOP"):
            assert b"test 2" not in b"".join(client.do(command))
        client.ok(f"LOGIN {READER} secret")
        assert client.do("UID FETCH $ FLAGS")[-1].startswith(b"BAD")
        assert client.do("UID SEARCH $")[-1].startswith(b"BAD")
        owner.append(message(5), "Private")
        assert client.ok("NOOP") == []
        client.ok("SELECT INBOX")
        assert client.ok("SEARCH $") == [b"* SEARCH"]
        assert client.do('CANCELUPDATE "t4"')[-1].startswith(b"BAD")
        assert client.do('APPEND INBOX CATENATE (URL "/Private/;UID=1")')[-1].startswith(b"NO")
        assert client.do('APPEND INBOX CATENATE (URL "Private/;UID=1")')[-1].startswith(b"NO")


def test_subscriptions_are_bounded_in_characters(reader: Imap, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/".join(["x" * 200] * 30)
    before = sum(len(line.split(b' "/" ')[1]) for line in reader.ok('LSUB "" "*"'))
    monkeypatch.setattr(mailboxes, "SUBSCRIPTIONS_MAX_CHARS", before + 3 * len(path))
    answers = [reader.do(f'SUBSCRIBE "{n}{path[1:]}"')[-1] for n in range(5)]
    assert [one[:2] for one in answers] == [b"OK", b"OK", b"OK", b"NO", b"NO"]
    assert b"[LIMIT]" in answers[-1]


@pytest.mark.rfc(5258, "3.5")
def test_recursivematch_of_neighbours_in_the_alphabet(reader: Imap) -> None:
    for name in ("a", "a-b/x", "a/x", "a/y/z", "a0/x", "b/x"):
        reader.ok(f'SUBSCRIBE "{name}"')
    for name in ("a", "a/y/z", "a-b/x"):
        reader.do(f'CREATE "{name}"')
    lines = reader.ok('LIST (SUBSCRIBED RECURSIVEMATCH) "" (a% b%)')
    shown = {re.sub(rb'.* "/" ', b"", line) for line in lines}
    child = b' ("CHILDINFO" ("SUBSCRIBED"))'
    assert shown >= {b'"a"' + child if b'"a"' + child in shown else b"a" + child}
    names = {one.split(b" ")[0].strip(b'"') for one in shown}
    assert names == {b"a", b"a-b", b"a0", b"b"}
    everything = reader.ok('LIST (SUBSCRIBED RECURSIVEMATCH) "" *')
    assert {re.sub(rb'.* "/" ', b"", line).split(b" ")[0].strip(b'"') for line in everything} >= {b"a", b"a/y/z"}
    assert not any(b'"/" b ' in line or b'"/" "b"' in line for line in everything)


@pytest.mark.rfc(4314, "4")
@pytest.mark.parametrize("is_removed", [False, True], ids=["right lost", "mailbox removed"])
def test_append_tells_nothing_of_a_mailbox_that_can_no_longer_be_read(
    owner: Imap, reader: Imap, is_removed: bool
) -> None:
    owner.ok(f"SETACL Box {READER} lr")
    reader.ok(f"SELECT {BOX}")
    reader.ok("FETCH 1 FLAGS")
    owner.ok("DELETE Box" if is_removed else f"DELETEACL Box {READER}")
    if not is_removed:
        owner.append(message(3), "Box (Later)")
    closed, answer = reader.append(message(4))
    assert closed.startswith(b"* OK [CLOSED] ")
    assert answer.startswith(b"OK [APPENDUID ")
    assert reader.do("FETCH 1 FLAGS") == [b"BAD Select a mailbox first"]


def test_what_the_owner_has_read_is_not_told_of_a_removed_message(owner: Imap, reader: Imap) -> None:
    owner.ok(f"SETACL Box {READER} lrs")
    owner.ok("SELECT Box")
    owner.ok("STORE 1 +FLAGS.SILENT (\\Seen \\Deleted)")
    reader.ok(f"SELECT {BOX}")
    owner.ok("EXPUNGE")
    lines = reader.ok("FETCH 1 FLAGS")
    assert lines[-1].startswith(b"* 1 FETCH (FLAGS (\\Deleted ")
    assert b"\\Seen" not in lines[-1]


def test_text_of_a_removed_message_comes_with_the_flags_that_the_reader_knows(owner: Imap, reader: Imap) -> None:
    owner.ok(f"SETACL Box {READER} lrs")
    owner.append(message(3), "Box")
    owner.ok("SELECT Box")
    reader.ok(f"SELECT {BOX}")
    reader.ok("FETCH 1:2 (FLAGS MODSEQ)")
    owner.ok("STORE 1 +FLAGS.SILENT (\\Seen \\Deleted)")
    owner.ok("EXPUNGE")
    first, second, *_ = reader.ok("FETCH 1:2 BODY[TEXT]")
    assert b"FLAGS (Open" in first
    assert b"\\Seen" not in first
    assert b"\\Seen" in second


@pytest.mark.rfc(5464, "3.2")
def test_private_annotations_of_a_reader_leave_no_trace_for_others(owner: Imap, reader: Imap) -> None:
    owner.ok(f"SETACL Box {READER} lrs")
    owner.ok("NOTIFY SET (selected (MessageNew MessageExpunge FlagChange)) (personal (MailboxMetadataChange))")
    before = owner.ok("STATUS Box (HIGHESTMODSEQ)")
    reader.ok(f'SETMETADATA {BOX} (/private/comment "hers")')
    assert owner.ok("STATUS Box (HIGHESTMODSEQ)") == before
    assert reader.ok(f"GETMETADATA {BOX} /private/comment")[0].endswith(b'(/private/comment "hers")')
    assert owner.ok("GETMETADATA Box /private/comment")[0].endswith(b"(/private/comment NIL)")
    owner.ok(f"SETACL Box {READER} lrsw")
    reader.ok(f'SETMETADATA {BOX} (/shared/comment "everybody\'s")')
    assert owner.line().startswith(b"* METADATA Box /shared/comment")


def test_a_reader_leaves_the_owner_some_keywords(
    owner: Imap, reader: Imap, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.ok(f"SETACL Box {READER} lrswi")
    owner.ok("SELECT Box")
    reader.ok(f"SELECT {BOX}")
    taken = 2  # Open, Divorce
    room = flags.KEYWORD_BITS - flags.KEPT_FOR_OWNER - taken
    reader.ok(f"STORE 1 +FLAGS.SILENT ({' '.join(f'k{n}' for n in range(room))})")
    assert reader.do("STORE 1 +FLAGS (one-more)")[-1].startswith(b"NO [LIMIT]")
    assert reader.append(message(5), f"{BOX} (one-more)")[-1].startswith(b"NO [LIMIT]")
    reader.ok("STORE 1 +FLAGS (k1)")
    reader.append(message(6), "INBOX (one-more)")
    reader.ok("SELECT INBOX")
    assert reader.do(f"COPY 1 {BOX}")[-1].startswith(b"NO [LIMIT]")
    owner.ok(f"STORE 1 +FLAGS.SILENT ({' '.join(f'o{n}' for n in range(flags.KEPT_FOR_OWNER))})")
    assert owner.do("STORE 1 +FLAGS (one-more)")[-1].startswith(b"NO [LIMIT]")


@pytest.mark.rfc(3501, "6.3.2")
def test_who_may_change_nothing_takes_no_recent_from_others(owner: Imap, reader: Imap) -> None:
    owner.ok(f"SETACL Box {READER} lrs")
    for _ in range(2):
        assert b"* 1 RECENT" in reader.ok(f"SELECT {BOX}")
    owner.ok(f"SETACL Box {READER} lrsw")
    assert b"* 1 RECENT" in reader.ok(f"SELECT {BOX}")
    assert b"* 0 RECENT" in owner.ok("SELECT Box")
