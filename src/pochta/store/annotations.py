"""Annotations of mailboxes and of the server: named values, shared or a reader's own. Source: RFC 5464.

`mailbox_id` SERVER stands for the server itself: what a user keeps there stands in their account, what all share under
account EVERYBODY. `reader_id` SHARED marks what everybody reads; any other id a reader's own. Entry names come in lower
case and checked (`proto.imap.metadata`); who may read and write them is asked by the caller.

Values count in no quota; the bounds here keep below ACCOUNT_MAX_BYTES what an account holds of its owner's and of
everybody's, and what it holds of each other reader's own: nobody uses up the room of another.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import changes
from pochta.store.tx import Tx

EVERYBODY: Final = 0  # account_id of the server's shared entries
SERVER: Final = 0  # mailbox_id of entries of the server
SHARED: Final = 0  # reader_id of shared entries

VALUE_MAX_BYTES: Final = 64 * 1024  # RFC 5464 §4.1 asks for 1024; pictures of folders take some dozen KiB
ENTRIES_MAX: Final = 100  # of one mailbox, shared or of one reader; RFC 5464 §4.1 asks for 10
ACCOUNT_MAX_BYTES: Final = 16 * 1024 * 1024  # a few hundred of the largest: what a hostile reader can fill


class Annotation(NamedTuple):
    """One entry with its value; `entry` begins with `/shared/` or `/private/`."""

    entry: str
    value: bytes


class TooLarge(Refusal):
    """A value has more than VALUE_MAX_BYTES."""

    def __init__(self) -> None:
        super().__init__(RefusalCode.TOO_LARGE, f"An annotation has at most {VALUE_MAX_BYTES} bytes")


class TooMany(Refusal):
    """There is no room for another entry."""

    def __init__(self) -> None:
        super().__init__(RefusalCode.LIMIT, "There is no room for another annotation")


def is_shared(entry: str) -> bool:
    """Whether everybody reads the same value of the entry."""
    return entry.startswith("/shared")


def read(
    tx: Tx, account_id: int, mailbox_id: int, reader_id: int, names: Sequence[str], depth: int | None = 0
) -> list[Annotation]:
    """The entries named, and those up to `depth` levels below them (None: all), by name. Two statements at most.

    `account_id` is the mailbox's owner; of the server, the reader.
    """
    found: dict[str, bytes] = {}
    if any(is_shared(name) for name in names):
        found |= _all(tx, _holder(account_id, mailbox_id, SHARED), mailbox_id, SHARED)
    if not all(is_shared(name) for name in names):
        found |= _all(tx, account_id, mailbox_id, reader_id)
    return [Annotation(entry, found[entry]) for entry in sorted(found) if is_named(entry, names, depth)]


def _holder(account_id: int, mailbox_id: int, reader_id: int) -> int:
    return EVERYBODY if mailbox_id == SERVER and reader_id == SHARED else account_id


def _all(tx: Tx, account_id: int, mailbox_id: int, reader_id: int) -> dict[str, bytes]:
    sql = "SELECT entry, value FROM annotation WHERE account_id = ? AND mailbox_id = ? AND reader_id = ?"
    return {entry: bytes(value) for entry, value in tx.rows(sql, (account_id, mailbox_id, reader_id))}


def is_named(entry: str, names: Sequence[str], depth: int | None) -> bool:
    """Whether the entry is one of those named, or up to `depth` levels below one (None: however deep)."""
    for name in names:
        if entry == name:
            return True
        if entry.startswith(name + "/") and (depth is None or entry.count("/", len(name)) <= depth):
            return True
    return False


def write(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    reader_id: int,
    values: Sequence[tuple[str, bytes | None]],
    now: int,
) -> None:
    """Set the entries, all or none; None removes one. Two or three statements each.

    Raises:
        TooLarge; TooMany.
    """
    if any(value is not None and len(value) > VALUE_MAX_BYTES for _, value in values):
        raise TooLarge
    key = "account_id = ? AND mailbox_id = ? AND reader_id = ?"
    for entry, value in values:
        who = SHARED if is_shared(entry) else reader_id
        holder = _holder(account_id, mailbox_id, who)
        tx.run(f"DELETE FROM annotation WHERE {key} AND entry = ?", (holder, mailbox_id, who, entry))
        if value is not None:
            tx.run(
                "INSERT INTO annotation (account_id, mailbox_id, reader_id, entry, value) VALUES (?, ?, ?, ?, ?)",
                (holder, mailbox_id, who, entry, value),
            )
    for who in {SHARED if is_shared(entry) else reader_id for entry, value in values if value is not None}:
        holder = _holder(account_id, mailbox_id, who)
        row = tx.row(f"SELECT count(*) FROM annotation WHERE {key}", (holder, mailbox_id, who))
        theirs = (SHARED, account_id) if who in (SHARED, account_id) else (who, who)
        size = "SELECT sum(length(value)) FROM annotation WHERE account_id = ? AND reader_id IN (?, ?)"
        total = tx.row(size, (holder, *theirs))
        if row is None or total is None or row[0] > ENTRIES_MAX or (total[0] or 0) > ACCOUNT_MAX_BYTES:
            raise TooMany
    entries = [entry for entry, _ in values]
    if mailbox_id == SERVER and any(is_shared(entry) for entry in entries):
        changes.announce_to_everybody(tx)
        entries = [entry for entry in entries if not is_shared(entry)]
    if entries:
        announce(tx, account_id, mailbox_id, reader_id, entries, now)


def announce(tx: Tx, account_id: int, mailbox_id: int, reader_id: int, entries: Sequence[str], now: int) -> None:
    """Log that these entries have changed; private ones are the reader's. Two statements.

    The mailbox keeps its own number, which tells of its messages (RFC 7162 §3.1.2.1): others would learn by it that a
    reader keeps notes.
    """
    mod_seq = changes.next_mod_seq(tx, account_id)
    uids = changes.encode_entries(reader_id, entries)
    changes.record(tx, account_id, mod_seq, mailbox_id, changes.Kind.ANNOTATED, uids, now=now)
    tx.hint(account_id, mod_seq)


def forget(tx: Tx, account_id: int, mailbox_id: int) -> None:
    """Remove those of a mailbox that is removed."""
    tx.run("DELETE FROM annotation WHERE account_id = ? AND mailbox_id = ?", (account_id, mailbox_id))


def copy(tx: Tx, account_id: int, mailbox_id: int, to_mailbox_id: int) -> None:
    """Give another mailbox the same: RENAME of INBOX keeps INBOX's (RFC 5464 §4.1)."""
    tx.run(
        "INSERT INTO annotation (account_id, mailbox_id, reader_id, entry, value)"
        " SELECT account_id, ?, reader_id, entry, value FROM annotation WHERE account_id = ? AND mailbox_id = ?",
        (to_mailbox_id, account_id, mailbox_id),
    )
