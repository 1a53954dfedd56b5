"""App passwords of accounts: rows made, found, listed and removed.

Decides what a row looks like, how many an account has, and that a removal ends what the password was used for. Refuses
to know how a password is written and what a scope covers (`accounts/app_passwords.py`).

Invariants: no row holds a password; an id is never used twice in an account; removing one raises the credential's
generation, so that every connection of the account signs in again and nothing remembered holds any more.
"""

from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import directory
from pochta.store.tx import Tx

MAX_PER_ACCOUNT: Final = 20  # a SCRAM proof is held against each, and as many times for accounts that do not exist
MAX_LABEL_CHARS: Final = 100
USE_AGAIN_S: Final = 86400  # `used_at` is written at most once in this time


class AppPassword(NamedTuple):
    """One app password, as it is shown; `used_at` to the day, None before the first use."""

    id: int
    label: str
    scope: str
    created_at: int
    used_at: int | None


class Match(NamedTuple):
    """The app password that somebody gave."""

    id: int
    scope: str
    used_at: int | None


class ScramRow(NamedTuple):
    """What SCRAM needs of one app password: 32 bytes for each spelling in either column."""

    id: int
    scope: str
    used_at: int | None
    stored_keys: bytes
    server_keys: bytes

    def __repr__(self) -> str:
        return f"ScramRow(id={self.id})"  # INV-11


class Use(NamedTuple):
    """An app password was used."""

    account_id: int
    id: int
    at: int


def add(
    tx: Tx, account_id: int, label: str, scope: str, digest: str, stored_keys: bytes, server_keys: bytes, now: int
) -> int:
    """The id of a new app password. Three statements.

    Raises:
        Refusal: LIMIT, the account has as many as it may have.
    """
    count = tx.row("SELECT count(*) FROM app_password WHERE account_id = ?", (account_id,))
    if count is None or count[0] >= MAX_PER_ACCOUNT:
        raise Refusal(RefusalCode.LIMIT, f"an account has at most {MAX_PER_ACCOUNT} app passwords; remove one first")
    row = tx.row(
        "UPDATE account SET last_app_password_id = last_app_password_id + 1 WHERE id = ?"
        " RETURNING last_app_password_id",
        (account_id,),
    )
    assert row is not None
    tx.run(
        "INSERT INTO app_password (account_id, id, label, scope, digest, stored_keys, server_keys, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (account_id, row[0], label, scope, digest, stored_keys, server_keys, now),
    )
    return int(row[0])


def of_account(tx: Tx, account_id: int) -> list[AppPassword]:
    """The app passwords of an account, oldest first. One statement."""
    sql = "SELECT id, label, scope, created_at, used_at FROM app_password WHERE account_id = ? ORDER BY id"
    return [AppPassword(*row) for row in tx.rows(sql, (account_id,))]


def remove(tx: Tx, account_id: int, id: int) -> None:
    """Forget an app password; open connections of the account end, as do all remembered passwords of it.

    Raises:
        Refusal: NOT_FOUND.
    """
    if not tx.run("DELETE FROM app_password WHERE account_id = ? AND id = ?", (account_id, id)):
        raise Refusal(RefusalCode.NOT_FOUND, f"there is no app password {id}")
    directory.end_sessions(tx, account_id)


def match(tx: Tx, account_id: int, digest: str) -> Match | None:
    """The app password with this digest. One statement."""
    sql = "SELECT id, scope, used_at FROM app_password WHERE account_id = ? AND digest = ?"
    row = tx.row(sql, (account_id, digest))
    return None if row is None else Match(*row)


def scram_rows(tx: Tx, account_id: int) -> list[ScramRow]:
    """What SCRAM needs of every app password of the account. One statement."""
    sql = "SELECT id, scope, used_at, stored_keys, server_keys FROM app_password WHERE account_id = ?"
    return [ScramRow(*row) for row in tx.rows(sql, (account_id,))]


def note_use(tx: Tx, account_id: int, id: int, at: int) -> None:
    """Remember the day of a use. One statement."""
    tx.run(
        "UPDATE app_password SET used_at = ? WHERE account_id = ? AND id = ? AND coalesce(used_at, 0) <= ?",
        (at, account_id, id, at - USE_AGAIN_S),
    )
