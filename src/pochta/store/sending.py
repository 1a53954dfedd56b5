"""What accounts have sent lately: counts by the hour, whom they ever wrote to, whose sending is stopped.

Decides what a row holds and how many stay. Refuses to know what a count leads to and how an address becomes a hash
(`accounts/sending.py`).

`sending` has one row for each account and clock hour (epoch hours, UTC) in which it sent. `correspondent` has one row
for each address that an account has written to; who has none is a stranger.

Invariants: rows of `sending` live KEPT_HOURS (the sweeper); an account has about MAX_CORRESPONDENTS of them at most:
they are counted when an hour begins, so one hour's strangers may stand above it.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store.tx import Tx

KEPT_HOURS: Final = 48  # limits look back 24
# Some 30 bytes each. Twenty years of two new people a working day; who drops out is a stranger once more, no worse.
MAX_CORRESPONDENTS: Final = 10_000
TRIM_ROWS: Final = 1000  # removed in one transaction; more than one day's strangers by default
PART: Final = 64  # values of one IN list, padded, so that one statement stays prepared

_MARKS: Final = ", ".join("?" * PART)


class Hour(NamedTuple):
    """What one account sent in one clock hour; each recipient of each message counts."""

    hour: int
    messages: int
    recipients: int
    strangers: int


class Standing(NamedTuple):
    """What is known of a sender; `stopped` is why its sending is, None when it is not; `hours` oldest first."""

    address: str
    stopped: str | None
    hours: tuple[Hour, ...]


def standing(tx: Tx, account_id: int, after_hour: int) -> Standing:
    """What the account sent in the hours after `after_hour`, and whether it may send at all. One statement.

    Raises:
        Refusal: NO_PERMISSION, the account was removed.
    """
    rows = tx.rows(
        "SELECT address, sending_stopped, hour, messages, recipients, strangers FROM account"
        " LEFT JOIN sending ON sending.account_id = account.id AND hour > ?"
        " WHERE account.id = ? AND removed_at IS NULL ORDER BY hour",
        (after_hour, account_id),
    )
    if not rows:
        raise Refusal(RefusalCode.NO_PERMISSION, "the account does not exist any more")
    address, stopped = rows[0][:2]
    return Standing(address, stopped, tuple(Hour(*row[2:]) for row in rows if row[2] is not None))


def known(tx: Tx, account_id: int, hashes: Sequence[int]) -> set[int]:
    """Which of the addresses the account has written to. One statement for each PART of them."""
    sql = f"SELECT address_hash FROM correspondent WHERE account_id = ? AND address_hash IN ({_MARKS})"
    return {row[0] for part in _parts(hashes) for row in tx.rows(sql, (account_id, *part))}


def add(tx: Tx, account_id: int, hour: int, recipients: int, strangers: Sequence[int], now: int) -> None:
    """Count one message to so many recipients; `strangers` are the hashes of those that were unknown.

    One statement, and one for each stranger.
    """
    tx.run(
        "INSERT INTO sending (account_id, hour, messages, recipients, strangers) VALUES (?, ?, 1, ?, ?)"
        " ON CONFLICT (account_id, hour) DO UPDATE SET messages = sending.messages + 1,"
        " recipients = sending.recipients + excluded.recipients, strangers = sending.strangers + excluded.strangers",
        (account_id, hour, recipients, len(strangers)),
    )
    tx.run_many(
        "INSERT INTO correspondent (account_id, address_hash, first_at) VALUES (?, ?, ?)"
        " ON CONFLICT (account_id, address_hash) DO NOTHING",
        [(account_id, one, now) for one in strangers],
    )


def trim_correspondents(tx: Tx, account_id: int) -> int:
    """Forget the oldest above MAX_CORRESPONDENTS, TRIM_ROWS at once; how many. One statement, two where there are."""
    row = tx.row("SELECT count(*) FROM correspondent WHERE account_id = ?", (account_id,))
    excess = min(row[0] - MAX_CORRESPONDENTS, TRIM_ROWS) if row else 0
    if excess <= 0:
        return 0
    return tx.run(
        "DELETE FROM correspondent WHERE account_id = ? AND address_hash IN (SELECT address_hash FROM correspondent"
        " WHERE account_id = ? ORDER BY first_at, address_hash LIMIT ?)",
        (account_id, account_id, excess),
    )


def stopped(tx: Tx, account_id: int) -> str | None:
    """Why the account's sending is stopped; None when it is not. One statement."""
    row = tx.row("SELECT sending_stopped FROM account WHERE id = ?", (account_id,))
    return None if row is None else row[0]


def set_stopped(tx: Tx, account_id: int, reason: str | None) -> None:
    """Stop the account's sending for `reason`, or let it send again (None). One statement.

    Raises:
        Refusal: NO_SUCH_USER.
    """
    sql = "UPDATE account SET sending_stopped = ? WHERE id = ? AND removed_at IS NULL"
    if not tx.run(sql, (reason, account_id)):
        raise Refusal(RefusalCode.NO_SUCH_USER, "there is no such account")


def forget_counts(tx: Tx, account_id: int) -> None:
    """Begin to count the account's sending anew; whom it has written to stays known. One statement."""
    tx.run("DELETE FROM sending WHERE account_id = ?", (account_id,))


def expire(tx: Tx, account_id: int, before_hour: int) -> int:
    """Forget the account's hours before this one; how many. One statement."""
    return tx.run("DELETE FROM sending WHERE account_id = ? AND hour < ?", (account_id, before_hour))


def _parts(hashes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The hashes in tuples of exactly PART, the last one filled up with a repeated one."""
    for start in range(0, len(hashes), PART):
        part = tuple(hashes[start : start + PART])
        yield part + (part[-1],) * (PART - len(part))
