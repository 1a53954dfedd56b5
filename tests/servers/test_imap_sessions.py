"""Several sessions on one mailbox: what each is told, and when. INV-8."""

import re
import smtplib

import pytest
from imap_raw import Imap, fill, message

from pochta.servers.imap import views
from pochta.testing import Server


def deliver(server: Server, *recipients: str) -> None:
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        smtp.sendmail("b@example.net", list(recipients or ("anna@example.org",)), message(9))


@pytest.mark.rfc(3501, "5.2")
def test_noop_tells_new_mail_flags_and_removals(pochta: Server) -> None:
    fill(pochta, 3)
    with Imap(pochta) as one, Imap(pochta) as two:
        deliver(pochta)
        assert two.ok("NOOP") == [b"* 4 EXISTS", b"* 1 RECENT"]
        one.ok("STORE 2 +FLAGS (\\Deleted)")
        assert two.ok("NOOP") == [b"* 2 FETCH (FLAGS (\\Deleted))"]
        one.ok("EXPUNGE")
        deliver(pochta)
        one.ok("STORE 1 +FLAGS (\\Seen)")
        told = two.ok("NOOP")
        assert told[0] == b"* 2 EXPUNGE"
        assert set(told[1:]) == {b"* 4 EXISTS", b"* 1 RECENT", b"* 1 FETCH (FLAGS (\\Seen))"}
        assert two.ok("NOOP") == []


@pytest.mark.rfc(3501, "7.4.2")
@pytest.mark.parametrize("command", ["NOOP", "CHECK", "STATUS INBOX (UIDNEXT)", "SEARCH ALL", "FETCH 1 UID"])
def test_flags_changed_before_the_first_command_are_told(pochta: Server, command: str) -> None:
    fill(pochta, 2)
    with Imap(pochta) as one, Imap(pochta) as two:
        one.ok("STORE 2 +FLAGS (\\Flagged)")
        assert b"* 2 FETCH (FLAGS (\\Flagged))" in two.ok(command)
        assert two.ok("NOOP") == []


def test_flags_changed_before_idle_are_told(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as one, Imap(pochta) as two:
        one.ok("STORE 2 +FLAGS (\\Flagged)")
        two.idle()
        assert two.line() == b"* 2 FETCH (FLAGS (\\Flagged))"


def test_flags_that_were_fetched_are_not_told_again(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as one, Imap(pochta) as two:
        one.ok("STORE 2 +FLAGS (\\Flagged)")
        assert two.ok("FETCH 1:* FLAGS") == [b"* 1 FETCH (FLAGS ())", b"* 2 FETCH (FLAGS (\\Flagged))"]
        assert two.ok("NOOP") == []
        one.ok("STORE 1:2 FLAGS ()")
        assert two.ok("FETCH 1 FLAGS") == [b"* 1 FETCH (FLAGS ())", b"* 2 FETCH (FLAGS ())"]


@pytest.mark.rfc(2177, "3")
def test_idle_tells_at_once(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as one, Imap(pochta) as two:
        tag = two.idle()
        deliver(pochta)
        assert two.line() == b"* 3 EXISTS"
        assert two.line() == b"* 1 RECENT"
        one.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        assert two.line() == b"* 1 FETCH (FLAGS (\\Deleted))"
        one.ok("EXPUNGE")
        assert two.line() == b"* 1 EXPUNGE"
        assert two.done(tag) == []


def test_what_changed_between_commands_is_told_when_idle_starts(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as one, Imap(pochta) as two:
        two.ok("FETCH 1:* FLAGS")
        one.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        one.ok("EXPUNGE")
        two.idle()
        assert two.line() == b"* 1 EXPUNGE"


@pytest.mark.rfc(3501, "7.4.1")
@pytest.mark.parametrize("command", ["FETCH 1:3 UID", "STORE 3 +FLAGS.SILENT (\\Seen)", "SEARCH ALL"])
def test_no_expunge_where_numbers_would_shift(pochta: Server, command: str) -> None:
    fill(pochta, 3)
    with Imap(pochta) as one, Imap(pochta) as two:
        two.ok("FETCH 1:* FLAGS")
        one.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        one.ok("EXPUNGE")
        assert not [line for line in two.do(command) if line.endswith(b"EXPUNGE")]
        assert two.ok("FETCH 3 UID") == [b"* 3 FETCH (UID 3)"]
        assert two.ok("UID FETCH 3 FLAGS")[-1] == b"* 1 EXPUNGE"
        assert two.ok("FETCH 2 UID") == [b"* 2 FETCH (UID 3)"]


@pytest.mark.rfc(2180, "4.1")
def test_a_message_removed_elsewhere_can_still_be_read(pochta: Server) -> None:
    fill(pochta, 3)
    with Imap(pochta) as one, Imap(pochta) as two:
        two.ok("FETCH 1:* FLAGS")
        one.ok("STORE 2 +FLAGS.SILENT (\\Deleted)")
        one.ok("EXPUNGE")
        assert two.literal("FETCH 2 BODY.PEEK[]") == message(2)
        assert b"ENVELOPE (NIL" in two.fetch("FETCH 2 (UID ENVELOPE RFC822.SIZE INTERNALDATE)")
        assert two.ok("SEARCH SUBJECT test") == [b"* SEARCH 1 2 3"]
        copied = two.do("COPY 1:3 Archive")[-1]
        assert re.search(rb"COPYUID \d+ 1,3 1:2\]", copied)
        assert two.ok("NOOP") == [b"* 2 EXPUNGE"]


@pytest.mark.rfc(3501, "6.4.6")
def test_store_of_a_keyword_nobody_had_is_silent_when_asked(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap:
        assert imap.ok("STORE 1 +FLAGS.SILENT ($Fresh)") == []
        assert imap.ok("NOOP") == []
        assert imap.fetch("FETCH 1 FLAGS") == b"FLAGS (\\Recent $Fresh)"


@pytest.mark.rfc(3501, "6.4.6")
def test_store_replaces_adds_removes_and_both_sessions_know(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as one, Imap(pochta) as two:
        steps = [
            ("FLAGS (\\Seen $Work)", b"\\Seen $Work"),
            ("+FLAGS (\\Flagged $WORK)", b"\\Flagged \\Seen $Work"),
            ("-FLAGS (\\Seen $never)", b"\\Flagged $Work"),
            ("FLAGS \\Draft", b"\\Draft"),
            ("FLAGS ()", b""),
        ]
        for change, flags in steps:
            assert one.ok(f"STORE 2 {change}") == [b"* 2 FETCH (FLAGS (%b))" % b" ".join(filter(None, [
                *[name for name in flags.split() if name.startswith(b"\\")],
                b"\\Recent",
                *[name for name in flags.split() if not name.startswith(b"\\")],
            ]))]  # fmt: skip
            assert two.ok("NOOP") == [b"* 2 FETCH (FLAGS (%b))" % flags]
        assert b"PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Work \\*)" in b"".join(
            two.ok("SELECT INBOX")
        )


@pytest.mark.rfc(3501, "2.3.2")
def test_recent_is_claimed_once_and_never_by_examine(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta, mailbox=None) as one, Imap(pochta, mailbox=None) as two:
        assert b"* 2 RECENT" in one.ok("EXAMINE INBOX")
        assert one.ok("SEARCH RECENT") == [b"* SEARCH 1 2"]
        assert b"* 2 RECENT" in two.ok("SELECT INBOX")
        assert b"* 0 RECENT" in one.ok("SELECT INBOX")
        assert one.ok("SEARCH OLD") == [b"* SEARCH 1 2"]
        assert two.ok("SEARCH NEW") == [b"* SEARCH 1 2"]
        deliver(pochta)
        assert two.ok("NOOP") == [b"* 3 EXISTS", b"* 3 RECENT"]
        assert one.ok("NOOP") == [b"* 3 EXISTS", b"* 0 RECENT"]


@pytest.mark.rfc(3501, "2.3.1.1")
def test_uids_are_not_used_again_after_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("store")
    with Server(data_dir=folder) as server:
        server.add_account("anna@example.org", "secret")
        fill(server, 3)
        with Imap(server) as imap:
            imap.ok("STORE 2:3 +FLAGS.SILENT (\\Deleted)")
            imap.ok("EXPUNGE")
            validity = re.search(rb"UIDVALIDITY (\d+)", b"".join(imap.ok("SELECT INBOX")))
    with Server(data_dir=folder) as server:
        fill(server, 1)
        with Imap(server) as imap:
            assert imap.ok("UID FETCH 1:* UID") == [b"* 1 FETCH (UID 1)", b"* 2 FETCH (UID 4)"]
            again = re.search(rb"UIDVALIDITY (\d+)", b"".join(imap.ok("SELECT INBOX")))
            assert validity is not None
            assert again is not None
            assert validity[1] == again[1]


@pytest.mark.rfc(2180, "3.3")
@pytest.mark.parametrize("is_idle", [False, True])
def test_bye_when_the_selected_mailbox_is_removed_elsewhere(pochta: Server, is_idle: bool) -> None:
    with Imap(pochta) as one:
        one.ok("CREATE box")
        with Imap(pochta, mailbox="box") as two:
            if is_idle:
                two.idle()
            one.ok("DELETE box")
            if not is_idle:
                two.begin("NOOP")
            assert two.line().startswith(b"* BYE ")
            assert two.line() == b""


def test_a_session_may_remove_its_own_mailbox(pochta: Server) -> None:
    with Imap(pochta) as one:
        one.ok("CREATE box")
        one.ok("SELECT box")
        one.ok("DELETE box")
        assert one.do("CHECK")[-1].startswith(b"BAD")
        one.ok("CREATE box")
        one.ok("SELECT box")


def test_delete_of_a_name_that_was_the_selected_ones(pochta: Server) -> None:
    with Imap(pochta) as one, Imap(pochta) as two:
        one.ok("CREATE box")
        two.ok("SELECT box")
        one.ok("RENAME box other")
        one.ok("CREATE box")
        two.ok("DELETE box")
        two.ok("CHECK")  # `other` is still selected


def test_rename_keeps_the_selection(pochta: Server) -> None:
    with Imap(pochta) as one:
        one.ok("CREATE box")
        fill(pochta, 2, mailbox="box")
        with Imap(pochta, mailbox="box") as two:
            one.ok("RENAME box shelf/box")
            assert two.ok("FETCH 1:2 UID") == [b"* 1 FETCH (UID 1)", b"* 2 FETCH (UID 2)"]
            fill(pochta, 1, mailbox="shelf/box")
            assert two.ok("NOOP") == [b"* 3 EXISTS", b"* 3 RECENT"]


def test_a_large_mailbox_changes_between_select_and_the_first_command(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta) as one:
        for _ in range(11):
            one.ok("COPY 1:* INBOX")  # 2048 messages: several chunks of the view
        one.ok("NOOP")
        with Imap(pochta) as two:
            one.ok("STORE 500:1500 +FLAGS.SILENT (\\Deleted)")
            one.ok("EXPUNGE")
            one.ok("STORE 1 +FLAGS.SILENT (\\Flagged)")
            one.ok("COPY 1 INBOX")
            assert two.ok("SEARCH UID 2048") == [b"* SEARCH 2048"]
            told = two.ok("NOOP")
            assert told[:1001] == [b"* %d EXPUNGE" % seq for seq in range(1500, 499, -1)]
            assert set(told[1001:]) >= {b"* 1048 EXISTS", b"* 1 FETCH (FLAGS (\\Flagged))"}
            assert two.ok("FETCH 1048 UID") == [b"* 1048 FETCH (UID 2049)"]


def test_views_of_a_worker_are_bounded(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "VIEWS_MAX", 2)
    fill(pochta, 1)
    with Imap(pochta) as one, Imap(pochta, mailbox=None) as two:
        for box in ("Sent", "Trash", "Junk", "Archive"):
            two.ok(f"SELECT {box}")
        assert len(pochta.app.views._views) == 2
        two.ok("SELECT INBOX")
        two.ok("STORE 1 +FLAGS (\\Seen)")
        assert one.ok("NOOP") == [b"* 1 FETCH (FLAGS (\\Seen \\Recent))"]
