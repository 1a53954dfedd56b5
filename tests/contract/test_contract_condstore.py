"""Conditional changes of flags and what they are decided by, on every backend. RFC 7162 §3.1.3."""

import pytest
from store_harness import EVERYTHING, NOW, Backend, item

from pochta.store import changes, flags, placements
from pochta.store.placements import FlagMode, Stored

SEEN, DELETED, FLAGGED = flags.SEEN, flags.DELETED, flags.FLAGGED
LARGEST = (1 << 63) - 1


@pytest.fixture
def account(backend: Backend) -> int:
    """An account with uids 1 to 4 in Sent, each with a mod_seq of its own."""
    account = backend.new_account("a")
    for number in range(1, 5):
        backend.append(account, "Sent", item(10 * number))
    return account


def mod_seqs(backend: Backend, account: int) -> dict[int, int]:
    mailbox_id = backend.mailbox(account, "Sent").id
    rows = backend.read(account, placements.mod_seqs_of, account, mailbox_id, EVERYTHING)
    return {uid: mod_seq for uid, _, mod_seq in rows}


def change(
    backend: Backend, account: int, since: int, mode: FlagMode, bits: int, *keywords: str, ranges: object = EVERYTHING
) -> Stored:
    mailbox_id = backend.mailbox(account, "Sent").id
    args = (account, mailbox_id, ranges, mode, bits, keywords, since, NOW)
    return backend.write(account, placements.set_flags_unless_changed, *args)


@pytest.mark.rfc(7162, "3.1.3")
@pytest.mark.parametrize("mode", FlagMode)
def test_newer_messages_fail_and_stay(backend: Backend, account: int, mode: FlagMode) -> None:
    backend.set_flags(account, "Sent", FlagMode.REPLACE, DELETED, ranges=[(3, 3)])
    before, hints = mod_seqs(backend, account), len(backend.hints)
    stored = change(backend, account, before[4], mode, DELETED)
    if mode is FlagMode.REMOVE:  # nobody who passed had it
        assert stored == Stored(0, (3,))
        assert mod_seqs(backend, account) == before
        assert len(backend.hints) == hints
        return
    assert stored == Stored(before[3] + 1, (3,))
    assert mod_seqs(backend, account) == dict.fromkeys((1, 2, 4), stored.mod_seq) | {3: before[3]}
    assert backend.flags(account, "Sent") == dict.fromkeys(range(1, 5), DELETED)
    assert backend.mailbox(account, "Sent").deleted_count == 4
    assert backend.changes(account, "Sent", before[3]) == [(changes.Kind.FLAGS, "1:2,4")]


@pytest.mark.rfc(7162, "3.1.3")
def test_who_fails_everywhere_leaves_no_trace(backend: Backend, account: int) -> None:
    before = backend.query("SELECT * FROM account")
    assert change(backend, account, 1, FlagMode.ADD, SEEN, "fresh") == Stored(0, (1, 2, 3, 4))
    assert change(backend, account, LARGEST, FlagMode.ADD, SEEN, "fresh", ranges=[(7, 9)]) == Stored(0, ())
    assert backend.query("SELECT * FROM account") == before
    assert backend.query("SELECT count(*) FROM keyword") == [(0,)]


@pytest.mark.rfc(7162, "3.1.3")
def test_0_asks_whether_keywords_are_there(backend: Backend, account: int) -> None:
    assert change(backend, account, 0, FlagMode.ADD, FLAGGED) == Stored(0, (1, 2, 3, 4))
    assert change(backend, account, 0, FlagMode.REPLACE, 0, "work") == Stored(0, (1, 2, 3, 4))
    backend.set_flags(account, "Sent", FlagMode.ADD, SEEN, "work", ranges=[(2, 2)])
    stored = change(backend, account, 0, FlagMode.ADD, 0, "WORK")
    assert stored.failed == (2,)
    assert stored.mod_seq == backend.mod_seq(account)
    assert change(backend, account, 0, FlagMode.REMOVE, 0, "work") == Stored(0, (1, 2, 3, 4))
    assert change(backend, account, 0, FlagMode.ADD, 0) == Stored(0, ())


def test_changed_since_names_what_has_a_larger_number(backend: Backend, account: int) -> None:
    mailbox_id = backend.mailbox(account, "Sent").id
    known = mod_seqs(backend, account)
    backend.set_flags(account, "Sent", FlagMode.ADD, SEEN, ranges=[(1, 1)])
    args = (account, mailbox_id)
    assert backend.read(account, placements.changed_since, *args, 1, 4, known[2]) == [1, 3, 4]
    assert backend.read(account, placements.changed_since, *args, 2, 3, known[2]) == [3]
    assert backend.read(account, placements.changed_since, *args, 1, 4, LARGEST) == []


@pytest.mark.parametrize(
    ("ranges", "others", "want"),
    [
        ([(1, 5)], [(2, 3), (5, 9)], [(2, 3), (5, 5)]),
        ([(1, 2), (4, 9)], [(2, 6), (8, 8)], [(2, 2), (4, 6), (8, 8)]),
        ([(3, 4)], [(1, 2), (5, 6)], []),
        ([], [(1, 2)], []),
        ([(1, 1), (2, 2)], [(1, 9)], [(1, 1), (2, 2)]),
    ],
)
def test_common_ranges(
    ranges: list[tuple[int, int]], others: list[tuple[int, int]], want: list[tuple[int, int]]
) -> None:
    assert changes.common_ranges(ranges, others) == want
