"""Messages in mailboxes: flags change, placements are copied, moved and removed, a session's view is read.

Every function here touches the uids of a few ranges, at most `changes.UIDS_PER_STEP` of them (COPY excepted, which is
all or nothing); a caller with more goes in steps. What a caller names and is no longer there is passed over.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import access, changes, flags, messages, reader_flags, rights, shared_copies
from pochta.store.changes import UidRange
from pochta.store.rights import OWNER, Right, Standing
from pochta.store.tx import Row, Tx

COPY_MAX_MESSAGES: Final = 100_000  # all or nothing, 3 us of the lane each (docs/decisions/0004-copy.md)

_IN_RANGE: Final = "account_id = ? AND mailbox_id = ? AND uid BETWEEN ? AND ?"
_MOVED: Final = "size, internal_date, zone_minutes, saved_at"


class FlagMode(IntEnum):
    """How STORE combines the named flags with the stored ones (RFC 3501 §6.4.6)."""

    REPLACE = 0
    ADD = 1
    REMOVE = 2


class Stored(NamedTuple):
    """What became of a conditional STORE: the mod_seq (0: nothing had to change), and the uids that failed the test."""

    mod_seq: int
    failed: tuple[int, ...]


class Copied(NamedTuple):
    """What COPYUID tells (RFC 4315 §3): `from_uids[n]` stands as `to_uids[n]` in the other mailbox."""

    uid_validity: int
    from_uids: tuple[int, ...]
    to_uids: tuple[int, ...]


class Moved(NamedTuple):
    """Where messages were moved to, and by whom: in their order they have the uids from `first_uid` on."""

    target_id: int
    first_uid: int
    mover_id: int


def set_flags(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[UidRange],
    mode: FlagMode,
    system_flags: int,
    keywords: tuple[str, ...],
    now: int,
    reader_id: int = 0,
) -> int:
    """Change flags of the uids in `ranges`; the mod_seq, or 0 when nothing had to change.

    `reader_id` (0: the owner) changes only the flags that it may. Statements: one read and one update for each range,
    and four.

    Raises:
        Refusal: LIMIT (keywords); NO_PERMISSION, the reader may change none of the flags named.
    """
    standing = rights.standing(tx, account_id, mailbox_id, reader_id)
    keep, add = _allowed(tx, account_id, mode, system_flags, keywords, standing)
    rows = flags_of(tx, account_id, mailbox_id, ranges, standing.seen_by)
    if standing.seen_by:
        return _apply_for_reader(tx, account_id, mailbox_id, standing.seen_by, rows, keep, add, now)
    return _apply(tx, account_id, mailbox_id, ranges, rows, keep, add, now)


def _allowed(
    tx: Tx, account_id: int, mode: FlagMode, system_flags: int, keywords: tuple[str, ...], standing: Standing
) -> tuple[int, int]:
    """`mask`, less the flags that the reader may not change; those stay as they are (RFC 4314 §4).

    Raises:
        Refusal: NO_PERMISSION, when no right to any of them is left.
    """
    if standing is OWNER:
        return mask(mode, system_flags | _named_bits(tx, account_id, mode, keywords))
    changeable = standing.changeable
    # every keyword stands for all of them: the right to one is the right to all
    named = -1 if mode is FlagMode.REPLACE else system_flags | (-1 << flags.FIRST_KEYWORD_BIT if keywords else 0)
    if named and not named & changeable:
        raise Refusal(RefusalCode.NO_PERMISSION, "You have no right to change these flags")
    if Right.WRITE_FLAGS not in standing.rights:
        keywords = ()  # no new name enters the owner's dictionary
    keep, add = mask(mode, system_flags | _named_bits(tx, account_id, mode, keywords, is_owner=False))
    return keep | ~changeable, add & changeable


def set_flags_unless_changed(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[UidRange],
    mode: FlagMode,
    system_flags: int,
    keywords: tuple[str, ...],
    unchanged_since: int,
    now: int,
    reader_id: int = 0,
) -> Stored:
    """As `set_flags`, for the messages whose mod_seq is `unchanged_since` or less; the test and the change are one.

    Source: RFC 7162 §3.1.3. One mod_seq stands for all metadata of a message, and 0 asks for something else: whether
    the metadata exists, which system flags always do and a keyword only where it is set.

    Raises:
        Refusal: LIMIT (keywords); NO_PERMISSION, the reader may change none of the flags named.
    """
    condition, limit = "AND mod_seq <= ?", unchanged_since
    standing = rights.standing(tx, account_id, mailbox_id, reader_id)
    found = mod_seqs_of(tx, account_id, mailbox_id, ranges, standing.seen_by)
    if unchanged_since == 0 and mode is not FlagMode.REPLACE and not system_flags:
        limit = _named_bits(tx, account_id, FlagMode.REMOVE, keywords)
        condition = "AND flags & ? = 0"
        failed = tuple(uid for uid, old, _ in found if old & limit)
    else:
        failed = tuple(uid for uid, _, mod_seq in found if mod_seq > unchanged_since)
    if len(failed) == len(found):
        return Stored(0, failed)
    keep, add = _allowed(tx, account_id, mode, system_flags, keywords, standing)
    lost = frozenset(failed)
    rows = [(uid, old) for uid, old, _ in found if uid not in lost]
    if standing.seen_by:
        return Stored(_apply_for_reader(tx, account_id, mailbox_id, standing.seen_by, rows, keep, add, now), failed)
    mod_seq = _apply(tx, account_id, mailbox_id, ranges, rows, keep, add, now, condition=condition, limit=limit)
    return Stored(mod_seq, failed)


def _named_bits(tx: Tx, account_id: int, mode: FlagMode, keywords: tuple[str, ...], *, is_owner: bool = True) -> int:
    """The set of the keywords; unless they are removed, new ones enter the dictionary."""
    if mode is not FlagMode.REMOVE:
        return flags.keyword_bits(tx, account_id, keywords, is_owner=is_owner)
    known = {name.lower(): bit for bit, name in flags.keywords(tx, account_id).items()}
    return sum({known.get(name.lower(), 0) for name in keywords})


def _apply(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[UidRange],
    rows: Sequence[Row],
    keep: int,
    add: int,
    now: int,
    *,
    condition: str = "",
    limit: int = 0,
) -> int:
    """Make the flags of `ranges` `old & keep | add`; the mod_seq, or 0 when nothing had to change.

    `rows` is (uid, flags) of what the ranges and the condition, in which `limit` stands for `?`, select.
    """
    changed, unseen, deleted = _would_change(rows, keep, add)
    if not changed:
        return 0
    mod_seq = changes.next_mod_seq(tx, account_id)
    extra = (limit,) if condition else ()
    for first, last in ranges:
        tx.run(
            f"UPDATE placement SET flags = (flags & ?) | ?, mod_seq = ? WHERE {_IN_RANGE}"
            f" AND flags <> ((flags & ?) | ?) {condition}",
            (keep, add, mod_seq, account_id, mailbox_id, first, last, keep, add, *extra),
        )
    tx.run(
        "UPDATE mailbox SET unseen_count = unseen_count + ?, deleted_count = deleted_count + ?, mod_seq = ?,"
        " counts_mod_seq = CASE WHEN ? = 0 THEN counts_mod_seq ELSE ? END WHERE account_id = ? AND id = ?",
        (unseen, deleted, mod_seq, unseen, mod_seq, account_id, mailbox_id),
    )
    uids = changes.encode_ranges(changed)
    changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.FLAGS, uids, now=now)
    tx.hint(account_id, mod_seq)
    return mod_seq


def _apply_for_reader(
    tx: Tx, account_id: int, mailbox_id: int, reader_id: int, rows: Sequence[Row], keep: int, add: int, now: int
) -> int:
    """As `_apply`, of `rows` alone, whose \\Seen is the reader's own."""
    changed, _, deleted = _would_change(rows, keep, add)
    if not changed:
        return 0
    mod_seq = changes.next_mod_seq(tx, account_id)
    for first, last in changes.ranges_of(changed):
        tx.run(
            f"UPDATE placement SET flags = (flags & ?) | ?, mod_seq = ? WHERE {_IN_RANGE}",
            (keep | flags.SEEN, add & ~flags.SEEN, mod_seq, account_id, mailbox_id, first, last),
        )
    touched = set(changed)
    now_seen = [uid for uid, old in rows if uid in touched and (old & keep | add) & ~old & flags.SEEN]
    now_unseen = [uid for uid, old in rows if uid in touched and old & ~(old & keep | add) & flags.SEEN]
    reader_flags.set_seen(tx, account_id, mailbox_id, reader_id, now_seen, now_unseen)
    tx.run(
        "UPDATE mailbox SET deleted_count = deleted_count + ?, mod_seq = ? WHERE account_id = ? AND id = ?",
        (deleted, mod_seq, account_id, mailbox_id),
    )
    uids = changes.encode_ranges(changed)
    changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.FLAGS, uids, now=now)
    tx.hint(account_id, mod_seq)
    return mod_seq


def _would_change(rows: Sequence[Row], keep: int, add: int) -> tuple[list[int], int, int]:
    """(uids whose flags `old & keep | add` changes, how many more are unseen then, how many more deleted)."""
    changed: list[int] = []
    unseen = deleted = 0
    for uid, old in rows:
        new = old & keep | add
        if new != old:
            changed.append(uid)
            unseen += (old & flags.SEEN) - (new & flags.SEEN)
            deleted += (new & flags.DELETED) - (old & flags.DELETED)
    return changed, unseen, deleted // flags.DELETED


def mask(mode: FlagMode, bits: int) -> tuple[int, int]:
    """(keep, add), so that the new set is `old & keep | add`."""
    if mode is FlagMode.ADD:
        return -1, bits
    if mode is FlagMode.REMOVE:
        return ~bits, 0
    return 0, bits


def copy(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[UidRange],
    to_name: str,
    now: int,
    reader_id: int = 0,
) -> Copied:
    """Place the messages in another mailbox too, all or none; flags and internal date go along (RFC 3501 §6.4.7).

    `to_name` is a name as `reader_id` (0: the owner) knows it, of whatever account.

    Raises:
        Refusal: NOT_FOUND (the other mailbox), NO_PERMISSION; OVER_QUOTA, LIMIT into another account.
    """
    return _copy(tx, account_id, mailbox_id, ranges, to_name, now, reader_id or account_id, is_move=False)


def move(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[UidRange],
    to_name: str,
    now: int,
    reader_id: int = 0,
) -> Copied:
    """As `copy`, and remove the messages here, in one transaction (RFC 6851 §3.3).

    Raises:
        Refusal: as `copy`.
    """
    return _copy(tx, account_id, mailbox_id, ranges, to_name, now, reader_id or account_id, is_move=True)


def _copy(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[UidRange],
    to_name: str,
    now: int,
    reader_id: int,
    *,
    is_move: bool,
) -> Copied:
    source = rights.standing(tx, account_id, mailbox_id, reader_id)
    # RFC 4314 §4, RFC 6851 §4: to move is to copy, to mark as deleted and to expunge
    needed = Right.READ | Right.DELETE_MESSAGES | Right.EXPUNGE if is_move else Right.READ
    rights.need(source, needed)
    opened = access.open_selectable(tx, reader_id, to_name, Right.INSERT)
    target = opened.mailbox
    rows = _select(tx, account_id, mailbox_id, ranges)
    if not rows:
        return Copied(target.uid_validity, (), ())
    ranges = _up_to(rows[-1][0], ranges)
    if opened.account_id == account_id == reader_id:
        mod_seq = changes.next_mod_seq(tx, account_id)
        first_uid = _add_copies(tx, account_id, mailbox_id, ranges, target.id, rows, mod_seq, now)
    else:
        first_uid = shared_copies.add(tx, account_id, mailbox_id, ranges, source, opened, now, is_move=is_move)
        mod_seq = changes.next_mod_seq(tx, account_id) if is_move else 0
    if is_move:
        moved = Moved(target.id, first_uid, reader_id) if opened.account_id == account_id else None
        remove_rows(tx, account_id, mailbox_id, ranges, rows, mod_seq, now, needs_deleted=False, moved=moved)
    if mod_seq:
        tx.hint(account_id, mod_seq)
    return Copied(target.uid_validity, tuple(row[0] for row in rows), tuple(range(first_uid, first_uid + len(rows))))


def expunge(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[UidRange],
    now: int,
    needs_deleted: bool = True,
    reader_id: int = 0,
) -> int:
    """Remove the messages of `ranges` that are \\Deleted (all of them unless `needs_deleted`); how many.

    The rows go to `removed`; message and bytes stay until the retention is over.

    Raises:
        Refusal: NO_PERMISSION.
    """
    rights.need(rights.standing(tx, account_id, mailbox_id, reader_id), Right.EXPUNGE)
    rows = _select(tx, account_id, mailbox_id, ranges)
    if needs_deleted:
        rows = [row for row in rows if row[1] & flags.DELETED]
    if not rows:
        return 0
    mod_seq = changes.next_mod_seq(tx, account_id)
    remove_rows(tx, account_id, mailbox_id, ranges, rows, mod_seq, now, needs_deleted=needs_deleted)
    tx.hint(account_id, mod_seq)
    return len(rows)


def _select(tx: Tx, account_id: int, mailbox_id: int, ranges: Iterable[UidRange]) -> list[Row]:
    """(uid, flags, size, message id) of what is there, rising."""
    return _rows_in(tx, "uid, flags, size, message_id", account_id, mailbox_id, ranges)


def _rows_in(tx: Tx, columns: str, account_id: int, mailbox_id: int, ranges: Iterable[UidRange]) -> list[Row]:
    """The columns of what stands in `ranges`, rising. One statement a range."""
    rows: list[Row] = []
    for first, last in ranges:
        args = (account_id, mailbox_id, first, last)
        rows += tx.rows(f"SELECT {columns} FROM placement WHERE {_IN_RANGE} ORDER BY uid", args)
    return rows


def _up_to(last_uid: int, ranges: Iterable[UidRange]) -> list[UidRange]:
    """`ranges` without what is past `last_uid`: in the same mailbox, `1:*` would take in the copies too."""
    return [(first, min(last, last_uid)) for first, last in ranges if first <= last_uid]


def _add_copies(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[UidRange],
    target_id: int,
    rows: Sequence[Row],
    mod_seq: int,
    now: int,
) -> int:
    first_uid = messages.grow_mailbox(
        tx,
        account_id,
        target_id,
        mod_seq,
        count=len(rows),
        unseen=sum(1 for row in rows if not row[1] & flags.SEEN),
        deleted=sum(1 for row in rows if row[1] & flags.DELETED),
        size=sum(row[2] for row in rows),
    )
    uid = first_uid
    for first, last in ranges:
        uid += tx.run(
            f"INSERT INTO placement (account_id, mailbox_id, uid, message_id, flags, {_MOVED}, mod_seq,"
            " created_mod_seq) SELECT account_id, ?, ? + row_number() OVER (ORDER BY uid), message_id, flags, size,"
            f" internal_date, zone_minutes, ?, ?, ? FROM placement WHERE {_IN_RANGE}",
            (target_id, uid - 1, now, mod_seq, mod_seq, account_id, mailbox_id, first, last),
        )
    uids = changes.encode_ranges(range(first_uid, uid))
    changes.record(tx, account_id, mod_seq, target_id, changes.Kind.ADDED, uids, now=now)
    return first_uid


def remove_rows(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[UidRange],
    rows: Sequence[Row],
    mod_seq: int,
    now: int,
    *,
    needs_deleted: bool,
    moved: Moved | None = None,
) -> None:
    """Move the placements to `removed`, with the counters and the quota. `rows` is what the ranges select.

    `moved`: where the messages stand now, in the same account.
    """
    condition = f" AND flags & {flags.DELETED} <> 0" if needs_deleted else ""
    if tx.row("SELECT 1 FROM reader_seen WHERE account_id = ? AND mailbox_id = ? LIMIT 1", (account_id, mailbox_id)):
        if moved is not None:
            # each message stands here or there: to its other readers it is the one that they know
            reader_flags.move(tx, account_id, mailbox_id, ranges, [row[0] for row in rows], *moved)
        reader_flags.forget(tx, account_id, mailbox_id, ranges, condition)
    for first, last in ranges:
        args = (account_id, mailbox_id, first, last)
        tx.run(
            f"INSERT INTO removed (account_id, mailbox_id, uid, message_id, flags, {_MOVED}, mod_seq, created_mod_seq,"
            f" removed_at) SELECT account_id, mailbox_id, uid, message_id, flags, {_MOVED}, ?, created_mod_seq, ?"
            f" FROM placement WHERE {_IN_RANGE}{condition}",
            (mod_seq, now, *args),
        )
        tx.run(f"DELETE FROM placement WHERE {_IN_RANGE}{condition}", args)
    tx.run(
        "UPDATE mailbox SET message_count = message_count - ?, unseen_count = unseen_count - ?,"
        " deleted_count = deleted_count - ?, total_bytes = total_bytes - ?, mod_seq = ?, counts_mod_seq = ?"
        " WHERE account_id = ? AND id = ?",
        (
            len(rows),
            sum(1 for row in rows if not row[1] & flags.SEEN),
            sum(1 for row in rows if row[1] & flags.DELETED),
            sum(row[2] for row in rows),
            mod_seq,
            mod_seq,
            account_id,
            mailbox_id,
        ),
    )
    _release_quota(tx, account_id, rows)
    uids = changes.encode_ranges([row[0] for row in rows])
    changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.REMOVED, uids, now=now)


def _release_quota(tx: Tx, account_id: int, rows: Sequence[Row]) -> None:
    """Quota counts a message once: give back those that no longer stand anywhere."""
    sizes = {row[3]: row[2] for row in rows}
    left: set[int] = set()
    ids = list(sizes)
    for start in range(0, len(ids), 500):  # SQLite allows 32766 parameters, but a statement of 500 stays prepared
        part = ids[start : start + 500]
        marks = ", ".join("?" * len(part))
        left.update(
            row[0]
            for row in tx.rows(
                f"SELECT DISTINCT message_id FROM placement WHERE account_id = ? AND message_id IN ({marks})",
                (account_id, *part),
            )
        )
    gone = [size for message_id, size in sizes.items() if message_id not in left]
    if gone:
        tx.run(
            "UPDATE account SET used_bytes = used_bytes - ?, message_count = message_count - ? WHERE id = ?",
            (sum(gone), len(gone), account_id),
        )


def flags_of(tx: Tx, account_id: int, mailbox_id: int, ranges: Iterable[UidRange], seen_by: int = 0) -> list[Row]:
    """(uid, flags) of what stands in `ranges`, rising; \\Seen as the reader `seen_by` has it (0: the stored one)."""
    if seen_by:
        return reader_flags.rows_in(tx, "", account_id, mailbox_id, seen_by, ranges)
    return _rows_in(tx, "uid, flags", account_id, mailbox_id, ranges)


def all_flags(account_id: int, mailbox_id: int, seen_by: int = 0) -> tuple[str, tuple[int, ...]]:
    """The statement that gives (uid, flags) of a whole mailbox, rising, and its arguments; for `Snapshot.slices`."""
    if seen_by:
        return (
            f"SELECT p.uid, {reader_flags.MERGED} FROM {reader_flags.JOINED}"
            " WHERE p.account_id = ? AND p.mailbox_id = ? ORDER BY p.uid"
        ), (seen_by, account_id, mailbox_id)
    return (
        "SELECT uid, flags FROM placement WHERE account_id = ? AND mailbox_id = ? ORDER BY uid",
        (account_id, mailbox_id),
    )


def mod_seqs_of(tx: Tx, account_id: int, mailbox_id: int, ranges: Iterable[UidRange], seen_by: int = 0) -> list[Row]:
    """(uid, flags, mod_seq) of what stands in `ranges`, rising; `seen_by` as in `flags_of`."""
    if seen_by:
        return reader_flags.rows_in(tx, ", p.mod_seq", account_id, mailbox_id, seen_by, ranges)
    return _rows_in(tx, "uid, flags, mod_seq", account_id, mailbox_id, ranges)


def changed_since(tx: Tx, account_id: int, mailbox_id: int, first: int, last: int, mod_seq: int) -> list[int]:
    """The uids of the range whose mod_seq is larger, rising. A scan: there is no index on it."""
    rows = tx.rows(
        f"SELECT uid FROM placement WHERE {_IN_RANGE} AND mod_seq > ? ORDER BY uid",
        (account_id, mailbox_id, first, last, mod_seq),
    )
    return [row[0] for row in rows]


def count(tx: Tx, account_id: int, mailbox_id: int, first: int, last: int) -> int:
    """How many messages stand in the range. Costs 0.02 us for each."""
    row = tx.row(f"SELECT count(*) FROM placement WHERE {_IN_RANGE}", (account_id, mailbox_id, first, last))
    found: int = row[0] if row else 0
    return found
