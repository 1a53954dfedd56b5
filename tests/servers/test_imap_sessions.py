"""Several sessions on one mailbox: what each is told, and when. INV-8."""

import re
import smtplib
from collections.abc import Callable

import pytest
from imap_raw import Imap, fill, message, without_flag_lists

from pochta.accounts import edit
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap import messages, selected, telling, views
from pochta.servers.imap.fetch import rows
from pochta.store import changes, flags, mailboxes, placements
from pochta.store.store import Store
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
        assert imap.ok("STORE 1 +FLAGS.SILENT ($Fresh)") == [
            b"* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Fresh)",
            b"* OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Fresh \\*)] Flags that are kept",
        ]
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
            system = [name for name in flags.split() if name.startswith(b"\\")]
            shown = b" ".join([*system, b"\\Recent", *flags.split()[len(system) :]])
            assert without_flag_lists(one.ok(f"STORE 2 {change}")) == [b"* 2 FETCH (FLAGS (%b))" % shown]
            assert without_flag_lists(two.ok("NOOP")) == [b"* 2 FETCH (FLAGS (%b))" % flags]
        assert b"PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Work \\*)" in b"".join(
            two.ok("SELECT INBOX")
        )


@pytest.mark.rfc(3501, "7.1")
def test_a_new_keyword_is_told_once_before_it_is_seen(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as one, Imap(pochta) as two, Imap(pochta, mailbox=None) as three:
        three.ok("EXAMINE INBOX")
        lists = [
            b"* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft Blue)",
            b"* OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft Blue \\*)] Flags that are kept",
        ]
        assert one.ok("STORE 1 +FLAGS (Blue)") == [*lists, b"* 1 FETCH (FLAGS (\\Recent Blue))"]
        assert one.ok("STORE 1 +FLAGS.SILENT (bLUE)") == []
        assert two.ok("NOOP") == [*lists, b"* 1 FETCH (FLAGS (Blue))"]
        lists[1] = b"* OK [PERMANENTFLAGS ()] Flags that are kept"
        assert three.ok("FETCH 1 (FLAGS RFC822.SIZE)")[:2] == lists
        for imap in (one, two, three):
            assert imap.ok("FETCH 2 UID") == [b"* 2 FETCH (UID 2)"]


@pytest.mark.rfc(3501, "7.1")
def test_a_full_list_of_keywords_has_no_star(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap:
        imap.ok(f"STORE 1 FLAGS.SILENT ({' '.join(f'k{n}' for n in range(flags.KEYWORD_BITS))})")
        [permanent] = [line for line in imap.ok("SELECT INBOX") if b"PERMANENTFLAGS" in line]
        assert b"k57)]" in permanent


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


def test_recent_of_a_long_idle_is_one_range(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as one, Imap(pochta) as two:
        tag = two.idle()
        for exists in (3, 4, 5):
            deliver(pochta)
            assert two.line() == b"* %d EXISTS" % exists
            assert two.line() == b"* %d RECENT" % (exists - 2)
        assert one.ok("NOOP") == [b"* 5 EXISTS", b"* 2 RECENT"]
        one.ok("STORE 4 +FLAGS.SILENT (\\Deleted)")
        assert two.line() == b"* 4 FETCH (FLAGS (\\Deleted \\Recent))"
        one.ok("EXPUNGE")
        assert two.line() == b"* 4 EXPUNGE"
        assert two.done(tag) == []
        assert two.ok("SEARCH RECENT") == [b"* SEARCH 3 4"]
        ranges = [one.selected.recent_ranges for one in pochta.app.imap_connections if one.selected]
        assert sorted(map(list, ranges)) == [[(1, 2)], [(3, 5)]]


def test_a_claim_reaches_over_messages_removed_unseen(pochta: Server) -> None:
    with Imap(pochta) as one:
        fill(pochta, 1)
        assert one.ok("NOOP") == [b"* 1 EXISTS", b"* 1 RECENT"]
        with Imap(pochta, mailbox=None) as two:
            fill(pochta, 2)
            two.ok("EXAMINE INBOX")
            two.ok("UNSELECT")
            pochta.run(_remove_second)
        assert one.ok("NOOP") == [b"* 2 EXISTS", b"* 2 RECENT"]
        assert one.ok("UID SEARCH RECENT") == [b"* SEARCH 1 3"]


async def _remove_second(store: Store) -> None:
    mailbox = await store.read(1, mailboxes.find, 1, "INBOX")
    await store.write(1, placements.expunge, 1, mailbox.id, ((2, 2),), 1_750_000_000, False)


@pytest.mark.parametrize("limits", [{}, {"CHANGES_MAX_CHARS": 4}], ids=["step by step", "read anew"])
def test_scattered_changes(pochta: Server, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]) -> None:
    for name, value in {"INLINE_MAX_UIDS": 1, "SLICE_ROWS": 5, "RANGES_A_STEP": 2, **limits}.items():
        monkeypatch.setattr(views, name, value)
    monkeypatch.setattr(selected, "RANGES_A_STEP", 2)
    monkeypatch.setattr(messages, "RANGES_A_STEP", 2)
    fill(pochta, 12)
    with Imap(pochta) as one, Imap(pochta) as two:
        assert two.ok("UID SEARCH ALL") == [b"* SEARCH 1 2 3 4 5 6 7 8 9 10 11 12"]
        one.ok("STORE 2,4,6:7,9,11 +FLAGS.SILENT (\\Deleted)")
        expected = [b"* %d FETCH (FLAGS (\\Deleted))" % seq for seq in (2, 4, 6, 7, 9, 11)]
        assert two.ok("NOOP") == expected
        one.ok("STORE 1:12 +FLAGS.SILENT (\\Seen)")
        assert len(two.ok("NOOP")) == 12
        fill(pochta, 1)
        one.ok("EXPUNGE")
        told = two.ok("NOOP")
        assert told[:6] == [b"* %d EXPUNGE" % seq for seq in (11, 9, 7, 6, 4, 2)]
        assert told[6] == b"* 7 EXISTS"
        one.ok("UID MOVE 1,3,5,13 Trash")
        assert two.ok("NOOP") == [b"* %d EXPUNGE" % seq for seq in (7, 3, 2, 1)]
        assert two.ok("UID SEARCH ALL") == [b"* SEARCH 8 10 12"]


def test_idle_hears_of_a_change_whose_hint_was_lost(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(pochta, 1)
    monkeypatch.setattr("pochta.store.store.POLL_S", 0.05)
    with Imap(pochta) as one, Imap(pochta) as two:
        two.idle()
        pochta.app.store.lane._on_hints = lambda hints: None
        for seen in (b"+", b"-", b"+"):
            one.ok(b"STORE 1 " + seen + b"FLAGS (\\Seen)")
            assert two.line() == b"* 1 FETCH (FLAGS (%b))" % (b"\\Seen" if seen == b"+" else b"")


def test_select_names_keywords_that_another_worker_made(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta) as one:
        pochta.run(_add_keyword)
        assert any(b"$Elsewhere" in line for line in one.ok("SELECT INBOX"))


async def _add_keyword(store: Store) -> None:
    await store.write(1, flags.keyword_bits, 1, ("$Elsewhere",))


def test_long_answers_are_not_kept(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "RENDERING_MAX_BYTES", 100)
    monkeypatch.setattr(selected, "NAMES_MAX_BYTES", 350)
    fill(pochta, 4)
    with Imap(pochta) as one, Imap(pochta) as two:
        for seq in range(1, 5):
            one.ok(f"STORE {seq} +FLAGS.SILENT (keyword{seq})")
        expected = [b"* %d FETCH (FLAGS (keyword%d))" % (seq, seq) for seq in range(1, 5)]
        for _ in range(2):
            assert without_flag_lists(two.ok("FETCH 1:* FLAGS")) == expected
        chunks = [chunk for view in pochta.app.views._views.values() if view.snapshot for chunk in view.snapshot.chunks]
        assert [chunk.rendered for chunk in chunks] == [{}]


@pytest.mark.parametrize(
    ("change", "args"),
    [
        pytest.param(edit.set_credential, ("",), id="another password"),
        pytest.param(edit.remove_account, (1_750_000_000,), id="removed"),
    ],
)
@pytest.mark.parametrize("command", ["NOOP", "SELECT INBOX", "FETCH 1 FLAGS", "APPEND INBOX {3}", "IDLE"])
def test_a_session_ends_with_its_credential(
    pochta: Server, command: str, change: Callable[..., None], args: tuple[object, ...]
) -> None:
    pochta.add_account("ben@example.org", "secret")
    fill(pochta, 1, user="ben@example.org")

    async def write(store: Store) -> None:
        await store.write(0, change, "ben@example.org", *args)

    with Imap(pochta, user="ben@example.org") as one, Imap(pochta) as other:
        if command == "IDLE":
            one.idle()
            pochta.run(write)
        else:
            pochta.run(write)
            one.begin(command)
        assert one.line().startswith(b"* BYE")
        assert one.line() == b""
        assert other.ok("NOOP") == []


def test_large_snapshots_are_compared_in_a_thread(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selected, "COMPARED_INLINE_MAX", 2)
    fill(pochta, 4)
    with Imap(pochta) as one, Imap(pochta) as two:
        two.ok("FETCH 1:* FLAGS")
        one.ok("STORE 2 +FLAGS.SILENT (\\Deleted)")
        one.ok("EXPUNGE")
        assert two.ok("NOOP") == [b"* 2 EXPUNGE"]


def test_fetch_of_rows_that_hold_much(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ROWS_MAX_BYTES", 1)
    fill(pochta, 50)
    with Imap(pochta) as one, Imap(pochta) as two:
        two.ok("NOOP")
        large = b"To: " + b", ".join(b"a%d@example.net" % n for n in range(1000)) + b"\r\n" + message(51)
        assert one.append(large)[-1].startswith(b"OK")
        assert two.ok("NOOP") == [b"* 51 EXISTS", b"* 0 RECENT"]
        one.ok("UID STORE 3,5:30,44 +FLAGS.SILENT (\\Deleted)")
        one.ok("EXPUNGE")
        for items in ("(UID ENVELOPE)", "(UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])"):
            lines = two.ok(f"FETCH 1:51 {items}")
            assert len(lines) == 51
            for n, line in enumerate(lines, 1):
                assert line.startswith(b"* %d FETCH (UID %d " % (n, n))
                assert b"test %d" % n in line


def test_sessions_that_selected_at_the_same_time_share_what_they_saw(
    pochta: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    find = views.Views._at_selection

    async def counted(
        self: views.Views, view: views.View, now: Snapshot, mod_seq: int, uid_next: int
    ) -> views.AtSelection:
        asked.append(mod_seq)
        return await find(self, view, now, mod_seq, uid_next)

    monkeypatch.setattr(views.Views, "_at_selection", counted)
    fill(pochta, 3)
    with Imap(pochta) as one, Imap(pochta) as two, Imap(pochta) as three:
        one.ok("STORE 2 +FLAGS.SILENT (\\Deleted)")
        one.ok("EXPUNGE")
        with Imap(pochta) as late:  # has seen the removal
            one.ok("STORE 1 +FLAGS.SILENT (\\Flagged)")
            told = [b"* 2 EXPUNGE", b"* 1 FETCH (FLAGS (\\Flagged))"]
            assert two.ok("NOOP") == three.ok("NOOP") == told
            assert late.ok("NOOP") == told[1:]
            assert two.ok("NOOP") == three.ok("NOOP") == late.ok("NOOP") == []
    assert len(asked) == len(set(asked)) == 2


@pytest.mark.rfc(3501, "6.3.5")
def test_rename_of_inbox_moves_its_messages(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOVED_PER_STEP", 2)
    fill(pochta, 5)
    with Imap(pochta) as one, Imap(pochta) as two:
        one.ok("CREATE INBOX/below")
        one.ok("STORE 2 +FLAGS.SILENT (\\Flagged)")
        lines = one.ok("RENAME inbox old/mail/")
        assert sum(line.endswith(b"EXPUNGE") for line in lines) == 5
        assert sum(line.endswith(b"EXPUNGE") for line in two.ok("NOOP")) == 5
        assert one.ok('LIST "" INBOX*') == [
            b'* LIST (\\HasChildren) "/" INBOX',
            b'* LIST (\\HasNoChildren) "/" INBOX/below',
        ]
        assert two.do("RENAME INBOX old/mail") == [b"NO [ALREADYEXISTS] A mailbox of that name exists"]
        assert b"* 5 EXISTS" in one.ok("SELECT old/mail")
        assert one.ok("SEARCH FLAGGED") == [b"* SEARCH 2"]
        assert one.literal("FETCH 5 BODY.PEEK[]") == message(5)


@pytest.mark.rfc(7888, "4")
@pytest.mark.parametrize("is_signed_in", [False, True])
def test_an_unasked_literal_that_is_too_large_ends_the_connection(pochta: Server, is_signed_in: bool) -> None:
    with Imap(pochta, login=is_signed_in) as imap:
        imap.send(b"a LOGIN {%d+}\r\n" % (65_537 if is_signed_in else 4097))
        assert imap.line() == b"* BYE [TOOBIG] literal is too large"
        assert imap.line() == b""


@pytest.mark.rfc(3501, "4.3.1")
def test_nul_in_an_appended_message_is_refused(pochta: Server) -> None:
    with Imap(pochta) as imap:
        answer = imap.append(b"Subject: x\r\n\r\na\0b")[-1]
        assert answer == b"NO [CANNOT] A literal holds no NUL; a literal8 may"
        assert imap.do("APPEND INBOX {0}") == [b"NO [CANNOT] A message cannot be empty"]
        assert imap.ok("STATUS INBOX (MESSAGES)") == [b"* STATUS INBOX (MESSAGES 0)"]


@pytest.mark.rfc(3501, "4.3.1")
@pytest.mark.parametrize(
    "item",
    [
        "BODY.PEEK[]",
        "RFC822",
        "RFC822.HEADER",
        "RFC822.TEXT",
        "BODY.PEEK[HEADER]",
        "BODY.PEEK[TEXT]",
        "BODY.PEEK[1]",
        "BODY.PEEK[1.MIME]",
        "BODY.PEEK[HEADER.FIELDS (SUBJECT X-ODD)]",
        "BODY.PEEK[HEADER.FIELDS (SUBJECT)]",
        "BODY.PEEK[HEADER.FIELDS.NOT (TO)]",
        "ENVELOPE",
    ],
)
def test_a_stored_nul_is_sent_as_0x80(pochta: Server, item: str) -> None:
    data = b"Subject: a\0b\r\nX-Odd: \0\r\n\r\nc\0d\r\n"
    with smtplib.SMTP(pochta.host, pochta.smtp_port) as smtp:
        smtp.sendmail("b@example.net", ["anna@example.org"], data)
    with Imap(pochta) as imap:
        shown = imap.fetch(f"FETCH 1 ({item})")
        assert b"\0" not in shown
        assert b"\x80" in shown
        assert imap.ok("FETCH 1 RFC822.SIZE")[0] == b"* 1 FETCH (RFC822.SIZE %d)" % len(
            imap.literal("FETCH 1 BODY.PEEK[]")
        )
