"""Quota roots: what an account holds and may hold. There is one root for each account, named by its address.

Messages are counted once per account, however many mailboxes they stand in. What an account may hold is asked where it
grows: `messages._reserve`, `mailboxes._refuse_too_many`. 0 in a row means no limit.

Source: RFC 9208 §3.2.
"""

from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import access, rights
from pochta.store.mailboxes import MAILBOXES_PER_ACCOUNT
from pochta.store.rights import Right
from pochta.store.tx import Tx

_ROOT: Final = (
    "SELECT address, used_bytes, quota_bytes, message_count, quota_messages, (SELECT count(*) FROM mailbox"
    " WHERE account_id = a.id AND name IS NOT NULL), quota_mailboxes FROM account a WHERE id = ? AND removed_at IS NULL"
)


class Root(NamedTuple):
    """Usage and limits of one account; a limit of 0 is none."""

    name: str
    used_bytes: int
    quota_bytes: int
    messages: int
    quota_messages: int
    mailboxes: int
    quota_mailboxes: int


def of_account(tx: Tx, account_id: int) -> Root:
    """The root of an account. One statement.

    Raises:
        Refusal: NOT_FOUND.
    """
    row = tx.row(_ROOT, (account_id,))
    if row is None:
        raise _no_such_root()
    limit = min(row[-1] or MAILBOXES_PER_ACCOUNT, MAILBOXES_PER_ACCOUNT)
    return Root._make((*row[:-1], limit))


def _no_such_root() -> Refusal:
    return Refusal(RefusalCode.NOT_FOUND, "No such quota root")


def named(tx: Tx, reader_id: int, name: str, is_administrator: bool) -> Root:
    """The root of that name, for its owner, for an administrator, and for who may read one of its mailboxes.

    Raises:
        Refusal: NOT_FOUND, also for who may not know.
    """
    found = access.account_of(tx, name)
    if found is None:
        raise _no_such_root()
    # RFC 9208 §8: the usage of others is confidential; §6: who may read a mailbox may know
    if (
        found[0] != reader_id
        and not is_administrator
        and not rights.mailboxes_with(tx, found[0], reader_id, Right.READ)
    ):
        raise _no_such_root()
    return of_account(tx, found[0])


def of_mailbox(tx: Tx, reader_id: int, name: str) -> Root:
    """The root of a mailbox, which need not exist in the reader's own account.

    Raises:
        Refusal: NOT_FOUND, NO_PERMISSION, INVALID_NAME.
    """
    place = access.locate(tx, reader_id, name)
    if place.account_id != reader_id:
        # RFC 9208 §6: sizes and numbers of messages are for who has "r"
        access.open_mailbox(tx, reader_id, name, Right.READ)
    return of_account(tx, place.account_id)


def is_exceeded(tx: Tx, account_id: int) -> bool:
    """Whether the account holds more messages or bytes than it may: a limit was lowered. One statement."""
    sql = (
        "SELECT 1 FROM account WHERE id = ? AND (used_bytes > quota_bytes AND quota_bytes > 0"
        " OR message_count > quota_messages AND quota_messages > 0)"
    )
    return tx.row(sql, (account_id,)) is not None


def is_exceeded_at(tx: Tx, reader_id: int, name: str) -> bool:
    """As `is_exceeded`, of the account into which the reader's name of a mailbox leads; of none, false."""
    try:
        return is_exceeded(tx, access.locate(tx, reader_id, name).account_id)
    except Refusal:
        return False  # removed since the reader used the name


def set_limits(tx: Tx, name: str, quota_bytes: int, quota_messages: int, quota_mailboxes: int) -> Root:
    """Give the root of that name other limits; it as it is then. Three statements.

    Raises:
        Refusal: NOT_FOUND.
    """
    found = access.account_of(tx, name)
    if found is None:
        raise _no_such_root()
    tx.run(
        "UPDATE account SET quota_bytes = ?, quota_messages = ?, quota_mailboxes = ? WHERE id = ?",
        (quota_bytes, quota_messages, quota_mailboxes, found[0]),
    )
    return of_account(tx, found[0])


def deleted_bytes(tx: Tx, account_id: int, mailbox_id: int, after_uid: int, limit: int) -> tuple[int, int]:
    """(bytes of messages marked \\Deleted, the last uid looked at or 0) of the next `limit` messages. 0.1 us each."""
    row = tx.row(
        "SELECT CAST(coalesce(sum(CASE WHEN flags & 8 <> 0 THEN size ELSE 0 END), 0) AS BIGINT), max(uid), count(*)"
        " FROM (SELECT uid, size, flags FROM placement WHERE account_id = ? AND mailbox_id = ? AND uid > ?"
        " ORDER BY uid LIMIT ?) AS part",
        (account_id, mailbox_id, after_uid, limit),
    )
    assert row is not None
    return row[0], row[1] if row[2] == limit else 0
