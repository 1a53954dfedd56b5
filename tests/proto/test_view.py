"""The view against a plain dictionary."""

from array import array
from functools import reduce
from operator import or_

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.proto.imap import view
from pochta.proto.imap.view import CHUNK_MESSAGES, Snapshot

Model = dict[int, int]

mailboxes = st.dictionaries(st.integers(1, 3000), st.integers(0, 31), max_size=400)
ranges = st.lists(st.tuples(st.integers(1, 3100), st.integers(0, 900)), max_size=6)


def snapshot_of(model: Model, mod_seq: int = 1) -> Snapshot:
    uids = sorted(model)
    return Snapshot.of(array("I", uids), array("q", [model[uid] for uid in uids]), mod_seq)


def content(snapshot: Snapshot) -> Model:
    found = {uid: bits for part in snapshot.slices() for uid, bits in zip(part.uids, part.flags, strict=True)}
    assert list(found) == sorted(found)
    assert snapshot.count == len(found)
    return found


def disjoint(raw: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for first, length in sorted(raw):
        if not result or first > result[-1][1]:
            result.append((first, first + length))
    return result


def shown(old: Snapshot, new: Snapshot) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]:
    removed, changed, added = old.difference(new)
    return removed, [one for block in changed for one in block], added


def told(old: Snapshot, new: Snapshot) -> Model:
    """What a client that obeys the difference believes."""
    difference = old.difference(new)
    belief = list(content(old).items())
    for seq in difference.removed:
        del belief[seq - 1]
    model = dict(belief)
    for block in difference.changed:
        for uid, bits in block:
            assert model[uid] != bits
            model[uid] = bits
    for uid, bits in difference.added:
        assert uid not in model
        model[uid] = bits
    return model


@settings(max_examples=150)
@given(mailboxes, mailboxes, ranges)
def test_refreshed_ranges_hold_exactly_the_rows(before: Model, after: Model, raw: list[tuple[int, int]]) -> None:
    touched = disjoint(raw)
    inside = [(uid, bits) for uid, bits in sorted(after.items()) if any(a <= uid <= b for a, b in touched)]
    old = snapshot_of(before)
    new = old.refreshed(touched, inside, 2)
    want = {uid: bits for uid, bits in before.items() if not any(a <= uid <= b for a, b in touched)} | dict(inside)
    assert content(new) == want
    assert content(old) == before
    assert told(old, new) == want


@settings(max_examples=100)
@given(mailboxes, mailboxes)
def test_a_difference_leads_from_any_snapshot_to_any_other(before: Model, after: Model) -> None:
    assert told(snapshot_of(before), snapshot_of(after)) == after


@settings(max_examples=100)
@given(mailboxes, ranges)
def test_numbers_and_uids_name_the_same_messages(model: Model, raw: list[tuple[int, int]]) -> None:
    snapshot = snapshot_of(model)
    uids = sorted(model)
    by_uid = [uid for part in snapshot.by_uid(disjoint(raw)) for uid in part.uids]
    assert by_uid == [uid for uid in uids if any(a <= uid <= b for a, b in disjoint(raw))]
    for part in snapshot.by_uid(disjoint(raw)):
        assert [uids[seq - 1] for seq in range(part.seq, part.seq + len(part.uids))] == list(part.uids)
    numbers = [(a, min(b, len(uids))) for a, b in disjoint(raw) if a <= len(uids)]
    by_seq = [uid for part in snapshot.by_seq(numbers) for uid in part.uids]
    assert by_seq == [uid for a, b in numbers for uid in uids[a - 1 : b]]
    for seq, uid in enumerate(uids, 1):
        assert snapshot.seq_of(uid) == seq
    assert snapshot.seq_of(5000) == 0


def test_chunks_that_did_not_change_are_shared() -> None:
    model = dict.fromkeys(range(1, 5 * CHUNK_MESSAGES + 1), 0)
    old = snapshot_of(model)
    new = old.refreshed([(600, 600), (9000, 9000)], [(600, 1), (9000, 4)], 2)
    assert sum(1 for a in old.chunks if any(a is b for b in new.chunks)) == 3
    assert shown(old, new) == ([], [(600, 1)], [(9000, 4)])


def test_many_small_chunks_are_joined() -> None:
    model = dict.fromkeys(range(1, 40 * CHUNK_MESSAGES + 1), 0)
    snapshot = snapshot_of(model)
    gone = [(uid, uid + CHUNK_MESSAGES - 2) for uid in range(1, 40 * CHUNK_MESSAGES, CHUNK_MESSAGES)]
    assert len(snapshot.refreshed(gone, [], 2).chunks) == 1


def test_silent_flags_are_not_a_difference() -> None:
    old = snapshot_of({1: 0, 2: 1, 3: 8})
    new = snapshot_of({1: 1, 2: 1, 3: 9})
    assert shown(old.with_flags([(1, 3)], -1, 1), new) == ([], [], [])


steps = st.lists(st.tuples(ranges, mailboxes), min_size=1, max_size=4)


@settings(max_examples=100)
@given(mailboxes, steps)
def test_what_many_chunks_share_leads_to_the_same(
    model: Model, changes: list[tuple[list[tuple[int, int]], Model]]
) -> None:
    """Chunks of a few messages, so that each change touches some of many."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(view, "CHUNK_MESSAGES", 4)
        first = old = snapshot_of(model)
        for raw, wanted in changes:
            touched = disjoint(raw)
            inside = {uid: bits for uid, bits in sorted(wanted.items()) if any(a <= uid <= b for a, b in touched)}
            model = {uid: bits for uid, bits in model.items() if not any(a <= uid <= b for a, b in touched)} | inside
            new = old.refreshed(touched, list(inside.items()), old.mod_seq + bool(touched))
            assert content(new) == model
            assert told(old, new) == told(first, new) == model
            assert told(new, first) == content(first)
            uids = sorted(model)
            assert [new.seq_of(uid) for uid in uids] == list(range(1, len(uids) + 1))
            assert [uid for part in new.by_seq([(1, new.count)] if uids else []) for uid in part.uids] == uids
            shared = set(map(id, old.chunks))
            assert old.unshared(new) == sum(len(chunk.uids) for chunk in new.chunks if id(chunk) not in shared)
            asked = array("I", sorted({*uids[::7], *wanted}))
            held = list(new.holding(asked))
            assert [uid for _, some in held for uid in some] == [uid for uid in asked if uid <= new.last_uid]
            assert all(set(some) & model.keys() <= set(part.uids) for part, some in held)
            assert list(new.starting_at([part.seq for part, _ in held])) == [part for part, _ in held]
            assert all(part.seq == new.seq_of(part.uids[0]) for part in new.slices_where(lambda chunk: True))
            raw_uids = [uid for uid in uids if any(a <= uid <= b for a, b in touched)]
            assert new.count_within(touched) == len(raw_uids)
            assert [part.chunk.union for part in new.slices()] == [reduce(or_, part.flags) for part in new.slices()]
            old = new
