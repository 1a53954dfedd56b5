"""INBOX as one POP3 session has it: read once at the sign-in, changed once at QUIT.

What the list names stays readable though it is removed elsewhere: message and blob live at least `limits.retention_s`
behind their last placement. QUIT removes by uid exactly what was marked, whatever flags or other sessions say.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pochta import clock
from pochta.errors import Corrupt
from pochta.proto.pop3.maildrop import Maildrop
from pochta.store import changes, flags, mailboxes, placements
from pochta.store.blobs import StoredBlob
from pochta.store.changes import UidRange
from pochta.store.placements import FlagMode
from pochta.store.store import Store
from pochta.store.tx import Row, Tx

INLINE_MAX_MESSAGES: Final = 400  # read on the spot, 0.5 us each; more goes in slices
MESSAGES_MAX: Final = 1_000_000  # of one session, 17 bytes each (INV-7); the rest is listed once these are removed
RANGES_A_STEP: Final = 128  # of one step of the lane: two to five statements each

_ROWS: Final = (
    "SELECT uid, size, message_id FROM placement WHERE account_id = ? AND mailbox_id = ? ORDER BY uid LIMIT ?"
)


class Inbox(NamedTuple):
    """The frozen list, and where its messages are: `message_ids[index]`."""

    account_id: int
    mailbox_id: int
    message_ids: "array[int]"
    maildrop: Maildrop


class StoredMessage(NamedTuple):
    """A message that can be read."""

    header_size: int
    blob: StoredBlob


def _read_inbox(tx: Tx, account_id: int) -> tuple[int, int, list[Row] | None]:
    """(mailbox, UIDVALIDITY, rows of its messages unless they are many)."""
    mailbox_id = mailboxes.find_inbox(tx, account_id)
    row = tx.row(
        "SELECT uid_validity, message_count FROM mailbox WHERE account_id = ? AND id = ?", (account_id, mailbox_id)
    )
    assert row is not None
    is_small = row[1] <= INLINE_MAX_MESSAGES
    return mailbox_id, row[0], tx.rows(_ROWS, (account_id, mailbox_id, INLINE_MAX_MESSAGES)) if is_small else None


async def load(store: Store, account_id: int) -> Inbox:
    """INBOX as it is now.

    Raises: Refusal: NOT_FOUND, the account was removed.
    """
    mailbox_id, uid_validity, rows = await store.read(account_id, _read_inbox, account_id)
    uids, sizes, message_ids = array("I"), array("I"), array("q")
    if rows is None:
        async with store.snapshot(account_id) as snapshot:
            async for part in snapshot.slices(_ROWS, (account_id, mailbox_id, MESSAGES_MAX)):
                _extend(part, uids, sizes, message_ids)
    else:
        _extend(rows, uids, sizes, message_ids)
    return Inbox(account_id, mailbox_id, message_ids, Maildrop(uid_validity, uids, sizes))


def _extend(rows: Sequence[Row], uids: "array[int]", sizes: "array[int]", message_ids: "array[int]") -> None:
    uids.extend([row[0] for row in rows])
    sizes.extend([row[1] for row in rows])
    message_ids.extend([row[2] for row in rows])


def read_messages(tx: Tx, account_id: int, ids: tuple[int, ...]) -> list[StoredMessage | Corrupt | None]:
    """Each message with its bytes where they are inline; None where it is gone for good. One statement each."""
    return [_read_message(tx, account_id, message_id) for message_id in ids]


def _read_message(tx: Tx, account_id: int, message_id: int) -> StoredMessage | Corrupt | None:
    row = tx.row(
        "SELECT m.header_size, m.blob_id, b.size, i.bytes, b.file FROM message m LEFT JOIN blob b ON b.id = m.blob_id"
        " LEFT JOIN blob_inline i ON i.blob_id = m.blob_id WHERE m.account_id = ? AND m.id = ?",
        (account_id, message_id),
    )
    if row is None:
        return None
    if (row[3] is None) == (row[4] is None):
        return Corrupt("blob", row[1])
    return StoredMessage(row[0], StoredBlob(*row[1:]))


async def remove_deleted(store: Store, inbox: Inbox) -> None:
    """Remove what is marked as deleted, durably (INV-1); what others have removed already is passed over.

    Raises: TryLater: the disk is full; some may be removed. Refusal: NOT_FOUND, the account was removed.
    """
    for ranges in _steps(inbox.maildrop.deleted_uids(), changes.MOVED_PER_STEP):
        await store.write(
            inbox.account_id, placements.expunge, inbox.account_id, inbox.mailbox_id, ranges, int(clock.now_s()), False
        )


async def mark_retrieved(store: Store, inbox: Inbox) -> None:
    """Set \\Seen on what was retrieved and stays, as other servers have it.

    Raises: as `remove_deleted`.
    """
    for ranges in _steps(inbox.maildrop.retrieved_uids(), changes.UIDS_PER_STEP):
        await store.write(
            inbox.account_id,
            placements.set_flags,
            inbox.account_id,
            inbox.mailbox_id,
            ranges,
            FlagMode.ADD,
            flags.SEEN,
            (),
            int(clock.now_s()),
            durable=False,
        )


def _steps(uids: Sequence[int], size: int) -> Iterator[tuple[UidRange, ...]]:
    """Exactly these uids as ranges, so many at a time as one step of the lane may touch."""
    for start in range(0, len(uids), size):
        ranges = changes.ranges_of(uids[start : start + size])
        for at in range(0, len(ranges), RANGES_A_STEP):
            yield tuple(ranges[at : at + RANGES_A_STEP])
