"""Messages come in: by delivery (to several accounts at once) or by append (to one mailbox).

A message belongs to an account and stands in mailboxes through placements. Its bytes are a blob, shared among the
recipients of one delivery. Threads are fixed here, by Message-ID and References with an equal base subject; a message
that joins two threads takes the older; threads never merge.
"""

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import access, blobs, changes, flags, mailboxes, posting, reader_flags
from pochta.store.rights import Right
from pochta.store.tx import Tx

UID_LIMIT: Final = 0xFFFF_FFFF  # RFC 3501 §2.3.1.1: uids are 32-bit


_COPIED: Final = (
    "blob_id, size, header_size, received_at, sent_at, sent_day, derived_version, base_subject, from_key, to_key,"
    " cc_key, preview, envelope, body_structure, header_core, refs"
)


class NewMessage(NamedTuple):
    """A message that is ready to be stored: its durable bytes and what the scanner derived from them.

    `ref_hashes`: 64-bit signed hashes, its own Message-ID first, then References; empty where it has none. `refs`: what
    THREAD asks of it (`mime.ancestry`); None where only the header tells.
    """

    blob: blobs.NewBlob
    header_size: int
    received_at: int
    sent_at: int | None
    sent_day: int | None
    ref_hashes: tuple[int, ...]
    subject_hash: int
    base_subject: str
    from_key: str
    to_key: str
    cc_key: str
    preview: str
    envelope: bytes
    body_structure: bytes
    header_core: bytes
    derived_version: int
    refs: bytes | None = None


class NewPlacement(NamedTuple):
    """Where and how an appended message stands: flags, keywords by name, internal date (seconds and zone minutes)."""

    system_flags: int
    keywords: tuple[str, ...]
    internal_date: int
    zone_minutes: int


class Appended(NamedTuple):
    """What APPENDUID tells (RFC 4315 §3)."""

    uid_validity: int
    uids: tuple[int, ...]


def deliver(tx: Tx, account_ids: Sequence[int], new: NewMessage) -> None:
    """Put the message into the INBOX of each account, all or none. About nine statements for each account.

    Raises:
        Refusal: OVER_QUOTA, or NOT_FOUND for an account removed meanwhile.
    """
    blob_id = blobs.insert(tx, new.blob, new.received_at)
    for account_id in sorted(account_ids):  # deliveries that cross lock accounts in one order, and never in a circle
        deliver_to(tx, account_id, blob_id, new)


def deliver_to(
    tx: Tx,
    account_id: int,
    blob_id: int,
    new: NewMessage,
    *,
    role: str = "inbox",
    details: Sequence[str | None] = (None,),
    poster_id: int = 0,
) -> None:
    """Put the message, whose bytes have their row, into one mailbox of an account: that of `role`, else INBOX.

    For INBOX, `details` name mailboxes that `poster_id` may have the right to post to: it goes into each of these.

    Raises:
        Refusal: OVER_QUOTA, or NOT_FOUND for an account removed meanwhile; nothing is written then.
    """
    mod_seq, message_id = _reserve(tx, account_id, count=1, size=new.blob.size)
    mailbox_id = mailboxes.find_role(tx, account_id, role)
    named = posting.mailboxes_of(tx, account_id, details, poster_id) if role == "inbox" else [None]
    _insert_message(tx, account_id, message_id, blob_id, new, mod_seq)
    placed = NewPlacement(0, (), new.received_at, 0)
    for one in dict.fromkeys(mailbox_id if found is None else found for found in named):
        _place(tx, account_id, one, [(message_id, new.blob.size, placed, 0)], mod_seq, now=new.received_at)
    tx.hint(account_id, mod_seq)


def append(
    tx: Tx, reader_id: int, mailbox_name: str, items: Sequence[tuple[NewMessage, NewPlacement]], now: int
) -> Appended:
    """Put the messages into one mailbox, all or none (RFC 3502). About eight statements for each.

    The name is one as the reader knows it; in a mailbox of another's, flags that the reader may not set are left out
    (RFC 4314 §4).

    Raises:
        Refusal: NOT_FOUND (the mailbox), NO_PERMISSION, OVER_QUOTA, LIMIT (keywords, uids).
    """
    account_id, mailbox, standing = access.open_selectable(tx, reader_id, mailbox_name, Right.INSERT)
    total = sum(new.blob.size for new, _ in items)
    mod_seq, first_id = _reserve(tx, account_id, count=len(items), size=total)
    rows: list[tuple[int, int, NewPlacement, int]] = []
    seen: list[int] = []
    for message_id, (new, placement) in enumerate(items, first_id):
        _insert_message(tx, account_id, message_id, blobs.insert(tx, new.blob, now), new, mod_seq)
        bits = placement.system_flags & standing.changeable
        if Right.WRITE_FLAGS in standing.rights:
            bits |= flags.keyword_bits(tx, account_id, placement.keywords, is_owner=account_id == reader_id)
        if standing.seen_by and bits & flags.SEEN:
            bits &= ~flags.SEEN
            seen.append(len(rows))
        rows.append((message_id, new.blob.size, placement, bits))
    first_uid = _place(tx, account_id, mailbox.id, rows, mod_seq, now=now)
    if seen:
        reader_flags.set_seen(tx, account_id, mailbox.id, standing.seen_by, [first_uid + at for at in seen], ())
    tx.hint(account_id, mod_seq)
    return Appended(mailbox.uid_validity, tuple(range(first_uid, first_uid + len(items))))


def _reserve(tx: Tx, account_id: int, *, count: int, size: int) -> tuple[int, int]:
    """A mod_seq and the first of `count` message ids, with the quota checked and charged: (mod_seq, first id)."""
    floor = tx.mod_seq_floor
    row = tx.row(
        "UPDATE account SET mod_seq = 1 + CASE WHEN mod_seq < ? THEN ? ELSE mod_seq END, next_id = next_id + ?,"
        " used_bytes = used_bytes + ?, message_count = message_count + ?"
        " WHERE id = ? AND removed_at IS NULL AND (quota_bytes = 0 OR used_bytes + ? <= quota_bytes)"
        " AND (quota_messages = 0 OR message_count + ? <= quota_messages) RETURNING mod_seq, next_id",
        (floor, floor, count, size, count, account_id, size, count),
    )
    if row is None:
        if tx.row("SELECT 1 FROM account WHERE id = ? AND removed_at IS NULL", (account_id,)):
            raise Refusal(RefusalCode.OVER_QUOTA, "The mailbox is full")
        raise Refusal(RefusalCode.NOT_FOUND, "This account no longer exists")
    return row[0], row[1] - count


def _insert_message(tx: Tx, account_id: int, message_id: int, blob_id: int, new: NewMessage, mod_seq: int) -> None:
    tx.run(
        "INSERT INTO message (account_id, id, blob_id, size, header_size, thread_id, received_at, sent_at, sent_day,"
        " created_mod_seq, derived_version, base_subject, from_key, to_key, cc_key, preview, envelope, body_structure,"
        " header_core, refs) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            account_id,
            message_id,
            blob_id,
            new.blob.size,
            new.header_size,
            _thread_of(tx, account_id, message_id, new.ref_hashes, new.subject_hash),
            new.received_at,
            new.sent_at,
            new.sent_day,
            mod_seq,
            new.derived_version,
            new.base_subject,
            new.from_key,
            new.to_key,
            new.cc_key,
            new.preview,
            new.envelope,
            new.body_structure,
            new.header_core,
            new.refs,
        ),
    )


def _thread_of(tx: Tx, account_id: int, message_id: int, ref_hashes: Sequence[int], subject_hash: int) -> int:
    """The oldest thread that shares a Message-ID and the base subject; else a new one, numbered as its first message.

    Source: RFC 8621 §3 (the suggested rule).
    """
    if not ref_hashes:
        return message_id
    marks = ", ".join("?" * len(ref_hashes))
    row = tx.row(
        f"SELECT min(thread_id) FROM message_ref WHERE account_id = ? AND subject_hash = ? AND ref_hash IN ({marks})",
        (account_id, subject_hash, *ref_hashes),
    )
    thread_id: int = row[0] if row and row[0] is not None else message_id
    for ref_hash in ref_hashes:
        tx.run(
            "INSERT INTO message_ref (account_id, ref_hash, subject_hash, thread_id) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (account_id, ref_hash, subject_hash, thread_id),
        )
    return thread_id


def _place(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    rows: Sequence[tuple[int, int, NewPlacement, int]],
    mod_seq: int,
    *,
    now: int,
) -> int:
    """Placements of new messages, rows of (message id, size, placement, flags); the first uid. Counters move along."""
    count = len(rows)
    first_uid = grow_mailbox(
        tx,
        account_id,
        mailbox_id,
        mod_seq,
        count=count,
        unseen=sum(1 for row in rows if not row[3] & flags.SEEN),
        deleted=sum(1 for row in rows if row[3] & flags.DELETED),
        size=sum(row[1] for row in rows),
    )
    for uid, (message_id, size, placement, bits) in enumerate(rows, first_uid):
        where = (placement.internal_date, placement.zone_minutes)
        insert_placement(tx, (account_id, mailbox_id, uid, message_id, bits, size, *where, now, mod_seq, mod_seq))
    uids = changes.encode_ranges(range(first_uid, first_uid + count))
    changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.ADDED, uids, now=now)
    return first_uid


def insert_placement(tx: Tx, row: tuple[int, ...]) -> None:
    """Args: account, mailbox, uid, message, flags, size, internal date, zone, save date, mod_seq, created_mod_seq."""
    tx.run(
        "INSERT INTO placement (account_id, mailbox_id, uid, message_id, flags, size, internal_date, zone_minutes,"
        " saved_at, mod_seq, created_mod_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )


def duplicate(tx: Tx, account_id: int, message_ids: Sequence[int], to_account: int) -> tuple[int, dict[int, int]]:
    """Messages of one account as messages of another too, sharing their bytes; (mod_seq, old id to new).

    Raises:
        Refusal: OVER_QUOTA; NOT_FOUND, the other account was removed.
    """
    sizes = [_size_of(tx, account_id, message_id) for message_id in message_ids]
    mod_seq, first_id = _reserve(tx, to_account, count=len(message_ids), size=sum(sizes))
    made: dict[int, int] = {}
    for new_id, old_id in enumerate(message_ids, first_id):
        row = tx.row("SELECT base_subject, refs FROM message WHERE account_id = ? AND id = ?", (account_id, old_id))
        assert row is not None
        hashes = _hashes_in(row[1] or b"")
        thread_id = _thread_of(tx, to_account, new_id, hashes, subject_hash(row[0]))
        tx.run(
            f"INSERT INTO message (account_id, id, thread_id, created_mod_seq, {_COPIED})"
            f" SELECT ?, ?, ?, ?, {_COPIED} FROM message WHERE account_id = ? AND id = ?",
            (to_account, new_id, thread_id, mod_seq, account_id, old_id),
        )
        made[old_id] = new_id
    return mod_seq, made


def _hashes_in(refs: bytes) -> tuple[int, ...]:
    """The hashes of a `refs` column: behind them stands an octet of flags, and 0 in place of a missing Message-ID."""
    return tuple(one for one in struct.unpack_from(f">{len(refs) // 8}q", refs) if one)


def _size_of(tx: Tx, account_id: int, message_id: int) -> int:
    row = tx.row("SELECT size FROM message WHERE account_id = ? AND id = ?", (account_id, message_id))
    assert row is not None
    size: int = row[0]
    return size


def subject_hash(base_subject: str) -> int:
    """What the base subjects of one thread have in common: 64 bits, signed."""
    folded = base_subject.casefold().encode("utf-8", "replace")
    return int.from_bytes(blake2b(folded, digest_size=8).digest(), "big", signed=True)


def grow_mailbox(
    tx: Tx, account_id: int, mailbox_id: int, mod_seq: int, *, count: int, unseen: int, deleted: int, size: int
) -> int:
    """Reserve `count` uids and move the counters; the first uid (INV-2).

    Raises:
        Refusal: NOT_FOUND (removed meanwhile), LIMIT (the mailbox has used up its uids).
    """
    row = tx.row(
        "UPDATE mailbox SET uid_next = uid_next + ?, message_count = message_count + ?,"
        " unseen_count = unseen_count + ?, deleted_count = deleted_count + ?, total_bytes = total_bytes + ?,"
        " mod_seq = ?, counts_mod_seq = ? WHERE account_id = ? AND id = ? AND removed_at IS NULL RETURNING uid_next",
        (count, count, unseen, deleted, size, mod_seq, mod_seq, account_id, mailbox_id),
    )
    if row is None:
        raise Refusal(RefusalCode.NOT_FOUND, "No such mailbox")
    if row[0] > UID_LIMIT:
        raise Refusal(RefusalCode.LIMIT, "This mailbox has used up its numbers; move its messages to a new one")
    first_uid: int = row[0] - count
    return first_uid
