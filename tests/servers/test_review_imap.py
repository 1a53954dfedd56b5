"""IMAP where sessions meet: what is told with a UID or beside a mod-sequence, and what it costs in large mailboxes."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from imap_raw import Imap, fill, message

from pochta.errors import TryLater
from pochta.mime.describe import body, body_structure
from pochta.mime.parse import parse
from pochta.mime.section import find_section
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap import selected, views
from pochta.servers.imap.fetch import fetch
from pochta.store import changes, flags, placements
from pochta.store.placements import FlagMode
from pochta.testing import Server

HIGHEST = re.compile(rb"\* OK \[HIGHESTMODSEQ (\d+)\]")


def told_highest(lines: list[bytes]) -> int:
    [found] = [int(match[1]) for line in lines if (match := HIGHEST.match(line))]
    return found


@pytest.mark.rfc(3501, "6.4.8")
@pytest.mark.parametrize(
    ("command", "has_uid"),
    [("UID MOVE 2 Archive", True), ("UID EXPUNGE 2", True), ("MOVE 2 Archive", False), ("EXPUNGE", False)],
)
def test_a_uid_command_tells_changes_of_others_with_uid(pochta: Server, command: str, has_uid: bool) -> None:
    fill(pochta, 3)
    with Imap(pochta) as imap, Imap(pochta) as other:
        imap.ok("STORE 2 +FLAGS.SILENT (\\Deleted)")
        other.ok("STORE 3 +FLAGS (\\Flagged)")
        uid = b"UID 3 " if has_uid else b""
        assert b"* 2 FETCH (%bFLAGS (\\Flagged \\Recent))" % uid in imap.ok(command)


@pytest.mark.rfc(7162, "3.1.3")
def test_a_silent_store_tells_flags_that_changed_before_the_first_command(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta, mailbox=None) as imap, Imap(pochta) as other:
        imap.ok("SELECT INBOX (CONDSTORE)")
        other.ok("STORE 1 +FLAGS (\\Seen)")
        lines = imap.ok("STORE 1:2 +FLAGS.SILENT (\\Flagged)")
        assert re.fullmatch(rb"\* 1 FETCH \(UID 1 FLAGS \(\\Flagged \\Seen\) MODSEQ \(\d+\)\)", lines[0])
        assert re.fullmatch(rb"\* 2 FETCH \(UID 2 MODSEQ \(\d+\)\)", lines[1])
        assert imap.ok("NOOP") == []


@pytest.mark.rfc(7162, "3.1.2")
def test_no_mod_seq_is_told_ahead_of_its_flags(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(pochta, 3)
    respond = fetch._respond

    async def respond_late(connection: Any, chosen: Any, *args: Any) -> bytes:  # Any: handed on
        one = (chosen.account_id, chosen.mailbox_id, ((1, 1),))
        three = (chosen.account_id, chosen.mailbox_id, ((3, 3),))
        write = connection.context.store.write
        await write(chosen.account_id, placements.set_flags, *one, FlagMode.ADD, flags.SEEN, (), 1)
        await write(chosen.account_id, placements.expunge, *three, 1, False)
        return await respond(connection, chosen, *args)

    with Imap(pochta, mailbox=None) as imap:
        known = told_highest(imap.ok("SELECT INBOX (CONDSTORE)"))
        monkeypatch.setattr(fetch, "_respond", respond_late)
        lines = imap.ok("FETCH 1 MODSEQ")
        monkeypatch.undo()
        # the removal holds the flags back, and so the number that belongs to them
        assert lines[0] == b"* 1 FETCH (MODSEQ (%d))" % known
        assert told_highest(lines) == known
        assert imap.do(f"STORE 1 (UNCHANGEDSINCE {known}) FLAGS ()")[-1].startswith(b"OK [MODIFIED 1]")


@pytest.mark.rfc(7162, "3.1.3")
def test_modified_names_the_numbers_of_the_command_over_several_steps(
    pochta: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "UIDS_PER_STEP", 2)
    monkeypatch.setattr(selected, "COMPARED_INLINE_MAX", 1)
    fill(pochta, 7)
    with Imap(pochta) as other, Imap(pochta, mailbox=None) as imap:
        other.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        known = told_highest(imap.ok("SELECT INBOX (CONDSTORE)"))
        other.ok("STORE 2,3,6 +FLAGS (\\Seen)")
        other.ok("STORE 5 +FLAGS (\\Deleted)")
        other.ok("EXPUNGE")
        answer = imap.do(f"STORE 1,3:6,2,1 (UNCHANGEDSINCE {known}) +FLAGS (\\Flagged)")
        assert answer[-1] == b"NO [MODIFIED 2:3,6] Some of the messages no longer exist"
        assert other.ok("UID FETCH 1:* FLAGS") == [
            b"* 1 FETCH (UID 2 FLAGS (\\Flagged \\Recent))",
            b"* 2 FETCH (UID 3 FLAGS (\\Seen \\Recent))",
            b"* 3 FETCH (UID 4 FLAGS (\\Seen \\Recent))",
            b"* 4 FETCH (UID 5 FLAGS (\\Flagged \\Recent))",
            b"* 5 FETCH (UID 7 FLAGS (\\Seen \\Recent))",
        ]


def test_mail_can_be_read_while_the_disk_is_full(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(pochta, 1)

    async def refuse(*_: object) -> None:
        raise TryLater("the disk is full", 1)

    with Imap(pochta) as imap:
        monkeypatch.setattr(fetch, "set_flags", refuse)
        assert message(1) in imap.fetch("FETCH 1 BODY[]")
        monkeypatch.undo()
        assert imap.ok("SEARCH UNSEEN") == [b"* SEARCH 1"]
        assert imap.fetch("FETCH 1 BODY[]").startswith(b"FLAGS (\\Seen \\Recent) BODY[]")


def double(imap: Imap, times: int) -> None:
    for _ in range(times):
        imap.ok("COPY 1:* INBOX")


@pytest.mark.parametrize("comes", [True, False], ids=["with new mail", "flags alone"])
@pytest.mark.parametrize("inline_max", [selected.COMPARED_INLINE_MAX, 0], ids=["inline", "thread"])
def test_fetch_of_all_flags_costs_what_has_changed(
    pochta: Server, monkeypatch: pytest.MonkeyPatch, comes: bool, inline_max: int
) -> None:
    fill(pochta, 5)
    monkeypatch.setattr(selected, "COMPARED_INLINE_MAX", inline_max)
    refreshed = Snapshot.refreshed
    calls: list[int] = []

    def counted(self: Snapshot, ranges: Sequence[tuple[int, int]], rows: Sequence[Any], mod_seq: int) -> Snapshot:
        calls.append(len(rows))
        return refreshed(self, ranges, rows, mod_seq)

    with Imap(pochta) as other:
        double(other, 10)
        with Imap(pochta) as imap:
            assert len(imap.ok("FETCH 1:* FLAGS")) == 5120
            other.ok("STORE 7,4000 +FLAGS (\\Flagged)")
            if comes:
                other.append(message(9))
            monkeypatch.setattr(Snapshot, "refreshed", counted)
            lines = imap.ok("FETCH 1:* FLAGS")
            # one for the worker's view and one for the session's; a step for every 1000 messages was 4 s of a million
            assert sum(calls) <= 5
            assert len(calls) <= 3
            assert [line for line in lines if b"Flagged" in line] == [
                b"* 7 FETCH (FLAGS (\\Flagged))",
                b"* 4000 FETCH (FLAGS (\\Flagged))",
            ]
            assert len(lines) == 5120 + (2 if comes else 0)
            assert imap.ok("NOOP") == []
            other.ok("STORE 8 +FLAGS (\\Flagged)")
            # what the command does not name is still owed
            assert imap.ok("FETCH 1 FLAGS") == [b"* 1 FETCH (FLAGS ())", b"* 8 FETCH (FLAGS (\\Flagged))"]


@pytest.mark.parametrize("rows_max", [1000, 0], ids=["from the log", "from a scan"])
@pytest.mark.parametrize("inline_max", [views.RESTORED_INLINE_MAX, 0], ids=["inline", "thread"])
def test_removals_between_select_and_the_first_command(
    pochta: Server, monkeypatch: pytest.MonkeyPatch, rows_max: int, inline_max: int
) -> None:
    monkeypatch.setattr(views, "CHANGES_MAX_ROWS", rows_max)
    monkeypatch.setattr(views, "RESTORED_INLINE_MAX", inline_max)
    fill(pochta, 6)
    with Imap(pochta) as other, Imap(pochta, mailbox=None) as imap:
        other.ok("STORE 6 +FLAGS (\\Deleted)")
        other.ok("EXPUNGE")
        imap.ok("SELECT INBOX")
        other.ok("STORE 2:3,5 +FLAGS (\\Deleted)")
        other.ok("EXPUNGE")
        other.append(message(7))
        assert imap.ok("FETCH 1:* UID") == [b"* %d FETCH (UID %d)" % (n, n) for n in range(1, 6)]
        told = [line for line in imap.ok("NOOP") if b"FETCH" not in line]
        assert told[:4] == [b"* 5 EXPUNGE", b"* 3 EXPUNGE", b"* 2 EXPUNGE", b"* 3 EXISTS"]


@pytest.mark.rfc(3501, "9")
def test_message_global_is_described_as_any_part_and_can_be_opened() -> None:
    inner = b"Subject: \xd0\xb0\r\n\r\ntext\r\n"
    whole = b"Content-Type: message/%b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + inner
    root = parse(whole.replace(b"%b", b"global"))
    size = b"%d" % len(inner)
    basic = b'("message" "global" NIL NIL NIL "8bit" ' + size
    assert body(root) == basic + b")"
    assert body_structure(root) == basic + b" NIL NIL NIL NIL)"
    assert find_section(root, (1,), "TEXT") is not None
    assert b'"text" "plain"' in body(parse(whole.replace(b"%b", b"rfc822")))


@pytest.mark.rfc(7162, "3.1.4.1")
def test_changed_since_in_an_account_with_a_long_log(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "SCANNED_MAX", 3)
    fill(pochta, 3)
    with Imap(pochta, mailbox=None) as imap, Imap(pochta) as other:
        known = told_highest(imap.ok("SELECT INBOX (CONDSTORE)"))
        assert imap.ok("FETCH 1:* UID") == [b"* %d FETCH (UID %d)" % (n, n) for n in range(1, 4)]
        other.ok("STORE 2 +FLAGS (\\Seen)")
        fill(pochta, 5, mailbox="Sent")
        [line] = imap.ok(f"FETCH 1:* FLAGS (CHANGEDSINCE {known})")
        assert re.fullmatch(rb"\* 2 FETCH \(FLAGS \(\\Seen\) MODSEQ \(\d+\)\)", line)
        assert imap.ok(f"SEARCH MODSEQ {known + 1}")[0].startswith(b"* SEARCH 2 (MODSEQ ")
        assert imap.ok("NOOP") == []


def test_names_of_many_sets_of_flags_are_not_all_kept(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selected, "NAMES_MAX_BYTES", 400)
    fill(pochta, 5)
    with Imap(pochta) as imap:
        for number in range(1, 6):
            imap.ok(f"STORE {number} FLAGS.SILENT (Word{number})")
        for _ in range(2):
            assert imap.ok("FETCH 1:* FLAGS") == [b"* %d FETCH (FLAGS (\\Recent Word%d))" % (n, n) for n in range(1, 6)]


def test_a_fetch_of_much_mail_ends_with_the_sign_in(pochta: Server) -> None:
    with Imap(pochta) as imap, Imap(pochta) as other:
        imap.append(message(1, b"x" * 998 + b"\r\n") + (b"y" * 998 + b"\r\n") * 1000)
        imap.ok("COPY 1 INBOX")
        for _ in range(6):
            imap.ok("COPY 1:* INBOX")  # 128 MB: more than the buffers of any kernel between the two
        other.idle()
        tag = imap.begin("FETCH 1:* BODY.PEEK[]")
        assert imap.line().startswith(b"* 1 FETCH (BODY[] {")
        pochta.set_password("anna@example.org", "another")
        while not other.line().startswith(b"* BYE"):
            pass
        lines = imap.end(tag)
        assert len([line for line in lines if b" FETCH (BODY[] {" in line]) < 127
        assert lines[-1] == b"NO [NOPERM] The account has changed"
        assert imap.line().startswith(b"* BYE The account has changed")
