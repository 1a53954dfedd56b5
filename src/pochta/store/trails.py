"""What happened to a message: one row when it came in, one for each thing that happened to it later.

Decides: how a trail is found again (by Message-ID, by any address in its envelope) and how long it is kept.
Refuses to know what the facts say: they are JSON that `delivery/record.py` writes and reads.

Message-IDs and addresses are found by a 64-bit hash and compared as text afterwards; a trail and its steps go together.
"""

from hashlib import blake2b
from typing import Final, NamedTuple

from pochta.store.tx import Row, Tx

KEPT_S: Final = 30 * 86_400  # as long as anybody asks "where is my message"
FOUND_MAX: Final = 200  # trails of one address that are shown, newest first
STEPS_MAX: Final = 1000  # of one trail that are shown; 1000 recipients that fail at once


class NewTrail(NamedTuple):
    """A message that has come in. `addresses`: keys (`local@domain`) of its sender and recipients, each once."""

    name: str
    message_id: str
    sender: str
    addresses: tuple[str, ...]
    facts: str


class Trail(NamedTuple):
    """A trail as it is kept."""

    id: int
    name: str
    message_id: str
    sender: str
    at: int
    facts: str


class Step(NamedTuple):
    """What happened, to which recipient (`""`: to the whole message)."""

    at: int
    kind: str
    recipient: str
    facts: str


def hash_of(text: str) -> int:
    """A 64-bit signed number to find a text by."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big", signed=True)


def add(tx: Tx, new: NewTrail, now: int) -> int:
    """Keep a trail; its id. One statement, and one for each address."""
    hashes = dict.fromkeys(map(hash_of, new.addresses))
    row = tx.row(
        "INSERT INTO trail (name, message_id, message_id_hash, sender, at, address_hashes, facts)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (new.name, new.message_id, hash_of(new.message_id), new.sender, now, " ".join(map(str, hashes)), new.facts),
    )
    assert row is not None
    trail_id: int = row[0]
    for one in hashes:
        tx.run("INSERT INTO trail_address (address_hash, trail_id) VALUES (?, ?)", (one, trail_id))
    return trail_id


def add_step(tx: Tx, trail_id: int, step: Step) -> None:
    """Note what happened. One statement."""
    tx.run("INSERT INTO trail_step (trail_id, at, kind, recipient, facts) VALUES (?, ?, ?, ?, ?)", (trail_id, *step))


def by_message_id(tx: Tx, message_id: str) -> list[Trail]:
    """The trails of messages with this Message-ID, oldest first: a message that is forwarded passes twice."""
    rows = tx.rows(
        "SELECT id, name, message_id, sender, at, facts FROM trail WHERE message_id_hash = ? AND message_id = ?"
        " ORDER BY id LIMIT ?",
        (hash_of(message_id), message_id, FOUND_MAX),
    )
    return [Trail(*row) for row in rows]


def by_address(tx: Tx, address: str) -> list[Trail]:
    """The latest trails with this address in the envelope, newest first."""
    rows = tx.rows(
        "SELECT t.id, t.name, t.message_id, t.sender, t.at, t.facts FROM trail_address a"
        " JOIN trail t ON t.id = a.trail_id WHERE a.address_hash = ? ORDER BY a.trail_id DESC LIMIT ?",
        (hash_of(address), FOUND_MAX),
    )
    return [Trail(*row) for row in rows]


def by_id(tx: Tx, trail_id: int) -> Trail | None:
    """One trail; None when it is past its time."""
    row = tx.row("SELECT id, name, message_id, sender, at, facts FROM trail WHERE id = ?", (trail_id,))
    return None if row is None else Trail(*row)


def steps(tx: Tx, trail_id: int) -> list[Step]:
    """What happened, oldest first, the latest STEPS_MAX."""
    rows: list[Row] = tx.rows(
        "SELECT at, kind, recipient, facts FROM trail_step WHERE trail_id = ? ORDER BY id DESC LIMIT ?",
        (trail_id, STEPS_MAX),
    )
    return [Step(*row) for row in reversed(rows)]


def is_due(tx: Tx, cutoff: int) -> bool:
    """Whether `expire` has something to do. One statement."""
    row = tx.row(
        "SELECT 1 FROM trail WHERE at <= ? AND NOT EXISTS (SELECT 1 FROM outgoing WHERE trail_id = trail.id) LIMIT 1",
        (cutoff,),
    )
    return row is not None


def expire(tx: Tx, cutoff: int, limit: int) -> int:
    """Remove up to `limit` trails that began at or before `cutoff`; how many there were. Those on their way stay."""
    rows = tx.rows(
        "SELECT id, address_hashes FROM trail WHERE at <= ?"
        " AND NOT EXISTS (SELECT 1 FROM outgoing WHERE trail_id = trail.id) ORDER BY at LIMIT ?",
        (cutoff, limit),
    )
    ids = [(row[0],) for row in rows]
    tx.run_many("DELETE FROM trail_step WHERE trail_id = ?", ids)
    tx.run_many(
        "DELETE FROM trail_address WHERE address_hash = ? AND trail_id = ?",
        [(int(one), trail_id) for trail_id, hashes in rows for one in hashes.split()],
    )
    tx.run_many("DELETE FROM trail WHERE id = ?", ids)
    return len(ids)
