"""What one step of the sweeper removes, and what there is to remove: all SQL of the background removal.

Every step is one lane function over at most so many rows of an index; whoever has removed a thing left a `task` or a
`removed` row, and nothing here asks why. `sweep` says when which step is made, and holds what must stay true.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from pochta import clock
from pochta.store import expiry, leases, placements, sending
from pochta.store.greylist import Rules
from pochta.store.leases import Fence
from pochta.store.tx import Row, Tx

READ_ROWS: Final = 200  # of one inline read
PART: Final = 64  # values of one IN list, padded, so that one statement stays prepared

MAILBOX_REMOVE: Final = "mailbox_remove"
MAILBOX_FORGET: Final = "mailbox_forget"  # an emptied mailbox; `created_at` is when it was emptied
ACCOUNT_REMOVE: Final = "account_remove"

# Every table with rows of an account, in the order they go, with its key behind account_id (or reader_id).
ACCOUNT_TABLES: Final[tuple[tuple[str, str], ...]] = (
    ("placement_keyword", "mailbox_id, uid, keyword"),
    ("reader_seen", "mailbox_id, reader_id, uid"),
    ("placement", "mailbox_id, uid"),
    ("removed", "mailbox_id, uid"),
    ("message", "id"),
    ("message_ref", "ref_hash, subject_hash"),
    ("change", "mod_seq, mailbox_id, kind"),
    ("keyword", "bit"),
    ("subscription", "path"),
    ("app_password", "id"),
    ("sign_in_success", "address"),
    ("sending", "hour"),
    ("correspondent", "address_hash"),
    ("mailbox_right", "mailbox_id, reader_id"),
    ("annotation", "mailbox_id, reader_id, entry"),
    ("mailbox_right", "account_id, mailbox_id"),
    ("reader_seen", "account_id, mailbox_id, uid"),
    ("annotation", "account_id, mailbox_id, entry"),
    ("mailbox", "id"),
)
# Every column that names a blob. Whoever adds one adds it here.
BLOB_USERS: Final[tuple[tuple[str, str], ...]] = (("message", "blob_id"), ("outgoing", "blob_id"))

_IS_USED: Final = " OR ".join(
    f"EXISTS (SELECT 1 FROM {table} WHERE {table}.{column} = blob.id)" for table, column in BLOB_USERS
)
_MARKS: Final = ", ".join("?" * PART)


class Work(StrEnum):
    """The kinds of steps."""

    EMPTY_MAILBOX = "empty_mailbox"
    FORGET_MAILBOX = "forget_mailbox"
    EMPTY_ACCOUNT = "empty_account"
    FORGET_ACCOUNT = "forget_account"
    EXPIRE_REMOVED = "expire_removed"
    EXPIRE_CHANGES = "expire_changes"
    EXPIRE_SENDING = "expire_sending"
    EXPIRE_SHARED = "expire_shared"
    DELETE_BLOBS = "delete_blobs"
    GIVE_BACK_PAGES = "give_back_pages"


class Step(NamedTuple):
    """What one step did: rows it touched, whether there is no more, and what the next steps need."""

    rows: int
    is_done: bool
    took_s: float = 0.0
    messages: int = 0
    blob_ids: tuple[int, ...] = ()
    files: tuple[str, ...] = ()


def run_step(tx: Tx, fence: Fence | None, work: Work, limit: int, args: tuple[int, ...]) -> Step:
    """One step of `work` over at most `limit` rows; `args` as the function of that work says.

    Raises:
        LeaseLost: another process sweeps now.
    """
    began = clock.monotonic_s()
    if fence is not None:
        leases.check_fence(tx, *fence)
    step = _STEPS[work](tx, limit, args)
    return step._replace(took_s=clock.monotonic_s() - began)


def _empty_mailbox(tx: Tx, limit: int, args: tuple[int, ...]) -> Step:
    """Args: account, mailbox, now. Moves placements to `removed`; once there are none, notes when that was.

    What hangs on a placement goes before it.
    """
    account_id, mailbox_id, now = args
    if not tx.row("SELECT 1 FROM account WHERE id = ? AND removed_at IS NULL", (account_id,)):
        return Step(0, True)  # the account's own task takes everything
    where, key = "account_id = ? AND mailbox_id = ?", (account_id, mailbox_id)
    for table, columns in (("placement_keyword", "uid, keyword"), ("reader_seen", "reader_id, uid")):
        count = _delete_first(tx, table, columns, where, key, limit)
        if count:
            return Step(count, False)
    bounds = tx.row(
        "SELECT min(uid), max(uid) FROM (SELECT uid FROM placement WHERE account_id = ? AND mailbox_id = ?"
        " ORDER BY uid LIMIT ?) AS part",
        (account_id, mailbox_id, limit),
    )
    if bounds is not None and bounds[0] is not None:
        return Step(placements.expunge(tx, account_id, mailbox_id, [bounds], now, False), False)
    tx.run(
        "UPDATE task SET kind = ?, created_at = ? WHERE kind = ? AND account_id = ? AND mailbox_id = ?",
        (MAILBOX_FORGET, now, MAILBOX_REMOVE, account_id, mailbox_id),
    )
    return Step(0, True)


def _forget_mailbox(tx: Tx, limit: int, args: tuple[int, ...]) -> Step:
    """Args: account, mailbox. Deletes the row of an emptied mailbox, unless something still refers to it.

    Its change rows go with the log: they say that it was removed, and its id never means another one.
    """
    key = args
    for table, column in (("removed", "mailbox_id"), ("placement", "mailbox_id"), ("mailbox", "parent_id")):
        if tx.row(f"SELECT 1 FROM {table} WHERE account_id = ? AND {column} = ? LIMIT 1", key):
            return Step(0, True)
    count = tx.run("DELETE FROM mailbox WHERE account_id = ? AND id = ? AND removed_at IS NOT NULL", key)
    tx.run("DELETE FROM task WHERE kind = ? AND account_id = ? AND mailbox_id = ?", (MAILBOX_FORGET, *key))
    return Step(count, True)


def _empty_account(tx: Tx, limit: int, args: tuple[int, ...]) -> Step:
    """Args: account, index into ACCOUNT_TABLES. Deletes rows of one table of a removed account."""
    account_id, (table, columns) = args[0], ACCOUNT_TABLES[args[1]]
    if not tx.row("SELECT 1 FROM account WHERE id = ? AND removed_at IS NOT NULL", (account_id,)):
        return Step(0, True)  # a task that lies must not empty an account in use
    blob_ids: tuple[int, ...] = ()
    if table == "message":
        rows = tx.rows("SELECT blob_id FROM message WHERE account_id = ? ORDER BY id LIMIT ?", (account_id, limit))
        blob_ids = tuple(row[0] for row in rows)
    where = "reader_id = ?" if columns.startswith("account_id") else "account_id = ?"
    count = _delete_first(tx, table, columns, where, (account_id,), limit)
    return Step(count, count < limit, messages=len(blob_ids), blob_ids=blob_ids)


def _forget_account(tx: Tx, limit: int, args: tuple[int, ...]) -> Step:
    """Args: account. Deletes the row of an emptied account, with its tasks. Account ids are never used again."""
    tx.run("DELETE FROM task WHERE account_id = ?", args)
    return Step(tx.run("DELETE FROM account WHERE id = ? AND removed_at IS NOT NULL", args), True)


def _expire_removed(tx: Tx, limit: int, args: tuple[int, ...]) -> Step:
    """Args: account, cutoff. Deletes `removed` rows up to the cutoff, and the messages that then stand nowhere."""
    account_id, cutoff = args
    rows = tx.rows(
        "SELECT removed_at, mailbox_id, uid, message_id FROM removed WHERE account_id = ? AND removed_at <= ?"
        " ORDER BY removed_at, mailbox_id, uid LIMIT ?",
        (account_id, cutoff, limit),
    )
    if not rows:
        return Step(0, True)
    tx.run(
        "DELETE FROM removed WHERE account_id = ? AND (removed_at, mailbox_id, uid) <= (?, ?, ?)",
        (account_id, *rows[-1][:3]),
    )
    gone: list[Row] = []
    for part in _parts({row[3] for row in rows}):
        gone += tx.rows(
            f"DELETE FROM message WHERE account_id = ? AND id IN ({_MARKS})"
            " AND NOT EXISTS (SELECT 1 FROM placement p WHERE p.account_id = message.account_id"
            " AND p.message_id = message.id)"
            " AND NOT EXISTS (SELECT 1 FROM removed r WHERE r.account_id = message.account_id"
            " AND r.message_id = message.id) RETURNING blob_id",
            (account_id, *part),
        )
    return Step(len(rows), len(rows) < limit, messages=len(gone), blob_ids=tuple(row[0] for row in gone))


def _expire_changes(tx: Tx, limit: int, args: tuple[int, ...]) -> Step:
    """Args: account, cutoff. Deletes the oldest change rows as long as they are not younger than the cutoff."""
    account_id, cutoff = args
    rows = tx.rows("SELECT mod_seq, at FROM change WHERE account_id = ? ORDER BY mod_seq LIMIT ?", (account_id, limit))
    count = next((n for n, row in enumerate(rows) if row[1] > cutoff), len(rows))
    if not count:
        return Step(0, True)
    bound = rows[count - 1][0]
    tx.run("DELETE FROM change WHERE account_id = ? AND mod_seq <= ?", (account_id, bound))
    tx.run(
        "UPDATE account SET log_floor_mod_seq = ? WHERE id = ? AND log_floor_mod_seq < ?", (bound, account_id, bound)
    )
    return Step(count, count < limit)


def _expire_sending(tx: Tx, limit: int, args: tuple[int, ...]) -> Step:
    """Args: account, epoch hour. Deletes what the account sent in hours before it: at most a few dozen rows."""
    return Step(sending.expire(tx, *args), True)


def _expire_shared(tx: Tx, limit: int, args: tuple[int, ...]) -> Step:
    """Args: now, then the fields of `greylist.Rules`."""
    now, *rules = args
    count = expiry.expire(tx, now, limit, Rules(*rules))
    return Step(count, count < limit)


def _delete_blobs(tx: Tx, limit: int, args: tuple[int, ...]) -> Step:
    """Args: now, cutoff, blob ids. Deletes those no younger than the cutoff that nothing refers to; their files."""
    now, cutoff, *ids = args
    # In the same transaction as the removal: a backup either begins after it, or is seen here.
    if leases.holder_of(tx, leases.BACKUP, now) is not None:
        return Step(0, True)
    gone: list[Row] = []
    for part in _parts(ids):
        gone += tx.rows(
            f"DELETE FROM blob WHERE id IN ({_MARKS}) AND created_at <= ? AND NOT ({_IS_USED}) RETURNING id, file",
            (*part, cutoff),
        )
    for part in _parts([row[0] for row in gone if row[1] is None]):
        tx.run(f"DELETE FROM blob_inline WHERE blob_id IN ({_MARKS})", part)
    return Step(len(gone), True, files=tuple(row[1] for row in gone if row[1] is not None))


def _give_back_pages(tx: Tx, limit: int, args: tuple[int, ...]) -> Step:
    """Args: none. Hands free pages at the end of the file back to the file system. SQLite's own statement."""
    tx.rows(f"PRAGMA incremental_vacuum({limit})")
    return Step(limit, False)


_STEPS: Final[dict[Work, Callable[[Tx, int, tuple[int, ...]], Step]]] = {
    Work.EMPTY_MAILBOX: _empty_mailbox,
    Work.FORGET_MAILBOX: _forget_mailbox,
    Work.EMPTY_ACCOUNT: _empty_account,
    Work.FORGET_ACCOUNT: _forget_account,
    Work.EXPIRE_REMOVED: _expire_removed,
    Work.EXPIRE_CHANGES: _expire_changes,
    Work.EXPIRE_SENDING: _expire_sending,
    Work.EXPIRE_SHARED: _expire_shared,
    Work.DELETE_BLOBS: _delete_blobs,
    Work.GIVE_BACK_PAGES: _give_back_pages,
}


def _delete_first(tx: Tx, table: str, columns: str, where: str, args: tuple[int, ...], limit: int) -> int:
    """Delete the first `limit` rows in the order of `columns`, the rest of the key after `where`. Two statements."""
    row = tx.row(f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {columns} LIMIT 1 OFFSET ?", (*args, limit - 1))
    if row is None:
        return tx.run(f"DELETE FROM {table} WHERE {where}", args)
    marks = ", ".join("?" * len(row))
    return tx.run(f"DELETE FROM {table} WHERE {where} AND ({columns}) <= ({marks})", (*args, *row))


def _parts(ids: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """The ids in tuples of exactly PART, the last one filled up with a repeated id."""
    rest = tuple(ids)
    for start in range(0, len(rest), PART):
        part = rest[start : start + PART]
        yield part + (part[-1],) * (PART - len(part))


def tasks_due(tx: Tx, after_id: int, cutoff: int) -> list[Row]:
    """(id, kind, account, mailbox) of tasks to be done: removals at once, what waits for the retention after it."""
    return tx.rows(
        "SELECT id, kind, account_id, mailbox_id FROM task WHERE id > ? AND (kind = ? OR (kind IN (?, ?)"
        " AND created_at <= ?)) ORDER BY id LIMIT ?",
        (after_id, MAILBOX_REMOVE, MAILBOX_FORGET, ACCOUNT_REMOVE, cutoff, READ_ROWS),
    )


def accounts_due(tx: Tx, after_id: int, removed_cutoff: int, sending_hour: int) -> list[Row]:
    """(id, has expired `removed` rows, time of the oldest change, sent before that hour) of the next accounts."""
    return tx.rows(
        "SELECT id, EXISTS (SELECT 1 FROM removed r WHERE r.account_id = account.id AND r.removed_at <= ?),"
        " (SELECT at FROM change c WHERE c.account_id = account.id ORDER BY c.mod_seq LIMIT 1),"
        " EXISTS (SELECT 1 FROM sending s WHERE s.account_id = account.id AND s.hour < ?)"
        " FROM account WHERE id > ? AND removed_at IS NULL ORDER BY id LIMIT ?",
        (removed_cutoff, sending_hour, after_id, READ_ROWS),
    )


def blobs_after(tx: Tx, after_id: int) -> list[Row]:
    """(id, created_at, is used) of the next blobs."""
    return tx.rows(
        f"SELECT id, created_at, {_IS_USED} FROM blob WHERE id > ? ORDER BY id LIMIT ?", (after_id, READ_ROWS)
    )


def known_files(tx: Tx, files: tuple[str, ...]) -> set[str]:
    """Which of the files a row names."""
    marks = ", ".join("?" * len(files))
    return {row[0] for row in tx.rows(f"SELECT file FROM blob WHERE file IN ({marks})", files)}


def free_pages(tx: Tx) -> tuple[int, int]:
    """(free pages, all pages) of the database file. SQLite's own statements."""
    return tx.rows("PRAGMA freelist_count")[0][0], tx.rows("PRAGMA page_count")[0][0]
