"""The queue as an administrator sees and changes it (`pochta queue`).

A row that the runner has claimed is being sent at this moment: it is shown, and not changed.
"""

from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import outbox, trails
from pochta.store.outbox import NEWS, Outgoing, Recipient, State
from pochta.store.tx import Row, Tx

LISTED_MAX: Final = 1000  # recipients that one listing shows
CHANGED_MAX: Final = 500  # rows that one lane function changes


class Summary(NamedTuple):
    """One destination. `oldest_at`: when the message that waits longest came in; `next_at`: the next attempt."""

    name: str
    waiting: int
    held: int
    claimed: int
    oldest_at: int
    next_at: int | None
    failures: int
    last_at: int | None
    last_host: str | None
    last_reply: str | None


class Entry(NamedTuple):
    """One recipient with its message."""

    message: Outgoing
    recipient: Recipient


_COLUMNS: Final = ", ".join([outbox.OUTGOING_COLUMNS, *(f"r.{name}" for name in Recipient._fields)])


def _entry(row: Row) -> Entry:
    at = len(Outgoing._fields)
    return Entry(outbox.as_outgoing(row[:at]), outbox.as_recipient(row[at:]))


def summaries(tx: Tx) -> list[Summary]:
    """Every destination, longest queue first. Reads every recipient's row once, and of each destination one message's.

    A million rows take about half a second, in which no checkpoint can end: for commands, not for a server.
    """
    # Numbers rise with time, so the smallest is the oldest: asking each row's message would take six times as long.
    return [
        Summary(*row)
        for row in tx.rows(
            "SELECT q.destination, q.waiting, q.held, q.claimed,"
            " coalesce((SELECT o.created_at FROM outgoing o WHERE o.id = q.oldest), 0),"
            " CASE WHEN d.next_at < ? THEN d.next_at END, coalesce(d.failures, 0), d.last_at, d.last_host, d.last_reply"
            " FROM (SELECT destination, sum(CASE WHEN state = 0 THEN 1 ELSE 0 END) AS waiting,"
            " sum(CASE WHEN state = 2 THEN 1 ELSE 0 END) AS held,"
            " sum(CASE WHEN state = 1 THEN 1 ELSE 0 END) AS claimed, min(outgoing_id) AS oldest"
            " FROM outgoing_recipient WHERE state < 3 GROUP BY destination) q"
            " LEFT JOIN destination d ON d.name = q.destination ORDER BY q.waiting DESC, q.destination",
            (outbox.NEVER,),
        )
    ]


def listing(tx: Tx, *, destination: str | None = None, limit: int = LISTED_MAX) -> list[Entry]:
    """Recipients that are not done with, oldest message first."""
    where, args = ("AND r.destination = ?", (destination,)) if destination is not None else ("", ())
    rows = tx.rows(
        f"SELECT {_COLUMNS} FROM outgoing o JOIN outgoing_recipient r ON r.outgoing_id = o.id WHERE r.state < 3 {where}"
        " ORDER BY o.id, r.n LIMIT ?",
        (*args, limit),
    )
    return list(map(_entry, rows))


def entries_of(tx: Tx, outgoing_id: int) -> list[Entry]:
    """Every recipient of one message.

    Raises:
        Refusal: NOT_FOUND.
    """
    rows = tx.rows(
        f"SELECT {_COLUMNS} FROM outgoing o JOIN outgoing_recipient r ON r.outgoing_id = o.id WHERE o.id = ?"
        " ORDER BY r.n LIMIT ?",
        (outgoing_id, LISTED_MAX),
    )
    if not rows:
        raise Refusal(RefusalCode.NOT_FOUND, f"No message {outgoing_id} is in the queue")
    return list(map(_entry, rows))


def count(tx: Tx) -> tuple[int, int]:
    """Recipients that wait, and that are held."""
    row = tx.row(
        "SELECT coalesce(sum(CASE WHEN state < 2 THEN 1 ELSE 0 END), 0),"
        " coalesce(sum(CASE WHEN state = 2 THEN 1 ELSE 0 END), 0) FROM outgoing_recipient"
    )
    assert row is not None
    return int(row[0]), int(row[1])


def keys_of(
    tx: Tx, outgoing_id: int | None, destination: str | None, state: State, after: tuple[int, int]
) -> list[Row]:
    """The next (outgoing_id, n, destination, trail_id, address, created_at) in that state.

    Of a message, of a destination, or of all.
    """
    where = ""
    args: list[int | str] = []
    if outgoing_id is not None:
        where, args = " AND r.outgoing_id = ?", [outgoing_id]
    elif destination is not None:
        where, args = " AND r.destination = ?", [destination]
    return tx.rows(
        "SELECT r.outgoing_id, r.n, r.destination, o.trail_id, r.address, o.created_at FROM outgoing_recipient r"
        " JOIN outgoing o ON o.id = r.outgoing_id WHERE r.state = ? AND (r.outgoing_id, r.n) > (?, ?)"
        f"{where} ORDER BY r.outgoing_id, r.n LIMIT ?",
        (int(state), *after, *args, CHANGED_MAX),
    )


class Change(NamedTuple):
    """What one step has changed: how many, and where the next step goes on; `last` None: that was all."""

    rows: int
    last: tuple[int, int] | None


def _change_of(rows: list[Row]) -> Change:
    return Change(len(rows), (rows[-1][0], rows[-1][1]) if len(rows) == CHANGED_MAX else None)


def retry(tx: Tx, outgoing_id: int | None, destination: str | None, after: tuple[int, int], now: int) -> Change:
    """Try waiting recipients now, and forget the back-off of their destinations.

    Whose message is not to be sent yet (FUTURERELEASE) waits on.
    """
    rows = keys_of(tx, outgoing_id, destination, State.WAITING, after)
    # an attempt out of turn: those that are due by themselves come when they would have
    tx.run_many(
        "UPDATE outgoing_recipient SET attempts = attempts - 1 WHERE outgoing_id = ? AND n = ? AND attempts > 0",
        [row[:2] for row in rows],
    )
    _make_due(tx, rows, now)
    return _change_of(rows)


def _make_due(tx: Tx, rows: list[Row], now: int) -> None:
    # RFC 4865 §4: not before the time that was asked for; no command knows better
    tx.run_many(
        "UPDATE outgoing_recipient SET next_at = ? WHERE outgoing_id = ? AND n = ? AND state = 0",
        [(max(now, row[5]), row[0], row[1]) for row in rows],
    )
    names = [(name,) for name in {row[2] for row in rows}]
    tx.run_many("UPDATE destination SET not_before = 0, failures = 0 WHERE name = ?", names)
    outbox.note_waiting(tx, [name for (name,) in names])
    tx.hint(NEWS, 0)


def hold(tx: Tx, outgoing_id: int | None, destination: str | None, after: tuple[int, int], now: int) -> Change:
    """Keep waiting recipients from being tried."""
    rows = keys_of(tx, outgoing_id, destination, State.WAITING, after)
    _move(tx, rows, State.HELD, "held", now)
    return _change_of(rows)


def release(tx: Tx, outgoing_id: int | None, destination: str | None, after: tuple[int, int], now: int) -> Change:
    """Let held recipients be tried again, at once (FUTURERELEASE: when their time has come)."""
    rows = keys_of(tx, outgoing_id, destination, State.HELD, after)
    _move(tx, rows, State.WAITING, "released", now)
    _make_due(tx, rows, now)
    return _change_of(rows)


def _move(tx: Tx, rows: list[Row], state: State, kind: str, now: int) -> None:
    tx.run_many(
        "UPDATE outgoing_recipient SET state = ? WHERE outgoing_id = ? AND n = ?",
        [(int(state), row[0], row[1]) for row in rows],
    )
    for row in rows:
        trails.add_step(tx, row[3], trails.Step(now, kind, row[4], "{}"))


def delete(
    tx: Tx, outgoing_id: int | None, destination: str | None, state: State, after: tuple[int, int], now: int
) -> Change:
    """Remove recipients in that state (WAITING or HELD) without a report to anybody; the trail says so."""
    rows = keys_of(tx, outgoing_id, destination, state, after)
    tx.run_many("DELETE FROM outgoing_recipient WHERE outgoing_id = ? AND n = ?", [(row[0], row[1]) for row in rows])
    for row in rows:
        trails.add_step(tx, row[3], trails.Step(now, "deleted", row[4], "{}"))
    for one in {row[0] for row in rows}:
        outbox.forget_if_done(tx, one)
    return _change_of(rows)
