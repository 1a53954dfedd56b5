"""Mail on its way out: a row for each message, a row for each of its recipients, a row for each destination.

Decides: who is due, who is claimed by the runner, what a settled attempt leaves behind, which report it owes (`owed`).
Refuses to know: SMTP, when to try again (`queue/schedule.py`), what a report looks like (`queue/dsn.py`).

A recipient's way:

    WAITING ─claim─► CLAIMED ─settle─► gone (delivered, nobody asked to be told)
       ▲  │             │ └─────────► WAITING (deferred: `next_at`, `last_reply`; perhaps with a delay report owed)
       │ hold           └───────────► ENDED (failed, or delivered and somebody wants to know: a report is owed)
       └─ HELD                           └─report─► gone

HELD is also what a stopped account has due: mail of a stolen password waits for a word (`pochta queue release`).

* A destination is where a row queues: a recipient's domain in A-labels, or `route:NAME`, or LOCAL. Whoever makes a row
  WAITING notes in `destination.next_at` when it is due; a destination that is backed off (`not_before`) is not due
  sooner than that, and one that was served goes behind others that are due (`last_at`). So a WAITING row is looked at
  by the latest of the three. A name without a row in `destination` has nobody waiting.
* Only the holder of the lease claims and settles: every such write checks the fence. CLAIMED rows of a dead holder
  become WAITING when the next one begins (`take_over`).
* A message's row goes with its last recipient.
* Every change of a message's fate is one transaction with the step in its trail.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from pochta.store import blobs, leases, sending, trails
from pochta.store.blobs import StoredBlob
from pochta.store.leases import Fence
from pochta.store.shares import WHOLE, Share, shard_of
from pochta.store.tx import Row, Tx

NEWS: Final = -1  # the account of a hint that says: the queue has changed
NEVER: Final = 2**53  # the next_at of a destination that nobody waits for
LOCAL: Final = ""  # the destination of rows that are delivered here, at a later time
PRIORITY_STEP_S: Final = 60  # one step of MT-PRIORITY is worth so much of waiting; 9 of them jump a queue of 9 minutes
LOW_PRIORITY_STEP_S: Final = 6  # one step down; where nobody else waits, it delays for nothing: a minute at the most
TOGETHER_MAX: Final = 100  # recipients of one message in one claim: one transaction's, RFC 5321 §4.5.3.1.8
CLAIM_MAX: Final = 300  # rows of one claim: 4 ms of the lane
LOOKS_MAX: Final = 50  # senders with nobody due that one claim passes by
HELD_AT_ONCE: Final = 200  # rows of an account that is stopped
FORGOTTEN_AT_ONCE: Final = 500


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
    EXPANDED = 5  # an alias of several; what becomes of each is reported only where it fails


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
    it may first be sent; that is its `created_at` then. `deliver_by_mode`: `R` or `N`, with `T` behind it for a trace.
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
    name: str = ""  # what its trail, its Received field and the reply to its sender call it

    @property
    def returned_at(self) -> int | None:
        """When it is to be given up because its sender said so (DELIVERBY, mode R)."""
        return self.deliver_by_at if (self.deliver_by_mode or "").startswith("R") else None

    @property
    def noticed_at(self) -> int | None:
        """When its sender wants to hear that it still waits (DELIVERBY, mode N)."""
        return self.deliver_by_at if (self.deliver_by_mode or "").startswith("N") else None

    @property
    def is_traced(self) -> bool:
        """Whether its sender wants to hear of each server it is passed on to (DELIVERBY with T)."""
        return (self.deliver_by_mode or "").endswith("T")


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


# of a row called `o`
OUTGOING_COLUMNS: Final = ", ".join(f"o.{name}" for name in Outgoing._fields[:-1]) + (
    ", coalesce((SELECT t.name FROM trail t WHERE t.id = o.trail_id), '')"
)
RECIPIENT_COLUMNS: Final = ", ".join(Recipient._fields)
MESSAGES_AT_ONCE: Final = 20
_OUTGOING_OF: Final = f"SELECT {OUTGOING_COLUMNS} FROM outgoing o WHERE o.id IN ({', '.join('?' * MESSAGES_AT_ONCE)})"
# The few messages first, then their rows by the key. SQLite would rather begin with all of the destination (CROSS JOIN
# forbids it), or look for each message among them (`coalesce` hides that index).
_DUE_OF: Final = (
    f"SELECT {', '.join(f'r.{name}' for name in Recipient._fields)} FROM (SELECT outgoing_id, min(next_at) AS due_at"
    " FROM (SELECT outgoing_id, next_at FROM outgoing_recipient WHERE destination = ? AND account_id = ? AND state = 0"
    " AND next_at <= ? ORDER BY next_at LIMIT ?) a GROUP BY outgoing_id) d CROSS JOIN outgoing_recipient r"
    " WHERE r.outgoing_id = d.outgoing_id AND coalesce(r.destination, '') = ? AND r.state = 0 AND r.next_at <= ?"
    " ORDER BY d.due_at, r.outgoing_id, r.n LIMIT ?"
)


def enqueue(tx: Tx, new: NewOutgoing, *, blob_id: int, trail_id: int, size: int, header_size: int, now: int) -> int:
    """Put a message with its recipients into the queue; its id. One statement, and one for each recipient."""
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
    # RFC 4865 §4: not before the time that was asked for, whatever the priority
    step_s = PRIORITY_STEP_S if new.priority > 0 else LOW_PRIORITY_STEP_S
    next_at = max(now - new.priority * step_s, new.not_before)
    tx.run_many(
        "INSERT INTO outgoing_recipient (outgoing_id, n, destination, account_id, address, original, notify, state,"
        " report, delay_told, attempts, next_at, last_at, last_host, last_reply)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, NULL, NULL, ?)",
        [
            (
                outgoing_id, n, one.destination, new.account_id, one.address, one.original, one.notify,
                int(State.WAITING if one.owed is Owed.NOTHING else State.ENDED), int(one.owed), next_at, one.last_reply,
            )
            for n, one in enumerate(new.recipients)
        ],
    )  # fmt: skip
    note_due(tx, {one.destination for one in new.recipients if one.owed is Owed.NOTHING}, next_at)
    tx.hint(NEWS, 0)
    return outgoing_id


_LATER: Final = (
    "CASE WHEN excluded.next_at < destination.not_before THEN destination.not_before ELSE excluded.next_at END"
)


def note_due(tx: Tx, destinations: Iterable[str], next_at: int) -> None:
    """See to it that the destinations are looked at by `next_at`, or when their back-off ends."""
    # Written even where nothing changes: on PostgreSQL `_put_off`, which did not see our rows, must collide with us.
    tx.run_many(
        "INSERT INTO destination (name, shard, next_at, not_before, failures) VALUES (?, ?, ?, 0, 0)"
        " ON CONFLICT (name) DO UPDATE"
        f" SET next_at = CASE WHEN destination.next_at > {_LATER} THEN {_LATER} ELSE destination.next_at END",
        [(name, shard_of(name), next_at) for name in sorted(destinations)],
    )


def note_waiting(tx: Tx, destinations: Iterable[str]) -> None:
    """As `note_due`, by when whoever waits longest there is due. Two statements for each."""
    for name in sorted(destinations):
        row = _longest_waiting(tx, name)
        if row is not None:
            note_due(tx, (name,), row[1])


def take_over(tx: Tx, fence: Fence, share: Share = WHOLE) -> int:
    """What a dead holder had claimed of the share waits again; how many rows. To be called once by each new holder.

    Raises:
        LeaseLost.
    """
    leases.check_fence(tx, *fence)
    rows = tx.rows("SELECT outgoing_id, n, destination FROM outgoing_recipient WHERE state = 1")
    taken = [row for row in rows if share.has(row[2])]
    tx.run_many("UPDATE outgoing_recipient SET state = 0 WHERE outgoing_id = ? AND n = ?", [row[:2] for row in taken])
    note_waiting(tx, {row[2] for row in taken})
    return len(taken)


def due_destinations(tx: Tx, now: int, limit: int, share: Share = WHOLE) -> list[str]:
    """The names of destinations that somebody may be due for, longest waiting first."""
    rows = tx.rows(
        "SELECT name FROM destination WHERE next_at <= ? AND shard >= ? AND shard < ? ORDER BY next_at LIMIT ?",
        (now, *share.shards, limit),
    )
    return [row[0] for row in rows]


def next_due_at(tx: Tx, after: int = -(2**53), share: Share = WHOLE) -> int | None:
    """When the next destination is due after that time; None when nobody waits."""
    row = tx.row(
        "SELECT next_at FROM destination WHERE next_at > ? AND shard >= ? AND shard < ? ORDER BY next_at LIMIT 1",
        (after, *share.shards),
    )
    return None if row is None or row[0] in (None, NEVER) else int(row[0])


def waiting_destinations(tx: Tx) -> int:
    """How many destinations somebody waits for. Reads every destination."""
    row = tx.row("SELECT count(*) FROM destination WHERE next_at < ?", (NEVER,))
    return 0 if row is None else int(row[0])


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

    Senders take turns from `after_account` on, so that one with a million recipients does not keep others waiting. Who
    gets the same message at the same destination is claimed with it. A destination that nobody is due for is put off
    until somebody is. What an account that is stopped has due is held.

    Raises:
        LeaseLost.
    """
    leases.check_fence(tx, *fence)
    accounts_max, rows_max = limits
    accounts, after = _accounts_in_turn(tx, name, after_account, now, accounts_max)
    found: list[Recipient] = []
    for account_id in accounts:
        if account_id and sending.stopped(tx, account_id) is not None:
            _hold_due(tx, name, account_id, now)
        elif len(found) < CLAIM_MAX:
            found += _due_of(tx, name, account_id, now, rows_max)
            after = account_id
    if not found:
        _put_off(tx, name)
        return Claim((), (), after)
    keys = [(one.outgoing_id, one.n) for one in found]
    tx.run_many("UPDATE outgoing_recipient SET state = 1 WHERE outgoing_id = ? AND n = ?", keys)
    messages = messages_of(tx, list(dict.fromkeys(outgoing_id for outgoing_id, _ in keys)))
    return Claim(messages, tuple(found), after)


def _accounts_in_turn(tx: Tx, name: str, after: int, now: int, limit: int) -> tuple[list[int], int]:
    """Up to `limit` accounts with somebody due, from the first above `after` on, and around to it; the last one seen.

    Bounded: past LOOKS_MAX senders with nobody due, whoever waits longest of all is found by the time alone.
    """
    found: list[int] = []
    looks = LOOKS_MAX
    last = after
    for start, stop in ((after, None), (-1, after)):
        if len(found) == limit or not looks:
            break
        last = start
        while len(found) < limit and looks:
            row = tx.row(
                "SELECT account_id, next_at FROM outgoing_recipient WHERE destination = ? AND state = 0"
                " AND account_id > ? ORDER BY account_id, next_at LIMIT 1",
                (name, last),
            )
            if row is None or (stop is not None and row[0] > stop):
                break
            last = row[0]
            if row[1] <= now:
                found.append(last)
            else:
                looks -= 1
    if not found:
        row = _longest_waiting(tx, name)
        found = [row[0]] if row is not None and row[1] <= now else []
    return found, last


def _longest_waiting(tx: Tx, name: str) -> Row | None:
    """(account_id, next_at)"""
    return tx.row(
        "SELECT account_id, next_at FROM outgoing_recipient WHERE destination = ? AND state = 0"
        " ORDER BY next_at LIMIT 1",
        (name,),
    )


def _due_of(tx: Tx, name: str, account_id: int, now: int, limit: int) -> list[Recipient]:
    """The recipients of a sender that are due longest, and those who get the same messages there; as claimed."""
    # RFC 5321 §4.5.4.1: one copy for all recipients at a host
    rows = tx.rows(_DUE_OF, (name, account_id, now, limit, name, now, 2 * TOGETHER_MAX - 1))
    found: list[Recipient] = []
    of_one: list[Recipient] = []
    for row in rows:
        one = as_recipient(row)._replace(state=State.CLAIMED)
        if not of_one or of_one[0].outgoing_id != one.outgoing_id:
            if len(found) >= TOGETHER_MAX:
                break
            of_one = []
        if len(of_one) < TOGETHER_MAX:
            of_one.append(one)
            found.append(one)
    return found


def _hold_due(tx: Tx, name: str, account_id: int, now: int) -> None:
    rows = tx.rows(
        "SELECT r.outgoing_id, r.n, r.address, o.trail_id FROM outgoing_recipient r JOIN outgoing o"
        " ON o.id = r.outgoing_id WHERE r.destination = ? AND r.account_id = ? AND r.state = 0 AND r.next_at <= ?"
        " ORDER BY r.next_at LIMIT ?",
        (name, account_id, now, HELD_AT_ONCE),
    )
    tx.run_many("UPDATE outgoing_recipient SET state = 2 WHERE outgoing_id = ? AND n = ?", [row[:2] for row in rows])
    for row in rows:
        trails.add_step(tx, row[3], trails.Step(now, "held", row[2], '{"reply":"the sending account is stopped"}'))


def _put_off(tx: Tx, name: str) -> None:
    row = _longest_waiting(tx, name)
    next_at = NEVER if row is None else row[1]
    tx.run(
        "UPDATE destination SET next_at = CASE WHEN not_before > ? THEN not_before ELSE ? END WHERE name = ?",
        (next_at, next_at, name),
    )


def messages_of(tx: Tx, ids: Sequence[int]) -> tuple[Outgoing, ...]:
    found = []
    for start in range(0, len(ids), MESSAGES_AT_ONCE):
        part = ids[start : start + MESSAGES_AT_ONCE]
        # one text whatever their number, so that it is prepared once
        padded = (*part, *(part[-1],) * (MESSAGES_AT_ONCE - len(part)))
        rows = {row[0]: row for row in tx.rows(_OUTGOING_OF, padded)}
        found += [as_outgoing(rows[outgoing_id]) for outgoing_id in part]
    return tuple(found)


def as_outgoing(row: Row) -> Outgoing:
    """A row with OUTGOING_COLUMNS."""
    return Outgoing._make((*row[:10], bool(row[10]), bool(row[11]), bool(row[12]), *row[13:]))


def as_recipient(row: Row) -> Recipient:
    """A row with the columns of `Recipient`."""
    return Recipient._make((*row[:7], State(row[7]), Owed(row[8]), bool(row[9]), *row[10:]))


def bytes_of(tx: Tx, blob_id: int) -> StoredBlob:
    """As `blobs.load`, in one look-up for what stands in the database: most of what is sent.

    Raises:
        Corrupt.
    """
    row = tx.row("SELECT bytes FROM blob_inline WHERE blob_id = ?", (blob_id,))
    return blobs.load(tx, blob_id) if row is None else StoredBlob(blob_id, len(row[0]), row[0], None)


class Reached(NamedTuple):
    """How a destination answered as a whole. `back_off_until`: 0 when it could be reached."""

    name: str
    at: int
    host: str
    reply: str
    back_off_until: int


def settle(tx: Tx, fence: Fence, name: str, outcomes: Sequence[Settled], reached: Reached | None) -> None:
    """Write down what attempts at the destination `name` came to. Three statements for a recipient that is done with.

    Rows that are claimed no more are left alone: a commit that failed may have become durable all the same, and is
    tried again.

    Raises:
        LeaseLost: nothing is written; whoever holds the lease now tries them again.
    """
    leases.check_fence(tx, *fence)
    done: dict[int, None] = {}
    for one in outcomes:
        if one.state is None:
            is_ours = tx.run(
                "DELETE FROM outgoing_recipient WHERE outgoing_id = ? AND n = ? AND state = 1", (one.outgoing_id, one.n)
            )
            done[one.outgoing_id] = None
        else:
            owed = int(one.owed)
            is_ours = tx.run(
                "UPDATE outgoing_recipient SET state = ?, report = CASE WHEN ? > report AND (? <> 1 OR delay_told = 0)"
                " THEN ? ELSE report END, attempts = attempts + 1, next_at = ?, last_at = ?, last_host = ?,"
                " last_reply = ? WHERE outgoing_id = ? AND n = ? AND state = 1",
                (
                    int(one.state), owed, owed, owed, one.next_at, one.at, one.host, one.reply,
                    one.outgoing_id, one.n,
                ),
            )  # fmt: skip
        if is_ours:
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
    if not until:
        # it is looked at again at once where it was backed off, and goes behind others that are due
        tx.run(
            "UPDATE destination SET failures = 0, next_at = CASE WHEN next_at < ? OR not_before > ? THEN ? ELSE next_at"
            " END, not_before = 0, last_at = ?, last_host = ?, last_reply = ? WHERE name = ?",
            (at, at, at, at, host, reply, name),
        )
        return
    # Connections that fail together are one failure: who comes second leaves the back-off as it is.
    tx.run(
        "UPDATE destination SET failures = CASE WHEN not_before > ? THEN failures ELSE failures + 1 END,"
        " next_at = CASE WHEN not_before > ? OR next_at > ? THEN next_at ELSE ? END,"
        " not_before = CASE WHEN not_before > ? THEN not_before ELSE ? END,"
        " last_at = ?, last_host = ?, last_reply = ? WHERE name = ?",
        (at, at, until, until, at, until, at, host, reply, name),
    )


def forget_destinations(tx: Tx, cutoff: int, limit: int = FORGOTTEN_AT_ONCE) -> int:
    """Forget up to `limit` destinations that nobody waits for, last tried at or before `cutoff`; how many."""
    return tx.run(
        "DELETE FROM destination WHERE name IN (SELECT d.name FROM destination d WHERE d.next_at = ?"
        " AND coalesce(d.last_at, 0) <= ? AND NOT EXISTS (SELECT 1 FROM outgoing_recipient r"
        " WHERE r.destination = d.name AND r.state = 0) AND NOT EXISTS (SELECT 1 FROM outgoing_recipient r"
        " WHERE r.state = 1 AND r.destination = d.name) LIMIT ?)",
        (NEVER, cutoff, limit),
    )


def unclaim(tx: Tx, fence: Fence, keys: Sequence[tuple[int, int]], name: str, now: int) -> None:
    """Give claimed rows back without an attempt: the runner stops.

    Raises:
        LeaseLost.
    """
    leases.check_fence(tx, *fence)
    tx.run_many("UPDATE outgoing_recipient SET state = 0 WHERE outgoing_id = ? AND n = ? AND state = 1", keys)
    note_waiting(tx, (name,))
