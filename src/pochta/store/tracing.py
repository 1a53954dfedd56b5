"""What commands tell of a message beside its rows: where it stands in the queue, who the accounts in it are."""

from collections.abc import Collection, Iterable
from typing import Final

from pochta.store import queue_view
from pochta.store.queue_view import Entry
from pochta.store.tx import Tx

MESSAGES_MAX: Final = 20  # of one trail in the queue: one for each reverse-path that it goes on with, two as a rule


def entries_of_trail(tx: Tx, trail_id: int) -> list[Entry]:
    """The recipients of a message that are still in the queue. One statement, and one for each row of the queue."""
    rows = tx.rows("SELECT id FROM outgoing WHERE trail_id = ? ORDER BY id LIMIT ?", (trail_id, MESSAGES_MAX))
    return as_due(tx, [entry for (outgoing_id,) in rows for entry in queue_view.entries_of(tx, outgoing_id)])


def as_due(tx: Tx, entries: Iterable[Entry]) -> list[Entry]:
    """The entries with `next_at` not before the back-off of their destination ends. One statement for each of those."""
    ends: dict[str, int] = {}
    found = []
    for message, recipient in entries:
        name = recipient.destination
        if name not in ends:
            row = tx.row("SELECT not_before FROM destination WHERE name = ?", (name,))
            ends[name] = 0 if row is None else row[0]
        found.append(Entry(message, recipient._replace(next_at=max(recipient.next_at, ends[name]))))
    return found


def addresses_of(tx: Tx, account_ids: Collection[int]) -> dict[int, str]:
    """The accounts' addresses; those that are removed are left out. One statement for each."""
    found = {}
    for account_id in account_ids:
        # an account that is being removed has lost its local part, and with it its address
        row = tx.row("SELECT address FROM account WHERE id = ? AND local_part IS NOT NULL", (account_id,))
        if row is not None:
            found[account_id] = row[0]
    return found
