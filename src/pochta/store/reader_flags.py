"""Flags as one reader of a shared mailbox sees and sets them: \\Seen is their own, the others are everybody's.

A row of `reader_seen` says that the reader has seen the message. What changes it raises the message's mod_seq, for
everybody: a client of another reader is told flags that it knows already, which is harmless and cheaper than a number
for each reader.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from pochta.errors import Refusal, RefusalCode
from pochta.store import changes
from pochta.store.changes import UidRange
from pochta.store.flags import SEEN
from pochta.store.tx import Row, Tx

# the owner's \Seen away, the reader's in its place
MERGED: Final = f"(p.flags & ~{SEEN}) | CASE WHEN s.uid IS NULL THEN 0 ELSE {SEEN} END"
JOINED: Final = (
    "placement p LEFT JOIN reader_seen s ON s.account_id = p.account_id AND s.mailbox_id = p.mailbox_id"
    " AND s.reader_id = ? AND s.uid = p.uid"
)
COMMON_MAX: Final = 100_000  # messages whose numbers change when \\Seen is shared or parted: as COPY, 3 us each
_IN_RANGE: Final = "account_id = ? AND mailbox_id = ? AND uid BETWEEN ? AND ?"


def rows_in(
    tx: Tx, columns: str, account_id: int, mailbox_id: int, reader_id: int, ranges: Iterable[UidRange]
) -> list[Row]:
    """(uid, flags as the reader has them, columns named as `p.…`) of what stands in `ranges`, rising. One each."""
    rows: list[Row] = []
    for first, last in ranges:
        rows += tx.rows(
            f"SELECT p.uid, {MERGED}{columns} FROM {JOINED} WHERE p.account_id = ? AND p.mailbox_id = ?"
            " AND p.uid BETWEEN ? AND ? ORDER BY p.uid",
            (reader_id, account_id, mailbox_id, first, last),
        )
    return rows


def set_seen(
    tx: Tx, account_id: int, mailbox_id: int, reader_id: int, seen: Sequence[int], unseen: Sequence[int]
) -> None:
    """Note what the reader has seen now, and what no longer; uids rise. One statement for each range."""
    for first, last in changes.ranges_of(unseen):
        tx.run(
            f"DELETE FROM reader_seen WHERE {_IN_RANGE} AND reader_id = ?",
            (account_id, mailbox_id, first, last, reader_id),
        )
    for first, last in changes.ranges_of(seen):
        tx.run(
            "INSERT INTO reader_seen (account_id, mailbox_id, reader_id, uid) SELECT account_id, mailbox_id, ?, uid"
            f" FROM placement WHERE {_IN_RANGE} ON CONFLICT DO NOTHING",
            (reader_id, account_id, mailbox_id, first, last),
        )


def unseen_count(tx: Tx, account_id: int, mailbox_id: int, reader_id: int, message_count: int) -> int:
    """How many of the messages the reader has not seen. One statement, 0.02 us for each that was."""
    row = tx.row(
        "SELECT count(*) FROM reader_seen WHERE account_id = ? AND mailbox_id = ? AND reader_id = ?",
        (account_id, mailbox_id, reader_id),
    )
    return message_count - (int(row[0]) if row else 0)


def forget(tx: Tx, account_id: int, mailbox_id: int, ranges: Iterable[UidRange], condition: str) -> None:
    """What all readers have seen of messages that are removed; `condition` narrows the placements, as `AND …`."""
    for first, last in ranges:
        args = (account_id, mailbox_id, first, last)
        tx.run(
            f"DELETE FROM reader_seen WHERE {_IN_RANGE} AND uid IN (SELECT uid FROM placement WHERE {_IN_RANGE}"
            f"{condition})",
            (*args, *args),
        )


def move(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Iterable[UidRange],
    uids: Sequence[int],
    target_id: int,
    first_uid: int,
    mover_id: int,
) -> None:
    """Let what readers have seen go along to another mailbox of the account: `uids`, which rise, from `first_uid` on.

    What the mover has seen goes with the flags. One statement for each range.
    """
    for first, last in ranges:
        uid = first_uid + bisect_left(uids, first)
        tx.run(
            "INSERT INTO reader_seen (account_id, mailbox_id, reader_id, uid)"
            " SELECT s.account_id, ?, s.reader_id, ? + p.place FROM reader_seen s JOIN"
            f" (SELECT uid, row_number() OVER (ORDER BY uid) AS place FROM placement WHERE {_IN_RANGE}) p"
            " ON p.uid = s.uid WHERE s.account_id = ? AND s.mailbox_id = ? AND s.uid BETWEEN ? AND ?"
            " AND s.reader_id <> ?",
            (target_id, uid - 1, *(account_id, mailbox_id, first, last) * 2, mover_id),
        )


def set_common(tx: Tx, account_id: int, mailbox_id: int, is_common: bool, now: int) -> None:
    """Let all readers have one \\Seen, the owner's, or each their own again. One statement for all messages.

    Every message gets a new mod_seq: its flags may look different to anybody but the owner.

    Raises:
        Refusal: LIMIT, the mailbox is too large.
    """
    row = tx.row(
        "SELECT is_seen_common, message_count FROM mailbox WHERE account_id = ? AND id = ?", (account_id, mailbox_id)
    )
    if row is None or bool(row[0]) == is_common:
        return
    if row[1] > COMMON_MAX:
        raise Refusal(RefusalCode.LIMIT, f"Only while a mailbox has at most {COMMON_MAX} messages")
    mod_seq = changes.next_mod_seq(tx, account_id)
    key = (account_id, mailbox_id)
    tx.run("UPDATE placement SET mod_seq = ? WHERE account_id = ? AND mailbox_id = ?", (mod_seq, *key))
    tx.run(
        "UPDATE mailbox SET is_seen_common = ?, mod_seq = ? WHERE account_id = ? AND id = ?",
        (int(is_common), mod_seq, *key),
    )
    rows = tx.rows("SELECT uid FROM placement WHERE account_id = ? AND mailbox_id = ? ORDER BY uid", key)
    if rows:
        uids = changes.encode_ranges([uid for (uid,) in rows])
        changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.FLAGS, uids, now=now)
    changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.MAILBOX, "", now=now)
    tx.hint(account_id, mod_seq)


def is_common(tx: Tx, account_id: int, mailbox_id: int) -> bool:
    """Whether all readers of the mailbox have one \\Seen. One statement."""
    row = tx.row("SELECT is_seen_common FROM mailbox WHERE account_id = ? AND id = ?", (account_id, mailbox_id))
    return row is not None and bool(row[0])
