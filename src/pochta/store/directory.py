"""Who has mail here: every statement about domains, accounts and aliases.

Decides what a row of each looks like and when a change is refused. Refuses to know how an address is spelled: keys come
in as (local part in NFC and casefolded, domain in A-labels), see `pochta.proto.address.address_key`.

Invariants:
* An address is an account or an alias, never both: what one of them is given can always reach it.
* A removed account keeps its row, without key and credential, under the domain named `NOWHERE` until a background step
  has emptied it; so a domain is in use exactly when a row with a local part refers to it.
* `account.next_uid_validity` starts at the second of creation, but never below a number that a removed account had
  reached (`meta.uid_validity_floor`): an account made again under an old address repeats none (INV-2).
"""

from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import mailboxes
from pochta.store.tx import Row, Tx

NOWHERE: Final = ""  # the name of no domain: rows of removed accounts stand under it
STEP_ROWS: Final = 50  # accounts or aliases a lane function handles: an account is 1 row and some 15 of its mailboxes
MAX_TARGETS: Final = 1000  # of one alias; what `limits.recipients` grants one message

UID_VALIDITY_FLOOR: Final = "uid_validity_floor"
SIGN_IN_CHANGES: Final = "sign_in_changes"  # in `meta`: rises whenever the generation of any credential does
TASK_ACCOUNT_REMOVE: Final = "account_remove"


class Domain(NamedTuple):
    """A domain whose mail is kept here. `shown` is the name as given; `catch_all` an address or None."""

    id: int
    name: str
    shown: str
    catch_all: str | None
    account_count: int
    created_at: int


class Account(NamedTuple):
    """An account, without its credential. A quota of 0 is none; `sending_stopped` why it may send nothing.

    `is_shared`: nobody signs in; its mailboxes stand below `Shared/` of those who have rights to them.
    """

    id: int
    address: str
    domain: str
    local_part: str
    is_enabled: bool
    quota_bytes: int
    used_bytes: int
    message_count: int
    generation: int
    created_at: int
    sending_stopped: str | None
    quota_messages: int
    quota_mailboxes: int
    is_shared: bool


class Alias(NamedTuple):
    """An address that stands for others; `targets` sorted."""

    id: int
    address: str
    domain: str
    local_part: str
    targets: tuple[str, ...]
    created_at: int


class Found(NamedTuple):
    """What stands under one key of a local domain; at most one of the two ids is set."""

    domain_id: int
    catch_all: str | None
    account_id: int | None
    alias_id: int | None


class SignIn(NamedTuple):
    """What a sign-in is checked against."""

    account_id: int
    address: str
    generation: int
    is_enabled: bool
    credential: str

    def __repr__(self) -> str:
        return f"SignIn(account_id={self.account_id})"  # INV-11


def _no_such_domain(name: str) -> Refusal:
    return Refusal(RefusalCode.NO_SUCH_DOMAIN, f"there is no domain {name} here")


def _no_such_account(local_part: str, domain: str) -> Refusal:
    return Refusal(RefusalCode.NO_SUCH_USER, f"there is no account {local_part}@{domain}")


def domain_id(tx: Tx, name: str) -> int:
    """The id of a local domain. One statement.

    Raises:
        Refusal: NO_SUCH_DOMAIN.
    """
    row = tx.row("SELECT id FROM domain WHERE name = ?", (name,)) if name else None
    if row is None:
        raise _no_such_domain(name)
    return int(row[0])


def has_domain(tx: Tx, name: str) -> bool:
    """Whether mail for the domain is kept here. One statement."""
    return name != NOWHERE and tx.row("SELECT 1 FROM domain WHERE name = ?", (name,)) is not None


def add_domain(tx: Tx, name: str, shown: str, catch_all: str | None, now: int) -> int:
    """The id of a new domain.

    Raises:
        Refusal: EXISTS.
    """
    row = tx.row(
        "INSERT INTO domain (name, shown, catch_all, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name) DO NOTHING RETURNING id",
        (name, shown, catch_all, now),
    )
    if row is None:
        raise Refusal(RefusalCode.EXISTS, f"domain {shown} exists already")
    return int(row[0])


def domains(tx: Tx) -> list[Domain]:
    """Every domain, by name. One statement."""
    sql = (
        "SELECT id, name, shown, catch_all, (SELECT count(*) FROM account WHERE domain_id = domain.id), created_at"
        " FROM domain WHERE name <> ? ORDER BY name"
    )
    return [Domain(*row) for row in tx.rows(sql, (NOWHERE,))]


def set_catch_all(tx: Tx, name: str, catch_all: str | None) -> None:
    """Send what no account or alias of the domain takes to `catch_all`; None: refuse it.

    Raises:
        Refusal: NO_SUCH_DOMAIN.
    """
    tx.run("UPDATE domain SET catch_all = ? WHERE id = ?", (catch_all, domain_id(tx, name)))


def remove_domain(tx: Tx, name: str) -> None:
    """Forget a domain that nothing uses, with its keys.

    Raises:
        Refusal: NO_SUCH_DOMAIN, or IN_USE while it has accounts or aliases.
    """
    id = domain_id(tx, name)
    counts = tx.row(
        "SELECT (SELECT count(*) FROM account WHERE domain_id = ?), (SELECT count(*) FROM alias WHERE domain_id = ?)",
        (id, id),
    ) or (0, 0)
    if any(counts):
        raise Refusal(RefusalCode.IN_USE, f"domain {name} is in use (accounts: {counts[0]}, aliases: {counts[1]})")
    tx.run("DELETE FROM dkim_key WHERE domain_id = ?", (id,))
    tx.run("DELETE FROM domain WHERE id = ?", (id,))


def remove_some_of_domain(tx: Tx, name: str, now: int) -> int:
    """Remove up to STEP_ROWS aliases or accounts of a domain; how many that were (0: it is empty).

    Raises:
        Refusal: NO_SUCH_DOMAIN.
    """
    id = domain_id(tx, name)
    aliases = tx.rows("SELECT local_part FROM alias WHERE domain_id = ? LIMIT ?", (id, STEP_ROWS))
    for (local_part,) in aliases:
        remove_alias(tx, name, local_part)
    if aliases:
        return len(aliases)
    accounts = tx.rows("SELECT local_part FROM account WHERE domain_id = ? LIMIT ?", (id, STEP_ROWS))
    for (local_part,) in accounts:
        remove_account(tx, name, local_part, now)
    return len(accounts)


_ACCOUNT: Final = (
    "SELECT account.id, address, domain.name, local_part, is_enabled, quota_bytes, used_bytes, message_count,"
    " credential_generation, account.created_at, sending_stopped, quota_messages, quota_mailboxes, is_shared"
    " FROM account JOIN domain ON domain.id = account.domain_id"
)


def _account(row: Row) -> Account:
    return Account._make((*row[:4], bool(row[4]), *row[5:-1], bool(row[-1])))


def add_account(tx: Tx, domain: str, local_part: str, address: str, credential: str, quota_bytes: int, now: int) -> int:
    """The id of a new account with its first mailboxes; `credential` is a password's hash, `""` for no sign-in.

    Raises:
        Refusal: NO_SUCH_DOMAIN; EXISTS as account or alias.
    """
    id = domain_id(tx, domain)
    if tx.row("SELECT id FROM alias WHERE domain_id = ? AND local_part = ?", (id, local_part)):
        raise Refusal(RefusalCode.EXISTS, f"{address} is an alias; remove it first")
    floor = tx.row("SELECT number FROM meta WHERE name = ?", (UID_VALIDITY_FLOOR,))
    row = tx.row(
        "INSERT INTO account (domain_id, local_part, address, credential, quota_bytes, next_uid_validity, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (domain_id, local_part) DO NOTHING RETURNING id",
        (id, local_part, address, credential, quota_bytes, max(now, floor[0] if floor else 0), now),
    )
    if row is None:
        raise Refusal(RefusalCode.EXISTS, f"account {address} exists already")
    mailboxes.add_first(tx, int(row[0]), now)
    return int(row[0])


def accounts(tx: Tx, domain: str | None = None) -> list[Account]:
    """Every account (of one domain), by domain and local part. One statement, all rows at once: for commands.

    Raises:
        Refusal: NO_SUCH_DOMAIN.
    """
    if domain is None:
        rows = tx.rows(f"{_ACCOUNT} WHERE local_part IS NOT NULL ORDER BY domain.name, local_part")
    else:
        rows = tx.rows(f"{_ACCOUNT} WHERE domain_id = ? ORDER BY local_part", (domain_id(tx, domain),))
    return [_account(row) for row in rows]


def account(tx: Tx, domain: str, local_part: str) -> Account:
    """One account. One statement.

    Raises:
        Refusal: NO_SUCH_USER.
    """
    row = tx.row(f"{_ACCOUNT} WHERE domain.name = ? AND local_part = ?", (domain, local_part))
    if row is None:
        raise _no_such_account(local_part, domain)
    return _account(row)


def remove_account(tx: Tx, domain: str, local_part: str, now: int) -> int:
    """Detach an account from its address in one row; its id. A background step (`task`) empties it.

    Raises:
        Refusal: NO_SUCH_USER.
    """
    tx.run(
        "INSERT INTO domain (name, shown, created_at) VALUES (?, '', ?) ON CONFLICT (name) DO NOTHING", (NOWHERE, now)
    )
    row = tx.row(
        "UPDATE account SET domain_id = (SELECT id FROM domain WHERE name = ?), local_part = NULL, removed_at = ?,"
        " is_enabled = 0, credential = '', credential_generation = credential_generation + 1"
        " WHERE domain_id = (SELECT id FROM domain WHERE name = ?) AND local_part = ?"
        " RETURNING id, mod_seq, next_uid_validity",
        (NOWHERE, now, domain, local_part),
    )
    if row is None:
        raise _no_such_account(local_part, domain)
    account_id, mod_seq, next_uid_validity = row
    tx.run(
        "INSERT INTO meta (name, number) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET number = excluded.number"
        " WHERE meta.number < excluded.number",
        (UID_VALIDITY_FLOOR, next_uid_validity),
    )
    tx.run(
        "INSERT INTO task (kind, account_id, mailbox_id, created_at) VALUES (?, ?, 0, ?)",
        (TASK_ACCOUNT_REMOVE, account_id, now),
    )
    _count_sign_in_change(tx)
    tx.hint(account_id, mod_seq)
    return int(account_id)


def set_credential(tx: Tx, domain: str, local_part: str, credential: str) -> int:
    """Give the account another password's hash; the new generation. Nothing remembered of the old one holds any more.

    Raises:
        Refusal: NO_SUCH_USER.
    """
    _count_sign_in_change(tx)
    return _change(
        tx, domain, local_part, "credential = ?, credential_generation = credential_generation + 1", credential
    )


def set_quota(tx: Tx, domain: str, local_part: str, quota_bytes: int) -> None:
    """Bound what the account may keep; 0: no bound.

    Raises:
        Refusal: NO_SUCH_USER.
    """
    _change(tx, domain, local_part, "quota_bytes = ?", quota_bytes)


def set_limits(tx: Tx, domain: str, local_part: str, messages: int | None, mailboxes: int | None) -> None:
    """Bound how many messages and mailboxes the account may keep; 0: no bound, None: as it is.

    Raises:
        Refusal: NO_SUCH_USER.
    """
    for column, number in (("quota_messages", messages), ("quota_mailboxes", mailboxes)):
        if number is not None:
            _change(tx, domain, local_part, f"{column} = ?", number)


def set_shared(tx: Tx, domain: str, local_part: str, is_shared: bool) -> None:
    """Let the account's mailboxes stand below `Shared/` of others, or below `Other Users/` again.

    Raises:
        Refusal: NO_SUCH_USER.
    """
    _change(tx, domain, local_part, "is_shared = ?", int(is_shared))


def set_enabled(tx: Tx, domain: str, local_part: str, is_enabled: bool) -> None:
    """Allow or forbid signing in. Mail for a disabled account is still taken, so that nothing is lost.

    Raises:
        Refusal: NO_SUCH_USER.
    """
    change = "is_enabled = ?, credential_generation = credential_generation + 1"
    _count_sign_in_change(tx)
    _change(tx, domain, local_part, change, int(is_enabled))


def end_sessions(tx: Tx, account_id: int) -> None:
    """Raise the generation of the account's credential: whoever is signed in is signed out, in every worker.

    For changes of what one may sign in with other than the password itself. Two statements.
    """
    row = tx.row(
        "UPDATE account SET credential_generation = credential_generation + 1 WHERE id = ? RETURNING mod_seq",
        (account_id,),
    )
    if row is not None:
        _count_sign_in_change(tx)
        tx.hint(account_id, row[0])


def _count_sign_in_change(tx: Tx) -> None:
    sql = "INSERT INTO meta (name, number) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET number = meta.number + 1"
    tx.run(sql, (SIGN_IN_CHANGES,))


def _change(tx: Tx, domain: str, local_part: str, change: str, value: int | str) -> int:
    """Run one UPDATE of an account; its generation. The hint lets open connections look at the account again."""
    row = tx.row(
        f"UPDATE account SET {change} WHERE domain_id = (SELECT id FROM domain WHERE name = ?) AND local_part = ?"
        " RETURNING id, mod_seq, credential_generation",
        (value, domain, local_part),
    )
    if row is None:
        raise _no_such_account(local_part, domain)
    tx.hint(row[0], row[1])
    return int(row[2])


def add_alias(tx: Tx, domain: str, local_part: str, address: str, targets: list[str], now: int) -> int:
    """The id of a new alias for `targets` (1 to MAX_TARGETS, no two alike).

    Raises:
        Refusal: NO_SUCH_DOMAIN; EXISTS as alias or account; LIMIT.
    """
    id = domain_id(tx, domain)
    if tx.row("SELECT id FROM account WHERE domain_id = ? AND local_part = ?", (id, local_part)):
        raise Refusal(RefusalCode.EXISTS, f"{address} is an account; an alias of that name would never be asked")
    row = tx.row(
        "INSERT INTO alias (domain_id, local_part, address, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (domain_id, local_part) DO NOTHING RETURNING id",
        (id, local_part, address, now),
    )
    if row is None:
        raise Refusal(RefusalCode.EXISTS, f"alias {address} exists already")
    _put_targets(tx, int(row[0]), targets)
    return int(row[0])


def set_targets(tx: Tx, domain: str, local_part: str, targets: list[str]) -> None:
    """Let the alias stand for exactly `targets`.

    Raises:
        Refusal: NOT_FOUND, LIMIT.
    """
    id = _alias_id(tx, domain, local_part)
    tx.run("DELETE FROM alias_target WHERE alias_id = ?", (id,))
    _put_targets(tx, id, targets)


def _put_targets(tx: Tx, alias_id: int, targets: list[str]) -> None:
    if not 0 < len(targets) <= MAX_TARGETS:
        raise Refusal(RefusalCode.LIMIT, f"an alias has 1 to {MAX_TARGETS} targets")
    sql = "INSERT INTO alias_target (alias_id, target) VALUES (?, ?)"
    tx.run_many(sql, [(alias_id, target) for target in targets])


def _alias_id(tx: Tx, domain: str, local_part: str) -> int:
    row = tx.row(
        "SELECT id FROM alias WHERE domain_id = (SELECT id FROM domain WHERE name = ?) AND local_part = ?",
        (domain, local_part),
    )
    if row is None:
        raise Refusal(RefusalCode.NOT_FOUND, f"there is no alias {local_part}@{domain}")
    return int(row[0])


def remove_alias(tx: Tx, domain: str, local_part: str) -> None:
    """Forget an alias.

    Raises:
        Refusal: NOT_FOUND.
    """
    id = _alias_id(tx, domain, local_part)
    tx.run("DELETE FROM alias_target WHERE alias_id = ?", (id,))
    tx.run("DELETE FROM alias WHERE id = ?", (id,))


def aliases(tx: Tx) -> list[Alias]:
    """Every alias, by domain and local part. Two statements, all rows at once: for commands."""
    targets: dict[int, list[str]] = {}
    for alias_id, target in tx.rows("SELECT alias_id, target FROM alias_target"):
        targets.setdefault(alias_id, []).append(target)
    rows = tx.rows(
        "SELECT alias.id, address, domain.name, local_part, alias.created_at"
        " FROM alias JOIN domain ON domain.id = alias.domain_id ORDER BY domain.name, local_part"
    )
    return [
        Alias(id, address, domain, local_part, tuple(sorted(targets.get(id, []))), created_at)
        for id, address, domain, local_part, created_at in rows
    ]


def lookup(tx: Tx, domain: str, local_part: str) -> Found | None:
    """What stands under this key; None when the domain is not local. One statement."""
    if domain == NOWHERE:
        return None
    row = tx.row(
        "SELECT domain.id, catch_all, account.id, alias.id FROM domain"
        " LEFT JOIN account ON account.domain_id = domain.id AND account.local_part = ?"
        " LEFT JOIN alias ON alias.domain_id = domain.id AND alias.local_part = ?"
        " WHERE domain.name = ?",
        (local_part, local_part, domain),
    )
    return None if row is None else Found(*row)


def targets_of(tx: Tx, alias_id: int) -> list[str]:
    """The addresses an alias stands for, sorted. One statement."""
    return [
        row[0] for row in tx.rows("SELECT target FROM alias_target WHERE alias_id = ? ORDER BY target", (alias_id,))
    ]


def oldest_account(tx: Tx, domain: str) -> int | None:
    """The first account made of those that exist, of this domain, else of any; None when there is none."""
    row = tx.row(
        "SELECT min(account.id) FROM account JOIN domain ON domain.id = account.domain_id WHERE domain.name = ?",
        (domain,),
    )
    if domain == NOWHERE or row is None or row[0] is None:
        # Walked in the order of ids: ends at the first account that exists.
        row = tx.row("SELECT id FROM account WHERE local_part IS NOT NULL ORDER BY id LIMIT 1")
    return None if row is None else int(row[0])


_SIGN_IN: Final = "SELECT account.id, address, credential_generation, is_enabled, is_shared, credential FROM account"
# The list of domains lets SQLite use the unique index; a scan of all accounts would cost 10 ms per 100 k.
_ONLY_ONE: Final = "domain_id IN (SELECT id FROM domain) AND local_part = ? LIMIT 2"


def sign_in(tx: Tx, local_part: str, domain: str | None) -> SignIn | None:
    """The account that a user name means; without domain: the only account that has this local part. One statement."""
    if domain is None:
        rows = tx.rows(f"{_SIGN_IN} WHERE {_ONLY_ONE}", (local_part,))
    else:
        where = "WHERE domain_id = (SELECT id FROM domain WHERE name = ?) AND local_part = ?"
        rows = tx.rows(f"{_SIGN_IN} {where}", (domain, local_part))
    if len(rows) != 1:
        return None
    account_id, address, generation, is_enabled, is_shared, credential = rows[0]
    return SignIn(account_id, address, generation, bool(is_enabled) and not is_shared, credential)


def accounts_over_quota(tx: Tx, account_ids: tuple[int, ...], size: int) -> list[int]:
    """Those of the accounts that have no room for a message of `size` bytes. One statement for each."""
    return [
        account_id
        for account_id in account_ids
        if tx.row(
            "SELECT 1 FROM account WHERE id = ? AND (quota_bytes > 0 AND used_bytes + ? > quota_bytes"
            " OR quota_messages > 0 AND message_count + 1 > quota_messages)",
            (account_id, size),
        )
    ]


def generation(tx: Tx, account_id: int) -> int | None:
    """The credential's generation, None once the account may no longer sign in. One statement.

    An open connection compares it with the one it signed in with.
    """
    row = tx.row("SELECT credential_generation FROM account WHERE id = ? AND is_enabled = 1", (account_id,))
    return None if row is None else int(row[0])


def generations(tx: Tx, account_ids: tuple[int, ...]) -> dict[int, int]:
    """As `generation`, for many; those that may no longer sign in are left out. One statement."""
    marks = ", ".join("?" * len(account_ids))
    sql = f"SELECT id, credential_generation FROM account WHERE is_enabled = 1 AND id IN ({marks})"
    return {int(row[0]): int(row[1]) for row in tx.rows(sql, account_ids)}


def sign_in_changes(tx: Tx) -> int:
    """A number that rises whenever a generation does: one row tells that none has changed. One statement."""
    row = tx.row("SELECT number FROM meta WHERE name = ?", (SIGN_IN_CHANGES,))
    return 0 if row is None else int(row[0])


def credentials(tx: Tx) -> list[tuple[str, str, str]]:
    """(domain, local part, credential) of every account. One statement, all rows at once: for `pochta apply`."""
    sql = (
        "SELECT domain.name, local_part, credential FROM account JOIN domain ON domain.id = account.domain_id"
        " WHERE local_part IS NOT NULL"
    )
    return [(str(row[0]), str(row[1]), str(row[2])) for row in tx.rows(sql)]
