"""Puts a great number of messages into a stopped store within seconds, by SQL, as if they had been appended.

All of them share the bytes of one message, but each is a message of its own with its own placement: counters, quota,
change log and numbers are what `pochta check` wants to see.
"""

import time
from pathlib import Path

import apsw

from pochta.delivery.intake import new_message
from pochta.mime.facts import facts
from pochta.store import blobs, changes, mailboxes, messages, sqlite
from pochta.store.blobs import NewBlob

UNSEEN_EVERY = 5

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)"


def fill(data_dir: Path, address: str, path: str, count: int, message: bytes) -> float:
    """Make the mailbox with `count` copies of the message, every fifth one unseen; the seconds it took."""
    began = time.perf_counter()
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    try:
        connection.pragma("journal_mode", "off")  # the store is stopped, and thrown away if this fails
        connection.pragma("synchronous", "off")
        connection.pragma("cache_size", -512 * 1024)
        connection.execute("BEGIN IMMEDIATE")
        _insert(connection, address, path, count, message)
        connection.execute("COMMIT")
        connection.pragma("journal_mode", "wal")
    finally:
        connection.close()
    return time.perf_counter() - began


def _insert(connection: apsw.Connection, address: str, path: str, count: int, message: bytes) -> None:
    now = int(time.time())
    tx = sqlite.SqliteTx(connection, 0)
    new = new_message(NewBlob(len(message), message, None), facts(message), now)
    (account_id,) = tx.rows("SELECT id FROM account WHERE address = ?", (address,))[0]
    size = len(message)
    mailbox_id = mailboxes.create(tx, account_id, path, now)
    blob_id = blobs.insert(tx, new.blob, now)
    mod_seq = changes.next_mod_seq(tx, account_id)
    first_id = changes.next_ids(tx, account_id, count)
    unseen = (count + UNSEEN_EVERY - 1) // UNSEEN_EVERY
    first_uid = messages.grow_mailbox(
        tx, account_id, mailbox_id, mod_seq, count=count, unseen=unseen, deleted=0, size=count * size
    )
    tx.run(
        "UPDATE account SET used_bytes = used_bytes + ?, message_count = message_count + ? WHERE id = ?",
        (count * size, count, account_id),
    )
    tx.run(
        f"{_NUMBERS} INSERT INTO message (account_id, id, blob_id, size, header_size, thread_id, received_at, sent_at,"
        " sent_day, created_mod_seq, derived_version, base_subject, from_key, to_key, cc_key, preview, envelope,"
        " body_structure, header_core) SELECT ?, ? + i, ?, ?, ?, ? + i, ? + i, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
        " FROM n",
        (
            *(count, account_id, first_id, blob_id, size, new.header_size, first_id, now - count, new.sent_at),
            *(new.sent_day, mod_seq, new.derived_version, new.base_subject, new.from_key, new.to_key, new.cc_key),
            *(new.preview, new.envelope, new.body_structure, new.header_core),
        ),
    )
    tx.run(
        f"{_NUMBERS} INSERT INTO placement (account_id, mailbox_id, uid, message_id, flags, size, internal_date,"
        " zone_minutes, saved_at, mod_seq, created_mod_seq) SELECT ?, ?, ? + i, ? + i, min(1, i % ?), ?, ? + i, 0, ?,"
        " ?, ? FROM n",
        (count, account_id, mailbox_id, first_uid, first_id, UNSEEN_EVERY, size, now - count, now, mod_seq, mod_seq),
    )
    uids = changes.encode_ranges(range(first_uid, first_uid + count))
    changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.ADDED, uids, now=now)
