"""The DKIM keys of domains: made, published, signing, retired, forgotten.

Decides what a key's row looks like and which states it goes through. Refuses to know what key material is
(`policy.dkim`), when a record is in DNS and when to rotate.

Theory of operation. A key is **next** (`signs_from` empty: its record is to be published), **signing** (`signs_from`
set), **retired** (`retired_at` set: signs no more, its record stays in DNS so that mail under way verifies), and after
OVERLAP_S forgotten. Keys made with a domain sign at once: until their record stands, mail fares as if it had no
signature. All others wait until somebody has seen their record (`activate`).

Invariants: of each algorithm a domain has at most one signing key and at most one next key; a selector never stands for
two keys that exist; private keys print nowhere (INV-11).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode
from pochta.store import directory
from pochta.store.tx import Tx

OVERLAP_S: Final = 7 * 86_400  # mail waits in queues for 5 days (RFC 5321 §4.5.4.1) and is read a while later
MAX_KEYS: Final = 20  # of one domain: two next, two signing, eight pairs retired within OVERLAP_S


class NewKey(NamedTuple):
    """A key to be added; where its selector is taken a number is put behind it."""

    selector: str
    algorithm: str
    private_key: bytes

    def __repr__(self) -> str:
        return f"NewKey(selector={self.selector!r})"  # INV-11


class Key(NamedTuple):
    """One key; `domain` in A-labels, times None until they have come."""

    id: int
    domain: str
    selector: str
    algorithm: str
    private_key: bytes
    created_at: int
    signs_from: int | None
    retired_at: int | None

    @property
    def state(self) -> str:
        """`next`, `signing` or `retired`."""
        if self.retired_at is not None:
            return "retired"
        return "next" if self.signs_from is None else "signing"

    def __repr__(self) -> str:
        return f"Key(id={self.id}, domain={self.domain!r}, selector={self.selector!r}, {self.state})"  # INV-11


_KEY: Final = (
    "SELECT k.id, domain.name, selector, algorithm, private_key, k.created_at, signs_from, retired_at"
    " FROM domain JOIN dkim_key k ON k.domain_id = domain.id"
)


def add(tx: Tx, domain: str, keys: Sequence[NewKey], now: int) -> tuple[str, ...]:
    """Give a domain that was just made its keys, which sign at once; their selectors.

    Two statements, and one for each key.

    Raises:
        Refusal: NO_SUCH_DOMAIN; LIMIT.
    """
    return _add(tx, domain, keys, now, now)


def rotate(tx: Tx, domain: str, keys: Sequence[NewKey], now: int) -> tuple[str, ...]:
    """Add the next keys of a domain; their selectors. They sign once `activate` is told that DNS has them.

    Four statements, and one for each key.

    Raises:
        Refusal: NO_SUCH_DOMAIN; IN_USE while there are next keys already; LIMIT.
    """
    existing = of_domain(tx, domain)
    waiting = [one.selector for one in existing if one.state == "next"]
    if waiting:
        raise Refusal(
            RefusalCode.IN_USE, f"domain {domain} has new keys that wait for their DNS records: {', '.join(waiting)}"
        )
    return _add(tx, domain, keys, now, None)


def without_keys(tx: Tx) -> list[str]:
    """The domains that have no keys, as those of a store that was made before there were any. One statement."""
    rows = tx.rows(
        "SELECT name FROM domain WHERE name <> '' AND NOT EXISTS"
        " (SELECT 1 FROM dkim_key k WHERE k.domain_id = domain.id) ORDER BY name"
    )
    return [row[0] for row in rows]


def _add(tx: Tx, domain: str, keys: Sequence[NewKey], now: int, signs_from: int | None) -> tuple[str, ...]:
    domain_id = directory.domain_id(tx, domain)
    taken = {row[0] for row in tx.rows("SELECT selector FROM dkim_key WHERE domain_id = ?", (domain_id,))}
    if len(taken) + len(keys) > MAX_KEYS:
        days = OVERLAP_S // 86_400
        raise Refusal(RefusalCode.LIMIT, f"domain {domain} has {len(taken)} keys; retired ones go after {days} days")
    selectors: list[str] = []
    for one in keys:
        _, algorithm, private_key = one
        selector = _free(one[0], taken)
        tx.run(
            "INSERT INTO dkim_key (domain_id, selector, algorithm, private_key, created_at, signs_from)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (domain_id, selector, algorithm, private_key, now, signs_from),
        )
        taken.add(selector)
        selectors.append(selector)
    return tuple(selectors)


def _free(selector: str, taken: set[str]) -> str:
    """`p202611r`, else `p202611r2`, …"""
    found, number = selector, 2
    while found in taken:
        found, number = f"{selector}{number}", number + 1
    return found


def active(tx: Tx, domain: str) -> tuple[Key, ...]:
    """The keys that sign for a domain, in the order they were made; none for a domain not kept here. One statement."""
    where = "WHERE domain.name = ? AND signs_from IS NOT NULL AND retired_at IS NULL"
    return tuple(Key(*row) for row in tx.rows(f"{_KEY} {where} ORDER BY k.id", (domain,)))


def published(tx: Tx, domain: str) -> tuple[Key, ...]:
    """The keys whose record must stand in DNS: next, signing, retired within OVERLAP_S. One statement."""
    return tuple(Key(*row) for row in tx.rows(f"{_KEY} WHERE domain.name = ? ORDER BY k.id", (domain,)))


def of_domain(tx: Tx, domain: str) -> tuple[Key, ...]:
    """As `published`, of a domain that must exist. Two statements.

    Raises:
        Refusal: NO_SUCH_DOMAIN.
    """
    directory.domain_id(tx, domain)
    return published(tx, domain)


def waiting(tx: Tx) -> tuple[Key, ...]:
    """The next keys of every domain: whose records somebody should look for. One statement, all rows: for commands and
    once an hour."""
    where = "WHERE signs_from IS NULL AND retired_at IS NULL"
    return tuple(Key(*row) for row in tx.rows(f"{_KEY} {where} ORDER BY k.id"))


def activate(tx: Tx, ids: Sequence[int], now: int) -> tuple[int, ...]:
    """Let next keys sign from now on, and retire what signed with the same algorithm before; the ids that began.

    One statement for each id, another for each that began. An id that is not a next key's is passed over: another
    worker was quicker.
    """
    began: list[int] = []
    for id in ids:
        row = tx.row(
            "UPDATE dkim_key SET signs_from = ? WHERE id = ? AND signs_from IS NULL AND retired_at IS NULL"
            " RETURNING domain_id, algorithm",
            (now, id),
        )
        if row is not None:
            began.append(id)
            tx.run(
                "UPDATE dkim_key SET retired_at = ? WHERE domain_id = ? AND algorithm = ? AND id <> ?"
                " AND signs_from IS NOT NULL AND retired_at IS NULL",
                (now, *row, id),
            )
    return tuple(began)


def is_due(tx: Tx, now: int) -> bool:
    """Whether `expire_retired` has something to do. One statement."""
    return tx.row("SELECT 1 FROM dkim_key WHERE retired_at <= ? LIMIT 1", (now - OVERLAP_S,)) is not None


def expire_retired(tx: Tx, now: int, limit: int) -> int:
    """Forget keys that were retired OVERLAP_S ago, `limit` at once; how many. One statement."""
    return tx.run(
        "DELETE FROM dkim_key WHERE id IN (SELECT id FROM dkim_key WHERE retired_at <= ? LIMIT ?)",
        (now - OVERLAP_S, limit),
    )
