"""What the index reads of the store: accounts, and messages in the order of their ids.

Statements in the words that every backend shares; the text of a message is made in the feeder's thread.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from pochta.errors import Corrupt
from pochta.index.file import Entry, Witness
from pochta.index.texts import NOTHING, Read, text_of
from pochta.mime.parse import Scanner, parse
from pochta.store.blobs import Blobs, StoredBlob
from pochta.store.tx import Row, Tx

BATCH_ROWS: Final = 256
BATCH_BYTES: Final = 512 * 1024  # of inline bytes read at once: a millisecond of the loop
ACCOUNTS: Final = 200  # read at once
IDS: Final = 1000  # compared at once: 0.4 ms
CHUNK_BYTES: Final = 256 * 1024


class Account(NamedTuple):
    """How far an account is; `message_count` leaves out what was removed and is still kept, `has_messages` does not."""

    id: int
    created_at: int
    mod_seq: int
    next_id: int
    message_count: int
    has_messages: bool


class Source(NamedTuple):
    """A message to index."""

    id: int
    mod_seq: int
    size: int
    received_at: int
    blob: StoredBlob


_ACCOUNT: Final = (
    "SELECT id, created_at, mod_seq, next_id, message_count,"
    " EXISTS (SELECT 1 FROM message WHERE message.account_id = account.id)"
    " FROM account WHERE removed_at IS NULL AND"
)


def accounts_after(tx: Tx, after_id: int) -> list[Account]:
    """The next accounts. One statement."""
    return [_account(row) for row in tx.rows(f"{_ACCOUNT} id > ? ORDER BY id LIMIT ?", (after_id, ACCOUNTS))]


def account(tx: Tx, account_id: int) -> Account | None:
    """The account; None when it was removed. One statement."""
    row = tx.row(f"{_ACCOUNT} id = ?", (account_id,))
    return None if row is None else _account(row)


def _account(row: Row) -> Account:
    return Account._make((*row[:-1], bool(row[-1])))


def fits(tx: Tx, witness: Witness) -> bool:
    """Whether a file was made of this store as it is, not of another one or of a state that was given up. Two reads.

    A store that was put back to an earlier state gives its numbers out again, so a message id may mean another message;
    then the last one indexed is not there yet, or differs in when it came.
    """
    found = account(tx, witness.account_id)
    if found is None or found.created_at != witness.account_created_at or found.next_id <= witness.last_id:
        return False
    if not witness.id:
        return True
    row = tx.row(
        "SELECT created_mod_seq, size, received_at FROM message WHERE account_id = ? AND id = ?",
        (witness.account_id, witness.id),
    )
    return row is None or row == (witness.mod_seq, witness.size, witness.received_at)


def messages_after(tx: Tx, account_id: int, after_id: int) -> tuple[list[Source], bool]:
    """The next messages of the account by id, and whether there are more. One statement."""
    rows, has_more = tx.rows_within(
        "SELECT m.id, m.created_mod_seq, m.size, m.received_at, b.id, b.size, i.bytes, b.file FROM message m"
        " LEFT JOIN blob b ON b.id = m.blob_id LEFT JOIN blob_inline i ON i.blob_id = b.id"
        " WHERE m.account_id = ? AND m.id > ? ORDER BY m.id LIMIT ?",
        (account_id, after_id, BATCH_ROWS),
        BATCH_BYTES,
    )
    found = [Source(row[0], row[1], row[2], row[3], StoredBlob(*row[4:])) for row in rows]
    return found, has_more or len(rows) == BATCH_ROWS


def ids_between(tx: Tx, account_id: int, first: int, last: int) -> set[int]:
    """The message ids of the account in a range, the first IDS + 1 of them. One statement."""
    rows = tx.rows(
        "SELECT id FROM message WHERE account_id = ? AND id BETWEEN ? AND ? ORDER BY id LIMIT ?",
        (account_id, first, last, IDS + 1),
    )
    return {row[0] for row in rows}


def entries(blobs: Blobs, sources: list[Source]) -> Iterator[Entry]:
    """What is put into the index; a damaged message holds nothing that is known."""
    for one in sources:
        try:
            with _opened(blobs, one.blob) as read:
                if one.blob.inline is not None:
                    root = parse(one.blob.inline)
                else:
                    scanner = Scanner()
                    for start in range(0, one.blob.size, CHUNK_BYTES):
                        scanner.feed(read(start, min(start + CHUNK_BYTES, one.blob.size)))
                    root = scanner.finish()
                text = text_of(root, read)
        except Corrupt:  # whoever reads the message tells of it
            text = NOTHING
        yield Entry(one.id, one.mod_seq, one.size, one.received_at, text)


@contextmanager
def _opened(blobs: Blobs, blob: StoredBlob) -> Iterator[Read]:
    """The bytes of a message, to be read here and there.

    Raises:
        Corrupt: there are not as many as its row says.
    """
    if blob.inline is not None and len(blob.inline) == blob.size:
        inline = blob.inline
        yield lambda start, stop: inline[start:stop]
        return
    if blob.file is None:
        raise Corrupt("blob", blob.id)
    fd = blobs.open_file(blob.file)

    def read(start: int, stop: int) -> bytes:
        data = os.pread(fd, stop - start, start)
        if len(data) != stop - start:
            raise Corrupt("blob", blob.id)
        return data

    try:
        yield read
    finally:
        os.close(fd)
