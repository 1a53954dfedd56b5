"""What sign-ins leave behind for every worker to see: failures, addresses that came in, the server's secret.

Decides how failures add up and how long rows stay. Refuses to know what a failure leads to (`accounts/throttle.py`),
how names and networks are written, and what a password is.

`sign_in_failure` holds for each (who, network) when the last failure was and when all of them will be forgiven: each
one moves that time away by `forgive_s`, time itself brings it nearer. So one row of fixed size stands for a count that
shrinks by itself, and a row past its time says nothing.

Invariants: nothing here names a person who did not sign in (`who` is a keyed hash); the number of rows is bounded in
all and for each account; a power cut may take the last second of it, and nobody was told otherwise.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from pochta.store import app_passwords
from pochta.store.app_passwords import Use
from pochta.store.tx import Tx

MAX_FAILURE_ROWS: Final = 50_000  # some 8 MB; those nearest to being forgiven go first
SWEEP_ROWS: Final = 500  # removed in one write, so that it holds the lane for about a millisecond
SUCCESS_KEPT_S: Final = 30 * 86400  # as long as people are away
SUCCESS_AGAIN_S: Final = 86400  # a row is written anew at most once in this time
MAX_SUCCESS_ROWS: Final = 64  # addresses of one account: a telephone on the move has some ten in a month


class Failures(NamedTuple):
    """The last one (UTC epoch seconds), and when the last of them is forgiven."""

    last_at: int
    clear_at: int


class Failed(NamedTuple):
    """`number` new failures; each is forgiven after `forgive_s`, all of them together after `span_s` at the latest."""

    who: str
    network: str
    number: int
    at: int
    forgive_s: int
    span_s: int


class Succeeded(NamedTuple):
    """Somebody came in to an account from an address."""

    account_id: int
    address: str
    at: int


class Standing(NamedTuple):
    """What is known of somebody who asks: failures by network or address, whether the address came in lately."""

    by_key: dict[tuple[str, str], Failures]
    is_trusted: bool


def added(before: Failures | None, number: int, at: int, forgive_s: int, span_s: int) -> Failures:
    """The failures with `number` new ones."""
    if before is None:
        before = Failures(at, at)
    last_at = max(before.last_at, at)
    return Failures(last_at, min(max(before.clear_at, at) + number * forgive_s, last_at + span_s))


def standing(tx: Tx, account_id: int, who: str, network: str, address: str, now: int) -> Standing:
    """What is known of `who` (account_id 0: no such account) at `address`, which is part of `network`. Two statements.

    The failures of the network over all names stand under `("", network)`.
    """
    seen = tx.row(
        "SELECT 1 FROM sign_in_success WHERE account_id = ? AND address = ? AND last_at > ?",
        (account_id, address, now - SUCCESS_KEPT_S),
    )
    rows = tx.rows(
        "SELECT who, network, last_at, clear_at FROM sign_in_failure WHERE who IN (?, '') AND network IN (?, ?)",
        (who, network, address),
    )
    return Standing({(row[0], row[1]): Failures(row[2], row[3]) for row in rows}, seen is not None)


def record(tx: Tx, failed: Sequence[Failed], succeeded: Sequence[Succeeded], uses: Sequence[Use], now: int) -> None:
    """Add what happened, and forget some of what is past its time. Two statements for each, four in all for rows."""
    for one in failed:
        _add_failure(tx, Failed(*one))
    if failed:
        _forget_failures(tx, now)
    for success in succeeded:
        _add_success(tx, *success)
    for account_id, id, at in uses:
        app_passwords.note_use(tx, account_id, id, at)


def _add_failure(tx: Tx, one: Failed) -> None:
    row = tx.row("SELECT last_at, clear_at FROM sign_in_failure WHERE who = ? AND network = ?", (one.who, one.network))
    after = added(None if row is None else Failures(*row), one.number, one.at, one.forgive_s, one.span_s)
    tx.run(
        "INSERT INTO sign_in_failure (who, network, last_at, clear_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (who, network) DO UPDATE SET last_at = excluded.last_at, clear_at = excluded.clear_at",
        (one.who, one.network, after.last_at, after.clear_at),
    )


def _forget_failures(tx: Tx, now: int) -> None:
    delete = "DELETE FROM sign_in_failure WHERE (who, network) IN (SELECT who, network FROM sign_in_failure"
    tx.run(f"{delete} WHERE clear_at <= ? ORDER BY clear_at LIMIT ?)", (now, SWEEP_ROWS))
    row = tx.row("SELECT count(*) FROM sign_in_failure")
    excess = row[0] - MAX_FAILURE_ROWS if row else 0
    if excess > 0:
        tx.run(f"{delete} ORDER BY clear_at LIMIT ?)", (min(excess, SWEEP_ROWS),))


def _add_success(tx: Tx, account_id: int, address: str, at: int) -> None:
    # The account may have been removed since; a row of it would stay for ever.
    added_rows = tx.run(
        "INSERT INTO sign_in_success (account_id, address, last_at)"
        " SELECT id, ?, ? FROM account WHERE id = ? AND removed_at IS NULL"
        " ON CONFLICT (account_id, address) DO UPDATE SET last_at = excluded.last_at"
        " WHERE sign_in_success.last_at <= excluded.last_at - ?",
        (address, at, account_id, SUCCESS_AGAIN_S),
    )
    if added_rows:
        tx.run(
            "DELETE FROM sign_in_success WHERE account_id = ? AND (last_at <= ? OR address NOT IN"
            " (SELECT address FROM sign_in_success WHERE account_id = ? ORDER BY last_at DESC, address LIMIT ?))",
            (account_id, at - SUCCESS_KEPT_S, account_id, MAX_SUCCESS_ROWS),
        )


def secret(tx: Tx, name: str) -> bytes | None:
    """The secret of this name, the same for every worker; None before it was made. One statement."""
    row = tx.row("SELECT bytes FROM secret WHERE name = ?", (name,))
    return None if row is None else bytes(row[0])


def make_secret(tx: Tx, name: str, candidate: bytes) -> bytes:
    """The secret of this name; `candidate` becomes it where there is none. Two statements."""
    tx.run("INSERT INTO secret (name, bytes) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (name, candidate))
    made = secret(tx, name)
    assert made is not None
    return made
