"""Copies that cross a border: into another account, or made by a reader who does not own both mailboxes.

Flags go along as the reader sees them and may set them there; keywords by name, for each account numbers its own.
Messages enter another account as messages of its own that share the bytes.
"""

from collections.abc import Sequence
from typing import Final

from pochta.errors import Refusal, RefusalCode
from pochta.store import changes, flags, messages, reader_flags
from pochta.store.access import Opened
from pochta.store.changes import UidRange
from pochta.store.rights import OWNER, Right, Standing
from pochta.store.tx import Row, Tx

ACROSS_MAX: Final = 10_000  # all or nothing, 60 us of the lane each into another account

_PLAIN: Final = (
    "SELECT uid, flags, message_id, size, internal_date, zone_minutes FROM placement"
    " WHERE account_id = ? AND mailbox_id = ? AND uid BETWEEN ? AND ? ORDER BY uid"
)


def add(
    tx: Tx,
    account_id: int,
    mailbox_id: int,
    ranges: Sequence[UidRange],
    source: Standing,
    target: Opened,
    now: int,
    *,
    is_move: bool = False,
) -> int:
    """Place the messages of `ranges`, of which there is at least one, in `target`; the first uid. Announces it.

    `is_move`: within one account, what its owner has seen stays seen.

    About eight statements for each message into another account, one within one.

    Raises:
        Refusal: LIMIT, OVER_QUOTA.
    """
    rows = _read(tx, account_id, mailbox_id, ranges, source)
    if len(rows) > ACROSS_MAX:
        raise Refusal(RefusalCode.LIMIT, f"At most {ACROSS_MAX} messages are copied at once between accounts")
    to_account, box = target.account_id, target.mailbox
    bits_of = _kept(tx, account_id, target, {row[1] for row in rows})
    mod_seq, ids = _as_messages_of(tx, to_account, account_id, list(dict.fromkeys(row[2] for row in rows)))
    seen_by = target.standing.seen_by
    stored = [bits_of[row[1]] & ~flags.SEEN if seen_by else bits_of[row[1]] for row in rows]
    if is_move and seen_by and to_account == account_id:
        seen_uids = _seen_by_owner(tx, account_id, mailbox_id, ranges)
        stored = [bits | flags.SEEN if row[0] in seen_uids else bits for row, bits in zip(rows, stored, strict=True)]
    first_uid = messages.grow_mailbox(
        tx,
        to_account,
        box.id,
        mod_seq,
        count=len(rows),
        unseen=sum(1 for bits in stored if not bits & flags.SEEN),
        deleted=sum(1 for bits in stored if bits & flags.DELETED),
        size=sum(row[3] for row in rows),
    )
    for uid, (row, bits) in enumerate(zip(rows, stored, strict=True), first_uid):
        messages.insert_placement(tx, (to_account, box.id, uid, ids[row[2]], bits, *row[3:], now, mod_seq, mod_seq))
    if seen_by:
        seen = [uid for uid, row in enumerate(rows, first_uid) if bits_of[row[1]] & flags.SEEN]
        reader_flags.set_seen(tx, to_account, box.id, seen_by, seen, ())
    uids = changes.encode_ranges(range(first_uid, first_uid + len(rows)))
    changes.record(tx, to_account, mod_seq, box.id, changes.Kind.ADDED, uids, now=now)
    tx.hint(to_account, mod_seq)
    return first_uid


def _as_messages_of(tx: Tx, to_account: int, account_id: int, message_ids: list[int]) -> tuple[int, dict[int, int]]:
    """(mod_seq of the copy, by message: the one that stands for it in the account copied into)."""
    if to_account == account_id:
        return changes.next_mod_seq(tx, account_id), {one: one for one in message_ids}
    return messages.duplicate(tx, account_id, message_ids, to_account)


def _read(tx: Tx, account_id: int, mailbox_id: int, ranges: Sequence[UidRange], source: Standing) -> list[Row]:
    """(uid, flags as the reader has them, message id, size, internal date, zone) of what stands there, rising."""
    if source.seen_by:
        columns = ", p.message_id, p.size, p.internal_date, p.zone_minutes"
        return reader_flags.rows_in(tx, columns, account_id, mailbox_id, source.seen_by, ranges)
    rows: list[Row] = []
    for first, last in ranges:
        rows += tx.rows(_PLAIN, (account_id, mailbox_id, first, last))
    return rows


def _seen_by_owner(tx: Tx, account_id: int, mailbox_id: int, ranges: Sequence[UidRange]) -> set[int]:
    return {
        row[0]
        for first, last in ranges
        for row in tx.rows(_PLAIN, (account_id, mailbox_id, first, last))
        if row[1] & flags.SEEN
    }


def _kept(tx: Tx, account_id: int, target: Opened, flag_sets: set[int]) -> dict[int, int]:
    """By flags in the source's account: what of them the copy has, as the target's account numbers it."""
    changeable = target.standing.changeable
    if target.account_id == account_id:
        return {bits: bits & changeable for bits in flag_sets}
    names = flags.keywords(tx, account_id) if Right.WRITE_FLAGS in target.standing.rights else {}
    system, is_owner = (1 << flags.FIRST_KEYWORD_BIT) - 1, target.standing is OWNER
    return {
        bits: bits & system & changeable
        | flags.keyword_bits(
            tx, target.account_id, [name for bit, name in names.items() if bits & bit], is_owner=is_owner
        )
        for bits in flag_sets
    }
