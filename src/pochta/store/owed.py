"""Which senders are owed a report on mail that was on its way: who is due, what it tells of, and that it was made.

Refuses to know: what a report looks like (`queue/dsn.py`). What a recipient's row owes is set where it is settled
(`outbox`).
"""

from typing import Final, NamedTuple

from pochta.store import leases, outbox
from pochta.store.leases import Fence
from pochta.store.outbox import RECIPIENT_COLUMNS, Outgoing, Recipient, State
from pochta.store.shares import WHOLE, Share
from pochta.store.tx import Tx

REPORTED_MAX: Final = 1000  # recipients that one report tells of, as `dsn.MAX_REPORTED_RECIPIENTS`; others wait for it
REPORT_AFTER_S: Final = 300  # a report that could tell of more waits so long for attempts that are under way


class Reports(NamedTuple):
    """A message that reports are owed for, with the recipients that owe one."""

    message: Outgoing
    recipients: tuple[Recipient, ...]


def reports_due(tx: Tx, now: int, after: int, limit: int, share: Share = WHOLE) -> list[int]:
    """Messages above `after` with reports owed; while attempts are under way, they wait a while for what comes of it.

    `report_of` tells the rest.
    """
    rows = tx.rows(
        "SELECT DISTINCT outgoing_id FROM outgoing_recipient r WHERE report > 0 AND outgoing_id > ?"
        " AND outgoing_id - outgoing_id / ? * ? = ? AND (NOT EXISTS"
        " (SELECT 1 FROM outgoing_recipient c WHERE c.outgoing_id = r.outgoing_id AND c.state = 1)"
        " OR (state <> 1 AND coalesce(last_at, next_at) <= ?)) ORDER BY outgoing_id LIMIT ?",
        (after, share.of, share.of, share.number, now - REPORT_AFTER_S, limit),
    )
    return [row[0] for row in rows]


def report_of(tx: Tx, outgoing_id: int) -> Reports | None:
    """What is to be reported of a message, REPORTED_MAX recipients at once; None: nothing any more. Two statements."""
    rows = tx.rows(
        f"SELECT {RECIPIENT_COLUMNS} FROM outgoing_recipient WHERE outgoing_id = ? AND report > 0 AND state <> 1"
        " ORDER BY n LIMIT ?",
        (outgoing_id, REPORTED_MAX),
    )
    return Reports(outbox.messages_of(tx, (outgoing_id,))[0], tuple(map(outbox.as_recipient, rows))) if rows else None


def report_done(tx: Tx, fence: Fence, told: Reports) -> None:
    """The report stands in the same transaction: rows that have ended go, others owe nothing any more.

    Raises:
        LeaseLost.
    """
    leases.check_fence(tx, *fence)
    ended = [(one.outgoing_id, one.n) for one in told.recipients if one.state is State.ENDED]
    tx.run_many("DELETE FROM outgoing_recipient WHERE outgoing_id = ? AND n = ?", ended)
    # what has come to be owed meanwhile stays owed
    tx.run_many(
        "UPDATE outgoing_recipient SET report = 0, delay_told = 1 WHERE outgoing_id = ? AND n = ? AND report = ?"
        " AND state <> 3",
        [(one.outgoing_id, one.n, int(one.report)) for one in told.recipients if one.state is not State.ENDED],
    )
    outbox.forget_if_done(tx, told.message.id)
