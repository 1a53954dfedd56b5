"""Puts a great number of messages or accounts into a stopped store within seconds, as if they had come one by one.

All messages of a call share the bytes of one message, but each is a message of its own with its own placement:
counters, quota, change log and numbers are what `pochta check` wants to see.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pochta.delivery.intake import new_message
from pochta.index import file
from pochta.index.texts import MessageText, text_of
from pochta.mime.facts import facts
from pochta.mime.parse import parse
from pochta.store import blobs, changes, directory, mailboxes, messages, sqlite
from pochta.store.blobs import NewBlob
from pochta.store.sqlite import SqliteTx

UNSEEN_EVERY = 5
ACCOUNTS_A_STEP = 1000
ENTRIES_A_STEP = 256  # as many as the server adds to the index at once

Progress = Callable[[int], None]  # how many more

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)"


@contextmanager
def writing(data_dir: Path) -> Iterator[SqliteTx]:
    """One transaction of a store that is stopped, and thrown away if it fails: nothing is durable until the end."""
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    try:
        connection.pragma("journal_mode", "off")
        connection.pragma("synchronous", "off")
        connection.pragma("cache_size", -512 * 1024)
        connection.execute("BEGIN IMMEDIATE")
        yield SqliteTx(connection, 0)
        connection.execute("COMMIT")
        connection.pragma("journal_mode", "wal")
    finally:
        connection.close()


def fill(
    data_dir: Path, address: str, path: str, count: int, message: bytes, *, unseen_every: int = UNSEEN_EVERY
) -> float:
    """Make the mailbox, unless it is INBOX, with `count` copies of the message; the seconds it took.

    Of each `unseen_every` the first is unseen.
    """
    began = time.perf_counter()
    with writing(data_dir) as tx:
        _insert(tx, address, path, count, message, unseen_every)
    return time.perf_counter() - began


def fill_accounts(data_dir: Path, domain: str, local_parts: Sequence[str], credential: str, tell: Progress) -> None:
    """Accounts with their first mailboxes, which share one password's hash."""
    now = int(time.time())
    with writing(data_dir) as tx:
        for start in range(0, len(local_parts), ACCOUNTS_A_STEP):
            step = local_parts[start : start + ACCOUNTS_A_STEP]
            for one in step:
                directory.add_account(tx, domain, one, f"{one}@{domain}", credential, 0, now)
            tell(len(step))


def fill_index(data_dir: Path, address: str, tell: Progress) -> None:
    """The text index of an account, as the server would have made it; each text is folded once, not once a message."""
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME, writable=False)
    texts: dict[int, MessageText] = {}
    try:
        tx = SqliteTx(connection, 0)
        ((account_id, created_at),) = tx.rows("SELECT id, created_at FROM account WHERE address = ?", (address,))
        made = file.IndexFile(file.successor(data_dir / file.FOLDER_NAME, account_id), account_id, created_at)
        last_id, has_more = 0, True
        while has_more:
            rows = tx.rows(
                "SELECT id, created_mod_seq, size, received_at, blob_id FROM message WHERE account_id = ? AND id > ?"
                " ORDER BY id LIMIT ?",
                (account_id, last_id, ENTRIES_A_STEP),
            )
            for blob_id in {row[4] for row in rows} - texts.keys():
                texts[blob_id] = _text(tx, blob_id)
            if rows:
                last_id = rows[-1][0]
                tell(made.add([file.Entry(row[0], row[1], row[2], row[3], texts[row[4]]) for row in rows], last_id))
            has_more = len(rows) == ENTRIES_A_STEP
        made.close()
    finally:
        connection.close()


def _text(tx: SqliteTx, blob_id: int) -> MessageText:
    ((data,),) = tx.rows("SELECT bytes FROM blob_inline WHERE blob_id = ?", (blob_id,))
    return text_of(parse(data), lambda start, stop: bytes(data[start:stop]))


def _insert(tx: SqliteTx, address: str, path: str, count: int, message: bytes, unseen_every: int) -> None:
    now = int(time.time())
    new = new_message(NewBlob(len(message), message, None), facts(message), now)
    (account_id,) = tx.rows("SELECT id FROM account WHERE address = ?", (address,))[0]
    size = len(message)
    is_inbox = mailboxes.is_inbox(path)
    mailbox_id = mailboxes.find_inbox(tx, account_id) if is_inbox else mailboxes.create(tx, account_id, path, now)
    blob_id = blobs.insert(tx, new.blob, now)
    mod_seq = changes.next_mod_seq(tx, account_id)
    first_id = changes.next_ids(tx, account_id, count)
    unseen = (count + unseen_every - 1) // unseen_every
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
        (count, account_id, mailbox_id, first_uid, first_id, unseen_every, size, now - count, now, mod_seq, mod_seq),
    )
    uids = changes.encode_ranges(range(first_uid, first_uid + count))
    changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.ADDED, uids, now=now)
