"""The change log: one number for each transaction of an account, one row for each command and mailbox.

It feeds the views of selected mailboxes, and later CHANGEDSINCE, QRESYNC, JMAP /changes and the text index. There is no
index on placement.mod_seq, because it makes STORE 1:* three times dearer; a row here names the uids instead.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

from pochta.errors import Refusal, RefusalCode
from pochta.store.tx import Tx

UidRange = tuple[int, int]  # first and last, both included


class Kind(IntEnum):
    """What happened to the uids of a change row."""

    ADDED = 1
    FLAGS = 2
    REMOVED = 3
    MAILBOX = 4  # the mailbox itself: made, renamed, removed; no uids
    ANNOTATED = 5  # its annotations; in place of uids `encode_entries`


ACCOUNT: Final = 0  # mailbox_id of what is no mailbox's: subscriptions, annotations of the server, rights elsewhere
EVERYBODY: Final = 0  # in place of an account: what concerns all of them
_SERVER_CHANGES: Final = "server_changes"  # in `meta`: rises with each change that concerns all accounts

UIDS_PER_STEP: Final = 1000  # what one lane function touches at the most: 0.6 ms where flags change
SCANNED_MAX: Final = 50_000  # rows of the account looked at for those of one mailbox: 4 ms
MOVED_PER_STEP: Final = 500  # where rows move between tables with their indexes: 2-3 ms


def next_mod_seq(tx: Tx, account_id: int) -> int:
    """A mod_seq larger than any that a client of the account has seen (INV-3). One statement.

    Raises:
        Refusal: NOT_FOUND, the account was removed.
    """
    row = tx.row(
        "UPDATE account SET mod_seq = 1 + CASE WHEN mod_seq < ? THEN ? ELSE mod_seq END"
        " WHERE id = ? AND removed_at IS NULL RETURNING mod_seq",
        (tx.mod_seq_floor, tx.mod_seq_floor, account_id),
    )
    if row is None:
        raise Refusal(RefusalCode.NOT_FOUND, "This account no longer exists")
    mod_seq: int = row[0]
    return mod_seq


def mod_seqs(tx: Tx, account_ids: Iterable[int]) -> dict[int, int]:
    """The last mod_seq of each of the accounts that exist, and of EVERYBODY. One statement each."""
    found: dict[int, int] = {}
    for account_id in account_ids:
        if account_id == EVERYBODY:
            row = tx.row("SELECT coalesce(max(number), 0) FROM meta WHERE name = ?", (_SERVER_CHANGES,))
        else:
            row = tx.row("SELECT mod_seq FROM account WHERE id = ?", (account_id,))
        if row is not None:
            found[account_id] = row[0]
    return found


def next_ids(tx: Tx, account_id: int, count: int) -> int:
    """The first of `count` fresh numbers for mailboxes, messages and threads of the account."""
    row = tx.row("UPDATE account SET next_id = next_id + ? WHERE id = ? RETURNING next_id", (count, account_id))
    if row is None:
        raise Refusal(RefusalCode.NOT_FOUND, "This account no longer exists")
    first: int = row[0] - count
    return first


def record(tx: Tx, account_id: int, mod_seq: int, mailbox_id: int, kind: Kind, uids: str, *, now: int) -> None:
    """Log one change; `uids` as `encode_ranges` writes them."""
    tx.run(
        "INSERT INTO change (account_id, mod_seq, mailbox_id, kind, uids, at) VALUES (?, ?, ?, ?, ?, ?)",
        (account_id, mod_seq, mailbox_id, int(kind), uids, now),
    )


def record_once(tx: Tx, account_id: int, mod_seq: int, mailbox_id: int, kind: Kind, *, now: int) -> None:
    """As `record` without uids, where this transaction may have logged the same already."""
    tx.run(
        "INSERT INTO change (account_id, mod_seq, mailbox_id, kind, uids, at) VALUES (?, ?, ?, ?, '', ?)"
        " ON CONFLICT DO NOTHING",
        (account_id, mod_seq, mailbox_id, int(kind), now),
    )


def record_of_account(tx: Tx, account_id: int, *, now: int) -> None:
    """Log that something has changed that no mailbox of the account shows; nothing for an account that was removed."""
    if tx.row("SELECT 1 FROM account WHERE id = ? AND removed_at IS NULL", (account_id,)) is None:
        return
    mod_seq = next_mod_seq(tx, account_id)
    record(tx, account_id, mod_seq, ACCOUNT, Kind.MAILBOX, "", now=now)
    tx.hint(account_id, mod_seq)


def announce_to_everybody(tx: Tx) -> None:
    """Tell that something has changed that concerns all accounts. One statement."""
    sql = "INSERT INTO meta (name, number) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET number = meta.number + 1"
    tx.run(sql, (_SERVER_CHANGES,))
    tx.hint(EVERYBODY, 0)


def encode_entries(reader_id: int, entries: Iterable[str]) -> str:
    """Names of annotations, as a row of the log holds them; the private ones are the reader's."""
    return "\n".join([str(reader_id), *entries])


def decode_entries(text: str) -> tuple[int, list[str]]:
    """What `encode_entries` wrote."""
    reader_id, *entries = text.split("\n")
    return int(reader_id), entries


def encode_ranges(uids: Sequence[int]) -> str:
    """Rising uids as text: `[1, 2, 3, 7]` is `1:3,7`."""
    parts: list[str] = []
    for first, last in ranges_of(uids):
        parts.append(str(first) if first == last else f"{first}:{last}")
    return ",".join(parts)


def decode_ranges(text: str) -> list[UidRange]:
    """The ranges that `encode_ranges` wrote."""
    ranges: list[UidRange] = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        if first:
            ranges.append((int(first), int(last or first)))
    return ranges


def ranges_of(uids: Sequence[int]) -> list[UidRange]:
    """Rising uids as the fewest ranges that hold exactly them."""
    if not uids:
        return []
    if uids[-1] - uids[0] == len(uids) - 1:
        return [(uids[0], uids[-1])]
    ranges: list[UidRange] = []
    first = last = uids[0]
    for uid in uids:
        if uid > last + 1:
            ranges.append((first, last))
            first = uid
        last = uid
    ranges.append((first, last))
    return ranges


def merge_ranges(ranges: Iterable[UidRange]) -> list[UidRange]:
    """The same uids, rising, overlaps and neighbours joined."""
    merged: list[UidRange] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            if last > merged[-1][1]:
                merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged


def common_ranges(ranges: Sequence[UidRange], others: Sequence[UidRange]) -> list[UidRange]:
    """The uids that are in both; each rises without overlap."""
    found: list[UidRange] = []
    at = 0
    for first, last in ranges:
        while at < len(others) and others[at][1] < first:
            at += 1
        index = at
        while index < len(others) and others[index][0] <= last:
            found.append((max(first, others[index][0]), min(last, others[index][1])))
            index += 1
    return found


def since(tx: Tx, account_id: int, mailbox_id: int, mod_seq: int, *, limit: int) -> list[tuple[int, str]] | None:
    """(kind, uids) of the mailbox's changes after `mod_seq`, oldest first; None when there are more than `limit`.

    None, too, when the account has more than SCANNED_MAX: the key of the log begins with the number, not the mailbox.
    Two statements.
    """
    far = tx.row(
        "SELECT mod_seq FROM change WHERE account_id = ? AND mod_seq > ? ORDER BY mod_seq LIMIT 1 OFFSET ?",
        (account_id, mod_seq, SCANNED_MAX),
    )
    if far is not None:
        return None
    rows = tx.rows(
        "SELECT kind, uids FROM change WHERE account_id = ? AND mod_seq > ? AND mailbox_id = ?"
        " ORDER BY mod_seq, kind LIMIT ?",
        (account_id, mod_seq, mailbox_id, limit + 1),
    )
    return None if len(rows) > limit else [(kind, uids) for kind, uids in rows]


def since_of_account(
    tx: Tx, account_id: int, mod_seq: int, *, limit: int
) -> tuple[list[tuple[int, int, int, str]], bool] | None:
    """(mod_seq, mailbox_id, kind, entries) of the account's changes after `mod_seq`, oldest first; whether it has more.

    All rows of one mod_seq come together, so that there may be a few more than `limit`. None when the log does not
    reach back. Three statements.
    """
    floor = tx.row("SELECT log_floor_mod_seq FROM account WHERE id = ?", (account_id,))
    if floor is None or floor[0] > mod_seq:
        return None
    args = (account_id, mod_seq)
    far = tx.row(
        "SELECT mod_seq FROM change WHERE account_id = ? AND mod_seq > ? ORDER BY mod_seq LIMIT 1 OFFSET ?",
        (*args, limit),
    )
    up_to = "" if far is None else " AND mod_seq <= ?"
    rows = tx.rows(
        "SELECT mod_seq, mailbox_id, kind, CASE WHEN kind = ? THEN uids ELSE '' END FROM change"
        f" WHERE account_id = ? AND mod_seq > ?{up_to} ORDER BY mod_seq, mailbox_id",
        (int(Kind.ANNOTATED), *args, *(() if far is None else (far[0],))),
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows], far is not None


def named_by(tx: Tx, account_id: int, mailbox_id: int, kind: Kind, mod_seqs: Iterable[int]) -> list[UidRange]:
    """The uids that the changes with these numbers name. One statement each."""
    found: list[UidRange] = []
    for mod_seq in mod_seqs:
        row = tx.row(
            "SELECT uids FROM change WHERE account_id = ? AND mod_seq = ? AND mailbox_id = ? AND kind = ?",
            (account_id, mod_seq, mailbox_id, int(kind)),
        )
        found += [] if row is None else decode_ranges(row[0])
    return merge_ranges(found)
