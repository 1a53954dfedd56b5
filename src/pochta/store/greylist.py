"""Greylisting: who has to come again before mail from him is taken, and who has shown that he does.

Decides: what makes two attempts the same, how long to wait, who is let through, how long that is kept. Refuses to know:
whether greylisting is on, and for whom it is left out.

Theory of operation. An attempt is (network of the client, sender, recipient), kept as a hash of 64 bits. The first time
it is told to wait; after `delay_s`, and before `retry_window_s` is over, it is let through, and from then on at once
for as long as it is used again within `kept_s`. A network from which NETWORK_PASSES attempts came again is a mail
server that queues: all of it is let through from then on, so that a large sender waits a few times, not once for each
of our users. Networks stand in the same table under hashes of their own kind.

Invariants: what is refused writes at most one row; MAX_ROWS bounds the table at each sweep, those that never came again
go first: whoever floods it pushes out the likes of himself.

RFC 6647 tells what the practice has come to; the defaults are Postgrey's, which senders have met for twenty years.
"""

import re
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import ip_address
from typing import Final, NamedTuple

from pochta.store.tx import Tx

# As many as Postgrey's. Fewer let in whoever tries his list twice by chance; each more is a wait for a lawful sender.
NETWORK_PASSES: Final = 5
MAX_ROWS: Final = 100_000  # some 5 MB; counting them takes a millisecond of each sweep
USED_AGAIN_S: Final = 86_400  # a row that lets through is written anew at most once in this time

# A run of letters and digits with a digit in it changes from message to message: VERP numbers, BATV and SRS tags.
_TAG: Final = re.compile(r"(?=[^\W_]*\d)[^\W_]+")


@dataclass(frozen=True, slots=True)
class Rules:
    """How long to wait, until when to come again, how long that is remembered."""

    delay_s: int = 300
    retry_window_s: int = 2 * 86_400
    kept_s: int = 35 * 86_400  # a monthly letter comes again in time


class Keys(NamedTuple):
    """What an attempt and the network it comes from are kept under."""

    attempt: int
    network: int


def keys_of(peer: str, reverse_path: str, recipient: str) -> Keys:
    """The keys of an attempt; `peer` an IP address, `reverse_path` `""` for none, `recipient` an address key.

    The network is a /24 or /64: the servers of a large sender take turns.
    """
    ip = ip_address(peer.partition("%")[0])
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    network = f"{ip.version} {int(ip) >> (8 if ip.version == 4 else 64)}"
    return Keys(_hash("attempt", network, _sender(reverse_path), recipient), _hash("network", network))


def _sender(reverse_path: str) -> str:
    """The sender without what changes from message to message: `+detail`, words that hold a digit."""
    local_part, at, domain = reverse_path.casefold().rpartition("@")
    return _TAG.sub("#", local_part.partition("+")[0]) + at + domain


def _hash(*parts: str) -> int:
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=8, person=b"greylist").digest(), signed=True)


def check(tx: Tx, attempt: int, network: int, rules: Rules, now: int) -> int:
    """How many seconds this attempt (`keys_of`) has to wait; 0: it is let through.

    One statement; one more for what is new or to be remembered, two when it passes for the first time.
    """
    found = {
        row[0]: row[1:]
        for row in tx.rows(
            "SELECT triplet_hash, first_at, last_at, passed FROM greylist WHERE triplet_hash IN (?, ?)",
            (attempt, network),
        )
    }
    _, network_at, passes = found.get(network, (0, 0, 0))
    if passes >= NETWORK_PASSES and network_at > now - rules.kept_s:
        _note_use(tx, network, network_at, now)
        return 0
    first_at, last_at, passed = found.get(attempt, (None, 0, 0))
    if passed and last_at > now - rules.kept_s:
        _note_use(tx, attempt, last_at, now)
        return 0
    if passed or first_at is None or not now - rules.retry_window_s < first_at <= now:
        _put(tx, attempt, now)
        return rules.delay_s
    if now - first_at < rules.delay_s:
        return int(rules.delay_s - (now - first_at))
    tx.run("UPDATE greylist SET passed = 1, last_at = ? WHERE triplet_hash = ?", (now, attempt))
    # One that was not seen for so long that it would be forgotten begins anew.
    tx.run(
        "INSERT INTO greylist (triplet_hash, first_at, last_at, passed) VALUES (?, ?, ?, 1) ON CONFLICT (triplet_hash)"
        " DO UPDATE SET passed = CASE WHEN greylist.last_at > ? THEN greylist.passed + 1 ELSE 1 END,"
        " last_at = excluded.last_at",
        (network, now, now, now - rules.kept_s),
    )
    return 0


def _put(tx: Tx, attempt: int, now: int) -> None:
    tx.run(
        "INSERT INTO greylist (triplet_hash, first_at, last_at, passed) VALUES (?, ?, ?, 0) ON CONFLICT (triplet_hash)"
        " DO UPDATE SET first_at = excluded.first_at, last_at = excluded.last_at, passed = 0",
        (attempt, now, now),
    )


def _note_use(tx: Tx, key: int, last_at: int, now: int) -> None:
    if last_at <= now - USED_AGAIN_S:
        tx.run("UPDATE greylist SET last_at = ? WHERE triplet_hash = ?", (now, key))


def is_due(tx: Tx, now: int, rules: Rules) -> bool:
    """Whether `expire` has something to do. Three statements."""
    return bool(
        tx.row("SELECT 1 FROM greylist WHERE last_at <= ? LIMIT 1", (now - rules.kept_s,))
        or tx.row("SELECT 1 FROM greylist WHERE passed = 0 AND last_at <= ? LIMIT 1", (now - rules.retry_window_s,))
        or tx.rows("SELECT count(*) FROM greylist")[0][0] > MAX_ROWS
    )


def expire(tx: Tx, now: int, limit: int, rules: Rules) -> int:
    """Forget some that are past their time or too many; how many (less than `limit`: there are no more).

    Three statements, four or five where there are too many.
    """
    delete = "DELETE FROM greylist WHERE triplet_hash IN (SELECT triplet_hash FROM greylist"
    gone = tx.run(f"{delete} WHERE last_at <= ? ORDER BY last_at LIMIT ?)", (now - rules.kept_s, limit))
    waiting = f"{delete} WHERE passed = 0 AND last_at <= ? ORDER BY last_at LIMIT ?)"
    if gone < limit:
        gone += tx.run(waiting, (now - rules.retry_window_s, limit - gone))
    if gone < limit:
        row = tx.row("SELECT count(*) FROM greylist")
        excess = min(row[0] - MAX_ROWS, limit - gone) if row else 0
        if excess > 0:
            waited = tx.run(waiting, (now, excess))
            gone += waited
            if waited < excess:
                gone += tx.run(f"{delete} ORDER BY last_at LIMIT ?)", (excess - waited,))
    return gone
