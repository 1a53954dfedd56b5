"""CONDSTORE: mod-sequences as a client sees them, and the promise that of two writers one wins. RFC 7162 §3.1."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import pytest
from imap_raw import Imap, fill, message, without_flag_lists

from pochta.servers.imap import condstore
from pochta.store import changes
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing import Server

_HIGHEST = re.compile(rb"\* OK \[HIGHESTMODSEQ (\d+)\]")
LARGEST = (1 << 63) - 1


def highest(lines: list[bytes]) -> int:
    """The only HIGHESTMODSEQ among the lines."""
    [found] = [int(match[1]) for line in lines if (match := _HIGHEST.match(line))]
    return found


def mod_seq(imap: Imap, seq: int) -> int:
    [line] = imap.ok(f"FETCH {seq} MODSEQ")
    match = re.fullmatch(rb"\* %d FETCH \(MODSEQ \((\d+)\)\)" % seq, line)
    assert match is not None, line
    return int(match[1])


@contextmanager
def aware(server: Server, mailbox: str = "INBOX") -> Iterator[Imap]:
    """A session that has said that it knows mod-sequences."""
    with Imap(server, mailbox=None) as imap:
        imap.ok(f"SELECT {mailbox} (CONDSTORE)")
        yield imap


@pytest.mark.rfc(7162, "3.1.2")
@pytest.mark.parametrize("command", ["SELECT INBOX", "EXAMINE INBOX", "SELECT INBOX (CONDSTORE)"])
def test_condstore_select_tells_the_highest(pochta: Server, command: str) -> None:
    fill(pochta, 2)
    with Imap(pochta, mailbox=None) as imap, aware(pochta) as other:
        first = highest(imap.ok(command))
        assert first == mod_seq(other, 2)
        other.ok("STORE 1 +FLAGS (\\Seen)")
        assert highest(imap.ok(command)) == mod_seq(other, 1) > first


@pytest.mark.rfc(7162, "3.2.11")
def test_select_marks_the_border_between_mailboxes(pochta: Server) -> None:
    with Imap(pochta, mailbox=None) as imap:
        assert b"CLOSED" not in b"".join(imap.ok("SELECT INBOX"))
        assert imap.ok("SELECT Archive")[0].startswith(b"* OK [CLOSED] ")
        assert imap.do("SELECT nowhere")[0].startswith(b"* OK [CLOSED] ")
        assert b"CLOSED" not in b"".join(imap.ok("SELECT INBOX"))


@pytest.mark.rfc(7162, "3.1")
@pytest.mark.parametrize(
    "command",
    [
        "ENABLE CONDSTORE",
        "ENABLE X-OTHER condstore",
        "STATUS Archive (HIGHESTMODSEQ)",
        'LIST "" Archive RETURN (STATUS (HIGHESTMODSEQ))',
        "FETCH 1 MODSEQ",
        "FETCH 1 FLAGS (CHANGEDSINCE 1)",
        "SEARCH MODSEQ 1",
        "SEARCH OR SEEN NOT (MODSEQ 1)",
        "STORE 1 (UNCHANGEDSINCE 1) +FLAGS (\\Seen)",
    ],
)
def test_each_enabling_command_tells_the_highest_once(pochta: Server, command: str) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap, Imap(pochta) as other:
        known = highest(imap.ok("SELECT INBOX"))
        assert highest(imap.ok(command)) == known
        assert not [line for line in imap.ok(command) if _HIGHEST.match(line)]
        other.ok("STORE 1 +FLAGS (\\Flagged)")
        [line] = imap.ok("NOOP")
        assert re.fullmatch(rb"\* 1 FETCH \(UID 1 FLAGS \([^)]*\\Flagged[^)]*\) MODSEQ \(\d+\)\)", line)


@pytest.mark.rfc(7162, "3.1")
def test_who_does_not_ask_is_not_told(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta) as imap, aware(pochta) as other:
        other.ok("STORE 1 +FLAGS (\\Flagged)")
        assert imap.ok("NOOP") == [b"* 1 FETCH (FLAGS (\\Flagged \\Recent))"]
        assert imap.ok("UID STORE 2 +FLAGS (\\Seen)") == [b"* 2 FETCH (UID 2 FLAGS (\\Seen \\Recent))"]
        assert imap.do("EXPUNGE") == [b"OK EXPUNGE completed"]
        assert imap.ok("ENABLE X-OTHER") == [b"* ENABLED"]


@pytest.mark.rfc(5161, "3.2")
def test_enable_says_what_it_enabled(pochta: Server) -> None:
    with Imap(pochta, mailbox=None) as imap:
        assert imap.ok("ENABLE CONDSTORE X-OTHER") == [b"* ENABLED CONDSTORE"]
        assert imap.ok("ENABLE CONDSTORE") == [b"* ENABLED CONDSTORE"]


@pytest.mark.rfc(7162, "3.1.7")
def test_status_tells_what_select_tells(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta, mailbox=None) as imap:
        value = highest(imap.ok("SELECT INBOX"))
        imap.ok("UNSELECT")
        assert imap.ok("STATUS INBOX (HIGHESTMODSEQ MESSAGES)") == [
            b"* STATUS INBOX (HIGHESTMODSEQ %d MESSAGES 1)" % value
        ]
        assert imap.ok('LIST "" INBOX RETURN (STATUS (HIGHESTMODSEQ))')[-1] == (
            b"* STATUS INBOX (HIGHESTMODSEQ %d)" % value
        )


@pytest.mark.rfc(7162, "3.1.11")
def test_flags_that_stay_keep_their_mod_seq(pochta: Server) -> None:
    fill(pochta, 1)
    with aware(pochta) as imap:
        imap.ok("STORE 1 +FLAGS (\\Seen)")
        before = mod_seq(imap, 1)
        for change in ("+FLAGS (\\Seen)", "-FLAGS (\\Draft)", "FLAGS (\\Seen)", "+FLAGS.SILENT ()"):
            imap.ok(f"STORE 1 {change}")
        imap.ok("FETCH 1 BODY[]")
        assert mod_seq(imap, 1) == before
        imap.ok("STORE 1 -FLAGS.SILENT (\\Seen)")
        assert mod_seq(imap, 1) > before


@pytest.mark.rfc(7162, "3.1.3")
def test_store_tells_mod_seqs_although_silent(pochta: Server) -> None:
    fill(pochta, 3)
    with aware(pochta) as imap, Imap(pochta) as other:
        [line] = imap.ok("STORE 1 +FLAGS.SILENT (\\Seen)")
        assert re.fullmatch(rb"\* 1 FETCH \(UID 1 MODSEQ \(\d+\)\)", line)
        [line] = imap.ok("UID STORE 1 -FLAGS (\\Seen)")
        assert re.fullmatch(rb"\* 1 FETCH \(UID 1 FLAGS \(\\Recent\) MODSEQ \(\d+\)\)", line)
        other.ok("STORE 2 +FLAGS (\\Flagged)")
        # what the client does not know is told with it
        silent = imap.ok("STORE 1:3 +FLAGS.SILENT (\\Seen)")
        assert re.fullmatch(rb"\* 1 FETCH \(UID 1 MODSEQ \(\d+\)\)", silent[0])
        assert re.fullmatch(rb"\* 2 FETCH \(UID 2 FLAGS \(\\Flagged \\Seen \\Recent\) MODSEQ \(\d+\)\)", silent[1])
        assert re.fullmatch(rb"\* 3 FETCH \(UID 3 MODSEQ \(\d+\)\)", silent[2])
        assert imap.ok("NOOP") == []


@pytest.mark.rfc(7162, "3.1.3")
@pytest.mark.parametrize("is_uid", [False, True], ids=["seq", "uid"])
def test_conditional_store_fails_message_by_message(pochta: Server, is_uid: bool) -> None:
    fill(pochta, 4)
    with Imap(pochta) as other, aware(pochta) as imap:
        other.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        known = highest(imap.ok("SELECT INBOX"))  # now uid = number + 1
        other.ok("STORE 2 +FLAGS (\\Flagged)")
        command, numbers = ("UID STORE 2:4", b"3") if is_uid else ("STORE 3,1:3", b"2")
        *lines, last = imap.do(f"{command} (UNCHANGEDSINCE {known}) +FLAGS.SILENT (\\Seen)")
        assert last == b"OK [MODIFIED %b] Conditional STORE failed" % numbers
        assert re.fullmatch(rb"\* 1 FETCH \(UID 2 MODSEQ \(\d+\)\)", lines[0])
        assert re.fullmatch(rb"\* 2 FETCH \(UID 3 FLAGS \(\\Flagged\) MODSEQ \(\d+\)\)", lines[1])
        assert re.fullmatch(rb"\* 3 FETCH \(UID 4 MODSEQ \(\d+\)\)", lines[2])
        value = mod_seq(imap, 2)
        assert imap.do(f"STORE 2 (UNCHANGEDSINCE {value - 1}) FLAGS (\\Draft)")[-1].startswith(b"OK [MODIFIED 2]")
        assert imap.do(f"STORE 2 (UNCHANGEDSINCE {value}) FLAGS (\\Draft)")[-1] == b"OK STORE completed"
        assert other.ok("FETCH 1:* FLAGS") == [
            b"* 1 FETCH (FLAGS (\\Seen \\Recent))",
            b"* 2 FETCH (FLAGS (\\Draft \\Recent))",
            b"* 3 FETCH (FLAGS (\\Seen \\Recent))",
        ]


@pytest.mark.rfc(7162, "3.1.3")
def test_unchanged_since_0_asks_whether_the_flag_exists(pochta: Server) -> None:
    fill(pochta, 1)
    with aware(pochta) as imap:
        for flags in (
            "+FLAGS.SILENT (\\Seen)",
            "-FLAGS (\\Seen)",
            "FLAGS ($Sent)",
            "FLAGS ()",
            "+FLAGS ($Sent \\Seen)",
        ):
            assert imap.do(f"STORE 1 (UNCHANGEDSINCE 0) {flags}")[-1].startswith(b"OK [MODIFIED 1]")
        # a keyword that the message does not have does not exist there; whoever sets it first has it
        assert imap.do("STORE 1 (UNCHANGEDSINCE 0) +FLAGS ($Sent)")[-1] == b"OK STORE completed"
        assert imap.do("STORE 1 (UNCHANGEDSINCE 0) +FLAGS ($sent)")[-1].startswith(b"OK [MODIFIED 1]")
        assert imap.do(f"STORE 1 (UNCHANGEDSINCE {LARGEST}) -FLAGS ($Sent)")[-1] == b"OK STORE completed"
        assert imap.do("STORE 1 (UNCHANGEDSINCE 0) -FLAGS ($Sent)")[-1] == b"OK STORE completed"


@pytest.mark.rfc(7162, "3.1.3")
def test_conditional_store_says_that_messages_are_gone(pochta: Server) -> None:
    fill(pochta, 3)
    with aware(pochta) as imap, Imap(pochta) as other:
        known = highest(imap.ok("SELECT INBOX"))
        imap.ok("FETCH 1:* FLAGS")
        other.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        *_, last = imap.do(f"STORE 1:2 (UNCHANGEDSINCE {known}) +FLAGS.SILENT (\\Seen)")
        assert last == b"NO [EXPUNGEISSUED] Some of the messages no longer exist"
        *_, last = imap.do(f"STORE 1:3 (UNCHANGEDSINCE {known}) +FLAGS.SILENT (\\Answered)")
        assert last == b"NO [MODIFIED 2] Some of the messages no longer exist"
        assert imap.do(f"UID STORE 9 (UNCHANGEDSINCE {known}) +FLAGS (\\Seen)")[-1] == b"OK STORE completed"
        assert imap.do(f"STORE 9 (UNCHANGEDSINCE {known}) +FLAGS (\\Seen)")[-1].startswith(b"BAD")
        imap.ok("EXAMINE INBOX")
        assert imap.do(f"STORE 1 (UNCHANGEDSINCE {LARGEST}) +FLAGS (\\Seen)")[-1].startswith(b"NO")


@pytest.mark.rfc(7162, "3.1.3")
def test_conditional_store_in_many_steps(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "UIDS_PER_STEP", 2)
    fill(pochta, 7)
    with aware(pochta) as imap, Imap(pochta) as other:
        known = highest(imap.ok("SELECT INBOX"))
        other.ok("STORE 1,2,5,7 +FLAGS.SILENT (\\Flagged)")
        *lines, last = imap.do(f"STORE 1:* (UNCHANGEDSINCE {known}) +FLAGS.SILENT (\\Seen $New)")
        assert last.startswith(b"OK [MODIFIED 1:2,5,7] ")
        told = without_flag_lists(lines)
        assert [int(line.split()[1]) for line in told] == list(range(1, 8))
        assert [b"FLAGS" in line for line in told] == [True, True, False, False, True, False, True]
        assert imap.ok("SEARCH KEYWORD $New") == [b"* SEARCH 3 4 6"]
        assert imap.ok("NOOP") == []


@pytest.mark.rfc(7162, "3.1.4.2")
def test_fetch_tells_flags_and_mod_seq_of_one_moment(pochta: Server) -> None:
    fill(pochta, 3)
    with aware(pochta) as imap, Imap(pochta) as other:
        first = [mod_seq(imap, seq) for seq in (1, 2, 3)]
        assert first == sorted(set(first))
        other.ok("STORE 2 +FLAGS (\\Flagged)")
        # the mod-sequence alone would hide the flag
        [one, two] = imap.ok("FETCH 1:2 MODSEQ")
        assert one == b"* 1 FETCH (MODSEQ (%d) FLAGS (\\Recent))" % first[0]
        match = re.fullmatch(rb"\* 2 FETCH \(MODSEQ \((\d+)\) FLAGS \(\\Flagged \\Recent\)\)", two)
        assert match is not None
        assert int(match[1]) > first[2]
        assert imap.ok("NOOP") == []
        assert imap.ok("UID FETCH 2 (FLAGS MODSEQ RFC822.SIZE)") == [
            b"* 2 FETCH (UID 2 FLAGS (\\Flagged \\Recent) MODSEQ (%b) RFC822.SIZE %d)" % (match[1], len(message(2)))
        ]
        [line] = imap.ok("FETCH 1 BODY[TEXT]<0.1>")  # RFC 7162 §3.2.4: what sets \Seen tells of it
        assert re.fullmatch(
            rb"\* 1 FETCH \(FLAGS \(\\Seen \\Recent\) UID 1 MODSEQ \(\d+\) BODY\[TEXT\]<0> \{1\}\r\nb\)", line
        )


@pytest.mark.rfc(7162, "3.1.4.1")
@pytest.mark.parametrize("is_scan", [False, True], ids=["log", "scan"])
def test_changed_since(pochta: Server, is_scan: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_scan:
        monkeypatch.setattr(condstore, "LOG_MAX_RANGES", 0)
    fill(pochta, 6)
    with aware(pochta) as imap, Imap(pochta) as other:
        known = highest(imap.ok("SELECT INBOX"))
        assert imap.ok(f"FETCH 1:* FLAGS (CHANGEDSINCE {known})") == []
        other.ok("STORE 2,5 +FLAGS (\\Flagged)")
        imap.ok("NOOP")
        middle = mod_seq(imap, 5)
        other.ok("STORE 2 -FLAGS (\\Flagged)")
        other.ok("STORE 6 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        other.append(message(7))
        lines = imap.ok(f"FETCH 1:* FLAGS (CHANGEDSINCE {known})")
        assert [int(line.split()[1]) for line in lines if b"FETCH" in line] == [2, 5]  # 6 is gone and 7 not yet told
        assert all(b"MODSEQ (" in line for line in lines if b"FETCH" in line)
        assert [line for line in imap.ok("NOOP") if b"FETCH" in line] == []
        lines = imap.ok(f"UID FETCH 1:* (FLAGS) (CHANGEDSINCE {middle})")
        assert [line.split()[4] for line in lines] == [b"2", b"7"]
        assert len(imap.ok("UID FETCH 1:* UID (CHANGEDSINCE 0)")) == 6
        assert imap.ok(f"UID FETCH 1:* UID (CHANGEDSINCE {LARGEST})") == []
        assert imap.ok(f"UID FETCH 3 UID (CHANGEDSINCE {known})") == []


@pytest.mark.rfc(7162, "3.1.4.1")
def test_changed_since_marks_only_what_it_answers(pochta: Server) -> None:
    fill(pochta, 3)
    with aware(pochta) as imap:
        known = highest(imap.ok("SELECT INBOX"))
        imap.ok("STORE 2 +FLAGS (\\Flagged)")
        lines = imap.ok(f"FETCH 1:* BODY[TEXT] (CHANGEDSINCE {known})")
        assert len(lines) == 1
        assert imap.ok("SEARCH SEEN") == [b"* SEARCH 2"]


@pytest.mark.rfc(7162, "3.1.4.1")
def test_what_changed_above_the_asked_number_is_still_told(pochta: Server) -> None:
    fill(pochta, 2)
    with aware(pochta) as imap, Imap(pochta) as other:
        other.ok("STORE 1 +FLAGS (\\Flagged)")
        [line] = imap.ok(f"FETCH 1:* FLAGS (CHANGEDSINCE {LARGEST})")
        assert re.fullmatch(rb"\* 1 FETCH \(UID 1 FLAGS \(\\Flagged \\Recent\) MODSEQ \(\d+\)\)", line)


def _raise_log_floor(tx: Tx) -> None:
    tx.run("UPDATE account SET log_floor_mod_seq = mod_seq")
    tx.run("DELETE FROM change")


def test_changed_since_below_the_log_floor_is_answered(pochta: Server) -> None:
    async def forget(store: Store) -> None:
        await store.write(0, _raise_log_floor)

    fill(pochta, 3)
    with aware(pochta) as imap:
        known = highest(imap.ok("SELECT INBOX"))
        imap.ok("STORE 2 +FLAGS (\\Flagged)")
        pochta.run(forget)
        assert [line.split()[1] for line in imap.ok(f"FETCH 1:* FLAGS (CHANGEDSINCE {known})")] == [b"2"]


@pytest.mark.rfc(7162, "3.1.5")
@pytest.mark.parametrize("is_scan", [False, True], ids=["log", "scan"])
def test_search_by_mod_seq(pochta: Server, is_scan: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_scan:
        monkeypatch.setattr(condstore, "LOG_MAX_RANGES", 0)
    fill(pochta, 4)
    with aware(pochta) as imap, Imap(pochta) as other:
        values = [mod_seq(imap, seq) for seq in range(1, 5)]
        found = b"* SEARCH 2 3 4 (MODSEQ %d)" % values[3]
        assert imap.ok(f"SEARCH MODSEQ {values[1]}") == [found]
        assert imap.ok(f'UID SEARCH MODSEQ "/flags/\\\\draft" all {values[1]}') == [found]
        assert imap.ok(f'SEARCH 1:3 modseq "/flags/$Work" PRIV {values[1]}') == [
            b"* SEARCH 2 3 (MODSEQ %d)" % values[2]
        ]
        assert imap.ok(f'SEARCH OR NOT MODSEQ {values[1]} SUBJECT "test 2"') == [
            b"* SEARCH 1 2 (MODSEQ %d)" % values[1]
        ]
        assert imap.ok(f"SEARCH MODSEQ {values[3] + 1}") == [b"* SEARCH"]
        assert imap.ok(f"SEARCH NOT MODSEQ {values[1]}") == [b"* SEARCH 1 (MODSEQ %d)" % values[0]]
        assert imap.ok(f"SEARCH OR MODSEQ {values[3]} MODSEQ {values[2]}") == [b"* SEARCH 3 4 (MODSEQ %d)" % values[3]]
        assert imap.ok("SEARCH MODSEQ 0") == [b"* SEARCH 1 2 3 4 (MODSEQ %d)" % values[3]]
        other.ok("STORE 1:2 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        # INV-8: the number of a removal that was not told is told by nobody
        lines = imap.ok("SEARCH 1 NOT MODSEQ 99999")
        assert lines[0] == b"* SEARCH 1 (MODSEQ %d)" % values[3]


@pytest.mark.rfc(7162, "3.2")
def test_no_highest_mod_seq_reaches_a_removal_that_waits(pochta: Server) -> None:
    fill(pochta, 3)
    with Imap(pochta) as imap, Imap(pochta) as other:
        known = highest(imap.ok("SELECT INBOX"))
        imap.ok("FETCH 1:* FLAGS")
        other.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        lines = imap.ok("FETCH 1:2 MODSEQ")
        assert {int(match[1]) for line in lines if (match := _HIGHEST.match(line))} == {known}
        gone = next(line for line in lines if line.startswith(b"* 1 FETCH"))
        assert b"MODSEQ (%d)" % known in gone
        assert highest(imap.ok("STORE 3 +FLAGS.SILENT (\\Seen)")) == known
        assert imap.ok('LIST "" INBOX RETURN (STATUS (HIGHESTMODSEQ))')[-1] == (
            b"* STATUS INBOX (HIGHESTMODSEQ %d)" % known
        )
        told = imap.ok("NOOP")
        assert told[0] == b"* 1 EXPUNGE"
        assert highest(told) > known
        assert imap.ok("NOOP") == []


@pytest.mark.rfc(7162, "3.2.7")
@pytest.mark.parametrize("command", ["EXPUNGE", "UID EXPUNGE 2", "MOVE 2 Archive"])
def test_removals_tell_the_new_highest_to_those_who_know(pochta: Server, command: str) -> None:
    fill(pochta, 2)
    with aware(pochta) as imap:
        imap.ok("STORE 2 +FLAGS.SILENT (\\Deleted)")
        before = mod_seq(imap, 2)
        last = imap.do(command)[-1]
        match = re.match(rb"OK \[HIGHESTMODSEQ (\d+)\]", last)
        assert match is not None, last
        assert int(match[1]) == before + 1
        assert imap.do("EXPUNGE") == [b"OK EXPUNGE completed"]
        imap.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        assert imap.do("CLOSE") == [b"OK CLOSE completed"]  # RFC 7162 §3.2.8: not here


@pytest.mark.rfc(7162, "3.1")
def test_a_copy_gets_a_higher_mod_seq(pochta: Server) -> None:
    fill(pochta, 1)
    with aware(pochta) as imap:
        before = mod_seq(imap, 1)
        imap.ok("COPY 1 Archive")
        imap.append(message(2), "Archive")
        imap.ok("SELECT Archive")
        assert before < mod_seq(imap, 1) < mod_seq(imap, 2)


@pytest.mark.rfc(7162, "7")
@pytest.mark.parametrize(
    "command",
    [
        "SELECT INBOX ()",
        "SELECT INBOX (QRESYNC (1 2))",
        "SELECT INBOX (CONDSTORE CONDSTORE)",
        "FETCH 1 MODSEQ (CHANGEDSINCE)",
        "FETCH 1 MODSEQ (CHANGEDSINCE 9223372036854775808)",
        "FETCH 1 MODSEQ (CHANGEDSINCE 1 CHANGEDSINCE 1)",
        "FETCH 1 MODSEQ (VANISHED)",
        "FETCH 1 MODSEQ ()",
        "STORE 1 (UNCHANGEDSINCE 1 UNCHANGEDSINCE 1) FLAGS ()",
        "STORE 1 (UNCHANGEDSINCE -1) FLAGS ()",
        "STORE 1 (UNCHANGEDSINCE 9223372036854775808) FLAGS ()",
        "STORE 1 () FLAGS ()",
        "SEARCH MODSEQ",
        "SEARCH MODSEQ x",
        "SEARCH MODSEQ 9223372036854775808",
        'SEARCH MODSEQ "/flags/" all 1',
        'SEARCH MODSEQ "/flags/a" some 1',
        'SEARCH MODSEQ "seen" all 1',
    ],
)
def test_what_is_malformed(pochta: Server, command: str) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap:
        assert imap.do(command)[-1].startswith(b"BAD ")


@pytest.mark.rfc(7162, "3.1.3")
@pytest.mark.parametrize("workers", [1, 2], ids=["one worker", "two workers"])
def test_of_two_that_race_one_wins(workers: int, tmp_path: Path) -> None:
    rounds = 25
    with ExitStack() as stack:
        first = stack.enter_context(Server(data_dir=tmp_path))
        first.add_account("anna@example.org", "secret")
        second = stack.enter_context(Server(data_dir=tmp_path)) if workers == 2 else first
        fill(first, 2)
        one, two = (stack.enter_context(aware(server)) for server in (first, second))
        answers: dict[str, list[bytes]] = {"one": [], "two": []}
        known = mod_seq(one, 1)

        def race(name: str, imap: Imap) -> None:
            answers[name].append(imap.do(f"STORE 1 (UNCHANGEDSINCE {known}) FLAGS.SILENT ($Lock-{name})")[-1])

        for _ in range(rounds):
            threads = [Thread(target=race, args=args) for args in (("one", one), ("two", two))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            said = {answers["one"][-1], answers["two"][-1]}
            assert said == {b"OK STORE completed", b"OK [MODIFIED 1] Conditional STORE failed"}
            winner = b"$Lock-one" if answers["one"][-1] == b"OK STORE completed" else b"$Lock-two"
            for imap in (one, two):
                [line] = without_flag_lists(imap.ok("FETCH 1 FLAGS"))
                assert winner in line
                imap.ok("NOOP")
            two.ok("STORE 1 FLAGS.SILENT ()")
            one.ok("NOOP")
            known = mod_seq(one, 1)


@pytest.mark.rfc(7162, "3.1.3")
def test_each_store_of_two_workers_has_a_number_of_its_own(tmp_path: Path) -> None:
    with Server(data_dir=tmp_path) as first:
        first.add_account("anna@example.org", "secret")
        fill(first, 2)
        with Server(data_dir=tmp_path) as second, aware(first) as one, aware(second) as two:
            seen: list[int] = []
            for turn in range(6):
                imap = (one, two)[turn % 2]
                lines = imap.ok(f"STORE {turn % 2 + 1} {'+-'[turn // 2 % 2]}FLAGS (\\Flagged)")
                own = next(line for line in lines if line.startswith(b"* %d FETCH" % (turn % 2 + 1)))
                seen.append(int(own.rpartition(b"(")[2].rstrip(b")")))
            assert seen == sorted(set(seen))
