"""Mail on its way out: a row for each message, a row for each of its recipients, a row for each destination.

Decides: who is due, who is claimed by the runner, what a settled attempt leaves behind, which reports are owed.
Refuses to know: SMTP, when to try again (`queue/schedule.py`), what a report looks like (`queue/dsn.py`).

A recipient's way:

    WAITING ─claim─► CLAIMED ─settle─► gone (delivered, nobody asked to be told)
       ▲  │             │ └─────────► WAITING (deferred: `next_at`, `last_reply`; perhaps with a delay report owed)
       │ hold           └───────────► ENDED (failed, or delivered and somebody wants to know: a report is owed)
       └─ HELD                           └─report─► gone

* A destination is where a row queues: a recipient's domain in A-labels, or `route:NAME`, or LOCAL. Whoever makes a row
  WAITING notes in `destination.next_at` when it is due; a destination that is backed off (`not_before`) is not due
  sooner than that. A name without a row in `destination` has nobody waiting.
* Only the holder of the lease claims and settles: every such write checks the fence. CLAIMED rows of a dead holder
  become WAITING when the next one begins (`take_over`).
* A message's row goes with its last recipient.
* Every change of a message's fate is one transaction with the step in its trail.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from pochta.store import leases, trails
from pochta.store.leases import Fence
from pochta.store.tx import Row, Tx

LEASE: Final = "queue"  # whoever holds it runs the queue
NEWS: Final = -1  # the account of a hint that says: the queue has changed
NEVER: Final = 2**53  # the next_at of a destination that nobody waits for
LOCAL: Final = ""  # the destination of rows that are delivered here, at a later time
PRIORITY_STEP_S: Final = 60  # one step of MT-PRIORITY is worth so much of waiting; 9 of them jump a queue of 9 minutes


class State(IntEnum):
    """Where a recipient stands."""

    WAITING = 0
    CLAIMED = 1
    HELD = 2
    ENDED = 3


class Owed(IntEnum):
    """Which report a recipient's row waits for."""

    NOTHING = 0
    DELAYED = 1
    FAILED = 2
    RELAYED = 3  # to a server that does not report itself
    DELIVERED = 4


class NewRecipient(NamedTuple):
    """`original`: ORCPT as `type;address`, None without. `notify`: bits of `proto.smtp` NOTIFY, 0 when not given.

    `owed` other than NOTHING: its fate is settled already (a mailbox that is full, a delivery here that the sender
    wants to know of), `last_reply` says how.
    """

    destination: str
    address: str
    original: str | None = None
    notify: int = 0
    owed: Owed = Owed.NOTHING
    last_reply: str | None = None


class NewOutgoing(NamedTuple):
    """A message and the recipients it is to be sent to.

    `account_id`: who wrote it, 0 for nobody here. `report_to`: who hears of failures, `""` for nobody; differs from
    `reverse_path` where that was rewritten. `may_bounce`: INV-10. `body`: `7bit`, `8bit`, `binary`. `not_before`: when
    it may first be sent; that is its `created_at` then.
    """

    account_id: int
    origin: str
    reverse_path: str
    report_to: str
    envelope_id: str | None
    returns: str | None
    body: str
    is_smtputf8: bool
    requires_tls: bool
    may_bounce: bool
    priority: int
    deliver_by_at: int | None
    deliver_by_mode: str | None
    not_before: int
    recipients: tuple[NewRecipient, ...]


class Outgoing(NamedTuple):
    """A message on its way, as its row tells it."""

    id: int
    trail_id: int
    blob_id: int
    account_id: int
    origin: str
    reverse_path: str
    report_to: str
    envelope_id: str | None
    returns: str | None
    body: str
    is_smtputf8: bool
    requires_tls: bool
    may_bounce: bool
    priority: int
    deliver_by_at: int | None
    deliver_by_mode: str | None
    size: int
    header_size: int
    created_at: int


class Recipient(NamedTuple):
    """One recipient of it."""

    outgoing_id: int
    n: int
    destination: str
    account_id: int
    address: str
    original: str | None
    notify: int
    state: State
    report: Owed
    delay_told: bool
    attempts: int
    next_at: int
    last_at: int | None
    last_host: str | None
    last_reply: str | None


class Settled(NamedTuple):
    """What an attempt came to. `state`: None when the row is done with, WAITING with `next_at`, or ENDED.

    `owed` joins what the row owes. `step`: what the trail says of it.
    """

    outgoing_id: int
    n: int
    trail_id: int
    state: State | None
    owed: Owed
    next_at: int
    at: int
    host: str
    reply: str
    step: trails.Step


_OUTGOING: Final = ", ".join(Outgoing._fields)
_RECIPIENT: Final = ", ".join(Recipient._fields)


def enqueue(tx: Tx, new: NewOutgoing, *, blob_id: int, trail_id: int, size: int, header_size: int, now: int) -> int:
    """Put a message with its recipients into the queue; its id. Two statements for each recipient, and one."""
    row = tx.row(
        "INSERT INTO outgoing (trail_id, blob_id, account_id, origin, reverse_path, report_to, envelope_id, returns,"
        " body, is_smtputf8, requires_tls, may_bounce, priority, deliver_by_at, deliver_by_mode, size, header_size,"
        " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            trail_id, blob_id, new.account_id, new.origin, new.reverse_path, new.report_to, new.envelope_id,
            new.returns, new.body, int(new.is_smtputf8), int(new.requires_tls), int(new.may_bounce), new.priority,
            new.deliver_by_at, new.deliver_by_mode, size, header_size, max(now, new.not_before),
        ),
    )  # fmt: skip
    assert row is not None
    outgoing_id: int = row[0]
    next_at = max(now, new.not_before) - new.priority * PRIORITY_STEP_S
    for n, one in enumerate(new.recipients):
        state = State.WAITING if one.owed is Owed.NOTHING else State.ENDED
        tx.run(
            "INSERT INTO outgoing_recipient (outgoing_id, n, destination, account_id, address, original, notify, state,"
            " report, delay_told, attempts, next_at, last_at, last_host, last_reply)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, NULL, NULL, ?)",
            (
                outgoing_id, n, one.destination, new.account_id, one.address, one.original, one.notify, int(state),
                int(one.owed), next_at, one.last_reply,
            ),
        )  # fmt: skip
    note_due(tx, {one.destination for one in new.recipients if one.owed is Owed.NOTHING}, next_at)
    tx.hint(NEWS, 0)
    return outgoing_id


_LATER: Final = (
    "CASE WHEN excluded.next_at < destination.not_before THEN destination.not_before ELSE excluded.next_at END"
)


def note_due(tx: Tx, destinations: Iterable[str], next_at: int) -> None:
    """See to it that the destinations are looked at by `next_at`, or when their back-off ends."""
    for name in destinations:
        tx.run(
            "INSERT INTO destination (name, next_at, not_before, failures) VALUES (?, ?, 0, 0) ON CONFLICT (name)"
            f" DO UPDATE SET next_at = {_LATER} WHERE destination.next_at > {_LATER}",
            (name, next_at),
        )


def take_over(tx: Tx, fence: Fence, now: int) -> int:
    """What a dead holder had claimed waits again; how many rows. To be called once by each new holder.

    Raises:
        LeaseLost.
    """
    leases.check_fence(tx, *fence)
    names = {row[0] for row in tx.rows("SELECT destination FROM outgoing_recipient WHERE state = 1")}
    count = tx.run("UPDATE outgoing_recipient SET state = 0 WHERE state = 1")
    note_due(tx, names, now)
    return count


def due_destinations(tx: Tx, now: int, limit: int) -> list[str]:
    """The names of destinations that somebody may be due for, longest waiting first."""
    rows = tx.rows("SELECT name FROM destination WHERE next_at <= ? ORDER BY next_at LIMIT ?", (now, limit))
    return [row[0] for row in rows]


def next_due_at(tx: Tx) -> int | None:
    """When the next destination is due; None when nobody waits."""
    row = tx.row("SELECT min(next_at) FROM destination")
    return None if row is None or row[0] in (None, NEVER) else int(row[0])


def failures_of(tx: Tx, name: str) -> int:
    """How often in a row the destination could not be reached."""
    row = tx.row("SELECT failures FROM destination WHERE name = ?", (name,))
    return 0 if row is None else int(row[0])


class Claim(NamedTuple):
    """Recipients that are the runner's now. `after_account`: where the next claim goes on."""

    messages: tuple[Outgoing, ...]
    recipients: tuple[Recipient, ...]
    after_account: int


def claim(tx: Tx, fence: Fence, name: str, after_account: int, now: int, *limits: int) -> Claim:
    """Claim due recipients of a destination, in turn for each sender: `limits` are accounts, rows for each of them.

    Senders take turns from `after_account` on, so that one with a million recipients does not keep others waiting. A
    destination that nobody is due for is put off until somebody is.

    Raises:
        LeaseLost.
    """
    leases.check_fence(tx, *fence)
    accounts_max, rows_max = limits
    keys = [
        (row[0], row[1])
        for account_id in _accounts_in_turn(tx, name, after_account, now, accounts_max)
        for row in tx.rows(
            "SELECT outgoing_id, n FROM outgoing_recipient WHERE destination = ? AND account_id = ? AND state = 0"
            " AND next_at <= ? ORDER BY next_at LIMIT ?",
            (name, account_id, now, rows_max),
        )
    ]
    if not keys:
        _put_off(tx, name)
        return Claim((), (), after_account)
    tx.run_many("UPDATE outgoing_recipient SET state = 1 WHERE outgoing_id = ? AND n = ?", keys)
    messages = _messages(tx, {outgoing_id for outgoing_id, _ in keys})
    recipients = tuple(_recipient(tx, *key) for key in keys)
    return Claim(messages, recipients, recipients[-1].account_id)


def _accounts_in_turn(tx: Tx, name: str, after: int, now: int, limit: int) -> list[int]:
    """Up to `limit` accounts with somebody due, from the first above `after` on, and around to it."""
    found: list[int] = []
    for start, stop in ((after, None), (-1, after)):
        account: int | None = start
        while len(found) < limit and account is not None:
            account = _next_account(tx, name, account, now)
            if account is None or (stop is not None and account > stop):
                break
            found.append(account)
    return found


def _next_account(tx: Tx, name: str, after: int, now: int) -> int | None:
    """The first account above `after` with somebody due at the destination."""
    while True:
        row = tx.row(
            "SELECT account_id, next_at FROM outgoing_recipient WHERE destination = ? AND state = 0"
            " AND account_id > ? ORDER BY account_id, next_at LIMIT 1",
            (name, after),
        )
        if row is None:
            return None
        if row[1] <= now:
            return int(row[0])
        after = row[0]


def _put_off(tx: Tx, name: str) -> None:
    row = tx.row("SELECT min(next_at) FROM outgoing_recipient WHERE destination = ? AND state = 0", (name,))
    next_at = NEVER if row is None or row[0] is None else row[0]
    tx.run(
        "UPDATE destination SET next_at = CASE WHEN not_before > ? THEN not_before ELSE ? END WHERE name = ?",
        (next_at, next_at, name),
    )


def _messages(tx: Tx, ids: set[int]) -> tuple[Outgoing, ...]:
    found = []
    for outgoing_id in ids:
        row = tx.row(f"SELECT {_OUTGOING} FROM outgoing WHERE id = ?", (outgoing_id,))
        assert row is not None
        found.append(as_outgoing(row))
    return tuple(found)


def as_outgoing(row: Row) -> Outgoing:
    """A row with the columns of `Outgoing`."""
    found = Outgoing(*row)
    return found._replace(
        is_smtputf8=bool(found.is_smtputf8), requires_tls=bool(found.requires_tls), may_bounce=bool(found.may_bounce)
    )


def _recipient(tx: Tx, outgoing_id: int, n: int) -> Recipient:
    row = tx.row(f"SELECT {_RECIPIENT} FROM outgoing_recipient WHERE outgoing_id = ? AND n = ?", (outgoing_id, n))
    assert row is not None
    return as_recipient(row)


def as_recipient(row: Row) -> Recipient:
    """A row with the columns of `Recipient`."""
    found = Recipient(*row)
    return found._replace(state=State(found.state), report=Owed(found.report), delay_told=bool(found.delay_told))


class Reached(NamedTuple):
    """How a destination answered as a whole. `back_off_until`: 0 when it could be reached."""

    name: str
    at: int
    host: str
    reply: str
    back_off_until: int


def settle(tx: Tx, fence: Fence, name: str, outcomes: Sequence[Settled], reached: Reached | None) -> None:
    """Write down what attempts at the destination `name` came to. Three statements for a recipient that is done with.

    Raises:
        LeaseLost: nothing is written; whoever holds the lease now tries them again.
    """
    leases.check_fence(tx, *fence)
    done: set[int] = set()
    for one in outcomes:
        if one.state is None:
            tx.run("DELETE FROM outgoing_recipient WHERE outgoing_id = ? AND n = ?", (one.outgoing_id, one.n))
            done.add(one.outgoing_id)
        else:
            tx.run(
                "UPDATE outgoing_recipient SET state = ?, report = CASE WHEN ? > report THEN ? ELSE report END,"
                " attempts = attempts + 1, next_at = ?, last_at = ?, last_host = ?, last_reply = ?"
                " WHERE outgoing_id = ? AND n = ?",
                (
                    int(one.state), int(one.owed), int(one.owed), one.next_at, one.at, one.host, one.reply,
                    one.outgoing_id, one.n,
                ),
            )  # fmt: skip
        trails.add_step(tx, one.trail_id, one.step)
    for outgoing_id in done:
        forget_if_done(tx, outgoing_id)
    if reached is not None:
        _note_reached(tx, reached)
    if waiting := [one.next_at for one in outcomes if one.state is State.WAITING]:
        note_due(tx, (name,), min(waiting))


def forget_if_done(tx: Tx, outgoing_id: int) -> None:
    """Remove the row of a message whose last recipient is gone."""
    tx.run(
        "DELETE FROM outgoing WHERE id = ? AND NOT EXISTS"
        " (SELECT 1 FROM outgoing_recipient WHERE outgoing_id = outgoing.id)",
        (outgoing_id,),
    )


def _note_reached(tx: Tx, reached: Reached) -> None:
    name, at, host, reply, until = reached
    tx.run(
        "UPDATE destination SET failures = CASE WHEN ? > 0 THEN failures + 1 ELSE 0 END, not_before = ?,"
        " next_at = CASE WHEN next_at < ? THEN ? ELSE next_at END, last_at = ?, last_host = ?, last_reply = ?"
        " WHERE name = ?",
        (until, until, until, until, at, host, reply, name),
    )


def forget_destinations(tx: Tx, cutoff: int) -> int:
    """Forget destinations that nobody waits for and that were last tried at or before `cutoff`; how many."""
    return tx.run(
        "DELETE FROM destination WHERE next_at = ? AND coalesce(last_at, 0) <= ? AND NOT EXISTS (SELECT 1 FROM"
        " outgoing_recipient r WHERE r.destination = destination.name AND r.state = 0)"
        " AND NOT EXISTS (SELECT 1 FROM outgoing_recipient r WHERE r.state = 1 AND r.destination = destination.name)",
        (NEVER, cutoff),
    )


def unclaim(tx: Tx, fence: Fence, keys: Sequence[tuple[int, int]], name: str, now: int) -> None:
    """Give claimed rows back without an attempt: the runner stops.

    Raises:
        LeaseLost.
    """
    leases.check_fence(tx, *fence)
    tx.run_many("UPDATE outgoing_recipient SET state = 0 WHERE outgoing_id = ? AND n = ? AND state = 1", keys)
    note_due(tx, (name,), now)


class Reports(NamedTuple):
    """A message that reports are owed for, with the recipients that owe one."""

    message: Outgoing
    recipients: tuple[Recipient, ...]


def reports_due(tx: Tx, limit: int) -> list[Reports]:
    """Messages with reports owed and no attempt under way, so that one report tells of all."""
    rows = tx.rows(
        "SELECT DISTINCT outgoing_id FROM outgoing_recipient WHERE report > 0 AND NOT EXISTS (SELECT 1 FROM"
        " outgoing_recipient c WHERE c.outgoing_id = outgoing_recipient.outgoing_id AND c.state = 1)"
        " ORDER BY outgoing_id LIMIT ?",
        (limit,),
    )
    found = []
    for (outgoing_id,) in rows:
        recipients = tx.rows(
            f"SELECT {_RECIPIENT} FROM outgoing_recipient WHERE outgoing_id = ? AND report > 0 ORDER BY n",
            (outgoing_id,),
        )
        found.append(Reports(_messages(tx, {outgoing_id})[0], tuple(map(as_recipient, recipients))))
    return found


def report_done(tx: Tx, fence: Fence, told: Reports) -> None:
    """The report stands in the same transaction: rows that have ended go, others owe nothing any more.

    Raises:
        LeaseLost.
    """
    leases.check_fence(tx, *fence)
    for one in told.recipients:
        if one.state is State.ENDED:
            tx.run("DELETE FROM outgoing_recipient WHERE outgoing_id = ? AND n = ?", (one.outgoing_id, one.n))
        else:
            # what has come to be owed meanwhile stays owed
            tx.run(
                "UPDATE outgoing_recipient SET report = 0, delay_told = 1"
                " WHERE outgoing_id = ? AND n = ? AND report = ?",
                (one.outgoing_id, one.n, int(one.report)),
            )
    forget_if_done(tx, told.message.id)
