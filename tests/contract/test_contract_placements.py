"""Messages in mailboxes, on every backend: flags, copy, move, expunge, and what each costs."""

import pytest
from store_harness import EVERYTHING, NOW, Backend, counted, item, new_message

from pochta.errors import Refusal, RefusalCode
from pochta.store import changes, flags, messages, placements
from pochta.store.placements import FlagMode

Kind = changes.Kind
SEEN, DELETED, FLAGGED = flags.SEEN, flags.DELETED, flags.FLAGGED


@pytest.fixture
def account(backend: Backend) -> int:
    """An account with uids 1, 3, 4, 6 of 10, 30, 40, 60 bytes in Sent."""
    account = backend.new_account("a")
    backend.append(account, "Sent", *(item(10 * n) for n in range(1, 7)))
    backend.expunge(account, "Sent", [(2, 2), (5, 5)], needs_deleted=False)
    return account


def counters(backend: Backend, account: int, path: str) -> tuple[int, int, int, int]:
    mailbox = backend.mailbox(account, path)
    return mailbox.message_count, mailbox.unseen_count, mailbox.deleted_count, mailbox.total_bytes


@pytest.mark.rfc(9051, "6.4.6")
@pytest.mark.parametrize(
    ("mode", "bits", "want"),
    [
        (FlagMode.REPLACE, SEEN, SEEN),
        (FlagMode.REPLACE, 0, 0),
        (FlagMode.ADD, SEEN, SEEN | DELETED | FLAGGED),
        (FlagMode.REMOVE, DELETED | SEEN, FLAGGED),
    ],
    ids=["replace", "clear", "add", "remove"],
)
def test_set_flags(backend: Backend, account: int, mode: FlagMode, bits: int, want: int) -> None:
    backend.set_flags(account, "Sent", FlagMode.REPLACE, DELETED | FLAGGED)
    before = backend.mod_seq(account)
    mod_seq = backend.set_flags(account, "Sent", mode, bits, ranges=[(2, 4)])
    assert backend.flags(account, "Sent") == {1: DELETED | FLAGGED, 3: want, 4: want, 6: DELETED | FLAGGED}
    assert mod_seq == backend.mod_seq(account) == before + 1
    assert backend.changes(account, "Sent", before) == [(Kind.FLAGS, "3:4")]
    unseen, deleted = 4 - 2 * (want & SEEN), 4 if want & DELETED else 2
    assert counters(backend, account, "Sent") == (4, unseen, deleted, 140)
    assert backend.hints[-1] == (account, mod_seq)


def test_set_flags_with_nothing_to_do(backend: Backend, account: int) -> None:
    backend.set_flags(account, "Sent", FlagMode.ADD, SEEN, "work")
    before, hints = backend.query("SELECT * FROM account"), len(backend.hints)
    log = backend.query("SELECT count(*) FROM change")
    assert backend.set_flags(account, "Sent", FlagMode.ADD, SEEN, "WORK") == 0
    assert backend.set_flags(account, "Sent", FlagMode.REPLACE, SEEN, "work") == 0
    assert backend.set_flags(account, "Sent", FlagMode.REMOVE, FLAGGED, "unheard-of") == 0
    assert backend.set_flags(account, "Sent", FlagMode.ADD, FLAGGED, ranges=[(100, 200)]) == 0
    assert backend.query("SELECT * FROM account") == before
    assert backend.query("SELECT count(*) FROM change") == log
    assert backend.read(account, flags.keywords, account) == {32: "work"}
    assert len(backend.hints) == hints


def test_set_flags_stamps_only_what_changed(backend: Backend, account: int) -> None:
    backend.set_flags(account, "Sent", FlagMode.ADD, SEEN, ranges=[(3, 3)])
    counts_before = backend.query("SELECT counts_mod_seq FROM mailbox WHERE role = 'sent'")
    mod_seq = backend.set_flags(account, "Sent", FlagMode.ADD, FLAGGED, ranges=[(1, 1), (6, 6)])
    sql = "SELECT uid FROM placement WHERE mod_seq = ? ORDER BY uid"
    assert backend.query(sql, mod_seq) == [(1,), (6,)]
    assert backend.query("SELECT counts_mod_seq FROM mailbox WHERE role = 'sent'") == counts_before
    mod_seq = backend.set_flags(account, "Sent", FlagMode.ADD, SEEN)
    assert backend.query(sql, mod_seq) == [(1,), (4,), (6,)]
    assert backend.query("SELECT counts_mod_seq FROM mailbox WHERE role = 'sent'") == [(mod_seq,)]


def test_keywords_by_all_modes(backend: Backend, account: int) -> None:
    backend.set_flags(account, "Sent", FlagMode.ADD, 0, "one", "two", ranges=[(1, 1)])
    backend.set_flags(account, "Sent", FlagMode.REMOVE, 0, "ONE", "unheard-of", ranges=[(1, 1)])
    assert backend.flags(account, "Sent")[1] == 64
    backend.set_flags(account, "Sent", FlagMode.REPLACE, DELETED, "three", ranges=[(1, 1)])
    assert backend.flags(account, "Sent")[1] == DELETED | 128
    assert backend.read(account, flags.keywords, account) == {32: "one", 64: "two", 128: "three"}


@pytest.mark.rfc(9051, "6.4.7")
def test_copy_pairs_uids_in_order(backend: Backend, account: int) -> None:
    backend.append(account, "Trash", item(5))
    backend.set_flags(account, "Sent", FlagMode.ADD, SEEN | DELETED, "work", ranges=[(3, 3)])
    before = backend.mod_seq(account)
    copied = backend.copy(account, "Sent", "Trash", [(1, 3), (6, 9)])
    trash = backend.mailbox(account, "Trash")
    assert copied == (trash.uid_validity, (1, 3, 6), (2, 3, 4))
    assert backend.flags(account, "Trash") == {1: 0, 2: 0, 3: SEEN | DELETED | 32, 4: 0}
    assert counters(backend, account, "Trash") == (4, 3, 1, 105)
    assert backend.quota(account) == (5, 145)  # a message counts once
    assert backend.changes(account, "Trash", before) == [(Kind.ADDED, "2:4")]
    assert backend.changes(account, "Sent", before) == []
    sql = (
        "SELECT s.uid, t.uid FROM placement s JOIN placement t ON s.message_id = t.message_id"
        " WHERE s.mailbox_id < t.mailbox_id AND s.internal_date = t.internal_date ORDER BY s.uid"
    )
    assert backend.query(sql) == [(1, 2), (3, 3), (6, 4)]


def test_copy_of_nothing(backend: Backend, account: int) -> None:
    before = backend.mod_seq(account)
    validity = backend.mailbox(account, "Trash").uid_validity
    assert backend.copy(account, "Sent", "Trash", [(2, 2), (100, 200)]) == (validity, (), ())
    assert backend.move(account, "Sent", "Trash", [(2, 2)]) == (validity, (), ())
    assert backend.mod_seq(account) == before
    for verb in (backend.copy, backend.move):
        with pytest.raises(Refusal) as caught:
            verb(account, "Sent", "gone", [(1, 1)])
        assert caught.value.code is RefusalCode.NOT_FOUND


@pytest.mark.parametrize("ranges", [EVERYTHING, ((1, 3), (4, 1000)), ((1, 1), (3, 4), (6, 6))], ids=str)
def test_copy_into_the_same_mailbox(backend: Backend, account: int, ranges: object) -> None:
    assert backend.copy(account, "Sent", "Sent", ranges)[1:] == ((1, 3, 4, 6), (7, 8, 9, 10))
    assert counters(backend, account, "Sent") == (8, 8, 0, 280)
    assert backend.quota(account) == (4, 140)


@pytest.mark.rfc(6851, "3.3")
@pytest.mark.parametrize("ranges", [EVERYTHING, ((1, 3), (4, 1000)), ((1, 1), (3, 4), (6, 6))], ids=str)
def test_move_into_the_same_mailbox(backend: Backend, account: int, ranges: object) -> None:
    before = backend.mod_seq(account)
    assert backend.move(account, "Sent", "Sent", ranges)[1:] == ((1, 3, 4, 6), (7, 8, 9, 10))
    assert backend.flags(account, "Sent") == {7: 0, 8: 0, 9: 0, 10: 0}
    assert backend.changes(account, "Sent", before) == [(Kind.ADDED, "7:10"), (Kind.REMOVED, "1,3:4,6")]
    assert backend.quota(account) == (4, 140)


@pytest.mark.rfc(6851, "3.3")
def test_move(backend: Backend, account: int) -> None:
    backend.set_flags(account, "Sent", FlagMode.ADD, SEEN | DELETED, ranges=[(3, 3)])
    before = backend.mod_seq(account)
    moved = backend.move(account, "Sent", "Trash", [(3, 9)])
    assert moved[1:] == ((3, 4, 6), (1, 2, 3))
    assert counters(backend, account, "Sent") == (1, 1, 0, 10)
    assert counters(backend, account, "Trash") == (3, 2, 1, 130)
    assert backend.quota(account) == (4, 140)
    assert backend.mod_seq(account) == before + 1
    assert backend.changes(account, "Sent", before) == [(Kind.REMOVED, "3:4,6")]
    assert backend.changes(account, "Trash", before) == [(Kind.ADDED, "1:3")]
    assert backend.query("SELECT uid FROM removed WHERE mod_seq = ? ORDER BY uid", before + 1) == [(3,), (4,), (6,)]


@pytest.mark.rfc(9051, "6.4.3")
def test_expunge_removes_only_deleted(backend: Backend, account: int) -> None:
    backend.set_flags(account, "Sent", FlagMode.ADD, DELETED | SEEN, "work", ranges=[(1, 1), (4, 6)])
    before = backend.mod_seq(account)
    assert backend.expunge(account, "Sent", [(1, 4)]) == 2
    assert backend.flags(account, "Sent") == {3: 0, 6: DELETED | SEEN | 32}
    assert counters(backend, account, "Sent") == (2, 1, 1, 90)
    assert backend.quota(account) == (2, 90)
    assert backend.changes(account, "Sent", before) == [(Kind.REMOVED, "1,4")]
    sql = "SELECT uid, flags, size, internal_date, zone_minutes, removed_at FROM removed WHERE mod_seq = ? ORDER BY uid"
    kept = (DELETED | SEEN | 32, NOW, 120, NOW)
    assert backend.query(sql, before + 1) == [(1, kept[0], 10, *kept[1:]), (4, kept[0], 40, *kept[1:])]
    assert backend.query("SELECT count(*) FROM message") == [(6,)]  # for views, POP3 and undelete
    assert backend.expunge(account, "Sent", [(1, 4)]) == 0
    assert backend.mod_seq(account) == before + 1


def test_quota_is_given_back_with_the_last_placement(backend: Backend, account: int) -> None:
    backend.copy(account, "Sent", "Trash", [(1, 1)])
    backend.copy(account, "Sent", "Sent", [(1, 1)])
    assert backend.quota(account) == (4, 140)
    backend.expunge(account, "Sent", [(1, 1)], needs_deleted=False)
    backend.expunge(account, "Trash", needs_deleted=False)
    assert backend.quota(account) == (4, 140)
    backend.expunge(account, "Sent", [(7, 7)], needs_deleted=False)
    assert backend.quota(account) == (3, 130)


def test_two_placements_of_a_message_go_at_once(backend: Backend, account: int) -> None:
    backend.copy(account, "Sent", "Sent", [(1, 1)])
    assert backend.expunge(account, "Sent", [(1, 1), (7, 7)], needs_deleted=False) == 2
    assert backend.quota(account) == (3, 130)


@pytest.mark.rfc(9051, "2.3.1.1")
def test_uids_are_not_used_again(backend: Backend, account: int) -> None:
    backend.expunge(account, "Sent", needs_deleted=False)
    assert backend.append(account, "Sent", item()).uids == (7,)


def test_changes_since(backend: Backend, account: int) -> None:
    before = backend.mod_seq(account)
    for bits in (SEEN, FLAGGED, DELETED):
        backend.set_flags(account, "Sent", FlagMode.ADD, bits, ranges=[(1, 1)])
    mailbox_id = backend.mailbox(account, "Sent").id
    assert backend.read(account, _since, account, mailbox_id, before, 3) == [(Kind.FLAGS, "1")] * 3
    assert backend.read(account, _since, account, mailbox_id, before, 2) is None


def _since(tx, account_id: int, mailbox_id: int, mod_seq: int, limit: int) -> list[tuple[int, str]] | None:
    return changes.since(tx, account_id, mailbox_id, mod_seq, limit=limit)


SENT, WHOLE = "Sent", ((1, 100),)

# What each verb costs; a larger number here is a decision, not an accident.
COSTS = {
    "deliver": (11, messages.deliver, lambda account, sent: ([account], new_message(refs=(1, 2)))),
    "append": (10, messages.append, lambda account, sent: (account, SENT, [item()], NOW)),
    "append with keyword": (11, messages.append, lambda account, sent: (account, SENT, [item(keywords=("k",))], NOW)),
    "set_flags": (5, placements.set_flags, lambda account, sent: (account, sent, WHOLE, FlagMode.ADD, SEEN, (), NOW)),
    "copy": (8, placements.copy, lambda account, sent: (account, sent, WHOLE, "Trash", NOW)),
    "move": (14, placements.move, lambda account, sent: (account, sent, WHOLE, "Trash", NOW)),
    "expunge": (9, placements.expunge, lambda account, sent: (account, sent, WHOLE, NOW, False)),
}


@pytest.mark.parametrize("verb", COSTS)
def test_number_of_statements(backend: Backend, account: int, verb: str) -> None:
    statements, fn, args_of = COSTS[verb]
    backend.append(account, "Sent", item(keywords=("k",)))
    args = args_of(account, backend.mailbox(account, "Sent").id)
    assert backend.write(account, counted, fn, args) == statements
