"""DKIM keys of domains as people meet them: made, rotated, told with their DNS records.

Decides: which algorithms a domain has keys of and how selectors are named. Refuses to know: what a record looks like
(`policy.dkim`), and whether it stands in DNS.

Keys are made before the transaction that stores them: an RSA key takes 50 to 200 ms of processor time, which neither
the write lane nor the event loop has. Inside a server, `new_keys` is run in a thread.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from pochta.accounts import edit
from pochta.policy.dkim.keys import Algorithm, SigningKey
from pochta.store import dkim_keys
from pochta.store.dkim_keys import Key, NewKey
from pochta.store.tx import Tx

# Who does not know Ed25519 yet verifies the RSA signature beside it.
ALGORITHMS: Final = (("r", Algorithm.RSA_SHA256), ("e", Algorithm.ED25519_SHA256))

LOADED_KEYS: Final = 256  # some 5 kB each; those of 128 domains


class Record(NamedTuple):
    """A key and what DNS has to say of it: a TXT record `text` at `name`."""

    selector: str
    algorithm: str
    state: str
    created_at: int
    signs_from: int | None
    retired_at: int | None
    name: str
    text: str


def new_keys(now: int) -> tuple[NewKey, ...]:
    """A pair of keys, RSA-2048 and Ed25519, named by the month: `p202611r`, `p202611e`. 50-200 ms."""
    month = datetime.fromtimestamp(now, UTC).strftime("p%Y%m")
    return tuple(
        NewKey(month + letter, algorithm.value, SigningKey.generate(algorithm).to_bytes())
        for letter, algorithm in ALGORITHMS
    )


def rotate(tx: Tx, name: str, keys: tuple[NewKey, ...], now: int) -> tuple[str, ...]:
    """Add the next keys of the domain NAME; their selectors.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_DOMAIN, IN_USE, LIMIT.
    """
    return dkim_keys.rotate(tx, edit.domain_key(name), keys, now)


def records(tx: Tx, name: str) -> list[Record]:
    """Every key of the domain NAME with the record that must stand in DNS.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_DOMAIN.
    """
    return [record(one) for one in dkim_keys.of_domain(tx, edit.domain_key(name))]


@lru_cache(maxsize=LOADED_KEYS)
def loaded(private_key: bytes) -> SigningKey:
    """The key itself, remembered: checking an RSA key takes milliseconds.

    Raises:
        Corrupt: the stored bytes are no key.
    """
    return SigningKey.from_bytes(private_key)


def record(key: Key) -> Record:
    """What DNS has to say of a key."""
    text = loaded(key.private_key).public_record()
    return Record(
        key.selector,
        key.algorithm,
        key.state,
        key.created_at,
        key.signs_from,
        key.retired_at,
        f"{key.selector}._domainkey.{key.domain}",  # RFC 6376 §3.6.2.1: where verifiers ask
        text,
    )
