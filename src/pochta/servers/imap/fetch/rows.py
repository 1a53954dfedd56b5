"""The rows of a FETCH: what the store has of a slice's messages, of those too that were removed meanwhile (INV-8)."""

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from pochta.proto.imap.view import Slice
from pochta.servers.imap.selected import Selected
from pochta.store import placements
from pochta.store.tx import Row, Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

# Rows of usual mail take 1 KiB each; ENVELOPE and BODYSTRUCTURE of one hostile message take up to a megabyte each
ROWS_MAX_BYTES: Final = 2 * 1024 * 1024


async def read(
    connection: "ImapConnection", selected: Selected, part: Slice, columns: tuple[str, ...], since: int | None
) -> tuple[Slice, list[Row]]:
    """(uid, *columns) of the slice's messages, rising; those of removed ones too while they are kept.

    Of a slice with very much in its rows only the beginning: the first value is the part that was read. With `since`,
    removed messages are left out: the client hears of their end.
    """
    if not columns:
        return part, [(uid,) for uid in part.uids]
    first, last = part.chunk.uids[part.start], part.chunk.uids[part.stop - 1]
    args = (selected.account_id, selected.mailbox_id, first, last)
    store = connection.context.store
    rows, has_more = await store.read(
        selected.account_id, _read_rows, "placement", columns, *args, since, selected.standing.seen_by
    )
    if has_more:
        part = _up_to(part, rows[-1][0])
    if len(rows) == part.stop - part.start:
        return part, rows
    uids = set(part.uids)
    if since is not None:
        return part, [row for row in rows if row[0] in uids]
    # INV-8: a command works on the view it began with
    gone, has_more = await store.read(selected.account_id, _read_rows, "removed", columns, *args, None)
    if has_more:
        part = _up_to(part, gone[-1][0])
        uids = set(part.uids)
    if "p.mod_seq" in columns:
        # what stands there is the mod_seq of the removal, of which the client was not told
        at = 1 + columns.index("p.mod_seq")
        gone = [(*row[:at], selected.told_mod_seq, *row[at + 1 :]) for row in gone]
    if "p.flags" in columns:
        # and the flags are the owner's: to its reader a message looks as it did
        at, known = 1 + columns.index("p.flags"), dict(zip(part.uids, part.flags, strict=True))
        gone = [(*row[:at], known.get(row[0], row[at]), *row[at + 1 :]) for row in gone]
    return part, sorted((row for row in (*rows, *gone) if row[0] in uids), key=_uid_of)


def _up_to(part: Slice, uid: int) -> Slice:
    """The beginning of the slice, up to `uid`."""
    return part._replace(stop=bisect_right(part.chunk.uids, uid, part.start, part.stop))


def _uid_of(row: Row) -> int:
    uid: int = row[0]
    return uid


def _read_rows(
    tx: Tx,
    table: str,
    columns: tuple[str, ...],
    account_id: int,
    mailbox_id: int,
    first: int,
    last: int,
    since: int | None,
    seen_by: int = 0,
) -> tuple[list[Row], bool]:
    if seen_by and "p.flags" in columns:
        return _read_rows_of_reader(tx, columns, account_id, mailbox_id, first, last, since, seen_by)
    is_joined = any(column.startswith("m.") for column in columns)
    join = " JOIN message m ON m.account_id = p.account_id AND m.id = p.message_id" if is_joined else ""
    sql = (
        f"SELECT p.uid, {', '.join(columns)} FROM {table} p{join}"
        " WHERE p.account_id = ? AND p.mailbox_id = ? AND p.uid BETWEEN ? AND ?"
        f"{'' if since is None else ' AND p.mod_seq > ?'} ORDER BY p.uid"
    )
    args = (account_id, mailbox_id, first, last, *(() if since is None else (since,)))
    return tx.rows_within(sql, args, ROWS_MAX_BYTES) if is_joined else (tx.rows(sql, args), False)


def _read_rows_of_reader(
    tx: Tx,
    columns: tuple[str, ...],
    account_id: int,
    mailbox_id: int,
    first: int,
    last: int,
    since: int | None,
    seen_by: int,
) -> tuple[list[Row], bool]:
    """As `_read_rows`, with \\Seen as the reader has it in place of the stored one."""
    rows, has_more = _read_rows(tx, "placement", columns, account_id, mailbox_id, first, last, since)
    merged: dict[int, int] = (
        dict(placements.flags_of(tx, account_id, mailbox_id, [(first, last)], seen_by)) if rows else {}
    )
    at = 1 + columns.index("p.flags")
    return [(*row[:at], merged[row[0]], *row[at + 1 :]) for row in rows], has_more
